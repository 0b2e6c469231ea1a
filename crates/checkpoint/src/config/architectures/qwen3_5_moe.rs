//! Qwen3.5 and 3.6 with experts in every layer, beside one that all rows ask.

use super::qwen3_5::{DEFAULTS, FEED_FORWARD_NORM, read_hybrid, read_hybrid_keys};
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::experts::{self, Experts, SHARED, SHARED_KEY};
use crate::config::{Family, INTERMEDIATE_MAX};

pub(in crate::config) const QWEN3_5_MOE: Architecture = Architecture {
    family: Family::Qwen3_5Moe,
    name: "Qwen3_5MoeForCausalLM",
    model_type: "qwen3_5_moe_text",
    gguf: "qwen35moe",
    defaults: Defaults { has_experts_alone: true, ..DEFAULTS },
    gguf_feed_forward_norm: FEED_FORWARD_NORM,
    fields: &[experts::FIELDS[0], experts::FIELDS[1], SHARED, "layer_types", "partial_rotary_factor"],
    of_fields: |config, fields| {
        read_hybrid(config, fields)?;
        let shared = Some(fields.len(SHARED, INTERMEDIATE_MAX)?);
        config.experts = Some(Experts { shared, ..Experts::parse(fields, "moe_intermediate_size", true)? });
        Ok(())
    },
    keys: &[experts::KEYS[0], SHARED_KEY, "rope.dimension_count", "nextn_predict_layers"],
    of_keys: |config, keys| {
        read_hybrid_keys(config, keys, true)?;
        let shared = Some(keys.len(SHARED_KEY, INTERMEDIATE_MAX)?);
        config.experts = Some(Experts { shared, ..keys.experts(true)? });
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};
