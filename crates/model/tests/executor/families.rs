//! Logits of every family against Hugging Face transformers (see `tests/fixtures/README.md`).

use dsde_kernels::{Backend, Cpu, Reference};
use safetensors::SafeTensors;

use crate::logits::logits;
use crate::pair::{fixture, open};

const FAMILIES: [&str; 27] = [
    "llama2",
    "llama3",
    "llama_linear",
    "llama_yarn",
    "mistral",
    "mistral_window",
    "qwen2",
    "qwen2_window",
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
    "qwen3_moe_mixed",
    "mixtral",
    "olmoe",
    "gpt_oss",
    "gpt_oss_mxfp4",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_next",
];

/// Root mean square error over that of the logits: another order of f32 sums. Two implementations inside
/// transformers differ by up to 1e-5.
const TOLERANCE_F32: f64 = 1e-5;

/// As above with activations, keys and values rounded to bf16 before every product: each rounding is off by 2^-9 / sqrt(3) =
/// 0.0011 relative, a logit depends on roughly six in a row per layer, in 3 layers at most: 0.0011 * sqrt(18) = 0.005, times 4
/// for scores of attention, where a large value's absolute error is amplified by the exponential.
const TOLERANCE_BF16: f64 = 0.02;

/// As above where scores amplify more: transformers with those roundings alone is off by 0.026 of `phi3` and by 0.038 of
/// `gemma4_shared`.
const TOLERANCE_AMPLIFIED: f64 = 0.05;

/// As above where experts in MXFP4 meet activations that are rounded to 8 bits per 32: transformers with that rounding alone is off
/// by 0.025.
const TOLERANCE_BYTES: f64 = 0.05;

/// Largest error among some thousand logits, in root mean squares; a normal distribution would reach 4.
const OUTLIER_MAX: f64 = 10.0;

/// A prompt and the logits at each of its positions.
fn golden(family: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(fixture(family).join("logits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name| file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    (values.map(|value| value * value).sum::<f64>() / n).sqrt()
}

fn check<B: Backend>(backend: &B, tolerance: impl Fn(&str) -> f64) {
    for family in FAMILIES {
        let tolerance = tolerance(family);
        let (tokens, expected) = golden(family);
        let got = logits(backend, &open(family), &tokens);
        assert_eq!(got.len(), expected.len(), "{family}");
        let errors: Vec<f64> = got.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).collect();
        let unit = root_mean_square(expected.iter().copied().map(f64::from));
        let rms = root_mean_square(errors.iter().copied()) / unit;
        let max = errors.iter().copied().fold(0.0, f64::max) / unit;
        assert!(rms < tolerance, "{family}: error {rms}, {}", backend.describe());
        assert!(max < OUTLIER_MAX * tolerance, "{family}: largest error {max}, {}", backend.describe());
    }
}

#[test]
fn reference_logits_are_those_of_transformers() {
    check(&Reference, |_| TOLERANCE_F32);
}

#[test]
fn cpu_logits_are_those_of_transformers_within_bf16() {
    let tolerance = |family: &str| match family {
        "gpt_oss_mxfp4" => TOLERANCE_BYTES,
        "phi3" | "gemma4_shared" => TOLERANCE_AMPLIFIED,
        _ => TOLERANCE_BF16,
    };
    check(&Cpu::new(2), tolerance);
}
