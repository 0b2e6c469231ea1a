//! An EAGLE-3 head as published, a folder or a GGUF file of llama.cpp's converter: one layer, what it reads of the target, and which
//! tokens it guesses.

use std::collections::HashSet;
use std::path::Path;

use super::token_list::Listed;
use super::{Checkpoint, HeadCheckpoint, folder, from_gguf};
use crate::config::{Eagle3Config, StateNorms, TO_TARGET};
use crate::error::Error;
use crate::files::check_folder;
use crate::gguf::Gguf;
use crate::stored::{Dense, Dtype};

/// Names under which the one layer is published in folders, the authors' first.
const LAYERS: [&str; 2] = ["midlayer", "layers.0"];
/// The name that reading GGUF files gives it.
const GGUF_LAYER: &str = "model.layers.0";
/// Embeddings of its own, `[vocab_len, hidden]`; without them it reads the target's.
const EMBEDDINGS: &str = "embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";
const NORM: &str = "norm.weight";
const COMBINE: &str = "fc.weight";
/// Norm of the states of the target together.
const JOINT_NORM: &str = "input_norm.weight";
/// Whether the head can guess a token, `[vocab_len]`.
const IS_GUESSED: &str = "t2d";
/// What older tools stored beside the weights although it follows from the configuration.
const DERIVED: &str = "rotary_emb.inv_freq";
/// What some tools leave in from training: copies of the target's tensors.
const OF_TARGET: [&str; 2] = ["verifier_norm.weight", "verifier_lm_head.weight"];
/// Names in GGUF files of what no model has, or what a head names otherwise.
const GGUF: [(&str, &str); 7] = [
    ("token_embd.weight", EMBEDDINGS),
    ("output.weight", OUTPUT),
    ("output_norm.weight", NORM),
    ("enc.output_norm.weight", JOINT_NORM),
    ("blk.0.attn_norm_2.weight", "model.layers.0.hidden_norm.weight"),
    (COMBINE, COMBINE),
    (TO_TARGET, TO_TARGET),
];

/// An opened EAGLE-3 head.
#[derive(Debug)]
pub struct Eagle3Checkpoint {
    config: Eagle3Config,
    weights: Checkpoint,
    layer: &'static str,
    vocabulary: Vec<u32>,
}

impl Eagle3Checkpoint {
    /// Whether a path is the folder of an EAGLE-3 head.
    ///
    /// # Errors
    /// If there is a `config.json` that cannot be read.
    pub fn is_folder(path: &Path) -> Result<bool, Error> {
        folder::optional_config(path)?.map_or(Ok(false), |config| Eagle3Config::describes(&config))
    }

    /// The head at a path, if that is what lies there: a folder with `config.json` and `model.safetensors` or its shards, or a GGUF
    /// file.
    ///
    /// # Errors
    /// As [`HeadCheckpoint::find`]: of a head also if its tokens are not distinct tokens of the target.
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        Ok(match HeadCheckpoint::find(path)? {
            Some(HeadCheckpoint::Eagle3(head)) => Some(*head),
            Some(HeadCheckpoint::Assistant(_)) | None => None,
        })
    }

    pub(super) fn of_gguf(gguf: Gguf) -> Result<Self, Error> {
        let config = Eagle3Config::of_gguf(&gguf)?;
        let weights = from_gguf::with_config(gguf, config.layer.clone(), &GGUF)?;
        Self::checked(config, weights, GGUF_LAYER)
    }

    pub(super) fn open(path: &Path, config: &[u8]) -> Result<Self, Error> {
        check_folder(path)?;
        let config = Eagle3Config::parse(config)?;
        if path.join("pytorch_model.bin").exists() && !folder::has_weights(path) {
            let expected = "model.safetensors, and pytorch_model.bin is not read, since such files can hold code; convert it with \
                            `safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors')`";
            return Err(Error::MissingFile { path: path.to_path_buf(), expected });
        }
        let weights = folder::open_weights(path, &config.layer, &implied(&config, LAYERS[0]))?;
        let weights = weights.into_checkpoint(config.layer.clone());
        let is_there = |layer: &&str| weights.has_tensor(&format!("{layer}.self_attn.q_proj.weight"));
        let layer = LAYERS.into_iter().find(is_there).unwrap_or(LAYERS[0]);
        Self::checked(config, weights, layer)
    }

    fn checked(config: Eagle3Config, weights: Checkpoint, layer: &'static str) -> Result<Self, Error> {
        check_declared(&weights, &config, layer)?;
        let vocabulary = vocabulary(&weights, &config)?;
        Ok(Self { config, weights, layer, vocabulary })
    }

    /// What the head is.
    pub fn config(&self) -> &Eagle3Config {
        &self.config
    }

    /// Its tensors as named in the files; the configuration is that of its layer.
    pub fn weights(&self) -> &Checkpoint {
        &self.weights
    }

    /// How the names of the layer's tensors begin.
    pub fn layer(&self) -> &'static str {
        self.layer
    }

    /// The target's token for each of its own, `[draft_vocab_len]`: distinct and below `vocab_len`.
    pub fn vocabulary(&self) -> &[u32] {
        &self.vocabulary
    }

    /// Embeddings of its own, `[vocab_len, hidden]`, where it has some.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn embeddings(&self) -> Result<Option<Dense<'_>>, Error> {
        let layer = &self.config.layer;
        let table = || self.weights.matrix(EMBEDDINGS, layer.vocab_len, layer.hidden);
        self.weights.has_tensor(EMBEDDINGS).then(table).transpose()
    }

    /// Of the target's states one after the other, `[hidden, n_taps * target_hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn combination(&self) -> Result<Dense<'_>, Error> {
        self.weights.matrix(
            COMBINE,
            self.config.layer.hidden,
            self.config.n_taps() * self.config.target_hidden,
        )
    }

    /// Weights of the norms of these states: none, one of `[n_taps * target_hidden]`, or `n_taps` of `[target_hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::vector`].
    pub fn state_norms(&self) -> Result<Vec<Vec<f32>>, Error> {
        let names = state_norms(&self.config);
        let len = self.config.n_taps() * self.config.target_hidden / names.len().max(1);
        names.iter().map(|name| self.weights.vector(name, len)).collect()
    }

    /// Weights of the norm behind the layer, `[hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::vector`].
    pub fn final_norm(&self) -> Result<Vec<f32>, Error> {
        self.weights.vector(NORM, self.config.layer.hidden)
    }

    /// What scores its tokens, `[draft_vocab_len, hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn output(&self) -> Result<Dense<'_>, Error> {
        self.weights.matrix(OUTPUT, self.config.draft_vocab_len, self.config.layer.hidden)
    }

    /// As [`Checkpoint::with_matrices_rounded`].
    #[must_use]
    pub fn with_matrices_rounded(mut self, dtype: Dtype) -> Self {
        self.weights = self.weights.with_matrices_rounded(dtype);
        self
    }

    /// As [`Checkpoint::weight_bytes`].
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes_of(&self.used())
    }

    /// As [`Checkpoint::dtypes`].
    pub fn dtypes(&self) -> Vec<(Dtype, usize)> {
        self.weights.dtypes_of(&self.used())
    }

    fn used(&self) -> HashSet<String> {
        let mut names = implied(&self.config, self.layer);
        names.insert(EMBEDDINGS.to_string());
        names
    }
}

