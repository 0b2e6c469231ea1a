//! GLM-4 without experts (arXiv:2406.12793, and the release 0414): four norms per layer, and a rotary embedding that turns
//! neighbours in the first half of each head.

use crate::config::Family;
use crate::config::architecture::{Architecture, Defaults, Fused, LIKE_LLAMA, NormNames, PerFile};

pub(in crate::config) const GLM4: Architecture = Architecture {
    family: Family::Glm4,
    name: "Glm4ForCausalLM",
    model_type: "glm4",
    gguf: "glm4",
    defaults: Defaults { head_dim: Some(128), rotary_share: 0.5, ..LIKE_LLAMA.defaults },
    norms: NormNames {
        before_attention: "input_layernorm",
        after_attention: Some("post_self_attn_layernorm"),
        before_feed_forward: "post_attention_layernorm",
        after_feed_forward: Some("post_mlp_layernorm"),
    },
    fused: Fused { qkv: false, gate_up: true },
    turns_neighbours: PerFile { folder: true, gguf: true },
    fields: &["partial_rotary_factor"],
    of_fields: |config, fields| {
        config.has_qkv_bias = fields.optional_flag("attention_bias")?.unwrap_or(true);
        Ok(())
    },
    keys: &["rope.dimension_count"],
    is_written: false,
    ..LIKE_LLAMA
};
