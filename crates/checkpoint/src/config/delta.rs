//! Delta layers: which layers have one state per sequence instead of keys and values, and how large it is.

use super::fields::Fields;
use super::of_gguf::Keys;
use super::windows::layers_of_kind;
use super::{HEAD_DIM_MAX, LayerConfig, ModelConfig, N_HEADS_MAX, N_LAYERS_MAX, ranges};
use crate::error::Error;

/// Widest convolution; published models have 4.
const CONV_LEN_MAX: usize = 16;
/// Every so many layers one is of attention where the file does not say it.
const INTERVAL_DEFAULT: usize = 4;
/// Kind of delta layers in `layer_types`.
const KIND: &str = "linear_attention";
const INTERVAL: &str = "full_attention_interval";
const LAYER_TYPES: &str = "layer_types";
const VALUE_HEADS: &str = "linear_num_value_heads";
/// Keys of GGUF files.
const RECURRENT_LAYERS: &str = "attention.recurrent_layers";
const VALUE_HEADS_KEY: &str = "ssm.time_step_rank";
const INNER_LEN_KEY: &str = "ssm.inner_size";

/// Shape of delta layers: the gated delta rule behind a short convolution (Yang et al., arXiv:2412.06464, Section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub n_key_heads: usize,
    /// Heads of values, each with a state `[key_dim, value_dim]`; a multiple of `n_key_heads`.
    pub n_value_heads: usize,
    /// Elements of a head of queries or keys.
    pub key_dim: usize,
    /// Elements of a head of values.
    pub value_dim: usize,
    /// Tokens that the convolution sees, that of the row included; at least 2.
    pub conv_len: usize,
    /// Which heads of values share one of keys: those `n_key_heads` apart, instead of neighbours.
    pub is_tiled: bool,
}

/// How files hold what makes the inputs of delta layers and the gates of their outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DeltaLayout {
    /// Queries, keys and values in one matrix, gates, `b` and `a` in one each.
    #[default]
    Apart,
    /// The same, but `b` and `a` in one, in turns by head of keys: Qwen3-Next in GGUF files.
    FusedScores,
    /// Queries, keys, values and gates in one matrix, `b` and `a` in another, in turns by head of keys: Qwen3-Next in folders.
    Fused,
}

impl DeltaShape {
    /// Elements of all queries, and of all keys.
    pub fn keys_width(self) -> usize {
        self.n_key_heads * self.key_dim
    }

    /// Elements of all values, which is what a layer makes of a row.
    pub fn values_width(self) -> usize {
        self.n_value_heads * self.value_dim
    }

    /// Numbers that the convolution reads of a row: queries, keys and values of all heads.
    pub fn conv_width(self) -> usize {
        2 * self.keys_width() + self.values_width()
    }

    /// Numbers of an input: those of the convolution, then `b` and `a` of every head of values.
    pub fn input_len(self) -> usize {
        self.conv_width() + 2 * self.n_value_heads
    }

    /// Numbers that the convolution remembers: the inputs before the next one, oldest first.
    pub fn conv_state_len(self) -> usize {
        (self.conv_len - 1) * self.conv_width()
    }

    /// The head of queries and keys of a head of values.
    pub fn key_head(self, value_head: usize) -> usize {
        match self.is_tiled {
            true => value_head % self.n_key_heads,
            false => value_head / (self.n_value_heads / self.n_key_heads),
        }
    }
}

impl ModelConfig {
    /// Number of layers that have keys and values.
    pub fn n_attention_layers(&self) -> usize {
        self.n_layers - self.n_delta_layers()
    }

    /// Number of layers that have a state.
    pub fn n_delta_layers(&self) -> usize {
        self.layers.iter().filter(|layer| layer.is_delta).count()
    }

