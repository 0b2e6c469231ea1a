//! Every operation as plain loops over `f32`: the oracle of the kernel tests, and a backend that runs anywhere.
//!
//! Weights are widened to `f32` at packing and nothing is rounded afterwards, so a fast backend differs from this one by its
//! own rounding only. Sums run over ascending indices for every row count, which makes it batch-invariant too.

mod delta;

use dsde_checkpoint::config::DeltaShape;
use dsde_engine::{BlockCopy, RowBatch, Slot, SlotMove};

use super::{
    AttentionRule, AttentionShape, Backend, DeltaRows, DeltaWeights, Dense, Epilogue, Gate, Input, KvShape,
    QkTransform, RmsNorm, RopeTable, Routed, Stacking,
};

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

/// Keys and values as `[n_layers, n_blocks, n_kv_heads, block_len, head_dim]` in `f32`.
#[derive(Clone, Debug)]
pub struct ReferenceKv {
    keys: Vec<f32>,
    values: Vec<f32>,
    shape: KvShape,
    /// Blocks it was made with; appended ones follow.
    n_own: usize,
}

impl ReferenceKv {
    fn layer_len(&self) -> usize {
        self.shape.n_blocks * self.block_size()
    }

    fn block_size(&self) -> usize {
        self.shape.attention.n_kv_heads * BLOCK_LEN * self.shape.attention.head_dim
    }

    /// First element of a slot of a sequence.
    fn index(&self, layer: usize, table: &[dsde_engine::BlockId], slot: usize, head: usize) -> usize {
        let block = table[slot / BLOCK_LEN].0 as usize;
        let in_block = (head * BLOCK_LEN + slot % BLOCK_LEN) * self.shape.attention.head_dim;
        layer * self.layer_len() + block * self.block_size() + in_block
    }
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

    fn kv_store(&self, shape: KvShape) -> ReferenceKv {
        let AttentionShape { n_kv_heads, head_dim, .. } = shape.attention;
        let len = shape.n_layers * shape.n_blocks * n_kv_heads * BLOCK_LEN * head_dim;
        ReferenceKv { keys: vec![0.0; len], values: vec![0.0; len], shape, n_own: shape.n_blocks }
    }

    fn append_blocks(&self, kv: &mut ReferenceKv, n_blocks: usize) {
        let (layer_len, own_len) = (kv.layer_len(), kv.n_own * kv.block_size());
        let appended = vec![0.0; n_blocks * kv.block_size()];
        let resized = |layers: &[f32]| {
            let layers = layers.chunks_exact(layer_len.max(1));
            layers.flat_map(|layer| [&layer[..own_len], &appended[..]].concat()).collect()
        };
        (kv.keys, kv.values) = (resized(&kv.keys), resized(&kv.values));
        kv.shape.n_blocks = kv.n_own + n_blocks;
    }

    fn copy_blocks(&self, kv: &mut ReferenceKv, copies: &[BlockCopy]) {
        let (layer_len, size) = (kv.layer_len(), kv.block_size());
        for copy in copies {
            for layer in 0..kv.shape.n_layers {
                let from = layer * layer_len + copy.from.0 as usize * size;
                let to = layer * layer_len + copy.to.0 as usize * size;
                kv.keys.copy_within(from..from + size, to);
                kv.values.copy_within(from..from + size, to);
            }
        }
    }

