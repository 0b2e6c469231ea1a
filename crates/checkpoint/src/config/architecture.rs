//! What sets an architecture apart: a short description beside those of the others.
//!
//! Everything common to all, which is what Llama does, is read in one place; a description says how the architecture is called,
//! how its files lie, and what its own fields and keys mean. The forward pass knows none of them, only what they become in
//! [`ModelConfig`].

use super::architectures::{
    gemma2, gemma3, gemma4, glm4, gpt_oss, granite, llama, mistral, mixtral, olmoe, phi3, qwen2, qwen3,
    qwen3_5, qwen3_5_moe, qwen3_moe, qwen3_next, smollm3,
};
use super::fields::Fields;
use super::of_gguf::Keys;
use super::{Activation, Family, ModelConfig};
use crate::error::Error;

/// Description of an architecture.
pub(crate) struct Architecture {
    pub(crate) family: Family,
    /// Name in `architectures` of `config.json`.
    pub(crate) name: &'static str,
    /// `model_type` in `config.json`; counts where no architecture is named.
    pub(crate) model_type: &'static str,
    /// `general.architecture` of GGUF files.
    pub(crate) gguf: &'static str,
    /// What an absent field means.
    pub(super) defaults: Defaults,
    pub(crate) norms: NormNames,
    /// Name in GGUF files of the norm of what the feed-forward part reads.
    pub(crate) gguf_feed_forward_norm: &'static str,
    /// Which projections its files hold as one tensor.
    pub(crate) fused: Fused,
    /// Whether rows of queries and keys lie for a rotary embedding that turns neighbours.
    pub(crate) turns_neighbours: PerFile,
    /// Fields that would be refused elsewhere and are read by `of_fields`.
    pub(super) fields: &'static [&'static str],
    /// Reads fields of `config.json` that other architectures lack or mean otherwise.
    pub(super) of_fields: fn(&mut ModelConfig, Fields<'_>) -> Result<(), Error>,
    /// Keys that would be refused elsewhere and are read by `of_keys`.
    pub(super) keys: &'static [&'static str],
    /// Reads keys of GGUF files that other architectures lack or mean otherwise.
    pub(super) of_keys: fn(&mut ModelConfig, &Keys<'_>) -> Result<(), Error>,
    /// See [`Family::is_written`].
    pub(crate) is_written: bool,
}

/// What an absent field of `config.json` means.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    /// Elements per head; `None` divides the width by the number of heads.
    pub(super) head_dim: Option<usize>,
    /// Whether there are as many key/value heads as query heads; otherwise the field must be there.
    pub(super) is_ungrouped: bool,
    pub(super) activation: Activation,
    pub(super) ties_embeddings: bool,
    /// Base of the rotary frequencies.
    pub(super) rope_theta: f64,
    /// Share of each head that turns.
    pub(super) rotary_share: f64,
    /// Whether all layers have experts, so that nothing has the width of other feed-forward layers; otherwise it must be there.
    pub(super) has_experts_alone: bool,
}

/// Names of the norms of a layer in the files, without `.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormNames {
    /// Of what attention reads.
    pub before_attention: &'static str,
    /// Of what attention adds to the residual stream.
    pub after_attention: Option<&'static str>,
    /// Of what the feed-forward part reads.
    pub before_feed_forward: &'static str,
    /// Of what the feed-forward part adds to the residual stream.
    pub after_feed_forward: Option<&'static str>,
}

/// Projections that are one tensor, the outputs of one after those of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fused {
    /// Query, key and value, as `self_attn.qkv_proj`.
    pub(crate) qkv: bool,
    /// Gate and up, as `mlp.gate_up_proj`.
    pub(crate) gate_up: bool,
}

/// The same question about two kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PerFile {
    pub(crate) folder: bool,
    pub(crate) gguf: bool,
}

/// Llama's description without a name, for others to differ from.
pub(super) const LIKE_LLAMA: Architecture = Architecture {
    family: Family::Llama,
    name: "",
    model_type: "",
    gguf: "",
    defaults: Defaults {
        head_dim: None,
        is_ungrouped: false,
        activation: Activation::Silu,
        ties_embeddings: false,
        rope_theta: super::rope::ROPE_THETA_DEFAULT,
        rotary_share: 1.0,
        has_experts_alone: false,
    },
    norms: NormNames {
        before_attention: "input_layernorm",
        after_attention: None,
        before_feed_forward: "post_attention_layernorm",
        after_feed_forward: None,
    },
    gguf_feed_forward_norm: "ffn_norm",
    fused: Fused { qkv: false, gate_up: false },
    turns_neighbours: PerFile { folder: false, gguf: false },
    fields: &[],
    of_fields: |_, _| Ok(()),
    keys: &[],
    of_keys: |_, _| Ok(()),
    is_written: true,
};

/// All that can be run, in the order in which errors list them.
const ALL: [&Architecture; 18] = [
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &gemma4::GEMMA4,
    &phi3::PHI3,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
    &glm4::GLM4,
    &qwen3_moe::QWEN3_MOE,
    &mixtral::MIXTRAL,
    &olmoe::OLMOE,
    &gpt_oss::GPT_OSS,
    &qwen3_5::QWEN3_5,
    &qwen3_5_moe::QWEN3_5_MOE,
    &qwen3_next::QWEN3_NEXT,
];

impl Architecture {
    pub(crate) fn of(family: Family) -> &'static Self {
        ALL.into_iter().find(|found| found.family == family).expect("every family has a description")
    }

    /// The one that `config.json` calls so.
    pub(super) fn named(name: &str) -> Result<&'static Self, Error> {
        Self::find(name, |found| found.name)
    }

    /// The one of a `model_type`.
    pub(super) fn of_model_type(model_type: &str) -> Result<&'static Self, Error> {
        let found = ALL.into_iter().find(|found| found.model_type == model_type);
        found.map_or_else(|| Self::named(model_type), Ok)
    }

    /// The one that GGUF files call so; of those with one name, the first, or Mixtral where the file has experts.
    pub(super) fn of_gguf(name: &str, has_experts: bool) -> Result<&'static Self, Error> {
        match has_experts && name == mixtral::MIXTRAL.gguf {
            true => Ok(&mixtral::MIXTRAL),
            false => Self::find(name, |found| found.gguf),
        }
    }

    fn find(got: &str, name: fn(&Self) -> &'static str) -> Result<&'static Self, Error> {
        ALL.into_iter().find(|found| name(found) == got).ok_or_else(|| {
            let mut names = Vec::new();
            for name in ALL.into_iter().map(name) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            Error::Architecture { expected: names.join(", "), got: got.to_string() }
        })
    }
}
