//! Weights and configuration of a model as published: a Hugging Face folder, the same files embedded in the binary, or a GGUF
//! file. Tensors have the names of Hugging Face in all of them.
//!
//! Weight files are mapped, not read: a tensor costs memory only when it is touched, and pages return to the system after
//! packing. Everything in a file is data from strangers: no code in it is ever run, names cannot leave its folder, and
//! every length is checked against the file before a byte is touched.
//!
//! Not done here: conversion and packing of weights (`weights`), tokenizer and chat template (`text`).

mod assistant;
mod bytes;
mod declared;
mod delta;
mod eagle3;
mod experts;
mod folder;
mod from_gguf;
mod head;
mod layer_inputs;
mod layout;
mod matrix;
mod mtp;
mod rounding;
mod shard;
mod span;
mod token_list;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::Error;
use crate::gguf::{Gguf, Metadata};
use crate::stored::{Dense, Dtype, RowOrder, TensorView};
pub use assistant::AssistantCheckpoint;
pub(crate) use bytes::Bytes;
pub use delta::{DeltaProjections, GatedQueries};
pub use eagle3::Eagle3Checkpoint;
pub use experts::{BesideDense, Expert, ExpertBiases, LayerExperts};
pub use folder::gguf_file;
pub(crate) use from_gguf::named;
pub use head::HeadCheckpoint;
pub use mtp::MtpCheckpoint;
use shard::Shard;
pub(crate) use span::{ElementType, Location, Span};

/// Element types that are read from safetensors files.
const SAFETENSORS_DTYPES: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Name of the embedding table, `[n_embeddings, hidden]`.
const EMBEDDINGS: &str = "model.embed_tokens.weight";
/// Name of the output projection, `[n_embeddings, hidden]`.
const OUTPUT: &str = "lm_head.weight";

/// Sinks of a layer, `[n_heads]`, within it.
const SINKS: &str = "self_attn.sinks";

/// An opened model: checked configuration and every tensor by name.
///
/// Nobody may shorten the files of an open checkpoint: the system would end the process with `SIGBUS` when a lost page is
/// touched. Drop the checkpoint when its weights are packed.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    /// Shared with the checkpoint of the model's own head.
    files: Vec<Arc<Bytes>>,
    tensors: HashMap<String, Location>,
    /// Of a GGUF file.
    metadata: Option<Arc<Metadata>>,
}

/// Files of a model that are part of the program.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedFiles {
    /// `config.json`.
    pub config: &'static [u8],
    /// `generation_config.json`.
    pub generation_config: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
}

impl Checkpoint {
    /// Opens a folder or a GGUF file.
    ///
    /// A folder has `config.json`, optionally `generation_config.json`, and either `model.safetensors` or
    /// `model.safetensors.index.json` with the shards it names. One without `config.json` may hold a GGUF file instead. A GGUF
    /// file that is a part of a model stands for all parts.
    ///
    /// # Errors
    /// If `path` is neither, a file is truncated or contradicts itself, the index names a file outside the folder or a tensor that
    /// is not there, the configuration is refused (see [`ModelConfig::parse`] and [`ModelConfig::of_gguf`]), or there is a tensor
    /// that it should have declared ([`Error::TensorUndeclared`]).
    pub fn open(path: &Path) -> Result<Self, Error> {
        match folder::gguf_file(path)? {
            Some(file) => from_gguf::checkpoint(Gguf::open(&file)?)?.declared(),
            None => folder::open(path)?.declared(),
        }
    }

