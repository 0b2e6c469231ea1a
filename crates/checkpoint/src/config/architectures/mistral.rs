//! Mistral without experts: Jiang et al. (arXiv:2310.06825), Section 2; every layer sees a window.

use crate::config::Family;
use crate::config::architecture::{Architecture, LIKE_LLAMA, PerFile};
use crate::config::windows::window_of_fields;

/// Window where the file does not mention one (`null` means none).
const WINDOW_DEFAULT: u32 = 4096;

pub(in crate::config) const MISTRAL: Architecture = Architecture {
    family: Family::Mistral,
    name: "MistralForCausalLM",
    model_type: "mistral",
    gguf: "llama",
    turns_neighbours: PerFile { folder: false, gguf: true },
    of_fields: |config, fields| {
        let window = match fields.is_mentioned("sliding_window") {
            true => window_of_fields(fields)?,
            false => Some(WINDOW_DEFAULT),
        };
        config.set_windows(window, |_| true);
        Ok(())
    },
    ..LIKE_LLAMA
};
