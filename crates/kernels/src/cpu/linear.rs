//! Products of ragged rows with packed matrices: pack the activations once, then share out panels.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Epilogue, Input, clamped_swiglu, shape};
use super::Cpu;
use super::activations::{Place, pack_row};
use super::groups::Layout;
use super::isa::{Isa, dispatch};
use super::math::{exp, gelu, silu};
use super::matrix::{Matrix, Piece};
use super::memory::Buffer;
use super::share::SharedMut;
use super::tile::{COLUMNS, LANES, ROWS_MAX, Stretch, Sums, Tile, Unpacked, row_blocks};
use super::weights::Activations;

/// Multiplications, counting weights four times for their way from memory, below which a second thread costs more than it
/// saves: about 5 us of one thread.
const PARALLEL_WORK_MIN: usize = 1 << 19;
/// Activations below which packing them is not worth a region of its own.
pub(super) const PARALLEL_PACK_MIN: usize = 1 << 15;
/// Steps that are unpacked at a time at most: with the activations of a row block about 32 KiB.
const UNPACKED_STEPS_MAX: usize = 18;
/// Bytes of as many, of the layout that takes most.
const UNPACKED_BYTES: usize = Layout::U8MinPer16.panel_bytes(UNPACKED_STEPS_MAX);
/// How far ahead of a lone tile its own panel is prefetched: on Zen 4, 8 rows through 2048 x 5632 took 606 to 640 us with it
/// and 702 us without.
const PREFETCH_AHEAD_BYTES: usize = 6 << 10;

/// See [`super::super::Backend::linear`].
pub(super) fn linear(
    cpu: &Cpu,
    input: Input<'_>,
    n_rows: usize,
    matrix: &Matrix,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    shape::assert_linear(input, n_rows, [matrix.n_in, matrix.n_out], matrix.stacking, epilogue, out);
    if n_rows == 0 || out.is_empty() {
        return;
    }
    let mut activations = cpu.activations.lock().unwrap_or_else(PoisonError::into_inner);
    let n_words = |kind: &Activations| n_rows * kind.words_per_row(matrix.n_in);
    activations.resize(matrix.kinds.iter().map(n_words).sum(), 0);
    let mut rest = activations.as_mut_slice();
    for &kind in &matrix.kinds {
        let words = rest.split_off_mut(..n_words(&kind)).expect("there is room for every kind");
        pack_activations(cpu, input, n_rows, kind, words);
    }
    let output = Output::new(cpu.isa, epilogue, out, n_rows);
    let product = Product { matrix, n_rows, activations: &activations, output };
    let claims = Claims::new(matrix.n_panels, cpu.pool.n_threads());
    let work = matrix.n_in * matrix.n_out * (n_rows + 3);
    run_shared(cpu, work, &|space| {
        claims.each(|panel, next| product.multiply_panel(panel, next, space));
    });
}

/// Runs `part` on every thread where `work` (multiplications, counting weights four times) is worth it, else on this one.
pub(super) fn run_shared(cpu: &Cpu, work: usize, part: &(dyn Fn(&mut Workspace) + Sync)) {
    let run = |i: usize| part(&mut cpu.workspaces[i].lock().unwrap_or_else(PoisonError::into_inner));
    if work < PARALLEL_WORK_MIN {
        run(0);
    } else {
        cpu.pool.run(cpu.pool.n_threads(), &run);
    }
}

/// What a thread of a product works with, kept for its memory.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Of every row block.
    sums: Vec<Sums>,
    /// Steps of a panel.
    unpacked: Buffer,
}

impl Default for Workspace {
    fn default() -> Workspace {
        Workspace { sums: vec![Sums::ZERO], unpacked: Buffer::zeroed(UNPACKED_BYTES) }
    }
}

