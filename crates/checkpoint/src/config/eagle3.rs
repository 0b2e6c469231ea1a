//! What an EAGLE-3 head is: the needed facts of its `config.json`, or of the metadata of its GGUF file.
//!
//! EAGLE-3 (arXiv:2503.01840) drafts with one layer over what the target made of the tokens so far. Heads are published with a
//! configuration in the shape of a Llama or Qwen3 model of one layer, and a few fields of their own. In the format of `speculators`
//! the layer has an object of its own.

use serde_json::Value;

use super::architectures::llama;
use super::fields::{Fields, invalid, shown};
use super::of_gguf::Keys;
use super::unsupported;
use super::{Architecture, Family, HIDDEN_MAX, ModelConfig, N_LAYERS_MAX, VOCAB_LEN_MAX};
use crate::error::Error;
use crate::files::json;
use crate::gguf::Gguf;

/// Names of the architecture: that of the authors and SGLang, those of vLLM, and those of `speculators`.
const ARCHITECTURES: [&str; 5] =
    ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", QWEN3, "Eagle3Speculator", "Eagle3DraftModel"];
/// The one whose layer is that of Qwen3.
const QWEN3: &str = "Eagle3Qwen3ForCausalLM";
/// Name of the architecture in GGUF files, and of the algorithm in `speculators`.
const GGUF: &str = "eagle3";
/// Object of `speculators` that describes the layer.
const LAYER: &str = "transformer_layer_config";
/// Field that names the tapped layers.
const TAPS: &str = "eagle_aux_hidden_state_layer_ids";
/// Object that holds the same field in configurations of SGLang and those who train for it.
const EAGLE: &str = "eagle_config";
/// Tensor of what the tokens of the head are to the target, `[draft_vocab_len]`: how far each is from the target's, and in GGUF files
/// the token of the target itself.
pub(crate) const TO_TARGET: &str = "d2t";
/// Field and key of the width of the target, and of one norm of its states.
const TARGET_HIDDEN: &str = "target_hidden_size";
const JOINT_NORM: &str = "norm_before_fc";
const STATE_NORMS: &str = "fc_norm";
const SEVERAL_LAYERS: &str = "a head of several layers";
/// Layers that are tapped where the file names none, and most that one may name.
const N_TAPS: usize = 3;
const N_TAPS_MAX: usize = 16;

/// Shape and constants of an EAGLE-3 head; made by [`Eagle3Config::parse`] and from GGUF files only, which check them.
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
    /// Norms of the target's states before they are projected.
    pub state_norms: StateNorms,
    /// Whether what it makes of a token stands behind the last norm when the next guess reads it.
    pub norm_output: bool,
    /// The target's residual stream is read after so many of its layers; `None` leaves them to [`Eagle3Config::taps_in`].
    taps: Option<Vec<usize>>,
}

/// Norms of the states of the target that a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateNorms {
    /// None.
    None,
    /// One of all together (`norm_before_fc`).
    Joint,
    /// One of each (`fc_norm`).
    Each,
}

/// Whether the architecture in `config.json` is that of an EAGLE-3 head.
pub(crate) fn is_eagle3(architecture: &str) -> bool {
    ARCHITECTURES.contains(&architecture)
}

