//! What a model is: the needed facts of `config.json` and `generation_config.json`, or of a GGUF file's metadata, all relations
//! checked.
//!
//! The file says what its authors typed; [`ModelConfig`] is what the forward pass needs: no options, sizes within limits
//! under which no product of two of them overflows. What is not implemented is refused here, by name, and never ignored.

mod architecture;
mod architectures;
mod assistant;
mod delta;
mod eagle3;
mod experts;
mod family;
mod fields;
mod layers;
mod multimodal;
mod of_gguf;
mod ranges;
mod rope;
mod sampling;
mod unsupported;
mod windows;

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::error::Error;
use crate::files::json;
pub(crate) use architecture::Architecture;
use architecture::Defaults;
pub use architecture::NormNames;
pub use assistant::{AssistantConfig, Centroids};
pub(crate) use delta::DeltaLayout;
pub use delta::DeltaShape;
pub(crate) use eagle3::TO_TARGET;
pub use eagle3::{Eagle3Config, StateNorms};
pub(crate) use experts::ExpertLayout;
pub use experts::Experts;
pub use family::Family;
use fields::Fields;
pub use fields::shown;
pub use layers::{KvHeads, KvSource, LayerConfig};
use multimodal::text_part;
pub(crate) use of_gguf::{LONG_ROPE_FACTORS, ROPE_FACTORS, SHORT_ROPE_FACTORS};
use rope::Surroundings;
pub use rope::{Rope, RopeScaling};
pub use sampling::SamplingDefaults;

/// Largest vocabulary; published models stay under 300 000 tokens.
pub const VOCAB_LEN_MAX: usize = 1 << 20;
/// Widest residual stream; published models of these families stay under 20 000.
const HIDDEN_MAX: usize = 1 << 16;
/// Deepest model; published models stay under 130 layers.
const N_LAYERS_MAX: usize = 512;
/// Most query heads; published models stay under 130.
const N_HEADS_MAX: usize = 1024;
/// Largest head; published models stay at 256 and below.
const HEAD_DIM_MAX: usize = 1024;
/// Widest feed-forward layer; published models stay under 60 000.
const INTERMEDIATE_MAX: usize = 1 << 20;
/// Longest context; published models of these families stay at a million.
const CONTEXT_LEN_MAX: usize = 1 << 24;
/// Most tokens that end a text; published models name up to five.
pub const END_TOKENS_MAX: usize = 128;
/// Epsilons that are accepted; published models use 1e-6 and 1e-5. All are normal numbers in f32.
const RMS_EPS: RangeInclusive<f64> = 1e-12..=1.0;

/// What is done to the gate of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// The Gaussian error linear unit by its tanh approximation.
    GeluTanh,
    /// `x / (1 + e^-1.702x)`, gate and up clamped at 7 and up more by 1: that of gpt-oss.
    ClampedSwiGlu,
}

/// Inputs of layers beside the residual stream, a function of a row's token and its embedding: Gemma 3n and 4 call them per-layer
/// embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerInputs {
    /// Elements of the input of one layer.
    pub width: usize,
    /// Rows of their own table, at least as many as the vocabulary has.
    pub n_embeddings: usize,
}

/// Shape and constants of a model; made by [`ModelConfig::parse`] and [`ModelConfig::of_gguf`] only, which
/// check them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding; at least the tokens of the tokenizer.
    pub vocab_len: usize,
    /// Rows of the embedding table; those from `vocab_len` on are padding that no text uses.
    pub n_embeddings: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads of layers that say nothing else, see [`ModelConfig::kv_heads_of`]; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements per head of the same layers; even. `n_heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Width of the feed-forward part of layers that say nothing else, see [`ModelConfig::intermediate_of`]; where all layers have
    /// experts, of nothing.
    pub intermediate: usize,
    /// Of a model that has them.
    pub experts: Option<Experts>,
    /// Shape of delta layers, of a model that has them.
    pub delta: Option<DeltaShape>,
    /// How files hold their matrices.
    pub(crate) delta_layout: DeltaLayout,
    /// Epsilon of every RMS normalisation; above 0 and at most 1.
    pub rms_eps: f32,
    /// Rotary embeddings of the layers, at least one.
    pub ropes: Vec<Rope>,
    /// The layers, `[n_layers]`.
    pub layers: Vec<LayerConfig>,
    /// Longest sequence.
    pub context_len_max: u32,
    /// Whether the output projection is the embedding matrix; there is no `lm_head.weight` then.
    pub tie_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub has_qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub has_output_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub has_mlp_bias: bool,
    /// Whether queries and keys are RMS-normalised (`q_norm.weight`, `k_norm.weight`), see [`ModelConfig::qk_norm_lens`].
    pub has_qk_norm: bool,
    /// Whether values are RMS-normalised, per head and without weights, before they are stored.
    pub has_value_norm: bool,
    /// What is done to the gate of feed-forward layers.
    pub activation: Activation,
    /// Names of the norms of a layer, and which there are.
    pub norms: NormNames,
    /// What is to be added to stored weights of norms.
    pub norm_offset: f32,
    /// Factor of embeddings.
    pub embedding_scale: f32,
    /// Factor of scores of attention.
    pub attention_scale: f32,
    /// Scaled scores `s` become `cap * tanh(s / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// Whether every head has a score that takes part in its softmax and has no value (`self_attn.sinks`).
    pub has_sinks: bool,
    /// Whether outputs of attention are multiplied by the sigmoid of gates that are projected with the queries, head by head.
    pub has_output_gate: bool,
    /// Factor of what attention and feed-forward layers add to the residual stream.
    pub residual_scale: f32,
    /// Inputs that every layer has beside the residual stream, of a model that has them.
    pub layer_inputs: Option<LayerInputs>,
    /// Whether the residual stream behind every layer is multiplied by a number of the layer (`layer_scalar`).
    pub has_layer_scale: bool,
    /// Factor of logits.
    pub logit_scale: f32,
    /// Scaled logits `l` become `cap * tanh(l / cap)`.
    pub logit_soft_cap: Option<f32>,
    /// Tokens that end a text; all below `vocab_len`, possibly none.
    pub eos_tokens: Vec<u32>,
    /// Token that begins a text, where the model has one.
    pub bos_token: Option<u32>,
    /// How its authors recommend to sample.
    pub sampling: SamplingDefaults,
}

