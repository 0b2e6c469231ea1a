//! Qwen3.5 and 3.6 without experts, their text part: three delta layers of four, and attention whose output is gated and that turns
//! a quarter of each head. The layer that predicts a token further (`mtp.*`, `nextn_predict_layers`) drafts
//! ([`MtpCheckpoint`](crate::MtpCheckpoint)).

use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::fields::Fields;
use crate::config::of_gguf::Keys;
use crate::config::unsupported::ANOTHER_MODEL;
use crate::config::{Activation, Family, ModelConfig};
use crate::error::Error;

pub(super) const DEFAULTS: Defaults =
    Defaults { head_dim: Some(256), rotary_share: 0.25, ..LIKE_LLAMA.defaults };
/// Name of the norm before the feed-forward part in GGUF files.
pub(super) const FEED_FORWARD_NORM: &str = "post_attention_norm";

pub(in crate::config) const QWEN3_5: Architecture = Architecture {
    family: Family::Qwen3_5,
    name: "Qwen3_5ForCausalLM",
    model_type: "qwen3_5_text",
    gguf: "qwen35",
    defaults: DEFAULTS,
    gguf_feed_forward_norm: FEED_FORWARD_NORM,
    fields: &["layer_types", "partial_rotary_factor"],
    of_fields: read_hybrid,
    keys: &["rope.dimension_count", "nextn_predict_layers"],
    of_keys: |config, keys| read_hybrid_keys(config, keys, true),
    is_written: false,
    ..LIKE_LLAMA
};

/// Fields of attention and delta layers.
pub(super) fn read_hybrid(config: &mut ModelConfig, fields: Fields<'_>) -> Result<(), Error> {
    config.norm_offset = 1.0;
    config.has_qkv_bias = fields.flag("attention_bias")?;
    set_attention(config, "attention_bias")?;
    if fields.optional_flag("attn_output_gate")? == Some(false) {
        return Err(refused("delta layers beside attention without gates", "attn_output_gate: false"));
    }
    if config.activation != Activation::Silu {
        return Err(refused("another activation of delta layers than silu", "hidden_act"));
    }
    config.read_delta(fields)
}

/// Keys of attention and delta layers.
///
/// * `is_tiled`: see [`DeltaShape::is_tiled`](crate::config::DeltaShape::is_tiled).
pub(super) fn read_hybrid_keys(
    config: &mut ModelConfig,
    keys: &Keys<'_>,
    is_tiled: bool,
) -> Result<(), Error> {
    set_attention(config, "blk.0.attn_q.bias")?;
    config.read_delta_keys(keys, is_tiled)
}

/// * `biases`: what says whether there are any.
fn set_attention(config: &mut ModelConfig, biases: &str) -> Result<(), Error> {
    config.has_qk_norm = true;
    config.has_output_gate = true;
    match config.has_qkv_bias {
        true => Err(refused("biases beside gated attention", biases)),
        false => Ok(()),
    }
}

fn refused(feature: &'static str, got: &str) -> Error {
    Error::Unsupported { feature, got: got.to_string(), hint: ANOTHER_MODEL }
}