fn pack_activations(cpu: &Cpu, input: Input<'_>, n_rows: usize, kind: Activations, words: &mut [u32]) {
    let n_in = input.x.len() / n_rows;
    let words_per_row = words.len() / n_rows;
    let words = SharedMut::new(words);
    let pack = |block_idx: usize| {
        let Some(rows) = row_blocks(n_rows).nth(block_idx) else {
            return;
        };
        // SAFETY: row blocks are disjoint, and each is packed by one call.
        let words = unsafe { words.slice(rows.start * words_per_row, rows.len() * words_per_row) };
        for (i, row) in rows.clone().enumerate() {
            let place = Place { activations: kind, row: i, n_rows: rows.len() };
            pack_row(cpu.isa, &input.x[row * n_in..(row + 1) * n_in], input.norm, place, words);
        }
    };
    let n_blocks = row_blocks(n_rows).count();
    if n_rows * n_in < PARALLEL_PACK_MIN {
        (0..n_blocks).for_each(pack);
    } else {
        cpu.pool.run(n_blocks, &pack);
    }
}

/// Runs of panels handed out to threads as they come.
pub(super) struct Claims {
    next: AtomicUsize,
    n_panels: usize,
    run_len: usize,
}

impl Claims {
    /// Eight runs per thread: long enough to read memory in order, short enough to even out a disturbed thread.
    const RUNS_PER_THREAD: usize = 8;

    pub(super) fn new(n_panels: usize, n_threads: usize) -> Claims {
        let run_len = (n_panels / (n_threads * Self::RUNS_PER_THREAD)).max(1);
        Claims { next: AtomicUsize::new(0), n_panels, run_len }
    }

    /// One thread's part: `multiply(panel, following)` for panel after panel, knowing the next one early enough to prefetch it.
    pub(super) fn each(&self, mut multiply: impl FnMut(usize, usize)) {
        let mut current = self.after(None);
        while let Some(panel) = current {
            let following = self.after(current);
            multiply(panel, following.unwrap_or(panel));
            current = following;
        }
    }

    /// The panel after `panel` of this thread's run, or the first one of a new run.
    fn after(&self, panel: Option<usize>) -> Option<usize> {
        match panel.map(|panel| panel + 1) {
            Some(next) if next % self.run_len != 0 && next < self.n_panels => Some(next),
            _ => {
                let first = self.next.fetch_add(self.run_len, Ordering::Relaxed);
                (first < self.n_panels).then_some(first)
            }
        }
    }
}

/// A product whose activations are packed.
struct Product<'a> {
    matrix: &'a Matrix,
    n_rows: usize,
    /// Of every kind that the matrix needs, one after the other.
    activations: &'a [u32],
    output: Output<'a>,
}

impl Product<'_> {
    /// All rows times one panel.
    fn multiply_panel(&self, panel: usize, following: usize, space: &mut Workspace) {
        let matrix = self.matrix;
        let piece = matrix.piece_of(panel);
        let words_per_row = |kind: &Activations| kind.words_per_row(matrix.n_in);
        let words_before: usize = matrix.kinds[..piece.kind_idx].iter().map(words_per_row).sum();
        let activations = &self.activations[words_before * self.n_rows..];
        let strip = Strip { piece, activations, n_rows: self.n_rows };
        let before = (panel - piece.first_panel) * piece.panel_width();
        let columns = Columns {
            first: piece.first_column + before,
            len: piece.panel_width().min(piece.n_columns - before),
            bias: piece.panel_bias(panel),
        };
        strip.multiply(
            piece.panel(panel),
            matrix.piece_of(following).panel(following),
            space,
            |sums, rows| {
                // SAFETY: each panel is multiplied once per product, and its columns belong to it alone.
                unsafe { self.output.write(sums, rows, columns) };
            },
        );
    }
}

/// Rows that are multiplied with panels of one piece.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub(super) piece: &'a Piece,
    /// Of the kind that the piece needs, block by block ([`row_blocks`]).
    pub(super) activations: &'a [u32],
    pub(super) n_rows: usize,
}

