//! Granite 3 without experts: Llama with four multipliers (maximal update parametrisation: Yang et al., arXiv:2203.03466).

use std::ops::RangeInclusive;

use crate::config::Family;
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA, PerFile};
use crate::error::Error;

/// Multipliers that are accepted; published ones are from 0.01 to 16.
const MULTIPLIER: RangeInclusive<f64> = 1e-6..=1e6;

pub(in crate::config) const GRANITE: Architecture = Architecture {
    family: Family::Granite,
    name: "GraniteForCausalLM",
    model_type: "granite",
    gguf: "granite",
    defaults: Defaults { is_ungrouped: true, ..LIKE_LLAMA.defaults },
    turns_neighbours: PerFile { folder: false, gguf: true },
    fields: &["embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"],
    of_fields: |config, fields| {
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        config.has_mlp_bias = fields.flag("mlp_bias")?;
        let multiplier = |field| Ok::<_, Error>(fields.optional_number(field, MULTIPLIER)?.unwrap_or(1.0));
        config.embedding_scale = multiplier("embedding_multiplier")? as f32;
        config.residual_scale = multiplier("residual_multiplier")? as f32;
        config.logit_scale = multiplier("logits_scaling")?.recip() as f32;
        config.attention_scale = multiplier("attention_multiplier")? as f32;
        Ok(())
    },
    keys: &["embedding_scale", "residual_scale", "logit_scale", "attention.scale"],
    of_keys: |config, keys| {
        // 0 is off.
        let multiplier = |name| {
            let number = keys.optional_number(name, 0.0..=*MULTIPLIER.end())?;
            Ok::<_, Error>(number.filter(|&number| number > 0.0))
        };
        config.embedding_scale = multiplier("embedding_scale")?.unwrap_or(1.0) as f32;
        config.residual_scale = multiplier("residual_scale")?.unwrap_or(1.0) as f32;
        config.logit_scale = multiplier("logit_scale")?.unwrap_or(1.0).recip() as f32;
        if let Some(scale) = multiplier("attention.scale")? {
            config.attention_scale = scale as f32;
        }
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};