impl ModelConfig {
    /// Reads the texts of `config.json` and, where there is one, `generation_config.json`.
    ///
    /// The token that begins a text comes from the generation configuration, else from the configuration; those that end one
    /// come from both, since each file knows ends that the other lacks. Of a model that reads images, too, its text part is read.
    ///
    /// # Errors
    /// If a text is not JSON, a required field is missing or out of range (more tokens that end a text than a request may
    /// have included), sizes do not divide, or the model needs something that is not implemented: another architecture,
    /// quantised weights, another rotary scaling or activation, or whatever else `unsupported` lists.
    pub fn parse(config: &[u8], generation: Option<&[u8]>) -> Result<Self, Error> {
        let config: Value = text_part(json("config.json", config)?);
        let generation = generation.map(|text| json("generation_config.json", text)).transpose()?;
        let fields = Fields::of("config.json", &config)?;
        let generation =
            generation.as_ref().map(|value| Fields::of("generation_config.json", value)).transpose()?;
        Self::of(architecture(fields)?, fields, generation)
    }

    fn of(
        architecture: &Architecture,
        fields: Fields<'_>,
        generation: Option<Fields<'_>>,
    ) -> Result<Self, Error> {
        let Architecture { family, defaults, norms, fields: read, .. } = *architecture;
        unsupported::refuse(fields, read)?;
        let vocab_len = fields.len("vocab_size", VOCAB_LEN_MAX)?;
        let hidden = fields.len("hidden_size", HIDDEN_MAX)?;
        let n_layers = fields.len("num_hidden_layers", N_LAYERS_MAX)?;
        let n_heads = fields.len("num_attention_heads", N_HEADS_MAX)?;
        let head_dim = head_dim(fields, defaults, hidden, n_heads)?;
        unsupported::refuse_scales(fields, head_dim, read)?;
        let trained = fields.len("max_position_embeddings", CONTEXT_LEN_MAX)? as u32;
        let Defaults { rope_theta: theta, rotary_share, .. } = defaults;
        let rope = Rope::parse(fields, Surroundings { head_dim, theta, rotary_share, context_len: trained })?;
        let mut config = Self {
            family,
            vocab_len,
            n_embeddings: vocab_len,
            hidden,
            n_layers,
            n_heads,
            n_kv_heads: n_kv_heads(fields, defaults, n_heads)?,
            head_dim,
            intermediate: intermediate(fields, defaults)?,
            experts: None,
            delta: None,
            delta_layout: DeltaLayout::default(),
            rms_eps: fields.number("rms_norm_eps", RMS_EPS)? as f32,
            context_len_max: rope.scaling.context_len(trained),
            ropes: vec![rope],
            layers: vec![LayerConfig::PLAIN; n_layers],
            tie_embeddings: fields.optional_flag("tie_word_embeddings")?.unwrap_or(defaults.ties_embeddings),
            has_qkv_bias: false,
            has_output_bias: false,
            has_mlp_bias: false,
            has_qk_norm: false,
            has_value_norm: false,
            layer_inputs: None,
            has_layer_scale: false,
            activation: activation(fields, defaults)?,
            norms,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            attention_scale: plain_scale(head_dim),
            attention_soft_cap: None,
            has_sinks: false,
            has_output_gate: false,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_soft_cap: None,
            eos_tokens: end_tokens(fields, generation, vocab_len)?,
            bos_token: bos_token(fields, generation, vocab_len),
            sampling: generation.map_or_else(SamplingDefaults::default, SamplingDefaults::parse),
        };
        (architecture.of_fields)(&mut config, fields)?;
        Ok(config)
    }

