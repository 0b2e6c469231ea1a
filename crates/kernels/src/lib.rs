//! Arithmetic for one kind of hardware, over ragged rows.

use std::ops::Range;

use dsde_checkpoint::Dense;
use dsde_checkpoint::config::DeltaShape;
use dsde_engine::{BlockCopy, RowBatch, SlotMove};

mod attention;
pub mod cpu;
mod delta;
pub mod reference;
mod shape;

pub use attention::{AttentionRule, AttentionShape, KvShape, QkvTransform, RmsNorm, RopeTable};
pub use cpu::Cpu;
pub use delta::{DeltaRows, DeltaRun, DeltaWeights};
pub use reference::Reference;

use shape::{
    assert_attention, assert_by_expert, assert_combine, assert_linear, assert_qkv, assert_queries,
    expert_shape, stacked_len,
};

/// How several matrices with the same `n_in` become one packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacking {
    /// Outputs one after the other (query, key, value).
    Concat,
    /// Exactly two matrices of equal shape, gate and up, for the epilogues that gate.
    GateUp,
}

/// Left operand of [`Backend::linear`].
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Activations, `[n_rows, n_in]`.
    pub x: &'a [f32],
    /// RMS normalisation applied to each row first.
    pub norm: Option<RmsNorm<'a>>,
}

/// What happens to the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = product`.
    Store,
    /// `out += product` (residual connections).
    Add,
    /// `out[r, i] = silu(gate[r, i]) * up[r, i]` of a [`Stacking::GateUp`] matrix; `out` has half as many columns.
    SwiGlu,
    /// As [`Epilogue::SwiGlu`] with the Gaussian error linear unit by its tanh approximation in place of silu: Hendrycks and
    /// Gimpel (arXiv:1606.08415), Section 2.
    GeGlu,
    /// As [`Epilogue::SwiGlu`], but `out = gate * sigmoid(1.702 gate) * (up + 1)`, the gate at most 7 and up from -7 to 7:
    /// gpt-oss (arXiv:2508.10925), Section 2.2, with the numbers of its released code.
    ClampedSwiGlu,
}

/// See [`Epilogue::ClampedSwiGlu`].
///
/// * `exp`: the exponential function.
#[inline(always)]
fn clamped_swiglu(gate: f32, up: f32, exp: impl Fn(f32) -> f32) -> f32 {
    const SLOPE: f32 = 1.702;
    const LIMIT: f32 = 7.0;
    // Comparisons written so that a NaN passes through.
    let gate = if gate > LIMIT { LIMIT } else { gate };
    let up = if up > LIMIT { LIMIT } else { up };
    let up = if up < -LIMIT { -LIMIT } else { up };
    gate / (1.0 + exp(-SLOPE * gate)) * (up + 1.0)
}

impl Epilogue {
    /// Whether it belongs to a [`Stacking::GateUp`] matrix.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::SwiGlu | Self::GeGlu | Self::ClampedSwiGlu)
    }
}

/// What elements are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `1 / (1 + e^-g)`.
    Sigmoid,
    /// `g / (1 + e^-g)`.
    Silu,
    /// The Gaussian error linear unit of `g` by its tanh approximation, see [`Epilogue::GeGlu`].
    Gelu,
}

/// An expert that rows of a pass chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// Index of the expert.
    pub expert: u32,
    /// End of its run of rows; the run starts where that of the expert before ends.
    pub end: u32,
}

impl Woken {
    /// Rows of the woken expert `idx`.
    fn rows(woken: &[Woken], idx: usize) -> Range<usize> {
        let start = idx.checked_sub(1).map_or(0, |before| woken[before].end);
        start as usize..woken[idx].end as usize
    }
}

/// Rows of a product, grouped by the expert that each of them chose; a row of a pass that chose several stands once for each.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// Experts by rising index, each with at least one row.
    pub woken: &'a [Woken],
    /// Row of the input that each row is, `[n_rows]`; without it the input has the rows themselves.
    pub sources: Option<&'a [u32]>,
}

impl Routed<'_> {
    /// Rows of all woken experts together.
    pub fn n_rows(self) -> usize {
        self.woken.last().map_or(0, |woken| woken.end as usize)
    }

    fn rows_of(self, woken_idx: usize) -> Range<usize> {
        Woken::rows(self.woken, woken_idx)
    }

    fn source(self, row: usize) -> usize {
        self.sources.map_or(row, |sources| sources[row] as usize)
    }
}

