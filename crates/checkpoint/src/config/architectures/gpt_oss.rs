//! gpt-oss (arXiv:2508.10925, Section 2): every other layer sees a window, every head has a sink, all projections have biases, and
//! the experts a clamped gate; these are published in MXFP4.

use super::gemma3::{PATTERN, is_sliding};
use crate::config::architecture::{Architecture, Defaults, LIKE_LLAMA};
use crate::config::experts::{self, ExpertLayout, Experts};
use crate::config::fields::{Fields, shown};
use crate::config::unsupported::{ANOTHER_MODEL, QUANTISATION, quantised};
use crate::config::windows::{sliding_layers, window_of_fields, window_of_keys};
use crate::config::{Activation, Family, ModelConfig, RopeScaling};
use crate::error::Error;
use crate::stored::Dtype;

const WINDOW_DEFAULT: u32 = 128;
/// Every so many layers one sees everything.
const PATTERN_DEFAULT: usize = 2;
/// Numbers of the gate that are computed, by the fields that may say others.
const GATE: [(&str, f64); 2] = [("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)];

pub(in crate::config) const GPT_OSS: Architecture = Architecture {
    family: Family::GptOss,
    name: "GptOssForCausalLM",
    model_type: "gpt_oss",
    gguf: "gpt-oss",
    defaults: Defaults { head_dim: Some(64), rope_theta: 150_000.0, ..LIKE_LLAMA.defaults },
    gguf_feed_forward_norm: "post_attention_norm",
    fields: &[experts::FIELDS[0], experts::FIELDS[1], QUANTISATION],
    of_fields: |config, fields| {
        config.has_qkv_bias = fields.optional_flag("attention_bias")?.unwrap_or(true);
        config.has_output_bias = config.has_qkv_bias;
        check_gate(fields)?;
        check_rope(fields)?;
        let experts = Experts::parse(fields, "intermediate_size", true)?;
        let layout = layout(fields)?;
        if layout == ExpertLayout::Mxfp4 {
            check_blocks("hidden_size", config.hidden)?;
            check_blocks("intermediate_size", experts.intermediate)?;
        }
        set(config, Experts { layout, ..experts });
        let slides = sliding_layers(fields, config.n_layers, |i| is_sliding(i, PATTERN_DEFAULT))?;
        config.set_windows(window_of_fields(fields)?.or(Some(WINDOW_DEFAULT)), |i| slides[i]);
        Ok(())
    },
    keys: experts::KEYS,
    of_keys: |config, keys| {
        set(config, keys.experts(true)?);
        // Deviation from llama.cpp, which rounds: the model was trained without, and no key says so.
        if let RopeScaling::Yarn { is_truncated, .. } = &mut config.ropes[0].scaling {
            *is_truncated = false;
        }
        let pattern = keys.optional_len("attention.sliding_window_pattern", PATTERN)?;
        let pattern = pattern.unwrap_or(PATTERN_DEFAULT);
        config.set_windows(window_of_keys(keys)?.or(Some(WINDOW_DEFAULT)), |i| is_sliding(i, pattern));
        Ok(())
    },
    is_written: false,
    ..LIKE_LLAMA
};

/// What no file says.
fn set(config: &mut ModelConfig, experts: Experts) {
    config.has_sinks = true;
    config.activation = Activation::ClampedSwiGlu;
    config.experts = Some(Experts { has_bias: true, ..experts });
}

fn check_gate(fields: Fields<'_>) -> Result<(), Error> {
    for (field, expected) in GATE {
        match fields.get(field) {
            Some(value) if value.as_f64() != Some(expected) => {
                return Err(Error::Unsupported {
                    feature: "another clamp or slope of the experts' gate",
                    got: format!("{field}: {}", shown(value)),
                    hint: ANOTHER_MODEL,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Without the fields the reference implementation assumes a scaling of its own, elsewhere there is none: nobody should guess.
fn check_rope(fields: Fields<'_>) -> Result<(), Error> {
    match fields.get("rope_scaling").or(fields.get("rope_parameters")) {
        Some(_) => Ok(()),
        None => Err(Error::FieldMissing { field: "rope_scaling" }),
    }
}

fn layout(fields: Fields<'_>) -> Result<ExpertLayout, Error> {
    let Some(quantisation) = fields.object(QUANTISATION)? else { return Ok(ExpertLayout::Columns) };
    match quantisation.text("quant_method")? {
        Some("mxfp4") => Ok(ExpertLayout::Mxfp4),
        _ => Err(quantised(quantisation)),
    }
}

fn check_blocks(field: &str, len: usize) -> Result<(), Error> {
    let block_len = Dtype::Mxfp4.block_len();
    match len.is_multiple_of(block_len) {
        true => Ok(()),
        false => Err(Error::Field {
            field: field.into(),
            expected: format!("a multiple of {block_len} where experts are in MXFP4"),
            got: len.to_string(),
        }),
    }
}
