//! A GGUF file as a checkpoint: the names of Hugging Face for its tensors, and the order of their rows.

use std::collections::HashMap;
use std::sync::Arc;

use super::declared::implied;
use super::experts::{self, ExpertPart};
use super::{Checkpoint, SINKS, delta, layer_inputs, layout, mtp};
use crate::config::{
    Architecture, KvHeads, LONG_ROPE_FACTORS, ModelConfig, ROPE_FACTORS, SHORT_ROPE_FACTORS,
};
use crate::error::Error;
use crate::gguf::Gguf;
use crate::stored::RowOrder;

/// Modules of which there is one, in GGUF and in Hugging Face files.
const MODULES: [(&str, &str); 6] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("per_layer_token_embd", layer_inputs::TABLE),
    ("per_layer_model_proj", layer_inputs::PROJECTION),
    ("per_layer_proj_norm", layer_inputs::NORM),
];
/// Modules of a layer, norms apart.
const LAYER_MODULES: [(&str, &str); 10] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_qkv", layout::QKV),
];
/// Modules of a layer for inputs beside the residual stream.
const LAYER_INPUT_MODULES: [(&str, &str); 3] = [
    ("inp_gate", layer_inputs::OF_LAYER[0]),
    ("proj", layer_inputs::OF_LAYER[1]),
    ("post_norm", layer_inputs::OF_LAYER[2]),
];
/// Norms of a layer, of which an architecture has two or all.
const NORMS: [&str; 4] = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"];
/// Modules of a layer that hold a part of all experts.
const EXPERT_MODULES: [(&str, ExpertPart); 3] = [
    ("ffn_gate_exps", ExpertPart::Gate),
    ("ffn_up_exps", ExpertPart::Up),
    ("ffn_down_exps", ExpertPart::Down),
];
/// Module that chooses experts.
const ROUTER: &str = "ffn_gate_inp";
/// Parts of modules.
const PARTS: [&str; 2] = ["weight", "bias"];
/// What older tools stored beside the weights although it follows from the metadata.
const DERIVED: &str = "attn_rot_embd.weight";

/// The same model under other names.
///
/// # Errors
/// If the metadata are refused, or there is a tensor that the model has no use for: such a file is another model than it says.
pub(super) fn checkpoint(gguf: Gguf) -> Result<Checkpoint, Error> {
    let config = ModelConfig::of_gguf(&gguf)?;
    with_config(gguf, config, &[])
}

