//! Products of ragged rows with packed matrices: pack the activations once, then share out panels.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Epilogue, Input, Stacking, shape};
use super::Cpu;
use super::activations::{Place, pack_row};
use super::isa::dispatch;
use super::math::{gelu, silu};
use super::matrix::{Matrix, Piece};
use super::share::SharedMut;
use super::tile::{COLUMNS, LANES, Sums, Tile, row_blocks};
use super::weights::Activations;

/// Multiplications, counting weights four times for their way from memory, below which a second thread costs more than it
/// saves: about 5 us of one thread.
const PARALLEL_WORK_MIN: usize = 1 << 19;
/// Activations below which packing them is not worth a region of its own.
const PARALLEL_PACK_MIN: usize = 1 << 15;
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
    let product = Product {
        cpu,
        matrix,
        n_rows,
        activations: &activations,
        epilogue,
        width: out.len() / n_rows,
        out: SharedMut::new(out),
    };
    let claims = Claims::new(matrix.n_panels, cpu.pool.n_threads());
    if matrix.n_in * matrix.n_out * (n_rows + 3) < PARALLEL_WORK_MIN {
        product.take_panels(&claims);
    } else {
        cpu.pool.run(cpu.pool.n_threads(), &|_| product.take_panels(&claims));
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
struct Claims {
    next: AtomicUsize,
    n_panels: usize,
    run_len: usize,
}

impl Claims {
    /// Eight runs per thread: long enough to read memory in order, short enough to even out a disturbed thread.
    const RUNS_PER_THREAD: usize = 8;

    fn new(n_panels: usize, n_threads: usize) -> Claims {
        let run_len = (n_panels / (n_threads * Self::RUNS_PER_THREAD)).max(1);
        Claims { next: AtomicUsize::new(0), n_panels, run_len }
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
    cpu: &'a Cpu,
    matrix: &'a Matrix,
    n_rows: usize,
    /// Of every kind that the matrix needs, one after the other.
    activations: &'a [u32],
    epilogue: Epilogue,
    /// Columns of the output.
    width: usize,
    out: SharedMut<'a, f32>,
}

impl Product<'_> {
    /// One thread's part: panel after panel, knowing the next one early enough to prefetch it.
    fn take_panels(&self, claims: &Claims) {
        let mut current = claims.after(None);
        let mut sums = Sums::ZERO;
        while let Some(panel) = current {
            let following = claims.after(current);
            self.multiply_panel(panel, following.unwrap_or(panel), &mut sums);
            current = following;
        }
    }

    /// All rows times one panel. Of several row blocks each prefetches its share of the following panel; a lone one prefetches
    /// a little ahead of itself.
    fn multiply_panel(&self, panel: usize, following: usize, sums: &mut Sums) {
        let matrix = self.matrix;
        let piece = matrix.piece_of(panel);
        let stretches = [piece.panel(panel)];
        let n_blocks = self.n_rows.div_ceil(super::tile::ROWS_MAX);
        let n_steps = piece.format.steps(matrix.n_in);
        let prefetch_bytes = piece.step_bytes().div_ceil(n_blocks);
        let words_per_row = |kind: &Activations| kind.words_per_row(matrix.n_in);
        let words_before: usize = matrix.kinds[..piece.kind_idx].iter().map(words_per_row).sum();
        let activations = &self.activations[words_before * self.n_rows..];
        let words_per_row = words_per_row(&matrix.kinds[piece.kind_idx]);
        for (block_idx, rows) in row_blocks(self.n_rows).enumerate() {
            let prefetch = match n_blocks {
                1 => stretches[0].halves[0].wrapping_add(PREFETCH_AHEAD_BYTES),
                _ => matrix.piece_of(following).panel(following).halves[0]
                    .wrapping_add(block_idx * n_steps * prefetch_bytes),
            };
            let tile = Tile {
                x: activations[rows.start * words_per_row..].as_ptr(),
                stretches: &stretches,
                n_steps,
                step_bytes: piece.step_bytes(),
                prefetch,
                prefetch_bytes,
            };
            // SAFETY: the panel holds `n_steps` steps, the activations of `rows` were packed for as many, and `fns` was chosen
            // for the instruction set that `Cpu` checked.
            unsafe { piece.fns[rows.len() - 1](&tile, sums) };
            self.write(sums, piece, panel, rows);
        }
    }

    fn write(&self, sums: &Sums, piece: &Piece, panel: usize, rows: std::ops::Range<usize>) {
        let before = (panel - piece.first_panel) * piece.panel_width();
        let len = piece.panel_width().min(piece.n_columns - before);
        let first = piece.first_column + before;
        let bias = piece.panel_bias(panel);
        for (row, sums) in rows.zip(&sums.0) {
            // SAFETY: each pair of panel and row is written once per product, and its columns belong to this panel alone.
            let out = unsafe { self.out.slice(row * self.width + first, len) };
            match self.matrix.stacking {
                Stacking::Concat => store(self.cpu.isa, sums, bias, self.epilogue == Epilogue::Add, out),
                Stacking::GateUp if self.epilogue == Epilogue::GeGlu => {
                    store_geglu(self.cpu.isa, sums, bias, out);
                }
                Stacking::GateUp => store_swiglu(self.cpu.isa, sums, bias, out),
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
        store_gated(sums, bias, out, silu);
    }
}

dispatch! {
    fn store_geglu(sums: &[f32; COLUMNS], bias: Option<&[f32; COLUMNS]>, out: &mut [f32]) {
        store_gated(sums, bias, out, gelu);
    }
}

#[inline(always)]
fn store_gated(
    sums: &[f32; COLUMNS],
    bias: Option<&[f32; COLUMNS]>,
    out: &mut [f32],
    activation: impl Fn(f32) -> f32,
) {
    let mut product = *sums;
    if let Some(bias) = bias {
        product.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
    }
    let (gate, up) = product.split_at(LANES);
    let mut gated = [0.0; LANES];
    for ((gated, gate), up) in gated.iter_mut().zip(gate).zip(up) {
        *gated = activation(*gate) * up;
    }
    match <&mut [f32; LANES]>::try_from(&mut *out) {
        Ok(out) => *out = gated,
        Err(_) => out.copy_from_slice(&gated[..out.len()]),
    }
}
