//! Delta layers: a state per sequence that reads token after token, in place of keys and values.
//!
//! Yang et al., "Gated delta networks" (arXiv:2412.06464), Section 3, as Qwen3-Next and Qwen3.5 have them: one convolution over
//! queries, keys and values together, fewer heads of keys than of values, and outputs that are normalised per head and then gated.

use dsde_checkpoint::config::DeltaShape;
use dsde_kernels::{Backend, DeltaWeights, Epilogue, Gate, Input, RmsNorm, Stacking};

use crate::buffers::prefix;
use crate::error::Error;
use crate::states::States;
use crate::weights::Tensors;

/// Weights of a delta layer.
pub(crate) struct DeltaLayer<B: Backend> {
    shape: DeltaShape,
    /// What makes inputs of the rule.
    inputs: B::Matrix,
    /// What makes gates of the outputs.
    gates: B::Matrix,
    /// `[conv_len, conv_width]`.
    convolution: Vec<f32>,
    /// `[n_value_heads]`.
    rates: Vec<f32>,
    /// `[n_value_heads]`.
    biases: Vec<f32>,
    /// Of the outputs of a head, `[value_dim]`.
    norm: Vec<f32>,
    eps: f32,
}

/// Memory of a pass.
#[derive(Default)]
pub(crate) struct DeltaScratch {
    /// `[n_inputs, input_len]`.
    inputs: Vec<f32>,
    /// What states answered, `[n_rows, values_width]`.
    answers: Vec<f32>,
}

impl<B: Backend> DeltaLayer<B> {
    pub(crate) fn load(backend: &B, tensors: &Tensors<'_>, shape: DeltaShape) -> Result<Self, Error> {
        let (checkpoint, layer) = (tensors.checkpoint, tensors.layer);
        let projections = checkpoint.delta_projections(layer)?;
        let n_heads = shape.n_value_heads;
        Ok(Self {
            shape,
            inputs: backend.pack(&projections.inputs(), Stacking::Concat, None),
            gates: backend.pack(&[projections.gates()], Stacking::Concat, None),
            convolution: checkpoint.convolution(layer)?,
            rates: checkpoint.decay_rates(layer)?,
            biases: tensors.vector("linear_attn.dt_bias", n_heads)?,
            norm: tensors.vector("linear_attn.norm.weight", shape.value_dim)?,
            eps: checkpoint.config().rms_eps,
        })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let matrices = [&self.inputs, &self.gates].map(|matrix| backend.matrix_bytes(matrix));
        let vectors = [&self.convolution, &self.rates, &self.biases, &self.norm];
        matrices.iter().sum::<usize>()
            + vectors.map(|vector| size_of_val(vector.as_slice())).iter().sum::<usize>()
    }

    /// Lets the states of a pass under way read `n_rows` rows.
    ///
    /// * `layer`: its number among delta layers.
    /// * `out`: gated answers, `[n_rows, values_width]`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        layer: usize,
        (input, n_rows): (Input<'_>, usize),
        states: &mut States,
        (scratch, gates): (&mut DeltaScratch, &mut Vec<f32>),
        out: &mut [f32],
    ) {
        let len = self.shape.input_len();
        let inputs = prefix(&mut scratch.inputs, (n_rows + states.n_replayed()) * len);
        let (own, replayed) = inputs.split_at_mut(n_rows * len);
        backend.linear(input, n_rows, &self.inputs, Epilogue::Store, own);
        states.keep(layer, own);
        states.replay(layer, replayed);
        let Self { shape, convolution, rates, biases, .. } = self;
        let weights = DeltaWeights { convolution, rates, biases };
        let answers = prefix(&mut scratch.answers, out.len());
        let (rows, states) = states.of_layer(layer);
        backend.delta(*shape, weights, inputs, rows, states, answers);
        backend.rms_norm(answers, RmsNorm { weight: &self.norm, eps: self.eps }, out);
        let gates = prefix(gates, out.len());
        backend.linear(input, n_rows, &self.gates, Epilogue::Store, gates);
        backend.gate(Gate::Silu, gates, out);
    }
}
