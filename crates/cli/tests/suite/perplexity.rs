//! `inspect perplexity` on the embedded target.

use std::fs;

use crate::common::{Run, dsde};
use serde_json::{Value, json};

const TEXT: &str = "The river begins as a small stream in the mountains. It grows with every brook that joins it, \
    and when it reaches the plain it is wide and slow. Boats carry stone and wood to the city, and in the evening \
    people sit on its banks and watch the light on the water.";

fn perplexity(text: impl AsRef<[u8]>, more: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("text.txt");
    fs::write(&path, text).expect("the scratch folder is writable");
    let path = path.to_str().expect("a UTF-8 path");
    dsde(&[&["inspect", "perplexity", path], more].concat())
}

fn report(text: &str, more: &[&str]) -> Value {
    perplexity(text, &[&["--json"], more].concat()).json_lines().remove(0)
}

#[test]
fn a_report_has_figures_of_all_windows() {
    let report = report(TEXT, &["--window", "16"]);
    let number = |name: &str| report[name].as_f64().expect("a number");
    assert!(number("windows") >= 2.0, "{report}");
    // Positions 8..15 of every window predict a token.
    assert_eq!(number("scored"), 7.0 * number("windows"));
    assert!((number("perplexity") - number("nll").exp()).abs() < 1e-9, "{report}");
    // Better than guessing among the 4096 tokens.
    assert!((1.0..1000.0).contains(&number("perplexity")), "{report}");
    assert!(number("standard_error") > 0.0 && number("tokens_per_s") > 0.0, "{report}");
    assert_eq!(report["dtypes"], json!({"BF16": 56}));
}

#[test]
fn figures_depend_on_text_and_window_alone() {
    let nll = |text: &str, more: &[&str]| report(text, more)["nll"].clone();
    let whole = nll(TEXT, &["--window", "16"]);
    assert_eq!(nll(TEXT, &["--window", "16", "--threads", "1"]), whole);
    assert_eq!(nll(TEXT, &["--window", "16", "--chunks", "4000"]), whole);
    assert_ne!(nll(TEXT, &["--window", "16", "--chunks", "1"]), whole);
    assert_ne!(nll(TEXT, &["--window", "12"]), whole);
    let shuffled: Vec<&str> = TEXT.split(' ').rev().collect();
    let number = |nll: Value| nll.as_f64().expect("a number");
    assert!(number(nll(&shuffled.join(" "), &["--window", "16"])) > number(whole));
}

#[test]
fn people_get_lines() {
    let run = perplexity(TEXT, &["--window", "16"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.starts_with("perplexity ") && run.stdout.contains("windows of 16"), "{}", run.stdout);
}

#[test]
fn texts_and_windows_that_cannot_be_used_are_refused() {
    let check = |text: &[u8], more: &[&str], parts: &[&str]| {
        let run = perplexity(text, more);
        assert_eq!(run.code, Some(2), "{more:?}: {}", run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{more:?} lacks {part:?}: {}", run.stderr);
        }
    };
    check(TEXT.as_bytes(), &[], &["a window takes 512", "longer text"]);
    check(b"", &["--window", "8"], &["0 tokens"]);
    check(b"\xff\xfe", &[], &["cannot read", "UTF-8"]);
    check(&vec![b'a'; (4 << 20) + 1], &[], &["longer than 4194304 bytes"]);
    check(TEXT.as_bytes(), &["--window", "7"], &["--window", "in 8..="]);
    check(TEXT.as_bytes(), &["--window", "4096"], &["--window must be at most 2048", "4096"]);
    check(TEXT.as_bytes(), &["--chunks", "0"], &["--chunks"]);
    check(TEXT.as_bytes(), &["--model", "/nowhere/x"], &["no such folder or file"]);
    let run = dsde(&["inspect", "perplexity", "/nowhere/text"]);
    assert!(run.code == Some(2) && run.stderr.contains("cannot read /nowhere/text"), "{}", run.stderr);
}