    /// Opens files that are part of the program.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn embedded(files: EmbeddedFiles) -> Result<Self, Error> {
        let config = ModelConfig::parse(files.config, Some(files.generation_config))?;
        let shard = Shard::embedded("embedded model.safetensors", files.weights)?;
        let tensors = shard.spans().map(|(name, span)| (name, Location { file_idx: 0, span })).collect();
        let tensors = layout::of_folder(tensors, &config)?;
        Self { config, files: vec![Arc::new(shard.into_bytes())], tensors, metadata: None }.declared()
    }

    /// Takes the rows of the embeddings that belong to tokens for the vocabulary and the rest for padding, which is never
    /// emitted.
    ///
    /// Published models round the table up to a convenient size, often differently for a large and a small model with the
    /// same tokenizer; without padding they share a vocabulary. Fine-tuned models sometimes have a tokenizer with more
    /// tokens than embeddings (one that fills up training batches, say); these tokens can be neither read nor emitted.
    ///
    /// * `n_tokens`: tokens of the model's tokenizer.
    #[must_use]
    pub fn without_padding(mut self, n_tokens: usize) -> Self {
        let config = &mut self.config;
        let n_embeddings = config.n_embeddings;
        if n_tokens > n_embeddings {
            tracing::warn!(
                "the tokenizer has {n_tokens} tokens, the model embeddings for only {n_embeddings}; the others cannot be used"
            );
        }
        config.vocab_len = n_tokens.min(n_embeddings);
        config.eos_tokens.retain(|&token| (token as usize) < config.vocab_len);
        self
    }

    /// Bytes of the weights in memory, as far as this can be told before packing: those that are used, in element types as
    /// stored. Padding of packed matrices comes on top.
    pub fn weight_bytes(&self) -> usize {
        self.bytes_of(&declared::implied(&self.config))
    }

    fn bytes_of(&self, names: &HashSet<String>) -> usize {
        self.locations_of(names).map(|location| location.span.range.len()).sum()
    }

    fn locations_of<'a>(&'a self, names: &'a HashSet<String>) -> impl Iterator<Item = &'a Location> {
        self.tensors.iter().filter(|(name, _)| names.contains(*name)).map(|(_, location)| location)
    }

    /// Element types of the weights that are used and how many tensors have each, the most frequent first.
    pub fn dtypes(&self) -> Vec<(Dtype, usize)> {
        self.dtypes_of(&declared::implied(&self.config))
    }

    fn dtypes_of(&self, names: &HashSet<String>) -> Vec<(Dtype, usize)> {
        let used: Vec<&Location> = self.locations_of(names).collect();
        // Of what is no plain number there are codes of MXFP4 with four dimensions, and their scales with three.
        let is_of = |location: &Location, dtype| match location.span.dtype {
            ElementType::Read(read) => read == dtype,
            ElementType::Other(_) => dtype == Dtype::Mxfp4 && location.span.shape.len() == 4,
        };
        let count = |dtype| (dtype, used.iter().filter(|location| is_of(location, dtype)).count());
        let mut counts: Vec<_> = Dtype::ALL.into_iter().map(count).filter(|&(_, n)| n > 0).collect();
        counts.sort_by_key(|&(_, n)| Reverse(n));
        counts
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the file says about the model, vocabulary and chat template included, if it is a GGUF file.
    pub fn gguf(&self) -> Option<&Metadata> {
        self.metadata.as_deref()
    }

    /// Names of all tensors, in no particular order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether a tensor is there.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors in the files.
    pub fn stored_bytes(&self) -> usize {
        self.tensors.values().map(|location| location.span.range.len()).sum()
    }

    /// The tensor `name` in whatever shape it has, its rows in whatever order ([`RowOrder`](crate::RowOrder)).
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn stored(&self, name: &str) -> Result<TensorView<'_>, Error> {
        self.tensor(name, &self.location(name)?.span.shape)
    }

    /// The tensor `name`, which must have the shape that the configuration implies; its rows in whatever order.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::TensorShape`], or [`Error::TensorDtype`] for an element type that is not read.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, Error> {
        let (span, bytes) = self.stored_as(name, shape)?;
        match &span.dtype {
            ElementType::Read(dtype) => Ok(TensorView { dtype: *dtype, shape: &span.shape, bytes }),
            ElementType::Other(got) => Err(Error::TensorDtype {
                name: name.to_string(),
                expected: SAFETENSORS_DTYPES,
                got: got.clone(),
            }),
        }
    }

    /// The bytes of the tensor `name`, whose elements are of the type that safetensors files call `dtype` and no weights.
    fn raw(&self, name: &str, dtype: &'static str, shape: &[usize]) -> Result<&[u8], Error> {
        let (span, bytes) = self.stored_as(name, shape)?;
        match &span.dtype {
            ElementType::Other(got) if got == dtype => Ok(bytes),
            other => {
                let got = match other {
                    ElementType::Read(dtype) => dtype.name().to_string(),
                    ElementType::Other(got) => got.clone(),
                };
                Err(Error::TensorElements { name: name.to_string(), expected: dtype, got })
            }
        }
    }

    /// The tensor `name` of that shape and its bytes.
    fn stored_as(&self, name: &str, shape: &[usize]) -> Result<(&Span, &[u8]), Error> {
        let Location { file_idx, span } = self.location(name)?;
        if span.shape != shape {
            let (expected, got) = (shape.to_vec(), span.shape.clone());
            return Err(Error::TensorShape { name: name.to_string(), expected, got });
        }
        Ok((span, &self.files[*file_idx][span.range.clone()]))
    }

    fn location(&self, name: &str) -> Result<&Location, Error> {
        self.tensors.get(name).ok_or_else(|| Error::TensorMissing { name: name.to_string() })
    }

    /// The matrix `name` of shape `[n_out, n_in]`, ready for packing.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn matrix(&self, name: &str, n_out: usize, n_in: usize) -> Result<Dense<'_>, Error> {
        let TensorView { dtype, bytes, .. } = self.tensor(name, &[n_out, n_in])?;
        Ok(Dense { dtype, n_out, n_in, bytes, order: self.location(name)?.span.order })
    }

    /// The embedding table, `[n_embeddings, hidden]`, padding included.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn embeddings(&self) -> Result<Dense<'_>, Error> {
        self.matrix(EMBEDDINGS, self.config.n_embeddings, self.config.hidden)
    }

    /// The output projection, `[n_embeddings, hidden]`, padding included; the embedding table where the two are tied.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn output_projection(&self) -> Result<Dense<'_>, Error> {
        match self.config.tie_embeddings {
            true => self.embeddings(),
            false => self.matrix(OUTPUT, self.config.n_embeddings, self.config.hidden),
        }
    }

    /// The weights of a norm, `[len]`: what the normalised input is multiplied by.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let mut weights = self.vector(name, len)?;
        weights.iter_mut().for_each(|weight| *weight += self.config.norm_offset);
        Ok(weights)
    }

    /// The vector `name` of `len` elements, converted to f32 (exact for every type that is read).
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let stored = self.tensor(name, &[len])?.to_f32();
        Ok(match self.location(name)?.span.order {
            RowOrder::AsIs => stored,
            order => (0..len).map(|i| stored[order.stored(i)]).collect(),
        })
    }
}
