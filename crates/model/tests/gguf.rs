//! GGUF files make the models that folders make: the fixtures, rewritten as converters of llama.cpp do, give the same logits.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../checkpoint/tests/suite/gguf/writer.rs"]
#[allow(dead_code, reason = "broken files are the business of other tests")]
mod writer;

use std::f64::consts::TAU;
use std::path::Path;

use dsde_checkpoint::config::{DeltaShape, Family, ModelConfig, RopeScaling};
use dsde_checkpoint::{Checkpoint, Dense, Dtype};
use dsde_engine::{BlockId, RowBatch, StateSlot, StateUse};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::Llama;
use dsde_model::llama::kv_shape;
use dsde_sampling::Proposal;
use writer::{FLAG, I32, Writer, f32s};

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
    let mut model = Llama::load(backend, checkpoint, PROMPT_LEN).unwrap().with_states(backend, 1);
    let n_blocks = PROMPT_LEN.div_ceil(backend.block_len() as u32);
    let table: Vec<_> = (0..n_blocks).map(BlockId).collect();
    let mut kv = backend.kv_store(&kv_shape(model.config(), table.len()));
    let prompt: Vec<u32> = (0..PROMPT_LEN).map(|i| (i * i + 3) % 48).collect();
    let mut rows = RowBatch::default();
    rows.push(0, &prompt, &Proposal::new(), &table);
    rows.states.push(StateUse { slot: StateSlot(0), n_known: PROMPT_LEN, from: None, to: None });
    let outputs: Vec<u32> = (0..PROMPT_LEN).collect();
    model.forward(backend, &rows, &outputs, &mut kv);
    model.logits(backend, 0..prompt.len()).to_vec()
}

/// How the matrices of a file are stored.
#[derive(Clone, Copy)]
enum Matrices {
    /// As in the folder, but one for queries, keys and values of delta layers, and one for their gates.
    Same,
    /// As in the folder.
    Fused,
    Q8_0,
    /// What Q8_0 makes of them, in f32.
    WidenedQ8_0,
}

/// The model of a folder as a GGUF file.
fn converted(folder: &Checkpoint, matrices: Matrices) -> Checkpoint {
    let mut writer = Writer::default();
    write_metadata(&mut writer, folder.config(), folder.has_mtp());
    for name in folder.tensor_names().filter(|name| !name.contains(".experts.")) {
        if let Some(layer) = fused_layer(name).filter(|_| !matches!(matrices, Matrices::Fused)) {
            let projections = folder.delta_projections(layer).unwrap();
            let [qkv, ..] = projections.inputs();
            for (module, matrix) in [("attn_qkv", qkv), ("attn_gate", projections.gates())] {
                let (name, shape) = (format!("blk.{layer}.{module}.weight"), [matrix.n_out, matrix.n_in]);
                writer.tensor(&name, &shape, type_id(matrix.dtype), matrix.bytes.to_vec());
            }
            continue;
        }
        let Some(parts) = parts(folder.config().family, name) else { continue };
        let bytes: Vec<u8> = parts.iter().flat_map(|part| file_bytes(folder, part)).collect();
        let first = folder.stored(name).unwrap();
        let n_rows = parts.iter().map(|part| folder.stored(part).unwrap().shape[0]).sum();
        let mut shape = [&[n_rows], &first.shape[1..]].concat();
        if name.contains("conv1d") || name.contains("shared_expert_gate") {
            shape.retain(|&len| len != 1);
        }
        let (dtype, bytes) = stored_as(matrices, first.dtype, &shape, bytes);
        writer.tensor(&gguf_name(folder.config(), name), &shape, type_id(dtype), bytes);
    }
    let head = folder.mtp().unwrap();
    let head = head.iter().flat_map(|head| all_experts(head.weights(), folder.config().n_layers));
    for (name, shape, dtype, bytes) in all_experts(folder, 0).into_iter().chain(head) {
        let (dtype, bytes) = stored_as(matrices, dtype, &shape, bytes);
        writer.tensor(&name, &shape, type_id(dtype), bytes);
    }
    for (name, shape, values) in all_biases(folder) {
        writer.tensor(&name, &shape, type_id(Dtype::F32), f32s(values));
    }
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), writer.bytes()).unwrap();
    Checkpoint::open(file.path()).unwrap()
}

