//! Which tensors a configuration declares, and what becomes of the others.
//!
//! A tensor that is in the files and not used is a sign that the configuration says too little, so none is passed over in
//! silence. Where it would change what the model computes it is refused by name, or used if it is clear how.

use std::collections::HashSet;

use super::experts::{BESIDE, SHARED, bias_names, matrix_names, router};
use super::{Checkpoint, EMBEDDINGS, OUTPUT, SINKS, delta, layer_inputs, mtp};
use crate::config::{KvSource, ModelConfig, NormNames};
use crate::error::Error;

/// Names of unused tensors that a warning repeats.
const SHOWN_MAX: usize = 5;
/// What older tools stored beside the weights although it follows from the configuration.
const DERIVED: &str = "rotary_emb.inv_freq";
/// Norms of queries and keys, within a layer.
const Q_NORM: &str = "self_attn.q_norm";
const K_NORM: &str = "self_attn.k_norm";

/// Names of all tensors of a model.
pub(super) fn implied(config: &ModelConfig) -> HashSet<String> {
    let NormNames { before_attention, after_attention, before_feed_forward, after_feed_forward } =
        config.norms;
    let norms = [Some(before_attention), after_attention, Some(before_feed_forward), after_feed_forward];
    let mut names = HashSet::from([EMBEDDINGS.to_string(), "model.norm.weight".to_string()]);
    if !config.tie_embeddings {
        names.insert(OUTPUT.to_string());
    }
    names.extend(layer_inputs::names(config));
    for layer in 0..config.n_layers {
        let mixer = match config.layers[layer].is_delta {
            true => delta::names(config.delta_layout).collect(),
            false => attention(config, layer),
        };
        let norms = norms.iter().flatten().map(|module| format!("{module}.weight"));
        let all = mixer.into_iter().chain(norms).chain(feed_forward(config, layer));
        let all = all.chain(layer_inputs::names_of_layer(config));
        names.extend(all.map(|name| format!("model.layers.{layer}.{name}")));
    }
    names
}

/// Names of the tensors of the attention of a layer, within it.
fn attention(config: &ModelConfig, layer: usize) -> Vec<String> {
    let projections =
        config.projections_of(layer).into_iter().map(|(module, _)| (module, config.has_qkv_bias));
    let projections: Vec<_> = projections.chain([("self_attn.o_proj", config.has_output_bias)]).collect();
    let biases = projections.iter().filter(|(_, has_bias)| *has_bias);
    let mut names: Vec<String> = biases.map(|(module, _)| format!("{module}.bias")).collect();
    names.extend(projections.iter().map(|(module, _)| format!("{module}.weight")));
    if config.has_qk_norm {
        names.push(format!("{Q_NORM}.weight"));
        names.extend(config.layers[layer].stores().then(|| format!("{K_NORM}.weight")));
    }
    if config.has_sinks {
        names.push(SINKS.to_string());
    }
    names
}

/// Whether a tensor is for keys and values of a layer that reads those of another; such files have them, and nobody uses them.
fn is_beside_shared(config: &ModelConfig, name: &str) -> bool {
    let Some((layer, module)) = in_layer(name) else { return false };
    let is_sharing = config.layers.get(layer).is_some_and(|layer| matches!(layer.kv, KvSource::Layer(_)));
    is_sharing && ["self_attn.k_", "self_attn.v_"].iter().any(|start| module.starts_with(start))
}

