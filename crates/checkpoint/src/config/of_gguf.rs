//! What a model is by a GGUF file: metadata `{architecture}.*`, and which tensors there are.
//!
//! Absent keys mean what they mean to llama.cpp, for which such files are made.

mod ends;
mod rope;

use std::ops::RangeInclusive;

use super::assistant::{self, AssistantConfig};
use super::eagle3::{self, Eagle3Config};
use super::experts::N_EXPERTS_MAX;
use super::unsupported::{self, SCALE_TOLERANCE};
use super::{
    Architecture, CONTEXT_LEN_MAX, DeltaLayout, Experts, HEAD_DIM_MAX, HIDDEN_MAX, INTERMEDIATE_MAX,
    LayerConfig, ModelConfig, N_HEADS_MAX, N_LAYERS_MAX, RMS_EPS, SamplingDefaults, VOCAB_LEN_MAX,
    plain_scale, ranges,
};
use crate::error::Error;
use crate::gguf::{Gguf, Metadata, Value};
use crate::stored::Dtype;

/// Tensor of what rotary frequencies are divided by, `[rotary_dim / 2]`.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same of LongRoPE, within the original context and beyond.
pub(crate) const SHORT_ROPE_FACTORS: &str = "rope_factors_short.weight";
/// See [`SHORT_ROPE_FACTORS`].
pub(crate) const LONG_ROPE_FACTORS: &str = "rope_factors_long.weight";
const ARCHITECTURE: &str = "general.architecture";
/// Key of the number of experts.
const EXPERT_COUNT: &str = "expert_count";
const EMBEDDINGS: &str = "token_embd.weight";
/// Key of the number of tokens, read by an architecture whose files may have no embeddings.
pub(super) const VOCAB_LEN: &str = "vocab_size";
/// Key of the token that begins a text.
const BOS: &str = "tokenizer.ggml.bos_token_id";
/// Keys that change what a model computes, the values with which they do not, and what they ask for otherwise.
const UNSUPPORTED: &[(&str, &[f64], &str)] = &[
    (EXPERT_COUNT, &[0.0], unsupported::EXPERTS),
    ("expert_shared_count", &[0.0], unsupported::OTHER_EXPERTS),
    ("expert_shared_feed_forward_length", &[0.0], unsupported::OTHER_EXPERTS),
    ("expert_weights_scale", &[0.0, 1.0], unsupported::OTHER_EXPERTS),
    // 1 is a softmax.
    ("expert_gating_func", &[0.0, 1.0], unsupported::OTHER_EXPERTS),
    ("expert_group_count", &[0.0, 1.0], unsupported::OTHER_EXPERTS),
    ("leading_dense_block_count", &[0.0], unsupported::OTHER_EXPERTS),
    ("interleave_moe_layer_step", &[0.0, 1.0], unsupported::OTHER_EXPERTS),
    ("moe_every_n_layers", &[0.0, 1.0], unsupported::OTHER_EXPERTS),
    ("nextn_predict_layers", &[0.0], "layers that predict further tokens"),
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
pub(crate) struct Keys<'a> {
    gguf: &'a Gguf,
    metadata: &'a Metadata,
    architecture: &'a str,
    /// Of those above, names that the architecture reads itself.
    read: &'a [&'a str],
}