/// Error about a head that was given as a model.
pub(super) fn as_a_model(got: String) -> Error {
    unsupported::as_a_model("an EAGLE-3 head as a model of its own", got)
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

    /// Whether a GGUF file describes an EAGLE-3 head.
    pub(crate) fn describes_gguf(gguf: &Gguf) -> bool {
        matches!(gguf.architecture(), Ok(GGUF))
    }

    /// Reads the text of `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`]; and for more layers than one, other inputs than layers of the target, and a projection of
    /// these with biases.
    pub fn parse(config: &[u8]) -> Result<Self, Error> {
        let config: Value = json("config.json", config)?;
        let fields = Fields::of("config.json", &config)?;
        let (eagle, of_layer) = (fields.object(EAGLE)?, fields.object(LAYER)?);
        refuse(fields, of_layer.unwrap_or(fields), eagle)?;
        let family = family(&config, of_layer)?;
        let layer = ModelConfig::of(Architecture::of(family), of_layer.unwrap_or(fields), None)?;
        refuse_doubtful_window(of_layer.unwrap_or(fields), &layer)?;
        let draft_vocab_len = fields.optional_len("draft_vocab_size", 1..=VOCAB_LEN_MAX)?;
        // vLLM reads what `speculators` leaves out as true.
        let norm_before_residual =
            fields.optional_flag("norm_before_residual")?.unwrap_or(of_layer.is_some());
        Self {
            target_hidden: fields.optional_len(TARGET_HIDDEN, 1..=HIDDEN_MAX)?.unwrap_or(layer.hidden),
            draft_vocab_len: draft_vocab_len.unwrap_or(layer.vocab_len),
            norm_before_residual,
            state_norms: state_norms(fields, eagle)?,
            norm_output: fields.flag("norm_output")?,
            taps: taps(fields, eagle)?,
            layer,
        }
        .checked("draft_vocab_size", "vocab_size")
    }

    /// Reads the metadata of a GGUF file, and from its tensors how many tokens it guesses.
    ///
    /// # Errors
    /// As [`ModelConfig::of_gguf`], and [`Eagle3Config::parse`].
    pub(crate) fn of_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let keys = Keys::of(gguf, &llama::EAGLE3)?;
        let n_layers = keys.len("block_count", N_LAYERS_MAX)?;
        if n_layers > 1 {
            return unsupported(SEVERAL_LAYERS, format!("{}: {n_layers}", keys.key("block_count")));
        }
        let layer = ModelConfig::of_keys(gguf, &keys, &llama::EAGLE3, n_layers)?;
        let output = "output.weight";
        let draft_vocab_len =
            keys.n_rows(output).ok_or_else(|| Error::TensorMissing { name: output.to_string() })?;
        Self {
            target_hidden: keys.optional_len(TARGET_HIDDEN, 1..=HIDDEN_MAX)?.unwrap_or(layer.hidden),
            draft_vocab_len,
            norm_before_residual: keys.flag("norm_before_residual")?,
            state_norms: if keys.flag(JOINT_NORM)? { StateNorms::Joint } else { StateNorms::None },
            norm_output: false,
            taps: Some(taps_of_keys(&keys)?),
            layer,
        }
        .checked("the rows of output.weight", "the vocabulary")
    }

    /// * `field`, `of`: what says how many tokens it guesses, and of how many.
    ///
    /// # Errors
    /// If it guesses more tokens than there are.
    fn checked(self, field: &str, of: &str) -> Result<Self, Error> {
        let (got, vocab_len) = (self.draft_vocab_len, self.layer.vocab_len);
        match got > vocab_len {
            true => Err(Error::Field {
                field: field.to_string(),
                expected: format!("at most {of} ({vocab_len})"),
                got: got.to_string(),
            }),
            false => Ok(self),
        }
    }

    /// How many states of the target it reads.
    pub fn n_taps(&self) -> usize {
        self.taps.as_ref().map_or(N_TAPS, Vec::len)
    }

    /// After how many layers of a target of `n_layers` its residual stream is read. Where the file names none, after 2,
    /// `n_layers / 2` and `n_layers - 3`, as the authors trained their heads.
    ///
    /// # Errors
    /// If the target has too few layers.
    pub fn taps_in(&self, n_layers: usize) -> Result<Vec<usize>, Error> {
        let usual = || Some(vec![2, n_layers / 2, n_layers.checked_sub(N_TAPS)?]);
        let taps = self.taps.clone().or_else(usual);
        taps.filter(|taps| taps.iter().all(|&n| n < n_layers)).ok_or_else(|| Error::Field {
            field: TAPS.into(),
            expected: format!("layers before the last of the {n_layers} of the model"),
            got: self
                .taps
                .as_ref()
                .map_or_else(|| "none".into(), |taps| format!("the streams after {taps:?} layers")),
        })
    }
}

/// What the layer is like: the architecture says so, or in `speculators` the type of the layer.
fn family(config: &Value, layer: Option<Fields<'_>>) -> Result<Family, Error> {
    const TYPE: &str = "model_type";
    let Some(layer) = layer else {
        let is_qwen3 = config["architectures"][0] == QWEN3;
        return Ok(if is_qwen3 { Family::Qwen3 } else { Family::Llama });
    };
    match layer.text(TYPE)? {
        None | Some("llama") => Ok(Family::Llama),
        Some("qwen3") => Ok(Family::Qwen3),
        Some(other) => {
            unsupported("a head with another layer than those of Llama and Qwen3", format!("{TYPE}: {other}"))
        }
    }
}

