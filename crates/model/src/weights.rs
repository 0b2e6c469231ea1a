//! Weights of a model in the backend's layout: which tensors there are and what is fused with what.
//!
//! Query, key and value become one matrix, and so do gate and up: their inputs are the same rows, so one product reads them
//! once. The embedding table is copied as stored, since a pass reads single rows of it; where it doubles as the output
//! projection there is only that, and rows are gathered from its packed form.

use std::sync::Arc;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::ModelConfig;
use dsde_checkpoint::{Dense, Dtype};
use dsde_kernels::{Backend, Epilogue, Input, Stacking};

use crate::attention::Attention;
use crate::delta::DeltaLayer;
use crate::error::Error;
use crate::feed_forward::FeedForward;
use crate::layer_inputs::{LayerInput, LayerInputScratch, LayerInputs};
use crate::translation::Translation;

/// Is told how many parts of a model are packed, and of how many: its layers and its output projection.
pub type OnPacked<'a> = dyn FnMut(usize, usize) + 'a;

/// All weights of a model.
pub(crate) struct Weights<B: Backend> {
    /// `None` where the output projection doubles as the table.
    embeddings: Option<Embeddings>,
    /// Of a draft with another vocabulary than its target's.
    pub(crate) translation: Option<Arc<Translation>>,
    pub(crate) layer_inputs: Option<LayerInputs<B>>,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) final_norm: Vec<f32>,
    /// Of a translated model, rows of shared tokens alone.
    pub(crate) lm_head: B::Matrix,
}

/// Weights of one layer; norms behind its parts only where the architecture has them.
pub(crate) struct Layer<B: Backend> {
    /// Of attention, the layer of the store that it reads; otherwise its number among delta layers.
    pub(crate) idx: usize,
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) after_attention: Option<Vec<f32>>,
    pub(crate) mixer: Mixer<B>,
    /// From what is mixed to the residual stream.
    pub(crate) output: B::Matrix,
    /// Columns of `output`.
    pub(crate) mixed_len: usize,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) after_feed_forward: Option<Vec<f32>>,
    pub(crate) feed_forward: FeedForward<B>,
    pub(crate) input: Option<LayerInput<B>>,
    /// Factor of the residual stream behind it.
    pub(crate) scale: Option<f32>,
}

/// What lets a row know of others.
pub(crate) enum Mixer<B: Backend> {
    Attention(Attention<B>),
    Delta(DeltaLayer<B>),
}

impl<B: Backend> Weights<B> {
    /// Packs every tensor that the configuration implies.
    ///
    /// # Errors
    /// If one is absent or has another shape or element type.
    pub(crate) fn load(
        backend: &B,
        checkpoint: &Checkpoint,
        translation: Option<Arc<Translation>>,
        on_packed: &mut OnPacked<'_>,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let (table, head) = (checkpoint.embeddings()?, checkpoint.output_projection()?);
        let pack = |head| backend.pack(&[head], Stacking::Concat, None);
        let (embeddings, lm_head) = match &translation {
            Some(translation) => {
                let bytes = translation.output_projection(head);
                let head = Dense::new(head.dtype, translation.n_shared(), head.n_in, &bytes);
                (Some(Embeddings::new(table, translation.embeddings(table))), pack(head))
            }
            None => {
                let table = (!config.tie_embeddings).then(|| table.first_rows(config.vocab_len));
                (table.map(Embeddings::copy_of), pack(head.first_rows(config.vocab_len)))
            }
        };
        let tensors = |i| Tensors { checkpoint, layer: i, prefix: format!("model.layers.{i}") };
        on_packed(1, config.n_layers + 1);
        let mut layers = Vec::with_capacity(config.n_layers);
        for i in 0..config.n_layers {
            layers.push(Layer::load(backend, tensors(i), config.hidden)?);
            on_packed(i + 2, config.n_layers + 1);
        }
        Ok(Self {
            embeddings,
            translation,
            layer_inputs: LayerInputs::load(backend, checkpoint)?,
            layers,
            final_norm: final_norm(checkpoint)?,
            lm_head,
        })
    }

