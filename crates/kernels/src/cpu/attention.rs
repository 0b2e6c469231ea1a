//! Ragged attention over paged keys and values, in two products per task.
//!
//! A task is one sequence, one key/value head and up to 12 *lines*: pairs of a row and one of the query heads that share the
//! key/value head. Scores of all lines against all slots are computed first, then the softmax, then the product with the values.
//!
//! Why a row does not notice its neighbours: a score is a sum over `head_dim` alone. The softmax sums 16 partial sums by slot,
//! where slots outside of what the line attends to add exact zeros. The product with the values runs over ascending slots, zeros
//! again outside. None of it depends on the number of lines or on where a task begins; so a task reads the pages of its lines'
//! windows alone, whole pages of zeros before them being left out.
//!
//! A node of a branching proposal sees slots with gaps. The pages it sees only in part are gathered without the gaps, so it
//! computes the same bits as if its path had been a chain.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use dsde_engine::RowBatch;

use super::super::{AttentionRule, AttentionShape, shape};
use super::Cpu;
use super::activations::{Place, pack_row};
use super::kv::{KvLayer, KvStore};
use super::math::soft_cap;
use super::memory::LINE_BYTES;
use super::page::{BLOCK_LEN, Half, KvType, Page};
use super::share::SharedMut;
#[cfg(target_arch = "x86_64")]
use super::softmax::avx512_bf16::softmax_pairs;
use super::softmax::softmax;
use super::tile::{COLUMNS, ROWS_MAX, Stretch, Sums, Tile, TileFns, row_blocks, tile_fns};
use super::weights::Format;

/// Products of query and key elements below which a second thread costs more than it saves.
const PARALLEL_WORK_MIN: usize = 1 << 17;

/// A part of the work that one thread does alone.
#[derive(Clone, Debug)]
pub(super) struct Task {
    seq: usize,
    kv_head: usize,
    /// Rows of the batch that the lines belong to.
    first_row: usize,
    /// Lines of those rows: line `i` is head `i % group` of row `first_row + i / group`.
    lines: Range<usize>,
}

/// Memory of one thread, as long as the longest context it met.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    queries: Vec<u32>,
    pages: Vec<*const u8>,
    /// Slots before those of the first page.
    first_slot: usize,
    /// Pages without gaps, of a row that sees slots with gaps.
    gathered: Vec<u8>,
    stretches: Vec<Stretch>,
    /// `[n_lines, n_slots]`.
    scores: Vec<f32>,
    weights: Vec<u32>,
}

// SAFETY: the pointers in `pages` and `stretches` are used only by the task that wrote them, before it returns.
unsafe impl Send for Scratch {}

/// See [`super::super::Backend::attention`].
pub(super) fn attention(
    cpu: &Cpu,
    layer: usize,
    rule: AttentionRule<'_>,
    qkv: &[f32],
    rows: &RowBatch,
    kv: &KvStore,
    out: &mut [f32],
) {
    let KvLayer { shape: stored, page, .. } = *kv.layer(layer);
    let (width, attention) = shape::assert_attention(qkv, rows, stored, rule, out);
    let mut tasks = cpu.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    list_tasks(rows, attention, &mut tasks);
    let format = page.kv_type.format(cpu.isa);
    let pass = Pass {
        cpu,
        layer,
        rule,
        qkv,
        width,
        rows,
        kv,
        shape: attention,
        page,
        format,
        fns: tile_fns(cpu.isa, format),
        out: SharedMut::new(out),
    };
    let next = AtomicUsize::new(0);
    let take_tasks = |thread_idx: usize| {
        let mut scratch = cpu.scratch[thread_idx].lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            pass.run(task, &mut scratch);
        }
    };
    let n_attended = |row| n_visible(rows, row) - rule.n_before(n_visible(rows, row));
    let n_slots: usize = (0..rows.n_rows()).map(n_attended).sum();
    if n_slots * attention.n_heads * attention.head_dim < PARALLEL_WORK_MIN {
        take_tasks(0);
    } else {
        cpu.pool.run(cpu.pool.n_threads(), &take_tasks);
    }
}

