//! What happens when clients or circumstances misbehave: errors, limits, overload, disconnects, shutdown.

use std::time::Duration;

use crate::common::{CONTEXT, Server, Setup, chat, start, with};
use dsde_server::{Config, Shutdown};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
/// Longer than any test.
const ENDLESS: Duration = Duration::from_secs(3600);
const RUNNING: &str = "vllm:num_requests_running";

/// An answer that takes until the context is full.
fn endless() -> Value {
    json!({"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": true, "temperature": 0})
}

/// Field and message of a refusal with 400.
async fn check_field(server: &Server, path: &str, body: Value, param: &str, message: &str) {
    let response = server.send(path, &body).await;
    let status = response.status().as_u16();
    let error: Value = response.json().await.expect("an error has a JSON body");
    assert_eq!((status, &error["error"]["param"]), (400, &json!(param)), "{body}: {error}");
    let text = error["error"]["message"].as_str().expect("an error has a message");
    assert!(text.contains(message), "{body}: {text}");
    let own_words = ["tokens_max", "n_choices", "tokens_min", "u32", "line 1", "ttft_ms_max must"];
    assert!(!own_words.iter().any(|word| text.contains(word)), "{text}");
}

async fn check_error(server: &Server, path: &str, body: Value, status: u16, message: &str) {
    let response = server.send(path, &body).await;
    let got = response.status().as_u16();
    let error: Value = response.json().await.expect("an error has a JSON body");
    assert_eq!(got, status, "{body}: {error}");
    let text = error["error"]["message"].as_str().expect("an error has a message");
    assert!(text.contains(message), "{body}: {text}");
    assert!(error["error"]["type"].is_string() && error["error"].get("param").is_some());
}

#[tokio::test]
async fn mistakes_are_named() {
    let server = start(Setup::default()).await;
    let s = &server;
    check_error(s, CHAT, json!({}), 400, "missing field `messages`").await;
    check_error(s, CHAT, json!({"messages": []}), 400, "1 to 4096 entries, got 0").await;
    check_error(s, CHAT, with(chat("x"), json!({"model": "gpt"})), 404, "this server has: demo").await;
    check_error(
        s,
        CHAT,
        with(chat("x"), json!({"temperature": -1})),
        400,
        "`temperature` must be in 0 to 100",
    )
    .await;
    check_error(s, CHAT, with(chat("x"), json!({"top_p": 1.5})), 400, "top_p").await;
    check_error(s, CHAT, with(chat("x"), json!({"n": 0})), 400, "`n` must be from 1").await;
    check_error(s, CHAT, with(chat("x"), json!({"n": 129})), 400, "at most 128").await;
    check_error(
        s,
        CHAT,
        with(chat("x"), json!({"max_tokens": -2})),
        400,
        "at least 0, or -1 for no bound, got -2",
    )
    .await;
    check_error(
        s,
        CHAT,
        with(chat("x"), json!({"stop": vec!["a"; 17]})),
        400,
        "the number of strings in `stop`",
    )
    .await;
    check_error(s, CHAT, with(chat("x"), json!({"stop": [""]})), 400, "each string in `stop`").await;
    check_error(s, CHAT, with(chat("x"), json!({"logprobs": true, "top_logprobs": 21})), 400, "at most 20")
        .await;
    check_error(s, CHAT, with(chat("x"), json!({"top_logprobs": 2})), 400, "needs `logprobs`").await;
    check_error(s, CHAT, with(chat("x"), json!({"logit_bias": {"999999": 1}})), 400, "vocabulary").await;
    check_error(s, CHAT, with(chat("x"), json!({"slo_ttft_ms": -5})), 400, "`slo_ttft_ms`").await;
    check_error(s, CHAT, with(chat("x"), json!({"tools": [{}]})), 400, "must have the type function").await;
    let image = json!([{"type": "image_url", "image_url": {"url": "http://x"}}]);
    check_error(s, CHAT, json!({"messages": [{"role": "user", "content": image}]}), 400, "got image_url")
        .await;
    check_error(s, "/v1/completions", json!({"prompt": []}), 400, "1 to 128 prompts, got 0").await;
    check_error(s, "/v1/completions", json!({"prompt": [99_999_999]}), 400, "outside the vocabulary").await;
    check_error(s, "/v1/completions", json!({"prompt": {"a": 1}}), 400, "must be a string").await;
    check_error(s, "/v1/completions", json!({"prompt": vec!["a"; 129]}), 400, "got 129").await;
    check_error(s, "/detokenize", json!({"tokens": [99_999_999]}), 400, "outside the vocabulary").await;
    check_error(s, "/tokenize", json!({}), 400, "exactly one").await;
    check_error(s, "/v1/nothing", json!({}), 404, "no such route").await;
    check_error(s, "/health", json!({}), 405, "method").await;
    let long = vec![5; CONTEXT as usize + 10];
    let lengths = format!("{} tokens, at most {}", CONTEXT + 10, CONTEXT - 1);
    check_error(s, "/v1/completions", json!({"prompt": long}), 400, &lengths).await;
    server.post(CHAT, chat("still alive")).await;
}

