//! Qwen3 without experts (arXiv:2505.09388): queries and keys are normalised per head.

use super::qwen2::read_windows;
use crate::config::Family;
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::windows::limit_context;

pub(in crate::config) const QWEN3: Architecture = Architecture {
    family: Family::Qwen3,
    name: "Qwen3ForCausalLM",
    model_type: "qwen3",
    gguf: "qwen3",
    defaults: Defaults { head_dim: Some(128), ..LIKE_LLAMA.defaults },
    of_fields: |config, fields| {
        config.has_qk_norm = true;
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        read_windows(config, fields)
    },
    of_keys: |config, keys| {
        config.has_qk_norm = true;
        limit_context(config, keys)
    },
    ..LIKE_LLAMA
};
