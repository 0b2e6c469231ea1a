//! Paged keys and values of all layers, each in a shape of its own; [`Page`] is how those of a block lie.
//!
//! A part of the store holds the pages of layer after layer, in a layer those of block after block. Blocks that are appended later lie in memory of their own, so that nothing moves when they come and go.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use dsde_engine::{BlockCopy, BlockId, RowBatch, SlotMove};

use super::super::{AttentionShape, KvShape, QkvTransform, RmsNorm, RopeTable, shape};
use super::Cpu;
use super::isa::dispatch;
use super::math::normalise;
use super::memory::Buffer;
use super::page::{BLOCK_LEN, Half, KvType, Page};
use super::pool::Pool;
use super::share::SharedMut;
use super::weights::bf16_bits;

/// Rows that a thread stores at a time.
const ROWS_PER_TASK: usize = 8;
/// Numbers of all rows below which transforming and storing them is left to the caller's thread.
const PARALLEL_STORE_MIN: usize = 1 << 14;

/// Paged keys and values of all layers.
#[derive(Debug)]
pub struct KvStore {
    /// The blocks it was made with, and those appended since.
    parts: [Part; 2],
    layers: Vec<KvLayer>,
    kv_type: KvType,
}

/// What a store has of its memory from the beginning, bytes, each layer in whole large pages. The first prompts would else wait for pages: on a virtual machine those of
/// 1000 tokens of SmolLM2-135M took 368 to 377 ms instead of 323 to 327.
const PRESENT_BYTES: usize = 32 << 20;

/// A layer of a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvLayer {
    pub(super) shape: AttentionShape,
    /// How its pages lie.
    pub(super) page: Page,
    /// Bytes of a block in the layers before it.
    before: usize,
}

/// Successive blocks, all pages of a layer beside each other.
#[derive(Debug)]
struct Part {
    pages: Buffer,
    n_blocks: usize,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug)]
struct Place {
    part: usize,
    /// Bytes before it.
    start: usize,
}

impl KvLayer {
    /// Layers of a store, and bytes of a block in all of them.
    fn all(kv_type: KvType, shapes: &[AttentionShape]) -> (Vec<KvLayer>, usize) {
        let mut before = 0;
        let layer = |shape: &AttentionShape| {
            let layer = KvLayer { shape: *shape, page: Page::of(kv_type, *shape), before };
            before += layer.block_bytes();
            layer
        };
        (shapes.iter().map(layer).collect(), before)
    }

    /// Bytes of a block.
    fn block_bytes(&self) -> usize {
        self.shape.n_kv_heads * self.page.n_bytes()
    }
}

impl Part {
    /// * `block_bytes`: of a block in all layers.
    fn new(n_blocks: usize, block_bytes: usize) -> Part {
        Part { pages: Buffer::zeroed(n_blocks * block_bytes), n_blocks }
    }

    /// All of it, for writing from several threads.
    fn cells<C: Cell>(&mut self) -> &[C] {
        let len = self.pages.len() / size_of::<C>();
        // SAFETY: cells are atomic integers without invalid values, at most as aligned as a buffer; the exclusive borrow ends all
        // other access meanwhile.
        unsafe { std::slice::from_raw_parts(self.pages.as_mut_ptr().cast::<C>(), len) }
    }
}

/// What threads write beside each other.
trait Cell {}
impl Cell for AtomicU8 {}
impl Cell for AtomicU16 {}

impl KvStore {
    /// Zeroed pages.
    pub(super) fn new(kv_type: KvType, shape: &KvShape) -> KvStore {
        let (layers, block_bytes) = KvLayer::all(kv_type, &shape.layers);
        KvStore { parts: [shape.n_blocks, 0].map(|n| Part::new(n, block_bytes)), layers, kv_type }
    }

    /// Makes the memory of the first blocks present, as many as [`PRESENT_BYTES`] hold.
    pub(super) fn make_first_present(&self, pool: &Pool) {
        let Part { pages, n_blocks } = &self.parts[0];
        let n_present = (PRESENT_BYTES / self.bytes_per_block().max(1)).min(*n_blocks);
        pool.run(self.layers.len(), &|layer| {
            let layer = &self.layers[layer];
            let start = layer.before * n_blocks;
            pages.make_present(start..start + n_present * layer.block_bytes());
        });
    }

    /// See [`super::super::Backend::append_blocks`].
    pub(super) fn append_blocks(&mut self, n_blocks: usize) {
        let block_bytes = self.bytes_per_block();
        // What was appended before goes first: the two are never in memory together.
        self.parts[1] = Part::new(0, block_bytes);
        self.parts[1] = Part::new(n_blocks, block_bytes);
    }

    fn bytes_per_block(&self) -> usize {
        self.layers.iter().map(KvLayer::block_bytes).sum()
    }

    /// Bytes of one block in all layers.
    pub(super) fn block_bytes(kv_type: KvType, shape: &KvShape) -> usize {
        KvLayer::all(kv_type, &shape.layers).1
    }

    /// # Panics
    /// If there is no such layer.
    pub(super) fn layer(&self, layer: usize) -> &KvLayer {
        &self.layers[layer]
    }

