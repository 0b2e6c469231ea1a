//! Keys and values of the reference backend, and attention over them.

use dsde_engine::{BlockCopy, BlockId, RowBatch, Slot, SlotMove};

use super::super::{
    AttentionRule, AttentionShape, KvShape, QkvTransform, RmsNorm, RopeTable, assert_attention, assert_qkv,
    assert_queries,
};
use super::{BLOCK_LEN, dot, normalise, soft_cap};

/// Keys and values in `f32`, a layer after the other.
#[derive(Clone, Debug)]
pub struct ReferenceKv {
    layers: Vec<LayerKv>,
    /// Blocks it was made with; appended ones follow.
    n_own: usize,
}

/// Keys and values of a layer, `[n_blocks, n_kv_heads, block_len, head_dim]` each.
#[derive(Clone, Debug)]
struct LayerKv {
    shape: AttentionShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl LayerKv {
    fn block_size(&self) -> usize {
        self.shape.n_kv_heads * BLOCK_LEN * self.shape.head_dim
    }

    /// First element of a slot of a sequence.
    fn index(&self, table: &[BlockId], slot: usize, head: usize) -> usize {
        let block = table[slot / BLOCK_LEN].0 as usize;
        block * self.block_size() + (head * BLOCK_LEN + slot % BLOCK_LEN) * self.shape.head_dim
    }

    /// Copies `len` elements of keys and of values.
    fn copy_within(&mut self, from: usize, to: usize, len: usize) {
        for half in [&mut self.keys, &mut self.values] {
            half.copy_within(from..from + len, to);
        }
    }

    /// Stores a transformed row.
    fn write(&mut self, row: &[f32], table: &[BlockId], slot: usize) {
        let AttentionShape { n_heads, n_kv_heads, head_dim, .. } = self.shape;
        for head in 0..n_kv_heads {
            let at = self.index(table, slot, head);
            let key = (n_heads + head) * head_dim;
            let value = key + n_kv_heads * head_dim;
            self.keys[at..at + head_dim].copy_from_slice(&row[key..key + head_dim]);
            self.values[at..at + head_dim].copy_from_slice(&row[value..value + head_dim]);
        }
    }

    /// What a head of a row gets of the slots that it attends to.
    ///
    /// * `head`, `kv_head`: which query head it is, and that of the keys and values that it reads.
    fn attend(
        &self,
        query: &[f32],
        [head, kv_head]: [usize; 2],
        rule: AttentionRule<'_>,
        (table, slots): (&[BlockId], &[usize]),
        out: &mut [f32],
    ) {
        let head_dim = self.shape.head_dim;
        let at = |slot| self.index(table, slot, kv_head);
        let score = |&slot| rule.scale * dot(query, &self.keys[at(slot)..][..head_dim]);
        let mut weights: Vec<f32> = slots.iter().map(score).collect();
        if let Some(cap) = rule.soft_cap {
            weights.iter_mut().for_each(|x| *x = soft_cap(*x, cap));
        }
        softmax(&mut weights, rule.sinks.map(|sinks| sinks[head]));
        out.fill(0.0);
        for (weight, &slot) in weights.iter().zip(slots) {
            for (out, value) in out.iter_mut().zip(&self.values[at(slot)..][..head_dim]) {
                *out += weight * value;
            }
        }
    }
}

impl ReferenceKv {
    /// Zeros.
    pub(super) fn new(shape: &KvShape) -> Self {
        let layer = |shape: &AttentionShape| LayerKv { shape: *shape, keys: Vec::new(), values: Vec::new() };
        let mut kv = Self { layers: shape.layers.iter().map(layer).collect(), n_own: 0 };
        kv.append_blocks(shape.n_blocks);
        kv.n_own = shape.n_blocks;
        kv
    }

    /// See [`Backend::append_blocks`](super::super::Backend::append_blocks).
    pub(super) fn append_blocks(&mut self, n_blocks: usize) {
        for layer in &mut self.layers {
            let block_size = layer.block_size();
            for half in [&mut layer.keys, &mut layer.values] {
                half.truncate(self.n_own * block_size);
                half.resize((self.n_own + n_blocks) * block_size, 0.0);
            }
        }
    }

    /// See [`Backend::copy_blocks`](super::super::Backend::copy_blocks).
    pub(super) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        for copy in copies {
            for layer in &mut self.layers {
                let size = layer.block_size();
                layer.copy_within(copy.from.0 as usize * size, copy.to.0 as usize * size, size);
            }
        }
    }

