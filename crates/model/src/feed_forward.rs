//! The feed-forward part of a layer, which reads and writes the residual stream and knows nothing of attention.
//!
//! It runs in two halves, since what it reads and what it writes are mostly the same rows: [`FeedForward::read`] takes all that
//! it needs of them, then [`FeedForward::write`] may overwrite them.

mod beside;
pub(crate) mod experts;
pub(crate) mod routing;
mod shared;

use dsde_checkpoint::BesideDense;
use dsde_checkpoint::config::{Activation, ModelConfig};
use dsde_kernels::{Backend, Epilogue, Input, Stacking};
use dsde_policy::ExpertsWoken;

use crate::buffers::prefix;
use crate::error::Error;
use crate::weights::Tensors;
use beside::{Beside, BesideScratch, Norms};
use experts::{Experts, ExpertsScratch};

/// Weights of the feed-forward part of one layer.
pub(crate) enum FeedForward<B: Backend> {
    /// `down(activation(gate(x)) * up(x))`, the same for every row.
    Dense(Gated<B>),
    /// Many such networks, of which every row asks a few.
    Experts(Experts<B>),
    /// Both.
    Beside(Beside<B>),
}

/// A gated feed-forward network: Shazeer, "GLU variants improve transformer" (arXiv:2002.05202), Eq. 6.
pub(crate) struct Gated<B: Backend> {
    gate_up: B::Matrix,
    activation: Activation,
    down: B::Matrix,
    /// Columns of `down`.
    intermediate: usize,
}

/// What is computed between the halves; lives from pass to pass and grows to the largest seen.
#[derive(Default)]
pub(crate) struct FeedForwardScratch {
    /// `activation(gate) * up`, `[n_rows, intermediate]`; of experts a row for each that a row asks.
    gated: Vec<f32>,
    experts: ExpertsScratch,
    beside: BesideScratch,
    /// Of the passes so far, see [`FeedForwardScratch::take_woken`].
    woken: ExpertsWoken,
}

impl FeedForwardScratch {
    /// Experts that were asked since the last call; whose they are the caller knows.
    pub(crate) fn take_woken(&mut self) -> ExpertsWoken {
        std::mem::take(&mut self.woken)
    }
}

impl<B: Backend> FeedForward<B> {
    /// * `tensors`: those of the layer.
    ///
    /// # Errors
    /// If one is absent or has another shape or element type than the configuration implies.
    pub(crate) fn load(backend: &B, tensors: &Tensors<'_>) -> Result<Self, Error> {
        let dense = || {
            let width = tensors.checkpoint.config().intermediate_of(tensors.layer);
            Gated::load(backend, tensors, "mlp", width)
        };
        let beside = tensors.checkpoint.beside_dense(tensors.layer)?;
        let (norms, of_experts) = beside.map(apart).unzip();
        Ok(match (Experts::load(backend, tensors, of_experts)?, norms) {
            (None, _) => Self::Dense(dense()?),
            (Some(experts), None) => Self::Experts(experts),
            (Some(experts), Some(norms)) => {
                let eps = tensors.checkpoint.config().rms_eps;
                Self::Beside(Beside { dense: dense()?, experts, norms, eps })
            }
        })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        match self {
            Self::Dense(gated) => gated.bytes(backend),
            Self::Experts(experts) => experts.bytes(backend),
            Self::Beside(beside) => beside.bytes(backend),
        }
    }

    /// The first half: all that depends on the input.
    ///
    /// * `input`: `[n_rows, hidden]`.
    pub(crate) fn read(
        &self,
        backend: &B,
        input: Input<'_>,
        n_rows: usize,
        scratch: &mut FeedForwardScratch,
    ) {
        match self {
            Self::Dense(gated) => gated.read(backend, input, n_rows, &mut scratch.gated),
            Self::Experts(experts) => experts.read(backend, input, n_rows, scratch),
            Self::Beside(beside) => beside.read(backend, input, n_rows, scratch),
        }
    }

    /// The second half, with what [`FeedForward::read`] left in `scratch`.
    ///
    /// * `epilogue`: whether the result replaces `out` or is added to it.
    /// * `out`: `[n_rows, hidden]`.
    pub(crate) fn write(
        &self,
        backend: &B,
        n_rows: usize,
        epilogue: Epilogue,
        scratch: &mut FeedForwardScratch,
        out: &mut [f32],
    ) {
        match self {
            Self::Dense(gated) => gated.write(backend, n_rows, epilogue, &scratch.gated, out),
            Self::Experts(experts) => experts.write(backend, n_rows, epilogue, scratch, out),
            Self::Beside(beside) => beside.write(backend, n_rows, epilogue, scratch, out),
        }
    }
}

impl<B: Backend> Gated<B> {
    /// * `module`: where its matrices are in the layer.
    fn load(backend: &B, tensors: &Tensors<'_>, module: &str, intermediate: usize) -> Result<Self, Error> {
        let ModelConfig { hidden, has_mlp_bias, activation, .. } = *tensors.checkpoint.config();
        let [gate, up, down] = ["gate", "up", "down"].map(|part| format!("{module}.{part}_proj"));
        let gate_up = [(gate.as_str(), intermediate), (up.as_str(), intermediate)];
        let down = [(down.as_str(), hidden)];
        Ok(Self {
            gate_up: tensors.packed(backend, &gate_up, hidden, Stacking::GateUp, has_mlp_bias)?,
            activation,
            down: tensors.packed(backend, &down, intermediate, Stacking::Concat, has_mlp_bias)?,
            intermediate,
        })
    }

    fn bytes(&self, backend: &B) -> usize {
        backend.matrix_bytes(&self.gate_up) + backend.matrix_bytes(&self.down)
    }

    fn read(&self, backend: &B, input: Input<'_>, n_rows: usize, gated: &mut Vec<f32>) {
        let gated = prefix(gated, n_rows * self.intermediate);
        backend.linear(input, n_rows, &self.gate_up, gating(self.activation), gated);
    }

    fn write(&self, backend: &B, n_rows: usize, epilogue: Epilogue, gated: &[f32], out: &mut [f32]) {
        let gated = &gated[..n_rows * self.intermediate];
        backend.linear(Input { x: gated, norm: None }, n_rows, &self.down, epilogue, out);
    }
}

/// Norms around both networks; norm of what the router reads, and factors of the weights of experts.
fn apart(beside: BesideDense) -> (Norms, [Vec<f32>; 2]) {
    let BesideDense { after_dense, before_experts, after_experts, router_norm, scales } = beside;
    (Norms { after_dense, before_experts, after_experts }, [router_norm, scales])
}

/// What becomes of gate and up.
fn gating(activation: Activation) -> Epilogue {
    match activation {
        Activation::Silu => Epilogue::SwiGlu,
        Activation::GeluTanh => Epilogue::GeGlu,
        Activation::ClampedSwiGlu => Epilogue::ClampedSwiGlu,
    }
}
