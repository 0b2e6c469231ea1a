//! `inspect inflate`: the larger model is the small one in everything but cost.

use std::fs;

use crate::common::{Run, dsde, dsde_with_stdin};
use serde_json::Value;

const PROMPTS: &str = r#"{"prompt": "Describe a river in three sentences."}
{"prompt": "Anna has 4 boxes of 12 pens. How many pens does she have?"}
{"prompt": "Complete this Python function.\ndef add(a, b):\n"}
"#;

/// Wider than needed in every dimension, but small enough for a test: 24 million weights.
const SIZES: [&str; 8] = ["--hidden", "1024", "--layers", "7", "--ff", "832", "--heads", "6"];

fn inflate(more: &[&str]) -> Run {
    dsde(&[&["inspect", "inflate"], more].concat())
}

/// Tokens and log-probabilities of the answers to [`PROMPTS`].
fn answers(more: &[&str]) -> Vec<[Value; 2]> {
    let fixed = ["generate", "--file", "-", "--json", "--logprobs", "3", "--max-tokens", "48"];
    let answers = dsde_with_stdin(&[&fixed, more].concat(), PROMPTS).json_lines();
    answers.into_iter().map(|answer| [answer["tokens"].clone(), answer["logprobs"].clone()]).collect()
}

#[test]
fn the_inflated_model_computes_exactly_what_the_small_one_does() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = folder.path().join("big").display().to_string();
    let run = inflate(&[&SIZES[..], &["--out", &out]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);

    let inspection = dsde(&["inspect", "--model", &out, "--draft", "demo", "--json"]).json_lines().remove(0);
    assert_eq!(inspection["draft"]["compatible"], true);
    let model = &inspection["model"];
    let sizes = ["hidden", "layers", "intermediate", "heads", "kv_heads"].map(|key| model[key].as_u64());
    assert_eq!(sizes, [1024, 7, 832, 6, 3].map(Some));
    // 4096 * 1024 + 7 * 1024 * (2 * 384 + 2 * 192 + 3 * 832), and 15 norms of 1024.
    assert_eq!(model["parameters"], 4_194_304 + 26_148_864 + 15_360);

    let small = answers(&["--policy", "off"]);
    assert_eq!(small.len(), 3);
    assert_eq!(answers(&["--model", &out, "--policy", "off"]), small);
    for sampled in [&[] as &[&str], &["--temperature", "0.8", "--seed", "7"]] {
        let policy = [&["--policy", "fixed:k=3"], sampled].concat();
        let large = [&["--model", &out, "--draft", "demo"], &policy[..]].concat();
        assert_eq!(answers(&large), answers(&policy), "{sampled:?}");
    }

    let again = inflate(&[&SIZES[..], &["--out", &out]].concat());
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("is not empty"), "{}", again.stderr);
    let deeper = folder.path().join("deeper").display().to_string();
    let run = inflate(&["--model", &out, "--hidden", "1024", "--layers", "8", "--out", &deeper]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(answers(&["--model", &deeper, "--policy", "off"]), small);
}

#[test]
fn impossible_sizes_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = folder.path().join("big").display().to_string();
    for (sizes, part) in [
        (["--hidden", "512", "--layers", "8"], "--hidden must be 256 times a power of four"),
        (["--hidden", "1024", "--layers", "2"], "--layers must be at least 6"),
        (["--hidden", "1048576", "--layers", "8"], "billion weights, at most"),
        (["--hidden", "0", "--layers", "8"], "--hidden"),
    ] {
        let run = inflate(&[&sizes[..], &["--out", &out]].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{sizes:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{sizes:?}: {}", run.stderr);
    }
    let missing = inflate(&["--model", "/nowhere/x", "--hidden", "256", "--layers", "6", "--out", &out]);
    assert!(missing.stderr.contains("no such folder or file"), "{}", missing.stderr);
    assert!(!fs::exists(&out).expect("a readable folder"));
}
