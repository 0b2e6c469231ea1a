//! Tiles over groups of whole numbers with the vectors of x86-64.
//!
//! A [`Multiplier`] says how codes meet activations: with AVX2 (`madd.rs`), or with an instruction for the dot product of four bytes
//! (`dot.rs`), of either width. What is common to them stands here and in `step.rs`: several rows share what is read of the weights,
//! and sums of whole numbers are scaled and added in single precision in one order, so that all of them give the same bits.

mod codes;
mod dot;
mod madd;
mod step;
mod vector;

use std::ops::Range;

use super::groups::{Grouped, Layout};
use super::isa::Isa;
use super::tile::{COLUMNS, Sums, Tile, TileFns, Unpacked};
use super::weights::Format;

use step::{Ahead, Inputs, Run, Step, Strides, Weights, add_step};
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

    /// Whether the excess of activations is divided in vectors, or number by number, which needs no registers of theirs.
    const DIVIDES_EXCESS: bool;

    /// Words of a group of activations.
    fn words(layout: Layout) -> usize;

    /// Where the words of a group of activations of `n_rows` lie.
    fn strides(n_rows: usize) -> Strides;

    /// Which of these words is the scale.
    fn scale_word(layout: Layout) -> usize;

    /// What codes are too large by when they meet activations.
    fn offset(layout: Layout) -> i32;

    /// Pairs of quads that are multiplied in one loop.
    fn run_len(layout: Layout) -> usize;

    /// [`Strip::add`] of `n_rows`.
    ///
    /// # Safety
    /// As there; `n_rows` is from 1, or 3 where strips are those of many rows, to [`Self::STRIP_ROWS_MAX`] or [`Self::LONE_ROWS_MAX`].
    #[inline(always)]
    unsafe fn add_strip<L: Grouped, const UNPACKS: bool>(strip: &Strip, n_rows: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            match n_rows {
                1 if !UNPACKS => strip.add::<Self, L, UNPACKS, 1>(),
                2 if !UNPACKS => strip.add::<Self, L, UNPACKS, 2>(),
                3 => strip.add::<Self, L, UNPACKS, 3>(),
                4 => strip.add::<Self, L, UNPACKS, 4>(),
                5 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, UNPACKS, 5>(),
                6 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, UNPACKS, 6>(),
                7 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, UNPACKS, 7>(),
                8 if Self::LONE_ROWS_MAX > 4 => strip.add::<Self, L, UNPACKS, 8>(),
                _ => unreachable!("no strip has {n_rows} rows"),
            }
        }
    }

    /// Adds the products of part `part` of a group to `whole`; with `UNPACKS` also leaves its codes unpacked.
    ///
    /// # Safety
    /// The step of `L`, the units of its run and a group of activations of `R` rows must be readable, with `UNPACKS` a step of
    /// [`Grouped::Unpacked`] must be writable, and the instructions of the multiplier enabled.
    unsafe fn add_part<L: Grouped, const UNPACKS: bool, const R: usize>(
        whole: &mut Whole<Self::V, R>,
        step: Step,
        part: usize,
    );
}

/// Some steps of some rows and two vectors of columns.
struct Strip {
    panel: *const u8,
    columns: [usize; 2],
    steps: Range<usize>,
    /// Words of the first of the rows at the first step.
    x: *const u32,
    /// Where the steps go that are unpacked.
    unpacked: *mut u8,
    /// Rows of the tile.
    n_rows: usize,
    run: Run,
    /// At the first step.
    ahead: Ahead,
    /// Of the first of the rows, in [`Sums`].
    sums: *mut f32,
}

impl Strip {
    /// Adds the products of `R` rows, whose sums stay in registers meanwhile; with `UNPACKS` also leaves the steps unpacked.
    ///
    /// # Safety
    /// As [`super::tile::TileFn`], with the instructions of the multiplier enabled.
    #[inline(always)]
    unsafe fn add<M: Multiplier, L: Grouped, const UNPACKS: bool, const R: usize>(&self) {
        let &Strip { panel, columns, x, unpacked, n_rows, run, ahead, .. } = self;
        // SAFETY: by the caller's promise.
        unsafe {
            let sums_of = |row: usize| columns.map(|column| self.sums.add(row * COLUMNS + column));
            let mut floats: Floats<M::V, R> = [[M::V::splat_float(0.0); 2]; R];
            for (row, floats) in floats.iter_mut().enumerate() {
                *floats = sums_of(row).map(|sums| M::V::load_floats(sums.cast()));
            }
            for (i, at) in self.steps.clone().enumerate() {
                let weights = Weights::of(L::LAYOUT, panel, at, columns);
                let start = x.add(i * n_rows * M::words(L::LAYOUT));
                let x = Inputs { start, strides: M::strides(n_rows) };
                let unpacked = unpacked.wrapping_add(L::Unpacked::LAYOUT.step_at(i));
                let step = Step { weights, x, unpacked, run, ahead: ahead.after(i) };
                add_step::<M, L, UNPACKS, R>(&mut floats, step);
            }
            for (row, floats) in floats.into_iter().enumerate() {
                let [first, second] = sums_of(row);
                M::V::store_floats(first, floats[0]);
                M::V::store_floats(second, floats[1]);
            }
        }
    }
}

