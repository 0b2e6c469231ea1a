//! Phi-3 (arXiv:2404.14219) and Phi-4-mini (arXiv:2503.01743): fused projections, a rotary embedding of a part of each head whose
//! frequencies have factors of their own for long contexts.

use crate::config::Family;
use crate::config::architecture::{Architecture, Defaults, Fused, LIKE_LLAMA};
use crate::config::windows::{window_of_fields, window_of_keys};

pub(in crate::config) const PHI3: Architecture = Architecture {
    family: Family::Phi3,
    name: "Phi3ForCausalLM",
    model_type: "phi3",
    gguf: "phi3",
    defaults: Defaults { is_ungrouped: true, ..LIKE_LLAMA.defaults },
    fused: Fused { qkv: true, gate_up: true },
    fields: &["partial_rotary_factor"],
    of_fields: |config, fields| {
        config.set_windows(window_of_fields(fields)?, |_| true);
        Ok(())
    },
    of_keys: |config, keys| {
        config.set_windows(window_of_keys(keys)?, |_| true);
        Ok(())
    },
    keys: &["rope.dimension_count"],
    is_written: false,
    ..LIKE_LLAMA
};