impl Strip<'_> {
    /// All rows times one panel, block by block; `write` gets the sums of the rows of each.
    pub(super) fn multiply(
        &self,
        panel: Stretch,
        following: Stretch,
        space: &mut Workspace,
        write: impl FnMut(&Sums, Range<usize>),
    ) {
        match self.piece.unpacked_for(self.n_rows) {
            Some(unpacked) => self.multiply_unpacked(unpacked, panel, following, space, write),
            None => self.multiply_packed(panel, following, space, write),
        }
    }

    /// Of several row blocks each prefetches its share of the following panel; a lone one prefetches a little ahead of itself.
    fn multiply_packed(
        &self,
        panel: Stretch,
        following: Stretch,
        space: &mut Workspace,
        mut write: impl FnMut(&Sums, Range<usize>),
    ) {
        let piece = self.piece;
        let stretches = [panel];
        let n_blocks = self.n_rows.div_ceil(ROWS_MAX);
        let n_steps = piece.n_steps();
        let prefetch_bytes = piece.panel_bytes().div_ceil((n_steps * n_blocks).max(1));
        for (block_idx, rows) in row_blocks(self.n_rows).enumerate() {
            let prefetch = match n_blocks {
                1 => panel.halves[0].wrapping_add(PREFETCH_AHEAD_BYTES),
                _ => following.halves[0].wrapping_add(block_idx * n_steps * prefetch_bytes),
            };
            let tile = Tile {
                x: self.activations_of(&rows, 0),
                stretches: &stretches,
                n_steps,
                step_bytes: piece.step_bytes(),
                prefetch,
                prefetch_bytes,
            };
            // SAFETY: the panel holds `n_steps` steps, the activations of `rows` were packed for as many, and `fns` was chosen
            // for the instruction set that `Cpu` checked.
            unsafe { piece.fns[rows.len() - 1](&tile, &mut space.sums[0]) };
            write(&space.sums[0], rows);
        }
    }

    /// Chunk by chunk of the steps, which the first row block leaves unpacked for the others, in the cache nearest to the core; each block
    /// of each chunk prefetches its share of the following panel.
    fn multiply_unpacked(
        &self,
        unpacked: Unpacked,
        panel: Stretch,
        following: Stretch,
        space: &mut Workspace,
        mut write: impl FnMut(&Sums, Range<usize>),
    ) {
        let piece = self.piece;
        let n_blocks = self.n_rows.div_ceil(ROWS_MAX);
        let n_steps = piece.n_steps();
        let prefetch_bytes = piece.panel_bytes().div_ceil((n_steps * n_blocks).max(1));
        space.sums.clear();
        space.sums.resize(n_blocks.max(1), Sums::ZERO);
        let chunk = space.unpacked.as_mut_ptr();
        let unpacked_panel = [Stretch { halves: [chunk.cast_const(); 2] }];
        let mut prefetch = following.halves[0];
        let chunk_steps = n_steps.div_ceil(n_steps.div_ceil(UNPACKED_STEPS_MAX).max(1)).max(1);
        for first_step in (0..n_steps).step_by(chunk_steps) {
            let n_steps = chunk_steps.min(n_steps - first_step);
            for (block_idx, (sums, rows)) in space.sums.iter_mut().zip(row_blocks(self.n_rows)).enumerate() {
                let tile = Tile {
                    x: self.activations_of(&rows, first_step),
                    stretches: if block_idx == 0 { &[panel] } else { &unpacked_panel },
                    n_steps,
                    step_bytes: piece.step_bytes(),
                    prefetch,
                    prefetch_bytes,
                };
                // SAFETY: the panel holds all steps and the buffer as many as a chunk has, the activations of `rows` were packed for as
                // many, and the functions were chosen for the instruction set that `Cpu` checked.
                unsafe {
                    match block_idx {
                        0 => unpacked.first[rows.len() - 1](&tile, first_step, chunk, sums),
                        _ => unpacked.others[rows.len() - 1](&tile, sums),
                    }
                }
                prefetch = prefetch.wrapping_add(n_steps * prefetch_bytes);
            }
        }
        space.sums.iter().zip(row_blocks(self.n_rows)).for_each(|(sums, rows)| write(sums, rows));
    }

    /// Activations of a row block from a step on.
    fn activations_of(&self, rows: &Range<usize>, step: usize) -> *const u32 {
        let piece = self.piece;
        let words_per_row = piece.format.activations().words_per_row(piece.n_in);
        let block = &self.activations[rows.start * words_per_row..rows.end * words_per_row];
        block[step * rows.len() * words_per_row / piece.n_steps().max(1)..].as_ptr()
    }
}

