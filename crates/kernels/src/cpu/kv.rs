//! Paged keys and values in bf16, laid out for the dot-product instruction.
//!
//! A block of one layer holds, per key/value head, a *page*: keys `[head_dim / 2][16 slots][2]`, then values
//! `[head_dim / 32][8 pairs of slots][32][2]` with `head_dim` padded to 32. Keys are thus read as steps of two dimensions for 16
//! slots, values as steps of two slots for 32 dimensions, both without any shuffling. All sets share this layout.
//!
//! Blocks that are appended later lie in memory of their own, so that nothing moves when they come and go.

use std::sync::atomic::{AtomicU16, Ordering};

use dsde_engine::{BlockCopy, BlockId, RowBatch, SlotMove};

use super::super::{AttentionShape, KvShape, QkTransform, RmsNorm, RopeTable, shape};
use super::Cpu;
use super::isa::dispatch;
use super::math::normalise;
use super::memory::Buffer;
use super::share::SharedMut;
use super::tile::COLUMNS;
use super::weights::bf16_bits;

/// Slots per block: the columns of one vector.
pub(super) const BLOCK_LEN: usize = 16;
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
    /// Elements before it.
    start: usize,
}

impl Part {
    fn new(shape: KvShape, n_blocks: usize) -> Part {
        Part { pages: Buffer::zeroed(n_blocks * KvStore::block_bytes(shape)), n_blocks }
    }

    /// All elements, for writing from several threads.
    fn cells(&mut self) -> &[AtomicU16] {
        let len = self.pages.len() / size_of::<u16>();
        // SAFETY: `AtomicU16` has the size and alignment of `u16`; the exclusive borrow ends all other access meanwhile.
        unsafe { std::slice::from_raw_parts(self.pages.as_mut_ptr().cast::<AtomicU16>(), len) }
    }
}

/// Elements of a page: see the module's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    head_dim: usize,
}

impl Page {
    pub(super) fn of(shape: AttentionShape) -> Page {
        Page { head_dim: shape.head_dim }
    }

    /// Element of a key.
    pub(super) fn key(self, slot: usize, dim: usize) -> usize {
        (dim / 2 * BLOCK_LEN + slot) * 2 + dim % 2
    }

    /// Element of a value.
    pub(super) fn value(self, slot: usize, dim: usize) -> usize {
        let group = dim / COLUMNS * (BLOCK_LEN / 2) + slot / 2;
        self.n_key_elements() + (group * COLUMNS + dim % COLUMNS) * 2 + slot % 2
    }

    /// Elements before the values.
    pub(super) fn n_key_elements(self) -> usize {
        self.head_dim * BLOCK_LEN
    }

    /// Elements of a page.
    pub(super) fn n_elements(self) -> usize {
        self.n_key_elements() + self.head_dim.next_multiple_of(COLUMNS) * BLOCK_LEN
    }
}

impl KvStore {
    /// Zeroed pages.
    pub(super) fn new(shape: KvShape) -> KvStore {
        KvStore { parts: [Part::new(shape, shape.n_blocks), Part::new(shape, 0)], shape }
    }

    /// See [`super::super::Backend::append_blocks`].
    pub(super) fn append_blocks(&mut self, n_blocks: usize) {
        // What was appended before goes first: the two are never in memory together.
        self.parts[1] = Part::new(self.shape, 0);
        self.parts[1] = Part::new(self.shape, n_blocks);
        self.shape.n_blocks = self.parts[0].n_blocks + n_blocks;
    }

    /// Bytes of one block in all layers.
    pub(super) fn block_bytes(shape: KvShape) -> usize {
        let n_pages = shape.n_layers * shape.attention.n_kv_heads;
        n_pages * Page::of(shape.attention).n_elements() * size_of::<u16>()
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
        Place { part, start: page_idx * Page::of(attention).n_elements() }
    }

