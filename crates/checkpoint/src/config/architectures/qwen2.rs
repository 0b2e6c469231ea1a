//! Qwen2 and 2.5 (arXiv:2407.10671): biases on query, key and value; the upper layers may see a window.

use crate::config::architecture::{Architecture, LIKE_LLAMA};
use crate::config::fields::Fields;
use crate::config::windows::{limit_context, sliding_layers, window_of_fields};
use crate::config::{Family, ModelConfig, N_LAYERS_MAX};
use crate::error::Error;

/// First layer with a window where the file names none.
const MAX_WINDOW_LAYERS_DEFAULT: usize = 28;

pub(in crate::config) const QWEN2: Architecture = Architecture {
    family: Family::Qwen2,
    name: "Qwen2ForCausalLM",
    model_type: "qwen2",
    gguf: "qwen2",
    of_fields: |config, fields| {
        config.has_qkv_bias = true;
        read_windows(config, fields)
    },
    of_keys: limit_context,
    ..LIKE_LLAMA
};

/// Windows of the layers from `max_window_layers` on, or of those that `layer_types` names.
pub(super) fn read_windows(config: &mut ModelConfig, fields: Fields<'_>) -> Result<(), Error> {
    if !fields.flag("use_sliding_window")? {
        return Ok(());
    }
    let first = fields.optional_len("max_window_layers", 0..=N_LAYERS_MAX)?;
    let first = first.unwrap_or(MAX_WINDOW_LAYERS_DEFAULT);
    let slides = sliding_layers(fields, config.n_layers, |i| i >= first)?;
    config.set_windows(window_of_fields(fields)?, |i| slides[i]);
    Ok(())
}
