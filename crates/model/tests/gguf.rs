//! GGUF files make the models that folders make: the fixtures, rewritten as converters of llama.cpp do, give the same logits.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../checkpoint/tests/gguf/writer.rs"]
#[allow(dead_code, reason = "broken files are the business of other tests")]
mod writer;

use std::f64::consts::TAU;
use std::path::Path;

use dsde_checkpoint::config::{Family, ModelConfig, RopeScaling};
use dsde_checkpoint::{Checkpoint, Dtype};
use dsde_engine::{BlockId, RowBatch};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::Llama;
use dsde_model::llama::kv_shape;
use dsde_sampling::Proposal;
use writer::{Writer, f32s};

const FAMILIES: [&str; 6] = ["llama2", "llama3", "llama_linear", "mistral", "qwen2", "qwen3"];
/// More than one block of keys and values, and more than the original context of `llama3`.
const PROMPT_LEN: u32 = 40;
/// Largest difference of a logit of `llama3`, whose factors are rounded to f32 in the file: angles differ in their last bits.
const FACTORS_TOLERANCE_F32: f32 = 1e-4;
/// As above where keys are rounded to bf16, here and there to the other side then.
const FACTORS_TOLERANCE_BF16: f32 = 0.01;

fn fixture(name: &str) -> Checkpoint {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    Checkpoint::open(&fixtures.join(name)).unwrap()
}

fn logits<B: Backend>(backend: &B, checkpoint: &Checkpoint) -> Vec<f32> {
    let mut model = Llama::load(backend, checkpoint, PROMPT_LEN).unwrap();
    let n_blocks = PROMPT_LEN.div_ceil(backend.block_len() as u32);
    let table: Vec<_> = (0..n_blocks).map(BlockId).collect();
    let mut kv = backend.kv_store(kv_shape(model.config(), table.len()));
    let prompt: Vec<u32> = (0..PROMPT_LEN).map(|i| (i * i + 3) % 128).collect();
    let mut rows = RowBatch::default();
    rows.push(0, &prompt, &Proposal::new(), &table);
    let outputs: Vec<u32> = (0..PROMPT_LEN).collect();
    model.forward(backend, &rows, &outputs, &mut kv);
    model.logits(backend, 0..prompt.len()).to_vec()
}

/// How the matrices of a file are stored.
#[derive(Clone, Copy)]
enum Matrices {
    /// As in the folder.
    Same,
    Q8_0,
    /// What Q8_0 makes of them, in f32.
    WidenedQ8_0,
}

/// The model of a folder as a GGUF file.
fn converted(folder: &Checkpoint, matrices: Matrices) -> Checkpoint {
    let mut writer = Writer::default();
    write_metadata(&mut writer, folder.config());
    for name in folder.tensor_names() {
        let tensor = folder.stored(name).unwrap();
        let mut bytes = tensor.bytes.to_vec();
        let row_bytes = tensor.bytes.len() / tensor.shape[0];
        let is_llama = matches!(folder.config().family, Family::Llama | Family::Mistral);
        if is_llama && (name.contains("q_proj") || name.contains("k_proj")) {
            bytes = neighbours(&bytes, row_bytes, folder.config().head_dim);
        }
        let (mut dtype, shape) = (tensor.dtype, tensor.shape);
        if let (Matrices::Q8_0 | Matrices::WidenedQ8_0, [_, _]) = (matrices, shape) {
            let mut values = vec![0.0; shape.iter().product()];
            dtype.widen(&bytes, &mut values);
            (dtype, bytes) = (Dtype::Q8_0, q8_0(&values));
        }
        if matches!(matrices, Matrices::WidenedQ8_0) && dtype == Dtype::Q8_0 {
            let mut values = vec![0.0; shape.iter().product()];
            dtype.widen(&bytes, &mut values);
            (dtype, bytes) = (Dtype::F32, f32s(values));
        }
        writer.tensor(&gguf_name(name), shape, type_id(dtype), bytes);
    }
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), writer.bytes()).unwrap();
    Checkpoint::open(file.path()).unwrap()
}

