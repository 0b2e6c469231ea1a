//! OLMoE (arXiv:2409.02060): experts whose weights are not scaled, queries and keys normalised over all heads together.

use crate::config::Family;
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::experts::{self, Experts};

pub(in crate::config) const OLMOE: Architecture = Architecture {
    family: Family::Olmoe,
    name: "OlmoeForCausalLM",
    model_type: "olmoe",
    gguf: "olmoe",
    defaults: Defaults { is_ungrouped: true, ..LIKE_LLAMA.defaults },
    fields: experts::FIELDS,
    of_fields: |config, fields| {
        config.has_qk_norm = true;
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        config.experts = Some(Experts::parse(fields, "intermediate_size", fields.flag("norm_topk_prob")?)?);
        Ok(())
    },
    keys: experts::KEYS,
    of_keys: |config, keys| {
        config.has_qk_norm = true;
        config.experts = Some(keys.experts(false)?);
        Ok(())
    },
    ..LIKE_LLAMA
};
