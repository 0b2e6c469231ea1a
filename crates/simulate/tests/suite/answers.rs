//! What requests really said, replayed: suffix decoding repeats what it would repeat in reality.

use std::fs;

use dsde_simulate::{Scenario, run};
use serde_json::json;

const PROMPT_LEN: u32 = 12;
const ANSWER_LEN: u32 = 40;

/// Two requests of which a draft model guesses no token, a step per token.
fn trace() -> String {
    let sequence = |request: u32, start: u32| {
        let (drafted, context_len) = if start == 0 { (0, 0) } else { (1, PROMPT_LEN + start - 1) };
        json!({"request": request, "context_len": context_len, "temperature": 0, "drafted": drafted,
            "verified": drafted, "accepted": 0, "emitted": 1})
    };
    let step = |start| {
        let sequences = [sequence(0, start), sequence(1, start)];
        json!({"step": {"step_ms": 2, "draft_ms": 0.5, "verify_ms": 1, "target_rows": 3, "prefill_rows": 0,
            "draft_rounds": 1, "draft_rows": 2, "context_len_sum": 9, "drafted": 2, "verified": 2, "emitted": 2,
            "sequences": sequences}})
    };
    (0..ANSWER_LEN).map(|start| format!("{}\n", step(start))).collect()
}

/// A prompt, and an answer that says six tokens of it again and again.
fn answer(index: u32) -> String {
    let prompt: Vec<u32> = (0..PROMPT_LEN).map(|i| 100 * index + i).collect();
    let tokens: Vec<u32> = (0..ANSWER_LEN).map(|i| prompt[i as usize % 6]).collect();
    format!("{}\n", json!({"index": index, "prompt_token_ids": prompt, "tokens": tokens}))
}

/// The scenario of the trace above.
///
/// * `answers`: what the requests said, if that is told.
fn scenario(answers: Option<&str>) -> Result<Scenario, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("trace.jsonl"), trace()).unwrap();
    let key = answers.map_or("", |text| {
        fs::write(folder.path().join("answers.jsonl"), text).unwrap();
        "answers = \"answers.jsonl\"\n"
    });
    let text = format!(
        "policies = [\"fixed:k=3\"]\n[machine]\ndevice = \"h100\"\nprofile = false\n[pair]\ntarget = \"llama-3.1-8b\"\n\
         [acceptance]\nprocess = \"trace\"\nfiles = \"trace.jsonl\"\n{key}[load]\nconcurrency = 2\nrequests = 2\n"
    );
    Scenario::parse(&text, "test", folder.path()).map_err(|error| error.to_string())
}

fn emitted_per_step(scenario: &Scenario) -> f64 {
    run(scenario, 1, &|_, _| {}).unwrap().cells[0].emitted_per_step.unwrap()
}

#[test]
fn what_repeats_is_continued_where_it_is_known() {
    assert_eq!(emitted_per_step(&scenario(None).unwrap()), 1.0, "there is no draft");
    let answers = answer(0) + &answer(1);
    // All drafts are right but for the first ones, and a step keeps three and one.
    let known = emitted_per_step(&scenario(Some(&answers)).unwrap());
    assert!((3.0..=4.0).contains(&known), "{known}");
}

#[test]
fn answers_of_other_requests_are_refused() {
    let message = |answers: &str| scenario(Some(answers)).unwrap_err();
    let cases = [
        (answer(0), "line 2 of ", "expected a prompt of 12 tokens, as in the trace, got no line"),
        (answer(1), "line 1 of ", "expected the answer to prompt 0, got one to prompt 1"),
        (
            answer(0) + &answer(1).replace("[100,", "[100,7,"),
            "line 2 of ",
            "expected a prompt of 12 tokens, as in the trace, got one of 13",
        ),
        (
            answer(0).replace("prompt_token_ids", "prompt"),
            "line 1 of ",
            "expected an answer with `prompt_token_ids`",
        ),
        (
            answer(0) + &answer(1).replace("[100,", "[128256,"),
            "`acceptance.answers` must be answers of the target",
            "whose tokens are below 128256, got token 128256",
        ),
    ];
    for (answers, start, end) in cases {
        let message = message(&answers);
        assert!(message.starts_with(start) && message.contains(end), "{message}");
    }
}
