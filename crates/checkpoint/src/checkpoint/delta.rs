//! Tensors of delta layers, and queries of attention that have gates beside them.
//!
//! | Hugging Face | GGUF | |
//! |---|---|---|
//! | `linear_attn.in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`, `out_proj` | `attn_qkv`, `attn_gate`, `ssm_beta`, `ssm_alpha`, `ssm_out` | matrices |
//! | `linear_attn.conv1d` `[conv_width, 1, conv_len]` | `ssm_conv1d` `[conv_width, conv_len]` | |
//! | `linear_attn.norm` | `ssm_norm` | never stored less 1 |
//! | `linear_attn.A_log`, of which `-exp` is the rate | `ssm_a`, the rate itself | `[n_value_heads]` |
//! | `linear_attn.dt_bias` | `ssm_dt.bias` | `[n_value_heads]` |

use super::Checkpoint;
use crate::config::{DeltaShape, ModelConfig};
use crate::error::Error;
use crate::stored::{Dense, Dtype};

/// What tells delta layers apart.
pub(super) const MODULE: &str = "linear_attn";
/// Vectors of a delta layer, in Hugging Face and in GGUF files.
pub(super) const VECTORS: [(&str, &str); 2] =
    [("linear_attn.A_log", "ssm_a"), ("linear_attn.dt_bias", "ssm_dt.bias")];
/// Modules of a delta layer, in GGUF and in Hugging Face files.
pub(super) const MODULES: [(&str, &str); 7] = [
    ("attn_qkv", "linear_attn.in_proj_qkv"),
    ("attn_gate", "linear_attn.in_proj_z"),
    ("ssm_beta", "linear_attn.in_proj_b"),
    ("ssm_alpha", "linear_attn.in_proj_a"),
    ("ssm_conv1d", "linear_attn.conv1d"),
    ("ssm_norm", "linear_attn.norm"),
    ("ssm_out", "linear_attn.out_proj"),
];
const QUERIES: &str = "self_attn.q_proj";

/// Queries of a layer, and the gates of its outputs, apart.
#[derive(Debug)]
pub struct GatedQueries {
    dtype: Dtype,
    /// Of either.
    shape: [usize; 2],
    queries: Vec<u8>,
    gates: Vec<u8>,
}

impl GatedQueries {
    /// What makes queries, `[n_heads * head_dim, hidden]`.
    pub fn queries(&self) -> Dense<'_> {
        Dense::new(self.dtype, self.shape[0], self.shape[1], &self.queries)
    }

    /// What makes gates, of the same shape.
    pub fn gates(&self) -> Dense<'_> {
        Dense::new(self.dtype, self.shape[0], self.shape[1], &self.gates)
    }
}

/// Names of the tensors of a delta layer, within it.
pub(super) fn names() -> impl Iterator<Item = String> {
    let weights = MODULES.iter().map(|(_, module)| format!("{module}.weight"));
    weights.chain(VECTORS.iter().map(|(vector, _)| (*vector).to_string()))
}

impl Checkpoint {
    /// Queries and gates of a layer whose outputs are gated; files have them head by head in turns, so they are copied.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn gated_queries(&self, layer: usize) -> Result<GatedQueries, Error> {
        let ModelConfig { hidden, n_heads, head_dim, .. } = self.config;
        let name = format!("model.layers.{layer}.{QUERIES}.weight");
        let Dense { dtype, bytes, .. } = self.matrix(&name, 2 * n_heads * head_dim, hidden)?;
        let head_bytes = head_dim * dtype.row_bytes(hidden);
        let half = |first: usize| bytes.chunks_exact(head_bytes).skip(first).step_by(2).flatten().copied();
        Ok(GatedQueries {
            dtype,
            shape: [n_heads * head_dim, hidden],
            queries: half(0).collect(),
            gates: half(1).collect(),
        })
    }

    /// Weights of the convolution of a delta layer, `[conv_len, conv_width]`, those of the oldest token first.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    ///
    /// # Panics
    /// If the model has no delta layers; so for [`Checkpoint::decay_rates`].
    pub fn convolution(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let delta = self.delta();
        let (width, len) = (delta.conv_width(), delta.conv_len);
        let name = format!("model.layers.{layer}.{MODULE}.conv1d.weight");
        let shape: &[usize] = if self.metadata.is_some() { &[width, len] } else { &[width, 1, len] };
        let stored = self.tensor(&name, shape)?.to_f32();
        let mut weights = vec![0.0; width * len];
        for (channel, stored) in stored.chunks_exact(len).enumerate() {
            stored.iter().enumerate().for_each(|(i, weight)| weights[i * width + channel] = *weight);
        }
        Ok(weights)
    }

    /// Rates `r` at which states of a delta layer decay, `[n_value_heads]`, below 0: a token keeps `exp(r * softplus(a))`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn decay_rates(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let (rates, _) = VECTORS[0];
        let stored = self.vector(&format!("model.layers.{layer}.{rates}"), self.delta().n_value_heads)?;
        Ok(match &self.metadata {
            Some(_) => stored,
            None => stored.into_iter().map(|log| -log.exp()).collect(),
        })
    }

    fn delta(&self) -> &DeltaShape {
        self.config.delta.as_ref().expect("the model has delta layers")
    }
}
