//! Gemma 4, its text part (the source is transformers' `Gemma4TextConfig`): as Gemma 3 without an offset of norms, but layers that
//! see everything have heads of their own, whose slowest pairs do not turn, and may have no projection of values; values are
//! normalised, scores not scaled. Small ones have layers that read the keys and values of others, and inputs per layer; one has
//! experts beside its feed-forward parts.

mod inputs;

use crate::config::architecture::{Architecture, LIKE_LLAMA};
use crate::config::experts::{self, Experts};
use crate::config::fields::{Fields, invalid, shown};
use crate::config::layers::{KvHeads, KvSource, LayerConfig};
use crate::config::of_gguf::Keys;
use crate::config::rope::{Rope, THETA};
use crate::config::unsupported::ANOTHER_MODEL;
use crate::config::windows::{sliding_layers, window_of_fields, window_of_keys};
use crate::config::{Family, HEAD_DIM_MAX, INTERMEDIATE_MAX, ModelConfig, RopeScaling, ranges};
use crate::error::Error;

use super::gemma2::{DEFAULTS, NORMS, cap, optional_cap, set_scales};
use super::gemma3::is_sliding;

const WINDOW_DEFAULT: u32 = 512;
/// Every so many layers one sees everything.
const PATTERN_DEFAULT: usize = 6;
/// Elements of the heads of layers that see everything.
const GLOBAL_HEAD_DIM_DEFAULT: usize = 512;
/// Base of the layers that see everything, and the share of their heads that turns.
const GLOBAL_THETA_DEFAULT: f64 = 1_000_000.0;
const GLOBAL_SHARE_DEFAULT: f64 = 0.25;
/// Indices into [`ModelConfig::ropes`].
const GLOBAL: usize = 0;
const LOCAL: usize = 1;
const GLOBAL_KV_HEADS: &str = "num_global_key_value_heads";
const SHARING: &str = "num_kv_shared_layers";
const SHARING_KEY: &str = "attention.shared_kv_layers";
const KV_HEADS_KEY: &str = "attention.head_count_kv";
const WIDTH_KEY: &str = "feed_forward_length";
const BIDIRECTIONAL: &str = "use_bidirectional_attention";
const ROPES: &str = "rope_parameters";
/// Fields about the rotary embedding of all layers, which this architecture does not have.
const COMMON_ROPE: [&str; 2] = ["rope_local_base_freq", "partial_rotary_factor"];

pub(in crate::config) const GEMMA4: Architecture = Architecture {
    family: Family::Gemma4,
    name: "Gemma4ForCausalLM",
    model_type: "gemma4_text",
    gguf: "gemma4",
    defaults: DEFAULTS,
    norms: NORMS,
    fields: &[
        "final_logit_softcapping",
        BIDIRECTIONAL,
        COMMON_ROPE[0],
        COMMON_ROPE[1],
        experts::FIELDS[0],
        experts::FIELDS[1],
    ],
    of_fields: |config, fields| {
        refuse(fields)?;
        config.has_qkv_bias = fields.flag("attention_bias")?;
        config.has_output_bias = config.has_qkv_bias;
        config.logit_soft_cap = cap(fields, "final_logit_softcapping")?;
        set_constants(config);
        let layers = layers(config, fields)?;
        config.ropes = ropes(fields, config, layers.global.head_dim)?;
        config.layer_inputs = inputs::of_fields(fields, config.vocab_len)?;
        config.experts = experts(fields)?;
        layers.set(config, SHARING)
    },
    keys: &["final_logit_softcapping", KV_HEADS_KEY, WIDTH_KEY, experts::KEYS[0]],
    of_keys: |config, keys| {
        let n_sharing = keys.optional_len(SHARING_KEY, 0..=config.n_layers - 1)?;
        read_keys(config, keys, n_sharing.unwrap_or(0))
    },
    is_written: false,
    ..LIKE_LLAMA
};

/// Its assistant, which is no model of its own: none of its layers has keys and values.
pub(in crate::config) const ASSISTANT: Architecture = Architecture {
    keys: &["final_logit_softcapping", KV_HEADS_KEY, WIDTH_KEY, experts::KEYS[0], "nextn_predict_layers"],
    of_keys: |config, keys| read_keys(config, keys, 0),
    ..GEMMA4
};

