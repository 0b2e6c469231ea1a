//! Windows of layers: how far back each of them sees, in every spelling.

use serde_json::Value;

use super::fields::{Fields, shown};
use super::of_gguf::Keys;
use super::{CONTEXT_LEN_MAX, ModelConfig};
use crate::error::Error;

const WINDOW: &str = "sliding_window";
const WINDOW_KEY: &str = "attention.sliding_window";
const LAYER_TYPES: &str = "layer_types";

impl ModelConfig {
    /// Gives the layers for which `slides` holds a window.
    ///
    /// * `window`: `None` leaves them as they are.
    pub(super) fn set_windows(&mut self, window: Option<u32>, slides: impl Fn(usize) -> bool) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if slides(i) {
                layer.window = window;
            }
        }
    }
}

/// Positions that a layer with a window sees; `None` is all.
pub(super) fn window_of_fields(fields: Fields<'_>) -> Result<Option<u32>, Error> {
    let window = fields.optional_len(WINDOW, 1..=CONTEXT_LEN_MAX)?;
    Ok(window.map(|window| window as u32))
}

/// Which layers have a window: those that `layer_types` says, otherwise those for which `usual` holds.
pub(super) fn sliding_layers(
    fields: Fields<'_>,
    n_layers: usize,
    usual: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, Error> {
    layers_of_kind(fields, n_layers, "sliding_attention", usual)
}

/// Which layers are of a kind other than `full_attention`: those that `layer_types` says, otherwise those for which `usual` holds.
pub(super) fn layers_of_kind(
    fields: Fields<'_>,
    n_layers: usize,
    kind: &str,
    usual: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, Error> {
    let Some(types) = fields.get(LAYER_TYPES) else {
        return Ok((0..n_layers).map(usual).collect());
    };
    let invalid = |expected: String, got: String| Error::Field { field: LAYER_TYPES.into(), expected, got };
    let list = types.as_array().ok_or_else(|| invalid("a list".into(), shown(types)))?;
    if list.len() != n_layers {
        let expected = format!("one type for each of {n_layers} layers");
        return Err(invalid(expected, list.len().to_string()));
    }
    let is_of_kind = |found: &Value| match found.as_str() {
        Some(found) if found == kind => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(invalid(format!("full_attention and {kind}"), shown(found))),
    };
    list.iter().map(is_of_kind).collect()
}

/// As [`window_of_fields`]; 0 is all.
pub(super) fn window_of_keys(keys: &Keys<'_>) -> Result<Option<u32>, Error> {
    let window = keys.optional_len(WINDOW_KEY, 0..=u32::MAX as usize)?.filter(|&window| window > 0);
    Ok(window.map(|window| window.min(CONTEXT_LEN_MAX) as u32))
}

/// Reads a window of which the file does not say which layers have it: it changes nothing for sequences that are no longer.
pub(super) fn limit_context(config: &mut ModelConfig, keys: &Keys<'_>) -> Result<(), Error> {
    let trained = config.context_len_max;
    let served = window_of_keys(keys)?.map_or(trained, |window| window.min(trained));
    if served < trained {
        tracing::warn!(served, trained, "the context is limited to the model's sliding window");
    }
    config.context_len_max = served;
    Ok(())
}