    /// Reads the fields about delta layers.
    pub(super) fn read_delta(&mut self, fields: Fields<'_>) -> Result<(), Error> {
        let interval = fields.optional_len(INTERVAL, 1..=N_LAYERS_MAX)?.unwrap_or(INTERVAL_DEFAULT);
        let is_delta = layers_of_kind(fields, self.n_layers, KIND, |i| is_usual(i, interval))?;
        let n_key_heads = fields.len("linear_num_key_heads", N_HEADS_MAX)?;
        let n_value_heads = fields.len(VALUE_HEADS, N_HEADS_MAX)?;
        let delta = DeltaShape {
            n_key_heads,
            n_value_heads: value_heads(VALUE_HEADS, n_value_heads, "linear_num_key_heads", n_key_heads)?,
            key_dim: fields.len("linear_key_head_dim", HEAD_DIM_MAX)?,
            value_dim: fields.len("linear_value_head_dim", HEAD_DIM_MAX)?,
            conv_len: conv_len(
                "linear_conv_kernel_dim",
                fields.len("linear_conv_kernel_dim", CONV_LEN_MAX)?,
            )?,
            is_tiled: false,
        };
        self.set_delta(LAYER_TYPES, delta, |i| is_delta[i])
    }

    /// Reads the keys about delta layers.
    ///
    /// * `is_tiled`: see [`DeltaShape::is_tiled`].
    pub(super) fn read_delta_keys(&mut self, keys: &Keys<'_>, is_tiled: bool) -> Result<(), Error> {
        let interval = keys.optional_len(INTERVAL, 1..=N_LAYERS_MAX)?.unwrap_or(INTERVAL_DEFAULT);
        let listed = keys.flags(RECURRENT_LAYERS)?;
        if let Some(listed) = listed.filter(|listed| listed.len() < self.n_layers) {
            let expected = format!("one for each of {} layers", self.n_layers);
            return Err(Error::Field {
                field: keys.key(RECURRENT_LAYERS),
                expected,
                got: listed.len().to_string(),
            });
        }
        let n_key_heads = keys.len("ssm.group_count", N_HEADS_MAX)?;
        let n_value_heads = keys.len(VALUE_HEADS_KEY, N_HEADS_MAX)?;
        let n_values = keys.len(INNER_LEN_KEY, n_value_heads * HEAD_DIM_MAX)?;
        if !n_values.is_multiple_of(n_value_heads) {
            let expected = format!("a multiple of {} ({n_value_heads})", keys.key(VALUE_HEADS_KEY));
            return Err(Error::Field { field: keys.key(INNER_LEN_KEY), expected, got: n_values.to_string() });
        }
        let (field, key_field) = (keys.key(VALUE_HEADS_KEY), keys.key("ssm.group_count"));
        let delta = DeltaShape {
            n_key_heads,
            n_value_heads: value_heads(&field, n_value_heads, &key_field, n_key_heads)?,
            key_dim: keys.len("ssm.state_size", HEAD_DIM_MAX)?,
            value_dim: n_values / n_value_heads,
            conv_len: conv_len(&keys.key("ssm.conv_kernel"), keys.len("ssm.conv_kernel", CONV_LEN_MAX)?)?,
            is_tiled,
        };
        let is_delta = |i: usize| listed.map_or_else(|| is_usual(i, interval), |listed| listed[i]);
        self.set_delta(&keys.key(RECURRENT_LAYERS), delta, is_delta)
    }

    /// * `field`: what says which layers they are, for errors.
    fn set_delta(
        &mut self,
        field: &str,
        delta: DeltaShape,
        is_delta: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        for (i, layer) in self.layers.iter_mut().enumerate().filter(|(i, _)| is_delta(*i)) {
            debug_assert!(layer.window.is_none(), "layer {i} sees everything");
            *layer = LayerConfig { rope: None, is_delta: true, ..LayerConfig::PLAIN };
        }
        if self.n_attention_layers() == 0 {
            let (expected, got) = ("at least one layer of attention".to_string(), "none".to_string());
            return Err(Error::Field { field: field.to_string(), expected, got });
        }
        self.delta = (self.n_delta_layers() > 0).then_some(delta);
        Ok(())
    }
}

/// Whether a layer is a delta layer where the file does not say it.
fn is_usual(layer: usize, interval: usize) -> bool {
    !(layer + 1).is_multiple_of(interval)
}

/// Heads of values, as many of which share each head of keys.
fn value_heads(field: &str, n: usize, key_field: &str, n_key_heads: usize) -> Result<usize, Error> {
    match n.is_multiple_of(n_key_heads) {
        true => Ok(n),
        false => {
            let expected = format!("a multiple of {key_field} ({n_key_heads})");
            Err(Error::Field { field: field.to_string(), expected, got: n.to_string() })
        }
    }
}

fn conv_len(field: &str, len: usize) -> Result<usize, Error> {
    ranges::len(field, Some(len), 2..=CONV_LEN_MAX, || len.to_string())
}