    /// `out[r, :]` is the embedding of `tokens[r]`.
    pub(crate) fn embed(&self, backend: &B, tokens: &[u32], out: &mut [f32]) {
        match (&self.embeddings, &self.translation) {
            (Some(table), Some(translation)) => table.gather(&translation.read(tokens), out),
            (Some(table), None) => table.gather(tokens, out),
            (None, _) => backend.gather(&self.lm_head, tokens, out),
        }
    }

    /// Makes the inputs of all layers, of a model that has them.
    ///
    /// * `embedded`: what enters the residual stream, `[tokens.len(), hidden]`.
    pub(crate) fn begin_layer_inputs(
        &self,
        backend: &B,
        config: &ModelConfig,
        tokens: &[u32],
        embedded: &[f32],
        scratch: &mut LayerInputScratch,
    ) {
        let Some(inputs) = &self.layer_inputs else { return };
        let own = self.translation.as_ref().map(|translation| translation.read(tokens));
        inputs.begin(backend, config, own.as_deref().unwrap_or(tokens), embedded, scratch);
    }

    /// Logits `[n_rows, vocab_len]`.
    ///
    /// * `input`: rows, and their number.
    pub(crate) fn project(
        &self,
        backend: &B,
        soft_cap: Option<f32>,
        (input, n_rows): (Input<'_>, usize),
        logits: &mut [f32],
    ) {
        backend.linear(input, n_rows, &self.lm_head, Epilogue::Store, logits);
        if let Some(cap) = soft_cap {
            backend.soft_cap(cap, logits);
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let table = self.embeddings.as_ref().map_or(0, Embeddings::bytes);
        let layers: usize = self.layers.iter().map(|layer| layer.bytes(backend)).sum();
        let final_norm = size_of_val(self.final_norm.as_slice());
        let translation = self.translation.as_ref().map_or(0, |translation| translation.bytes());
        let inputs = self.layer_inputs.as_ref().map_or(0, |inputs| inputs.bytes(backend));
        table + translation + inputs + layers + final_norm + backend.matrix_bytes(&self.lm_head)
    }
}

/// The norm before the output projection, which takes the factor of logits with it.
fn final_norm(checkpoint: &Checkpoint) -> Result<Vec<f32>, Error> {
    let config = checkpoint.config();
    let mut weights = checkpoint.norm("model.norm.weight", config.hidden)?;
    weights.iter_mut().for_each(|weight| *weight *= config.logit_scale);
    Ok(weights)
}

impl<B: Backend> Layer<B> {
    /// * `n_in`: width of what query, key and value are projected from.
    pub(crate) fn load(backend: &B, tensors: Tensors<'_>, n_in: usize) -> Result<Self, Error> {
        let config = tensors.checkpoint.config();
        let ModelConfig { hidden, n_heads, norms, .. } = *config;
        let norm = |name| tensors.norm(name, hidden);
        let is_delta = config.layers[tensors.layer].is_delta;
        let before = &config.layers[..tensors.layer];
        let (mixer, output, mixed_len) = match config.delta.filter(|_| is_delta) {
            Some(shape) => {
                let delta = DeltaLayer::load(backend, &tensors, shape)?;
                (Mixer::Delta(delta), "linear_attn.out_proj", shape.values_width())
            }
            None => {
                let attention = Attention::load(backend, &tensors, n_in)?;
                let head_dim = config.kv_heads_of(tensors.layer).head_dim;
                (Mixer::Attention(attention), "self_attn.o_proj", n_heads * head_dim)
            }
        };
        let has_bias = config.has_output_bias && !is_delta;
        Ok(Self {
            idx: match is_delta {
                true => before.iter().filter(|layer| layer.is_delta).count(),
                false => config.kv_layer(tensors.layer),
            },
            attention_norm: norm(norms.before_attention)?,
            after_attention: norms.after_attention.map(norm).transpose()?,
            mixer,
            output: tensors.packed(backend, &[(output, hidden)], mixed_len, Stacking::Concat, has_bias)?,
            mixed_len,
            feed_forward_norm: norm(norms.before_feed_forward)?,
            after_feed_forward: norms.after_feed_forward.map(norm).transpose()?,
            feed_forward: FeedForward::load(backend, &tensors)?,
            input: LayerInput::load(backend, &tensors)?,
            scale: config
                .has_layer_scale
                .then(|| tensors.vector("layer_scalar", 1))
                .transpose()?
                .map(|x| x[0]),
        })
    }

    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let mixer = match &self.mixer {
            Mixer::Attention(attention) => attention.bytes(backend),
            Mixer::Delta(delta) => delta.bytes(backend),
        };
        let optional = [&self.after_attention, &self.after_feed_forward].into_iter().flatten();
        let vectors = [&self.attention_norm, &self.feed_forward_norm].into_iter().chain(optional);
        let vector_bytes: usize = vectors.map(|vector| size_of_val(vector.as_slice())).sum();
        let input = self.input.as_ref().map_or(0, |input| input.bytes(backend));
        mixer + backend.matrix_bytes(&self.output) + vector_bytes + self.feed_forward.bytes(backend) + input
    }
}

/// Tensors of a layer of a checkpoint.
pub(crate) struct Tensors<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) layer: usize,
    /// How their names begin.
    pub(crate) prefix: String,
}

