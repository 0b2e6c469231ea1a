//! The head that a model brings with it: a layer that predicts one token further (multi-token prediction).
//!
//! | Hugging Face | GGUF, `n` being the layers of the model | |
//! |---|---|---|
//! | `mtp.pre_fc_norm_embedding` | `blk.n.nextn.enorm` | of the embedding of a token |
//! | `mtp.pre_fc_norm_hidden` | `blk.n.nextn.hnorm` | of what the model made of the token before |
//! | `mtp.fc` `[hidden, 2 * hidden]` | `blk.n.nextn.eh_proj` | joins the two, the embedding first |
//! | `mtp.layers.0.*` | `blk.n.*` | a layer of attention like those of the model |
//! | `mtp.norm` | `blk.n.nextn.shared_head_norm` | before the output projection of the model |

use std::collections::HashSet;

use super::declared::implied;
use super::{Checkpoint, EMBEDDINGS, OUTPUT};
use crate::config::{Experts, ModelConfig};
use crate::error::Error;
use crate::stored::Dtype;

/// How the names of its tensors begin.
pub(super) const PREFIX: &str = "mtp.";
/// How those of its layer do.
pub(super) const LAYER: &str = "mtp.layers.0";
/// Its modules beside the layer, in GGUF and in Hugging Face files. Nobody publishes the last two, which would be embeddings and an
/// output projection of its own; they are named to be refused.
pub(super) const MODULES: [(&str, &str); 6] = [
    ("nextn.enorm", "mtp.pre_fc_norm_embedding"),
    ("nextn.hnorm", "mtp.pre_fc_norm_hidden"),
    ("nextn.eh_proj", "mtp.fc"),
    ("nextn.shared_head_norm", "mtp.norm"),
    ("nextn.embed_tokens", "mtp.embed_tokens"),
    ("nextn.shared_head_head", "mtp.lm_head"),
];
/// Its tensors that no ordinary model of one layer has.
const JOIN: [&str; 3] = ["mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", FC];
const FC: &str = "mtp.fc.weight";
const NORM: &str = "mtp.norm.weight";

/// The head in the files of a model.
#[derive(Debug)]
pub struct MtpCheckpoint {
    weights: Checkpoint,
}

impl MtpCheckpoint {
    /// Its layer, as a model of one; vocabulary and context are those of the model.
    pub fn config(&self) -> &ModelConfig {
        self.weights.config()
    }

    /// Its tensors: those of the layer and of the last norm as in a model of one layer, the others as in the files.
    pub fn weights(&self) -> &Checkpoint {
        &self.weights
    }

    /// As [`Checkpoint::with_matrices_rounded`].
    #[must_use]
    pub fn with_matrices_rounded(mut self, dtype: Dtype) -> Self {
        self.weights = self.weights.with_matrices_rounded(dtype);
        self
    }

    /// As [`Checkpoint::weight_bytes`].
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes_of(&names(self.config()))
    }

    /// As [`Checkpoint::dtypes`].
    pub fn dtypes(&self) -> Vec<(Dtype, usize)> {
        self.weights.dtypes_of(&names(self.config()))
    }
}

impl Checkpoint {
    /// Whether the files have a head of the model's own.
    pub fn has_mtp(&self) -> bool {
        JOIN.iter().any(|name| self.has_tensor(name))
    }

    /// The head, if the files have one.
    ///
    /// # Errors
    /// [`Error::TensorMissing`] if a tensor of it is absent, [`Error::TensorUndeclared`] if there are more than one layer has.
    pub fn mtp(&self) -> Result<Option<MtpCheckpoint>, Error> {
        if !self.has_mtp() {
            return Ok(None);
        }
        let config = layer_config(&self.config);
        let own = self.tensors.iter().filter(|(name, _)| name.starts_with(PREFIX));
        let tensors = own.map(|(name, at)| (name_in_layer(name), at.clone())).collect();
        let (files, metadata) = (self.files.clone(), self.metadata.clone());
        let weights = Checkpoint { config, files, tensors, metadata };
        let names = names(&weights.config);
        if let Some(name) = names.iter().filter(|name| !weights.has_tensor(name)).min() {
            return Err(Error::TensorMissing { name: published_name(name) });
        }
        let hidden = weights.config.hidden;
        weights.matrix(FC, hidden, 2 * hidden)?;
        for norm in [JOIN[0], JOIN[1], "model.norm.weight"] {
            weights.tensor(norm, &[hidden])?;
        }
        match weights.tensor_names().filter(|name| !names.contains(*name)).min() {
            None => Ok(Some(MtpCheckpoint { weights })),
            Some(name) => Err(Error::TensorUndeclared {
                name: published_name(name),
                declarer: "a head of one layer without embeddings",
                hint: "use another draft",
            }),
        }
    }
}

/// The configuration of the head's layer.
fn layer_config(config: &ModelConfig) -> ModelConfig {
    let layer = config.layers.iter().find(|layer| !layer.is_delta).copied();
    ModelConfig {
        n_layers: 1,
        layers: layer.into_iter().collect(),
        delta: None,
        experts: config.experts.clone().map(Experts::in_all_layers),
        ..config.clone()
    }
}

/// Names of all tensors in the head's checkpoint.
fn names(config: &ModelConfig) -> HashSet<String> {
    let mut names = implied(config);
    names.remove(EMBEDDINGS);
    names.remove(OUTPUT);
    names.extend(JOIN.map(str::to_string));
    names
}

fn name_in_layer(name: &str) -> String {
    match name.strip_prefix(LAYER) {
        Some(rest) if rest.starts_with('.') => format!("model.layers.0{rest}"),
        _ if name == NORM => "model.norm.weight".to_string(),
        _ => name.to_string(),
    }
}

/// The reverse of [`name_in_layer`].
fn published_name(name: &str) -> String {
    match name.strip_prefix("model.layers.0") {
        Some(rest) => format!("{LAYER}{rest}"),
        None if name == "model.norm.weight" => NORM.to_string(),
        None => name.to_string(),
    }
}