impl ModelConfig {
    /// Reads the metadata of a GGUF file, and from its tensors the vocabulary, biases and norms.
    ///
    /// Tokens that end a text are those that the file names, and the control tokens which are known to (`<|im_end|>`, ...).
    ///
    /// # Errors
    /// If a key is missing, of another type or out of range, or the table of embeddings is missing (as in files that hold a
    /// vocabulary alone), sizes do not divide, or the model needs something that is not implemented: another architecture,
    /// layers of different shapes, another rotary scaling.
    pub fn of_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let name = gguf.architecture()?;
        if AssistantConfig::describes_gguf(gguf) {
            return Err(assistant::as_a_model(format!("{ARCHITECTURE}: {name}")));
        }
        if Eagle3Config::describes_gguf(gguf) {
            return Err(eagle3::as_a_model(format!("{ARCHITECTURE}: {name}")));
        }
        let n_experts = gguf.metadata().number(&format!("{name}.{EXPERT_COUNT}"))?;
        let architecture = Architecture::of_gguf(name, n_experts.is_some_and(|n| n != 0.0))?;
        let keys = Keys::of(gguf, architecture)?;
        Self::of_keys(gguf, &keys, architecture, keys.n_layers()?)
    }

    /// The same by an architecture and its keys.
    ///
    /// * `n_layers`: those that run.
    pub(super) fn of_keys(
        gguf: &Gguf,
        keys: &Keys<'_>,
        architecture: &Architecture,
        n_layers: usize,
    ) -> Result<Self, Error> {
        let metadata = gguf.metadata();
        let vocab_len = keys.vocab_len()?;
        let hidden = keys.len("embedding_length", HIDDEN_MAX)?;
        let n_heads = keys.len("attention.head_count", N_HEADS_MAX)?;
        let head_dim = keys.head_dim(hidden, n_heads)?;
        let trained = keys.len("context_length", CONTEXT_LEN_MAX)? as u32;
        let rope = keys.rope(head_dim, trained)?;
        let has = |tensor: &str| gguf.tensor(tensor).is_some();
        let mut config = Self {
            family: architecture.family,
            vocab_len,
            n_embeddings: vocab_len,
            hidden,
            n_layers,
            n_heads,
            n_kv_heads: keys.n_kv_heads(n_heads)?,
            head_dim,
            intermediate: keys.intermediate(architecture.defaults.has_experts_alone)?,
            experts: None,
            delta: None,
            delta_layout: DeltaLayout::default(),
            rms_eps: keys.number("attention.layer_norm_rms_epsilon", RMS_EPS)? as f32,
            // Converters write the extended length where there is one.
            context_len_max: trained,
            ropes: vec![rope],
            layers: vec![LayerConfig::PLAIN; n_layers],
            tie_embeddings: !has("output.weight"),
            has_qkv_bias: ["q", "k", "v", "qkv"].iter().any(|part| has(&format!("blk.0.attn_{part}.bias"))),
            has_output_bias: has("blk.0.attn_output.bias"),
            has_mlp_bias: ["gate", "up", "down"].iter().any(|part| has(&format!("blk.0.ffn_{part}.bias"))),
            has_qk_norm: false,
            has_value_norm: false,
            layer_inputs: None,
            has_layer_scale: false,
            activation: architecture.defaults.activation,
            norms: architecture.norms,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            attention_scale: plain_scale(head_dim),
            attention_soft_cap: None,
            has_sinks: false,
            has_output_gate: false,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_soft_cap: None,
            eos_tokens: ends::tokens(metadata, vocab_len)?,
            bos_token: bos_token(metadata, vocab_len),
            sampling: SamplingDefaults::of_gguf(metadata),
        };
        (architecture.of_keys)(&mut config, keys)?;
        // Files of the first weeks of Qwen3-Next.
        if config.delta_layout == DeltaLayout::FusedScores && has("blk.0.ssm_in.weight") {
            config.delta_layout = DeltaLayout::Fused;
        }
        Ok(config)
    }
}

impl Gguf {
    /// Name of the architecture.
    pub(super) fn architecture(&self) -> Result<&str, Error> {
        self.metadata().text(ARCHITECTURE)?.ok_or_else(|| missing(ARCHITECTURE))
    }
}

impl<'a> Keys<'a> {
    /// # Errors
    /// If some ask for what is not implemented.
    pub(super) fn of(gguf: &'a Gguf, architecture: &Architecture) -> Result<Self, Error> {
        let keys = Self {
            gguf,
            metadata: gguf.metadata(),
            architecture: gguf.architecture()?,
            read: architecture.keys,
        };
        keys.refuse_unsupported()?;
        keys.refuse_lists()?;
        Ok(keys)
    }
}

