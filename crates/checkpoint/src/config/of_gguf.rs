//! What a model is by a GGUF file: metadata `{architecture}.*`, and which tensors there are.
//!
//! Absent keys mean what they mean to llama.cpp, for which such files are made.

use std::ops::RangeInclusive;

use super::rope::{FACTOR, ROPE_THETA_DEFAULT, THETA};
use super::unsupported::{self, SCALE_TOLERANCE};
use super::{
    CONTEXT_LEN_MAX, Family, HEAD_DIM_MAX, HIDDEN_MAX, INTERMEDIATE_MAX, ModelConfig, N_HEADS_MAX,
    N_LAYERS_MAX, RMS_EPS, Rope, RopeScaling, SamplingDefaults, VOCAB_LEN_MAX, ranges,
};
use crate::error::Error;
use crate::gguf::{Gguf, Metadata, Value};
use crate::stored::TensorView;

/// Tensor of what rotary frequencies are divided by, `[head_dim / 2]`.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Divisors that are accepted; those of Llama 3 are from 1 to 32, give or take a rounding.
const ROPE_FACTOR: RangeInclusive<f32> = 0.5..=1e6;
const ARCHITECTURE: &str = "general.architecture";
const EMBEDDINGS: &str = "token_embd.weight";
/// Key of the token that begins a text.
const BOS: &str = "tokenizer.ggml.bos_token_id";
/// Keys of tokens that end a text, a turn or a message.
const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Control tokens that end a text of the families here. Files name one or two of a model's, the others are known by their text.
const END_TEXTS: [&str; 6] =
    ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>"];
/// Type of control tokens in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;

/// Keys that change what a model computes, the values with which they do not, and what they ask for otherwise.
const UNSUPPORTED: &[(&str, &[f64], &str)] = &[
    ("expert_count", &[0.0], unsupported::EXPERTS),
    ("nextn_predict_layers", &[0.0], "layers that predict further tokens"),
    ("rope.scaling.attn_factor", &[1.0], "attention scaled by position"),
    ("attention.temperature_scale", &[0.0], "attention scaled by position"),
    ("attention.max_alibi_bias", &[0.0], "positions other than rotary"),
    ("attention.causal", &[1.0], "attention to later tokens"),
    ("attention.clamp_kqv", &[0.0], "clipped queries, keys and values"),
    ("attn_logit_softcapping", &[0.0], unsupported::SOFT_CAPPING),
    ("final_logit_softcapping", &[0.0], unsupported::SOFT_CAPPING),
    ("use_parallel_residual", &[0.0], unsupported::PARALLEL),
    ("logit_scale", &[0.0, 1.0], unsupported::MULTIPLIER),
    ("residual_scale", &[0.0, 1.0], unsupported::MULTIPLIER),
    ("embedding_scale", &[0.0, 1.0], unsupported::MULTIPLIER),
    ("attention.output_scale", &[0.0, 1.0], unsupported::MULTIPLIER),
    ("attention.value_scale", &[0.0, 1.0], unsupported::MULTIPLIER),
];

/// Metadata of one architecture.
#[derive(Clone, Copy)]
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl ModelConfig {
    /// Reads the metadata of a GGUF file, and from its tensors the vocabulary, biases and norms.
    ///
    /// Tokens that end a text are those that the file names, and the control tokens which are known to (`<|im_end|>`, ...).
    ///
    /// # Errors
    /// If a key is missing, of another type or out of range, or the table of embeddings is missing (as in files that hold a
    /// vocabulary alone), sizes do not divide, or the model needs something that is not implemented: another architecture than
    /// `llama`, `qwen2` and `qwen3`, experts, layers of different shapes, a rotary scaling other than linear or by factors.
    pub fn of_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let metadata = gguf.metadata();
        let architecture = metadata.text(ARCHITECTURE)?.ok_or_else(|| missing(ARCHITECTURE))?;
        let family = family(architecture)?;
        let keys = Keys { metadata, architecture };
        keys.refuse_unsupported()?;
        let vocab_len = vocab_len(gguf)?;
        let hidden = keys.len("embedding_length", HIDDEN_MAX)?;
        let n_heads = keys.len("attention.head_count", N_HEADS_MAX)?;
        let head_dim = keys.head_dim(hidden, n_heads)?;
        let has = |tensor: &str| gguf.tensor(tensor).is_some();
        Ok(Self {
            family,
            vocab_len,
            n_embeddings: vocab_len,
            hidden,
            n_layers: keys.len("block_count", N_LAYERS_MAX)?,
            n_heads,
            n_kv_heads: keys.n_kv_heads(n_heads)?,
            head_dim,
            intermediate: keys.len("feed_forward_length", INTERMEDIATE_MAX)?,
            rms_eps: keys.number("attention.layer_norm_rms_epsilon", RMS_EPS)? as f32,
            rope: keys.rope(head_dim, gguf.tensor(ROPE_FACTORS))?,
            context_len_max: keys.context_len_max()?,
            tie_embeddings: !has("output.weight"),
            has_qkv_bias: ["q", "k", "v"].iter().any(|part| has(&format!("blk.0.attn_{part}.bias"))),
            has_output_bias: has("blk.0.attn_output.bias"),
            has_mlp_bias: ["gate", "up", "down"].iter().any(|part| has(&format!("blk.0.ffn_{part}.bias"))),
            has_qk_norm: family != Family::Llama && has("blk.0.attn_q_norm.weight"),
            eos_tokens: end_tokens(metadata, vocab_len)?,
            bos_token: bos_token(metadata, vocab_len),
            sampling: SamplingDefaults::of_gguf(metadata),
        })
    }
}