/// Where sums of a panel go in every row.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) first: usize,
    pub(super) len: usize,
    pub(super) bias: Option<&'a [f32; COLUMNS]>,
}

/// What becomes of sums, and where.
pub(super) struct Output<'a> {
    isa: Isa,
    epilogue: Epilogue,
    /// Columns of a row.
    width: usize,
    out: SharedMut<'a, f32>,
}

impl<'a> Output<'a> {
    /// * `out`: `[n_rows, width]`, at least one row.
    pub(super) fn new(isa: Isa, epilogue: Epilogue, out: &'a mut [f32], n_rows: usize) -> Self {
        Output { isa, epilogue, width: out.len() / n_rows, out: SharedMut::new(out) }
    }

    /// Writes the sums of some rows.
    ///
    /// # Safety
    /// Nobody else may write these columns of these rows at the same time.
    pub(super) unsafe fn write(&self, sums: &Sums, rows: Range<usize>, columns: Columns<'_>) {
        let Columns { first, len, bias } = columns;
        for (row, sums) in rows.zip(&sums.0) {
            // SAFETY: by the caller's promise.
            let out = unsafe { self.out.slice(row * self.width + first, len) };
            match self.epilogue {
                Epilogue::Store => store(self.isa, sums, bias, false, out),
                Epilogue::Add => store(self.isa, sums, bias, true, out),
                Epilogue::SwiGlu => store_swiglu(self.isa, sums, bias, out),
                Epilogue::GeGlu => store_geglu(self.isa, sums, bias, out),
                Epilogue::ClampedSwiGlu => store_clamped_swiglu(self.isa, sums, bias, out),
            }
        }
    }
}

dispatch! {
    fn store(sums: &[f32; COLUMNS], bias: Option<&[f32; COLUMNS]>, is_added: bool, out: &mut [f32]) {
        let mut product = *sums;
        if let Some(bias) = bias {
            product.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
        }
        if is_added {
            out.iter_mut().zip(product).for_each(|(out, product)| *out += product);
        } else if let Ok(out) = <&mut [f32; COLUMNS]>::try_from(&mut *out) {
            *out = product;
        } else {
            out.copy_from_slice(&product[..out.len()]);
        }
    }
}

dispatch! {
    fn store_swiglu(sums: &[f32; COLUMNS], bias: Option<&[f32; COLUMNS]>, out: &mut [f32]) {
        store_gated(sums, bias, out, |gate, up| silu(gate) * up);
    }
}

dispatch! {
    fn store_geglu(sums: &[f32; COLUMNS], bias: Option<&[f32; COLUMNS]>, out: &mut [f32]) {
        store_gated(sums, bias, out, |gate, up| gelu(gate) * up);
    }
}

dispatch! {
    fn store_clamped_swiglu(sums: &[f32; COLUMNS], bias: Option<&[f32; COLUMNS]>, out: &mut [f32]) {
        store_gated(sums, bias, out, |gate, up| clamped_swiglu(gate, up, exp));
    }
}

#[inline(always)]
fn store_gated(
    sums: &[f32; COLUMNS],
    bias: Option<&[f32; COLUMNS]>,
    out: &mut [f32],
    gated_by: impl Fn(f32, f32) -> f32,
) {
    let mut product = *sums;
    if let Some(bias) = bias {
        product.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
    }
    let (gate, up) = product.split_at(LANES);
    let mut gated = [0.0; LANES];
    for ((gated, gate), up) in gated.iter_mut().zip(gate).zip(up) {
        *gated = gated_by(*gate, *up);
    }
    match <&mut [f32; LANES]>::try_from(&mut *out) {
        Ok(out) => *out = gated,
        Err(_) => out.copy_from_slice(&gated[..out.len()]),
    }
}
