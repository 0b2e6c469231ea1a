//! The expert that every row asks beside those that it chooses, as far as the row's own gate lets it.

use dsde_checkpoint::{Dense, Dtype};
use dsde_kernels::{Backend, Epilogue, Input, Stacking};

use super::Gated;
use crate::buffers::prefix;
use crate::error::Error;
use crate::weights::Tensors;

/// `sigmoid(gate(x)) * down(activation(gate_proj(x)) * up_proj(x))`.
pub(crate) struct SharedExpert<B: Backend> {
    network: Gated<B>,
    /// One output, in single precision as the router.
    gate: B::Matrix,
}

/// Memory of a pass.
#[derive(Default)]
pub(crate) struct SharedScratch {
    /// `[n_rows]`.
    gates: Vec<f32>,
    /// `[n_rows, width]`, scaled by the gates.
    gated: Vec<f32>,
}

impl<B: Backend> SharedExpert<B> {
    /// That of the layer of `tensors`, if it has one.
    pub(crate) fn load(backend: &B, tensors: &Tensors<'_>) -> Result<Option<Self>, Error> {
        let checkpoint = tensors.checkpoint;
        let Some(width) = checkpoint.config().experts_of(tensors.layer).and_then(|experts| experts.shared)
        else {
            return Ok(None);
        };
        let gate = checkpoint.shared_gate(tensors.layer)?;
        let bytes: Vec<u8> = gate.iter().flat_map(|x| x.to_le_bytes()).collect();
        let gate = Dense::new(Dtype::F32, 1, gate.len(), &bytes);
        Ok(Some(Self {
            network: Gated::load(backend, tensors, "mlp.shared_expert", width)?,
            gate: backend.pack(&[gate], Stacking::Concat, None),
        }))
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        self.network.bytes(backend) + backend.matrix_bytes(&self.gate)
    }

    /// * `x`: normalised rows.
    pub(crate) fn read(&self, backend: &B, x: &[f32], n_rows: usize, scratch: &mut SharedScratch) {
        let input = Input { x, norm: None };
        let gates = prefix(&mut scratch.gates, n_rows);
        backend.linear(input, n_rows, &self.gate, Epilogue::Store, gates);
        self.network.read(backend, input, n_rows, &mut scratch.gated);
        let width = self.network.intermediate;
        // Scaling what goes into a product scales what comes out.
        for (gated, gate) in scratch.gated.chunks_exact_mut(width).zip(gates) {
            let gate = 1.0 / (1.0 + (-*gate).exp());
            gated.iter_mut().for_each(|x| *x *= gate);
        }
    }

    /// Adds to what the other experts answered.
    pub(crate) fn add(&self, backend: &B, n_rows: usize, scratch: &SharedScratch, out: &mut [f32]) {
        self.network.write(backend, n_rows, Epilogue::Add, &scratch.gated, out);
    }
}
