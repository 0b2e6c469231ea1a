//! Every operation as plain loops over `f32`: the oracle of the kernel tests, and a backend that runs anywhere.
//!
//! Weights are widened to `f32` at packing and nothing is rounded afterwards, so a fast backend differs from this one by its
//! own rounding only. Sums run over ascending indices for every row count, which makes it batch-invariant too.

mod delta;
mod kv;

use dsde_checkpoint::config::DeltaShape;
use dsde_engine::{BlockCopy, RowBatch, SlotMove};

use super::{
    AttentionRule, AttentionShape, Backend, DeltaRows, DeltaWeights, Dense, Epilogue, Gate, Input, KvShape,
    QkvTransform, RmsNorm, Routed, Stacking,
};
pub use kv::ReferenceKv;

/// Slots per block.
const BLOCK_LEN: usize = 16;

/// Single-threaded loops over `f32`; see the module's head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// Row-major `f32` weights, parts one after the other.
#[derive(Clone, Debug)]
pub struct ReferenceMatrix {
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    n_in: usize,
    n_out: usize,
    stacking: Stacking,
}

impl Backend for Reference {
    type Matrix = ReferenceMatrix;
    type Experts = Vec<ReferenceMatrix>;
    type KvStore = ReferenceKv;

    fn describe(&self) -> String {
        "reference loops, f32, 1 thread".to_owned()
    }

    fn block_len(&self) -> usize {
        BLOCK_LEN
    }

