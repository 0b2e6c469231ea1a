//! What a configuration may ask for and is not implemented: refused by name, never ignored.
//!
//! Fields that change what a model computes stand here with the values under which they change nothing. Fields about training
//! and storage, and everything unknown, are passed over; so are those whose effect shows in the tensors (biases, further
//! norms), which are judged there.

use serde_json::Value;

use super::fields::{Fields, shown};
use crate::error::Error;

pub(super) const ANOTHER_MODEL: &str = "use another model, or remove the field if the weights do not need it";
/// How far a scale may be from the one that is used, relatively: files round decimals.
pub(super) const SCALE_TOLERANCE: f64 = 1e-6;
/// Fields about rotary embedding that may also stand inside its own object.
const ROPE_OBJECTS: [&str; 2] = ["rope_parameters", "rope_scaling"];

/// Field that says how weights are quantised.
pub(super) const QUANTISATION: &str = "quantization_config";
const PARTIAL: &str = "partial_rotary_factor";
const LOCAL_BASE: &str = "rope_local_base_freq";
const LAYER_KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// Error about a draft that was given as a model.
pub(super) fn as_a_model(feature: &'static str, got: String) -> Error {
    Error::Unsupported { feature, got, hint: "give it as the draft of the model that it was trained for" }
}

/// Values under which a field changes nothing; absent, `null` and `false` never do.
enum Neutral {
    /// No other.
    Off,
    /// 0, an empty list or an empty object.
    Zero,
    /// 1.
    One,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A list of these words alone.
    ListOf(&'static [&'static str]),
}

use Neutral::{ListOf, Off, One, Words, Zero};

/// Field, when it is neutral, and what it asks for otherwise.
const FIELDS: &[(&str, Neutral, &str)] = &[
    ("num_local_experts", Zero, EXPERTS),
    ("num_experts", Zero, EXPERTS),
    ("n_routed_experts", Zero, OTHER_EXPERTS),
    ("n_shared_experts", Zero, OTHER_EXPERTS),
    ("shared_expert_intermediate_size", Zero, OTHER_EXPERTS),
    (PARTIAL, One, PARTIAL_ROTARY),
    ("rotary_pct", One, PARTIAL_ROTARY),
    ("rope_percent", One, PARTIAL_ROTARY),
    ("rope_interleave", Off, "an interleaved rotary embedding"),
    ("rope_interleaved", Off, "an interleaved rotary embedding"),
    (LOCAL_BASE, Off, ROPES),
    ("no_rope_layers", ListOf(&["1"]), "layers without rotary embedding"),
    ("no_rope_layer_interval", Zero, "layers without rotary embedding"),
    ("position_embedding_type", Words(&["rope", "rotary"]), "positions other than rotary"),
    ("alibi", Off, "positions other than rotary"),
    ("layer_types", ListOf(&LAYER_KINDS), "another kind of layer"),
    ("block_configs", Zero, "layers of different shapes"),
    ("attn_logit_softcapping", Off, SOFT_CAPPING),
    ("final_logit_softcapping", Off, SOFT_CAPPING),
    ("logit_softcapping", Off, SOFT_CAPPING),
    ("logits_soft_cap", Off, SOFT_CAPPING),
    ("clip_qkv", Off, "clipped queries, keys and values"),
    ("attention_chunk_size", Off, "attention within chunks"),
    ("attn_temperature_tuning", Zero, "attention scaled by position"),
    ("use_bidirectional_attention", Off, "attention to later tokens"),
    ("is_encoder_decoder", Off, "an encoder"),
    ("add_cross_attention", Off, "an encoder"),
    ("use_parallel_residual", Off, PARALLEL),
    ("parallel_attn", Off, PARALLEL),
    ("embedding_multiplier", One, MULTIPLIER),
    ("embedding_scale", One, MULTIPLIER),
    ("scale_emb", One, MULTIPLIER),
    ("residual_multiplier", One, MULTIPLIER),
    ("residual_scale", One, MULTIPLIER),
    ("logits_scaling", One, MULTIPLIER),
    ("logit_scale", One, MULTIPLIER),
    ("lm_head_multiplier", One, MULTIPLIER),
    ("scale_depth", Off, MULTIPLIER),
    ("dim_model_base", Off, MULTIPLIER),
];

pub(super) const EXPERTS: &str = "a mixture of experts";
pub(super) const OTHER_EXPERTS: &str = "another kind of experts";
const ROPES: &str = "a rotary embedding that differs between layers";
pub(super) const PARTIAL_ROTARY: &str = "a rotary embedding of a part of each head";
pub(super) const SOFT_CAPPING: &str = "soft-capping of attention or logits";
pub(super) const PARALLEL: &str = "attention beside the feed-forward layer";
pub(super) const MULTIPLIER: &str = "a multiplier";

