//! Prompts that use every block once: until then memory of the stores becomes resident bit by bit, which looks like a leak.

use reqwest::Client;
use serde_json::{Value, json};

use super::scrape::Scrape;

/// Tokens of a prompt; every model's context holds them.
const PROMPT_LEN: u64 = 480;
/// Positions of a block.
const BLOCK_LEN: u64 = 16;
/// Tokens that every vocabulary has, beginning behind those that stand for other things than text.
const TOKEN_MIN: u64 = 300;
const N_TOKENS: u64 = 100;

/// Asks an idle server to read as many different tokens as its blocks have positions; blank blocks go before remembered ones.
///
/// # Panics
/// If it does not answer.
pub async fn fill(client: &Client, url: &str) {
    let n_blocks = Scrape::now(url).await.value(super::BLOCKS) as u64;
    let n_prompts = (n_blocks * BLOCK_LEN).div_ceil(PROMPT_LEN);
    for i in 0..n_prompts {
        let body = json!({"prompt": prompt(i), "max_tokens": 1, "policy": "off"});
        let sent = client.post(format!("{url}/v1/completions")).json(&body).send().await;
        let response = sent.expect("an idle server answers");
        assert!(response.status().is_success(), "a prompt of {PROMPT_LEN} tokens: {}", response.status());
    }
}

/// Prompt `i`, which begins like no other.
fn prompt(i: u64) -> Value {
    let begin = [i % N_TOKENS, i / N_TOKENS % N_TOKENS, i / N_TOKENS / N_TOKENS % N_TOKENS];
    let rest = (begin.len() as u64..PROMPT_LEN).map(|k| k * 7 % N_TOKENS);
    begin.into_iter().chain(rest).map(|token| TOKEN_MIN + token).collect()
}