/// Names of the tensors that every head has.
fn implied(config: &Eagle3Config, layer: &str) -> HashSet<String> {
    let has_bias = |is_there: bool| if is_there { &["weight", "bias"][..] } else { &["weight"] };
    let modules = [
        ("input_layernorm", false),
        ("hidden_norm", false),
        ("post_attention_layernorm", false),
        ("self_attn.q_proj", config.layer.has_qkv_bias),
        ("self_attn.k_proj", config.layer.has_qkv_bias),
        ("self_attn.v_proj", config.layer.has_qkv_bias),
        ("self_attn.o_proj", config.layer.has_output_bias),
        ("mlp.gate_proj", config.layer.has_mlp_bias),
        ("mlp.up_proj", config.layer.has_mlp_bias),
        ("mlp.down_proj", config.layer.has_mlp_bias),
    ];
    let query_key = config.layer.has_qk_norm.then_some(["self_attn.q_norm", "self_attn.k_norm"]);
    let modules = modules.into_iter().chain(query_key.into_iter().flatten().map(|module| (module, false)));
    let of_layer = modules.flat_map(|(module, is_biased)| {
        has_bias(is_biased).iter().map(move |part| format!("{layer}.{module}.{part}"))
    });
    let others = [COMBINE, NORM, OUTPUT].map(str::to_string);
    of_layer.chain(others).chain(state_norms(config)).collect()
}

/// Names of the norms of the target's states.
fn state_norms(config: &Eagle3Config) -> Vec<String> {
    match config.state_norms {
        StateNorms::None => Vec::new(),
        StateNorms::Joint => vec![JOINT_NORM.to_string()],
        StateNorms::Each => (0..config.n_taps()).map(|i| format!("fc_norm.{i}.weight")).collect(),
    }
}

/// # Errors
/// [`Error::TensorMissing`]; [`Error::TensorUndeclared`] for a tensor without a use: such a head computes something else than is
/// computed here.
fn check_declared(weights: &Checkpoint, config: &Eagle3Config, layer: &str) -> Result<(), Error> {
    let implied = implied(config, layer);
    if let Some(name) = implied.iter().filter(|name| !weights.has_tensor(name)).min() {
        return Err(Error::TensorMissing { name: name.clone() });
    }
    let is_used = |name: &str| {
        implied.contains(name)
            || [EMBEDDINGS, TO_TARGET, IS_GUESSED].contains(&name)
            || OF_TARGET.contains(&name)
            || name.ends_with(DERIVED)
    };
    match weights.tensor_names().filter(|name| !is_used(name)).min() {
        None => Ok(()),
        Some(name) => Err(Error::TensorUndeclared {
            name: name.to_string(),
            declarer: "an EAGLE-3 head",
            hint: "use another head",
        }),
    }
}

/// The target's token for each token of the head.
///
/// # Errors
/// If they are no distinct tokens of the target, or other ones than `t2d` says.
fn vocabulary(weights: &Checkpoint, config: &Eagle3Config) -> Result<Vec<u32>, Error> {
    let (draft_len, vocab_len) = (config.draft_vocab_len, config.layer.vocab_len);
    if !weights.has_tensor(TO_TARGET) && draft_len == vocab_len {
        return Ok((0..vocab_len as u32).collect());
    }
    let listed = if weights.gguf().is_some() { Listed::Tokens } else { Listed::Distances };
    let vocabulary = listed.tokens(weights, TO_TARGET, draft_len, vocab_len)?;
    if weights.has_tensor(IS_GUESSED) {
        let mut is_guessed = vec![false; vocab_len];
        vocabulary.iter().for_each(|&token| is_guessed[token as usize] = true);
        let flags = weights.raw(IS_GUESSED, "BOOL", &[vocab_len])?;
        if let Some(token) = (0..vocab_len).find(|&token| (flags[token] != 0) != is_guessed[token]) {
            return Err(Error::Field {
                field: format!("{IS_GUESSED}[{token}]"),
                expected: format!("{}, as {TO_TARGET} says", is_guessed[token]),
                got: (flags[token] != 0).to_string(),
            });
        }
    }
    Ok(vocabulary)
}
