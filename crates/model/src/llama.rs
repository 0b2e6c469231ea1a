//! The forward pass of Llama and all that differ from it in what [`ModelConfig`] says, over ragged rows.
//!
//! Touvron et al. (arXiv:2302.13971), Section 2.2: pre-normalisation (RMSNorm), rotary embedding, SwiGLU; grouped-query
//! attention from Ainslie et al. (arXiv:2305.13245). No architecture is named here: windows, norms, scales and caps are numbers
//! of the configuration, which one description per architecture fills in.
//!
//! A pass has two halves. [`Llama::forward`] runs every layer and leaves the last hidden state of the rows that somebody
//! wants; [`Llama::logits`] projects a range of those on the vocabulary. Between the two a caller decides how many logits
//! exist at once, which for large vocabularies is what memory is about.

mod layers;

use std::ops::Range;
use std::sync::Arc;

use dsde_engine::{BlockCopy, RowBatch, SlotMove};
use dsde_policy::ExpertsWoken;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::ModelConfig;
use dsde_kernels::{Backend, Input, KvShape, RmsNorm, RopeTable};

use crate::attention::attention_shape;
use crate::buffers::{Buffers, Scratch, prefix};
use crate::error::Error;
use crate::rope::rope_table;
use crate::states::{States, StatesShape};
use crate::translation::Translation;
use crate::weights::{OnPacked, Weights};

/// One model: packed weights, rotary angles and the buffers of a pass.
pub struct Llama<B: Backend> {
    config: ModelConfig,
    weights: Weights<B>,
    /// One per rotary embedding of the configuration.
    ropes: Vec<RopeTable>,
    scratch: Scratch,
    /// Of a model with delta layers, see [`Llama::with_states`].
    states: Option<States>,
    /// See [`Llama::tap`].
    tapped: Vec<usize>,
    /// Rows whose logits somebody wants, kept for its memory.
    wanted: RowBatch,
}

impl<B: Backend> Llama<B> {
    /// Packs the weights of a checkpoint.
    ///
    /// * `context_len`: positions for which rotary angles are kept; no row may stand at or after it.
    ///
    /// # Errors
    /// If a tensor is absent or has another shape or element type than the configuration implies.
    pub fn load(backend: &B, checkpoint: &Checkpoint, context_len: u32) -> Result<Self, Error> {
        Self::load_with(backend, checkpoint, context_len, None, &mut |_, _| {})
    }

    /// The same, told of as it goes on.
    ///
    /// * `translation`: by which it reads and guesses tokens of another vocabulary; fits the checkpoint.
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub(crate) fn load_with(
        backend: &B,
        checkpoint: &Checkpoint,
        context_len: u32,
        translation: Option<Arc<Translation>>,
        on_packed: &mut OnPacked<'_>,
    ) -> Result<Self, Error> {
        let config = checkpoint.config().clone();
        let weights = Weights::load(backend, checkpoint, translation, on_packed)?;
        let ropes = config.ropes.iter().map(|rope| rope_table(rope, context_len as usize)).collect();
        Ok(Self {
            config,
            weights,
            ropes,
            scratch: Scratch::default(),
            states: None,
            tapped: Vec::new(),
            wanted: RowBatch::default(),
        })
    }

    /// Makes room for states of delta layers; a model without such layers has no use for them.
    #[must_use]
    pub fn with_states(mut self, backend: &B, n_states: usize) -> Self {
        self.states = self.config.delta.map(|shape| {
            States::new(StatesShape {
                n_states,
                n_layers: self.config.n_delta_layers(),
                state_len: backend.state_len(shape),
                input_len: shape.input_len(),
                block_len: backend.block_len(),
            })
        });
        self
    }

