//! Tensors of delta layers, and queries of attention that have gates beside them.
//!
//! | Hugging Face | GGUF | |
//! |---|---|---|
//! | `linear_attn.in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`, `out_proj` | `attn_qkv`, `attn_gate`, `ssm_beta`, `ssm_alpha`, `ssm_out` | matrices |
//! | `linear_attn.in_proj_qkvz`, `in_proj_ba`: the same in turns by head of keys (Qwen3-Next) | `ssm_in`, `ssm_ba` | matrices |
//! | `linear_attn.conv1d` `[conv_width, 1, conv_len]` | `ssm_conv1d` `[conv_width, conv_len]` | |
//! | `linear_attn.norm` | `ssm_norm` | never stored less 1 |
//! | `linear_attn.A_log`, of which `-exp` is the rate | `ssm_a`, the rate itself | `[n_value_heads]` |
//! | `linear_attn.dt_bias` | `ssm_dt.bias` | `[n_value_heads]` |

use super::Checkpoint;
use super::matrix::Matrix;
use crate::config::{DeltaLayout, DeltaShape, ModelConfig};
use crate::error::Error;
use crate::stored::Dense;

/// What tells delta layers apart.
pub(super) const MODULE: &str = "linear_attn";
/// Vectors of a delta layer, in Hugging Face and in GGUF files.
pub(super) const VECTORS: [(&str, &str); 2] =
    [("linear_attn.A_log", "ssm_a"), ("linear_attn.dt_bias", "ssm_dt.bias")];
/// Modules of a delta layer, in GGUF and in Hugging Face files.
pub(super) const MODULES: [(&str, &str); 9] = [
    ("attn_qkv", "linear_attn.in_proj_qkv"),
    ("attn_gate", "linear_attn.in_proj_z"),
    ("ssm_beta", "linear_attn.in_proj_b"),
    ("ssm_alpha", "linear_attn.in_proj_a"),
    ("ssm_in", QKVZ),
    ("ssm_ba", BA),
    ("ssm_conv1d", "linear_attn.conv1d"),
    ("ssm_norm", "linear_attn.norm"),
    ("ssm_out", "linear_attn.out_proj"),
];
const QUERIES: &str = "self_attn.q_proj";
/// Queries, keys, values and gates in one matrix.
const QKVZ: &str = "linear_attn.in_proj_qkvz";
/// `b` and `a` in one matrix.
const BA: &str = "linear_attn.in_proj_ba";
/// What the two are made of.
const INPUTS: [&str; 2] = ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z"];
const SCORES: [&str; 2] = ["linear_attn.in_proj_b", "linear_attn.in_proj_a"];

/// Queries of a layer, and the gates of its outputs, apart.
#[derive(Debug)]
pub struct GatedQueries {
    queries: Matrix<'static>,
    gates: Matrix<'static>,
}

/// Matrices of a delta layer that read its rows.
#[derive(Debug)]
pub struct DeltaProjections<'a> {
    qkv: Matrix<'a>,
    z: Matrix<'a>,
    b: Matrix<'a>,
    a: Matrix<'a>,
}

impl DeltaProjections<'_> {
    /// What makes the inputs of the rule: queries, keys and values `[conv_width, hidden]`, `b` and `a` `[n_value_heads, hidden]`.
    pub fn inputs(&self) -> [Dense<'_>; 3] {
        [&self.qkv, &self.b, &self.a].map(Matrix::dense)
    }

    /// What makes gates of the outputs, `[values_width, hidden]`.
    pub fn gates(&self) -> Dense<'_> {
        self.z.dense()
    }
}

impl GatedQueries {
    /// What makes queries, `[n_heads * head_dim, hidden]`.
    pub fn queries(&self) -> Dense<'_> {
        self.queries.dense()
    }

    /// What makes gates, of the same shape.
    pub fn gates(&self) -> Dense<'_> {
        self.gates.dense()
    }
}

