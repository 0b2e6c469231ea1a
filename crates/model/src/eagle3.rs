//! EAGLE-3 (Li et al., arXiv:2503.01840, Section 3): one layer that drafts from what the target made of the tokens so far.
//!
//! | paper | here |
//! |---|---|
//! | low-, middle- and high-level features `l`, `m`, `h` | the target's residual stream at its [taps](crate::Llama) |
//! | `g = FC(l, m, h)` | [`Eagle3::combine`], once per row of the target |
//! | FC and layer over embedding and `g`, or over the last output `a` where there is no `g` yet | [`Eagle3::forward`] |
//!
//! The row of a token reads the embedding of that token and the feature of the token before: `g` if the target has read that
//! one, and `a`, the residual stream behind the layer, if it was drafted. Both lie in [`Features`], `a` where `g` will be.
//!
//! Deviations: none in what is computed. The authors leave the first token out and count positions from the second on; here
//! slots are those of the target, so that blocks stay functions of their prefix, and the first slot is seen by no row. Rotary
//! embedding depends on differences of positions alone.

use std::ops::Range;

use dsde_checkpoint::config::{Eagle3Config, ModelConfig};
use dsde_checkpoint::{Checkpoint, Eagle3Checkpoint};
use dsde_engine::RowBatch;
use dsde_kernels::{Backend, Epilogue, Input, RmsNorm, RopeTable, Stacking};

use crate::attention::AttentionPass;
use crate::buffers::{Scratch, gather_rows, prefix};
use crate::error::Error;
use crate::features::Features;
use crate::head::beside_each_other;
use crate::llama::Llama;
use crate::rope::rope_table;
use crate::translation::spread;
use crate::weights::{Embeddings, Layer, Mixer, Tensors};

/// An EAGLE-3 head: packed weights, rotary angles and the buffers of a pass.
pub(crate) struct Eagle3<B: Backend> {
    config: Eagle3Config,
    weights: Weights<B>,
    /// The target's token for each of its own.
    vocabulary: Vec<u32>,
    rope: RopeTable,
    scratch: Scratch,
    /// Embeddings, `[n_rows, hidden]`.
    embedded: Vec<f32>,
    /// Normalised embeddings and features, `[n_rows, 2 * hidden]`.
    inputs: Vec<f32>,
    /// States of the target, normalised, `[n_rows, n_taps * target_hidden]`.
    states: Vec<f32>,
    /// Features of rows of the target, or of its own behind the last norm, `[n_rows, hidden]`.
    combined: Vec<f32>,
    /// Over its own tokens, `[n_rows, draft_vocab_len]`.
    logits: Vec<f32>,
}

struct Weights<B: Backend> {
    /// `None` where it reads the target's.
    embeddings: Option<Embeddings>,
    /// Of the target's states: none, one of all together, or one of each.
    state_norms: Vec<Vec<f32>>,
    combine: B::Matrix,
    /// Its attention norm is that of the embeddings.
    layer: Layer<B>,
    feature_norm: Vec<f32>,
    final_norm: Vec<f32>,
    lm_head: B::Matrix,
}

impl<B: Backend> Eagle3<B> {
    /// Packs the weights of a head for a target that it fits ([`check_fit`]).
    ///
    /// * `context_len`: as for [`Llama::load`].
    ///
    /// # Errors
    /// If a tensor is absent or has another shape or element type than the configuration implies.
    pub(crate) fn load(
        backend: &B,
        checkpoint: &Eagle3Checkpoint,
        target: &Checkpoint,
        context_len: u32,
    ) -> Result<Self, Error> {
        let config = checkpoint.config().clone();
        let rope = rope_table(&config.layer.ropes[0], context_len as usize);
        Ok(Self {
            weights: Weights::load(backend, checkpoint, target)?,
            vocabulary: checkpoint.vocabulary().to_vec(),
            rope,
            scratch: Scratch::default(),
            embedded: Vec::new(),
            inputs: Vec::new(),
            states: Vec::new(),
            combined: Vec::new(),
            logits: Vec::new(),
            config,
        })
    }

    /// Bytes of all weights as they lie in memory, rotary angles included.
    pub(crate) fn weight_bytes(&self, backend: &B) -> usize {
        let vocabulary = size_of_val(self.vocabulary.as_slice());
        self.weights.bytes(backend) + vocabulary + 2 * size_of_val(self.rope.cos.as_slice())
    }

