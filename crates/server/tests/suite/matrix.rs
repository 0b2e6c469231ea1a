//! Every sampling feature under every policy, all policies in one batch: no error, and greedy text is that of plain decoding.

use std::sync::Arc;

use crate::common::{Server, Setup, start, with};
use dsde_policy::registry::ENTRIES;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Every policy; the server's own makes one less that is another.
fn policies() -> Vec<String> {
    let text = |name: &str| if name == "fixed" { "fixed:k=5".to_owned() } else { name.to_owned() };
    ENTRIES.iter().map(|entry| text(entry.name)).collect()
}

fn base() -> Value {
    json!({"prompt": "Once upon a time, there was a", "max_tokens": 12, "ignore_eos": true})
}

fn features() -> Vec<Value> {
    vec![
        json!({}),
        json!({"top_p": 0.7}),
        json!({"top_k": 12}),
        json!({"min_p": 0.1}),
        json!({"presence_penalty": 1.2}),
        json!({"frequency_penalty": 0.7}),
        json!({"repetition_penalty": 1.3}),
        json!({"logit_bias": {"5": 4.0, "40": -100.0, "300": 2.5}}),
        json!({"logprobs": 3}),
        json!({"stop": ["e", "little"]}),
        json!({"stop_token_ids": [3, 44, 300, 301, 302, 303], "ignore_eos": false}),
        json!({"min_tokens": 12, "ignore_eos": false, "stop_token_ids": [44, 300]}),
        json!({"n": 3, "seed": 7}),
        json!({"echo": true}),
        json!({"prompt": ["The dog", "A cat sat on"], "n": 2}),
        json!({
            "top_k": 40, "top_p": 0.95, "min_p": 0.02, "presence_penalty": 0.3, "frequency_penalty": 0.2,
            "repetition_penalty": 1.1, "logit_bias": {"17": 1.0}, "logprobs": 20, "stop": ["zebra"], "min_tokens": 5,
            "n": 2, "seed": 3, "priority": -1, "slo_tpot_ms": 5.0,
        }),
    ]
}

/// The answers to one body under every policy at once.
async fn answers(server: &Arc<Server>, body: &Value) -> Vec<(String, Value)> {
    let mut asked = JoinSet::new();
    for policy in policies() {
        let (server, body) = (server.clone(), with(body.clone(), json!({"policy": policy})));
        asked.spawn(async move { (policy, server.post("/v1/completions", body).await) });
    }
    asked.join_all().await
}

/// Choices without what floating-point noise could touch.
fn texts(answer: &Value) -> Vec<(Value, Value)> {
    let choices = answer["choices"].as_array().unwrap();
    choices.iter().map(|choice| (choice["text"].clone(), choice["finish_reason"].clone())).collect()
}

#[tokio::test]
async fn greedy_text_is_that_of_plain_decoding() {
    let server = Arc::new(start(Setup { sequences_max: 32, ..Setup::default() }).await);
    for feature in features() {
        let body = with(with(base(), json!({"temperature": 0})), feature);
        let off = server.post("/v1/completions", with(body.clone(), json!({"policy": "off"}))).await;
        for (policy, answer) in answers(&server, &body).await {
            assert_eq!(texts(&answer), texts(&off), "{policy}: {body}");
            assert_eq!(
                answer["choices"][0]["logprobs"]["tokens"], off["choices"][0]["logprobs"]["tokens"],
                "{policy}: {body}"
            );
        }
    }
    assert!(server.metric("vllm:spec_decode_num_accepted_tokens_total").await > 0.0, "speculation was on");
    assert_eq!(server.metric("dsde:step_failures_total").await, 0.0);
}

#[tokio::test]
async fn sampled_answers_keep_their_bounds() {
    let server = Arc::new(start(Setup { sequences_max: 32, ..Setup::default() }).await);
    for feature in features() {
        let body = with(with(base(), json!({"temperature": 0.9})), feature);
        let off = server.post("/v1/completions", with(body.clone(), json!({"policy": "off"}))).await;
        for (policy, answer) in answers(&server, &body).await {
            let choices = answer["choices"].as_array().unwrap();
            assert_eq!(choices.len(), off["choices"].as_array().unwrap().len(), "{policy}: {body}");
            for choice in choices {
                let text = choice["text"].as_str().unwrap();
                let is_stopped = choice["finish_reason"] == "stop";
                assert!(is_stopped || choice["finish_reason"] == "length", "{policy}: {choice}");
                for stop in body["stop"].as_array().into_iter().flatten() {
                    assert!(!text.contains(stop.as_str().unwrap()), "{policy}: {text}");
                }
            }
            let completion_tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
            assert!(completion_tokens <= 12 * choices.len() as u64, "{policy}: {answer}");
        }
    }
    assert_eq!(server.metric("dsde:step_failures_total").await, 0.0);
    server.until_metric("vllm:kv_cache_usage_perc", 0.0).await;
}
