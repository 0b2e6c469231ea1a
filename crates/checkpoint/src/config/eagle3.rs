//! What an EAGLE-3 head is: the needed facts of its `config.json`.
//!
//! EAGLE-3 (arXiv:2503.01840) drafts with one layer over what the target made of the tokens so far. Heads are published with a
//! configuration in the shape of a Llama model of one layer, and a few fields of their own.

use serde_json::Value;

use super::fields::{Fields, invalid, shown};
use super::{Architecture, Family, HIDDEN_MAX, ModelConfig, N_LAYERS_MAX, VOCAB_LEN_MAX};
use crate::error::Error;
use crate::files::json;

/// Names of the architecture: that of the authors and SGLang, and that of vLLM.
const ARCHITECTURES: [&str; 2] = ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"];
/// Field that names the tapped layers.
const TAPS: &str = "eagle_aux_hidden_state_layer_ids";
/// Object that holds the same field in configurations of SGLang and those who train for it.
const EAGLE: &str = "eagle_config";
/// Layers that are tapped.
pub const N_TAPS: usize = 3;

/// Shape and constants of an EAGLE-3 head; made by [`Eagle3Config::parse`] only, which checks them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Eagle3Config {
    /// Its one layer; `vocab_len` is that of the tokens that it reads.
    pub layer: ModelConfig,
    /// Width of the target's residual stream.
    pub target_hidden: usize,
    /// Tokens that it can guess.
    pub draft_vocab_len: usize,
    /// Whether the residual connection around attention starts behind the norm.
    pub norm_before_residual: bool,
    /// The target's residual stream is read after so many of its layers; `None` leaves them to [`Eagle3Config::taps_in`].
    taps: Option<[usize; N_TAPS]>,
}

/// Whether the architecture in `config.json` is that of an EAGLE-3 head.
pub(crate) fn is_eagle3(architecture: &str) -> bool {
    ARCHITECTURES.contains(&architecture)
}

impl Eagle3Config {
    /// Whether the text of `config.json` describes an EAGLE-3 head.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn describes(config: &[u8]) -> Result<bool, Error> {
        let config: Value = json("config.json", config)?;
        Ok(config["architectures"][0].as_str().is_some_and(is_eagle3))
    }

    /// Reads the text of `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`]; and for more layers than one, other inputs than three layers of the target, and norms or
    /// biases around the projection of these.
    pub fn parse(config: &[u8]) -> Result<Self, Error> {
        let config: Value = json("config.json", config)?;
        let fields = Fields::of("config.json", &config)?;
        let eagle = fields.object(EAGLE)?;
        refuse(fields, eagle)?;
        let layer = ModelConfig::of(Architecture::of(Family::Llama), fields, None)?;
        let draft_vocab_len = fields.optional_len("draft_vocab_size", 1..=VOCAB_LEN_MAX)?;
        let draft_vocab_len = draft_vocab_len.unwrap_or(layer.vocab_len);
        if draft_vocab_len > layer.vocab_len {
            let expected = format!("at most vocab_size ({})", layer.vocab_len);
            let got = draft_vocab_len.to_string();
            return Err(Error::Field { field: "draft_vocab_size".into(), expected, got });
        }
        Ok(Self {
            target_hidden: fields.optional_len("target_hidden_size", 1..=HIDDEN_MAX)?.unwrap_or(layer.hidden),
            draft_vocab_len,
            norm_before_residual: fields.flag("norm_before_residual")?,
            taps: taps(fields, eagle)?,
            layer,
        })
    }

    /// After how many layers of a target of `n_layers` its residual stream is read. Where the file names none, after 2,
    /// `n_layers / 2` and `n_layers - 3`, as the authors trained their heads.
    ///
    /// # Errors
    /// If the target has too few layers.
    pub fn taps_in(&self, n_layers: usize) -> Result<[usize; N_TAPS], Error> {
        let taps = self.taps.or_else(|| Some([2, n_layers / 2, n_layers.checked_sub(3)?]));
        let is_inside = |taps: &[usize; N_TAPS]| taps.iter().all(|&n| n < n_layers);
        taps.filter(is_inside).ok_or_else(|| Error::Field {
            field: TAPS.into(),
            expected: format!("layers before the last of the {n_layers} of the model"),
            got: self.taps.map_or_else(|| "none".into(), |taps| format!("the streams after {taps:?} layers")),
        })
    }
}

/// # Errors
/// [`Error::Unsupported`] for what a head may ask for beside the fields of every model.
fn refuse(fields: Fields<'_>, eagle: Option<Fields<'_>>) -> Result<(), Error> {
    const HINT: &str = "use another head";
    let unsupported = |feature, got| Err(Error::Unsupported { feature, got, hint: HINT });
    if let Some(n_layers) = fields.optional_len("num_hidden_layers", 1..=N_LAYERS_MAX)?.filter(|&n| n > 1) {
        return unsupported("a head of several layers", format!("num_hidden_layers: {n_layers}"));
    }
    let own_fields = [
        ("bias", "a bias of the projection of the target's states"),
        ("fc_norm", "a norm of the target's states"),
        ("use_aux_norm", "a norm of the target's states"),
        ("norm_before_fc", "a norm of the target's states"),
        ("parallel_drafting", "drafting several tokens at once"),
    ];
    for (field, feature) in own_fields {
        let is_on = |value: &Value| *value != Value::Bool(false);
        if let Some(value) = fields.get(field).filter(|value| is_on(value)) {
            return unsupported(feature, format!("{field}: {}", shown(value)));
        }
    }
    let uses_taps = eagle.and_then(|eagle| eagle.get("use_aux_hidden_state"));
    match uses_taps {
        Some(Value::Bool(false)) => {
            unsupported("a head that reads the last layer alone", "use_aux_hidden_state: false".into())
        }
        _ => Ok(()),
    }
}

/// The tapped layers where the file names them.
///
/// vLLM and SGLang count differently. A number `i` of the top level, which vLLM reads, is the stream that enters layer `i`, so
/// after `i` layers; one inside `eagle_config`, which SGLang reads, is the output of layer `i`, after `i + 1`.
fn taps(fields: Fields<'_>, eagle: Option<Fields<'_>>) -> Result<Option<[usize; N_TAPS]>, Error> {
    let outer = listed_taps(fields, 0)?;
    let inner = eagle.map(|eagle| listed_taps(eagle, 1)).transpose()?.flatten();
    match (outer, inner) {
        (Some(outer), Some(inner)) if outer != inner => Err(Error::Field {
            field: TAPS.into(),
            expected: format!("that of {EAGLE} and 1 each ({inner:?})"),
            got: format!("{outer:?}"),
        }),
        _ => Ok(outer.or(inner)),
    }
}

/// * `n_more`: layers after the number that stands there.
fn listed_taps(fields: Fields<'_>, n_more: usize) -> Result<Option<[usize; N_TAPS]>, Error> {
    let Some(value) = fields.get(TAPS) else {
        return Ok(None);
    };
    let list = value.as_array().ok_or_else(|| invalid(TAPS, "a list", value))?;
    if list.is_empty() {
        return Ok(None);
    }
    let number = |value: &Value| {
        let n = usize::try_from(value.as_u64()?).ok()?;
        (n < N_LAYERS_MAX).then_some(n + n_more)
    };
    let numbers: Option<Vec<usize>> = list.iter().map(number).collect();
    let taps = numbers.and_then(|numbers| numbers.try_into().ok());
    taps.map(Some).ok_or_else(|| invalid(TAPS, format!("{N_TAPS} numbers of layers"), value))
}