/// Tensors that hold a part of all experts of a layer: name, shape, type and bytes.
///
/// * `first`: number of the first layer in the file.
fn all_experts(folder: &Checkpoint, first: usize) -> Vec<(String, Vec<usize>, Dtype, Vec<u8>)> {
    let config = folder.config();
    let mut tensors = Vec::new();
    for layer in 0..config.n_layers {
        if config.experts_of(layer).is_none() {
            continue;
        }
        let stored = folder.experts(layer).unwrap();
        let experts: Vec<_> = stored.iter().collect();
        let n_experts = experts.len();
        let gates: Vec<Dense<'_>> = experts.iter().map(|expert| expert.gate).collect();
        let ups: Vec<Dense<'_>> = experts.iter().map(|expert| expert.up).collect();
        let downs: Vec<Dense<'_>> = experts.iter().map(|expert| expert.down).collect();
        let name = |part: &str| format!("blk.{}.ffn_{part}_exps.weight", first + layer);
        let mut parts = vec![("down", vec![downs])];
        match config.family {
            // As its converter leaves them.
            Family::Gemma4 => parts.push(("gate_up", vec![gates, ups])),
            _ => parts.extend([("gate", vec![gates]), ("up", vec![ups])]),
        }
        for (part, matrices) in parts {
            let Dense { n_out, n_in, dtype, .. } = matrices[0][0];
            let of_expert = |expert: usize| matrices.iter().flat_map(move |part| part[expert].bytes.to_vec());
            let bytes = (0..n_experts).flat_map(of_expert).collect();
            tensors.push((name(part), vec![n_experts, matrices.len() * n_out, n_in], dtype, bytes));
        }
    }
    tensors
}

/// Tensors that hold the biases of all experts of a layer: name, shape and values.
fn all_biases(folder: &Checkpoint) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let config = folder.config();
    let layers = (0..config.n_layers).filter(|&layer| config.experts_of(layer).is_some());
    let biases = layers.filter_map(|layer| Some((layer, folder.experts(layer).unwrap().bias?)));
    let biases = biases.flat_map(|(layer, bias)| {
        let experts = config.experts_of(layer).unwrap();
        let parts = bias.gate_up.chunks_exact(experts.intermediate);
        let [gate, up] =
            [0, 1].map(|first| parts.clone().skip(first).step_by(2).flatten().copied().collect());
        [("gate", gate), ("up", up), ("down", bias.down)].map(|(part, values): (_, Vec<f32>)| {
            let shape = vec![experts.n_experts, values.len() / experts.n_experts];
            (format!("blk.{layer}.ffn_{part}_exps.bias"), shape, values)
        })
    });
    biases.collect()
}

/// The layer of a tensor that holds queries, keys, values and gates of a delta layer.
fn fused_layer(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("model.layers.")?.strip_suffix(".linear_attn.in_proj_qkvz.weight")?;
    rest.parse().ok()
}