impl Tensors<'_> {
    /// Weights of a norm, by its name without `.weight`.
    pub(crate) fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(self.checkpoint.norm(&format!("{}.{name}.weight", self.prefix), len)?)
    }

    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(self.checkpoint.vector(&format!("{}.{name}", self.prefix), len)?)
    }

    /// A matrix `[n_out, n_in]`, by its name without `.weight`.
    pub(crate) fn matrix(&self, name: &str, n_out: usize, n_in: usize) -> Result<Dense<'_>, Error> {
        Ok(self.checkpoint.matrix(&format!("{}.{name}.weight", self.prefix), n_out, n_in)?)
    }

    /// One matrix from several projections `(name, n_out)` of the same input.
    pub(crate) fn packed<B: Backend>(
        &self,
        backend: &B,
        projections: &[(&str, usize)],
        n_in: usize,
        stacking: Stacking,
        has_bias: bool,
    ) -> Result<B::Matrix, Error> {
        let mut parts = Vec::with_capacity(projections.len());
        let mut bias = Vec::new();
        for &(name, n_out) in projections {
            parts.push(self.matrix(name, n_out, n_in)?);
            if has_bias {
                bias.extend(self.vector(&format!("{name}.bias"), n_out)?);
            }
        }
        Ok(backend.pack(&parts, stacking, has_bias.then_some(&bias)))
    }
}

/// The embedding table or some rows of it, `[n_rows, hidden]`, in its stored element type.
pub(crate) struct Embeddings {
    dtype: Dtype,
    hidden: usize,
    bytes: Vec<u8>,
}

impl Embeddings {
    pub(crate) fn copy_of(table: Dense<'_>) -> Self {
        Self::new(table, table.bytes.to_vec())
    }

    /// Rows of `table`.
    fn new(table: Dense<'_>, bytes: Vec<u8>) -> Self {
        Self { dtype: table.dtype, hidden: table.n_in, bytes }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// `out[r, :] = table[tokens[r], :]`, widened.
    pub(crate) fn gather(&self, tokens: &[u32], out: &mut [f32]) {
        let row_bytes = self.dtype.row_bytes(self.hidden);
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(self.hidden)) {
            self.dtype.widen(&self.bytes[token as usize * row_bytes..][..row_bytes], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dtype: Dtype, bytes: Vec<u8>) {
        let embeddings = Embeddings { dtype, hidden: 2, bytes };
        let mut out = [0.0; 6];
        embeddings.gather(&[2, 0, 2], &mut out);
        assert_eq!(out, [-2.0, 0.25, 1.0, 0.5, -2.0, 0.25], "{dtype:?}");
    }

    #[test]
    fn gathered_rows_are_widened_exactly() {
        let table = [1.0, 0.5, 3.0, -0.0, -2.0, 0.25];
        check(Dtype::F32, table.iter().flat_map(|&x: &f32| x.to_le_bytes()).collect());
        check(Dtype::F16, table.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect());
        check(Dtype::Bf16, table.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect());
    }
}
