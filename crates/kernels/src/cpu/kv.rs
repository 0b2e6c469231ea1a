//! Paged keys and values of all layers; [`Page`] is how those of a block lie.
//!
//! Blocks that are appended later lie in memory of their own, so that nothing moves when they come and go.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use dsde_engine::{BlockCopy, BlockId, RowBatch, SlotMove};

use super::super::{AttentionShape, KvShape, QkTransform, RmsNorm, RopeTable, shape};
use super::Cpu;
use super::isa::dispatch;
use super::math::normalise;
use super::memory::Buffer;
use super::page::{BLOCK_LEN, Half, KvType, Page};
use super::share::SharedMut;
use super::weights::bf16_bits;

/// Rows that a thread stores at a time.
const ROWS_PER_TASK: usize = 8;
/// Numbers in `qkv` below which storing them is left to the caller's thread.
const PARALLEL_STORE_MIN: usize = 1 << 14;

/// Paged keys and values of all layers.
#[derive(Debug)]
pub struct KvStore {
    /// The blocks it was made with, and those appended since.
    parts: [Part; 2],
    /// Of both parts.
    pub(super) shape: KvShape,
    pub(super) kv_type: KvType,
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

impl Part {
    fn new(kv_type: KvType, shape: KvShape, n_blocks: usize) -> Part {
        Part { pages: Buffer::zeroed(n_blocks * KvStore::block_bytes(kv_type, shape)), n_blocks }
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
    pub(super) fn new(kv_type: KvType, shape: KvShape) -> KvStore {
        let part = |n_blocks| Part::new(kv_type, shape, n_blocks);
        KvStore { parts: [part(shape.n_blocks), part(0)], shape, kv_type }
    }

    /// See [`super::super::Backend::append_blocks`].
    pub(super) fn append_blocks(&mut self, n_blocks: usize) {
        // What was appended before goes first: the two are never in memory together.
        self.parts[1] = Part::new(self.kv_type, self.shape, 0);
        self.parts[1] = Part::new(self.kv_type, self.shape, n_blocks);
        self.shape.n_blocks = self.parts[0].n_blocks + n_blocks;
    }

    /// Bytes of one block in all layers.
    pub(super) fn block_bytes(kv_type: KvType, shape: KvShape) -> usize {
        let n_pages = shape.n_layers * shape.attention.n_kv_heads;
        n_pages * Page::of(kv_type, shape.attention).n_bytes()
    }

    /// How its pages lie.
    pub(super) fn layout(&self) -> Page {
        Page::of(self.kv_type, self.shape.attention)
    }

    /// Where a page begins.
    ///
    /// # Panics
    /// If layer, block or head do not exist.
    fn place(&self, layer: usize, block: BlockId, head: usize) -> Place {
        let KvShape { n_layers, n_blocks, attention } = self.shape;
        let block = block.0 as usize;
        assert!(layer < n_layers && block < n_blocks && head < attention.n_kv_heads, "no such page");
        let n_own = self.parts[0].n_blocks;
        let (part, block) = if block < n_own { (0, block) } else { (1, block - n_own) };
        let page_idx = (layer * self.parts[part].n_blocks + block) * attention.n_kv_heads + head;
        Place { part, start: page_idx * self.layout().n_bytes() }
    }

    /// The bytes of a page.
    pub(super) fn page(&self, layer: usize, block: BlockId, head: usize) -> &[u8] {
        let Place { part, start } = self.place(layer, block, head);
        &self.parts[part].pages.as_slice()[start..start + self.layout().n_bytes()]
    }

    /// See [`super::super::Backend::copy_blocks`].
    pub(super) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        let len = self.shape.attention.n_kv_heads * self.layout().n_bytes();
        for copy in copies {
            for layer in 0..self.shape.n_layers {
                let [from, to] = [copy.from, copy.to].map(|block| self.place(layer, block, 0));
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
        let KvShape { n_layers, attention, .. } = self.shape;
        let layout = self.layout();
        for &SlotMove { from, to } in moves {
            assert!(from.offset.max(to.offset) < BLOCK_LEN as u32, "offsets are below {BLOCK_LEN}");
            let slots = [from, to].map(|slot| slot.offset as usize);
            for layer in 0..n_layers {
                for head in 0..attention.n_kv_heads {
                    let [from, to] = [from, to].map(|slot| self.place(layer, slot.block, head));
                    for (places, len) in layout.bytes_of_slots(slots) {
                        for byte in 0..len {
                            let x = self.parts[from.part].pages.as_slice()[from.start + places[0] + byte];
                            self.parts[to.part].pages.as_mut_slice()[to.start + places[1] + byte] = x;
                        }
                    }
                }
            }
        }
    }
}

/// See [`super::super::Backend::store_kv`].
pub(super) fn store_kv(
    cpu: &Cpu,
    layer: usize,
    qkv: &mut [f32],
    transform: QkTransform<'_>,
    rows: &RowBatch,
    kv: &mut KvStore,
) {
    let attention = kv.shape.attention;
    let width = shape::assert_qkv(qkv, rows, attention);
    // Checked once here, so that the threads below index without a page of their own.
    let places: Vec<Place> = row_blocks_of(rows).map(|block| kv.place(layer, block, 0)).collect();
    let n_numbers = qkv.len();
    let qkv = SharedMut::new(qkv);
    let layout = kv.layout();
    let cells = Cells::of(kv);
    let store = |task: usize| {
        for (row, &place) in places.iter().enumerate().skip(task * ROWS_PER_TASK).take(ROWS_PER_TASK) {
            // SAFETY: each row belongs to one task.
            let x = unsafe { qkv.slice(row * width, width) };
            transform_row(cpu, x, transform, rows.positions[row] as usize, attention);
            let slot = rows.slots[row] as usize % BLOCK_LEN;
            cells.write_row(x, place, slot, (layout, attention));
        }
    };
    let n_tasks = rows.n_rows().div_ceil(ROWS_PER_TASK);
    if n_numbers < PARALLEL_STORE_MIN { (0..n_tasks).for_each(store) } else { cpu.pool.run(n_tasks, &store) }
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
    transform: QkTransform<'_>,
    position: usize,
    shape: AttentionShape,
) {
    let (queries, rest) = x.split_at_mut(shape.n_heads * shape.head_dim);
    let (keys, _) = rest.split_at_mut(shape.n_kv_heads * shape.head_dim);
    transform_heads(cpu.isa, queries, shape.head_dim, transform.q_norm, transform.rope, position);
    transform_heads(cpu.isa, keys, shape.head_dim, transform.k_norm, transform.rope, position);
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
            let angles = position * rope.n_pairs..(position + 1) * rope.n_pairs;
            let (cos, sin) = (&rope.cos[angles.clone()], &rope.sin[angles]);
            let (low, high) = head.split_at_mut(rope.n_pairs);
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
    fn write_row(&self, x: &[f32], place: Place, slot: usize, (layout, shape): (Page, AttentionShape)) {
        let AttentionShape { n_heads, n_kv_heads, head_dim, .. } = shape;
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