/// * `n_sharing`: layers that read keys and values of others.
fn read_keys(config: &mut ModelConfig, keys: &Keys<'_>, n_sharing: usize) -> Result<(), Error> {
    config.logit_soft_cap = optional_cap(keys, "final_logit_softcapping")?;
    set_constants(config);
    config.has_layer_scale = keys.has_tensor("blk.0.layer_output_scale.weight");
    let layers = Layers { n_sharing, ..layers_of_keys(config, keys)? };
    config.ropes.push(local_rope(config, keys)?);
    config.layer_inputs = inputs::of_keys(keys, config.vocab_len)?;
    config.experts = experts_of_keys(keys)?;
    layers.set(config, &keys.key(SHARING_KEY))
}

/// What no file says.
fn set_constants(config: &mut ModelConfig) {
    set_scales(config);
    config.attention_scale = 1.0;
    config.has_qk_norm = true;
    config.has_value_norm = true;
    config.has_layer_scale = true;
}

fn refuse(fields: Fields<'_>) -> Result<(), Error> {
    let unsupported = |feature, field: &str, value| {
        Err(Error::Unsupported { feature, got: format!("{field}: {}", shown(value)), hint: ANOTHER_MODEL })
    };
    // Text attends to earlier tokens alone where pictures attend to all of theirs.
    match fields.get(BIDIRECTIONAL) {
        Some(value) if value != "vision" && value != false => {
            return unsupported("attention to later tokens", BIDIRECTIONAL, value);
        }
        _ => {}
    }
    for field in COMMON_ROPE {
        if let Some(value) = fields.get(field) {
            return unsupported("a rotary embedding that is the same in all layers", field, value);
        }
    }
    Ok(())
}

fn experts(fields: Fields<'_>) -> Result<Option<Experts>, Error> {
    if !fields.flag("enable_moe_block")? {
        return Ok(None);
    }
    let experts = Experts::parse_named(fields, ["top_k_experts", "moe_intermediate_size"], true)?;
    Ok(Some(Experts { is_beside_dense: true, ..experts }))
}

fn experts_of_keys(keys: &Keys<'_>) -> Result<Option<Experts>, Error> {
    match keys.optional_len(experts::KEYS[0], 0..=usize::MAX)?.unwrap_or(0) {
        0 => Ok(None),
        _ => Ok(Some(Experts { is_beside_dense: true, ..keys.experts(true)? })),
    }
}

/// What files say about layers, in whatever spelling.
struct Layers {
    /// Which have a window.
    slide: Vec<bool>,
    window: u32,
    /// Heads of those that see everything.
    global: KvHeads,
    /// Which have no projection of values.
    keys_as_values: Vec<bool>,
    /// How many, the last ones, read what others have stored.
    n_sharing: usize,
    /// Widths of their feed-forward parts.
    widths: Vec<usize>,
}

fn layers(config: &ModelConfig, fields: Fields<'_>) -> Result<Layers, Error> {
    let n_layers = config.n_layers;
    let mut slide = sliding_layers(fields, n_layers, |i| is_sliding(i, PATTERN_DEFAULT))?;
    // Whatever the file says, as in the reference implementation.
    slide[n_layers - 1] = false;
    let keys_as_values = fields.flag("attention_k_eq_v")?;
    let n_sharing = fields.optional_len(SHARING, 0..=n_layers - 1)?.unwrap_or(0);
    let is_wide = fields.flag("use_double_wide_mlp")?;
    let width = |i| if is_wide && i + n_sharing >= n_layers { 2 } else { 1 } * config.intermediate;
    Ok(Layers {
        global: global_heads(config, fields, &slide, keys_as_values)?,
        keys_as_values: slide.iter().map(|slides| keys_as_values && !slides).collect(),
        slide,
        window: window_of_fields(fields)?.unwrap_or(WINDOW_DEFAULT),
        n_sharing,
        widths: (0..n_layers).map(width).collect(),
    })
}

/// Heads of layers that see everything, in the older spelling or the newer (`per_layer_config`).
fn global_heads(
    config: &ModelConfig,
    fields: Fields<'_>,
    slide: &[bool],
    keys_as_values: bool,
) -> Result<KvHeads, Error> {
    if let Some(listed) = fields.object("per_layer_config")? {
        return listed_heads(config, listed, slide);
    }
    const FIELD: &str = "global_head_dim";
    let head_dim = fields.optional_len(FIELD, 2..=HEAD_DIM_MAX)?.unwrap_or(GLOBAL_HEAD_DIM_DEFAULT);
    let n_kv_heads = fields.optional_len(GLOBAL_KV_HEADS, 1..=config.n_heads)?.filter(|_| keys_as_values);
    Ok(KvHeads {
        n_kv_heads: kv_heads(config, GLOBAL_KV_HEADS, n_kv_heads)?,
        head_dim: ranges::head_dim(FIELD, head_dim)?,
    })
}

