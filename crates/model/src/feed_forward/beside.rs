//! Experts beside an ordinary network, both of which every row asks: Gemma 4 (the source is transformers' decoder layer).
//!
//! `norm_1(dense(norm(h))) + norm_2(experts(norm'(h)))`, and the router reads `h` by a norm of its own.

use dsde_kernels::{Backend, Epilogue, Input, RmsNorm};

use super::experts::Experts;
use super::{FeedForwardScratch, Gated};
use crate::buffers::prefix;

/// Both networks, and the norms around them.
pub(crate) struct Beside<B: Backend> {
    pub(super) dense: Gated<B>,
    pub(super) experts: Experts<B>,
    pub(super) norms: Norms,
    pub(super) eps: f32,
}

/// Norms around the networks, `[hidden]` each.
pub(super) struct Norms {
    pub(super) after_dense: Vec<f32>,
    pub(super) before_experts: Vec<f32>,
    pub(super) after_experts: Vec<f32>,
}

/// Memory of a pass.
#[derive(Default)]
pub(crate) struct BesideScratch {
    /// `activation(gate) * up` of the ordinary network, `[n_rows, intermediate]`.
    gated: Vec<f32>,
    /// What one of them answers, `[n_rows, hidden]`; then normalised.
    answers: Vec<f32>,
    normalised: Vec<f32>,
}

impl<B: Backend> Beside<B> {
    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let Norms { after_dense, before_experts, after_experts } = &self.norms;
        let vectors = [after_dense, before_experts, after_experts];
        let vector_bytes: usize = vectors.iter().map(|vector| size_of_val(vector.as_slice())).sum();
        self.dense.bytes(backend) + self.experts.bytes(backend) + vector_bytes
    }

    fn norm<'a>(&self, weight: &'a [f32]) -> RmsNorm<'a> {
        RmsNorm { weight, eps: self.eps }
    }

    /// See [`super::FeedForward::read`]; the norm of `input` is that of the ordinary network.
    pub(crate) fn read(
        &self,
        backend: &B,
        input: Input<'_>,
        n_rows: usize,
        scratch: &mut FeedForwardScratch,
    ) {
        self.dense.read(backend, input, n_rows, &mut scratch.beside.gated);
        let norm = Some(self.norm(&self.norms.before_experts));
        self.experts.read(backend, Input { norm, ..input }, n_rows, scratch);
    }

    /// See [`super::FeedForward::write`].
    pub(crate) fn write(
        &self,
        backend: &B,
        n_rows: usize,
        epilogue: Epilogue,
        scratch: &mut FeedForwardScratch,
        out: &mut [f32],
    ) {
        if epilogue == Epilogue::Store {
            out.fill(0.0);
        }
        // Experts read the rest of the scratch meanwhile.
        let mut own = std::mem::take(&mut scratch.beside);
        let answers = prefix(&mut own.answers, out.len());
        let normalised = prefix(&mut own.normalised, out.len());
        let mut add = |answers: &[f32], weight| {
            backend.rms_norm(answers, self.norm(weight), normalised);
            out.iter_mut().zip(&*normalised).for_each(|(out, x)| *out += x);
        };
        self.dense.write(backend, n_rows, Epilogue::Store, &own.gated, answers);
        add(answers, &self.norms.after_dense);
        self.experts.write(backend, n_rows, Epilogue::Store, scratch, answers);
        add(answers, &self.norms.after_experts);
        scratch.beside = own;
    }
}
