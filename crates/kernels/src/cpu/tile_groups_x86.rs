//! Tiles over groups of whole numbers with the vectors of x86-64.
//!
//! A [`Multiplier`] says how codes meet activations: with AVX2 (`madd.rs`), or with an instruction for the dot product of four bytes
//! (`dot.rs`), of either width. What is common to them stands here: several rows share what is read of the weights, and sums of
//! whole numbers are scaled and added in single precision in one order, so that all of them give the same bits.

mod codes;
mod dot;
mod madd;
mod vector;

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

use super::groups::{Grouped, Layout, QUAD, QUADS, Scales, unit_in_run};
use super::isa::Isa;
use super::memory::LINE_BYTES;
use super::tile::{COLUMNS, LANES, Sums, Tile, TileFns};
use super::weights::Format;

use vector::Vector;

/// Sums of `R` rows by two vectors of columns.
type Whole<V, const R: usize> = [[<V as Vector>::Whole; 2]; R];
/// The same in single precision.
type Floats<V, const R: usize> = [[<V as Vector>::Floats; 2]; R];

/// How codes meet activations.
trait Multiplier: Sized {
    /// What it multiplies with.
    type V: Vector;

    /// Rows whose sums of two vectors fit the registers, in whole numbers and, where a chunk has several steps, in single
    /// precision, beside the weights.
    const STRIP_ROWS_MAX: usize;

    /// Rows that are one strip although their sums do not fit: with few rows, taking codes out of their bits twice costs more.
    const LONE_ROWS_MAX: usize;

    /// Steps that a strip of rows is multiplied with in a row.
    const CHUNK_STEPS: usize;

    /// Words of a group of activations.
    fn words(layout: Layout) -> usize;

    /// Which of these words is the scale.
    fn scale_word(layout: Layout) -> usize;

    /// What codes are too large by when they meet activations.
    fn offset(layout: Layout) -> i32;

    /// Pairs of quads that are multiplied in one loop.
    fn run_len(layout: Layout) -> usize;

    /// [`Strip::add`] of `n_rows`.
    ///
    /// # Safety
    /// As there; `n_rows` is from 1 to [`Self::STRIP_ROWS_MAX`] or [`Self::LONE_ROWS_MAX`].
    #[inline(always)]
    unsafe fn add_strip<L: Grouped>(strip: &Strip, n_rows: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            match n_rows {
                1 => strip.add::<Self, L, 1>(),
                2 => strip.add::<Self, L, 2>(),
                3 => strip.add::<Self, L, 3>(),
                4 => strip.add::<Self, L, 4>(),
                5 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, 5>(),
                6 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, 6>(),
                7 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, 7>(),
                8 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, 8>(),
                _ => unreachable!("no strip has {n_rows} rows"),
            }
        }
    }

    /// Adds the products of part `part` of a group to `whole`.
    ///
    /// # Safety
    /// The step of `L`, the units of its run and a group of activations of `R` rows must be readable, and the instructions of the
    /// multiplier enabled.
    unsafe fn add_part<L: Grouped, const R: usize>(whole: &mut Whole<Self::V, R>, step: Step, part: usize);
}

/// A group of some rows' activations, and the codes that it meets.
#[derive(Clone, Copy)]
struct Step {
    /// First byte of the step.
    start: *const u8,
    /// First byte of the units of its run.
    units: *const u8,
    /// First columns of two vectors.
    columns: [usize; 2],
    /// Words of the first of the rows.
    x: *const u32,
    /// Rows of the tile.
    n_rows: usize,
    run: Run,
    ahead: Ahead,
}

impl Step {
    /// Where the codes of two vectors of columns begin.
    #[inline(always)]
    fn codes(&self, layout: Layout) -> [*const u8; 2] {
        let at = |column: usize| column / LANES * layout.code_bytes() + column % LANES * QUAD;
        [self.start.wrapping_add(at(self.columns[0])), self.start.wrapping_add(at(self.columns[1]))]
    }

    /// Scales (`kind` 0) or minima (1) `part` of two vectors of columns.
    ///
    /// # Safety
    /// As [`Multiplier::add_part`].
    #[inline(always)]
    unsafe fn numbers<V: Vector>(&self, layout: Layout, kind: usize, part: usize) -> [V::Floats; 2] {
        let [first, second] = self.columns;
        // SAFETY: by the caller's promise. No closures: they would be compiled without the vector's instructions.
        unsafe {
            [
                self.numbers_of::<V>(layout, kind, part, first),
                self.numbers_of::<V>(layout, kind, part, second),
            ]
        }
    }

