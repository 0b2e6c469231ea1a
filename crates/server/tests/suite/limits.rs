//! Connections: how many, how long their heads, how long they may take; and that good clients keep theirs.

use std::time::Duration;

use crate::common::{Server, Setup, chat, start, with};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Everything until the server closes.
async fn until_closed(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = socket.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

/// What comes back for a request without a body.
async fn raw(server: &Server, head: &str) -> String {
    let mut socket = connect(server).await;
    let _ = socket.write_all(head.as_bytes()).await;
    until_closed(&mut socket).await
}

#[tokio::test]
async fn request_heads_are_bounded_in_length_and_number() {
    let server = start(Setup::default()).await;
    let with_headers = |n: usize, len: usize| {
        let headers: String = (0..n).map(|i| format!("x-{i}: {}\r\n", "a".repeat(len))).collect();
        format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
    };
    // Longer than what is buffered: closing with unread bytes resets the connection, which may overtake the answer.
    let is_refused = |answer: &str| answer.is_empty() || answer.starts_with("HTTP/1.1 431");
    assert!(is_refused(&raw(&server, &with_headers(1, 400_000)).await));
    assert!(raw(&server, &with_headers(200, 1)).await.starts_with("HTTP/1.1 431"));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(400_000));
    let answer = raw(&server, &long_path).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(raw(&server, "no request at all\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    server.post("/v1/chat/completions", chat("others are not hurt")).await;
}

#[tokio::test]
async fn a_head_may_be_as_long_as_the_bound_and_no_byte_longer() {
    let server = start(Setup::default()).await;
    // The bound of `Config::new`, bytes.
    const MAX: usize = 64 << 10;
    let in_header = |len: usize| {
        let rest = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: \r\n\r\n".len();
        let long = "a".repeat(len - rest);
        format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {long}\r\n\r\n")
    };
    let in_target = |len: usize| {
        let rest = "GET /health? HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".len();
        let long = "a".repeat(len - rest);
        format!("GET /health?{long} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    };
    for head in [in_header(MAX), in_target(MAX)] {
        let answer = raw(&server, &head).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for head in [in_header(MAX + 1), in_target(MAX + 1), in_header(70_000)] {
        let answer = raw(&server, &head).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let error: Value = serde_json::from_str(body).unwrap();
        assert_eq!(error["error"]["message"], "the head of a request must have at most 65536 bytes");
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("status=\"431\"} 3\n"), "refusals are counted");
}

#[tokio::test]
async fn a_connection_that_sends_nothing_or_half_a_head_is_closed() {
    let timeout = |config: &mut dsde_server::Config| config.head_timeout = Duration::from_millis(50);
    let server = start(Setup { config: timeout, ..Setup::default() }).await;
    for sent in ["", "GET /health HTTP/1.1\r\nhost:"] {
        assert!(!raw(&server, sent).await.starts_with("HTTP/1.1 200"), "{sent}");
    }
    // Idle after an answer.
    let answered = raw(&server, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    // An answer in progress is not idle, however long it takes.
    let body = json!({"prompt": "Once", "max_tokens": 400, "ignore_eos": true, "temperature": 0});
    let answer = server.post("/v1/completions", body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 400);
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_and_then_closed() {
    let few = |config: &mut dsde_server::Config| config.connections_max = 2;
    let server = start(Setup { config: few, ..Setup::default() }).await;
    let held = [connect(&server).await, connect(&server).await];
    let refused = server.get("/health").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    let error: Value = refused.json().await.unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("as many connections"), "{error}");
    // 64 more may wait to be told; who comes after them is closed without a word.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(connect(&server).await);
    }
    assert_eq!(raw(&server, "").await, "");
    drop((held, silent));
    for attempt in 0.. {
        if let Ok(response) = server.client.get(server.url("/health")).send().await
            && response.status() == StatusCode::OK
        {
            break;
        }
        assert!(attempt < 1000, "places become free");
    }
}

#[tokio::test]
async fn a_pooled_client_keeps_its_connection() {
    let server = start(Setup::default()).await;
    for i in 0..5 {
        let streaming = with(chat("Hello."), json!({"stream": true}));
        server.events("/v1/chat/completions", streaming).await;
        server.post("/v1/chat/completions", chat("Hello.")).await;
        let broken = server.send("/v1/chat/completions", &json!({"n": i})).await;
        assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
        broken.text().await.unwrap();
    }
    assert_eq!(server.metric("dsde:connections_total").await, 1.0);
    assert_eq!(server.metric("dsde:connections").await, 1.0);
}

#[tokio::test]
async fn nesting_is_bounded_and_ordinary_nesting_is_not() {
    let server = start(Setup::default()).await;
    let nested = |depth: usize| {
        let value = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"max_tokens\": 1, \"x\": {value}}}"
        )
    };
    let status = async |depth| {
        let request = server.client.post(server.url("/v1/chat/completions")).body(nested(depth));
        request.send().await.unwrap().status()
    };
    assert_eq!(status(100).await, StatusCode::OK);
    assert_eq!(status(128).await, StatusCode::BAD_REQUEST);
    assert_eq!(status(500_000).await, StatusCode::BAD_REQUEST);
}
