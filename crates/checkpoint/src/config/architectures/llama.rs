//! Llama 2 and 3, and everything published in their shape: Touvron et al. (arXiv:2302.13971), Section 2.2.

use crate::config::Family;
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA, PerFile};
use crate::config::of_gguf::VOCAB_LEN;
use crate::config::windows::window_of_keys;

pub(in crate::config) const LLAMA: Architecture = Architecture {
    family: Family::Llama,
    name: "LlamaForCausalLM",
    model_type: "llama",
    gguf: "llama",
    defaults: Defaults { is_ungrouped: true, ..LIKE_LLAMA.defaults },
    turns_neighbours: PerFile { folder: false, gguf: true },
    of_fields: |config, fields| {
        if fields.get("sliding_window").is_some() {
            tracing::warn!("sliding_window is not used: models of this architecture see everything");
        }
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        config.has_mlp_bias = fields.flag("mlp_bias")?;
        Ok(())
    },
    // Mistral's files bear the same name.
    of_keys: |config, keys| {
        config.set_windows(window_of_keys(keys)?, |_| true);
        Ok(())
    },
    ..LIKE_LLAMA
};

/// The layer of an EAGLE-3 head, which is no model of its own: its file may leave the embeddings to the target.
pub(in crate::config) const EAGLE3: Architecture =
    Architecture { gguf: "eagle3", keys: &[VOCAB_LEN], of_keys: |_, _| Ok(()), ..LLAMA };