/// The layer of a tensor, and its name there.
fn in_layer(name: &str) -> Option<(usize, &str)> {
    let (index, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    Some((index.parse().ok()?, rest))
}

/// Names of the tensors of the feed-forward part of a layer, within it.
fn feed_forward(config: &ModelConfig, layer: usize) -> Vec<String> {
    let Some(experts) = config.experts_of(layer) else { return dense_feed_forward(config) };
    let router = router(config.family);
    let mut names = matrix_names(config.family, experts);
    if experts.is_beside_dense {
        names.extend(dense_feed_forward(config));
        names.extend(BESIDE.map(|(_, name)| name.to_string()));
    }
    names.push(format!("{router}.weight"));
    if experts.has_bias {
        names.push(format!("{router}.bias"));
        names.extend(bias_names(experts).iter().map(ToString::to_string));
    }
    if experts.shared.is_some() {
        names.extend(SHARED.map(|(_, module)| format!("{module}.weight")));
    }
    names
}

/// Names of the tensors of an ordinary feed-forward part.
fn dense_feed_forward(config: &ModelConfig) -> Vec<String> {
    let parts: &[&str] = if config.has_mlp_bias { &["weight", "bias"] } else { &["weight"] };
    let modules = ["gate_proj", "up_proj", "down_proj"];
    let names =
        modules.iter().flat_map(|module| parts.iter().map(move |part| format!("mlp.{module}.{part}")));
    names.collect()
}

impl Checkpoint {
    /// Brings configuration and tensors together.
    ///
    /// An output projection beside tied embeddings is used if it differs from them, as the reference implementation does:
    /// somebody trained it.
    ///
    /// # Errors
    /// [`Error::TensorUndeclared`] for a tensor that would change what the model computes.
    pub(super) fn declared(mut self) -> Result<Self, Error> {
        let is_output_equal = self.config.tie_embeddings && self.is_output_tied();
        if self.config.tie_embeddings && self.has_tensor(OUTPUT) && !is_output_equal {
            tracing::warn!(
                "{OUTPUT} differs from the embeddings although config.json ties them; both are used"
            );
            self.config.tie_embeddings = false;
        }
        let implied = implied(&self.config);
        let is_accounted_for = |name: &str| {
            implied.contains(name)
                || name.ends_with(DERIVED)
                || is_beside_shared(&self.config, name)
                || (self.has_mtp() && name.starts_with(mtp::PREFIX))
                || (is_output_equal && name == OUTPUT)
        };
        let mut unused: Vec<&str> = self.tensor_names().filter(|name| !is_accounted_for(name)).collect();
        unused.sort_unstable();
        let changing = unused.iter().find(|name| self.would_change_output(name));
        if let Some(name) = changing {
            let (declarer, hint) = match self.metadata {
                None => (
                    "config.json",
                    "correct config.json (attention_bias and mlp_bias declare biases), or use another model",
                ),
                Some(_) => ("the architecture", "use another model"),
            };
            return Err(Error::TensorUndeclared { name: (*name).to_string(), declarer, hint });
        }
        if !unused.is_empty() {
            let more = if unused.len() > SHOWN_MAX { ", ..." } else { "" };
            let shown = unused[..unused.len().min(SHOWN_MAX)].join(", ");
            tracing::warn!("{} tensors of the weights are not used: {shown}{more}", unused.len());
        }
        Ok(self)
    }

    /// Whether a stored output projection is the embedding table.
    pub(super) fn is_output_tied(&self) -> bool {
        let (Ok(output), Ok(table)) = (self.stored(OUTPUT), self.stored(EMBEDDINGS)) else {
            return false;
        };
        output.dtype == table.dtype && output.shape == table.shape && output.bytes == table.bytes
    }

    /// Whether an unused tensor belongs to a part of the model that runs and would do something there, as biases other than 0
    /// and further norms do, delta layers, inputs and factors of layers, and whatever stands beside experts.
    fn would_change_output(&self, name: &str) -> bool {
        if !self.is_part_that_runs(name) {
            return false;
        }
        let is_zero = || self.stored(name).is_ok_and(|tensor| tensor.to_f32().iter().all(|&x| x == 0.0));
        let is_beside_experts = || name.contains(".mlp.") || name.contains(".block_sparse_moe.");
        name.ends_with("norm.weight")
            || name.ends_with(SINKS)
            || (name.ends_with(".bias") && !is_zero())
            || (self.config.experts.is_some() && is_beside_experts())
            || name.contains(delta::MODULE)
            || name.contains(".router.")
            || name.ends_with(layer_inputs::LAYER_SCALE)
            || layer_inputs::OF_LAYER.iter().any(|module| name.contains(module))
    }

    fn is_part_that_runs(&self, name: &str) -> bool {
        match in_layer(name) {
            Some((layer, _)) => layer < self.config.n_layers,
            None => name.starts_with("model.norm.") || name.starts_with("lm_head."),
        }
    }
}
