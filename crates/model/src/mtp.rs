//! Multi-token prediction (Gloeckle et al., arXiv:2404.19737; in this form DeepSeek-V3, arXiv:2412.19437, Section 2.2): a head that
//! was trained with the target and lies in its files, here as Qwen3.5 and 3.6 have it.
//!
//! | paper (Equations 21 to 23) | here |
//! |---|---|
//! | `h'_i = M [RMSNorm(h_i); RMSNorm(Emb(t_{i+1}))]` | [`beside_each_other`], the embedding first, and `join` |
//! | `h_i = TRM(h')` | a layer of attention like those of the target |
//! | `OutHead(h_i)` | the last norm of the head and the target's output projection |
//!
//! Deviations of these models from the paper: `h_i` is the target's hidden state *behind* its final norm, and what a further step reads
//! is the head's output behind its own. One head predicts all further tokens, each from its own output for the one before.
//!
//! As with EAGLE-3, slots are those of the target and the first is seen by no row.

use std::ops::Range;

use dsde_checkpoint::config::ModelConfig;
use dsde_checkpoint::{Checkpoint, MtpCheckpoint};
use dsde_engine::RowBatch;
use dsde_kernels::{Backend, Epilogue, Input, RmsNorm, RopeTable, Stacking};

use crate::attention::AttentionPass;
use crate::buffers::{Buffers, Scratch, gather_rows, prefix};
use crate::error::Error;
use crate::features::Features;
use crate::head::beside_each_other;
use crate::llama::Llama;
use crate::rope::rope_table;
use crate::weights::{Layer, Mixer, Tensors};

/// The head of a target: packed weights, rotary angles and the buffers of a pass.
pub(crate) struct Mtp<B: Backend> {
    /// Its layer.
    config: ModelConfig,
    weights: Weights<B>,
    ropes: Vec<RopeTable>,
    scratch: Scratch,
    /// Embeddings, `[n_rows, hidden]`.
    embedded: Vec<f32>,
    /// Normalised embeddings and features, `[n_rows, 2 * hidden]`.
    inputs: Vec<f32>,
    /// Features of rows of the target, `[n_rows, hidden]`.
    combined: Vec<f32>,
    /// Outputs of the last pass, `[n_outputs, hidden]`, which are features too.
    outputs: Vec<f32>,
}

struct Weights<B: Backend> {
    /// The last norm of the target.
    target_norm: Vec<f32>,
    token_norm: Vec<f32>,
    feature_norm: Vec<f32>,
    join: B::Matrix,
    layer: Layer<B>,
    final_norm: Vec<f32>,
}

impl<B: Backend> Mtp<B> {
    /// Packs the weights of a head.
    ///
    /// * `context_len`: as for [`Llama::load`].
    ///
    /// # Errors
    /// If a tensor is absent or has another shape or element type than the configuration implies.
    pub(crate) fn load(
        backend: &B,
        checkpoint: &MtpCheckpoint,
        target: &Checkpoint,
        context_len: u32,
    ) -> Result<Self, Error> {
        let config = checkpoint.config().clone();
        let ropes = config.ropes.iter().map(|rope| rope_table(rope, context_len as usize)).collect();
        Ok(Self {
            weights: Weights::load(backend, checkpoint.weights(), target)?,
            ropes,
            scratch: Scratch::default(),
            embedded: Vec::new(),
            inputs: Vec::new(),
            combined: Vec::new(),
            outputs: Vec::new(),
            config,
        })
    }

    /// See [`Head::weight_bytes`](crate::head::Head::weight_bytes).
    pub(crate) fn weight_bytes(&self, backend: &B) -> usize {
        let n_angles: usize = self.ropes.iter().map(|rope| rope.cos.len()).sum();
        self.weights.bytes(backend) + 2 * n_angles * size_of::<f32>()
    }

    /// Features of rows that the target has read, `[n_rows, hidden]`.
    ///
    /// * `taps`: `[n_rows, hidden]`, behind the last layer.
    pub(crate) fn combine(&mut self, backend: &B, taps: &[f32], n_rows: usize) -> &[f32] {
        let combined = prefix(&mut self.combined, n_rows * self.config.hidden);
        let norm = RmsNorm { weight: &self.weights.target_norm, eps: self.config.rms_eps };
        backend.rms_norm(taps, norm, combined);
        combined
    }

