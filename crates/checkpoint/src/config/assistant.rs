//! What an assistant of Gemma 4 is: the needed facts of its `config.json`, or of the metadata of its GGUF file.
//!
//! The source is transformers' `Gemma4AssistantConfig`: a few layers in the shape of Gemma 4 that project queries alone and read the
//! keys and values of their target, between a projection of what the target made of a token and one back.

use serde_json::{Map, Value};

use super::architectures::gemma4;
use super::fields::{Fields, shown};
use super::multimodal::{flat, gemma4_unified_defaults};
use super::of_gguf::Keys;
use super::unsupported;
use super::{Architecture, Family, HIDDEN_MAX, KvSource, ModelConfig, N_LAYERS_MAX};
use crate::error::Error;
use crate::files::json;
use crate::gguf::Gguf;

/// Names of the architecture and `model_type`s that stand for them; the second is that of assistants of the unified models.
const NAMES: [[&str; 2]; 2] =
    [["Gemma4AssistantForCausalLM", "gemma4_assistant"], ["Gemma4UnifiedAssistantForCausalLM", UNIFIED]];
const UNIFIED: &str = "gemma4_unified_assistant";
/// Name of the architecture in GGUF files.
const GGUF: &str = "gemma4-assistant";
const TEXT: &str = "text_config";
const SHARING: &str = "num_kv_shared_layers";
/// Fields of the text part that mean nothing here: nobody caps the logits of an assistant.
const IGNORED: [&str; 2] = [SHARING, "final_logit_softcapping"];
/// What a file leaves out.
const N_CENTROIDS: usize = 2048;
const N_CHOSEN: usize = 32;
const HINT: &str = "use another assistant";

/// Shape and constants of an assistant; made by [`AssistantConfig::parse`] and from GGUF files only, which check them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AssistantConfig {
    /// Its layers, all of which read keys and values of the target ([`KvSource::Target`]), and its output projection.
    ///
    /// Windows are longer by 1 than the files say, as in the reference implementation: there a position at that distance from the last
    /// stored one is seen, too.
    pub model: ModelConfig,
    /// Width of the target's residual stream.
    pub target_hidden: usize,
    /// How tokens are sorted, where it scores a part of them.
    pub centroids: Option<Centroids>,
}

/// An output projection in two steps: groups of tokens that resemble each other are scored first, then the tokens of the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Centroids {
    /// Groups; divides the number of tokens.
    pub n_centroids: usize,
    /// Groups whose tokens are scored, at most all.
    pub n_chosen: usize,
}

/// Whether a name of an architecture or a `model_type` is that of an assistant.
pub(super) fn is_assistant(name: &str) -> bool {
    NAMES.as_flattened().contains(&name)
}

/// Error about an assistant that was given as a model.
pub(super) fn as_a_model(got: String) -> Error {
    unsupported::as_a_model("an assistant as a model of its own", got)
}