fn write_metadata(writer: &mut Writer, config: &ModelConfig) {
    let architecture = match config.family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    };
    let key = |name: &str| format!("{architecture}.{name}");
    writer
        .text("general.architecture", architecture)
        .u32(&key("block_count"), config.n_layers as u32)
        .u32(&key("context_length"), config.context_len_max)
        .u32(&key("embedding_length"), config.hidden as u32)
        .u32(&key("feed_forward_length"), config.intermediate as u32)
        .u32(&key("attention.head_count"), config.n_heads as u32)
        .u32(&key("attention.head_count_kv"), config.n_kv_heads as u32)
        .u32(&key("attention.key_length"), config.head_dim as u32)
        .u32(&key("attention.value_length"), config.head_dim as u32)
        .u32(&key("rope.dimension_count"), config.head_dim as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.rms_eps)
        .f32(&key("rope.freq_base"), config.rope.theta as f32);
    match config.rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            writer.text(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), factor as f32);
        }
        RopeScaling::Llama3 { .. } => {
            let factors = f32s(llama3_factors(config));
            writer.tensor("rope_freqs.weight", &[config.head_dim / 2], type_id(Dtype::F32), factors);
        }
        RopeScaling::Factors(_) => unreachable!("folders have none"),
    }
}

/// Divisors of the frequencies, as converters compute them from wavelengths.
fn llama3_factors(config: &ModelConfig) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } =
        config.rope.scaling
    else {
        unreachable!("the caller has matched it");
    };
    let context_len = f64::from(original_context_len);
    let factor_of = |i: usize| {
        let wavelength = TAU * config.rope.theta.powf(2.0 * i as f64 / config.head_dim as f64);
        if wavelength < context_len / high_freq_factor {
            1.0
        } else if wavelength > context_len / low_freq_factor {
            factor
        } else {
            let smooth = (context_len / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..config.head_dim / 2).map(|i| factor_of(i) as f32).collect()
}

/// Rows `i` and `i + head_dim / 2` of each head as neighbours.
fn neighbours(rows: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let heads = rows.chunks_exact(head_dim * row_bytes);
    let turned = heads.flat_map(|head| {
        let (front, back) = head.split_at(head.len() / 2);
        front.chunks_exact(row_bytes).zip(back.chunks_exact(row_bytes)).flat_map(|(a, b)| [a, b].concat())
    });
    turned.collect()
}

fn q8_0(values: &[f32]) -> Vec<u8> {
    let blocks = values.as_chunks::<32>().0.iter();
    let quantised = blocks.flat_map(|block| {
        let scale = half::f16::from_f32(block.iter().fold(0.0, |max: f32, x| max.max(x.abs())) / 127.0);
        let codes = block.map(|x| (x / scale.to_f32()).round().clamp(-127.0, 127.0) as i8 as u8);
        [&scale.to_le_bytes()[..], &codes].concat()
    });
    quantised.collect()
}

fn type_id(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Q8_0 => 8,
        Dtype::Bf16 => 30,
        other => unreachable!("no fixture has {other:?}"),
    }
}

fn gguf_name(name: &str) -> String {
    let replaced = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    replaced.iter().fold(name.to_string(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// * `tolerance`: where the rotary embedding has factors; all other models are the same.
fn check<B: Backend>(backend: &B, tolerance: f32) {
    for family in FAMILIES {
        let folder = fixture(family);
        let file = converted(&folder, Matrices::Same);
        let (expected, got) = (logits(backend, &folder), logits(backend, &file));
        if matches!(folder.config().rope.scaling, RopeScaling::Llama3 { .. }) {
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
fn quantised_matrices_are_those_of_their_widened_elements() {
    for family in FAMILIES {
        let folder = fixture(family);
        let [quantised, widened] =
            [Matrices::Q8_0, Matrices::WidenedQ8_0].map(|matrices| converted(&folder, matrices));
        assert!(quantised.weight_bytes() < widened.weight_bytes() / 3, "{family}");
        assert_eq!(logits(&Reference, &quantised), logits(&Reference, &widened), "{family}");
    }
}