/// Whether a row sees slots without gaps.
fn is_contiguous(rows: &RowBatch, row: usize) -> bool {
    let mask = rows.tree_mask[row];
    mask & mask.wrapping_add(1) == 0
}

/// Slots that a row sees.
fn n_visible(rows: &RowBatch, row: usize) -> usize {
    rows.visible_len[row] as usize + rows.tree_mask[row].count_ones() as usize
}

/// How many of the slots that a row sees lie before `first_slot`.
fn n_left_out(rows: &RowBatch, row: usize, first_slot: usize) -> usize {
    let visible_len = rows.visible_len[row] as usize;
    let nodes = u128::from(rows.tree_mask[row]);
    let n_before = first_slot.saturating_sub(visible_len).min(64);
    first_slot.min(visible_len) + (nodes & ((1 << n_before) - 1)).count_ones() as usize
}

fn list_tasks(rows: &RowBatch, shape: AttentionShape, tasks: &mut Vec<Task>) {
    tasks.clear();
    let group = shape.n_heads / shape.n_kv_heads.max(1);
    for seq in 0..rows.n_seqs() {
        for kv_head in 0..shape.n_kv_heads {
            let mut row = rows.rows_of(seq).start;
            let end = rows.rows_of(seq).end;
            while row < end {
                let n_rows = match is_contiguous(rows, row) {
                    true => (row..end).take_while(|&row| is_contiguous(rows, row)).count(),
                    false => 1,
                };
                let blocks = row_blocks(n_rows * group);
                tasks.extend(blocks.map(|lines| Task { seq, kv_head, first_row: row, lines }));
                row += n_rows;
            }
        }
    }
}

/// One call of attention, shared by its tasks.
struct Pass<'a> {
    cpu: &'a Cpu,
    layer: usize,
    rule: AttentionRule<'a>,
    qkv: &'a [f32],
    /// Numbers per row of `qkv`.
    width: usize,
    rows: &'a RowBatch,
    kv: &'a KvStore,
    /// Of the layer, with the heads that ask.
    shape: AttentionShape,
    /// How the pages of the layer lie.
    page: Page,
    format: Format,
    fns: &'static TileFns,
    out: SharedMut<'a, f32>,
}