#[tokio::test]
async fn mistakes_carry_the_path_of_their_field() {
    let server = start(Setup::default()).await;
    let chat_field = async |more: Value, param: &str, message: &str| {
        check_field(&server, CHAT, with(chat("x"), more), param, message).await;
    };
    chat_field(json!({"max_tokens": -5}), "max_tokens", "must be at least 0, or -1 for no bound, got -5")
        .await;
    chat_field(json!({"max_tokens": "many"}), "max_tokens", "must be a whole number, got \"many\"").await;
    chat_field(json!({"n": 0}), "n", "from 1 to 128, got 0").await;
    chat_field(json!({"n": -1}), "n", "a whole number from 0").await;
    chat_field(json!({"min_tokens": 9, "max_tokens": 3}), "min_tokens", "from 0 to 3, got 9").await;
    chat_field(json!({"stop_token_ids": [999_999]}), "stop_token_ids", "outside the vocabulary").await;
    chat_field(json!({"temperature": -1}), "temperature", "in 0 to 100, got -1").await;
    chat_field(json!({"top_p": 2}), "top_p", "above 0 and at most 1, got 2").await;
    chat_field(json!({"stream": "yes"}), "stream", "must be true or false").await;
    chat_field(json!({"stream_options": {"include_usage": 3}}), "stream_options.include_usage", "got 3")
        .await;
    chat_field(json!({"stop": 7}), "stop", "a string or a list of strings").await;
    chat_field(json!({"logit_bias": {"999999": 1}}), "logit_bias", "vocabulary").await;
    chat_field(json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "at most 20, got 21").await;
    chat_field(json!({"slo_tpot_ms": 0}), "slo_tpot_ms", "a positive number").await;
    chat_field(json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content", "a string or")
        .await;
    chat_field(json!({"messages": [{"content": "x"}]}), "messages[0].role", "missing field").await;
    chat_field(json!({"messages": "x"}), "messages", "must be a list, got \"x\"").await;
    chat_field(json!({"extra_body": {"top_k": 1}}), "extra_body", "beside the other fields").await;
    chat_field(json!({"n_predict": 4}), "n_predict", "use `max_tokens`").await;
    let long = json!({"messages": [{"role": "user", "content": "a ".repeat(4000)}]});
    chat_field(long, "messages", "the prompt is too long").await;
    check_field(&server, "/v1/completions", json!({"prompt": ""}), "prompt", "").await;
    check_field(&server, "/detokenize", json!({"tokens": [1, -1]}), "tokens[1]", "got -1").await;
    server.post(CHAT, chat("still alive")).await;
}

#[tokio::test]
async fn neutral_values_are_accepted() {
    let server = start(Setup::default()).await;
    let plain = server.post(CHAT, chat("Hello.")).await;
    for neutral in [
        json!({"model": "", "modalities": ["text"], "top_p": 0, "tools": [], "tool_choice": "none"}),
        json!({"max_completion_tokens": null, "stop": "", "logit_bias": [], "metadata": {}, "store": false}),
        json!({"n": 1.0, "max_tokens": 24.0, "seed": 1.0, "top_logprobs": 0, "logprobs": false}),
        json!({"stream": null, "stream_options": null, "response_format": null, "user": "me", "audio": null}),
    ] {
        let answer = server.post(CHAT, with(chat("Hello."), neutral.clone())).await;
        assert_eq!(answer["choices"], plain["choices"], "{neutral}");
    }
    let unbounded = server.post(CHAT, with(chat("Hello."), json!({"max_tokens": -1}))).await;
    assert_eq!(unbounded["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn bodies_that_are_no_json_too_deep_or_too_long_are_refused() {
    let server = start(Setup { config: |config| config.body_bytes_max = 10_000, ..Setup::default() }).await;
    let raw =
        async |body: String| server.client.post(server.url(CHAT)).body(body).send().await.unwrap().status();
    assert_eq!(raw("{\"messages\": ".to_owned()).await, StatusCode::BAD_REQUEST);
    assert_eq!(raw("[".repeat(5000)).await, StatusCode::BAD_REQUEST);
    let nested = format!("{{\"messages\": [], \"x\": {}{}}}", "[".repeat(2000), "]".repeat(2000));
    assert_eq!(raw(nested).await, StatusCode::BAD_REQUEST);
    assert_eq!(raw("x".repeat(10_001)).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(raw(chat("fits").to_string()).await, StatusCode::OK);
    assert_eq!(raw(format!("\u{feff}{}", chat("fits"))).await, StatusCode::OK, "a byte order mark");
    let half = server.client.post(server.url(CHAT)).body(r#"{"messages": "a\ud83d"}"#).send().await.unwrap();
    assert!(half.text().await.unwrap().contains("half of a character"));
    let packed = server.client.post(server.url(CHAT)).header("content-encoding", "gzip").body("x");
    assert_eq!(packed.send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_long_is_refused_before_it_comes() {
    let server = start(Setup { config: |config| config.body_bytes_max = 10_000, ..Setup::default() }).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut stream = TcpStream::connect(server.url("").strip_prefix("http://").unwrap()).await.unwrap();
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 10001\r\n{expect}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
}

#[tokio::test]
async fn stop_strings_count_behind_the_least_number_of_tokens() {
    let server = start(Setup::default()).await;
    let asked = json!({"prompt": "Tell me about the sea.", "max_tokens": 24, "temperature": 0, "stop": " "});
    let n_tokens = |answer: &Value| answer["usage"]["completion_tokens"].as_u64().unwrap();
    let early = server.post("/v1/completions", asked.clone()).await;
    assert!(n_tokens(&early) < 10, "{early}");
    let late = server.post("/v1/completions", with(asked, json!({"min_tokens": 10}))).await;
    assert!((11..24).contains(&n_tokens(&late)), "{late}");
    let [early, late] = [early, late].map(|answer| answer["choices"][0]["text"].as_str().unwrap().to_owned());
    assert!(late.starts_with(&early) && late.len() > early.len(), "{early:?} {late:?}");
}

#[tokio::test]
async fn keys_guard_every_route_but_health() {
    let keys =
        |config: &mut dsde_server::Config| config.api_keys = vec!["first".to_owned(), "second".to_owned()];
    let server = start(Setup { config: keys, ..Setup::default() }).await;
    for path in ["/v1/models", "/metrics", "/version", "/v1/live"] {
        let response = server.get(path).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        let error: Value = response.json().await.expect("an error has a JSON body");
        assert_eq!(error["error"]["code"], "invalid_api_key");
    }
    check_error(&server, CHAT, chat("x"), 401, "API key").await;
    for path in ["/", "/health", "/ready"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    let with_header = async |name: &str, value: &str| {
        server.client.get(server.url("/v1/models")).header(name, value).send().await.unwrap().status()
    };
    assert_eq!(with_header("authorization", "Bearer second").await, StatusCode::OK);
    assert_eq!(with_header("x-api-key", "first").await, StatusCode::OK);
    for wrong in ["Bearer firs", "Bearer first2", "Bearer ", "Basic first", "first"] {
        assert_eq!(with_header("authorization", wrong).await, StatusCode::UNAUTHORIZED, "{wrong}");
    }
}

#[tokio::test]
async fn neither_keys_nor_salts_share_the_prefix_cache() {
    let keys =
        |config: &mut dsde_server::Config| config.api_keys = vec!["first".to_owned(), "second".to_owned()];
    let server = start(Setup { config: keys, ..Setup::default() }).await;
    let cached = async |key: &str, salt: Value| {
        let body = with(chat(&"word ".repeat(40)), json!({"cache_salt": salt, "max_tokens": 1}));
        let request = server.client.post(server.url(CHAT)).bearer_auth(key).json(&body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    for (key, salt) in [("first", json!(null)), ("second", json!(null)), ("first", json!("mine"))] {
        assert_eq!(cached(key, salt.clone()).await, 0, "{key} {salt} for the first time");
        assert!(cached(key, salt.clone()).await > 0, "{key} {salt} again");
    }
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = start(Setup::default()).await;
    let id = async |given: Option<&str>| {
        let mut request = server.client.get(server.url("/health"));
        if let Some(given) = given {
            request = request.header("x-request-id", given);
        }
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(Some("mine-1")).await, "mine-1");
    assert_ne!(id(None).await, id(None).await);
    assert!(id(Some(&"x".repeat(200))).await.len() < 100, "long ids are replaced");
}

#[tokio::test]
async fn a_full_queue_answers_429_and_recovers() {
    let setup = Setup { sequences_max: 1, config: |config| config.waiting_max = 1, ..Setup::default() };
    let server = start(setup).await;
    let body = endless();
    let streaming = with(body.clone(), json!({"stream": true}));
    let running = server.send("/v1/completions", &streaming).await;
    server.until_metric(RUNNING, 1.0).await;
    let waiting = server.send("/v1/completions", &streaming).await;
    server.until_metric("vllm:num_requests_waiting", 1.0).await;
    let refused = server.send("/v1/completions", &body).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    drop((running, waiting));
    server.until_metric(RUNNING, 0.0).await;
    server.until_metric("vllm:num_requests_waiting", 0.0).await;
    server.post(CHAT, chat("again")).await;
    check_error(&server, CHAT, with(chat("x"), json!({"n": 2})), 400, "at most 1").await;
}

#[tokio::test]
async fn clients_that_leave_free_their_blocks_at_once() {
    let server = start(Setup::default()).await;
    let streaming = with(endless(), json!({"stream": true}));
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut response = server.send("/v1/completions", &streaming).await;
        response.chunk().await.unwrap();
        open.push(response);
    }
    let request = server.client.post(server.url("/v1/completions")).json(&endless()).send();
    let whole = tokio::spawn(request);
    server.until_metric(RUNNING, 5.0).await;
    whole.abort();
    drop(open);
    server.until_metric(RUNNING, 0.0).await;
    server.until_metric("vllm:kv_cache_usage_perc", 0.0).await;
    let text = server.get("/metrics").await.text().await.unwrap();
    assert!(text.contains("finished_reason=\"abort\""), "{text}");
    server.post(CHAT, chat("others are not hurt")).await;
}

#[tokio::test]
async fn a_reader_that_never_reads_holds_up_nobody() {
    use tokio::io::AsyncWriteExt as _;
    let server = start(Setup::default()).await;
    let body = with(endless(), json!({"max_tokens": 600, "stream": true, "logprobs": 20})).to_string();
    let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    server.until_metric(RUNNING, 1.0).await;
    for _ in 0..3 {
        server.post(CHAT, chat("Hello.")).await;
    }
    // Its answer ends in its inbox, without having been read.
    server.until_metric(RUNNING, 0.0).await;
    drop(socket);
}

/// One that has gone looks the same, and for that its blocks must be free at once.
#[tokio::test]
async fn a_client_that_closes_its_half_of_the_connection_has_left() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = start(Setup::default()).await;
    for stream in [false, true] {
        let body = with(endless(), json!({"stream": stream})).to_string();
        let head =
            format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
        socket.write_all((head + &body).as_bytes()).await.unwrap();
        server.until_metric(RUNNING, 1.0).await;
        socket.shutdown().await.unwrap();
        server.until_metric(RUNNING, 0.0).await;
        server.until_metric("vllm:kv_cache_usage_perc", 0.0).await;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
    }
}

#[tokio::test]
async fn answers_that_do_not_begin_in_time_end_with_an_error() {
    let timeout = |config: &mut dsde_server::Config| config.request_timeout = Duration::ZERO;
    let server = start(Setup { config: timeout, ..Setup::default() }).await;
    check_error(&server, "/v1/completions", endless(), 504, "longer than this server allows").await;
    let events = server.events("/v1/completions", with(endless(), json!({"stream": true}))).await;
    assert_eq!(events.last().unwrap()["error"]["type"], "timeout_error");
    server.until_metric("vllm:kv_cache_usage_perc", 0.0).await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_in_flight_end() {
    let mut server = start(Setup::default()).await;
    let body = with(endless(), json!({"max_tokens": 300, "stream": true}));
    let response = server.send("/v1/completions", &body).await;
    server.until_metric(RUNNING, 1.0).await;
    server.shutdown.take().unwrap().send(Shutdown::Unannounced).unwrap();
    let events = crate::common::events(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    tokio::time::timeout(Duration::from_secs(10), server.ended).await.unwrap().unwrap().unwrap();
    assert!(server.client.get(format!("http://{}/health", server.address)).send().await.is_err());
}

#[tokio::test]
async fn an_announced_shutdown_takes_requests_until_its_delay_is_over() {
    let config = |config: &mut Config| (config.drain_delay, config.drain_timeout) = (ENDLESS, ENDLESS);
    let mut server = start(Setup { config, ..Setup::default() }).await;
    assert_eq!(server.get("/ready").await.status(), 200);
    server.shutdown.take().unwrap().send(Shutdown::Announced).unwrap();
    while server.get("/ready").await.status() == 200 {
        tokio::task::yield_now().await;
    }
    // A new connection, as the balancer that has not heard of it yet would open one.
    server.client = Client::builder().no_proxy().build().unwrap();
    let body = json!({"prompt": "a", "max_tokens": 3, "temperature": 0, "ignore_eos": true});
    let answer = server.post("/v1/completions", body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert_eq!(server.get("/ready").await.status(), 503);
    assert_eq!(server.get("/health").await.status(), 200);
    assert!(!server.ended.is_finished());
}

#[tokio::test]
async fn an_announced_shutdown_ends_like_any_other() {
    let config = |config: &mut Config| config.drain_delay = Duration::from_millis(1);
    let mut server = start(Setup { config, ..Setup::default() }).await;
    let body = with(endless(), json!({"max_tokens": 300, "stream": true}));
    let response = server.send("/v1/completions", &body).await;
    server.shutdown.take().unwrap().send(Shutdown::Announced).unwrap();
    let events = crate::common::events(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    tokio::time::timeout(Duration::from_secs(10), server.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_that_takes_too_long_tells_the_clients() {
    let setup =
        Setup { config: |config| config.drain_timeout = Duration::from_millis(20), ..Setup::default() };
    let mut server = start(setup).await;
    let response = server.send("/v1/completions", &with(endless(), json!({"stream": true}))).await;
    server.until_metric(RUNNING, 1.0).await;
    server.shutdown.take().unwrap().send(Shutdown::Unannounced).unwrap();
    let events = crate::common::events(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap()["error"]["type"], "unavailable_error");
    tokio::time::timeout(Duration::from_secs(10), server.ended).await.unwrap().unwrap().unwrap();
}