    /// The elements of a page.
    pub(super) fn page(&self, layer: usize, block: BlockId, head: usize) -> &[u16] {
        let Place { part, start } = self.place(layer, block, head);
        // SAFETY: the page lies inside the part's buffer, which is aligned, initialised and borrowed.
        unsafe {
            let start = self.parts[part].pages.as_ptr().cast::<u16>().add(start);
            std::slice::from_raw_parts(start, Page::of(self.shape.attention).n_elements())
        }
    }

    /// All elements of both parts, for writing from several threads.
    fn cells(&mut self) -> [&[AtomicU16]; 2] {
        self.parts.each_mut().map(|part| part.cells())
    }

    /// See [`super::super::Backend::copy_blocks`].
    pub(super) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        let KvShape { n_layers, attention, .. } = self.shape;
        let len = attention.n_kv_heads * Page::of(attention).n_elements() * size_of::<u16>();
        for copy in copies {
            for layer in 0..n_layers {
                let [from, to] = [copy.from, copy.to].map(|block| self.place(layer, block, 0));
                let [source, target] = [from, to].map(|place| place.start * size_of::<u16>());
                match self.parts.get_disjoint_mut([from.part, to.part]) {
                    Ok([from, to]) => {
                        let from = &from.pages.as_mut_slice()[source..source + len];
                        to.pages.as_mut_slice()[target..target + len].copy_from_slice(from);
                    }
                    // Both lie in the same part.
                    Err(_) => {
                        let pages = self.parts[from.part].pages.as_mut_slice();
                        pages.copy_within(source..source + len, target);
                    }
                }
            }
        }
    }

    /// See [`super::super::Backend::move_slots`].
    pub(super) fn move_slots(&mut self, moves: &[SlotMove]) {
        let KvShape { n_layers, attention, .. } = self.shape;
        let page = Page::of(attention);
        for &SlotMove { from, to } in moves {
            assert!(from.offset.max(to.offset) < BLOCK_LEN as u32, "offsets are below {BLOCK_LEN}");
            let offsets = [from, to].map(|slot| slot.offset as usize);
            for layer in 0..n_layers {
                let places = [from, to].map(|slot| self.place(layer, slot.block, 0));
                let cells = self.cells();
                for head in 0..attention.n_kv_heads {
                    let [from, to] =
                        places.map(|place| &cells[place.part][place.start + head * page.n_elements()..]);
                    let copy = |place: &dyn Fn(usize) -> usize| {
                        let bits = from[place(offsets[0])].load(Ordering::Relaxed);
                        to[place(offsets[1])].store(bits, Ordering::Relaxed);
                    };
                    for dim in 0..attention.head_dim {
                        copy(&|slot| page.key(slot, dim));
                        copy(&|slot| page.value(slot, dim));
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
    let cells = kv.cells();
    let store = |task: usize| {
        for row in task * ROWS_PER_TASK..rows.n_rows().min((task + 1) * ROWS_PER_TASK) {
            // SAFETY: each row belongs to one task.
            let x = unsafe { qkv.slice(row * width, width) };
            transform_row(cpu, x, transform, rows.positions[row] as usize, attention);
            let slot = rows.slots[row] as usize % BLOCK_LEN;
            write_row(x, &cells[places[row].part][places[row].start..], slot, attention);
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

/// Writes keys and values of one row; `pages` begins with the page of head 0.
fn write_row(x: &[f32], pages: &[AtomicU16], slot: usize, shape: AttentionShape) {
    let AttentionShape { n_heads, n_kv_heads, head_dim, .. } = shape;
    let page = Page::of(shape);
    let keys = x[n_heads * head_dim..].chunks_exact(head_dim);
    let values = x[(n_heads + n_kv_heads) * head_dim..].chunks_exact(head_dim);
    for (head, (key, value)) in keys.zip(values).enumerate() {
        let cells = &pages[head * page.n_elements()..(head + 1) * page.n_elements()];
        for (dim, (&key, &value)) in key.iter().zip(value).enumerate() {
            cells[page.key(slot, dim)].store(bf16_bits(key) as u16, Ordering::Relaxed);
            cells[page.value(slot, dim)].store(bf16_bits(value) as u16, Ordering::Relaxed);
        }
    }
}
