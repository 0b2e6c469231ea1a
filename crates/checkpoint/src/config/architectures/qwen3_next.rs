//! Qwen3-Next and Qwen3-Coder-Next: the layers of Qwen3.5, whose inputs folders hold in turns by head of keys, and experts beside one
//! that all rows ask.

use super::qwen3_5::{DEFAULTS, FEED_FORWARD_NORM, read_hybrid, read_hybrid_keys};
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::experts::{self, Experts, SHARED, SHARED_KEY};
use crate::config::{DeltaLayout, Family, INTERMEDIATE_MAX};

pub(in crate::config) const QWEN3_NEXT: Architecture = Architecture {
    family: Family::Qwen3Next,
    name: "Qwen3NextForCausalLM",
    model_type: "qwen3_next",
    gguf: "qwen3next",
    defaults: Defaults { has_experts_alone: true, ..DEFAULTS },
    gguf_feed_forward_norm: FEED_FORWARD_NORM,
    fields: &[experts::FIELDS[0], experts::FIELDS[1], SHARED, "layer_types", "partial_rotary_factor"],
    of_fields: |config, fields| {
        read_hybrid(config, fields)?;
        config.delta_layout = DeltaLayout::Fused;
        let is_renormalised = fields.optional_flag("norm_topk_prob")?.unwrap_or(true);
        let experts = Experts::parse(fields, "moe_intermediate_size", is_renormalised)?;
        let shared = Some(fields.len(SHARED, INTERMEDIATE_MAX)?);
        config.experts = Some(Experts { shared, ..experts }.in_some_layers(fields, config.n_layers)?);
        Ok(())
    },
    keys: &[experts::KEYS[0], SHARED_KEY, "rope.dimension_count", "nextn_predict_layers"],
    of_keys: |config, keys| {
        read_hybrid_keys(config, keys, false)?;
        config.delta_layout = DeltaLayout::FusedScores;
        let shared = Some(keys.len(SHARED_KEY, INTERMEDIATE_MAX)?);
        config.experts = Some(Experts { shared, ..keys.experts(true)? });
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};
