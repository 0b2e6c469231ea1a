//! Kernels for processors: packed products and paged attention, on threads of our own.
//!
//! The layouts and the argument for batch invariance are explained in `docs/kernels.md`. Instruction sets are chosen at run time;
//! every operation exists for any processor too.

#![allow(
    unsafe_code,
    reason = "kernels use intrinsics, raw packed layouts and threads that share one output"
)]

mod activations;
mod affinity;
mod attention;
mod delta;
mod experts;
mod gate;
mod groups;
mod isa;
mod kernel;
mod kv;
pub mod limits;
mod linear;
mod math;
mod matrix;
mod memory;
mod page;
mod pool;
mod share;
mod softmax;
mod sync;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_avx2;
#[cfg(target_arch = "x86_64")]
mod tile_avx512;
mod tile_groups;
#[cfg(target_arch = "x86_64")]
mod tile_groups_x86;
mod tile_portable;
mod weights;

use std::sync::Mutex;

use dsde_checkpoint::config::DeltaShape;
use dsde_engine::{BlockCopy, RowBatch, SlotMove};

/// Parts of the kernels that have tests of their own; nobody else needs them.
#[doc(hidden)]
pub mod internals {
    pub use super::math::{exp, gelu, silu, tanh};
    pub use super::memory::{Buffer, LARGE_PAGE_BYTES, LINE_BYTES};
    pub use super::pool::Pool;
    pub use super::tile::{ROWS_MAX, row_blocks};
    pub use super::weights::{bf16_bits, bf16_value, f16_value};
}

pub use experts::Experts;
pub use isa::Isa;
pub use kernel::Kernel;
pub use kv::KvStore;
pub use matrix::Matrix;
pub use page::KvType;

use super::{
    AttentionRule, AttentionShape, Backend, DeltaRows, DeltaWeights, Dense, Epilogue, Gate, Input, KvShape,
    QkvTransform, RmsNorm, Routed, Stacking,
};
use pool::Pool;

/// The processor's vector units and a pool of threads.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    /// Of the stores it makes.
    kv_type: KvType,
    /// Packed activations of the running product, kept for their memory.
    activations: Mutex<Vec<u32>>,
    /// Tasks of the running attention, kept for their memory.
    tasks: Mutex<Vec<attention::Task>>,
    /// What the convolution of the running delta layer made of its inputs, kept for its memory.
    prepared: Mutex<Vec<f32>>,
    /// One per thread; a thread of a region uses the one with its index.
    scratch: Vec<Mutex<attention::Scratch>>,
    /// Likewise, of products.
    workspaces: Vec<Mutex<linear::Workspace>>,
}

/// An instruction set that this machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this processor supports {best:?} at most, not {asked:?}")]
pub struct UnsupportedIsa {
    /// What was asked for.
    pub asked: Isa,
    /// The most capable one there is.
    pub best: Isa,
}

impl Cpu {
    /// The best kernels of this machine on `n_threads` threads, the caller included (at least one).
    pub fn new(n_threads: usize) -> Cpu {
        Cpu::of(Pool::new(n_threads), Isa::detect())
    }

    /// The kernels of one instruction set.
    ///
    /// # Errors
    /// If the machine does not support `isa`.
    pub fn with_isa(n_threads: usize, isa: Isa) -> Result<Cpu, UnsupportedIsa> {
        if !isa.is_supported() {
            return Err(UnsupportedIsa { asked: isa, best: Isa::detect() });
        }
        Ok(Cpu::of(Pool::new(n_threads), isa))
    }

    /// The same, keeping keys and values in this type.
    #[must_use]
    pub fn with_kv_type(self, kv_type: KvType) -> Cpu {
        Cpu { kv_type, ..self }
    }

    fn of(pool: Pool, isa: Isa) -> Cpu {
        let scratch = (0..pool.n_threads()).map(|_| Mutex::default()).collect();
        let workspaces = (0..pool.n_threads()).map(|_| Mutex::default()).collect();
        let (activations, tasks, prepared) = (Mutex::default(), Mutex::default(), Mutex::default());
        Cpu { isa, pool, kv_type: KvType::default(), activations, tasks, prepared, scratch, workspaces }
    }
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Experts = Experts;
    type KvStore = KvStore;

    fn describe(&self) -> String {
        let (n_threads, isa) = (self.pool.n_threads(), self.isa.name());
        let threads = if n_threads == 1 { "thread" } else { "threads" };
        let backend = format!("cpu, {isa}, {n_threads} {threads}");
        match self.kv_type {
            KvType::Bf16 => backend,
            other => format!("{backend}, {} keys and values", other.name()),
        }
    }

