//! `--draft` with an EAGLE-3 head for the embedded target: the same text as without, and refusals that say what to do.

use std::fs;
use std::path::Path;

use crate::common::{Run, dsde, dsde_with_stdin};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Sizes of the embedded target.
const VOCAB: usize = 4096;
const HIDDEN: usize = 256;
/// Tokens that the head guesses: the first.
const GUESSED: usize = 1024;
const INTERMEDIATE: usize = 128;

const PROMPTS: &str = r#"{"prompt": "Describe a river in three sentences."}
{"prompt": "Anna has 4 boxes of 12 pens. How many pens does she have?"}
"#;

/// A head whose weights nobody trained, in single precision.
fn head(changes: &Value) -> TempDir {
    let mut config = json!({
        "architectures": ["LlamaForCausalLMEagle3"], "hidden_size": HIDDEN, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": INTERMEDIATE,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "vocab_size": VOCAB, "draft_vocab_size": GUESSED,
    });
    config.as_object_mut().expect("an object").append(&mut changes.as_object().expect("an object").clone());
    let folder = tempfile::tempdir().expect("a scratch folder");
    fs::write(folder.path().join("config.json"), config.to_string()).expect("the configuration is written");
    let weights: [(&str, &[usize]); 13] = [
        ("fc.weight", &[HIDDEN, 3 * HIDDEN]),
        ("midlayer.input_layernorm.weight", &[HIDDEN]),
        ("midlayer.hidden_norm.weight", &[HIDDEN]),
        ("midlayer.post_attention_layernorm.weight", &[HIDDEN]),
        ("midlayer.self_attn.q_proj.weight", &[128, 2 * HIDDEN]),
        ("midlayer.self_attn.k_proj.weight", &[64, 2 * HIDDEN]),
        ("midlayer.self_attn.v_proj.weight", &[64, 2 * HIDDEN]),
        ("midlayer.self_attn.o_proj.weight", &[HIDDEN, 128]),
        ("midlayer.mlp.gate_proj.weight", &[INTERMEDIATE, HIDDEN]),
        ("midlayer.mlp.up_proj.weight", &[INTERMEDIATE, HIDDEN]),
        ("midlayer.mlp.down_proj.weight", &[HIDDEN, INTERMEDIATE]),
        ("norm.weight", &[HIDDEN]),
        ("lm_head.weight", &[GUESSED, HIDDEN]),
    ];
    let mut tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, shape) in weights {
        let n_elements: usize = shape.iter().product();
        let bytes = (0..n_elements as u64).flat_map(|i| weight(i).to_le_bytes()).collect();
        tensors.push((name, Dtype::F32, shape.to_vec(), bytes));
    }
    tensors.push(("d2t", Dtype::I64, vec![GUESSED], vec![0; 8 * GUESSED]));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    serialize_to_file(views, None, &folder.path().join("model.safetensors"))
        .expect("the weights are written");
    folder
}

/// Scattered over `-0.1..0.1`.
fn weight(i: u64) -> f32 {
    let word = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    0.1 * (word as f32 / (1 << 23) as f32 - 1.0)
}

/// Tokens of the answers to [`PROMPTS`], and how many were drafted.
fn answers(options: &[&str]) -> (Vec<Value>, u64) {
    let fixed = ["generate", "--file", "-", "--json", "--max-tokens", "48"];
    let answers = dsde_with_stdin(&[&fixed[..], options].concat(), PROMPTS).json_lines();
    let drafted = answers.iter().map(|answer| answer["drafted"].as_u64().expect("a count")).sum();
    (answers.into_iter().map(|answer| answer["tokens"].clone()).collect(), drafted)
}

fn inspect(draft: &Path, more: &[&str]) -> Run {
    dsde(&[&["inspect", "--draft", &draft.display().to_string()], more].concat())
}

#[test]
fn a_head_changes_no_text() {
    let head = head(&json!({}));
    let draft = head.path().display().to_string();
    let (plain, none) = answers(&["--draft", "none"]);
    assert_eq!(none, 0);
    for policy in ["fixed:k=3", "ddd", "auto", "nightjar"] {
        let (tokens, drafted) = answers(&["--draft", &draft, "--policy", policy]);
        assert_eq!(tokens, plain, "{policy}");
        assert!(drafted > 0 || policy == "auto" || policy == "nightjar", "{policy}");
    }
}

#[test]
fn inspect_tells_what_a_head_is() {
    let head = head(&json!({"norm_before_residual": true}));
    let text = inspect(head.path(), &[]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    for part in [
        "EAGLE-3 head, F32",
        "1 layer, hidden 256, 4 heads (2 key/value) of 32, feed-forward 128",
        "guesses 1024 of 4096 tokens, the model's embeddings",
        "reads the model's states after 2, 3 and 3 layers",
        "fits the model",
    ] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    let told = inspect(head.path(), &["--json"]).json_lines().remove(0);
    assert_eq!(told["draft"]["head"]["taps"], json!([2, 3, 3]));
    assert_eq!((&told["draft"]["compatible"], &told["draft"]["model"]), (&json!(true), &Value::Null));
    // Keys and values in bf16, and a feature of 256 numbers.
    assert_eq!(told["draft"]["head"]["kv_bytes_per_token"], json!(2 * 2 * 32 * 2 + 4 * HIDDEN));
}

#[test]
fn heads_that_do_not_fit_are_refused_with_what_to_do() {
    let other = head(&json!({"target_hidden_size": 512}));
    let told = inspect(other.path(), &[]);
    let misfit = "does not fit the model: this head reads states of 512 numbers, those of the model have 256; use the head \
                  of this very model";
    assert!(told.stdout.contains(misfit), "{}{}", told.stdout, told.stderr);
    let draft = other.path().display().to_string();
    let refused = dsde(&["generate", "--draft", &draft, "--prompt", "Hello."]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("this draft does not fit the model"), "{}", refused.stderr);

    let head = head(&json!({}));
    let model = head.path().display().to_string();
    let refused = dsde(&["generate", "--model", &model, "--prompt", "Hello."]);
    assert!(refused.stderr.contains("give it as the draft of the model"), "{}", refused.stderr);
    fs::rename(head.path().join("model.safetensors"), head.path().join("pytorch_model.bin"))
        .expect("a new name");
    let refused = dsde(&["generate", "--draft", &model, "--prompt", "Hello."]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("convert it with"), "{}", refused.stderr);
}