    /// Features of rows that the target has read, `[n_rows, hidden]`.
    ///
    /// * `taps`: `[n_rows, n_taps * target_hidden]`.
    pub(crate) fn combine(&mut self, backend: &B, taps: &[f32], n_rows: usize) -> &[f32] {
        let combined = prefix(&mut self.combined, n_rows * self.config.layer.hidden);
        let norms = &self.weights.state_norms;
        let states = match norms.first() {
            None => taps,
            Some(first) => {
                let states = prefix(&mut self.states, taps.len());
                let parts = taps.chunks_exact(first.len()).zip(states.chunks_exact_mut(first.len()));
                for ((part, out), weight) in parts.zip(norms.iter().cycle()) {
                    backend.rms_norm(part, RmsNorm { weight, eps: self.config.layer.rms_eps }, out);
                }
                &*states
            }
        };
        let input = Input { x: states, norm: None };
        backend.linear(input, n_rows, &self.weights.combine, Epilogue::Store, combined);
        combined
    }

    /// Stores keys and values of `rows` and computes the output of the rows named by `outputs`, which becomes the feature of
    /// their slots.
    ///
    /// * `outputs`: as for [`Llama::forward`].
    /// * `features`: of the slot before that of every row.
    /// * `kv`: a store of [`head_kv_shape`](crate::head::head_kv_shape) for its layer.
    ///
    /// # Panics
    /// If a token or a position lies outside the head; the engine admits no such request.
    pub(crate) fn forward(
        &mut self,
        backend: &B,
        target: &Llama<B>,
        rows: &RowBatch,
        outputs: &[u32],
        features: &mut Features,
        kv: &mut B::KvStore,
    ) {
        let Self { weights: Weights { layer, .. }, config: Eagle3Config { layer: config, .. }, .. } = self;
        let (n_rows, width) = (rows.n_rows(), config.hidden);
        let mut buffers = self.scratch.buffers(config, 0, n_rows);
        features.read(rows, buffers.hidden);
        let embedded = prefix(&mut self.embedded, n_rows * width);
        match &self.weights.embeddings {
            Some(table) => table.gather(&rows.tokens, embedded),
            None => target.embed(backend, &rows.tokens, embedded),
        }
        let inputs = prefix(&mut self.inputs, n_rows * 2 * width);
        let norms = [&layer.attention_norm, &self.weights.feature_norm]
            .map(|weight| RmsNorm { weight, eps: config.rms_eps });
        beside_each_other(backend, [embedded, buffers.hidden], norms, inputs);
        if self.config.norm_before_residual {
            let rows = buffers.hidden.chunks_exact_mut(width).zip(inputs.chunks_exact(2 * width));
            rows.for_each(|(feature, input)| feature.copy_from_slice(&input[width..]));
        }
        let Mixer::Attention(attention) = &layer.mixer else { unreachable!("a head attends") };
        let input = Input { x: inputs, norm: None };
        let pass = AttentionPass { config, layer: 0, kv_layer: 0, rope: Some(&self.rope), rows };
        attention.store(backend, pass, input, kv, buffers.qkv);
        if outputs.is_empty() {
            return;
        }
        let mixed = &mut buffers.mixed[..n_rows * layer.mixed_len];
        attention.attend(backend, pass, input, kv, (buffers.qkv, buffers.gates), mixed);
        gather_rows(buffers.hidden, width, outputs);
        gather_rows(mixed, layer.mixed_len, outputs);
        layer.finish(backend, config, outputs.len(), &mut buffers);
        let made = match self.config.norm_output {
            false => &buffers.hidden[..outputs.len() * width],
            true => {
                let made = prefix(&mut self.combined, outputs.len() * width);
                let norm = RmsNorm { weight: &self.weights.final_norm, eps: config.rms_eps };
                let rows = buffers.hidden.chunks_exact(width).zip(made.chunks_exact_mut(width));
                rows.for_each(|(row, made)| backend.rms_norm(row, norm, made));
                &*made
            }
        };
        features.write(rows, outputs.iter().map(|&r| r as usize), made);
    }