/// * `read`: fields that the architecture reads itself.
///
/// # Errors
/// [`Error::Unsupported`] for the first field that asks for what is not implemented.
pub(super) fn refuse(fields: Fields<'_>, read: &[&str]) -> Result<(), Error> {
    refuse_quantised(fields, read)?;
    for (field, neutral, feature) in FIELDS.iter().filter(|(field, ..)| !read.contains(field)) {
        refuse_unless(fields, field, neutral, feature)?;
    }
    for object in ROPE_OBJECTS {
        let Some(rope) = fields.object(object)? else { continue };
        if !read.contains(&PARTIAL) {
            refuse_unless(rope, PARTIAL, &One, PARTIAL_ROTARY)?;
        }
        if !read.contains(&LOCAL_BASE) {
            for kind in LAYER_KINDS {
                refuse_unless(rope, kind, &Off, ROPES)?;
            }
        }
    }
    refuse_windows_without_length(fields)
}

/// * `read`: as for [`refuse`].
///
/// # Errors
/// [`Error::Unsupported`] if attention is scaled by something else than `1 / sqrt(head_dim)`.
pub(super) fn refuse_scales(fields: Fields<'_>, head_dim: usize, read: &[&str]) -> Result<(), Error> {
    let head_dim = head_dim as f64;
    let scale = head_dim.sqrt().recip();
    for (field, used) in [
        ("attention_multiplier", scale),
        ("attn_scale", scale),
        ("softmax_scale", scale),
        ("query_pre_attn_scalar", head_dim),
        ("rotary_dim", head_dim),
    ] {
        let value = fields.get(field).filter(|_| !read.contains(&field));
        let is_used =
            |value: &Value| value.as_f64().is_some_and(|x| (x / used - 1.0).abs() <= SCALE_TOLERANCE);
        if let Some(value) = value.filter(|value| !is_used(value)) {
            let feature = if field == "rotary_dim" { PARTIAL_ROTARY } else { "another scale of attention" };
            return Err(unsupported(feature, field, value, ANOTHER_MODEL));
        }
    }
    Ok(())
}

fn refuse_quantised(fields: Fields<'_>, read: &[&str]) -> Result<(), Error> {
    for field in [QUANTISATION, "compression_config"].into_iter().filter(|field| !read.contains(field)) {
        if let Some(quantization) = fields.object(field)? {
            return Err(quantised(quantization));
        }
    }
    Ok(())
}

/// Error about weights that are quantised in a way that is not read.
pub(super) fn quantised(quantization: Fields<'_>) -> Error {
    let method = quantization.get("quant_method").map_or_else(|| "unnamed".to_string(), shown);
    Error::Unsupported {
        feature: "a quantised checkpoint",
        got: format!("quant_method: {method}"),
        hint: "use the original weights in bf16, f16 or f32",
    }
}

/// Without the length of a window nobody knows how far a layer sees.
fn refuse_windows_without_length(fields: Fields<'_>) -> Result<(), Error> {
    let types = fields.get("layer_types").and_then(Value::as_array);
    let has_windows = types.is_some_and(|types| types.iter().any(|kind| kind == "sliding_attention"));
    match has_windows && fields.get("sliding_window").is_none() {
        true => Err(Error::FieldMissing { field: "sliding_window" }),
        false => Ok(()),
    }
}

fn refuse_unless(
    fields: Fields<'_>,
    field: &str,
    neutral: &Neutral,
    feature: &'static str,
) -> Result<(), Error> {
    match fields.get(field) {
        Some(value) if !neutral.has(value) => Err(unsupported(feature, field, value, hint(feature))),
        _ => Ok(()),
    }
}

/// What the user can do.
pub(super) fn hint(feature: &str) -> &'static str {
    if feature == EXPERTS { "use a dense model of the family" } else { ANOTHER_MODEL }
}

fn unsupported(feature: &'static str, field: &str, value: &Value, hint: &'static str) -> Error {
    let value = value.as_str().map_or_else(|| shown(value), str::to_string);
    Error::Unsupported { feature, got: format!("{field}: {value}"), hint }
}

impl Neutral {
    fn has(&self, value: &Value) -> bool {
        let is_word = |value: &Value, words: &[&str]| words.iter().any(|word| plain(value) == *word);
        match (self, value) {
            (_, Value::Null | Value::Bool(false)) => true,
            (Self::Zero, Value::Array(list)) => list.is_empty(),
            (Self::Zero, Value::Object(map)) => map.is_empty(),
            (Self::Zero, value) => value.as_f64() == Some(0.0),
            (Self::One, value) => value.as_f64() == Some(1.0),
            (Self::Words(words), value) => is_word(value, words),
            (Self::ListOf(words), Value::Array(list)) => list.iter().all(|value| is_word(value, words)),
            (Self::Off | Self::ListOf(_), _) => false,
        }
    }
}

/// A value as a word.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