    /// See [`Head::forward`](crate::head::Head::forward).
    pub(crate) fn forward(
        &mut self,
        backend: &B,
        target: &Llama<B>,
        rows: &RowBatch,
        outputs: &[u32],
        features: &mut Features,
        kv: &mut B::KvStore,
    ) {
        let Self { weights: Weights { layer, .. }, config, .. } = self;
        let (n_rows, width) = (rows.n_rows(), config.hidden);
        let norm = |weight| RmsNorm { weight, eps: config.rms_eps };
        let mut buffers = self.scratch.buffers(config, 0, n_rows);
        let Buffers { hidden, qkv, mixed, gates, .. } = &mut buffers;
        features.read(rows, hidden);
        let embedded = prefix(&mut self.embedded, n_rows * width);
        target.embed(backend, &rows.tokens, embedded);
        let inputs = prefix(&mut self.inputs, n_rows * 2 * width);
        let norms = [norm(&self.weights.token_norm), norm(&self.weights.feature_norm)];
        beside_each_other(backend, [embedded, hidden], norms, inputs);
        let joined = Input { x: inputs, norm: None };
        backend.linear(joined, n_rows, &self.weights.join, Epilogue::Store, hidden);
        let Mixer::Attention(attention) = &layer.mixer else { unreachable!("a head attends") };
        let input = Input { x: hidden, norm: Some(norm(&layer.attention_norm)) };
        let rope = config.layers[0].rope.map(|rope| &self.ropes[rope]);
        let pass = AttentionPass { config, layer: 0, kv_layer: 0, rope, rows };
        attention.store(backend, pass, input, kv, qkv);
        if outputs.is_empty() {
            return;
        }
        let mixed = &mut mixed[..n_rows * layer.mixed_len];
        attention.attend(backend, pass, input, kv, (qkv, gates), mixed);
        gather_rows(hidden, width, outputs);
        gather_rows(mixed, layer.mixed_len, outputs);
        layer.finish(backend, config, outputs.len(), &mut buffers);
        let normalised = prefix(&mut self.outputs, outputs.len() * width);
        backend.rms_norm(
            &buffers.hidden[..outputs.len() * width],
            norm(&self.weights.final_norm),
            normalised,
        );
        features.write(rows, outputs.iter().map(|&r| r as usize), normalised);
    }

    /// See [`Head::logits`](crate::head::Head::logits): it guesses every token.
    pub(crate) fn logits(&mut self, backend: &B, target: &Llama<B>, outputs: Range<usize>) -> &mut [f32] {
        let (n_rows, width) = (outputs.len(), self.config.hidden);
        let logits = prefix(&mut self.scratch.logits, n_rows * target.config().vocab_len);
        target.project(backend, &self.outputs[outputs.start * width..outputs.end * width], n_rows, logits);
        logits
    }
}

impl<B: Backend> Weights<B> {
    fn load(backend: &B, weights: &Checkpoint, target: &Checkpoint) -> Result<Self, Error> {
        let hidden = weights.config().hidden;
        let norm = |checkpoint: &Checkpoint, name: &str| checkpoint.norm(name, hidden);
        let join = weights.matrix("mtp.fc.weight", hidden, 2 * hidden)?;
        let tensors = Tensors { checkpoint: weights, layer: 0, prefix: "model.layers.0".to_string() };
        Ok(Self {
            target_norm: norm(target, "model.norm.weight")?,
            token_norm: norm(weights, "mtp.pre_fc_norm_embedding.weight")?,
            feature_norm: norm(weights, "mtp.pre_fc_norm_hidden.weight")?,
            join: backend.pack(&[join], Stacking::Concat, None),
            layer: Layer::load(backend, tensors, hidden)?,
            final_norm: norm(weights, "model.norm.weight")?,
        })
    }

    fn bytes(&self, backend: &B) -> usize {
        let norms = [&self.target_norm, &self.token_norm, &self.feature_norm, &self.final_norm];
        let norm_bytes: usize = norms.iter().map(|norm| size_of_val(norm.as_slice())).sum();
        norm_bytes + backend.matrix_bytes(&self.join) + self.layer.bytes(backend)
    }
}