impl Pass<'_> {
    fn run(&self, task: &Task, scratch: &mut Scratch) {
        self.list_pages(task, scratch);
        self.pack_queries(task, scratch);
        self.score(task, scratch);
        let sums = self.weigh(task, scratch);
        self.sum_values(task, &sums, scratch);
    }

    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    /// Row of a line.
    fn row(&self, task: &Task, line: usize) -> usize {
        task.first_row + line / self.group()
    }

    /// Query head of a line.
    fn head(&self, task: &Task, line: usize) -> usize {
        task.kv_head * self.group() + line % self.group()
    }

    /// Those of the slots that a row sees which it attends to.
    fn attended(&self, row: usize) -> Range<usize> {
        let n_visible = n_visible(self.rows, row);
        let n_left_out = n_left_out(self.rows, row, self.shape.first_slot);
        n_left_out.max(self.rule.n_before(n_visible))..n_visible
    }

    /// Pages that the lines attend to, in the order of what they see.
    fn list_pages(&self, task: &Task, scratch: &mut Scratch) {
        let page = |i: usize| {
            let table = self.rows.table_of(task.seq);
            self.kv.page(self.layer, table[i], task.kv_head)
        };
        let n_visible = || task.lines.clone().map(|line| n_visible(self.rows, self.row(task, line)));
        let n_pages = n_visible().max().unwrap_or(0).div_ceil(BLOCK_LEN);
        let first_page = self.rule.n_before(n_visible().min().unwrap_or(0)) / BLOCK_LEN;
        scratch.first_slot = first_page * BLOCK_LEN;
        scratch.pages.clear();
        if is_contiguous(self.rows, task.first_row) {
            scratch.pages.extend((first_page..n_pages).map(|i| page(i).as_ptr()));
            return;
        }
        let n_whole = self.rows.visible_len[task.first_row] as usize / BLOCK_LEN;
        scratch.pages.extend((first_page..n_whole).map(|i| page(i).as_ptr()));
        let first_gathered = first_page.max(n_whole);
        self.gather(task.first_row, first_gathered * BLOCK_LEN, page, &mut scratch.gathered);
        let gathered = scratch.gathered.chunks_exact(self.page.n_bytes());
        scratch.pages.extend(gathered.map(<[u8]>::as_ptr));
    }

    /// Copies what row `row` sees after the first `n_before` slots of it, which are whole pages, into fresh pages without gaps.
    fn gather<'p>(
        &self,
        row: usize,
        n_before: usize,
        page: impl Fn(usize) -> &'p [u8],
        gathered: &mut Vec<u8>,
    ) {
        let layout = self.page;
        let (visible_len, mask) = (self.rows.visible_len[row] as usize, self.rows.tree_mask[row]);
        let branch = (0..u64::BITS as usize).filter(|bit| mask >> bit & 1 == 1).map(|bit| visible_len + bit);
        gathered.clear();
        for (i, slot) in (0..visible_len).chain(branch).skip(n_before).enumerate() {
            let to_slot = i % BLOCK_LEN;
            if to_slot == 0 {
                gathered.resize(gathered.len() + layout.n_bytes(), 0);
            }
            let start = gathered.len() - layout.n_bytes();
            let (from, to) = (page(slot / BLOCK_LEN), &mut gathered[start..]);
            for (places, len) in layout.bytes_of_slots([slot % BLOCK_LEN, to_slot]) {
                to[places[1]..places[1] + len].copy_from_slice(&from[places[0]..places[0] + len]);
            }
        }
    }

    fn pack_queries(&self, task: &Task, scratch: &mut Scratch) {
        let head_dim = self.shape.head_dim;
        let n_lines = task.lines.len();
        let n_words = self.format.activations().words_per_row(head_dim) * n_lines;
        scratch.queries.resize(n_words, 0);
        for (i, line) in task.lines.clone().enumerate() {
            let start = self.row(task, line) * self.width + self.head(task, line) * head_dim;
            let place = Place { activations: self.format.activations(), row: i, n_rows: n_lines };
            pack_row(self.cpu.isa, &self.qkv[start..start + head_dim], None, place, &mut scratch.queries);
        }
    }

    /// Scores of all lines against the slots of all pages, two pages at a time.
    fn score(&self, task: &Task, scratch: &mut Scratch) {
        let n_lines = task.lines.len();
        let n_slots = scratch.pages.len() * BLOCK_LEN;
        scratch.scores.resize(n_lines * n_slots, 0.0);
        let mut sums = Sums::ZERO;
        for (pair_idx, pair) in scratch.pages.chunks(2).enumerate() {
            for page in scratch.pages.iter().skip(2 * pair_idx + 4).take(2) {
                self.prefetch(*page);
            }
            let halves = [pair[0], pair[pair.len() - 1]];
            let tile = Tile {
                x: scratch.queries.as_ptr(),
                stretches: &[Stretch { halves }],
                n_steps: self.format.steps(self.shape.head_dim),
                step_bytes: self.format.half_step_bytes(),
                prefetch: halves[0],
                prefetch_bytes: 0,
            };
            // SAFETY: a page's keys are steps of 16 slots for all of `head_dim`, the queries were packed for as many, and `fns` was
            // chosen for the instruction set that `Cpu` checked.
            unsafe { self.fns[n_lines - 1](&tile, &mut sums) };
            let first = pair_idx * COLUMNS;
            for (scores, sums) in scratch.scores.chunks_exact_mut(n_slots).zip(&sums.0) {
                let (scores, sums) = (scores[first..].as_chunks_mut::<BLOCK_LEN>().0, sums.as_chunks().0);
                for ((scores, sums), page) in scores.iter_mut().zip(sums).zip(pair) {
                    *scores = *sums;
                    self.scale(scores, *page, Half::Key);
                }
            }
        }
    }

    /// Multiplies one number per slot of a page with the slots' scales, where there are scales.
    fn scale(&self, numbers: &mut [f32], page: *const u8, half: Half) {
        if self.page.kv_type != KvType::Int8 {
            return;
        }
        let scales = page.wrapping_add(self.page.scale(half, 0)).cast::<[f32; BLOCK_LEN]>();
        // SAFETY: a page of whole numbers has as many scales as slots at this place.
        let scales = unsafe { scales.read_unaligned() };
        numbers.iter_mut().zip(scales).for_each(|(x, scale)| *x *= scale);
    }

    /// Brings a page nearer, two pairs before it is scored.
    fn prefetch(&self, page: *const u8) {
        #[cfg(target_arch = "x86_64")]
        for place in (0..self.page.n_bytes()).step_by(LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a prefetch does not fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(page.wrapping_add(place).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = page;
    }

    /// Softmax of each line; returns the sums by which the outputs are still to be divided.
    fn weigh(&self, task: &Task, scratch: &mut Scratch) -> [f32; ROWS_MAX] {
        let n_lines = task.lines.len();
        let n_slots = scratch.pages.len() * BLOCK_LEN;
        let mut sums = [0.0; ROWS_MAX];
        scratch.weights.resize(self.format.activations().words_per_row(n_slots) * n_lines, 0);
        for (i, line) in task.lines.clone().enumerate() {
            let row = self.row(task, line);
            let Range { start, end } = self.attended(row);
            let attended = start - scratch.first_slot..end - scratch.first_slot;
            let scores = &mut scratch.scores[i * n_slots..(i + 1) * n_slots];
            let scale = match self.rule.soft_cap {
                Some(cap) => {
                    soft_cap(self.cpu.isa, &mut scores[attended.clone()], self.rule.scale, cap);
                    1.0
                }
                None => self.rule.scale,
            };
            let sink = self.rule.sinks.map(|sinks| sinks[self.head(task, line)]);
            let place = Place { activations: self.format.activations(), row: i, n_rows: n_lines };
            #[cfg(target_arch = "x86_64")]
            if self.format == Format::Bf16Dot {
                // SAFETY: this format is chosen on a processor with AVX-512 BF16 alone.
                sums[i] =
                    unsafe { softmax_pairs(scores, attended, scale, sink, place, &mut scratch.weights) };
                continue;
            }
            sums[i] = softmax(self.cpu.isa, scores, attended, scale, sink);
            for (weights, page) in scores.chunks_exact_mut(BLOCK_LEN).zip(&scratch.pages) {
                self.scale(weights, *page, Half::Value);
            }
            pack_row(self.cpu.isa, scores, None, place, &mut scratch.weights);
        }
        sums
    }

    /// Weighted values, 32 dimensions at a time.
    fn sum_values(&self, task: &Task, weight_sums: &[f32; ROWS_MAX], scratch: &mut Scratch) {
        let shape = self.shape;
        let step_bytes = 2 * self.format.half_step_bytes();
        let n_steps = self.format.steps(BLOCK_LEN);
        let mut sums = Sums::ZERO;
        for first_dim in (0..shape.head_dim).step_by(COLUMNS) {
            let offset = self.page.element(Half::Value, 0, first_dim);
            scratch.stretches.clear();
            scratch.stretches.extend(scratch.pages.iter().map(|page| {
                let start = page.wrapping_add(offset);
                Stretch { halves: [start, start.wrapping_add(self.format.half_step_bytes())] }
            }));
            let tile = Tile {
                x: scratch.weights.as_ptr(),
                stretches: &scratch.stretches,
                n_steps,
                step_bytes,
                prefetch: scratch.weights.as_ptr().cast(),
                prefetch_bytes: 0,
            };
            // SAFETY: a page's values are steps of 32 dimensions for all of its slots from `offset` on, the weights were packed
            // for as many steps of every page, and `fns` was chosen for the instruction set that `Cpu` checked.
            unsafe { self.fns[task.lines.len() - 1](&tile, &mut sums) };
            let n_dims = COLUMNS.min(shape.head_dim - first_dim);
            for (i, line) in task.lines.clone().enumerate() {
                let head = self.row(task, line) * shape.n_heads + self.head(task, line);
                // SAFETY: each line belongs to one task, and its dimensions to this iteration.
                let out = unsafe { self.out.slice(head * shape.head_dim + first_dim, n_dims) };
                let scale = if weight_sums[i] == 0.0 { 0.0 } else { 1.0 / weight_sums[i] };
                out.iter_mut().zip(sums.0[i]).for_each(|(out, sum)| *out = sum * scale);
            }
        }
    }
}