/// * `layer`: the fields that describe the layer.
///
/// # Errors
/// [`Error::Unsupported`] for what a head may ask for beside the fields of every model.
fn refuse(fields: Fields<'_>, layer: Fields<'_>, eagle: Option<Fields<'_>>) -> Result<(), Error> {
    if let Some(n_layers) = layer.optional_len("num_hidden_layers", 1..=N_LAYERS_MAX)?.filter(|&n| n > 1) {
        return unsupported(SEVERAL_LAYERS, format!("num_hidden_layers: {n_layers}"));
    }
    let own_fields = [
        ("bias", "a bias of the projection of the target's states"),
        ("use_aux_norm", "another norm of the target's states"),
        ("parallel_drafting", "drafting several tokens at once"),
    ];
    for (field, feature) in own_fields {
        let is_on = |value: &Value| *value != Value::Bool(false);
        if let Some(value) = fields.get(field).filter(|value| is_on(value)) {
            return unsupported(feature, format!("{field}: {}", shown(value)));
        }
    }
    const ALGORITHM: &str = "speculators_model_type";
    if let Some(other) = fields.text(ALGORITHM)?.filter(|&algorithm| algorithm != GGUF) {
        return unsupported("a head of another algorithm", format!("{ALGORITHM}: {other}"));
    }
    const USES_TAPS: &str = "use_aux_hidden_state";
    match eagle.map(|eagle| eagle.optional_flag(USES_TAPS)).transpose()?.flatten() {
        Some(false) => unsupported("a head that reads the last layer alone", format!("{USES_TAPS}: false")),
        Some(true) | None => Ok(()),
    }
}

/// vLLM gives a layer a window because `layer_types` says so, whatever the model is that the layer comes from; the programs that train
/// heads follow that model.
///
/// * `fields`: those that describe the layer.
///
/// # Errors
/// [`Error::Unsupported`] for a window that only one of them reads.
fn refuse_doubtful_window(fields: Fields<'_>, layer: &ModelConfig) -> Result<(), Error> {
    let types = fields.get("layer_types").filter(|types| types[0] == "sliding_attention");
    match types.filter(|_| layer.layers[0].window.is_none()) {
        Some(types) => unsupported(
            "a window that the layer does not have elsewhere",
            format!("layer_types: {}", shown(types)),
        ),
        None => Ok(()),
    }
}

/// See [`StateNorms`]; in configurations of NVIDIA's tools one field stands in `eagle_config`.
fn state_norms(fields: Fields<'_>, eagle: Option<Fields<'_>>) -> Result<StateNorms, Error> {
    let of_eagle = eagle.map(|eagle| eagle.optional_flag(JOINT_NORM)).transpose()?.flatten();
    let is_joint = of_eagle.map_or_else(|| fields.flag(JOINT_NORM), Ok)?;
    match (is_joint, fields.flag(STATE_NORMS)?) {
        (true, true) => unsupported(
            "states of the target that are normalised twice",
            format!("{JOINT_NORM} and {STATE_NORMS}"),
        ),
        (true, false) => Ok(StateNorms::Joint),
        (false, true) => Ok(StateNorms::Each),
        (false, false) => Ok(StateNorms::None),
    }
}

fn unsupported<T>(feature: &'static str, got: String) -> Result<T, Error> {
    Err(Error::Unsupported { feature, got, hint: "use another head" })
}

/// The tapped layers where the file names them.
///
/// vLLM and SGLang count differently. A number `i` of the top level, which vLLM reads, is the stream that enters layer `i`, so
/// after `i` layers; one inside `eagle_config`, which SGLang reads, is the output of layer `i`, after `i + 1`.
fn taps(fields: Fields<'_>, eagle: Option<Fields<'_>>) -> Result<Option<Vec<usize>>, Error> {
    let outer = listed_taps(fields, 0)?;
    let inner = eagle.map(|eagle| listed_taps(eagle, 1)).transpose()?.flatten();
    match (outer, inner) {
        (Some(outer), Some(inner)) if outer != inner => Err(Error::Field {
            field: TAPS.into(),
            expected: format!("that of {EAGLE} and 1 each ({inner:?})"),
            got: format!("{outer:?}"),
        }),
        (outer, inner) => Ok(outer.or(inner)),
    }
}

/// * `n_more`: layers after the number that stands there.
fn listed_taps(fields: Fields<'_>, n_more: usize) -> Result<Option<Vec<usize>>, Error> {
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
    let taps = numbers.filter(|numbers| numbers.len() <= N_TAPS_MAX);
    taps.map(Some).ok_or_else(|| invalid(TAPS, expected_taps(), value))
}

/// The same of a GGUF file, whose numbers mean what those of the top level do.
fn taps_of_keys(keys: &Keys<'_>) -> Result<Vec<usize>, Error> {
    const KEY: &str = "target_layers";
    let listed = keys.integers(KEY)?.ok_or_else(|| keys.missing(KEY))?;
    let number = |&n: &i64| usize::try_from(n).ok().filter(|&n| n < N_LAYERS_MAX);
    let numbers: Option<Vec<usize>> = listed.iter().map(number).collect();
    numbers.filter(|numbers| (1..=N_TAPS_MAX).contains(&numbers.len())).ok_or_else(|| Error::Field {
        field: keys.key(KEY),
        expected: expected_taps(),
        got: shown(&listed.into()),
    })
}

fn expected_taps() -> String {
    format!("at most {N_TAPS_MAX} numbers of layers")
}