/// Names of the tensors of a delta layer, within it.
pub(super) fn names(layout: DeltaLayout) -> impl Iterator<Item = String> {
    let is_there = move |module: &str| match module {
        QKVZ => layout == DeltaLayout::Fused,
        BA => layout != DeltaLayout::Apart,
        _ if INPUTS.contains(&module) => layout != DeltaLayout::Fused,
        _ if SCORES.contains(&module) => layout == DeltaLayout::Apart,
        _ => true,
    };
    let weights = MODULES.iter().filter(move |(_, module)| is_there(module));
    let weights = weights.map(|(_, module)| format!("{module}.weight"));
    weights.chain(VECTORS.iter().map(|(vector, _)| (*vector).to_string()))
}

/// Parts of a matrix that lie in it in turns, a number of rows each.
fn in_turns<const N: usize>(matrix: Dense<'_>, n_rows: [usize; N]) -> [Vec<u8>; N] {
    let row_bytes = matrix.dtype.row_bytes(matrix.n_in);
    let mut parts = [const { Vec::new() }; N];
    for turn in matrix.bytes.chunks_exact(n_rows.iter().sum::<usize>() * row_bytes) {
        let mut rest = turn;
        for (part, n_rows) in parts.iter_mut().zip(n_rows) {
            let (own, others) = rest.split_at(n_rows * row_bytes);
            part.extend_from_slice(own);
            rest = others;
        }
    }
    parts
}

impl Checkpoint {
    /// Queries and gates of a layer whose outputs are gated; files have them head by head in turns, so they are copied.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn gated_queries(&self, layer: usize) -> Result<GatedQueries, Error> {
        let ModelConfig { hidden, n_heads, head_dim, .. } = self.config;
        let name = format!("model.layers.{layer}.{QUERIES}.weight");
        let both = self.matrix(&name, 2 * n_heads * head_dim, hidden)?;
        let shape = [n_heads * head_dim, hidden];
        let [queries, gates] =
            in_turns(both, [head_dim; 2]).map(|part| Matrix::copied(both.dtype, shape, part));
        Ok(GatedQueries { queries, gates })
    }

    /// What reads the rows of a delta layer. Parts that a file holds in turns are copied.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    ///
    /// # Panics
    /// If the model has no delta layers; so for [`Checkpoint::convolution`] and [`Checkpoint::decay_rates`].
    pub fn delta_projections(&self, layer: usize) -> Result<DeltaProjections<'_>, Error> {
        let (delta, hidden, layout) = (*self.delta(), self.config.hidden, self.config.delta_layout);
        let of_layer = |module: &str, n_out: usize| {
            self.matrix(&format!("model.layers.{layer}.{module}.weight"), n_out, hidden)
        };
        let whole = |module, n_out| of_layer(module, n_out).map(Matrix::from);
        let copied = |dtype, n_out, part| Matrix::copied(dtype, [n_out, hidden], part);
        let (n_heads, values) = (delta.n_value_heads, delta.values_width());
        let n_shared = n_heads / delta.n_key_heads;
        let [qkv, z] = match layout {
            DeltaLayout::Fused => {
                let n_values = n_shared * delta.value_dim;
                let fused = of_layer(QKVZ, delta.conv_width() + values)?;
                let [q, k, v, z] = in_turns(fused, [delta.key_dim, delta.key_dim, n_values, n_values]);
                let qkv = [q, k, v].concat();
                [copied(fused.dtype, delta.conv_width(), qkv), copied(fused.dtype, values, z)]
            }
            _ => [whole(INPUTS[0], delta.conv_width())?, whole(INPUTS[1], values)?],
        };
        let [b, a] = match layout {
            DeltaLayout::Apart => [whole(SCORES[0], n_heads)?, whole(SCORES[1], n_heads)?],
            _ => {
                let fused = of_layer(BA, 2 * n_heads)?;
                in_turns(fused, [n_shared; 2]).map(|part| copied(fused.dtype, n_heads, part))
            }
        };
        Ok(DeltaProjections { qkv, z, b, a })
    }

    /// Weights of the convolution of a delta layer, `[conv_len, conv_width]`, those of the oldest token first.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
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
