//! A request may choose who plans for it; the text is the same.

use crate::common::{Setup, chat, start, with};
use dsde_policy::registry::ENTRIES;
use reqwest::StatusCode;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn the_chosen_policy_plans_and_the_text_stays() {
    let server = start(Setup::default()).await;
    let asked = |policy: Option<&str>| {
        let more =
            json!({"spec_decode_metrics": "summary", "max_tokens": 40, "ignore_eos": true, "policy": policy});
        with(chat("Tell me a story about a dog."), more)
    };
    let text = |answer: &Value| answer["choices"][0]["message"]["content"].clone();
    let off = server.post(CHAT, asked(Some("off"))).await;
    assert_eq!(off["metrics"]["speculative_decoding"], Value::Null, "off drafts nothing");
    let fixed = server.post(CHAT, asked(Some("fixed:k=3"))).await;
    assert_eq!(fixed["metrics"]["speculative_decoding"]["num_spec_tokens"], 3);
    let own = server.post(CHAT, asked(None)).await;
    assert!(own["metrics"]["speculative_decoding"]["num_draft_tokens"].as_u64().unwrap() > 0);
    assert_eq!((text(&fixed), text(&own)), (text(&off), text(&off)));
    let counted = server.get("/metrics").await.text().await.unwrap();
    for policy in ["off", "fixed", "dsde"] {
        let line = format!(
            "dsde:policy_tokens_total{{engine=\"0\",kind=\"emitted\",model_name=\"demo\",policy=\"{policy}\"}} 40"
        );
        assert!(counted.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn all_policies_are_listed_with_their_parameters() {
    let server = start(Setup::default()).await;
    let list: Value = server.get("/v1/policies").await.json().await.unwrap();
    assert_eq!((&list["default"], &list["can_draft"]), (&json!("dsde"), &json!(true)));
    let policies = list["policies"].as_array().unwrap();
    assert_eq!(policies.len(), ENTRIES.len());
    let fixed = policies.iter().find(|policy| policy["name"] == "fixed").unwrap();
    assert_eq!(fixed["parameters"][0]["values"], "1..=64");
}

#[tokio::test]
async fn too_many_policies_at_once_are_refused_until_one_is_free() {
    let server = start(Setup { sequences_max: 32, ..Setup::default() }).await;
    let endless = |k: usize| {
        json!({
            "prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": true, "temperature": 0, "stream": true,
            "policy": format!("fixed:k={k}"),
        })
    };
    let mut running = Vec::new();
    for k in 1..=16 {
        let response = server.send("/v1/completions", &endless(k)).await;
        assert_eq!(response.status(), StatusCode::OK);
        running.push(response);
    }
    let refused = server.send("/v1/completions", &endless(17)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let error: Value = refused.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("16 other policies are in use") && message.contains("fixed:k=16"), "{message}");
    assert_eq!(
        server.send("/v1/completions", &with(endless(1), json!({"max_tokens": 1}))).await.status(),
        200
    );
    drop(running);
    server.until_metric("vllm:num_requests_running", 0.0).await;
    assert_eq!(
        server.send("/v1/completions", &with(endless(17), json!({"max_tokens": 1}))).await.status(),
        200
    );
}