/// Arithmetic for one kind of hardware.
///
/// Batch invariance is part of the contract: what a row receives depends on that row and what it sees alone, bit for bit,
/// never on the number of rows beside it, their order, or the number of threads.
pub trait Backend: Send + 'static {
    /// A weight matrix in the backend's own layout.
    type Matrix: Send + Sync;
    /// Matrices of one shape, one per expert of a layer, in the backend's own layout.
    type Experts: Send + Sync;
    /// Paged keys and values of all layers, zeroed at creation.
    type KvStore: Send;

    /// What runs and with how many threads, for people.
    fn describe(&self) -> String;

    /// Instruction set for passes over vocabularies that run beside it on the host; see [`cpu::Kernel`].
    fn isa(&self) -> cpu::Isa {
        cpu::Isa::detect()
    }

    /// Two backends that may work at the same time, with the same matrices and stores as this one and half of its threads
    /// each; an odd one goes to the first. `None` where there is one thread.
    fn halves(&self) -> Option<[Self; 2]>
    where
        Self: Sized,
    {
        None
    }

    /// Slots per block of the stores it makes.
    fn block_len(&self) -> usize;

    /// Packs `parts` (equal `n_in`) and an optional bias `[sum of n_out]` into one matrix.
    fn pack(&self, parts: &[Dense<'_>], stacking: Stacking, bias: Option<&[f32]>) -> Self::Matrix;

    /// Bytes a packed matrix occupies.
    fn matrix_bytes(&self, matrix: &Self::Matrix) -> usize;

    /// Packs one matrix per expert, each of the `parts` that [`Backend::pack`] would take; all have the same shapes.
    ///
    /// * `bias`: `[n_experts, sum of n_out]`.
    fn pack_experts(
        &self,
        experts: &[&[Dense<'_>]],
        stacking: Stacking,
        bias: Option<&[f32]>,
    ) -> Self::Experts;

    /// Bytes that packed experts occupy.
    fn experts_bytes(&self, experts: &Self::Experts) -> usize;

    /// `out[i, :]` is row `outputs[i]` of the matrix, widened and otherwise as it was before packing.
    ///
    /// * `matrix`: of [`Stacking::Concat`]; its bias does not count.
    /// * `out`: `[outputs.len(), n_in]`.
    fn gather(&self, matrix: &Self::Matrix, outputs: &[u32], out: &mut [f32]);

    /// Bytes of one block in all layers, keys and values; f32 elements unless the backend says otherwise.
    fn block_bytes(&self, shape: &KvShape) -> usize {
        let slot_len: usize = shape.layers.iter().map(|layer| 2 * layer.n_kv_heads * layer.head_dim).sum();
        slot_len * self.block_len() * size_of::<f32>()
    }

    /// Makes an empty store.
    fn kv_store(&self, shape: &KvShape) -> Self::KvStore;

    /// Appends `n_blocks` zeroed blocks to those that the store was made with, in place of those appended before; 0 frees
    /// the memory of these.
    fn append_blocks(&self, kv: &mut Self::KvStore, n_blocks: usize);

    /// Copies blocks of all layers.
    fn copy_blocks(&self, kv: &mut Self::KvStore, copies: &[BlockCopy]);

    /// Copies single slots of all layers, one after the other.
    fn move_slots(&self, kv: &mut Self::KvStore, moves: &[SlotMove]);

    /// `epilogue(norm(x) · matrixᵀ + bias)`; `out` is `[n_rows, n_out]` (`[n_rows, n_out / 2]` if gated).
    fn linear(
        &self,
        input: Input<'_>,
        n_rows: usize,
        matrix: &Self::Matrix,
        epilogue: Epilogue,
        out: &mut [f32],
    );

    /// `out[r, :] = epilogue(x[source of r, :] · matrixᵀ + bias)` with matrix and bias of the expert that row `r` is grouped under.
    ///
    /// * `x`: `[n_sources, n_in]`.
    /// * `epilogue`: [`Epilogue::Store`], or one that gates of a [`Stacking::GateUp`] matrix.
    /// * `out`: as that of [`Backend::linear`], for [`Routed::n_rows`] rows.
    fn linear_by_expert(
        &self,
        x: &[f32],
        routed: Routed<'_>,
        experts: &Self::Experts,
        epilogue: Epilogue,
        out: &mut [f32],
    );

    /// `out[r, :] = sum over j of weights[r, j] * x[places[r, j], :]`, over rising `j`.
    ///
    /// * `x`: `[n_places, width]`.
    /// * `places`, `weights`: `[n_rows, n]`, equally long.
    /// * `epilogue`: [`Epilogue::Store`] or [`Epilogue::Add`].
    /// * `out`: `[n_rows, width]`.
    fn combine(&self, x: &[f32], places: &[u32], weights: &[f32], epilogue: Epilogue, out: &mut [f32]);

    /// `out[r, :] = norm(x[r, :])`, rows of the norm's width.
    fn rms_norm(&self, input: &[f32], norm: RmsNorm<'_>, out: &mut [f32]);

    /// `x = cap * tanh(x / cap)`.
    fn soft_cap(&self, cap: f32, x: &mut [f32]);

    /// Transforms queries (in place), keys and values, and stores keys and values of `rows` in their slots.
    ///
    /// * `layer`: of the store; so for [`Backend::attention`].
    /// * `qkv`: `[n_rows, (n_heads + 2 * n_kv_heads) * head_dim]`, queries first, then keys, then values.
    fn store_kv(
        &self,
        layer: usize,
        qkv: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
        kv: &mut Self::KvStore,
    );

    /// Transforms queries as [`Backend::store_kv`] does, for rows that attend to what is stored already.
    ///
    /// * `shape`: of the layer that stored it.
    /// * `queries`: `[n_rows, n_heads * head_dim]`.
    fn transform_queries(
        &self,
        shape: AttentionShape,
        queries: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
    );

    /// Dot-product attention of `rows` by `rule` over what each of them sees (see [`RowBatch`]) from
    /// [`AttentionShape::first_slot`] on.
    ///
    /// * `qkv`: as left by [`Backend::store_kv`], or queries alone as left by [`Backend::transform_queries`], whose heads may be of
    ///   another number than those of the layer that stored keys and values: any multiple of `n_kv_heads`.
    /// * `out`: `[n_rows, n_heads * head_dim]`.
    fn attention(
        &self,
        layer: usize,
        rule: AttentionRule<'_>,
        qkv: &[f32],
        rows: &RowBatch,
        kv: &Self::KvStore,
        out: &mut [f32],
    );

    /// `x[i] *= kind(gates[i])`.
    fn gate(&self, kind: Gate, gates: &[f32], x: &mut [f32]);

    /// Numbers of the state of one sequence in one delta layer, as the backend has them. A state that has read nothing is zeros.
    fn state_len(&self, shape: DeltaShape) -> usize;

    /// The gated delta rule behind a convolution, for rows that go through states: Yang et al., "Gated delta networks"
    /// (arXiv:2412.06464), Eq. 10.
    ///
    /// Of every input the convolution makes `q`, `k` and `v` (with silu behind it); `q` and `k` are brought to length 1, and `q` is
    /// divided by `sqrt(key_dim)`. With `beta = sigmoid(b)` and `decay = exp(rate * softplus(a + bias))` the state `S`,
    /// `[key_dim, value_dim]`, becomes `decay * S + k (beta * (v - decay * Sᵀk))ᵀ`, and the output is `Sᵀq`.
    ///
    /// States read replayed inputs and known rows, in order, and are left as if the other rows had not been. A state depends on what
    /// it has read alone, bit for bit, never on how many inputs came at a time or whether they were replayed.
    ///
    /// * `inputs`: `[n_inputs, input_len]`; those of rows come first.
    /// * `states`: `[n_states, state_len]`.
    /// * `out`: `[n_rows, n_value_heads * value_dim]`.
    fn delta(
        &self,
        shape: DeltaShape,
        weights: DeltaWeights<'_>,
        inputs: &[f32],
        rows: DeltaRows<'_>,
        states: &mut [f32],
        out: &mut [f32],
    );

    /// Runs `work(i)` for `i in 0..n`, in parallel where there are threads; for work that is not the backend's own.
    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync));
}
