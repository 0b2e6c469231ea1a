//! Gemma 2 (arXiv:2408.00118): four norms per layer, stored less 1; every other layer sees a window; attention and logits are
//! soft-capped.

use std::ops::RangeInclusive;

use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA, NormNames};
use crate::config::fields::Fields;
use crate::config::of_gguf::Keys;
use crate::config::windows::{sliding_layers, window_of_fields, window_of_keys};
use crate::config::{Activation, Family, ModelConfig};
use crate::error::Error;

/// Caps that are accepted; published ones are 30 and 50.
const CAP: RangeInclusive<f64> = 1e-3..=1e6;
/// What attention is scaled by the root of: the size of a head, published ones stay under 300.
const SCALAR: RangeInclusive<f64> = 1e-3..=1e6;
const WINDOW_DEFAULT: u32 = 4096;
const ATTENTION_CAP_DEFAULT: f64 = 50.0;
const LOGIT_CAP_DEFAULT: f64 = 30.0;
/// Layers of the model of 27 billion weights, whose files do not say how attention is scaled.
const N_LAYERS_27B: usize = 46;

pub(super) const NORMS: NormNames = NormNames {
    before_attention: "input_layernorm",
    after_attention: Some("post_attention_layernorm"),
    before_feed_forward: "pre_feedforward_layernorm",
    after_feed_forward: Some("post_feedforward_layernorm"),
};

pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(256),
    is_ungrouped: false,
    activation: Activation::GeluTanh,
    ties_embeddings: true,
    rope_theta: 10_000.0,
    rotary_share: 1.0,
    has_experts_alone: false,
};

pub(in crate::config) const GEMMA2: Architecture = Architecture {
    family: Family::Gemma2,
    name: "Gemma2ForCausalLM",
    model_type: "gemma2",
    gguf: "gemma2",
    defaults: DEFAULTS,
    norms: NORMS,
    fields: &["query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"],
    of_fields: |config, fields| {
        let or_default = |field, default| match fields.is_mentioned(field) {
            true => cap(fields, field),
            false => Ok(Some(default)),
        };
        read_scales(config, fields)?;
        config.attention_soft_cap = or_default("attn_logit_softcapping", ATTENTION_CAP_DEFAULT as f32)?;
        config.logit_soft_cap = or_default("final_logit_softcapping", LOGIT_CAP_DEFAULT as f32)?;
        let slides = sliding_layers(fields, config.n_layers, is_sliding)?;
        config.set_windows(window_of_fields(fields)?.or(Some(WINDOW_DEFAULT)), |i| slides[i]);
        Ok(())
    },
    keys: &["attn_logit_softcapping", "final_logit_softcapping"],
    of_keys: |config, keys| {
        set_scales(config);
        scale_attention(config, config.n_layers == N_LAYERS_27B);
        let cap = |name, default| Ok::<_, Error>(keys.optional_number(name, CAP)?.unwrap_or(default) as f32);
        config.attention_soft_cap = Some(cap("attn_logit_softcapping", ATTENTION_CAP_DEFAULT)?);
        config.logit_soft_cap = Some(cap("final_logit_softcapping", LOGIT_CAP_DEFAULT)?);
        config.set_windows(window_of_keys(keys)?.or(Some(WINDOW_DEFAULT)), is_sliding);
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};

fn is_sliding(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

/// Biases and scales as Gemma 2 and 3 have them.
pub(super) fn read_scales(config: &mut ModelConfig, fields: Fields<'_>) -> Result<(), Error> {
    config.has_qkv_bias = fields.flag("attention_bias")?;
    config.has_output_bias = config.has_qkv_bias;
    config.norm_offset = 1.0;
    set_scales(config);
    let scalar = fields.optional_number("query_pre_attn_scalar", SCALAR)?;
    config.attention_scale = scalar.unwrap_or(256.0).sqrt().recip() as f32;
    Ok(())
}

pub(super) fn set_scales(config: &mut ModelConfig) {
    config.embedding_scale = (config.hidden as f64).sqrt() as f32;
}

/// Attention of files that do not say how it is scaled: the largest models take the width per head, all others its size.
pub(super) fn scale_attention(config: &mut ModelConfig, is_largest: bool) {
    let scalar = if is_largest { (config.hidden / config.n_heads).max(1) } else { config.head_dim };
    config.attention_scale = (scalar as f64).sqrt().recip() as f32;
}

pub(super) fn cap(fields: Fields<'_>, field: &'static str) -> Result<Option<f32>, Error> {
    Ok(fields.optional_number(field, CAP)?.map(|cap| cap as f32))
}

pub(super) fn optional_cap(keys: &Keys<'_>, name: &str) -> Result<Option<f32>, Error> {
    // 0 is off.
    let cap = keys.optional_number(name, 0.0..=*CAP.end())?.filter(|&cap| cap > 0.0);
    Ok(cap.map(|cap| cap as f32))
}