    /// # Safety
    /// As [`Multiplier::add_part`].
    #[inline(always)]
    unsafe fn numbers_of<V: Vector>(
        &self,
        layout: Layout,
        kind: usize,
        part: usize,
        column: usize,
    ) -> V::Floats {
        let at = self.start.wrapping_add(layout.scale_at(kind, part, column));
        let unit = self.units.wrapping_add(unit_in_run(kind, column));
        // SAFETY: by the caller's promise.
        unsafe {
            match layout.scales() {
                Scales::F32 => V::load_floats(at),
                Scales::F16 => V::load_halves(at),
                Scales::Shared => V::multiply(V::load_halves(unit), V::load_bytes(at)),
            }
        }
    }
}

/// Pairs of quads in a row, of a number that the compiler must not know: it would write all of them out, mix them, and run out of
/// registers.
#[derive(Clone, Copy)]
struct Run {
    len: usize,
}

impl Run {
    fn of<M: Multiplier>(layout: Layout) -> Run {
        Run { len: std::hint::black_box(M::run_len(layout)) }
    }
}

/// What is brought into the cache nearest to the core during a step.
#[derive(Clone, Copy)]
struct Ahead {
    start: *const u8,
    n_bytes: usize,
}

impl Ahead {
    const NOTHING: Ahead = Ahead { start: std::ptr::null(), n_bytes: 0 };

    /// What is brought some steps later.
    #[inline(always)]
    fn after(self, n_steps: usize) -> Ahead {
        Ahead { start: self.start.wrapping_add(n_steps * self.n_bytes), ..self }
    }

    /// Brings the share of a pair of quads: all at once they would fill the places for outstanding misses.
    #[inline(always)]
    fn fetch(self, pair: usize) {
        let n_lines = self.n_bytes.div_ceil(LINE_BYTES * QUADS / 2);
        for line in pair * n_lines..(pair + 1) * n_lines {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.start.wrapping_add(line * LINE_BYTES).cast()) }
        }
    }
}

/// Adds the products of one step, `R` rows by two vectors of columns, to `sums`.
///
/// # Safety
/// As [`Multiplier::add_part`].
#[inline(always)]
unsafe fn add_step<M: Multiplier, L: Grouped, const R: usize>(sums: &mut Floats<M::V, R>, step: Step) {
    let Step { x, n_rows, .. } = step;
    for part in 0..L::LAYOUT.parts() {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut whole: Whole<M::V, R> = [[M::V::splat(0); 2]; R];
            if M::offset(L::LAYOUT) != 0 {
                let excess: [i32; R] = std::array::from_fn(|row| {
                    row_sum(x.add(row), n_rows, L::LAYOUT.parts(), part).wrapping_mul(-M::offset(L::LAYOUT))
                });
                // Through memory, from where vectors are filled at once.
                for (whole, excess) in whole.iter_mut().zip(std::hint::black_box(&excess)) {
                    *whole = [M::V::splat(*excess); 2];
                }
            }
            M::add_part::<L, R>(&mut whole, step, part);
            let scales = step.numbers::<M::V>(L::LAYOUT, 0, part);
            let mins = match L::LAYOUT.has_min() {
                true => step.numbers::<M::V>(L::LAYOUT, 1, part),
                false => scales,
            };
            for (row, (sums, whole)) in sums.iter_mut().zip(whole).enumerate() {
                let of_row = f32::from_bits(*x.add(M::scale_word(L::LAYOUT) * n_rows + row));
                for i in 0..2 {
                    let scale = M::V::multiply(scales[i], M::V::splat_float(of_row));
                    sums[i] = M::V::multiply_add(M::V::floats(whole[i]), scale, sums[i]);
                }
                if L::LAYOUT.has_min() {
                    let sum = row_sum(x.add(row), n_rows, L::LAYOUT.parts(), part);
                    let sum = M::V::splat_float(of_row * sum as f32);
                    for i in 0..2 {
                        sums[i] = M::V::multiply_add(mins[i], sum, sums[i]);
                    }
                }
            }
        }
    }
}

/// The sum of a row's activations in part `part` of `n_parts` of a group.
///
/// # Safety
/// A group of [`Activations::Bytes`](super::weights::Activations::Bytes) must be readable.
#[inline(always)]
unsafe fn row_sum(x: *const u32, n_rows: usize, n_parts: usize, part: usize) -> i32 {
    // SAFETY: by the caller's promise.
    let sum_of_half = |half: usize| unsafe { *x.add((QUADS + 1 + half) * n_rows) }.cast_signed();
    match n_parts {
        1 => sum_of_half(0).wrapping_add(sum_of_half(1)),
        _ => sum_of_half(part),
    }
}

