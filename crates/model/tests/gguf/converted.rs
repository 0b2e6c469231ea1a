//! Models of folders as files, in the order and with the names that converters of llama.cpp give their tensors.

use dsde_checkpoint::config::{DeltaShape, Family};
use dsde_checkpoint::{Checkpoint, Dense, Dtype};

use super::metadata::write_metadata;
use super::names::{fused_layer, gguf_name, parts, type_id};
use super::writer::{Writer, f32s};

/// How the matrices of a file are stored.
#[derive(Clone, Copy)]
pub(crate) enum Matrices {
    /// As in the folder, but one for queries, keys and values of delta layers, and one for their gates.
    Same,
    /// As in the folder.
    Fused,
    Q8_0,
    /// What Q8_0 makes of them, in f32.
    WidenedQ8_0,
}

/// The model of a folder as a GGUF file.
pub(crate) fn converted(folder: &Checkpoint, matrices: Matrices) -> Checkpoint {
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

pub(crate) fn is_norm(name: &str) -> bool {
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