    /// Logits `[outputs.len(), vocab_len]` of a range of the last pass' outputs, for the caller to change as it likes: `-inf`
    /// for tokens that the head does not guess.
    ///
    /// * `outputs`: indices into the `outputs` of [`Eagle3::forward`].
    /// * `vocab_len`: tokens of the target.
    pub(crate) fn logits(&mut self, backend: &B, outputs: Range<usize>, vocab_len: usize) -> &mut [f32] {
        let (n_rows, width) = (outputs.len(), self.config.layer.hidden);
        let Weights { final_norm, lm_head, .. } = &self.weights;
        let x = &self.scratch.hidden[outputs.start * width..outputs.end * width];
        let norm = RmsNorm { weight: final_norm, eps: self.config.layer.rms_eps };
        let guessed = prefix(&mut self.logits, n_rows * self.vocabulary.len());
        backend.linear(Input { x, norm: Some(norm) }, n_rows, lm_head, Epilogue::Store, guessed);
        let logits = prefix(&mut self.scratch.logits, n_rows * vocab_len);
        // Padding of the embeddings is no token of the target.
        spread(&self.vocabulary, guessed, vocab_len, logits);
        logits
    }
}

impl<B: Backend> Weights<B> {
    fn load(backend: &B, checkpoint: &Eagle3Checkpoint, target: &Checkpoint) -> Result<Self, Error> {
        let hidden = checkpoint.config().layer.hidden;
        let weights = checkpoint.weights();
        let tensors = || Tensors { checkpoint: weights, layer: 0, prefix: checkpoint.layer().to_string() };
        Ok(Self {
            embeddings: own_embeddings(checkpoint, target)?,
            state_norms: checkpoint.state_norms()?,
            combine: backend.pack(&[checkpoint.combination()?], Stacking::Concat, None),
            layer: Layer::load(backend, tensors(), 2 * hidden)?,
            feature_norm: tensors().vector("hidden_norm.weight", hidden)?,
            final_norm: checkpoint.final_norm()?,
            lm_head: backend.pack(&[checkpoint.output()?], Stacking::Concat, None),
        })
    }

    fn bytes(&self, backend: &B) -> usize {
        let table = self.embeddings.as_ref().map_or(0, Embeddings::bytes);
        let norms = [&self.feature_norm, &self.final_norm].into_iter().chain(&self.state_norms);
        let norms = norms.map(|norm| size_of_val(norm.as_slice()));
        let matrices = [&self.combine, &self.lm_head].map(|matrix| backend.matrix_bytes(matrix));
        table + self.layer.bytes(backend) + norms.sum::<usize>() + matrices.iter().sum::<usize>()
    }
}

/// The head's embeddings, unless they are a copy of the target's.
fn own_embeddings(checkpoint: &Eagle3Checkpoint, target: &Checkpoint) -> Result<Option<Embeddings>, Error> {
    let Some(table) = checkpoint.embeddings()? else {
        return Ok(None);
    };
    let (own, shared) = (table.first_rows(target.config().vocab_len), target.embeddings()?);
    let shared = shared.first_rows(target.config().vocab_len);
    let is_copy = (own.dtype, own.bytes) == (shared.dtype, shared.bytes);
    Ok((!is_copy).then(|| Embeddings::copy_of(own)))
}

/// # Errors
/// [`Error::TargetHidden`], [`Error::VocabularyLen`], [`Error::NoEmbeddings`], or too few layers of the target: the head was not
/// made for `target`.
pub(crate) fn check_fit(checkpoint: &Eagle3Checkpoint, target: &ModelConfig) -> Result<(), Error> {
    let config = checkpoint.config();
    if config.target_hidden != target.hidden {
        return Err(Error::TargetHidden { expected: target.hidden, got: config.target_hidden });
    }
    let vocab_len = config.layer.vocab_len;
    if ![target.vocab_len, target.n_embeddings].contains(&vocab_len) {
        return Err(Error::VocabularyLen { expected: target.vocab_len, got: vocab_len });
    }
    if checkpoint.embeddings()?.is_none() && config.layer.hidden != target.hidden {
        return Err(Error::NoEmbeddings { expected: config.layer.hidden, got: target.hidden });
    }
    config.taps_in(target.n_layers)?;
    // A head that reads other states than it says shows before anything is loaded.
    checkpoint.combination()?;
    checkpoint.output()?;
    Ok(())
}