/// Tensors that are one with `name` in files of the family; `None` where another name stands for them all.
fn parts(family: Family, name: &str) -> Option<Vec<String>> {
    let fused: &[&[&str]] = match family {
        Family::Phi3 => &[&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"]],
        Family::Glm4 => &[&["gate_proj", "up_proj"]],
        _ => &[],
    };
    let found = fused.iter().find_map(|modules| {
        let module = modules.iter().find(|module| name.contains(*module))?;
        let all = modules.iter().map(|other| name.replace(module, other)).collect();
        Some((module == &modules[0], all))
    });
    match found {
        Some((is_first, all)) => is_first.then_some(all),
        None => Some(vec![name.to_string()]),
    }
}

/// A tensor as converters write it.
fn file_bytes(folder: &Checkpoint, name: &str) -> Vec<u8> {
    let config = folder.config();
    let tensor = folder.stored(name).unwrap();
    let is_turned = matches!(
        config.family,
        Family::Llama | Family::Mistral | Family::Mixtral | Family::SmolLm3 | Family::Granite
    );
    if is_turned && (name.contains("q_proj") || name.contains("k_proj")) {
        return neighbours(tensor.bytes, tensor.bytes.len() / tensor.shape[0], config.head_dim);
    }
    if let Some(delta) = config.delta.filter(|_| name.contains("linear_attn")) {
        return delta_bytes(folder, delta, name);
    }
    if config.norm_offset != 0.0 && is_norm(name) {
        let values: Vec<f32> = tensor.to_f32().iter().map(|weight| weight + config.norm_offset).collect();
        return match tensor.dtype {
            Dtype::Bf16 => f32s(values),
            other => unreachable!("no such fixture has {other:?}"),
        };
    }
    tensor.bytes.to_vec()
}

fn is_norm(name: &str) -> bool {
    name.ends_with("norm.weight") || name.starts_with("mtp.pre_fc_norm")
}

/// A tensor of a delta layer: rates as they are, and but for Qwen3-Next heads of values that share one of keys as far apart as
/// there are of these.
fn delta_bytes(folder: &Checkpoint, delta: DeltaShape, name: &str) -> Vec<u8> {
    let tensor = folder.stored(name).unwrap();
    let element_bytes = tensor.bytes.len() / tensor.shape.iter().product::<usize>();
    let row_bytes = tensor.bytes.len() / tensor.shape[0];
    let is_tiled = folder.config().family != Family::Qwen3Next;
    let tiled = |bytes: &[u8], head_bytes: usize| {
        if !is_tiled {
            return bytes.to_vec();
        }
        let (ratio, heads) = (delta.n_value_heads / delta.n_key_heads, bytes.chunks_exact(head_bytes));
        let heads: Vec<&[u8]> = heads.collect();
        let order = (0..ratio).flat_map(|i| (0..delta.n_key_heads).map(move |key| key * ratio + i));
        order.flat_map(|head| heads[head].to_vec()).collect::<Vec<u8>>()
    };
    let before_values = 2 * delta.n_key_heads * delta.key_dim * row_bytes;
    match name.rsplit_once("linear_attn.").unwrap().1 {
        "A_log" => {
            let rates = f32s(tensor.to_f32().into_iter().map(|log| -log.exp()));
            tiled(&rates, size_of::<f32>())
        }
        "dt_bias" => tiled(tensor.bytes, element_bytes),
        "in_proj_qkv.weight" | "conv1d.weight" => {
            let (rest, values) = tensor.bytes.split_at(before_values);
            [rest, &tiled(values, delta.value_dim * row_bytes)].concat()
        }
        "in_proj_z.weight" => tiled(tensor.bytes, delta.value_dim * row_bytes),
        "in_proj_a.weight" | "in_proj_b.weight" => tiled(tensor.bytes, row_bytes),
        "out_proj.weight" => {
            let rows = tensor.bytes.chunks_exact(row_bytes);
            rows.flat_map(|row| tiled(row, delta.value_dim * element_bytes)).collect()
        }
        _ => tensor.bytes.to_vec(),
    }
}

/// Elements of a tensor in the type that they get; those of norms that were added to are in f32.
fn stored_as(matrices: Matrices, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> (Dtype, Vec<u8>) {
    let len: usize = shape.iter().product();
    let dtype = if bytes.len() == len * size_of::<f32>() { Dtype::F32 } else { dtype };
    let widened = |dtype: Dtype, bytes: &[u8]| {
        let mut values = vec![0.0; len];
        dtype.widen(bytes, &mut values);
        values
    };
    let is_whole = shape.last().is_some_and(|n_in| n_in.is_multiple_of(32));
    match (matrices, shape) {
        (Matrices::Q8_0, [_, _] | [_, _, _]) if is_whole => (Dtype::Q8_0, q8_0(&widened(dtype, &bytes))),
        (Matrices::WidenedQ8_0, [_, _] | [_, _, _]) if is_whole => {
            (Dtype::F32, f32s(widened(Dtype::Q8_0, &q8_0(&widened(dtype, &bytes)))))
        }
        _ => (dtype, bytes),
    }
}

fn write_metadata(writer: &mut Writer, config: &ModelConfig, has_mtp: bool) {
    let architecture = match config.family {
        Family::Llama | Family::Mistral | Family::Mixtral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3",
        Family::Gemma4 => "gemma4",
        Family::Phi3 => "phi3",
        Family::SmolLm3 => "smollm3",
        Family::Granite => "granite",
        Family::Glm4 => "glm4",
        Family::Qwen3Moe => "qwen3moe",
        Family::Olmoe => "olmoe",
        Family::GptOss => "gpt-oss",
        Family::Qwen3_5 => "qwen35",
        Family::Qwen3_5Moe => "qwen35moe",
        Family::Qwen3Next => "qwen3next",
    };
    let rope = &config.ropes[0];
    let key = |name: &str| format!("{architecture}.{name}");
    writer
        .text("general.architecture", architecture)
        .u32(&key("block_count"), config.n_layers as u32 + u32::from(has_mtp))
        .u32(&key("context_length"), config.context_len_max)
        .u32(&key("embedding_length"), config.hidden as u32)
        .u32(&key("feed_forward_length"), config.intermediate as u32)
        .u32(&key("attention.head_count"), config.n_heads as u32)
        .u32(&key("attention.head_count_kv"), config.n_kv_heads as u32)
        .u32(&key("attention.key_length"), config.head_dim as u32)
        .u32(&key("attention.value_length"), config.head_dim as u32)
        .u32(&key("rope.dimension_count"), rope.rotary_dim as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.rms_eps)
        .f32(&key("rope.freq_base"), rope.theta as f32);
    if has_mtp {
        writer.u32(&key("nextn_predict_layers"), 1);
    }
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        writer.u32(&key("attention.sliding_window"), window);
    }
    if let Some(experts) = &config.experts {
        writer
            .u32(&key("expert_count"), experts.n_experts as u32)
            .u32(&key("expert_used_count"), experts.n_chosen as u32)
            .u32(&key("expert_feed_forward_length"), experts.intermediate as u32);
        if let Some(shared) = experts.shared {
            writer.u32(&key("expert_shared_feed_forward_length"), shared as u32);
        }
    }
    if let Some(delta) = &config.delta {
        writer
            .u32(&key("ssm.conv_kernel"), delta.conv_len as u32)
            .u32(&key("ssm.state_size"), delta.key_dim as u32)
            .u32(&key("ssm.group_count"), delta.n_key_heads as u32)
            .u32(&key("ssm.time_step_rank"), delta.n_value_heads as u32)
            .u32(&key("ssm.inner_size"), delta.values_width() as u32)
            .u32(&key("full_attention_interval"), 4);
    }
    write_own_metadata(writer, config, key);
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            writer.text(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), *factor as f32);
        }
        RopeScaling::Llama3 { .. } => {
            let factors = f32s(llama3_factors(config));
            writer.tensor("rope_freqs.weight", &[config.head_dim / 2], type_id(Dtype::F32), factors);
        }
        RopeScaling::Yarn { factor, original_context_len, .. } => {
            writer
                .text(&key("rope.scaling.type"), "yarn")
                .f32(&key("rope.scaling.factor"), *factor as f32)
                .u32(&key("rope.scaling.original_context_length"), *original_context_len);
        }
        RopeScaling::LongRope { short, long, original_context_len, attention_factor } => {
            writer
                .u32(&key("rope.scaling.original_context_length"), *original_context_len)
                .f32(&key("rope.scaling.attn_factor"), *attention_factor as f32);
            for (name, factors) in [("short", short), ("long", long)] {
                let name = format!("rope_factors_{name}.weight");
                writer.tensor(&name, &[factors.len()], type_id(Dtype::F32), f32s(factors.clone()));
            }
        }
        RopeScaling::Factors(_) | RopeScaling::Dynamic { .. } => unreachable!("no fixture has them"),
    }
}