    /// See [`Executor::copy_blocks`](dsde_engine::Executor::copy_blocks), for what is kept beside slots.
    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        self.states.iter_mut().for_each(|states| states.copy_blocks(copies));
    }

    /// See [`Executor::move_slots`](dsde_engine::Executor::move_slots), for what is kept beside slots.
    pub(crate) fn move_slots(&mut self, moves: &[SlotMove]) {
        self.states.iter_mut().for_each(|states| states.move_slots(moves));
    }

    /// Shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How it reads and guesses, if its own vocabulary is another.
    pub(crate) fn translation(&self) -> Option<&Arc<Translation>> {
        self.weights.translation.as_ref()
    }

    /// Tokens that it reads and guesses.
    pub(crate) fn vocab_len(&self) -> usize {
        self.translation().map_or(self.config.vocab_len, |translation| translation.vocab_len())
    }

    /// Bytes of all weights as they lie in memory, rotary angles included.
    pub fn weight_bytes(&self, backend: &B) -> usize {
        let n_angles: usize = self.ropes.iter().map(|rope| rope.cos.len()).sum();
        self.weights.bytes(backend) + 2 * n_angles * size_of::<f32>()
    }

    /// Keeps the residual stream of every row of later passes as it is after so many layers, for [`Llama::taps`]. After all of
    /// them, every row passes the whole last layer, wanted or not.
    ///
    /// # Panics
    /// If the model has fewer layers.
    pub(crate) fn tap(&mut self, tapped: &[usize]) {
        assert!(tapped.iter().all(|&n| n <= self.config.n_layers), "taps lie within the model");
        self.tapped = tapped.to_vec();
    }

    /// What the taps kept of the last pass, `[n_rows, n_taps * hidden]`; of rows that were dropped, nothing.
    ///
    /// * `n_rows`: those that reached the last layer.
    pub(crate) fn taps(&self, n_rows: usize) -> &[f32] {
        &self.scratch.taps[..n_rows * self.tapped.len() * self.config.hidden]
    }

    /// States of the outputs of the last pass, behind the last norm and times the factor of logits.
    ///
    /// * `out`: `[n_outputs, hidden]`.
    pub(crate) fn states(&self, backend: &B, out: &mut [f32]) {
        let norm = RmsNorm { weight: &self.weights.final_norm, eps: self.config.rms_eps };
        backend.rms_norm(&self.scratch.hidden[..out.len()], norm, out);
    }

    /// Embeddings of tokens as stored, without their factor; `out: [tokens.len(), hidden]`.
    pub(crate) fn embed(&self, backend: &B, tokens: &[u32], out: &mut [f32]) {
        self.weights.embed(backend, tokens, out);
    }

    /// Stores keys and values of `rows` and computes the hidden state of the rows named by `outputs`.
    ///
    /// * `outputs`: rows whose logits may be asked for, strictly ascending; without any, work that only serves logits is
    ///   left out.
    /// * `kv`: a store of [`kv_shape`] for this model's configuration.
    ///
    /// # Panics
    /// If a token or a position lies outside the model; the engine admits no such request. Also if the model has delta layers and
    /// no states ([`Llama::with_states`]), or a sequence stands where its state cannot come.
    pub fn forward(&mut self, backend: &B, rows: &RowBatch, outputs: &[u32], kv: &mut B::KvStore) {
        self.begin(backend, rows);
        self.run_layers(backend, 0..self.config.n_layers, rows, outputs, kv);
    }

    /// The first part of [`Llama::forward`]: the hidden state of every row is the embedding of its token.
    ///
    /// # Panics
    /// As [`Llama::forward`].
    pub fn begin(&mut self, backend: &B, rows: &RowBatch) {
        self.check_inputs(rows);
        let Self { config, weights, scratch, .. } = self;
        let Buffers { hidden, layer_inputs, .. } = scratch.buffers(config, self.tapped.len(), rows.n_rows());
        weights.embed(backend, &rows.tokens, hidden);
        if config.embedding_scale != 1.0 {
            hidden.iter_mut().for_each(|x| *x *= config.embedding_scale);
        }
        weights.begin_layer_inputs(backend, config, &rows.tokens, hidden, layer_inputs);
    }

    /// Logits of single tokens after a row of the pass under way, as if its hidden state were the last one. `None` for
    /// models whose output projection is not the embedding table.
    pub fn early_logits(&self, backend: &B, row: usize, tokens: &[u32]) -> Option<Vec<f32>> {
        if !self.config.tie_embeddings {
            return None;
        }
        let width = self.config.hidden;
        let norm = RmsNorm { weight: &self.weights.final_norm, eps: self.config.rms_eps };
        let mut normalised = vec![0.0; width];
        backend.rms_norm(&self.scratch.hidden[row * width..][..width], norm, &mut normalised);
        let mut weights = vec![0.0; tokens.len() * width];
        self.weights.embed(backend, tokens, &mut weights);
        let logit = |weights: &[f32]| weights.iter().zip(&normalised).map(|(w, x)| w * x).sum();
        let mut logits: Vec<f32> = weights.chunks_exact(width).map(logit).collect();
        if let Some(cap) = self.config.logit_soft_cap {
            backend.soft_cap(cap, &mut logits);
        }
        Some(logits)
    }

    /// Experts that passes asked since the last call; `None` of a model without.
    pub(crate) fn take_experts_woken(&mut self) -> Option<ExpertsWoken> {
        let experts = self.config.experts.as_ref()?;
        let (n_experts, n_chosen) = (experts.n_experts as u32, experts.n_chosen as u32);
        Some(ExpertsWoken { n_experts, n_chosen, ..self.scratch.feed_forward.take_woken() })
    }

    /// Tokens and positions lie inside the tables that they index.
    fn check_inputs(&self, rows: &RowBatch) {
        let vocab_len = self.vocab_len();
        let n_positions = self.ropes[0].cos.len() / self.ropes[0].n_pairs;
        assert!(
            rows.tokens.iter().all(|&token| (token as usize) < vocab_len),
            "tokens are below {vocab_len}"
        );
        assert!(
            rows.positions.iter().all(|&position| (position as usize) < n_positions),
            "positions are below {n_positions}"
        );
    }

    /// Logits `[outputs.len(), vocab_len]` of a range of the last pass' outputs, for the caller to change as it likes.
    ///
    /// Those of tokens that a translated model does not guess are `-inf`.
    ///
    /// * `outputs`: indices into the `outputs` of [`Llama::forward`].
    pub fn logits(&mut self, backend: &B, outputs: Range<usize>) -> &mut [f32] {
        let vocab_len = self.vocab_len();
        let Self { config, weights, scratch, .. } = self;
        let n_rows = outputs.len();
        let x = &scratch.hidden[outputs.start * config.hidden..outputs.end * config.hidden];
        let norm = RmsNorm { weight: &weights.final_norm, eps: config.rms_eps };
        let input = Input { x, norm: Some(norm) };
        let project = |logits: &mut [f32]| {
            weights.project(backend, config.logit_soft_cap, (input, n_rows), logits);
        };
        let logits = prefix(&mut scratch.logits, n_rows * vocab_len);
        match &weights.translation {
            None => project(logits),
            Some(translation) => {
                let guessed = prefix(&mut scratch.guessed, n_rows * translation.n_shared());
                project(guessed);
                translation.spread(guessed, logits);
            }
        }
        logits
    }

    /// Logits `[n_rows, vocab_len]` of hidden states that are normalised already.
    ///
    /// * `x`: `[n_rows, hidden]`.
    pub(crate) fn project(&self, backend: &B, x: &[f32], n_rows: usize, logits: &mut [f32]) {
        let input = Input { x, norm: None };
        self.weights.project(backend, self.config.logit_soft_cap, (input, n_rows), logits);
    }
}

/// The key/value store that a model needs.
pub fn kv_shape(config: &ModelConfig, n_blocks: usize) -> KvShape {
    let stores = (0..config.n_layers).filter(|&layer| config.layers[layer].stores());
    KvShape { n_blocks, layers: stores.map(|layer| attention_shape(config, layer)).collect() }
}