    fn isa(&self) -> Isa {
        self.isa
    }

    fn halves(&self) -> Option<[Self; 2]> {
        let n_threads = self.pool.n_threads();
        let (n_first, n_second) = (n_threads.div_ceil(2), n_threads / 2);
        let pools = (n_second > 0).then(|| [Pool::new(n_first), Pool::behind(n_first, n_second)])?;
        Some(pools.map(|pool| Cpu::of(pool, self.isa).with_kv_type(self.kv_type)))
    }

    fn block_len(&self) -> usize {
        page::BLOCK_LEN
    }

    fn pack(&self, parts: &[Dense<'_>], stacking: Stacking, bias: Option<&[f32]>) -> Matrix {
        Matrix::pack(self.isa, &self.pool, parts, stacking, bias)
    }

    fn matrix_bytes(&self, matrix: &Matrix) -> usize {
        matrix.bytes()
    }

    fn pack_experts(&self, experts: &[&[Dense<'_>]], stacking: Stacking, bias: Option<&[f32]>) -> Experts {
        Experts::pack(self.isa, &self.pool, experts, stacking, bias)
    }

    fn experts_bytes(&self, experts: &Experts) -> usize {
        experts.bytes()
    }

    fn gather(&self, matrix: &Matrix, outputs: &[u32], out: &mut [f32]) {
        matrix.gather(outputs, out);
    }

    fn block_bytes(&self, shape: &KvShape) -> usize {
        KvStore::block_bytes(self.kv_type, shape)
    }

    fn kv_store(&self, shape: &KvShape) -> KvStore {
        let kv = KvStore::new(self.kv_type, shape);
        kv.make_first_present(&self.pool);
        kv
    }

    fn append_blocks(&self, kv: &mut KvStore, n_blocks: usize) {
        kv.append_blocks(n_blocks);
    }

    fn copy_blocks(&self, kv: &mut KvStore, copies: &[BlockCopy]) {
        kv.copy_blocks(copies);
    }

    fn move_slots(&self, kv: &mut KvStore, moves: &[SlotMove]) {
        kv.move_slots(moves);
    }

    fn linear(&self, input: Input<'_>, n_rows: usize, matrix: &Matrix, epilogue: Epilogue, out: &mut [f32]) {
        linear::linear(self, input, n_rows, matrix, epilogue, out);
    }

    fn linear_by_expert(
        &self,
        x: &[f32],
        routed: Routed<'_>,
        experts: &Experts,
        epilogue: Epilogue,
        out: &mut [f32],
    ) {
        experts::linear_by_expert(self, x, routed, experts, epilogue, out);
    }

    fn combine(&self, x: &[f32], places: &[u32], weights: &[f32], epilogue: Epilogue, out: &mut [f32]) {
        experts::combine(self, x, places, weights, epilogue, out);
    }

    fn rms_norm(&self, input: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
        assert_eq!(input.len(), out.len(), "a norm keeps the shape");
        math::rms_norm(self.isa, input, norm, out);
    }

    fn soft_cap(&self, cap: f32, x: &mut [f32]) {
        math::soft_cap(self.isa, x, 1.0, cap);
    }

    fn store_kv(
        &self,
        layer: usize,
        qkv: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
        kv: &mut KvStore,
    ) {
        kv::store_kv(self, layer, qkv, transform, rows, kv);
    }

    fn transform_queries(
        &self,
        shape: AttentionShape,
        queries: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
    ) {
        kv::transform_queries(self, shape, queries, transform, rows);
    }

    fn attention(
        &self,
        layer: usize,
        rule: AttentionRule<'_>,
        qkv: &[f32],
        rows: &RowBatch,
        kv: &KvStore,
        out: &mut [f32],
    ) {
        attention::attention(self, layer, rule, qkv, rows, kv, out);
    }

    fn gate(&self, kind: Gate, gates: &[f32], x: &mut [f32]) {
        gate::gate(self, kind, gates, x);
    }

    fn state_len(&self, shape: DeltaShape) -> usize {
        delta::state_len(shape)
    }

    fn delta(
        &self,
        shape: DeltaShape,
        weights: DeltaWeights<'_>,
        inputs: &[f32],
        rows: DeltaRows<'_>,
        states: &mut [f32],
        out: &mut [f32],
    ) {
        delta::delta(self, shape, weights, inputs, rows, states, out);
    }

    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.pool.run(n, work);
    }
}