/// Keys that one family has.
fn write_own_metadata(writer: &mut Writer, config: &ModelConfig, key: impl Fn(&str) -> String) {
    match config.family {
        Family::Gemma2 => {
            writer
                .f32(&key("attn_logit_softcapping"), config.attention_soft_cap.unwrap())
                .f32(&key("final_logit_softcapping"), config.logit_soft_cap.unwrap());
        }
        Family::Gemma3 => {
            writer
                .u32(&key("attention.sliding_window_pattern"), 3)
                .f32(&key("rope.freq_base_swa"), config.ropes[1].theta as f32);
        }
        Family::Gemma4 => write_gemma4_metadata(writer, config, key),
        Family::Granite => {
            writer
                .f32(&key("embedding_scale"), config.embedding_scale)
                .f32(&key("residual_scale"), config.residual_scale)
                .f32(&key("attention.scale"), config.attention_scale)
                .f32(&key("logit_scale"), 1.0 / config.logit_scale);
        }
        Family::Qwen3_5Moe | Family::Qwen3Next => {
            let is_delta: Vec<u8> = config.layers.iter().map(|layer| u8::from(layer.is_delta)).collect();
            writer.array(&key("attention.recurrent_layers"), FLAG, is_delta.len() as u64, is_delta);
        }
        _ => {}
    }
}

