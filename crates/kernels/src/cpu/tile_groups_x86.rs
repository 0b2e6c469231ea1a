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

use super::groups::{
    EXCESS, EXCESS_OF_FIRST, EXCESS_OFFSET, Grouped, Layout, QUAD, QUADS, SCALE, SCALED_SUM, Scales,
    unit_in_run,
};
use super::isa::Isa;
use super::memory::LINE_BYTES;
use super::tile::{COLUMNS, LANES, Sums, Tile, TileFns, Unpacked};
use super::weights::Format;

use vector::Vector;

/// Sums of `R` rows by two vectors of columns.
type Whole<V, const R: usize> = [[<V as Vector>::Whole; 2]; R];
/// The same in single precision.
type Floats<V, const R: usize> = [[<V as Vector>::Floats; 2]; R];

/// Words from one row to the next, and from one word of a row to the next, in a group of activations.
#[derive(Clone, Copy)]
struct Strides {
    row: usize,
    word: usize,
}

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

    /// Whether vectors are what the excess of activations is divided in; else it is done before.
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
    /// As there; `n_rows` is from 1 to [`Self::STRIP_ROWS_MAX`] or [`Self::LONE_ROWS_MAX`].
    #[inline(always)]
    unsafe fn add_strip<L: Grouped, const UNPACKS: bool>(strip: &Strip, n_rows: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            match n_rows {
                1 => strip.add::<Self, L, UNPACKS, 1>(),
                2 => strip.add::<Self, L, UNPACKS, 2>(),
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

/// One step of two vectors of columns.
#[derive(Clone, Copy)]
struct Weights {
    /// First byte of the step.
    start: *const u8,
    /// First byte of the units of its run.
    units: *const u8,
    /// First columns of both vectors.
    columns: [usize; 2],
}

impl Weights {
    /// Step `at` of a panel.
    #[inline(always)]
    fn of(layout: Layout, panel: *const u8, at: usize, columns: [usize; 2]) -> Weights {
        let [start, units] = [layout.step_at(at), layout.unit_at(at, 0, 0)].map(|at| panel.wrapping_add(at));
        Weights { start, units, columns }
    }

    /// Where the codes of either vector begin.
    #[inline(always)]
    fn codes(&self, layout: Layout) -> [*const u8; 2] {
        let at = |column: usize| column / LANES * layout.code_bytes() + column % LANES * QUAD;
        [self.start.wrapping_add(at(self.columns[0])), self.start.wrapping_add(at(self.columns[1]))]
    }

    /// Scales (`kind` 0) or minima (1) `part` of both vectors.
    ///
    /// # Safety
    /// The step and the units of its run must be readable, and the instructions of `V` enabled.
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
    /// As [`Weights::numbers`].
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

/// A group of some rows' activations.
#[derive(Clone, Copy)]
struct Inputs {
    /// The first word of the first row.
    start: *const u32,
    strides: Strides,
}

impl Inputs {
    /// # Safety
    /// The word of the row must be readable.
    #[inline(always)]
    unsafe fn word(&self, row: usize, i: usize) -> u32 {
        // SAFETY: by the caller's promise.
        unsafe { *self.start.add(row * self.strides.row + i * self.strides.word) }
    }

    /// # Safety
    /// As [`Inputs::word`].
    #[inline(always)]
    unsafe fn whole(&self, row: usize, i: usize) -> i32 {
        // SAFETY: by the caller's promise.
        unsafe { self.word(row, i) }.cast_signed()
    }

    /// # Safety
    /// As [`Inputs::word`].
    #[inline(always)]
    unsafe fn float(&self, row: usize, i: usize) -> f32 {
        // SAFETY: by the caller's promise.
        f32::from_bits(unsafe { self.word(row, i) })
    }
}

/// A group of some rows' activations, and the weights that it meets.
#[derive(Clone, Copy)]
struct Step {
    weights: Weights,
    x: Inputs,
    /// First byte of the step that it becomes where it is unpacked.
    unpacked: *mut u8,
    run: Run,
    ahead: Ahead,
}

impl Step {
    /// [`Weights::numbers`]; with `UNPACKS` also leaves them unpacked.
    ///
    /// # Safety
    /// As [`Multiplier::add_part`].
    #[inline(always)]
    unsafe fn numbers<M: Multiplier, L: Grouped, const UNPACKS: bool>(
        &self,
        kind: usize,
        part: usize,
    ) -> [<M::V as Vector>::Floats; 2] {
        // SAFETY: by the caller's promise.
        unsafe {
            let numbers = self.weights.numbers::<M::V>(L::LAYOUT, kind, part);
            if UNPACKS {
                for (numbers, column) in numbers.into_iter().zip(self.weights.columns) {
                    let at = L::Unpacked::LAYOUT.scale_at(kind, part, column);
                    M::V::store_floats(self.unpacked.add(at).cast(), numbers);
                }
            }
            numbers
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
    n_lines: usize,
}

impl Ahead {
    /// What each of `n_strips` brings of a tile, the first one now and the others some steps later.
    #[inline(always)]
    fn of(tile: &Tile<'_>, n_strips: usize) -> Ahead {
        let n_bytes = tile.prefetch_bytes.div_ceil(n_strips);
        Ahead { start: tile.prefetch, n_bytes, n_lines: n_bytes.div_ceil(LINE_BYTES) }
    }

    /// What is brought some steps later.
    #[inline(always)]
    fn after(self, n_steps: usize) -> Ahead {
        Ahead { start: self.start.wrapping_add(n_steps * self.n_bytes), ..self }
    }

    /// Brings the share of a pair of quads: all at once they would fill the places for outstanding misses.
    #[inline(always)]
    fn fetch(self, pair: usize) {
        const N_PAIRS: usize = QUADS / 2;
        for line in pair * self.n_lines / N_PAIRS..(pair + 1) * self.n_lines / N_PAIRS {
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
unsafe fn add_step<M: Multiplier, L: Grouped, const UNPACKS: bool, const R: usize>(
    sums: &mut Floats<M::V, R>,
    step: Step,
) {
    let offset = if UNPACKS { L::Unpacked::LAYOUT.offset() } else { M::offset(L::LAYOUT) };
    for part in 0..L::LAYOUT.parts() {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut whole: Whole<M::V, R> = [[M::V::splat(0); 2]; R];
            if offset != 0 {
                let parts = (L::LAYOUT.parts(), part);
                if M::DIVIDES_EXCESS {
                    let bits = (EXCESS_OFFSET / offset).ilog2();
                    for (row, whole) in whole.iter_mut().enumerate() {
                        *whole = [M::V::divide(excess_in_vector::<M::V>(step.x, row, parts), bits); 2];
                    }
                } else {
                    let divided = |row| excess(step.x, row, parts) / (EXCESS_OFFSET / offset);
                    let excess: [i32; R] = std::array::from_fn(divided);
                    // Through memory, from where vectors are filled at once.
                    for (whole, excess) in whole.iter_mut().zip(std::hint::black_box(&excess)) {
                        *whole = [M::V::splat(*excess); 2];
                    }
                }
            }
            M::add_part::<L, UNPACKS, R>(&mut whole, step, part);
            let scales = step.numbers::<M, L, UNPACKS>(0, part);
            for (row, (sums, whole)) in sums.iter_mut().zip(whole).enumerate() {
                let of_row = M::V::splat_float(step.x.float(row, M::scale_word(L::LAYOUT)));
                for i in 0..2 {
                    let scale = M::V::multiply(scales[i], of_row);
                    sums[i] = M::V::multiply_add(M::V::floats(whole[i]), scale, sums[i]);
                }
            }
            if L::LAYOUT.has_min() {
                let mins = step.numbers::<M, L, UNPACKS>(1, part);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let sum = M::V::splat_float(scaled_sum(step.x, row, (L::LAYOUT.parts(), part)));
                    for i in 0..2 {
                        sums[i] = M::V::multiply_add(mins[i], sum, sums[i]);
                    }
                }
            }
        }
    }
}

/// What [`EXCESS_OFFSET`] takes away from the products of a row and a part of a group, of as many parts.
///
/// # Safety
/// The row must be readable as [`Activations::Bytes`](super::weights::Activations::Bytes).
#[inline(always)]
unsafe fn excess(x: Inputs, row: usize, (n_parts, part): (usize, usize)) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        match (n_parts, part) {
            (1, _) => x.whole(row, EXCESS),
            (_, 0) => x.whole(row, EXCESS_OF_FIRST),
            _ => x.whole(row, EXCESS).wrapping_sub(x.whole(row, EXCESS_OF_FIRST)),
        }
    }
}

/// The same, in all lanes.
///
/// # Safety
/// As [`excess`], and the instructions of the vector must be enabled.
#[inline(always)]
unsafe fn excess_in_vector<V: Vector>(x: Inputs, row: usize, parts: (usize, usize)) -> V::Whole {
    // SAFETY: by the caller's promise.
    unsafe {
        match parts {
            (1, _) | (_, 0) => V::splat(excess(x, row, parts)),
            _ => V::subtract(V::splat(x.whole(row, EXCESS)), V::splat(x.whole(row, EXCESS_OF_FIRST))),
        }
    }
}

/// `scale_x * sum(x)` of a row and a part of a group, of as many parts.
///
/// # Safety
/// As [`excess`].
#[inline(always)]
unsafe fn scaled_sum(x: Inputs, row: usize, parts: (usize, usize)) -> f32 {
    // SAFETY: by the caller's promise.
    unsafe {
        match parts {
            (1, _) => x.float(row, SCALED_SUM),
            _ => x.float(row, SCALE) * (excess(x, row, parts) / -EXCESS_OFFSET) as f32,
        }
    }
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
        (Isa::Avx512Vnni | Isa::Avx512Bf16, Format::GroupedDot(layout)) => dot::avx512_fns(layout),
        (Isa::AvxVnni, Format::GroupedDot(layout)) => dot::avx_fns(layout),
        (_, Format::Grouped(layout)) => madd::tile_fns(layout),
        _ => unreachable!("{format:?} on {}", isa.name()),
    }
}

/// How the panels of one format are unpacked for products with many rows, where that pays on `isa`.
pub(super) fn unpacked(isa: Isa, format: Format) -> Option<Unpacked> {
    match (isa, format) {
        (Isa::Avx512Vnni | Isa::Avx512Bf16, Format::GroupedDot(layout)) => Some(dot::avx512_unpacked(layout)),
        (Isa::AvxVnni, Format::GroupedDot(layout)) => Some(dot::avx_unpacked(layout)),
        _ => None,
    }
}