    fn move_slots(&self, kv: &mut ReferenceKv, moves: &[SlotMove]) {
        let KvShape { n_layers, attention, .. } = kv.shape;
        for SlotMove { from, to } in moves {
            for layer in 0..n_layers {
                for head in 0..attention.n_kv_heads {
                    let at = |slot: &Slot| kv.index(layer, &[slot.block], slot.offset as usize, head);
                    let (from, to) = (at(from), at(to));
                    kv.keys.copy_within(from..from + attention.head_dim, to);
                    kv.values.copy_within(from..from + attention.head_dim, to);
                }
            }
        }
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
        transform: QkTransform<'_>,
        rows: &RowBatch,
        kv: &mut ReferenceKv,
    ) {
        let AttentionShape { n_heads, n_kv_heads, head_dim, .. } = kv.shape.attention;
        let width = super::assert_qkv(qkv, rows, kv.shape.attention);
        for seq in 0..rows.n_seqs() {
            for r in rows.rows_of(seq) {
                let row = &mut qkv[r * width..(r + 1) * width];
                let (position, slot) = (rows.positions[r] as usize, rows.slots[r] as usize);
                let (queries, rest) = row.split_at_mut(n_heads * head_dim);
                let (keys, _) = rest.split_at_mut(n_kv_heads * head_dim);
                for (heads, norm) in [(queries, transform.q_norm), (keys, transform.k_norm)] {
                    if let Some(norm) = norm {
                        heads.chunks_exact_mut(norm.weight.len()).for_each(|part| normalise(part, norm));
                    }
                    if let Some(rope) = transform.rope {
                        heads.chunks_exact_mut(head_dim).for_each(|head| rotate(head, rope, position));
                    }
                }
                for head in 0..n_kv_heads {
                    let at = kv.index(layer, rows.table_of(seq), slot, head);
                    let key = (n_heads + head) * head_dim;
                    let value = key + n_kv_heads * head_dim;
                    kv.keys[at..at + head_dim].copy_from_slice(&row[key..key + head_dim]);
                    kv.values[at..at + head_dim].copy_from_slice(&row[value..value + head_dim]);
                }
            }
        }
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
        let AttentionShape { n_heads, n_kv_heads, head_dim, first_slot } = kv.shape.attention;
        let width = super::assert_attention(qkv, rows, kv.shape.attention, rule, out);
        for seq in 0..rows.n_seqs() {
            for r in rows.rows_of(seq) {
                for head in 0..n_heads {
                    let at = |slot| kv.index(layer, rows.table_of(seq), slot, head / (n_heads / n_kv_heads));
                    let query = &qkv[r * width + head * head_dim..][..head_dim];
                    let n_before = rule.n_before(visible_slots(rows, r).count());
                    let in_window = visible_slots(rows, r).skip(n_before);
                    let slots: Vec<usize> = in_window.filter(|&slot| slot >= first_slot).collect();
                    let score = |&slot| rule.scale * dot(query, &kv.keys[at(slot)..][..head_dim]);
                    let mut weights: Vec<f32> = slots.iter().map(score).collect();
                    if let Some(cap) = rule.soft_cap {
                        self.soft_cap(cap, &mut weights);
                    }
                    softmax(&mut weights, rule.sinks.map(|sinks| sinks[head]));
                    let out = &mut out[(r * n_heads + head) * head_dim..][..head_dim];
                    out.fill(0.0);
                    for (weight, &slot) in weights.iter().zip(&slots) {
                        for (out, value) in out.iter_mut().zip(&kv.values[at(slot)..][..head_dim]) {
                            *out += weight * value;
                        }
                    }
                }
            }
        }
    }

    fn gate(&self, kind: Gate, gates: &[f32], x: &mut [f32]) {
        assert_eq!(gates.len(), x.len(), "one gate per element");
        for (x, &gate) in x.iter_mut().zip(gates) {
            *x *= match kind {
                Gate::Sigmoid => 1.0 / (1.0 + (-gate).exp()),
                Gate::Silu => silu(gate),
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

/// Slots that row `r` sees, ascending.
fn visible_slots(rows: &RowBatch, r: usize) -> impl Iterator<Item = usize> {
    let (visible_len, mask) = (rows.visible_len[r] as usize, rows.tree_mask[r]);
    (0..visible_len).chain((0..64).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| visible_len + bit))
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

fn rotate(x: &mut [f32], rope: &RopeTable, position: usize) {
    let (low, high) = x.split_at_mut(rope.n_pairs);
    let angles = position * rope.n_pairs..(position + 1) * rope.n_pairs;
    for ((low, high), (cos, sin)) in
        low.iter_mut().zip(high).zip(rope.cos[angles.clone()].iter().zip(&rope.sin[angles]))
    {
        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
    }
}

/// * `sink`: a score that takes part in the sum alone.
fn softmax(scores: &mut [f32], sink: Option<f32>) {
    let max = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = sink.map_or(0.0, |sink| (sink - max).exp());
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}