/// Heads that a list names for every layer that sees everything, all alike, and for no other.
fn listed_heads(config: &ModelConfig, listed: Fields<'_>, slide: &[bool]) -> Result<KvHeads, Error> {
    const FIELD: &str = "per_layer_config";
    let wrong = |got: String| {
        let expected = "the same head_dim and num_key_value_heads for every layer of full_attention, and \
                        nothing else";
        Error::Field { field: FIELD.into(), expected: expected.into(), got }
    };
    let mut found = None;
    for (layer, slides) in slide.iter().enumerate() {
        let heads = match listed.get(&layer.to_string()) {
            None if *slides => continue,
            Some(value) if !slides => layer_heads(config, Fields::of(FIELD, value)?)?
                .ok_or_else(|| wrong(format!("{layer}: {}", shown(value))))?,
            None => return Err(wrong(format!("none for layer {layer}"))),
            Some(value) => return Err(wrong(format!("{layer}: {}", shown(value)))),
        };
        if found.replace(heads).is_some_and(|before| before != heads) {
            return Err(wrong(format!("others in layer {layer} than before")));
        }
    }
    found.ok_or_else(|| wrong("no layer of full_attention".into()))
}

/// Heads of an entry of the list; `None` where it says something else, too.
fn layer_heads(config: &ModelConfig, fields: Fields<'_>) -> Result<Option<KvHeads>, Error> {
    const HEADS: &str = "num_key_value_heads";
    const SIZE: &str = "head_dim";
    if !fields.are_among(&[HEADS, SIZE]) {
        return Ok(None);
    }
    let head_dim = fields.optional_len(SIZE, 2..=HEAD_DIM_MAX)?.unwrap_or(config.head_dim);
    let n_kv_heads = fields.optional_len(HEADS, 1..=config.n_heads)?;
    Ok(Some(KvHeads {
        n_kv_heads: kv_heads(config, HEADS, n_kv_heads)?,
        head_dim: ranges::head_dim(SIZE, head_dim)?,
    }))
}

fn kv_heads(config: &ModelConfig, field: &str, n_kv_heads: Option<usize>) -> Result<usize, Error> {
    let n_kv_heads = n_kv_heads.unwrap_or(config.n_kv_heads);
    ranges::kv_heads(field, n_kv_heads, "num_attention_heads", config.n_heads)
}

impl Layers {
    /// * `sharing_field`: the name of `n_sharing` in the file.
    fn set(&self, config: &mut ModelConfig, sharing_field: &str) -> Result<(), Error> {
        let usual = KvHeads { n_kv_heads: config.n_kv_heads, head_dim: config.head_dim };
        let first_sharing = config.n_layers - self.n_sharing;
        for (i, &slides) in self.slide.iter().enumerate() {
            let is_sharing = i >= first_sharing;
            let kv = match is_sharing {
                true => KvSource::Layer(self.last_storing(first_sharing, slides, sharing_field)?),
                false if self.keys_as_values[i] => KvSource::KeysAsValues,
                false => KvSource::Projections,
            };
            config.layers[i] = LayerConfig {
                window: slides.then_some(self.window),
                rope: Some(if slides { LOCAL } else { GLOBAL }),
                kv_heads: Some(self.global).filter(|global| !slides && *global != usual),
                kv,
                intermediate: Some(self.widths[i]).filter(|&width| width != config.intermediate),
                ..LayerConfig::PLAIN
            };
        }
        Ok(())
    }

    /// The last layer before those that share which is of the same kind.
    fn last_storing(&self, first_sharing: usize, slides: bool, field: &str) -> Result<usize, Error> {
        let below = &self.slide[..first_sharing];
        below.iter().rposition(|&other| other == slides).ok_or_else(|| Error::Field {
            field: field.to_string(),
            expected: "few enough for layers of both kinds to store keys and values".into(),
            got: format!("{} of {}", self.n_sharing, self.slide.len()),
        })
    }
}

/// Rotary embeddings of layers that see everything, and of those that see a window.
fn ropes(fields: Fields<'_>, config: &ModelConfig, global_head_dim: usize) -> Result<Vec<Rope>, Error> {
    let Some(value) = fields.get(ROPES) else {
        let turning = (GLOBAL_SHARE_DEFAULT * global_head_dim as f64 / 2.0) as usize;
        let global = Rope {
            theta: GLOBAL_THETA_DEFAULT,
            scaling: RopeScaling::None,
            rotary_dim: 2 * turning.max(1),
            span: global_head_dim,
        };
        return Ok(vec![global, Rope::plain(config.head_dim)]);
    };
    let of_kind = |kind, head_dim| {
        let rope = Rope::of_layers(fields, kind, head_dim, config)?;
        rope.ok_or_else(|| invalid(ROPES, "full_attention and sliding_attention", value))
    };
    Ok(vec![of_kind("full_attention", global_head_dim)?, of_kind("sliding_attention", config.head_dim)?])
}

