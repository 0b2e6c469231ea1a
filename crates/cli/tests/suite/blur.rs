//! `inspect blur`: a draft that guesses worse and changes nothing else.

use std::fs;

use crate::common::{Run, dsde, dsde_with_stdin};
use serde_json::Value;

const PROMPTS: &str = r#"{"prompt": "Describe a river in three sentences."}
{"prompt": "Anna has 4 boxes of 12 pens. How many pens does she have?"}
"#;

fn blur(more: &[&str]) -> Run {
    dsde(&[&["inspect", "blur"], more].concat())
}

/// Tokens of the answers to [`PROMPTS`], and how many drafted ones were accepted.
fn answers(draft: &str) -> (Vec<Value>, u64) {
    let fixed =
        ["generate", "--file", "-", "--json", "--max-tokens", "48", "--policy", "fixed:k=3", "--draft"];
    let answers = dsde_with_stdin(&[&fixed[..], &[draft]].concat(), PROMPTS).json_lines();
    let accepted = answers.iter().map(|answer| answer["accepted"].as_u64().expect("a count")).sum();
    (answers.into_iter().map(|answer| answer["tokens"].clone()).collect(), accepted)
}

#[test]
fn noise_makes_the_draft_worse_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = |name: &str| folder.path().join(name).display().to_string();
    for (name, noise, seed) in
        [("none", "0", "1"), ("some", "0.3", "1"), ("same", "0.3", "1"), ("other", "0.3", "2")]
    {
        let run = blur(&["--noise", noise, "--seed", seed, "--out", &out(name)]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    }
    let (tokens, accepted) = answers("demo");
    assert_eq!(answers(&out("none")), (tokens.clone(), accepted), "without noise it is the same draft");
    let (same_tokens, fewer) = answers(&out("some"));
    assert_eq!(same_tokens, tokens);
    assert!(fewer < accepted, "{fewer} of {accepted} are still accepted");
    let weights = |name| fs::read(folder.path().join(name).join("model.safetensors")).expect("weights");
    assert!(weights("same") == weights("some"), "the same seed writes the same bytes");
    assert!(weights("other") != weights("some"));
}

#[test]
fn impossible_requests_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = folder.path().join("bad").display().to_string();
    for (options, part) in [
        (&["--noise", "-1"][..], "0..=10"),
        (&["--noise", "11"], "0..=10"),
        (&["--noise", "much"], "0..=10"),
        (&["--noise", "0.1", "--model", "/nowhere/x"], "no such folder or file"),
    ] {
        let run = blur(&[options, &["--out", &out]].concat());
        assert_eq!(run.code, Some(2), "{options:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{options:?}: {}", run.stderr);
    }
    assert!(!fs::exists(&out).expect("a readable folder"));
    fs::create_dir(&out).expect("a folder");
    fs::write(folder.path().join("bad/x"), "").expect("a file");
    let run = blur(&["--noise", "0.1", "--out", &out]);
    assert!(run.stderr.contains("is not empty"), "{}", run.stderr);
}
