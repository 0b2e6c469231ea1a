//! What a model is: the needed facts of `config.json` and `generation_config.json`, or of a GGUF file's metadata, all relations
//! checked.
//!
//! The file says what its authors typed; [`ModelConfig`] is what the forward pass needs: no options, sizes within limits
//! under which no product of two of them overflows. What is not implemented is refused here, by name, and never ignored.

mod eagle3;
mod fields;
mod of_gguf;
mod ranges;
mod rope;
mod sampling;
mod unsupported;

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::error::Error;
use crate::files::json;
pub use eagle3::{Eagle3Config, N_TAPS};
use fields::Fields;
pub use fields::shown;
pub(crate) use of_gguf::ROPE_FACTORS;
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
/// Head size of Qwen3 where the file names none; the other families divide the hidden size by the number of heads.
const QWEN3_HEAD_DIM_DEFAULT: usize = 128;
/// Window of Mistral where the file does not mention one (`null` means none).
const MISTRAL_WINDOW_DEFAULT: usize = 4096;

/// Families that share the Llama forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, and everything published in their shape.
    Llama,
    /// Mistral without experts.
    Mistral,
    /// Qwen2 and 2.5: biases on query, key and value.
    Qwen2,
    /// Qwen3: queries and keys are normalised per head.
    Qwen3,
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
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements per head; even. `n_heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Epsilon of every RMS normalisation; above 0 and at most 1.
    pub rms_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Longest sequence; where the model uses a sliding window, at most the window (see [`ModelConfig::parse`]).
    pub context_len_max: u32,
    /// Whether the output projection is the embedding matrix; there is no `lm_head.weight` then.
    pub tie_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub has_qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub has_output_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub has_mlp_bias: bool,
    /// Whether queries and keys are RMS-normalised per head (`q_norm.weight`, `k_norm.weight`, `[head_dim]`).
    pub has_qk_norm: bool,
    /// Tokens that end a text; all below `vocab_len`, possibly none.
    pub eos_tokens: Vec<u32>,
    /// Token that begins a text, where the model has one.
    pub bos_token: Option<u32>,
    /// How its authors recommend to sample.
    pub sampling: SamplingDefaults,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// Name of the architecture in `config.json`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// `model_type` in `config.json`; counts where no architecture is named.
    fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// Name of the architecture in GGUF files.
    pub(crate) fn gguf_architecture(self) -> &'static str {
        match self {
            Self::Llama | Self::Mistral => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    fn parse(fields: Fields<'_>) -> Result<Self, Error> {
        let named = fields.get("architectures").and_then(Value::as_array).and_then(|all| all.first());
        let (got, family) = match named {
            Some(value) => {
                let found = Self::ALL.into_iter().find(|family| value == family.architecture());
                (value.as_str().map_or_else(|| shown(value), String::from), found)
            }
            None => {
                let got = fields.text("model_type")?.ok_or(Error::FieldMissing { field: "architectures" })?;
                (got.to_string(), Self::ALL.into_iter().find(|family| got == family.model_type()))
            }
        };
        if eagle3::is_eagle3(&got) {
            return Err(Error::Unsupported {
                feature: "an EAGLE-3 head as a model of its own",
                got: format!("architectures: {got}"),
                hint: "give it as the draft of the model that it was trained for",
            });
        }
        let expected = Self::ALL.map(Self::architecture).join(", ");
        family.ok_or(Error::Architecture { expected, got })
    }
}

impl ModelConfig {
    /// Reads the texts of `config.json` and, where there is one, `generation_config.json`.
    ///
    /// The token that begins a text comes from the generation configuration, else from the configuration; those that end one
    /// come from both, since each file knows ends that the other lacks.
    ///
    /// A sliding window of `w` positions changes nothing for a sequence of at most `w`, so a model that has one is served
    /// up to that length (with a warning if that is less than it was trained for) instead of refused.
    ///
    /// # Errors
    /// If a text is not JSON, a required field is missing or out of range (more tokens that end a text than a request may
    /// have included), sizes do not divide, or the model needs something that is not implemented: another architecture,
    /// experts, quantised weights, a rotary scaling other than linear and Llama 3's, or whatever else `unsupported` lists.
    pub fn parse(config: &[u8], generation: Option<&[u8]>) -> Result<Self, Error> {
        let config: Value = json("config.json", config)?;
        let generation = generation.map(|text| json("generation_config.json", text)).transpose()?;
        let fields = Fields::of("config.json", &config)?;
        let generation =
            generation.as_ref().map(|value| Fields::of("generation_config.json", value)).transpose()?;

        Self::of(Family::parse(fields)?, fields, generation)
    }

    fn of(family: Family, fields: Fields<'_>, generation: Option<Fields<'_>>) -> Result<Self, Error> {
        unsupported::refuse(fields)?;
        let vocab_len = fields.len("vocab_size", VOCAB_LEN_MAX)?;
        let hidden = fields.len("hidden_size", HIDDEN_MAX)?;
        let n_heads = fields.len("num_attention_heads", N_HEADS_MAX)?;
        let has_attention_bias =
            matches!(family, Family::Llama | Family::Qwen3) && fields.flag("attention_bias")?;
        let head_dim = head_dim(fields, family, hidden, n_heads)?;
        unsupported::refuse_scales(fields, head_dim)?;
        Ok(Self {
            family,
            vocab_len,
            n_embeddings: vocab_len,
            hidden,
            n_layers: fields.len("num_hidden_layers", N_LAYERS_MAX)?,
            n_heads,
            n_kv_heads: n_kv_heads(fields, family, n_heads)?,
            head_dim,
            intermediate: fields.len("intermediate_size", INTERMEDIATE_MAX)?,
            rms_eps: fields.number("rms_norm_eps", RMS_EPS)? as f32,
            rope: Rope::parse(fields)?,
            context_len_max: context_len_max(fields, family)?,
            tie_embeddings: fields.flag("tie_word_embeddings")?,
            has_qkv_bias: family == Family::Qwen2 || has_attention_bias,
            has_output_bias: has_attention_bias,
            has_mlp_bias: family == Family::Llama && fields.flag("mlp_bias")?,
            has_qk_norm: family == Family::Qwen3,
            eos_tokens: end_tokens(fields, generation, vocab_len)?,
            bos_token: bos_token(fields, generation, vocab_len),
            sampling: generation.map_or_else(SamplingDefaults::default, SamplingDefaults::parse),
        })
    }
}

fn n_kv_heads(fields: Fields<'_>, family: Family, n_heads: usize) -> Result<usize, Error> {
    let n_kv_heads = match fields.optional_len("num_key_value_heads", 1..=n_heads)? {
        Some(n) => n,
        None if family == Family::Llama => n_heads,
        None => {
            return Err(Error::FieldMissing { field: "num_key_value_heads" });
        }
    };
    if !n_heads.is_multiple_of(n_kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({n_heads})");
        return Err(Error::Field {
            field: "num_key_value_heads".into(),
            expected,
            got: n_kv_heads.to_string(),
        });
    }
    Ok(n_kv_heads)
}

fn head_dim(fields: Fields<'_>, family: Family, hidden: usize, n_heads: usize) -> Result<usize, Error> {
    let head_dim = match fields.optional_len("head_dim", 2..=HEAD_DIM_MAX)? {
        Some(head_dim) => head_dim,
        None if family == Family::Qwen3 => QWEN3_HEAD_DIM_DEFAULT,
        None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
        None => {
            let expected = format!("a multiple of num_attention_heads ({n_heads}) where head_dim is absent");
            return Err(Error::Field { field: "hidden_size".into(), expected, got: hidden.to_string() });
        }
    };
    ranges::head_dim("head_dim", head_dim)
}

fn context_len_max(fields: Fields<'_>, family: Family) -> Result<u32, Error> {
    let trained = fields.len("max_position_embeddings", CONTEXT_LEN_MAX)?;
    let window = match family {
        Family::Llama => None,
        Family::Mistral if !fields.is_mentioned("sliding_window") => Some(MISTRAL_WINDOW_DEFAULT),
        Family::Mistral => fields.optional_len("sliding_window", 1..=CONTEXT_LEN_MAX)?,
        Family::Qwen2 | Family::Qwen3 if fields.flag("use_sliding_window")? => {
            Some(fields.len("sliding_window", CONTEXT_LEN_MAX)?)
        }
        Family::Qwen2 | Family::Qwen3 => None,
    };
    Ok(ranges::context_len(trained, window))
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