/// What the keys of a GGUF file say of layers, whose `key_length` is that of layers that see everything; the size of the other heads becomes
/// the usual one.
fn layers_of_keys(config: &mut ModelConfig, keys: &Keys<'_>) -> Result<Layers, Error> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let n_layers = config.n_layers;
    let slide = keys.flags(PATTERN)?.ok_or_else(|| keys.missing(PATTERN))?;
    if slide.len() < n_layers {
        return Err(Error::Field {
            field: keys.key(PATTERN),
            expected: format!("one for each of {n_layers} layers"),
            got: slide.len().to_string(),
        });
    }
    let slide = slide[..n_layers].to_vec();
    let n_kv_heads = keys.lens(KV_HEADS_KEY, 1..=config.n_heads, n_layers)?;
    let n_kv_heads = n_kv_heads.unwrap_or_else(|| vec![config.n_kv_heads; n_layers]);
    let [local, global] = [true, false].map(|kind| heads_of_kind(keys, config, (&slide, &n_kv_heads), kind));
    let (local, global) = (local?, global?);
    let global = KvHeads { n_kv_heads: global.unwrap_or(config.n_kv_heads), head_dim: config.head_dim };
    config.n_kv_heads = local.unwrap_or(global.n_kv_heads);
    config.head_dim = local_head_dim(keys)?;
    let has_values = |i| keys.has_tensor(&format!("blk.{i}.attn_v.weight"));
    let widths = keys.lens(WIDTH_KEY, 1..=INTERMEDIATE_MAX, n_layers)?;
    Ok(Layers {
        slide,
        window: window_of_keys(keys)?.ok_or_else(|| keys.missing("attention.sliding_window"))?,
        global,
        keys_as_values: (0..n_layers).map(|i| !has_values(i)).collect(),
        n_sharing: 0,
        widths: widths.unwrap_or_else(|| vec![config.intermediate; n_layers]),
    })
}

/// Key/value heads of the layers of a kind, which all have as many; `None` without such layers.
///
/// * `layers`: which have a window, and heads of each.
fn heads_of_kind(
    keys: &Keys<'_>,
    config: &ModelConfig,
    (slide, n_kv_heads): (&[bool], &[usize]),
    kind: bool,
) -> Result<Option<usize>, Error> {
    let mut of_kind = slide.iter().zip(n_kv_heads).filter(|(slides, _)| **slides == kind).map(|(_, n)| *n);
    let Some(first) = of_kind.next() else { return Ok(None) };
    if let Some(other) = of_kind.find(|&n| n != first) {
        return Err(Error::Unsupported {
            feature: "layers of more than two shapes",
            got: format!("{}: {first} and {other}", keys.key(KV_HEADS_KEY)),
            hint: ANOTHER_MODEL,
        });
    }
    let (field, heads_field) = (keys.key(KV_HEADS_KEY), keys.key("attention.head_count"));
    ranges::kv_heads(&field, first, &heads_field, config.n_heads).map(Some)
}

/// Elements of the heads of layers with a window, of which keys have as many as values.
fn local_head_dim(keys: &Keys<'_>) -> Result<usize, Error> {
    const KEYS: &str = "attention.key_length_swa";
    const VALUES: &str = "attention.value_length_swa";
    let head_dim = ranges::head_dim(&keys.key(KEYS), keys.len(KEYS, HEAD_DIM_MAX)?)?;
    match keys.optional_len(VALUES, 0..=usize::MAX)?.filter(|&len| len != head_dim) {
        None => Ok(head_dim),
        Some(len) => Err(Error::Field {
            field: keys.key(VALUES),
            expected: format!("as many as {} ({head_dim})", keys.key(KEYS)),
            got: len.to_string(),
        }),
    }
}

/// Rotary embedding of layers with a window.
fn local_rope(config: &ModelConfig, keys: &Keys<'_>) -> Result<Rope, Error> {
    const TURNING: &str = "rope.dimension_count_swa";
    let usual = Rope::plain(config.head_dim);
    let rotary_dim = keys.optional_len(TURNING, 2..=config.head_dim)?.unwrap_or(config.head_dim);
    let rotary_dim = ranges::head_dim(&keys.key(TURNING), rotary_dim)?;
    let theta = keys.optional_number("rope.freq_base_swa", THETA)?.unwrap_or(usual.theta);
    Ok(Rope { theta, rotary_dim, span: rotary_dim, ..usual })
}