    fn pack(&self, parts: &[Dense<'_>], stacking: Stacking, bias: Option<&[f32]>) -> ReferenceMatrix {
        let n_out = super::stacked_len(parts, stacking, bias);
        let n_in = parts.first().map_or(0, |part| part.n_in);
        let mut weights = vec![0.0; n_out * n_in];
        let stored = parts.iter().flat_map(|part| (0..part.n_out).map(move |row| (part, row)));
        for ((part, row), weights) in stored.zip(weights.chunks_exact_mut(n_in.max(1))) {
            part.widen_row(row, weights);
        }
        ReferenceMatrix { weights, bias: bias.map(<[f32]>::to_vec), n_in, n_out, stacking }
    }

    fn matrix_bytes(&self, matrix: &ReferenceMatrix) -> usize {
        size_of_val(matrix.weights.as_slice()) + matrix.bias.as_deref().map_or(0, size_of_val)
    }

    fn pack_experts(
        &self,
        experts: &[&[Dense<'_>]],
        stacking: Stacking,
        bias: Option<&[f32]>,
    ) -> Vec<ReferenceMatrix> {
        let [_, n_out] = super::expert_shape(experts, stacking, bias);
        let bias_of = |expert: usize| bias.map(|bias| &bias[expert * n_out..(expert + 1) * n_out]);
        experts.iter().enumerate().map(|(i, parts)| self.pack(parts, stacking, bias_of(i))).collect()
    }

    fn experts_bytes(&self, experts: &Vec<ReferenceMatrix>) -> usize {
        experts.iter().map(|matrix| self.matrix_bytes(matrix)).sum()
    }

    fn gather(&self, matrix: &ReferenceMatrix, outputs: &[u32], out: &mut [f32]) {
        assert_eq!(matrix.stacking, Stacking::Concat, "rows of interleaved matrices are not gathered");
        for (&output, row) in outputs.iter().zip(out.chunks_exact_mut(matrix.n_in)) {
            row.copy_from_slice(&matrix.weights[output as usize * matrix.n_in..][..matrix.n_in]);
        }
    }

    fn kv_store(&self, shape: &KvShape) -> ReferenceKv {
        ReferenceKv::new(shape)
    }

    fn append_blocks(&self, kv: &mut ReferenceKv, n_blocks: usize) {
        kv.append_blocks(n_blocks);
    }

    fn copy_blocks(&self, kv: &mut ReferenceKv, copies: &[BlockCopy]) {
        kv.copy_blocks(copies);
    }

    fn move_slots(&self, kv: &mut ReferenceKv, moves: &[SlotMove]) {
        kv.move_slots(moves);
    }

    fn linear(
        &self,
        input: Input<'_>,
        n_rows: usize,
        matrix: &ReferenceMatrix,
        epilogue: Epilogue,
        out: &mut [f32],
    ) {
        super::assert_linear(input, n_rows, [matrix.n_in, matrix.n_out], matrix.stacking, epilogue, out);
        let n_in = matrix.n_in;
        let mut x = input.x.to_vec();
        if let Some(norm) = input.norm {
            self.rms_norm(input.x, norm, &mut x);
        }
        for r in 0..n_rows {
            let row = &x[r * n_in..(r + 1) * n_in];
            let product = |i: usize| {
                let sum = dot(row, &matrix.weights[i * n_in..(i + 1) * n_in]);
                sum + matrix.bias.as_ref().map_or(0.0, |bias| bias[i])
            };
            let width = out.len() / n_rows;
            for (i, out) in out[r * width..(r + 1) * width].iter_mut().enumerate() {
                match epilogue {
                    Epilogue::Store => *out = product(i),
                    Epilogue::Add => *out += product(i),
                    Epilogue::SwiGlu => *out = silu(product(i)) * product(i + width),
                    Epilogue::GeGlu => *out = gelu(product(i)) * product(i + width),
                    Epilogue::ClampedSwiGlu => {
                        *out = super::clamped_swiglu(product(i), product(i + width), f32::exp);
                    }
                }
            }
        }
    }

    fn linear_by_expert(
        &self,
        x: &[f32],
        routed: Routed<'_>,
        experts: &Vec<ReferenceMatrix>,
        epilogue: Epilogue,
        out: &mut [f32],
    ) {
        let ReferenceMatrix { n_in, n_out, stacking, .. } = experts[0];
        super::assert_by_expert(x, routed, [experts.len(), n_in, n_out], stacking, epilogue, out);
        let width = out.len() / routed.n_rows().max(1);
        for (idx, woken) in routed.woken.iter().enumerate() {
            for row in routed.rows_of(idx) {
                let source = routed.source(row);
                let input = Input { x: &x[source * n_in..(source + 1) * n_in], norm: None };
                let out = &mut out[row * width..(row + 1) * width];
                self.linear(input, 1, &experts[woken.expert as usize], epilogue, out);
            }
        }
    }

    fn combine(&self, x: &[f32], places: &[u32], weights: &[f32], epilogue: Epilogue, out: &mut [f32]) {
        let width = super::assert_combine(x, places, weights, epilogue, out);
        let n_each = places.len() / (out.len() / width.max(1)).max(1);
        for (row, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            for (column, out) in out.iter_mut().enumerate() {
                let answers = (row * n_each..(row + 1) * n_each)
                    .map(|i| weights[i] * x[places[i] as usize * width + column]);
                let sum: f32 = answers.sum();
                *out = if epilogue == Epilogue::Add { *out + sum } else { sum };
            }
        }
    }

    fn rms_norm(&self, input: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
        let width = norm.weight.len();
        out.copy_from_slice(input);
        for row in out.chunks_exact_mut(width.max(1)) {
            normalise(row, norm);
        }
    }

    fn soft_cap(&self, cap: f32, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = soft_cap(*x, cap));
    }

    fn store_kv(
        &self,
        layer: usize,
        qkv: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
        kv: &mut ReferenceKv,
    ) {
        kv.store(layer, qkv, transform, rows);
    }

    fn transform_queries(
        &self,
        shape: AttentionShape,
        queries: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
    ) {
        kv::transform_queries(shape, queries, transform, rows);
    }

    fn attention(
        &self,
        layer: usize,
        rule: AttentionRule<'_>,
        qkv: &[f32],
        rows: &RowBatch,
        kv: &ReferenceKv,
        out: &mut [f32],
    ) {
        kv.attention(layer, rule, qkv, rows, out);
    }

    fn gate(&self, kind: Gate, gates: &[f32], x: &mut [f32]) {
        assert_eq!(gates.len(), x.len(), "one gate per element");
        for (x, &gate) in x.iter_mut().zip(gates) {
            *x *= match kind {
                Gate::Sigmoid => 1.0 / (1.0 + (-gate).exp()),
                Gate::Silu => silu(gate),
                Gate::Gelu => gelu(gate),
            };
        }
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
        delta::delta(shape, weights, inputs, rows, states, out);
    }

    fn for_each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..n).for_each(work);
    }
}

/// Partial sums of the dot product, which let the compiler use vectors without changing the order by length or row count.
const LANES: usize = 8;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// `x * P(X <= x)` of a standard normal `X`, approximated.
fn gelu(x: f32) -> f32 {
    let inner =
        std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2 * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn soft_cap(x: f32, cap: f32) -> f32 {
    cap * (x / cap).tanh()
}

fn normalise(row: &mut [f32], norm: RmsNorm<'_>) {
    let mean_square = dot(row, row) / row.len() as f32;
    let scale = 1.0 / (mean_square + norm.eps).sqrt();
    for (x, weight) in row.iter_mut().zip(norm.weight) {
        *x = *x * scale * weight;
    }
}
