//! Inputs that layers have beside the residual stream: per-layer embeddings of Gemma 3n and 4 (the source is transformers'
//! `project_per_layer_inputs` and its decoder layer).
//!
//! Of every row, before the first layer: `input = (norm(P e / sqrt(hidden)) + sqrt(width) t) / sqrt(2)` for all layers at once, where `e`
//! is the embedding of its token as it enters the residual stream and `t` the token's row of a table of its own. Behind the
//! feed-forward part of a layer the residual stream `h` becomes `h + norm(W (activation(G h) * input))`.

use std::f32::consts::FRAC_1_SQRT_2;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::{self, Activation, ModelConfig};
use dsde_kernels::{Backend, Epilogue, Gate, Input, RmsNorm, Stacking};

use crate::buffers::{Branch, Joint, prefix};
use crate::error::Error;
use crate::weights::{Embeddings, Tensors};

/// What makes the inputs of all layers.
pub(crate) struct LayerInputs<B: Backend> {
    table: Embeddings,
    projection: B::Matrix,
    norm: Vec<f32>,
    shape: config::LayerInputs,
}

/// How a layer reads its input.
pub(crate) struct LayerInput<B: Backend> {
    gate: B::Matrix,
    projection: B::Matrix,
    norm: Vec<f32>,
    /// Of the inputs of a row, how many elements come before and how many there are.
    place: [usize; 2],
}

/// Memory of a pass.
#[derive(Default)]
pub(crate) struct LayerInputScratch {
    /// Inputs of all layers, `[n_rows, n_layers * width]`.
    pub(crate) inputs: Vec<f32>,
    /// What is projected of embeddings, and rows of the table; as long.
    projected: Vec<f32>,
    /// Of one layer, `[n_rows, width]`.
    gates: Vec<f32>,
    gated: Vec<f32>,
}

impl<B: Backend> LayerInputs<B> {
    /// Those of a model, if it has them.
    pub(crate) fn load(backend: &B, checkpoint: &Checkpoint) -> Result<Option<Self>, Error> {
        let Some(shape) = checkpoint.config().layer_inputs else { return Ok(None) };
        let projection = checkpoint.layer_input_projection(shape)?;
        Ok(Some(Self {
            table: Embeddings::copy_of(checkpoint.layer_input_table(shape)?),
            projection: backend.pack(&[projection], Stacking::Concat, None),
            norm: checkpoint.layer_input_norm(shape)?,
            shape,
        }))
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        self.table.bytes() + backend.matrix_bytes(&self.projection) + size_of_val(self.norm.as_slice())
    }

    /// Makes the inputs of rows.
    ///
    /// * `tokens`: as the table has them, `[n_rows]`.
    /// * `embedded`: `[n_rows, hidden]`.
    pub(crate) fn begin(
        &self,
        backend: &B,
        config: &ModelConfig,
        tokens: &[u32],
        embedded: &[f32],
        scratch: &mut LayerInputScratch,
    ) {
        let len = tokens.len() * row_len(config);
        let (projected, inputs) = (prefix(&mut scratch.projected, len), prefix(&mut scratch.inputs, len));
        let input = Input { x: embedded, norm: None };
        backend.linear(input, tokens.len(), &self.projection, Epilogue::Store, projected);
        // Dividing by the root of the width before a norm is multiplying its epsilon.
        let norm = RmsNorm { weight: &self.norm, eps: config.rms_eps * config.hidden as f32 };
        backend.rms_norm(projected, norm, inputs);
        self.table.gather(tokens, projected);
        let scale = (self.shape.width as f32).sqrt();
        for (input, of_token) in inputs.iter_mut().zip(projected) {
            *input = (*input + scale * *of_token) * FRAC_1_SQRT_2;
        }
    }
}

/// Elements of the inputs of a row.
pub(crate) fn row_len(config: &ModelConfig) -> usize {
    config.layer_inputs.map_or(0, |inputs| config.n_layers * inputs.width)
}

impl<B: Backend> LayerInput<B> {
    /// That of the layer of `tensors`, if it has one.
    pub(crate) fn load(backend: &B, tensors: &Tensors<'_>) -> Result<Option<Self>, Error> {
        let ModelConfig { hidden, layer_inputs, .. } = *tensors.checkpoint.config();
        let Some(config::LayerInputs { width, .. }) = layer_inputs else { return Ok(None) };
        let packed =
            |name, n_out, n_in| tensors.packed(backend, &[(name, n_out)], n_in, Stacking::Concat, false);
        Ok(Some(Self {
            gate: packed("per_layer_input_gate", width, hidden)?,
            projection: packed("per_layer_projection", hidden, width)?,
            norm: tensors.norm("post_per_layer_input_norm", hidden)?,
            place: [tensors.layer * width, width],
        }))
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let matrices = [&self.gate, &self.projection].map(|matrix| backend.matrix_bytes(matrix));
        matrices.iter().sum::<usize>() + size_of_val(self.norm.as_slice())
    }

    /// Adds to the residual stream.
    ///
    /// * `hidden`: `[n_rows, hidden]`.
    pub(crate) fn add(
        &self,
        backend: &B,
        config: &ModelConfig,
        (scratch, branch): (&mut LayerInputScratch, &mut Branch),
        n_rows: usize,
        hidden: &mut [f32],
    ) {
        let [before, width] = self.place;
        let LayerInputScratch { inputs, gates, gated, .. } = scratch;
        let gates = prefix(gates, n_rows * width);
        backend.linear(Input { x: hidden, norm: None }, n_rows, &self.gate, Epilogue::Store, gates);
        let gated = prefix(gated, n_rows * width);
        let rows = inputs.chunks_exact(row_len(config)).zip(gated.chunks_exact_mut(width));
        rows.for_each(|(inputs, own)| own.copy_from_slice(&inputs[before..before + width]));
        backend.gate(gate(config.activation), gates, gated);
        let joint = Joint { norm: Some(RmsNorm { weight: &self.norm, eps: config.rms_eps }), scale: 1.0 };
        joint.add(backend, branch, hidden, |epilogue, out| {
            backend.linear(Input { x: gated, norm: None }, n_rows, &self.projection, epilogue, out);
        });
    }
}

/// The activation by itself.
fn gate(activation: Activation) -> Gate {
    match activation {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::Gelu,
        Activation::ClampedSwiGlu => unreachable!("experts of gpt-oss have it, which has no such inputs"),
    }
}
