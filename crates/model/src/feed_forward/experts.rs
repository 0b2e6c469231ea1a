//! A feed-forward part of many networks, of which every row asks a few.

use dsde_checkpoint::config::Activation;
use dsde_checkpoint::{Dense, Dtype, Expert};
use dsde_kernels::{Backend, Epilogue, Input, RmsNorm, Stacking};

use super::routing::Routing;
use super::shared::{SharedExpert, SharedScratch};
use super::{FeedForwardScratch, gating};
use crate::buffers::prefix;
use crate::error::Error;
use crate::weights::Tensors;

/// `sum over chosen e of weight_e * down_e(activation(gate_e(x)) * up_e(x))`, and what an expert that all rows ask adds.
pub(crate) struct Experts<B: Backend> {
    config: dsde_checkpoint::config::Experts,
    /// Scores of all experts. In single precision whatever the file has: they are few, and another choice is another model.
    router: B::Matrix,
    /// Norm of what the router reads, where it is not that of what experts read.
    router_norm: Option<Vec<f32>>,
    /// Factors of the weights of experts.
    scales: Option<Vec<f32>>,
    gate_up: B::Experts,
    activation: Activation,
    down: B::Experts,
    shared: Option<SharedExpert<B>>,
    hidden: usize,
}

/// Memory of a pass.
#[derive(Default)]
pub(crate) struct ExpertsScratch {
    /// The normalised input, `[n_rows, hidden]`.
    normalised: Vec<f32>,
    /// `[n_rows, n_experts]`.
    scores: Vec<f32>,
    routing: Routing,
    /// What each expert that a row asks answers, `[n_places, hidden]`.
    answers: Vec<f32>,
    shared: SharedScratch,
}

impl<B: Backend> Experts<B> {
    /// Those of the layer of `tensors`, if it has any.
    ///
    /// * `beside`: norm of what the router reads, and factors of the weights of experts, where an ordinary network stands beside them.
    pub(crate) fn load(
        backend: &B,
        tensors: &Tensors<'_>,
        beside: Option<[Vec<f32>; 2]>,
    ) -> Result<Option<Self>, Error> {
        let (checkpoint, layer) = (tensors.checkpoint, tensors.layer);
        let Some(config) = checkpoint.config().experts_of(layer) else { return Ok(None) };
        let router = checkpoint.router(layer)?;
        let stored = checkpoint.experts(layer)?;
        let experts: Vec<Expert<'_>> = stored.iter().collect();
        let (of_gate_up, of_down) = stored.bias.as_ref().map(|bias| (&*bias.gate_up, &*bias.down)).unzip();
        let gate_up: Vec<[Dense<'_>; 2]> = experts.iter().map(|expert| [expert.gate, expert.up]).collect();
        let gate_up: Vec<&[Dense<'_>]> = gate_up.iter().map(<[_; 2]>::as_slice).collect();
        let down: Vec<&[Dense<'_>]> =
            experts.iter().map(|expert| std::slice::from_ref(&expert.down)).collect();
        let (router_norm, scales) = beside.map(|[norm, scales]| (norm, scales)).unzip();
        Ok(Some(Self {
            config: config.clone(),
            router_norm,
            scales,
            router: widened(backend, router, checkpoint.router_bias(layer)?.as_deref()),
            gate_up: backend.pack_experts(&gate_up, Stacking::GateUp, of_gate_up),
            activation: checkpoint.config().activation,
            down: backend.pack_experts(&down, Stacking::Concat, of_down),
            shared: SharedExpert::load(backend, tensors)?,
            hidden: router.n_in,
        }))
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let vectors = [&self.router_norm, &self.scales].into_iter().flatten();
        backend.matrix_bytes(&self.router)
            + vectors.map(|vector| size_of_val(vector.as_slice())).sum::<usize>()
            + backend.experts_bytes(&self.gate_up)
            + backend.experts_bytes(&self.down)
            + self.shared.as_ref().map_or(0, |shared| shared.bytes(backend))
    }

    /// See [`super::FeedForward::read`]. A router with a norm of its own reads what is not normalised yet.
    pub(crate) fn read(
        &self,
        backend: &B,
        input: Input<'_>,
        n_rows: usize,
        scratch: &mut FeedForwardScratch,
    ) {
        let ExpertsScratch { normalised, scores, routing, answers, shared } = &mut scratch.experts;
        let x = match input.norm {
            Some(norm) => {
                let normalised = prefix(normalised, input.x.len());
                backend.rms_norm(input.x, norm, normalised);
                normalised
            }
            None => input.x,
        };
        let scores = prefix(scores, n_rows * self.config.n_experts);
        let read = match &self.router_norm {
            Some(weight) => Input { x: input.x, norm: input.norm.map(|norm| RmsNorm { weight, ..norm }) },
            None => Input { x, norm: None },
        };
        backend.linear(read, n_rows, &self.router, Epilogue::Store, scores);
        routing.route(&self.config, scores, self.scales.as_deref());
        scratch.woken.n_woken += routing.n_woken() as u32;
        scratch.woken.n_layers += u32::from(n_rows > 0);
        let gated = prefix(&mut scratch.gated, routing.n_places() * self.config.intermediate);
        backend.linear_by_expert(x, routing.asked(), &self.gate_up, gating(self.activation), gated);
        let answers = prefix(answers, routing.n_places() * self.hidden);
        backend.linear_by_expert(gated, routing.grouped(), &self.down, Epilogue::Store, answers);
        if let Some(expert) = &self.shared {
            expert.read(backend, x, n_rows, shared);
        }
    }

    /// See [`super::FeedForward::write`].
    pub(crate) fn write(
        &self,
        backend: &B,
        n_rows: usize,
        epilogue: Epilogue,
        scratch: &FeedForwardScratch,
        out: &mut [f32],
    ) {
        let ExpertsScratch { routing, answers, shared, .. } = &scratch.experts;
        let (places, weights) = routing.answers();
        let answers = &answers[..routing.n_places() * self.hidden];
        backend.combine(answers, places, weights, epilogue, out);
        if let Some(expert) = &self.shared {
            expert.add(backend, n_rows, shared, out);
        }
    }
}

/// A matrix packed in single precision.
pub(crate) fn widened<B: Backend>(backend: &B, matrix: Dense<'_>, bias: Option<&[f32]>) -> B::Matrix {
    let Dense { n_out, n_in, .. } = matrix;
    let mut values = vec![0.0; n_out * n_in];
    values.chunks_exact_mut(n_in).enumerate().for_each(|(row, values)| matrix.widen_row(row, values));
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    backend.pack(&[Dense::new(Dtype::F32, n_out, n_in, &bytes)], Stacking::Concat, bias)
}