    /// Where a page begins.
    ///
    /// # Panics
    /// If block or head do not exist.
    fn place(&self, layer: &KvLayer, block: BlockId, head: usize) -> Place {
        let [n_own, n_appended] = self.parts.each_ref().map(|part| part.n_blocks);
        let block = block.0 as usize;
        assert!(block < n_own + n_appended && head < layer.shape.n_kv_heads, "no such page");
        let (part, block) = if block < n_own { (0, block) } else { (1, block - n_own) };
        let page_idx = block * layer.shape.n_kv_heads + head;
        Place { part, start: self.parts[part].n_blocks * layer.before + page_idx * layer.page.n_bytes() }
    }

    /// The bytes of a page.
    pub(super) fn page(&self, layer: usize, block: BlockId, head: usize) -> &[u8] {
        let layer = self.layer(layer);
        let Place { part, start } = self.place(layer, block, head);
        &self.parts[part].pages.as_slice()[start..start + layer.page.n_bytes()]
    }

    /// See [`super::super::Backend::copy_blocks`].
    pub(super) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        for copy in copies {
            for layer in 0..self.layers.len() {
                let layer = self.layers[layer];
                let len = layer.block_bytes();
                let [from, to] = [copy.from, copy.to].map(|block| self.place(&layer, block, 0));
                match self.parts.get_disjoint_mut([from.part, to.part]) {
                    Ok([source, target]) => {
                        let source = &source.pages.as_slice()[from.start..from.start + len];
                        target.pages.as_mut_slice()[to.start..to.start + len].copy_from_slice(source);
                    }
                    // Both lie in the same part.
                    Err(_) => {
                        let pages = self.parts[from.part].pages.as_mut_slice();
                        pages.copy_within(from.start..from.start + len, to.start);
                    }
                }
            }
        }
    }

    /// See [`super::super::Backend::move_slots`].
    pub(super) fn move_slots(&mut self, moves: &[SlotMove]) {
        for &moved in moves {
            let offset = moved.from.offset.max(moved.to.offset);
            assert!(offset < BLOCK_LEN as u32, "offsets are below {BLOCK_LEN}");
            for layer in 0..self.layers.len() {
                let layer = self.layers[layer];
                (0..layer.shape.n_kv_heads).for_each(|head| self.move_slot(&layer, head, moved));
            }
        }
    }

    /// Copies the slot of one head.
    fn move_slot(&mut self, layer: &KvLayer, head: usize, SlotMove { from, to }: SlotMove) {
        let slots = [from, to].map(|slot| slot.offset as usize);
        let [from, to] = [from, to].map(|slot| self.place(layer, slot.block, head));
        for (places, len) in layer.page.bytes_of_slots(slots) {
            for byte in 0..len {
                let x = self.parts[from.part].pages.as_slice()[from.start + places[0] + byte];
                self.parts[to.part].pages.as_mut_slice()[to.start + places[1] + byte] = x;
            }
        }
    }
}

/// See [`super::super::Backend::store_kv`].
pub(super) fn store_kv(
    cpu: &Cpu,
    layer: usize,
    qkv: &mut [f32],
    transform: QkvTransform<'_>,
    rows: &RowBatch,
    kv: &mut KvStore,
) {
    let layer = *kv.layer(layer);
    let width = shape::assert_qkv(qkv, rows, layer.shape);
    // Checked once here, so that the threads below index without a page of their own.
    let places: Vec<Place> = row_blocks_of(rows).map(|block| kv.place(&layer, block, 0)).collect();
    let cells = Cells::of(kv);
    for_each_row(cpu, qkv, width, &|row, x| {
        transform_row(cpu, x, transform, rows.positions[row] as usize, layer.shape);
        cells.write_row(x, places[row], rows.slots[row] as usize % BLOCK_LEN, &layer);
    });
}

/// See [`super::super::Backend::transform_queries`].
pub(super) fn transform_queries(
    cpu: &Cpu,
    shape: AttentionShape,
    queries: &mut [f32],
    QkvTransform { q_norm, rope, .. }: QkvTransform<'_>,
    rows: &RowBatch,
) {
    let width = shape::assert_queries(queries, rows, shape);
    for_each_row(cpu, queries, width, &|row, x| {
        transform_heads(cpu.isa, x, shape.head_dim, q_norm, rope, rows.positions[row] as usize);
    });
}

/// Calls `work` with every row and its number, from all threads where there is much to do.
fn for_each_row(cpu: &Cpu, x: &mut [f32], width: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let (n_numbers, n_rows) = (x.len(), x.len() / width);
    let x = SharedMut::new(x);
    let some_rows = |task: usize| {
        for row in task * ROWS_PER_TASK..n_rows.min((task + 1) * ROWS_PER_TASK) {
            // SAFETY: each row belongs to one task.
            work(row, unsafe { x.slice(row * width, width) });
        }
    };
    let n_tasks = n_rows.div_ceil(ROWS_PER_TASK);
    if n_numbers < PARALLEL_STORE_MIN {
        (0..n_tasks).for_each(some_rows);
    } else {
        cpu.pool.run(n_tasks, &some_rows);
    }
}