/// The same by a configuration.
///
/// * `others`: tensors that no model has, by their names in GGUF and in Hugging Face files.
pub(super) fn with_config(
    gguf: Gguf,
    config: ModelConfig,
    others: &[(&str, &'static str)],
) -> Result<Checkpoint, Error> {
    let Gguf { metadata, files, tensors: named, .. } = gguf;
    let mut tensors = HashMap::new();
    let mut n_beyond = 0;
    for (name, location) in named {
        let other = find(others, &name).map(str::to_string);
        match other.or_else(|| published_name(&config, &name)) {
            Some(published) => drop(tensors.insert(published, location)),
            None => n_beyond += usize::from(is_beyond(&name, config.n_layers)?),
        }
    }
    let mut tensors = layout::split(tensors, &config)?;
    for (name, location) in &mut tensors {
        location.span.order = row_order(&config, name);
    }
    if n_beyond > 0 {
        tracing::warn!(
            "{n_beyond} tensors of layers beyond the {} of the model are not used",
            config.n_layers
        );
    }
    Ok(Checkpoint {
        config,
        files: files.into_iter().map(Arc::new).collect(),
        tensors,
        metadata: Some(Arc::new(metadata)),
    })
}

/// The name in Hugging Face files, if they have such a tensor; one that holds all experts is named as fused ones are there.
fn published_name(config: &ModelConfig, name: &str) -> Option<String> {
    if let Some((idx, vector)) = layer(name).filter(|_| config.delta.is_some())
        && let Some((published, _)) = delta::VECTORS.iter().find(|(_, found)| *found == vector)
    {
        return Some(format!("{}.{published}", layer_path(config, idx)));
    }
    if let Some((idx, vector)) =
        layer(name).filter(|_| config.experts.as_ref().is_some_and(|experts| experts.is_beside_dense))
        && let Some(published) = find(&experts::BESIDE, vector)
    {
        return Some(format!("{}.{published}", layer_path(config, idx)));
    }
    let (module, part) = name.rsplit_once('.')?;
    if !PARTS.contains(&part) {
        return None;
    }
    match layer(module) {
        Some((idx, "attn_sinks")) if config.has_sinks && part == "weight" => {
            Some(format!("{}.{SINKS}", layer_path(config, idx)))
        }
        Some((idx, "layer_output_scale")) if config.has_layer_scale && part == "weight" => {
            Some(format!("{}.{}", layer_path(config, idx), layer_inputs::LAYER_SCALE))
        }
        Some((idx, module)) if idx == config.n_layers && find(&mtp::MODULES, module).is_some() => {
            Some(format!("{}.{part}", find(&mtp::MODULES, module)?))
        }
        Some((idx, module)) => {
            Some(format!("{}.{}.{part}", layer_path(config, idx), layer_module(config, module)?))
        }
        None if module.starts_with("per_layer_") && config.layer_inputs.is_none() => None,
        None => Some(format!("{}.{part}", find(&MODULES, module)?)),
    }
}

/// How the names of a layer's tensors begin: those behind the others are of the model's own head.
fn layer_path(config: &ModelConfig, idx: usize) -> String {
    match idx.checked_sub(config.n_layers) {
        Some(idx) => format!("{}layers.{idx}", mtp::PREFIX),
        None => format!("model.layers.{idx}"),
    }
}

fn find(modules: &[(&str, &'static str)], module: &str) -> Option<&'static str> {
    modules.iter().find(|(found, _)| *found == module).map(|(_, published)| *published)
}

/// The name of a module of a layer in Hugging Face files.
fn layer_module(config: &ModelConfig, module: &str) -> Option<String> {
    let Architecture { fused, gguf_feed_forward_norm, .. } = *Architecture::of(config.family);
    let known = match module {
        "attn_norm" => Some(config.norms.before_attention),
        norm if norm == gguf_feed_forward_norm => Some(config.norms.before_feed_forward),
        "post_attention_norm" => config.norms.after_attention,
        "post_ffw_norm" => config.norms.after_feed_forward,
        "ffn_up" if fused.gate_up => Some(layout::GATE_UP),
        _ if config.layer_inputs.is_some() && find(&LAYER_INPUT_MODULES, module).is_some() => {
            find(&LAYER_INPUT_MODULES, module)
        }
        _ if config.delta.is_some() => find(&delta::MODULES, module).or_else(|| find(&LAYER_MODULES, module)),
        _ => find(&LAYER_MODULES, module),
    };
    known.map(str::to_string).or_else(|| expert_module(config, module))
}

/// That of a module of a layer with experts, if the model has them.
fn expert_module(config: &ModelConfig, module: &str) -> Option<String> {
    let experts = config.experts.as_ref()?;
    if module == ROUTER {
        return Some(experts::router(config.family).to_string());
    }
    if let Some(shared) = find(&experts::SHARED, module).filter(|_| experts.shared.is_some()) {
        return Some(shared.to_string());
    }
    if module == "ffn_gate_up_exps" {
        return Some("mlp.experts.gate_up_proj".to_string());
    }
    let (_, part) = EXPERT_MODULES.iter().find(|(found, _)| *found == module)?;
    Some(format!("mlp.experts.{}", part.stacked()))
}

/// Which layer a tensor belongs to, and its name there.
fn layer(name: &str) -> Option<(usize, &str)> {
    let (digits, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let idx: usize = digits.parse().ok()?;
    // Two spellings of one number would be two tensors of one name.
    (idx.to_string() == digits).then_some((idx, rest))
}

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Named {
    /// Its name in GGUF files.
    pub(crate) name: String,
    /// That in Hugging Face files; of one that holds all experts, theirs in order.
    pub(crate) published: Vec<String>,
    pub(crate) shape: Vec<usize>,
    /// Order of the rows in GGUF files.
    pub(crate) order: RowOrder,
}

/// All tensors of a model, from the first layer to the last.
pub(crate) fn named(config: &ModelConfig) -> Vec<Named> {
    let whole = MODULES.iter().map(|(module, _)| (0, *module, (*module).to_string()));
    let modules = NORMS.into_iter().chain(LAYER_MODULES.map(|(module, _)| module)).chain([ROUTER]);
    let layers = (0..config.n_layers)
        .flat_map(|idx| modules.clone().map(move |module| (idx, module, format!("blk.{idx}.{module}"))));
    let implied = implied(config);
    let parts = whole.chain(layers).flat_map(|(idx, module, path)| {
        PARTS.map(|part| {
            let name = format!("{path}.{part}");
            let mut shape = shape(config, idx, module);
            if part == "bias" {
                shape.truncate(1);
            }
            Some((published_name(config, &name)?, name, shape))
        })
    });
    let present = parts.flatten().filter(|(published, ..)| implied.contains(published));
    let single = present.map(|(published, name, shape)| {
        let order = row_order(config, &published);
        Named { name, published: vec![published], shape, order }
    });
    single.chain((0..config.n_layers).flat_map(|layer| stacked(config, layer))).collect()
}

/// Tensors that hold all experts of a layer.
fn stacked(config: &ModelConfig, layer: usize) -> Vec<Named> {
    let Some(experts) = config.experts_of(layer) else { return Vec::new() };
    let named = |(module, part): (&str, ExpertPart)| {
        let expert = |expert| format!("model.layers.{layer}.{}.weight", part.module(config.family, expert));
        let [n_out, n_in] = part.shape(config.hidden, experts.intermediate);
        Named {
            name: format!("blk.{layer}.{module}.weight"),
            published: (0..experts.n_experts).map(expert).collect(),
            shape: vec![experts.n_experts, n_out, n_in],
            order: RowOrder::AsIs,
        }
    };
    EXPERT_MODULES.map(named).to_vec()
}

/// Shape of the weight of a module.
///
/// * `layer`: if it belongs to one.
fn shape(config: &ModelConfig, layer: usize, module: &str) -> Vec<usize> {
    let (hidden, intermediate) = (config.hidden, config.intermediate_of(layer));
    let KvHeads { n_kv_heads, head_dim } = config.kv_heads_of(layer);
    let (q_len, kv_len) = (config.n_heads * head_dim, n_kv_heads * head_dim);
    let [q_norm_len, k_norm_len] = config.qk_norm_lens(layer);
    match module {
        "token_embd" | "output" => vec![config.n_embeddings, hidden],
        "attn_q" => vec![q_len, hidden],
        "attn_k" | "attn_v" => vec![kv_len, hidden],
        "attn_output" => vec![hidden, q_len],
        "attn_q_norm" => vec![q_norm_len],
        "attn_k_norm" => vec![k_norm_len],
        "ffn_gate" | "ffn_up" => vec![intermediate, hidden],
        "ffn_down" => vec![hidden, intermediate],
        ROUTER => vec![config.experts.as_ref().map_or(0, |experts| experts.n_experts), hidden],
        _ => vec![hidden],
    }
}

/// Whether a tensor without a published name belongs to a layer that does not run. Otherwise it has to be known for something.
fn is_beyond(name: &str, n_layers: usize) -> Result<bool, Error> {
    let is_beyond = layer(name).is_some_and(|(idx, _)| idx >= n_layers);
    let is_derived =
        [ROPE_FACTORS, SHORT_ROPE_FACTORS, LONG_ROPE_FACTORS].contains(&name) || name.ends_with(DERIVED);
    match is_beyond || is_derived {
        true => Ok(is_beyond),
        false => Err(Error::TensorUndeclared {
            name: name.to_string(),
            declarer: "the architecture",
            hint: "use another model",
        }),
    }
}

/// Files of some architectures are for a rotary embedding that turns neighbours; rows of queries and keys are moved for it.
fn row_order(config: &ModelConfig, published: &str) -> RowOrder {
    layout::row_order(config, published, Architecture::of(config.family).turns_neighbours.gguf)
}