/// Adds products to `sums`, chunk by chunk of the steps, so that the weights of one are read from the cache nearest to the core by all
/// strips of rows.
///
/// # Safety
/// As [`super::tile::TileFn`] of `n_rows`, with the instructions of the multiplier enabled.
#[inline(always)]
unsafe fn tile_in_strips<M: Multiplier, L: Grouped>(tile: &Tile<'_>, sums: &mut Sums, n_rows: usize) {
    let run = Run::of::<M>(L::LAYOUT);
    let mut x = tile.x;
    let n_strips = n_strips::<M>(n_rows);
    let mut ahead = Ahead::of(tile, n_strips);
    for stretch in tile.stretches {
        let (panel, unpacked) = (stretch.halves[0], std::ptr::null_mut());
        for first_step in (0..tile.n_steps).step_by(M::CHUNK_STEPS) {
            let steps = first_step..tile.n_steps.min(first_step + M::CHUNK_STEPS);
            for strip in 0..n_strips {
                let rows = rows_of(strip, n_strips, n_rows);
                let sums: *mut f32 = sums.0[rows.start..].as_mut_ptr().cast();
                let x = x.wrapping_add(rows.start * M::strides(n_rows).row);
                for &columns in M::V::PAIRS {
                    let (steps, ahead) = (steps.clone(), ahead.after(strip * steps.len()));
                    let strip = Strip { panel, columns, steps, x, unpacked, n_rows, run, ahead, sums };
                    // SAFETY: the caller's promise covers all steps, rows and columns.
                    unsafe { M::add_strip::<L, false>(&strip, rows.len()) }
                }
            }
            ahead = ahead.after(n_strips * steps.len());
            x = x.wrapping_add(steps.len() * n_rows * M::words(L::LAYOUT));
        }
    }
}

/// Adds products of some steps to `sums`. The first strip of rows leaves the steps unpacked, for itself no more than some stores beside
/// its products; the others read them from there.
///
/// # Safety
/// As [`super::tile::UnpackingFn`] of `n_rows`, with the instructions of the multiplier enabled.
#[inline(always)]
unsafe fn unpack_in_strips<M: Multiplier, L: Grouped>(
    tile: &Tile<'_>,
    first_step: usize,
    unpacked: *mut u8,
    sums: &mut Sums,
    n_rows: usize,
) {
    let run = Run::of::<M>(L::LAYOUT);
    let n_strips = n_strips::<M>(n_rows);
    for strip in 0..n_strips {
        let rows = rows_of(strip, n_strips, n_rows);
        let ahead = Ahead::of(tile, n_strips).after(strip * tile.n_steps);
        let sums: *mut f32 = sums.0[rows.start..].as_mut_ptr().cast();
        let x = tile.x.wrapping_add(rows.start * M::strides(n_rows).row);
        for &columns in M::V::PAIRS {
            // SAFETY: the caller's promise covers all steps, rows and columns.
            unsafe {
                if strip == 0 {
                    let (panel, steps) = (tile.stretches[0].halves[0], first_step..first_step + tile.n_steps);
                    let strip = Strip { panel, columns, steps, x, unpacked, n_rows, run, ahead, sums };
                    M::add_strip::<L, true>(&strip, rows.len());
                } else {
                    let (panel, steps) = (unpacked.cast_const(), 0..tile.n_steps);
                    let strip = Strip { panel, columns, steps, x, unpacked, n_rows, run, ahead, sums };
                    M::add_strip::<L::Unpacked, false>(&strip, rows.len());
                }
            }
        }
    }
}

/// Strips that the rows of a tile are cut into.
#[inline(always)]
fn n_strips<M: Multiplier>(n_rows: usize) -> usize {
    if n_rows <= M::LONE_ROWS_MAX { 1 } else { n_rows.div_ceil(M::STRIP_ROWS_MAX) }
}

/// The rows of one of them.
#[inline(always)]
fn rows_of(strip: usize, n_strips: usize, n_rows: usize) -> Range<usize> {
    strip * n_rows / n_strips..(strip + 1) * n_rows / n_strips
}

/// The functions of one format on `isa`.
///
/// # Panics
/// If the format has no groups, or the set no tiles for them.
pub(super) fn tile_fns(isa: Isa, format: Format) -> &'static TileFns {
    match (isa, format) {
        (Isa::Avx512Vnni | Isa::Avx512Bf16, Format::GroupedDot(layout)) => dot::avx512::fns(layout),
        (Isa::AvxVnni, Format::GroupedDot(layout)) => dot::avx::fns(layout),
        (_, Format::Grouped(layout)) => madd::tile_fns(layout),
        _ => unreachable!("{format:?} on {}", isa.name()),
    }
}

/// How the panels of one format are unpacked for products with many rows, where that pays on `isa`.
pub(super) fn unpacked(isa: Isa, format: Format) -> Option<Unpacked> {
    match (isa, format) {
        (Isa::Avx512Vnni | Isa::Avx512Bf16, Format::GroupedDot(layout)) => {
            Some(dot::avx512::unpacked(layout))
        }
        (Isa::AvxVnni, Format::GroupedDot(layout)) => Some(dot::avx::unpacked(layout)),
        _ => None,
    }
}
