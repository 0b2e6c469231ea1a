//! The logits of a model at every position of a prompt that it reads in one pass.

use dsde_checkpoint::Checkpoint;
use dsde_engine::{BlockId, RowBatch, StateSlot, StateUse};
use dsde_kernels::Backend;
use dsde_model::llama::{Llama, kv_shape};
use dsde_sampling::Proposal;

pub(crate) fn logits<B: Backend>(backend: &B, checkpoint: &Checkpoint, prompt: &[u32]) -> Vec<f32> {
    let n_known = prompt.len() as u32;
    let mut model = Llama::load(backend, checkpoint, n_known).unwrap().with_states(backend, 1);
    let n_blocks = n_known.div_ceil(backend.block_len() as u32);
    let table: Vec<_> = (0..n_blocks).map(BlockId).collect();
    let mut kv = backend.kv_store(&kv_shape(model.config(), table.len()));
    let mut rows = RowBatch::default();
    rows.push(0, prompt, &Proposal::new(), &table);
    rows.states.push(StateUse { slot: StateSlot(0), n_known, from: None, to: None });
    let outputs: Vec<u32> = (0..n_known).collect();
    model.forward(backend, &rows, &outputs, &mut kv);
    model.logits(backend, 0..prompt.len()).to_vec()
}