/// Sizes that differ between layers, one number per layer, and divisors with which some pairs do not turn.
fn write_gemma4_metadata(writer: &mut Writer, config: &ModelConfig, key: impl Fn(&str) -> String) {
    let n_layers = config.n_layers;
    let mut array = |name: &str, type_id, elements: Vec<u8>| {
        writer.array(&key(name), type_id, n_layers as u64, elements);
    };
    let numbers = |number: &dyn Fn(usize) -> usize| -> Vec<u8> {
        (0..n_layers).flat_map(|layer| (number(layer) as i32).to_le_bytes()).collect()
    };
    array("attention.head_count_kv", I32, numbers(&|layer| config.kv_heads_of(layer).n_kv_heads));
    array("feed_forward_length", I32, numbers(&|layer| config.intermediate_of(layer)));
    let slide = config.layers.iter().map(|layer| u8::from(layer.window.is_some())).collect();
    array("attention.sliding_window_pattern", FLAG, slide);
    let n_sharing = config.layers.iter().filter(|layer| !layer.stores()).count();
    let [global, local] = [&config.ropes[0], &config.ropes[1]];
    for (name, len) in [
        ("attention.key_length", global.span),
        ("attention.value_length", global.span),
        ("attention.key_length_swa", config.head_dim),
        ("attention.value_length_swa", config.head_dim),
        ("rope.dimension_count", global.span),
        ("rope.dimension_count_swa", local.rotary_dim),
        ("attention.shared_kv_layers", n_sharing),
        ("embedding_length_per_layer_input", config.layer_inputs.map_or(0, |inputs| inputs.width)),
    ] {
        writer.u32(&key(name), len as u32);
    }
    writer.f32(&key("rope.freq_base_swa"), local.theta as f32);
    if let Some(cap) = config.logit_soft_cap {
        writer.f32(&key("final_logit_softcapping"), cap);
    }
    let factors = (0..global.span / 2).map(|pair| if 2 * pair < global.rotary_dim { 1.0 } else { 1e30 });
    writer.tensor("rope_freqs.weight", &[global.span / 2], type_id(Dtype::F32), f32s(factors));
}

