//! Pages of other origins, paths with slashes too many, and what programs are told about the API.

use crate::common::{Server, Setup, chat, start};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";
const PAGE: &str = "https://page.example";

/// What a browser asks before it sends a page's request.
async fn asked(server: &Server, origin: &str) -> (StatusCode, HeaderMap) {
    let request = server.client.request(Method::OPTIONS, server.url(CHAT)).header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    let request = request.header("access-control-request-headers", "authorization,content-type,x-client");
    let response = request.send().await.expect("an answer");
    (response.status(), response.headers().clone())
}

/// What comes back for a request of a page.
async fn sent(server: &Server, origin: &str, path: &str) -> (StatusCode, HeaderMap) {
    let request = server.client.post(server.url(path)).header("origin", origin).json(&chat("Hello."));
    let response = request.send().await.expect("an answer");
    (response.status(), response.headers().clone())
}

#[tokio::test]
async fn pages_of_named_origins_may_ask_and_others_may_not() {
    let config = |config: &mut dsde_server::Config| {
        config.cors_origins = vec![PAGE.to_owned(), "http://localhost:3000".to_owned()];
        config.api_keys = vec!["key".to_owned()];
    };
    let server = start(Setup { config, ..Setup::default() }).await;
    let (status, headers) = asked(&server, PAGE).await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::NO_CONTENT, &PAGE.parse().unwrap())
    );
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type,x-client");
    assert_eq!(headers["access-control-allow-methods"], "GET, POST");
    // A refusal can be read by the page, too.
    let (status, headers) = sent(&server, PAGE, CHAT).await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::UNAUTHORIZED, &PAGE.parse().unwrap())
    );
    assert!(headers["vary"].to_str().unwrap().contains("origin"));
    for stranger in ["https://page.example.evil", "https://evil.example", "http://page.example", "null"] {
        let (status, headers) = asked(&server, stranger).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{stranger}");
        assert!(headers.get("access-control-allow-origin").is_none(), "{stranger}");
        let (_, headers) = sent(&server, stranger, CHAT).await;
        assert!(headers.get("access-control-allow-origin").is_none(), "{stranger}");
    }
}

#[tokio::test]
async fn every_origin_may_be_let_in_but_never_with_credentials() {
    let any = |config: &mut dsde_server::Config| config.cors_origins = vec!["*".to_owned()];
    let server = start(Setup { config: any, ..Setup::default() }).await;
    for headers in [asked(&server, PAGE).await.1, sent(&server, PAGE, CHAT).await.1] {
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(headers.get("access-control-allow-credentials").is_none());
    }
}

#[tokio::test]
async fn no_origin_is_let_in_by_default() {
    let server = start(Setup::default()).await;
    let (status, headers) = asked(&server, PAGE).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(headers.get("access-control-allow-origin").is_none() && headers.get("vary").is_none());
}

#[tokio::test]
async fn slashes_too_many_are_the_same_route() {
    let server = start(Setup::default()).await;
    for path in ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat///completions//"] {
        assert_eq!(sent(&server, PAGE, path).await.0, StatusCode::OK, "{path}");
    }
    assert_eq!(server.get("/v1/models//").await.status(), StatusCode::OK);
    let refused = server.get("/v1/models/%ff").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("\"the path cannot be read"));
    assert_eq!(server.get("/v1/nothing/").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn programs_are_told_what_may_be_asked() {
    let server = start(Setup::default()).await;
    let response = server.get("/openapi.json").await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let description: Value = response.json().await.expect("JSON");
    assert_eq!(description["openapi"], "3.1.0");
}