fn family(architecture: &str) -> Result<Family, Error> {
    match architecture {
        "llama" => Ok(Family::Llama),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        got => Err(Error::Architecture { expected: "llama, qwen2, qwen3".to_string(), got: got.to_string() }),
    }
}

/// Rows of the embeddings.
fn vocab_len(gguf: &Gguf) -> Result<usize, Error> {
    let table =
        gguf.tensor(EMBEDDINGS).ok_or_else(|| Error::TensorMissing { name: EMBEDDINGS.to_string() })?;
    let field = format!("the rows of {EMBEDDINGS}");
    ranges::len(&field, Some(table.shape[0]), 1..=VOCAB_LEN_MAX, || table.shape[0].to_string())
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A whole number within `range`; some files repeat it for every layer.
    fn optional_len(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        let key = self.key(name);
        let len = match self.metadata.get(&key) {
            None => return Ok(None),
            Some(Value::Unsigneds(_) | Value::Signeds(_)) => self.uniform(&key)?,
            Some(_) => self.metadata.len(&key)?,
        };
        let got = || len.map_or_else(|| "nothing".to_string(), |len| len.to_string());
        ranges::len(&key, len, range, got).map(Some)
    }

    /// A whole number from 1 to `max`.
    fn len(&self, name: &str, max: usize) -> Result<usize, Error> {
        self.optional_len(name, 1..=max)?.ok_or_else(|| missing(&self.key(name)))
    }

    /// The number that every element of an array is.
    fn uniform(&self, key: &str) -> Result<Option<usize>, Error> {
        const FEATURE: &str = "layers of different shapes";
        let layers = self.metadata.integers(key)?.unwrap_or_default();
        let first = layers.first().copied();
        match layers.iter().find(|&&len| Some(len) != first) {
            None => Ok(first.and_then(|len| usize::try_from(len).ok())),
            Some(other) => Err(Error::Unsupported {
                feature: FEATURE,
                got: format!("{key}: {} and {other}", first.unwrap_or_default()),
                hint: unsupported::hint(FEATURE),
            }),
        }
    }

    fn optional_number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        let key = self.key(name);
        let x = self.metadata.number(&key)?;
        x.map(|x| ranges::number(&key, Some(x), range, || format!("{x:?}"))).transpose()
    }

    fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<f64, Error> {
        self.optional_number(name, range)?.ok_or_else(|| missing(&self.key(name)))
    }

    fn n_kv_heads(&self, n_heads: usize) -> Result<usize, Error> {
        const NAME: &str = "attention.head_count_kv";
        let n_kv_heads = self.optional_len(NAME, 1..=n_heads)?.unwrap_or(n_heads);
        ranges::kv_heads(&self.key(NAME), n_kv_heads, &self.key("attention.head_count"), n_heads)
    }

    /// Elements per head, of which keys have as many as values and all are turned.
    fn head_dim(&self, hidden: usize, n_heads: usize) -> Result<usize, Error> {
        const NAME: &str = "attention.key_length";
        let head_dim = match self.optional_len(NAME, 2..=HEAD_DIM_MAX)? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
            None => return Err(missing(&self.key(NAME))),
        };
        let head_dim = ranges::head_dim(&self.key(NAME), head_dim)?;
        for (name, feature) in [
            ("attention.value_length", "values of another length than keys"),
            ("rope.dimension_count", unsupported::PARTIAL_ROTARY),
        ] {
            let len = self.optional_len(name, 0..=usize::MAX)?;
            if let Some(len) = len.filter(|&len| len != head_dim) {
                return Err(self.unsupported(name, len, feature));
            }
        }
        let used = (head_dim as f64).sqrt().recip();
        let scale = self.optional_number("attention.scale", f64::MIN..=f64::MAX)?;
        match scale.filter(|scale| *scale != 0.0 && (scale / used - 1.0).abs() > SCALE_TOLERANCE) {
            Some(scale) => Err(self.unsupported("attention.scale", scale, "another scale of attention")),
            None => Ok(head_dim),
        }
    }

    fn context_len_max(&self) -> Result<u32, Error> {
        let trained = self.len("context_length", CONTEXT_LEN_MAX)?;
        // 0 is off.
        let window = self.optional_len("attention.sliding_window", 0..=u32::MAX as usize)?;
        Ok(ranges::context_len(trained, window.filter(|&window| window > 0)))
    }

    fn rope(&self, head_dim: usize, factors: Option<TensorView<'_>>) -> Result<Rope, Error> {
        let theta = self.optional_number("rope.freq_base", THETA)?.unwrap_or(ROPE_THETA_DEFAULT);
        let scaling = match (self.linear_scaling()?, factors) {
            (scaling, None) => scaling,
            (RopeScaling::None, Some(factors)) => rope_factors(factors, head_dim)?,
            (_, Some(_)) => {
                let feature = "a rotary embedding that is scaled twice";
                return Err(self.unsupported("rope.scaling.factor", ROPE_FACTORS, feature));
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// The type of scaling is linear where the file names none, and off without a factor.
    fn linear_scaling(&self) -> Result<RopeScaling, Error> {
        const TYPE: &str = "rope.scaling.type";
        match self.metadata.text(&self.key(TYPE))?.unwrap_or("linear") {
            "none" => return Ok(RopeScaling::None),
            "linear" => {}
            other => {
                return Err(self.unsupported(TYPE, other, "rotary scaling other than linear and by factors"));
            }
        }
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            let is_off = self.metadata.number(&self.key(name))? == Some(0.0);
            let factor = if is_off { None } else { self.optional_number(name, FACTOR)? };
            if let Some(factor) = factor.filter(|&factor| factor != 1.0) {
                return Ok(RopeScaling::Linear { factor });
            }
        }
        Ok(RopeScaling::None)
    }

    fn refuse_unsupported(&self) -> Result<(), Error> {
        for (name, neutral, feature) in UNSUPPORTED {
            let key = self.key(name);
            let x = match self.metadata.get(&key) {
                Some(Value::Flag(flag)) => Some(f64::from(u8::from(*flag))),
                _ => self.metadata.number(&key)?,
            };
            if let Some(x) = x.filter(|x| !neutral.contains(x)) {
                return Err(self.unsupported(name, x, feature));
            }
        }
        Ok(())
    }

    fn unsupported(&self, name: &str, got: impl ToString, feature: &'static str) -> Error {
        let got = format!("{}: {}", self.key(name), got.to_string());
        Error::Unsupported { feature, got, hint: unsupported::hint(feature) }
    }
}

fn rope_factors(factors: TensorView<'_>, head_dim: usize) -> Result<RopeScaling, Error> {
    let (expected, got) = (vec![head_dim / 2], factors.shape.to_vec());
    if expected != got {
        return Err(Error::TensorShape { name: ROPE_FACTORS.to_string(), expected, got });
    }
    let factors = factors.to_f32();
    match factors.iter().find(|factor| !ROPE_FACTOR.contains(factor)) {
        None => Ok(RopeScaling::Factors(factors)),
        Some(got) => Err(Error::Field {
            field: ROPE_FACTORS.to_string(),
            expected: format!("numbers from {:?} to {:?}", ROPE_FACTOR.start(), ROPE_FACTOR.end()),
            got: format!("{got:?}"),
        }),
    }
}

fn token(metadata: &Metadata, key: &str, vocab_len: usize) -> Result<Option<u32>, Error> {
    let id = metadata.len(key)?;
    id.map(|id| ranges::token(key, Some(id as u64), vocab_len, || id.to_string())).transpose()
}

/// As in folders, a wrong one does no harm.
fn bos_token(metadata: &Metadata, vocab_len: usize) -> Option<u32> {
    token(metadata, BOS, vocab_len).unwrap_or_else(|error| {
        tracing::warn!("{error}; it is ignored");
        None
    })
}

fn end_tokens(metadata: &Metadata, vocab_len: usize) -> Result<Vec<u32>, Error> {
    let mut tokens = Vec::new();
    for key in ENDS {
        tokens.extend(token(metadata, key, vocab_len)?);
    }
    let texts = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let types = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    for (id, (text, kind)) in texts.iter().zip(types).enumerate().take(vocab_len) {
        if kind == CONTROL && END_TEXTS.contains(&text.as_str()) {
            tokens.push(id as u32);
        }
    }
    let mut distinct = Vec::new();
    for token in tokens {
        // A file that has a text many times means one of them.
        if !distinct.contains(&token) && distinct.len() < super::END_TOKENS_MAX {
            distinct.push(token);
        }
    }
    Ok(distinct)
}

fn missing(key: &str) -> Error {
    Error::KeyMissing { key: key.to_string() }
}