impl AssistantConfig {
    /// Whether the text of `config.json` describes an assistant.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn describes(config: &[u8]) -> Result<bool, Error> {
        Ok(name(&json("config.json", config)?).is_some_and(|name| is_assistant(&name)))
    }

    /// Whether a GGUF file describes an assistant.
    pub(crate) fn describes_gguf(gguf: &Gguf) -> bool {
        matches!(gguf.architecture(), Ok(GGUF))
    }

    /// Reads the text of `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`] of the text part; and for layers with keys and values of their own, experts, inputs per layer,
    /// feed-forward parts of two widths, and tokens that cannot be sorted as the file says.
    pub fn parse(config: &[u8]) -> Result<Self, Error> {
        let mut config: Value = json("config.json", config)?;
        let defaults = match name(&config).is_some_and(|name| NAMES[1].contains(&name.as_str())) {
            true => gemma4_unified_defaults(),
            false => Map::new(),
        };
        let gemma4 = Architecture::of(Family::Gemma4);
        let mut text = flat(&mut config, gemma4.name, defaults).ok_or(Error::FieldMissing { field: TEXT })?;
        refuse(Fields::of(TEXT, &text)?)?;
        let fields = text.as_object_mut().expect("a text part is an object");
        IGNORED.iter().for_each(|field| drop(fields.remove(*field)));
        let model = ModelConfig::of(gemma4, Fields::of(TEXT, &text)?, None)?;
        let outer = Fields::of("config.json", &config)?;
        Ok(Self {
            target_hidden: outer.len("backbone_hidden_size", HIDDEN_MAX)?,
            centroids: centroids(outer, model.vocab_len)?,
            model: reading_target(model)?,
        })
    }

    /// Reads the metadata of a GGUF file. llama.cpp's converter leaves out what sorts tokens: all are scored.
    ///
    /// # Errors
    /// As [`ModelConfig::of_gguf`], and [`AssistantConfig::parse`].
    pub(crate) fn of_gguf(gguf: &Gguf) -> Result<Self, Error> {
        const LAYERS: &str = "nextn_predict_layers";
        let keys = Keys::of(gguf, &gemma4::ASSISTANT)?;
        let n_layers = keys.len("block_count", N_LAYERS_MAX)?;
        // All its layers predict.
        if let Some(n) = keys.optional_len(LAYERS, 0..=N_LAYERS_MAX)?.filter(|&n| n != n_layers) {
            let expected = format!("all {n_layers} layers");
            return Err(Error::Field { field: keys.key(LAYERS), expected, got: n.to_string() });
        }
        let model = ModelConfig::of_keys(gguf, &keys, &gemma4::ASSISTANT, n_layers)?;
        let target_hidden = keys.len("embedding_length_out", HIDDEN_MAX)?;
        Ok(Self { model: reading_target(model)?, target_hidden, centroids: None })
    }
}

/// The architecture that a file names, or the `model_type` of one that names none.
fn name(config: &Value) -> Option<String> {
    let named = config["architectures"].get(0).unwrap_or(&config["model_type"]);
    named.as_str().map(str::to_string)
}

/// # Errors
/// For what an assistant never has.
fn refuse(text: Fields<'_>) -> Result<(), Error> {
    let n_layers = text.len("num_hidden_layers", N_LAYERS_MAX)?;
    let n_sharing = text.optional_len(SHARING, 0..=N_LAYERS_MAX)?;
    if let Some(n) = n_sharing.filter(|n| ![0, n_layers].contains(n)) {
        let expected = format!("as many as num_hidden_layers ({n_layers})");
        return Err(Error::Field { field: SHARING.into(), expected, got: n.to_string() });
    }
    const WIDE: &str = "use_double_wide_mlp";
    match text.flag(WIDE)? {
        true => {
            Err(unsupported("an assistant with feed-forward parts of two widths", format!("{WIDE}: true")))
        }
        false => Ok(()),
    }
}

fn unsupported(feature: &'static str, got: String) -> Error {
    Error::Unsupported { feature, got, hint: HINT }
}

/// `model` with layers that read what the target has stored.
fn reading_target(mut model: ModelConfig) -> Result<ModelConfig, Error> {
    if let Some(experts) = &model.experts {
        return Err(unsupported("an assistant with experts", format!("{} of them", experts.n_experts)));
    }
    if let Some(inputs) = model.layer_inputs {
        let got = format!("hidden_size_per_layer_input: {}", inputs.width);
        return Err(unsupported("an assistant with inputs per layer", got));
    }
    for layer in &mut model.layers {
        layer.kv = KvSource::Target;
        layer.window = layer.window.map(|window| window + 1);
    }
    model.logit_soft_cap = None;
    Ok(model)
}

fn centroids(outer: Fields<'_>, vocab_len: usize) -> Result<Option<Centroids>, Error> {
    const FIELD: &str = "num_centroids";
    if !outer.flag("use_ordered_embeddings")? {
        return Ok(None);
    }
    let n_centroids = outer.optional_len(FIELD, 1..=vocab_len)?.unwrap_or(N_CENTROIDS);
    if !vocab_len.is_multiple_of(n_centroids) {
        let expected = format!("a divisor of vocab_size ({vocab_len})");
        let got = outer.get(FIELD).map_or_else(|| n_centroids.to_string(), shown);
        return Err(Error::Field { field: FIELD.into(), expected, got });
    }
    let n_chosen = outer.optional_len("centroid_intermediate_top_k", 1..=n_centroids)?;
    Ok(Some(Centroids { n_centroids, n_chosen: n_chosen.unwrap_or(N_CHOSEN.min(n_centroids)) }))
}
