//! `--draft` with a model of another vocabulary: the same text as without, and what is told and refused.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{dsde, dsde_with_stdin};

/// Tokens of the embedded pair, of which the last 3837 are merged ones.
const VOCAB: usize = 4096;
const MERGES: usize = 3837;
const EMBEDDINGS: &str = "model.embed_tokens.weight";

const PROMPTS: &str = r#"{"prompt": "Describe a river in three sentences."}
{"prompt": "Anna has 4 boxes of 12 pens. How many pens does she have?"}
"#;

/// The embedded draft with all ids in reverse, without the last `n_lost` of its merges, and with another end of a turn.
fn draft(n_lost: usize) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/draft");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("the scratch folder is writable");
    };
    let read = |name: &str| fs::read_to_string(from.join(name)).expect("model files are readable");
    let other_end = |name: &str| read(name).replace("<|im_end|>", "<end>");
    write("tokenizer_config.json", &other_end("tokenizer_config.json"));
    let mut config: Value = serde_json::from_str(&read("config.json")).expect("JSON");
    config["eos_token_id"] = json!(VOCAB - 1 - 2);
    write("config.json", &config.to_string());
    let tokenizer = serde_json::from_str(&other_end("tokenizer.json")).expect("JSON");
    write("tokenizer.json", &reversed(tokenizer, n_lost).to_string());

    let file = fs::read(from.join("model.safetensors")).expect("model files are readable");
    let tensors = SafeTensors::deserialize(&file).expect("tensors");
    let table = tensors.tensor(EMBEDDINGS).expect("embeddings");
    let rows: Vec<u8> =
        table.data().chunks_exact(table.data().len() / VOCAB).rev().flatten().copied().collect();
    let table = TensorView::new(table.dtype(), table.shape().to_vec(), &rows).expect("a tensor");
    let tensors = tensors.tensors().into_iter().map(|(name, tensor)| match name.as_str() {
        EMBEDDINGS => (name, table.clone()),
        _ => (name, tensor),
    });
    serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).expect("weights are written");
    folder
}

fn reversed(mut tokenizer: Value, n_lost: usize) -> Value {
    let merges = tokenizer["model"]["merges"].as_array_mut().expect("a list");
    assert_eq!(merges.len(), MERGES);
    merges.truncate(MERGES - n_lost);
    let vocabulary = tokenizer["model"]["vocab"].as_object().expect("an object");
    let entry = |(text, id): (&String, &Value)| match id.as_u64().expect("an id") as usize {
        id if id < VOCAB - n_lost => (text.clone(), json!(VOCAB - 1 - id)),
        // Of no text.
        id => (format!("¤{id}¤"), json!(VOCAB - 1 - id)),
    };
    tokenizer["model"]["vocab"] = vocabulary.iter().map(entry).collect();
    for token in tokenizer["added_tokens"].as_array_mut().expect("a list") {
        token["id"] = json!(VOCAB - 1 - token["id"].as_u64().expect("an id") as usize);
    }
    tokenizer
}

/// Tokens of the answers to [`PROMPTS`], and how many drafted ones were accepted.
fn answers(options: &[&str]) -> (Vec<Value>, u64) {
    let fixed = ["generate", "--file", "-", "--json", "--max-tokens", "48"];
    let answers = dsde_with_stdin(&[&fixed[..], options].concat(), PROMPTS).json_lines();
    let accepted = answers.iter().map(|answer| answer["accepted"].as_u64().expect("a count")).sum();
    (answers.into_iter().map(|answer| answer["tokens"].clone()).collect(), accepted)
}

#[test]
fn a_draft_with_another_vocabulary_changes_no_text() {
    let folder = draft(500);
    let draft = folder.path().display().to_string();
    let (plain, _) = answers(&["--draft", "none"]);
    for policy in ["fixed:k=3", "ddd", "nightjar", "faser:overlap=3", "auto"] {
        let (tokens, accepted) = answers(&["--draft", &draft, "--policy", policy]);
        assert_eq!(tokens, plain, "{policy}");
        assert!(accepted > 0 || policy == "auto" || policy == "nightjar", "{policy}");
    }
}

/// Made for SmolLM2-135M-Instruct, which is no part of the repository: here it guesses for a stranger.
#[test]
fn the_small_draft_of_a_real_model_is_read_and_changes_no_text() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/smollm2-135m-instruct-draft");
    let draft = models.join("draft-Q8_0.gguf").display().to_string();
    let told = dsde(&["inspect", "--draft", &draft, "--json"]).json_lines().remove(0);
    let n_parameters = told["draft"]["model"]["parameters"].as_u64().expect("a count");
    let page = fs::read_to_string(models.join("README.md")).expect("the draft has a page");
    assert!(page.replace(' ', "").contains(&n_parameters.to_string()), "its page must state {n_parameters}");
    let (plain, _) = answers(&["--draft", "none"]);
    let (tokens, accepted) = answers(&["--draft", &draft, "--policy", "fixed:k=3"]);
    assert_eq!(tokens, plain);
    assert!(accepted > 0);
}

#[test]
fn how_much_two_vocabularies_share_is_told() {
    let folder = draft(500);
    let draft = folder.path().display().to_string();
    let told = dsde(&["inspect", "--draft", &draft]);
    // All but 500, the ends of a turn among them.
    let shared = "another vocabulary, with 3596 of the model's tokens: 88 % of them, 88 % of its own";
    assert!(told.stdout.contains(shared) && told.stdout.contains("fits the model"), "{}", told.stdout);
    let told = dsde(&["inspect", "--draft", &draft, "--json"]).json_lines().remove(0);
    assert_eq!(told["draft"]["shared_tokens"], 3596);
    assert_eq!(dsde(&["inspect", "--json"]).json_lines()[0]["draft"]["shared_tokens"], Value::Null);
    let run = dsde(&["generate", "--prompt", "Hello.", "--max-tokens", "4", "--draft", &draft]);
    assert!(run.stderr.contains("it guesses the 3596 of 4096 tokens that both have"), "{}", run.stderr);
}

#[test]
fn a_draft_that_shares_hardly_a_word_is_refused() {
    let folder = draft(MERGES);
    let draft = folder.path().display().to_string();
    let reason = "draft and target must share 64 tokens of more than one byte, got 0";
    let refused = dsde(&["generate", "--prompt", "Hello.", "--draft", &draft]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    for part in ["this draft does not fit the model", reason] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let told = dsde(&["inspect", "--draft", &draft, "--json"]).json_lines().remove(0);
    assert_eq!(told["draft"]["compatible"], false);
    assert!(told["draft"]["reason"].as_str().is_some_and(|got| got.contains(reason)));
}