/// Divisors of the frequencies, as converters compute them from wavelengths.
fn llama3_factors(config: &ModelConfig) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } =
        config.ropes[0].scaling
    else {
        unreachable!("the caller has matched it");
    };
    let context_len = f64::from(original_context_len);
    let factor_of = |i: usize| {
        let wavelength = TAU * config.ropes[0].theta.powf(2.0 * i as f64 / config.head_dim as f64);
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
        Dtype::Mxfp4 => 39,
        other => unreachable!("no fixture has {other:?}"),
    }
}

fn gguf_name(config: &ModelConfig, name: &str) -> String {
    let behind = format!("blk.{}", config.n_layers);
    let of_head = [
        ("mtp.layers.0", behind.clone()),
        ("mtp.pre_fc_norm_embedding", format!("{behind}.nextn.enorm")),
        ("mtp.pre_fc_norm_hidden", format!("{behind}.nextn.hnorm")),
        ("mtp.fc", format!("{behind}.nextn.eh_proj")),
        ("mtp.norm", format!("{behind}.nextn.shared_head_norm")),
    ];
    let name = &of_head.iter().fold(name.to_string(), |name, (theirs, ours)| name.replace(theirs, ours));
    let norms: &[(&str, &str)] = match config.family {
        Family::Gemma2 | Family::Gemma3 => &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        Family::Gemma4 => &[
            ("model.embed_tokens_per_layer", "per_layer_token_embd"),
            ("model.per_layer_model_projection", "per_layer_model_proj"),
            ("model.per_layer_projection_norm", "per_layer_proj_norm"),
            ("post_per_layer_input_norm", "post_norm"),
            ("per_layer_input_gate", "inp_gate"),
            ("per_layer_projection", "proj"),
            ("layer_scalar", "layer_output_scale.weight"),
            ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
            ("router.proj", "ffn_gate_inp"),
            ("router.scale", "ffn_gate_inp.scale"),
            ("router.per_expert_scale", "ffn_down_exps.scale"),
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        Family::Glm4 => &[
            ("post_self_attn_layernorm", "post_attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("post_mlp_layernorm", "post_ffw_norm"),
            ("mlp.gate_proj", "ffn_up"),
        ],
        Family::GptOss => &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("mlp.router", "ffn_gate_inp"),
            ("self_attn.sinks", "attn_sinks.weight"),
        ],
        Family::Qwen3_5 | Family::Qwen3_5Moe | Family::Qwen3Next => &[
            ("post_attention_layernorm", "post_attention_norm"),
            // As in files of the first weeks.
            ("linear_attn.in_proj_qkvz", "ssm_in"),
            ("linear_attn.in_proj_ba", "ssm_ba"),
            ("linear_attn.in_proj_qkv", "attn_qkv"),
            ("linear_attn.in_proj_z", "attn_gate"),
            ("linear_attn.in_proj_b", "ssm_beta"),
            ("linear_attn.in_proj_a", "ssm_alpha"),
            ("linear_attn.conv1d", "ssm_conv1d"),
            ("linear_attn.norm", "ssm_norm"),
            ("linear_attn.out_proj", "ssm_out"),
            ("linear_attn.A_log", "ssm_a"),
            ("linear_attn.dt_bias", "ssm_dt.bias"),
            ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
            ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
            ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
            ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
        ],
        Family::Phi3 => &[
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_qkv"),
            ("mlp.gate_proj", "ffn_up"),
        ],
        _ => &[("post_attention_layernorm", "ffn_norm")],
    };
    let replaced = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate.weight", "ffn_gate_inp.weight"),
        ("block_sparse_moe.gate.weight", "ffn_gate_inp.weight"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let all = norms.iter().chain(&replaced);
    all.fold(name.to_string(), |name, (theirs, ours)| name.replace(theirs, ours))
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
