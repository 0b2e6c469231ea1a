//! The page and what it is fed with: its files, the live feed's sequences, where tokens came from.

use crate::common::{Server, Setup, chat, start, with};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

async fn page(server: &Server) -> Response {
    let asked = server
        .client
        .get(server.url("/"))
        .header("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
    asked.send().await.unwrap()
}

fn check_security(response: &Response, kind: &str) {
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(header("content-type").starts_with(kind), "{}", header("content-type"));
    assert_eq!(
        (header("x-content-type-options"), header("x-frame-options")),
        ("nosniff".into(), "DENY".into())
    );
    let policy = header("content-security-policy");
    for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn browsers_get_the_page_with_all_its_files_and_without_a_key() {
    let with_key = |config: &mut dsde_server::Config| config.api_keys = vec!["secret".to_owned()];
    let server = start(Setup { config: with_key, ..Setup::default() }).await;
    let response = page(&server).await;
    check_security(&response, "text/html");
    assert_eq!(response.headers()["vary"], "accept");
    let html = response.text().await.unwrap();
    let mut queue: Vec<String> =
        html.split('"').filter(|text| text.starts_with("/page/")).map(str::to_owned).collect();
    let mut seen = Vec::new();
    while let Some(path) = queue.pop() {
        let kind = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript",
            "css" => "text/css",
            "svg" => "image/svg+xml",
            _ => "text/plain",
        };
        let response = server.get(&path).await;
        check_security(&response, kind);
        let text = response.text().await.unwrap();
        let imported =
            text.split("from \"./").skip(1).map(|rest| format!("/page/{}", rest.split('"').next().unwrap()));
        queue.extend(imported.filter(|path| !seen.contains(path)));
        seen.push(path);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12, "every file is used: {seen:?}");
    assert!(!html.contains(" style=") && !html.contains(" onclick"), "nothing that the policy forbids");
    assert_eq!(server.get("/page/../Cargo.toml").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.get("/page/none.js").await.status(), StatusCode::NOT_FOUND);
    let refused = server.get("/page/%ed").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let message = refused.json::<Value>().await.unwrap()["error"]["message"].to_string();
    assert!(message.contains("the path cannot be read") && message.contains("UTF-8"), "{message}");
    assert_eq!(server.get("/v1/policies").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn others_get_the_list_of_routes_and_all_of_them_exist() {
    let server = start(Setup::default()).await;
    let list: Value = server.get("/").await.json().await.unwrap();
    let routes = list["routes"].as_array().unwrap();
    assert!(routes.len() > 10);
    for route in routes {
        let path = route["path"].as_str().unwrap().replace("NAME", "demo").replace("FILE", "main.js");
        let response = match route["method"].as_str().unwrap() {
            "GET" => server.get(&path).await,
            _ => server.send(&path, &json!({})).await,
        };
        let known = [StatusCode::OK, StatusCode::BAD_REQUEST];
        assert!(known.contains(&response.status()), "{path}: {}", response.status());
    }
}

#[tokio::test]
async fn policies_are_listed_with_what_they_can_be_given() {
    let server = start(Setup { policy: "fixed:k=3", ..Setup::default() }).await;
    let list: Value = server.get("/v1/policies").await.json().await.unwrap();
    assert_eq!(list["default"], "fixed:k=3");
    let policies = list["policies"].as_array().unwrap();
    let fixed = policies.iter().find(|policy| policy["name"] == "fixed").unwrap();
    let k = &fixed["parameters"][0];
    assert_eq!((&k["key"], &k["values"], &k["default"]), (&json!("k"), &json!("1..=64"), &Value::Null));
    assert!(policies.iter().all(|policy| !policy["summary"].as_str().unwrap().is_empty()));
}

/// Events of the feed until one of them holds; bounded by the length of the answers that run.
async fn until(feed: &mut Response, holds: impl Fn(&Value) -> bool) -> Value {
    let mut text = String::new();
    loop {
        let chunk = feed.chunk().await.unwrap().expect("the feed goes on");
        text += &String::from_utf8_lossy(&chunk);
        while let Some((event, rest)) = text.split_once("\n\n") {
            let state = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
            text = rest.to_owned();
            if holds(&state) {
                return state;
            }
        }
    }
}

#[tokio::test]
async fn the_feed_tells_what_every_running_sequence_does() {
    let server = start(Setup { policy: "dsde:cap=mean", ..Setup::default() }).await;
    let mut feed = server.get("/v1/live").await;
    let endless = json!({"stream": true, "max_tokens": 1900, "ignore_eos": true, "n": 2});
    let answer = server.send(CHAT, &with(chat("Tell me a story."), endless)).await;
    let state = until(&mut feed, |state| {
        let rows = state["sequences"].as_array().unwrap();
        rows.len() == 2 && rows.iter().all(|row| row["numbers"]["wvir"].is_number())
    })
    .await;
    for (choice, row) in state["sequences"].as_array().unwrap().iter().enumerate() {
        let count = |key: &str| row[key].as_u64().unwrap();
        assert_eq!((count("choice"), count("request")), (choice as u64, 0));
        assert_eq!(count("context"), count("prompt_tokens") + count("emitted") - 1);
        assert!(count("accepted") <= count("verified") && count("verified") <= count("planned"));
        assert!((0.0..=1.0).contains(&row["acceptance_rate"].as_f64().unwrap()));
        assert!(row["kld"].as_f64().unwrap() >= 0.0 && row["numbers"]["wvir"].as_f64().unwrap() >= 0.0);
        assert!(row["numbers"]["cap"].as_f64().unwrap() >= 1.0);
        assert!(["divergence", "floor", "cap"].contains(&row["reason"].as_str().unwrap()), "{row}");
    }
    drop(answer);
    until(&mut feed, |state| state["running"] == 0.0 && state["sequences"] == json!([])).await;
}

#[tokio::test]
async fn what_a_policy_does_not_compute_is_null() {
    let server = start(Setup { policy: "fixed:k=2", ..Setup::default() }).await;
    let mut feed = server.get("/v1/live").await;
    let endless = json!({"stream": true, "max_tokens": 1900, "ignore_eos": true});
    let answer = server.send(CHAT, &with(chat("Tell me a story."), endless)).await;
    let state = until(&mut feed, |state| state["sequences"][0]["verified"] == 2).await;
    let row = &state["sequences"][0];
    assert_eq!(row["policy"], "fixed:k=2");
    assert_eq!((&row["kld"], &row["numbers"], &row["reason"]), (&Value::Null, &json!({}), &json!("fixed")));
    drop(answer);
}

#[tokio::test]
async fn the_feed_tells_the_policy_that_a_request_chose() {
    let server = start(Setup { policy: "dsde", ..Setup::default() }).await;
    let mut feed = server.get("/v1/live").await;
    let endless = json!({"stream": true, "max_tokens": 1900, "ignore_eos": true});
    let body = with(chat("Tell me a story."), endless);
    let default = server.send(CHAT, &body).await;
    let chosen = server.send(CHAT, &with(body, json!({"policy": "fixed:cap=mean,k=03"}))).await;
    let state = until(&mut feed, |state| state["sequences"].as_array().unwrap().len() == 2).await;
    let policies = [0, 1].map(|row| state["sequences"][row]["policy"].as_str().unwrap());
    assert_eq!(policies, ["dsde", "fixed:k=3,cap=mean"], "in its canonical form");
    drop((default, chosen));
}

/// The entries of all chunks of a stream.
fn entries(events: &[Value]) -> Vec<Value> {
    let parts = events.iter().filter_map(|event| event["choices"][0]["token_origins"].as_array());
    parts.flatten().cloned().collect()
}

fn texts(entries: &[Value]) -> String {
    entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn origins_add_up_to_the_text_and_to_the_metrics_and_change_nothing() {
    let asked = json!({"max_tokens": 60, "ignore_eos": true});
    for (policy, more) in [
        ("fixed:k=3", json!({})),
        ("dsde", json!({"temperature": 0.9, "seed": 11})),
        ("off", json!({"temperature": 0.9, "seed": 11})),
    ] {
        let server = start(Setup { policy, ..Setup::default() }).await;
        let body = with(with(chat("Tell me a story."), asked.clone()), more);
        let silent = server.post(CHAT, body.clone()).await;
        assert!(silent["choices"][0].get("token_origins").is_none(), "only who asks is told");
        let content = silent["choices"][0]["message"]["content"].as_str().unwrap();
        let [verified, accepted] = counts(&server).await;
        let events =
            server.events(CHAT, with(body.clone(), json!({"stream": true, "token_origins": true}))).await;
        let entries = entries(&events);
        assert_eq!((texts(&entries).as_str(), entries.len()), (content, 60), "{policy}");
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| bytes(&entry["bytes"])).collect();
        assert_eq!(bytes, content.as_bytes());
        check_origins(&entries, counts(&server).await.map(|n| n / 2.0), policy);
        assert_eq!(counts(&server).await, [2.0 * verified, 2.0 * accepted], "the same steps again");
        let whole = server.post(CHAT, with(body, json!({"token_origins": true}))).await;
        assert_eq!(whole["choices"][0]["token_origins"], json!(entries));
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::from_value(value.clone()).unwrap()
}

async fn counts(server: &Server) -> [f64; 2] {
    let verified = server.metric("vllm:spec_decode_num_draft_tokens_total").await;
    [verified, server.metric("vllm:spec_decode_num_accepted_tokens_total").await]
}

fn check_origins(entries: &[Value], [verified, accepted]: [f64; 2], policy: &str) {
    let of = |origin: &str| entries.iter().filter(|entry| entry["origin"] == origin).count();
    assert_eq!(of("accepted") as f64, accepted, "{policy}");
    assert_eq!(of("plain") == entries.len(), policy == "off", "{policy}");
    let mut n_rejected = 0;
    for entry in entries {
        let branches = entry["rejected"].as_array().unwrap();
        assert_eq!(branches.len(), usize::from(entry["origin"] == "recovered"), "of a chain, one branch");
        n_rejected += branches.iter().map(|branch| branch.as_array().unwrap().len()).sum::<usize>();
    }
    assert_eq!(n_rejected as f64, verified - accepted, "{policy}");
}

#[tokio::test]
async fn completions_tell_origins_too() {
    let server = start(Setup { policy: "fixed:k=3", ..Setup::default() }).await;
    let asked = json!({"token_origins": true, "stream": true, "n": 2, "ignore_eos": true, "temperature": 0});
    let events =
        server.events("/v1/completions", with(json!({"prompt": "The dog", "max_tokens": 9}), asked)).await;
    for choice in 0..2 {
        let of_choice: Vec<Value> =
            events.iter().filter(|event| event["choices"][0]["index"] == choice).cloned().collect();
        let text: String =
            of_choice.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!((texts(&entries(&of_choice)), entries(&of_choice).len()), (text, 9));
    }
}
