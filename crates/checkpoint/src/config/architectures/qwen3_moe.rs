//! Qwen3 with experts (arXiv:2505.09388): in all layers or some, the weights of the chosen ones mostly scaled to a sum of 1.

use super::qwen2::read_windows;
use crate::config::Family;
use crate::config::architecture::{Architecture, LIKE_LLAMA};
use crate::config::experts::{self, Experts};
use crate::config::windows::limit_context;

pub(in crate::config) const QWEN3_MOE: Architecture = Architecture {
    family: Family::Qwen3Moe,
    name: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    gguf: "qwen3moe",
    fields: experts::FIELDS,
    of_fields: |config, fields| {
        config.has_qk_norm = true;
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        let experts = Experts::parse(fields, "moe_intermediate_size", fields.flag("norm_topk_prob")?)?;
        config.experts = Some(experts.in_some_layers(fields, config.n_layers)?);
        read_windows(config, fields)
    },
    keys: experts::KEYS,
    of_keys: |config, keys| {
        config.has_qk_norm = true;
        config.experts = Some(keys.experts(true)?);
        limit_context(config, keys)
    },
    ..LIKE_LLAMA
};
