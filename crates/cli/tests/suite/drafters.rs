//! Drafters that models bring, and trying all there are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{dsde, dsde_with_stdin};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tokens of the model below: letters, and a space as such tokenizers write it.
const VOCAB: &str = "\u{120}abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTU";

/// A hybrid of random weights that brings a head, with text of 48 characters.
fn model() -> TempDir {
    model_of("qwen3_5")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// A fixture with text of 48 characters.
fn model_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture(name).join(file), folder.path().join(file)).expect("a fixture");
    }
    let vocab: serde_json::Map<String, Value> =
        VOCAB.chars().enumerate().map(|(id, token)| (token.to_string(), json!(id))).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
    folder
}

#[test]
fn a_model_with_a_head_is_drafted_for_by_it() {
    let folder = model();
    let path = folder.path().display().to_string();
    let told = dsde(&["inspect", "--model", &path, "--json"]).json_lines().remove(0);
    assert_eq!(
        (&told["draft"]["source"], &told["draft"]["head"]["architecture"]),
        (&json!("mtp"), &json!("MTP"))
    );
    assert_eq!(told["draft"]["head"]["taps"], json!([4]));
    assert!(told["draft"]["head"]["weight_bytes"].as_u64() > Some(0));

    let plain = answers(&path, &["--draft", "none"]);
    let as_stored = ["--draft-weights", "stored", "--policy", "fixed:k=3"];
    for options in [&["--policy", "fixed:k=3"][..], &as_stored, &["--draft", "mtp", "--policy", "ddd"], &[]] {
        let got = answers(&path, options);
        assert_eq!(tokens(&got), tokens(&plain), "{options:?}");
    }
    assert_eq!(drafted(&plain), 0);
    assert!(drafted(&answers(&path, &["--policy", "fixed:k=3"])) > 0);
}

/// What a model answers to two prompts.
fn answers(model: &str, options: &[&str]) -> Vec<Value> {
    let fixed = ["generate", "--model", model, "--raw", "--file", "-", "--json", "--max-tokens", "40"];
    let prompts = "{\"prompt\": \"a small model\"}\n{\"prompt\": \"of letters\"}\n";
    dsde_with_stdin(&[&fixed[..], options].concat(), prompts).json_lines()
}

fn tokens(answers: &[Value]) -> Vec<Value> {
    answers.iter().map(|one| one["tokens"].clone()).collect()
}

fn drafted(answers: &[Value]) -> u64 {
    answers.iter().filter_map(|one| one["drafted"].as_u64()).sum()
}

#[test]
fn an_assistant_drafts_for_its_model() {
    let (folder, assistant) = (model_of("gemma4"), fixture("gemma4_assistant").display().to_string());
    let path = folder.path().display().to_string();
    let inspected = |model: &str| {
        dsde(&["inspect", "--model", model, "--draft", &assistant, "--json"]).json_lines().remove(0)["draft"]
            .clone()
    };
    let told = inspected(&path);
    let head = |field: &str| told["head"][field].clone();
    assert_eq!(
        (head("architecture"), head("layers"), head("taps")),
        (json!("Gemma 4 assistant"), json!(3), json!([4]))
    );
    // A state of the target, 16 numbers of 4 bytes, and no keys and values.
    assert_eq!((head("kv_bytes_per_token"), &told["compatible"]), (json!(64), &json!(true)));
    let shown = dsde(&["inspect", "--model", &path, "--draft", &assistant]).stdout;
    assert!(shown.contains("Gemma 4 assistant head, BF16\n  3 layers, hidden 24, 2 heads"), "{shown}");

    let plain = answers(&path, &["--draft", "none"]);
    for policy in ["fixed:k=3", "ddd", "auto"] {
        let got = answers(&path, &["--draft", &assistant, "--policy", policy]);
        assert_eq!(tokens(&got), tokens(&plain), "{policy}");
        assert!(policy == "auto" || drafted(&got) > 0, "{policy}");
    }
    let other = model();
    let told = inspected(&other.path().display().to_string());
    let expected =
        "an assistant of Gemma 4 must draft for Gemma 4, got Qwen3_5ForCausalLM; use another draft";
    assert_eq!((&told["compatible"], &told["reason"]), (&json!(false), &json!(expected)));
    let refused = dsde(&["generate", "--model", &assistant, "--prompt", "a"]);
    assert!(
        refused.stderr.contains("an assistant as a model of its own is not supported"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_model_without_a_head_has_none_to_draft_with() {
    let refused = dsde(&["generate", "--draft", "mtp", "--prompt", "Hello."]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("this model brings no head"), "{}", refused.stderr);
}

#[test]
fn every_drafter_of_a_folder_is_tried() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    fs::rename(model().path(), folder.path().join("hybrid")).expect("a model");
    fs::write(folder.path().join("notes.txt"), "no model").expect("a file");
    let models = folder.path().display().to_string();
    let tried = dsde(&["inspect", "--drafters", &models, "--json"]);
    assert_eq!(tried.code, Some(0), "{}", tried.stderr);
    // What is known stands in lines of its own as soon as it is.
    let told: Vec<&str> =
        tried.stderr.lines().map(|line| line.split_once(' ').unwrap_or_default().0).collect();
    let hybrid = folder.path().join("hybrid").display().to_string();
    let expected = ["suffix", "suffix:", "demo", "demo:", &hybrid, &format!("{hybrid}:")];
    assert_eq!(told, expected, "{}", tried.stderr);
    let drafters = tried.json_lines().remove(0);
    assert_eq!(drafters.as_array().map(Vec::len), Some(3), "{drafters}");
    let [suffix, demo, hybrid] = [&drafters[0], &drafters[1], &drafters[2]];
    assert_eq!((&suffix["draft"], &suffix["weight_bytes"]), (&json!("suffix"), &json!(0)));
    assert_eq!(suffix["measured"]["auto_over_plain"].as_array().map(Vec::len), Some(3));
    let of_demo = |field: &str| demo["measured"][field].as_f64().expect("a number");
    assert_eq!(demo["draft"], json!("demo"));
    let [drafted, accepted] = ["drafted_per_step", "accepted_per_step"].map(of_demo);
    assert!(drafted > accepted && accepted > 0.5, "{demo}");
    assert!(of_demo("guess_ms") > 0.0 && of_demo("guess_share") > 0.0, "{demo}");
    let why = hybrid["misfit"].as_str().expect("a reason");
    assert!(why.contains("must share 64 tokens of more than one byte, got 0"), "{why}");
    assert_eq!(hybrid["measured"], Value::Null);

    let empty = tempfile::tempdir().expect("a scratch folder");
    let nothing = dsde(&["inspect", "--drafters", &empty.path().display().to_string()]);
    assert_eq!(nothing.code, Some(2), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("has no model folders"), "{}", nothing.stderr);
    let missing = dsde(&["inspect", "--drafters", "no/such/folder"]);
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(missing.stderr.contains("--drafters no/such/folder"), "{}", missing.stderr);
}