    /// Experts of a layer, if it has them.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| !experts.is_dense(layer))
    }
}

/// `1 / sqrt(head_dim)`, the usual factor of scores.
fn plain_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// The description of the architecture that the fields name.
fn architecture(fields: Fields<'_>) -> Result<&'static Architecture, Error> {
    let named = fields.get("architectures").and_then(Value::as_array).and_then(|all| all.first());
    let Some(named) = named else {
        let model_type = fields.text("model_type")?.ok_or(Error::FieldMissing { field: "architectures" })?;
        return match assistant::is_assistant(model_type) {
            true => Err(assistant::as_a_model(format!("model_type: {model_type}"))),
            false => Architecture::of_model_type(model_type),
        };
    };
    let got = named.as_str().map_or_else(|| shown(named), String::from);
    if eagle3::is_eagle3(&got) {
        return Err(eagle3::as_a_model(format!("architectures: {got}")));
    }
    if assistant::is_assistant(&got) {
        return Err(assistant::as_a_model(format!("architectures: {got}")));
    }
    Architecture::named(&got)
}

fn activation(fields: Fields<'_>, defaults: Defaults) -> Result<Activation, Error> {
    // Gemma's files have both, and the first counts.
    let field = ["hidden_activation", "hidden_act"].into_iter().find(|field| fields.get(field).is_some());
    let Some(field) = field else { return Ok(defaults.activation) };
    match fields.text(field)? {
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_tanh") => Ok(Activation::GeluTanh),
        other => Err(Error::Unsupported {
            feature: "an activation other than silu and gelu_pytorch_tanh",
            got: format!("{field}: {}", other.unwrap_or_default()),
            hint: unsupported::ANOTHER_MODEL,
        }),
    }
}

/// Width of feed-forward layers; 1, and never used, where the file may leave it out.
fn intermediate(fields: Fields<'_>, defaults: Defaults) -> Result<usize, Error> {
    const FIELD: &str = "intermediate_size";
    match defaults.has_experts_alone {
        true => Ok(fields.optional_len(FIELD, 1..=INTERMEDIATE_MAX)?.unwrap_or(1)),
        false => fields.len(FIELD, INTERMEDIATE_MAX),
    }
}

fn n_kv_heads(fields: Fields<'_>, defaults: Defaults, n_heads: usize) -> Result<usize, Error> {
    const FIELD: &str = "num_key_value_heads";
    let n_kv_heads = match fields.optional_len(FIELD, 1..=n_heads)? {
        Some(n) => n,
        None if defaults.is_ungrouped => n_heads,
        None => return Err(Error::FieldMissing { field: FIELD }),
    };
    ranges::kv_heads(FIELD, n_kv_heads, "num_attention_heads", n_heads)
}

fn head_dim(fields: Fields<'_>, defaults: Defaults, hidden: usize, n_heads: usize) -> Result<usize, Error> {
    let head_dim = match fields.optional_len("head_dim", 2..=HEAD_DIM_MAX)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
        None => {
            let expected = format!("a multiple of num_attention_heads ({n_heads}) where head_dim is absent");
            return Err(Error::Field { field: "hidden_size".into(), expected, got: hidden.to_string() });
        }
    };
    ranges::head_dim("head_dim", head_dim)
}

/// Nothing depends on the token that begins a text, templates and tokenizers name it themselves, so a wrong one does no harm.
fn bos_token(config: Fields<'_>, generation: Option<Fields<'_>>, vocab_len: usize) -> Option<u32> {
    match special_tokens("bos_token_id", config, generation, vocab_len) {
        Ok(tokens) => tokens.first().copied(),
        Err(error) => {
            tracing::warn!("{error}; it is ignored");
            None
        }
    }
}

fn end_tokens(
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    vocab_len: usize,
) -> Result<Vec<u32>, Error> {
    const FIELD: &str = "eos_token_id";
    let mut tokens = generation.map_or(Ok(Vec::new()), |fields| fields.tokens(FIELD, vocab_len))?;
    for token in config.tokens(FIELD, vocab_len)? {
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    Ok(tokens)
}

fn special_tokens(
    field: &'static str,
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
    vocab_len: usize,
) -> Result<Vec<u32>, Error> {
    let preferred = generation.map_or(Ok(Vec::new()), |fields| fields.tokens(field, vocab_len))?;
    if preferred.is_empty() { config.tokens(field, vocab_len) } else { Ok(preferred) }
}
