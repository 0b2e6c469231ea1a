//! `quantize`: smaller files that answer like the model.

use std::fs;
use std::path::Path;

use crate::common::{Run, dsde, dsde_with_stdin};
use serde_json::Value;

const PROMPTS: &str = r#"{"prompt": "Describe a river in three sentences."}
{"prompt": "Anna has 4 boxes of 12 pens. How many pens does she have?"}
"#;

fn models() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/target").display().to_string()
}

fn quantize(model: &str, mix: &str, out: &str, more: &[&str]) -> Run {
    dsde(&[&["quantize", "--model", model, "--type", mix, out], more].concat())
}

/// Tokens of the answers to [`PROMPTS`].
fn answers(model: &str) -> Vec<Value> {
    let options =
        ["generate", "--file", "-", "--json", "--max-tokens", "32", "--draft", "none", "--model", model];
    let answers = dsde_with_stdin(&options, PROMPTS).json_lines();
    answers.into_iter().map(|answer| answer["tokens"].clone()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_becomes_a_file_that_answers_like_it() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = |name: &str| folder.path().join(name).display().to_string();
    let run = quantize(&models(), "bf16", &out("bf16.gguf"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(answers(&out("bf16.gguf")), answers("demo"), "nothing was lost");

    let mut last = u64::MAX;
    for mix in ["F16", "Q8_0", "Q4_K_M", "Q4_0"] {
        let path = out(mix);
        let run = quantize(&models(), mix, &path, &[]);
        assert_eq!(run.code, Some(0), "{mix}: {}", run.stderr);
        assert!(run.stdout.contains(&format!(": {mix}, weights of")), "{}", run.stdout);
        assert!(!run.stdout.contains("quantised before"), "{}", run.stdout);
        let len = fs::metadata(&path).expect("a file").len();
        assert!(len < last, "{mix} has {len} bytes, the one before {last}");
        last = len;
        assert_eq!(answers(&path).len(), 2, "{mix}");
    }
    assert_eq!(names(folder.path()), ["F16", "Q4_0", "Q4_K_M", "Q8_0", "bf16.gguf"]);
}

#[test]
fn files_are_read_too_and_what_was_rounded_before_is_told() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = |name: &str| folder.path().join(name).display().to_string();
    for (model, mix, name) in [
        (models(), "BF16", "bf16.gguf"),
        (models(), "Q8_0", "direct.gguf"),
        (out("bf16.gguf"), "Q8_0", "by-file.gguf"),
        (out("by-file.gguf"), "Q8_0", "again.gguf"),
    ] {
        let run = quantize(&model, mix, &out(name), &[]);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
    }
    let content = |name: &str| fs::read(out(name)).expect("a file");
    assert!(content("by-file.gguf") == content("direct.gguf"), "the same by way of a file");
    assert!(content("again.gguf") == content("direct.gguf"), "what has the type is copied");
    let run = quantize(&out("direct.gguf"), "Q4_0", &out("q4_0.gguf"), &[]);
    assert!(run.stdout.contains("tensors were quantised before"), "{}", run.stdout);
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_left_behind() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = folder.path().join("x.gguf").display().to_string();
    fs::write(&out, "mine").expect("a file");
    let run = quantize(&models(), "Q8_0", &out, &[]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("exists; choose another name, or --force"), "{}", run.stderr);
    assert_eq!(fs::read(&out).expect("a file"), b"mine");

    let broken = folder.path().join("broken.gguf").display().to_string();
    fs::write(&broken, "GGUF").expect("a file");
    let run = quantize(&broken, "Q8_0", &out, &["--force"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert_eq!(fs::read(&out).expect("a file"), b"mine");

    let run = quantize("/nowhere/x", "Q8_0", &out, &["--force"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    let run = quantize(&models(), "Q3_K", &out, &["--force"]);
    assert!(run.stderr.contains("Q4_K_M"), "{}", run.stderr);
    let run = quantize(&models(), "Q8_0", &out, &["--force"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(fs::read(&out).expect("a file").starts_with(b"GGUF"));
    assert_eq!(names(folder.path()), ["broken.gguf", "x.gguf"]);
}

#[test]
fn a_tokenizer_without_a_name_is_refused_and_shown() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).expect("a folder");
    for name in names(Path::new(&models())) {
        fs::copy(Path::new(&models()).join(&name), copy.join(&name)).expect("a copy");
    }
    let text = fs::read_to_string(copy.join("tokenizer.json")).expect("a tokenizer");
    let other = text.replacen(r"\\p{N}|", r"\\p{N}{1,7}|", 1);
    assert_ne!(text, other);
    fs::write(copy.join("tokenizer.json"), other).expect("a file");
    let out = folder.path().join("x.gguf").display().to_string();
    let run = quantize(&copy.display().to_string(), "Q8_0", &out, &[]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("pre_tokenizer {"), "{}", run.stderr);
    assert!(run.stderr.contains("give a GGUF file of the model"), "{}", run.stderr);
    assert_eq!(names(folder.path()), ["copy"]);
}

#[test]
fn the_embedded_pair_is_refused_by_name() {
    let refused = quantize("demo", "Q8_0", "never.gguf", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("the embedded pair is not quantised"), "{}", refused.stderr);
}