    /// See [`Backend::move_slots`](super::super::Backend::move_slots).
    pub(super) fn move_slots(&mut self, moves: &[SlotMove]) {
        for SlotMove { from, to } in moves {
            for layer in &mut self.layers {
                for head in 0..layer.shape.n_kv_heads {
                    let at = |slot: &Slot| layer.index(&[slot.block], slot.offset as usize, head);
                    let (from, to) = (at(from), at(to));
                    layer.copy_within(from, to, layer.shape.head_dim);
                }
            }
        }
    }

    /// See [`Backend::store_kv`](super::super::Backend::store_kv).
    pub(super) fn store(
        &mut self,
        layer: usize,
        qkv: &mut [f32],
        transform: QkvTransform<'_>,
        rows: &RowBatch,
    ) {
        let layer = &mut self.layers[layer];
        let AttentionShape { n_kv_heads, head_dim, .. } = layer.shape;
        let width = assert_qkv(qkv, rows, layer.shape);
        for seq in 0..rows.n_seqs() {
            for r in rows.rows_of(seq) {
                let row = &mut qkv[r * width..(r + 1) * width];
                let position = rows.positions[r] as usize;
                let (queries, rest) = row.split_at_mut(layer.shape.queries_len());
                let (keys, values) = rest.split_at_mut(n_kv_heads * head_dim);
                transform_heads(queries, head_dim, transform.q_norm, transform.rope, position);
                transform_heads(keys, head_dim, transform.k_norm, transform.rope, position);
                transform_heads(values, head_dim, transform.v_norm, None, position);
                layer.write(row, rows.table_of(seq), rows.slots[r] as usize);
            }
        }
    }

    /// See [`Backend::attention`](super::super::Backend::attention).
    pub(super) fn attention(
        &self,
        layer: usize,
        rule: AttentionRule<'_>,
        qkv: &[f32],
        rows: &RowBatch,
        out: &mut [f32],
    ) {
        let layer = &self.layers[layer];
        let (width, shape) = assert_attention(qkv, rows, layer.shape, rule, out);
        let AttentionShape { n_heads, n_kv_heads, head_dim, first_slot } = shape;
        for seq in 0..rows.n_seqs() {
            for r in rows.rows_of(seq) {
                let n_before = rule.n_before(visible_slots(rows, r).count());
                let in_window = visible_slots(rows, r).skip(n_before);
                let slots: Vec<usize> = in_window.filter(|&slot| slot >= first_slot).collect();
                for head in 0..n_heads {
                    let query = &qkv[r * width + head * head_dim..][..head_dim];
                    let out = &mut out[(r * n_heads + head) * head_dim..][..head_dim];
                    let heads = [head, head / (n_heads / n_kv_heads)];
                    layer.attend(query, heads, rule, (rows.table_of(seq), &slots), out);
                }
            }
        }
    }
}

/// See [`Backend::transform_queries`](super::super::Backend::transform_queries).
pub(super) fn transform_queries(
    shape: AttentionShape,
    queries: &mut [f32],
    QkvTransform { q_norm, rope, .. }: QkvTransform<'_>,
    rows: &RowBatch,
) {
    let width = assert_queries(queries, rows, shape);
    for (row, position) in queries.chunks_exact_mut(width).zip(&rows.positions) {
        transform_heads(row, shape.head_dim, q_norm, rope, *position as usize);
    }
}

fn transform_heads(
    heads: &mut [f32],
    head_dim: usize,
    norm: Option<RmsNorm<'_>>,
    rope: Option<&RopeTable>,
    position: usize,
) {
    if let Some(norm) = norm {
        heads.chunks_exact_mut(norm.weight.len()).for_each(|part| normalise(part, norm));
    }
    if let Some(rope) = rope {
        heads.chunks_exact_mut(head_dim).for_each(|head| rotate(head, rope, position));
    }
}

/// Slots that row `r` sees, ascending.
fn visible_slots(rows: &RowBatch, r: usize) -> impl Iterator<Item = usize> {
    let (visible_len, mask) = (rows.visible_len[r] as usize, rows.tree_mask[r]);
    (0..visible_len).chain((0..64).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| visible_len + bit))
}

fn rotate(x: &mut [f32], rope: &RopeTable, position: usize) {
    let (low, high) = x.split_at_mut(rope.distance);
    let (cos, sin) = rope.angles(position);
    for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
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