/// Some steps of some rows.
struct Strip {
    /// The first step, but for where it lies.
    first: Step,
    panel: *const u8,
    steps: Range<usize>,
    /// Of the first of the rows, in [`Sums`].
    sums: *mut f32,
}

impl Strip {
    /// Adds the products of `R` rows, whose sums stay in registers meanwhile.
    ///
    /// # Safety
    /// As [`super::tile::TileFn`], with the instructions of the multiplier enabled.
    #[inline(always)]
    unsafe fn add<M: Multiplier, L: Grouped, const R: usize>(&self) {
        // SAFETY: by the caller's promise.
        unsafe {
            let sums_of = |row: usize| self.first.columns.map(|column| self.sums.add(row * COLUMNS + column));
            let mut floats: Floats<M::V, R> = [[M::V::splat_float(0.0); 2]; R];
            for (row, floats) in floats.iter_mut().enumerate() {
                *floats = sums_of(row).map(|sums| M::V::load_floats(sums.cast()));
            }
            for (i, at) in self.steps.clone().enumerate() {
                let step = Step {
                    start: self.panel.add(L::LAYOUT.step_at(at)),
                    units: self.panel.add(L::LAYOUT.unit_at(at, 0, 0)),
                    x: self.first.x.add(i * self.first.n_rows * M::words(L::LAYOUT)),
                    ahead: self.first.ahead.after(i),
                    ..self.first
                };
                add_step::<M, L, R>(&mut floats, step);
            }
            for (row, floats) in floats.into_iter().enumerate() {
                let [first, second] = sums_of(row);
                M::V::store_floats(first, floats[0]);
                M::V::store_floats(second, floats[1]);
            }
        }
    }
}

/// Chunk by chunk of the steps, so that the weights of one are read from the cache nearest to the core by all strips of rows.
///
/// # Safety
/// As [`super::tile::TileFn`] of `n_rows`, with the instructions of the multiplier enabled.
#[inline(always)]
unsafe fn tile_in_strips<M: Multiplier, L: Grouped>(tile: &Tile<'_>, sums: &mut Sums, n_rows: usize) {
    let run = Run::of::<M>(L::LAYOUT);
    sums.0[..n_rows].fill([0.0; COLUMNS]);
    let n_strips = if n_rows <= M::LONE_ROWS_MAX { 1 } else { n_rows.div_ceil(M::STRIP_ROWS_MAX) };
    let mut x = tile.x;
    let mut ahead = Ahead { start: tile.prefetch, n_bytes: tile.prefetch_bytes };
    for stretch in tile.stretches {
        let panel = stretch.halves[0];
        for first_step in (0..tile.n_steps).step_by(M::CHUNK_STEPS) {
            let n_steps = M::CHUNK_STEPS.min(tile.n_steps - first_step);
            for strip in 0..n_strips {
                let rows = strip * n_rows / n_strips..(strip + 1) * n_rows / n_strips;
                let sums: *mut f32 = sums.0[rows.start..].as_mut_ptr().cast();
                for &columns in M::V::PAIRS {
                    let x = x.wrapping_add(rows.start);
                    let ahead = if strip == 0 { ahead } else { Ahead::NOTHING };
                    let first = Step { start: panel, units: panel, columns, x, n_rows, run, ahead };
                    let strip = Strip { first, panel, steps: first_step..first_step + n_steps, sums };
                    // SAFETY: the caller's promise covers all steps, rows and columns.
                    unsafe { M::add_strip::<L>(&strip, rows.len()) }
                }
            }
            ahead = ahead.after(n_steps);
            x = x.wrapping_add(n_steps * n_rows * M::words(L::LAYOUT));
        }
    }
}

/// The functions of one format on `isa`.
///
/// # Panics
/// If the format has no groups, or the set no tiles for them.
pub(super) fn tile_fns(isa: Isa, format: Format) -> &'static TileFns {
    match (isa, format) {
        (Isa::Avx512Vnni | Isa::Avx512Bf16, Format::GroupedDot(layout)) => dot::avx512_fns(layout),
        (Isa::AvxVnni, Format::GroupedDot(layout)) => dot::avx_fns(layout),
        (_, Format::Grouped(layout)) => madd::tile_fns(layout),
        _ => unreachable!("{format:?} on {}", isa.name()),
    }
}