impl Keys<'_> {
    /// The experts that every layer has. Whether weights are scaled to a sum of 1 is a matter of the architecture.
    pub(super) fn experts(&self, is_renormalised: bool) -> Result<Experts, Error> {
        let n_experts = self.len(EXPERT_COUNT, N_EXPERTS_MAX)?;
        let n_chosen = self.len("expert_used_count", n_experts)?;
        let own = self.optional_len("expert_feed_forward_length", 1..=INTERMEDIATE_MAX)?;
        let intermediate = match own {
            Some(intermediate) => intermediate,
            None => self.len("feed_forward_length", INTERMEDIATE_MAX)?,
        };
        Ok(Experts::uniform(n_experts, n_chosen, intermediate, is_renormalised))
    }

    /// Rows of the embeddings; of an architecture that can do without, what the file says.
    fn vocab_len(&self) -> Result<usize, Error> {
        match self.n_rows(EMBEDDINGS) {
            Some(n_rows) => {
                let field = format!("the rows of {EMBEDDINGS}");
                ranges::len(&field, Some(n_rows), 1..=VOCAB_LEN_MAX, || n_rows.to_string())
            }
            None if self.read.contains(&VOCAB_LEN) => self.len(VOCAB_LEN, VOCAB_LEN_MAX),
            None => Err(Error::TensorMissing { name: EMBEDDINGS.to_string() }),
        }
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A whole number within `range`; some files repeat it for every layer.
    pub(super) fn optional_len(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, Error> {
        let key = self.key(name);
        let len = match self.metadata.get(&key) {
            None => return Ok(None),
            Some(Value::Unsigneds(_) | Value::Signeds(_)) => self.of_all_layers(name)?,
            Some(_) => self.metadata.len(&key)?,
        };
        let got = || len.map_or_else(|| "nothing".to_string(), |len| len.to_string());
        ranges::len(&key, len, range, got).map(Some)
    }

    /// A whole number from 1 to `max`.
    pub(super) fn len(&self, name: &str, max: usize) -> Result<usize, Error> {
        self.optional_len(name, 1..=max)?.ok_or_else(|| missing(&self.key(name)))
    }

    /// A truth value, `false` if absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Error> {
        Ok(self.metadata.flag(&self.key(name))?.unwrap_or(false))
    }

    /// An array of whole numbers.
    pub(super) fn integers(&self, name: &str) -> Result<Option<Vec<i64>>, Error> {
        self.metadata.integers(&self.key(name))
    }

    /// Truth values, in a layer each.
    pub(super) fn flags(&self, name: &str) -> Result<Option<&[bool]>, Error> {
        self.metadata.flags(&self.key(name))
    }

    /// Layers that run: files count those that predict further tokens, behind the others.
    fn n_layers(&self) -> Result<usize, Error> {
        let n_blocks = self.len("block_count", N_LAYERS_MAX)?;
        let n_predicting = self.optional_len("nextn_predict_layers", 0..=n_blocks - 1)?;
        Ok(n_blocks - n_predicting.unwrap_or(0))
    }

    /// Width of feed-forward layers; 1, and never used, where the file may leave it out.
    fn intermediate(&self, may_be_absent: bool) -> Result<usize, Error> {
        const NAME: &str = "feed_forward_length";
        match may_be_absent {
            true => Ok(self.optional_len(NAME, 1..=INTERMEDIATE_MAX)?.unwrap_or(1)),
            false => self.len(NAME, INTERMEDIATE_MAX),
        }
    }

    /// Error about a key that is not there.
    pub(super) fn missing(&self, name: &str) -> Error {
        missing(&self.key(name))
    }

    /// Rows of a tensor, if it is there.
    pub(super) fn n_rows(&self, name: &str) -> Option<usize> {
        self.gguf.tensor(name)?.shape.first().copied()
    }

    /// Whether there is a tensor.
    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Whole numbers within `range`, one per layer, which some files say once.
    pub(super) fn lens(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
        n_layers: usize,
    ) -> Result<Option<Vec<usize>>, Error> {
        let key = self.key(name);
        let listed = match self.metadata.get(&key) {
            Some(Value::Unsigneds(_) | Value::Signeds(_)) => {
                self.metadata.integers(&key)?.unwrap_or_default()
            }
            _ => return Ok(self.optional_len(name, range)?.map(|len| vec![len; n_layers])),
        };
        if listed.len() < n_layers {
            let expected = format!("one for each of {n_layers} layers");
            return Err(Error::Field { field: key, expected, got: listed.len().to_string() });
        }
        let len =
            |&len: &i64| ranges::len(&key, usize::try_from(len).ok(), range.clone(), || len.to_string());
        listed[..n_layers].iter().map(len).collect::<Result<_, _>>().map(Some)
    }

    /// The number that every element of an array is; the first one of an array that the architecture reads itself.
    fn of_all_layers(&self, name: &str) -> Result<Option<usize>, Error> {
        const FEATURE: &str = "layers of different shapes";
        let key = &self.key(name);
        let layers = self.metadata.integers(key)?.unwrap_or_default();
        let first = layers.first().copied();
        let is_read = self.read.contains(&name);
        match layers.iter().find(|&&len| Some(len) != first && !is_read) {
            None => Ok(first.and_then(|len| usize::try_from(len).ok())),
            Some(other) => Err(Error::Unsupported {
                feature: FEATURE,
                got: format!("{key}: {} and {other}", first.unwrap_or_default()),
                hint: unsupported::hint(FEATURE),
            }),
        }
    }

    pub(super) fn optional_number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, Error> {
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

    /// Elements per head, of which keys have as many as values.
    fn head_dim(&self, hidden: usize, n_heads: usize) -> Result<usize, Error> {
        const NAME: &str = "attention.key_length";
        let head_dim = match self.optional_len(NAME, 2..=HEAD_DIM_MAX)? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
            None => return Err(missing(&self.key(NAME))),
        };
        let head_dim = ranges::head_dim(&self.key(NAME), head_dim)?;
        const VALUES: &str = "attention.value_length";
        let len = self.optional_len(VALUES, 0..=usize::MAX)?;
        if let Some(len) = len.filter(|&len| len != head_dim) {
            return Err(self.unsupported(VALUES, len, "values of another length than keys"));
        }
        if self.read.contains(&"attention.scale") {
            return Ok(head_dim);
        }
        let used = (head_dim as f64).sqrt().recip();
        let scale = self.optional_number("attention.scale", f64::MIN..=f64::MAX)?;
        match scale.filter(|scale| *scale != 0.0 && (scale / used - 1.0).abs() > SCALE_TOLERANCE) {
            Some(scale) => Err(self.unsupported("attention.scale", scale, "another scale of attention")),
            None => Ok(head_dim),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), Error> {
        for (name, neutral, feature) in UNSUPPORTED.iter().filter(|(name, ..)| !self.read.contains(name)) {
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

    /// A list is no weight: reading the file as if it were not there would be reading another one.
    fn refuse_lists(&self) -> Result<(), Error> {
        match self.gguf.list_names().filter(|name| *name != eagle3::TO_TARGET).min() {
            None => Ok(()),
            Some(name) => Err(Error::TensorDtype {
                name: name.to_string(),
                expected: &Dtype::ALL,
                got: "I64".to_string(),
            }),
        }
    }

    fn unsupported(&self, name: &str, got: impl ToString, feature: &'static str) -> Error {
        let got = format!("{}: {}", self.key(name), got.to_string());
        Error::Unsupported { feature, got, hint: unsupported::hint(feature) }
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

fn missing(key: &str) -> Error {
    Error::KeyMissing { key: key.to_string() }
}
