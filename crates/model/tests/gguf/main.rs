//! GGUF files make the models that folders make: the fixtures, rewritten as converters of llama.cpp do, give the same logits.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../../checkpoint/tests/suite/gguf/writer.rs"]
#[allow(dead_code, reason = "broken files are the business of other tests")]
mod writer;

#[path = "../common/logits.rs"]
mod logits;

mod converted;
mod metadata;
mod names;

use std::path::Path;

use dsde_checkpoint::Checkpoint;
use dsde_kernels::{Backend, Cpu, Reference};

use converted::{Matrices, converted, is_norm};

const FAMILIES: [&str; 25] = [
    "llama2",
    "llama3",
    "llama_linear",
    "llama_yarn",
    "mistral",
    "mistral_window",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma4",
    "gemma4_shared",
    "gemma4_moe",
    "phi3",
    "smollm3",
    "granite",
    "glm4",
    "qwen3_moe",
    "mixtral",
    "olmoe",
    "gpt_oss",
    "gpt_oss_mxfp4",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_next",
];

/// More than one block of keys and values, and more than the original contexts of `llama3`, `llama_yarn` and `phi3`.
const PROMPT_LEN: u32 = 40;

/// Largest difference of a logit of models of which a file rounds numbers to f32: angles and scales differ in their last bits.
const FACTORS_TOLERANCE_F32: f32 = 1e-4;

/// As above where keys are rounded to bf16, here and there to the other side then.
const FACTORS_TOLERANCE_BF16: f32 = 0.01;

fn fixture(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    if name != "gemma2" {
        return Checkpoint::open(&folder).unwrap();
    }
    // No key of a file says how attention is scaled: it is by the size of a head.
    let copy = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace("\"query_pre_attn_scalar\": 12", "\"query_pre_attn_scalar\": 8");
    std::fs::write(copy.path().join("config.json"), config).unwrap();
    std::fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    Checkpoint::open(copy.path()).unwrap()
}

fn logits<B: Backend>(backend: &B, checkpoint: &Checkpoint) -> Vec<f32> {
    let prompt: Vec<u32> = (0..PROMPT_LEN).map(|i| (i * i + 3) % 48).collect();
    logits::logits(backend, checkpoint, &prompt)
}

/// * `tolerance`: where the rotary embedding or logits have factors, or heads another order; all other models are the same.
fn check<B: Backend>(backend: &B, tolerance: f32) {
    for family in FAMILIES {
        let folder = fixture(family);
        let file = converted(&folder, Matrices::Same);
        let (expected, got) = (logits(backend, &folder), logits(backend, &file));
        // Of the last ones sums over heads have another order.
        let is_rounded =
            matches!(family, "llama3" | "phi3" | "llama_yarn" | "granite" | "qwen3_5" | "qwen3_5_moe");
        if is_rounded {
            let max = expected.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(max < tolerance, "{family}: {max}");
        } else {
            assert_eq!(got, expected, "{family}");
        }
    }
}

#[test]
fn files_and_folders_give_the_same_logits() {
    check(&Reference, FACTORS_TOLERANCE_F32);
}

#[test]
fn files_and_folders_give_the_same_logits_on_the_processor() {
    check(&Cpu::new(2), FACTORS_TOLERANCE_BF16);
}

#[test]
fn the_head_of_a_file_is_that_of_the_folder() {
    for family in ["qwen3_5", "qwen3_5_moe", "qwen3_next"] {
        let folder = fixture(family);
        let file = converted(&folder, Matrices::Same);
        let [expected, got] = [&folder, &file].map(|model| model.mtp().unwrap().unwrap());
        assert_eq!(got.config().layers, expected.config().layers, "{family}");
        let (expected, got) = (expected.weights(), got.weights());
        let names = |weights: &Checkpoint| {
            weights.tensor_names().map(str::to_string).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(got), names(expected), "{family}");
        for name in names(expected) {
            let width = expected.stored(&name).unwrap().shape[0];
            match is_norm(&name) {
                true => assert_eq!(
                    got.norm(&name, width).unwrap(),
                    expected.norm(&name, width).unwrap(),
                    "{name}"
                ),
                false => assert_eq!(
                    got.stored(&name).unwrap().bytes,
                    expected.stored(&name).unwrap().bytes,
                    "{name}"
                ),
            }
        }
    }
}

#[test]
fn files_of_the_first_weeks_of_qwen3_next_are_read() {
    let folder = fixture("qwen3_next");
    let file = converted(&folder, Matrices::Fused);
    assert!(file.has_tensor("model.layers.0.linear_attn.in_proj_qkvz.weight"));
    assert_eq!(logits(&Reference, &file), logits(&Reference, &folder));
}

#[test]
fn quantised_matrices_are_those_of_their_widened_elements() {
    // Rows of the others are no whole blocks.
    for family in ["llama2", "llama3", "llama_linear", "mistral", "qwen2", "qwen3", "phi3"] {
        let folder = fixture(family);
        let [quantised, widened] =
            [Matrices::Q8_0, Matrices::WidenedQ8_0].map(|matrices| converted(&folder, matrices));
        assert!(quantised.weight_bytes() < widened.weight_bytes() / 2, "{family}");
        assert_eq!(logits(&Reference, &quantised), logits(&Reference, &widened), "{family}");
    }
}
