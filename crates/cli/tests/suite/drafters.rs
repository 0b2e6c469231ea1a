//! Drafters that models bring, and trying all there are.

use std::fs;
use std::path::Path;

use crate::common::{dsde, dsde_with_stdin};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tokens of the model below: letters, and a space as such tokenizers write it.
const VOCAB: &str = "\u{120}abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTU";

/// A hybrid of random weights that brings a head, with text of 48 characters.
fn model() -> TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/qwen3_5");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), folder.path().join(file)).expect("a fixture");
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

    let answers = |options: &[&str]| {
        let fixed = ["generate", "--model", &path, "--raw", "--file", "-", "--json", "--max-tokens", "40"];
        let prompts = "{\"prompt\": \"a small model\"}\n{\"prompt\": \"of letters\"}\n";
        dsde_with_stdin(&[&fixed[..], options].concat(), prompts).json_lines()
    };
    let tokens = |answers: &[Value]| answers.iter().map(|one| one["tokens"].clone()).collect::<Vec<_>>();
    let plain = answers(&["--draft", "none"]);
    for options in [&["--policy", "fixed:k=3"][..], &["--draft", "mtp", "--policy", "ddd"], &[]] {
        let got = answers(options);
        assert_eq!(tokens(&got), tokens(&plain), "{options:?}");
    }
    let drafted = |answers: &[Value]| answers.iter().filter_map(|one| one["drafted"].as_u64()).sum::<u64>();
    assert_eq!(drafted(&plain), 0);
    assert!(drafted(&answers(&["--policy", "fixed:k=3"])) > 0);
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
