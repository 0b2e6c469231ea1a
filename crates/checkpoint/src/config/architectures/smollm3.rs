//! SmolLM3: Llama in which every fourth layer has no rotary embedding (Yang et al., arXiv:2501.18795, Section 3).

use serde_json::Value;

use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA, PerFile};
use crate::config::fields::{Fields, invalid};
use crate::config::windows::{sliding_layers, window_of_fields};
use crate::config::{Family, ModelConfig, N_LAYERS_MAX};
use crate::error::Error;

/// Every so many layers one has no rotary embedding.
const INTERVAL_DEFAULT: usize = 4;
const LAYERS: &str = "no_rope_layers";

pub(in crate::config) const SMOLLM3: Architecture = Architecture {
    family: Family::SmolLm3,
    name: "SmolLM3ForCausalLM",
    model_type: "smollm3",
    gguf: "smollm3",
    defaults: Defaults {
        is_ungrouped: true,
        ties_embeddings: true,
        rope_theta: 2_000_000.0,
        ..LIKE_LLAMA.defaults
    },
    turns_neighbours: PerFile { folder: false, gguf: true },
    fields: &["no_rope_layers", "no_rope_layer_interval"],
    of_fields: |config, fields| {
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        config.has_mlp_bias = fields.flag("mlp_bias")?;
        let turns = turning_layers(fields, config.n_layers)?;
        set_turning(config, |i| turns[i]);
        if fields.flag("use_sliding_window")? {
            let slides = sliding_layers(fields, config.n_layers, |i| !turns[i])?;
            config.set_windows(window_of_fields(fields)?, |i| slides[i]);
        }
        Ok(())
    },
    of_keys: |config, _| {
        set_turning(config, |i| is_turning(i, INTERVAL_DEFAULT));
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};

fn is_turning(layer: usize, interval: usize) -> bool {
    !(layer + 1).is_multiple_of(interval)
}

fn set_turning(config: &mut ModelConfig, turns: impl Fn(usize) -> bool) {
    for (_, layer) in config.layers.iter_mut().enumerate().filter(|(i, _)| !turns(*i)) {
        layer.rope = None;
    }
}

/// Which layers have a rotary embedding: 1 in the list, which may be longer than the model.
fn turning_layers(fields: Fields<'_>, n_layers: usize) -> Result<Vec<bool>, Error> {
    let Some(value) = fields.get(LAYERS) else {
        let interval = fields.optional_len("no_rope_layer_interval", 1..=N_LAYERS_MAX)?;
        let interval = interval.unwrap_or(INTERVAL_DEFAULT);
        return Ok((0..n_layers).map(|i| is_turning(i, interval)).collect());
    };
    let expected = || format!("a list of 0 or 1 for each of {n_layers} layers");
    let list = value.as_array().filter(|list| list.len() >= n_layers);
    let list = list.ok_or_else(|| invalid(LAYERS, expected(), value))?;
    let turns = |value: &Value| match value.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(invalid(LAYERS, expected(), value)),
    };
    list.iter().take(n_layers).map(turns).collect()
}