/// Block in which each row is stored.
fn row_blocks_of(rows: &RowBatch) -> impl Iterator<Item = BlockId> {
    (0..rows.n_seqs()).flat_map(move |seq| {
        rows.rows_of(seq).map(move |row| rows.table_of(seq)[rows.slots[row] as usize / BLOCK_LEN])
    })
}

fn transform_row(
    cpu: &Cpu,
    x: &mut [f32],
    transform: QkvTransform<'_>,
    position: usize,
    shape: AttentionShape,
) {
    let QkvTransform { q_norm, k_norm, v_norm, rope } = transform;
    let (queries, rest) = x.split_at_mut(shape.queries_len());
    let (keys, values) = rest.split_at_mut(shape.n_kv_heads * shape.head_dim);
    transform_heads(cpu.isa, queries, shape.head_dim, q_norm, rope, position);
    transform_heads(cpu.isa, keys, shape.head_dim, k_norm, rope, position);
    if v_norm.is_some() {
        transform_heads(cpu.isa, values, shape.head_dim, v_norm, None, position);
    }
}

dispatch! {
    fn transform_heads(
        heads: &mut [f32],
        head_dim: usize,
        norm: Option<RmsNorm<'_>>,
        rope: Option<&RopeTable>,
        position: usize,
    ) {
        if let Some(norm) = norm {
            for part in heads.chunks_exact_mut(norm.weight.len()) {
                normalise(part, norm);
            }
        }
        for head in heads.chunks_exact_mut(head_dim) {
            let Some(rope) = rope else { continue };
            let (cos, sin) = rope.angles(position);
            let (low, high) = head.split_at_mut(rope.distance);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
}

/// Both parts of a store, for writing from several threads.
enum Cells<'a> {
    Bytes([&'a [AtomicU8]; 2]),
    Pairs([&'a [AtomicU16]; 2]),
}

impl Cells<'_> {
    fn of(kv: &mut KvStore) -> Cells<'_> {
        match kv.kv_type {
            KvType::Int8 => Cells::Bytes(kv.parts.each_mut().map(Part::cells)),
            KvType::Bf16 | KvType::F16 => Cells::Pairs(kv.parts.each_mut().map(Part::cells)),
        }
    }

    /// Writes keys and values of one row; `place` is the page of head 0.
    fn write_row(&self, x: &[f32], place: Place, slot: usize, layer: &KvLayer) {
        let KvLayer { shape: AttentionShape { n_heads, n_kv_heads, head_dim, .. }, page: layout, .. } =
            *layer;
        let keys = x[n_heads * head_dim..].chunks_exact(head_dim);
        let values = x[(n_heads + n_kv_heads) * head_dim..].chunks_exact(head_dim);
        for (head, (key, value)) in keys.zip(values).enumerate() {
            let start = place.start + head * layout.n_bytes();
            for (half, x) in [(Half::Key, key), (Half::Value, value)] {
                match self {
                    Cells::Pairs(cells) => {
                        write_pairs(x, &cells[place.part][start / 2..], layout, half, slot)
                    }
                    Cells::Bytes(cells) => write_whole(x, &cells[place.part][start..], layout, half, slot),
                }
            }
        }
    }
}

fn write_pairs(x: &[f32], page: &[AtomicU16], layout: Page, half: Half, slot: usize) {
    let is_f16 = layout.kv_type == KvType::F16;
    for (dim, &x) in x.iter().enumerate() {
        let bits = if is_f16 { f16_bits(x) } else { bf16_bits(x) as u16 };
        page[layout.element(half, slot, dim) / 2].store(bits, Ordering::Relaxed);
    }
}

/// The nearest f16, the largest one instead of infinity: what is stored where no row looks is multiplied with a weight of zero.
fn f16_bits(x: f32) -> u16 {
    let max = half::f16::MAX.to_f32();
    half::f16::from_f32(x.clamp(-max, max)).to_bits()
}

/// Whole numbers of at most 127, nearest to `x` at a scale that makes its largest one 127; where one is no number, the scale is none.
fn write_whole(x: &[f32], page: &[AtomicU8], layout: Page, half: Half, slot: usize) {
    // Comparisons written so that a NaN stays.
    let max = x.iter().fold(0.0, |max: f32, x| if max.is_nan() || x.abs() <= max { max } else { x.abs() });
    let max = if max == f32::INFINITY { f32::MAX } else { max };
    // Its inverse has to be a number.
    let (scale, inverse) =
        if max < f32::MIN_POSITIVE * 1e3 { (0.0, 0.0) } else { (max / 127.0, 127.0 / max) };
    for (dim, x) in x.iter().enumerate() {
        let whole = (x * inverse).round_ties_even() as i8;
        page[layout.element(half, slot, dim)].store(whole.cast_unsigned(), Ordering::Relaxed);
    }
    let cells = &page[layout.scale(half, slot)..];
    for (cell, byte) in cells.iter().zip(scale.to_ne_bytes()) {
        cell.store(byte, Ordering::Relaxed);
    }
}
