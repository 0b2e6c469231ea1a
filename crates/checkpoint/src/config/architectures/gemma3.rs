//! Gemma 3 (arXiv:2503.19786), its text part: as Gemma 2 without caps, with normalised queries and keys; five layers of six see a
//! window and turn by a base of their own.

use std::ops::RangeInclusive;

use super::gemma2::{DEFAULTS, NORMS, cap, optional_cap, read_scales, scale_attention, set_scales};
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::fields::Fields;
use crate::config::rope::THETA;
use crate::config::windows::{sliding_layers, window_of_fields, window_of_keys};
use crate::config::{Family, ModelConfig, N_LAYERS_MAX, Rope, RopeScaling};
use crate::error::Error;

const WINDOW_DEFAULT: u32 = 4096;
/// Every so many layers one sees everything.
const PATTERN_DEFAULT: usize = 6;
pub(super) const PATTERN: RangeInclusive<usize> = 1..=N_LAYERS_MAX;
/// Base of the layers that see a window.
const LOCAL_THETA_DEFAULT: f64 = 10_000.0;
/// Layers of the model of 27 billion weights, whose files do not say how attention is scaled.
const N_LAYERS_27B: usize = 62;
/// Indices into [`ModelConfig::ropes`].
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

pub(in crate::config) const GEMMA3: Architecture = Architecture {
    family: Family::Gemma3,
    name: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    gguf: "gemma3",
    defaults: Defaults { rope_theta: 1_000_000.0, ..DEFAULTS },
    norms: NORMS,
    fields: &[
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "rope_local_base_freq",
    ],
    of_fields: |config, fields| {
        read_scales(config, fields)?;
        config.has_qk_norm = true;
        config.attention_soft_cap = cap(fields, "attn_logit_softcapping")?;
        config.logit_soft_cap = cap(fields, "final_logit_softcapping")?;
        let pattern = fields.optional_len("sliding_window_pattern", PATTERN)?.unwrap_or(PATTERN_DEFAULT);
        let slides = sliding_layers(fields, config.n_layers, |i| is_sliding(i, pattern))?;
        let window = window_of_fields(fields)?.or(Some(WINDOW_DEFAULT));
        config.ropes = ropes(fields, config)?;
        set_local(config, window, |i| slides[i]);
        Ok(())
    },
    keys: &["final_logit_softcapping"],
    of_keys: |config, keys| {
        set_scales(config);
        scale_attention(config, config.n_layers == N_LAYERS_27B);
        config.has_qk_norm = true;
        config.logit_soft_cap = optional_cap(keys, "final_logit_softcapping")?;
        let pattern = keys.optional_len("attention.sliding_window_pattern", PATTERN)?;
        let pattern = pattern.unwrap_or(PATTERN_DEFAULT);
        let theta = keys.optional_number("rope.freq_base_swa", THETA)?.unwrap_or(LOCAL_THETA_DEFAULT);
        let local = Rope { theta, scaling: RopeScaling::None, ..config.ropes[GLOBAL].clone() };
        config.ropes.push(local);
        if let Some(window) = window_of_keys(keys)? {
            set_local(config, Some(window), |i| is_sliding(i, pattern));
        }
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};

/// Every `pattern`-th layer sees everything.
pub(super) fn is_sliding(layer: usize, pattern: usize) -> bool {
    !(layer + 1).is_multiple_of(pattern)
}

fn set_local(config: &mut ModelConfig, window: Option<u32>, slides: impl Fn(usize) -> bool) {
    for (_, layer) in config.layers.iter_mut().enumerate().filter(|(i, _)| slides(*i)) {
        layer.rope = Some(LOCAL);
    }
    config.set_windows(window, slides);
}

/// Rotary embeddings of layers that see everything, and of those that see a window; which are never scaled in the older spelling.
fn ropes(fields: Fields<'_>, config: &ModelConfig) -> Result<Vec<Rope>, Error> {
    let [global, local] = ["full_attention", "sliding_attention"]
        .map(|kind| Rope::of_layers(fields, kind, config.head_dim, config));
    let local = match local? {
        Some(local) => local,
        None => {
            let theta = fields.optional_number("rope_local_base_freq", THETA)?.unwrap_or(LOCAL_THETA_DEFAULT);
            Rope { theta, ..Rope::plain(config.head_dim) }
        }
    };
    Ok(vec![global?.unwrap_or_else(|| config.ropes[GLOBAL].clone()), local])
}
