//! One step: a group of some rows' activations times the weights of two vectors of columns.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::super::groups::{
    EXCESS, EXCESS_OF_FIRST, EXCESS_OFFSET, Grouped, Layout, QUADS, SCALE, SCALED_SUM, Scales, unit_in_run,
};
use super::super::memory::LINE_BYTES;
use super::super::tile::Tile;
use super::vector::Vector;
use super::{Floats, Multiplier, Whole};

/// Words from one row to the next, and from one word of a row to the next, in a group of activations.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    pub(super) row: usize,
    pub(super) word: usize,
}

/// One step of two vectors of columns.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// First byte of the step.
    start: *const u8,
    /// First byte of the units of its run.
    units: *const u8,
    /// First columns of both vectors.
    pub(super) columns: [usize; 2],
}

impl Weights {
    /// Step `at` of a panel.
    #[inline(always)]
    pub(super) fn of(layout: Layout, panel: *const u8, at: usize, columns: [usize; 2]) -> Weights {
        let [start, units] = [layout.step_at(at), layout.unit_at(at, 0, 0)].map(|at| panel.wrapping_add(at));
        Weights { start, units, columns }
    }

    /// Where the codes of either vector begin.
    #[inline(always)]
    pub(super) fn codes(&self, layout: Layout) -> [*const u8; 2] {
        let [first, second] = self.columns;
        [self.start.wrapping_add(layout.codes_at(first)), self.start.wrapping_add(layout.codes_at(second))]
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
pub(super) struct Inputs {
    /// The first word of the first row.
    pub(super) start: *const u32,
    pub(super) strides: Strides,
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
    pub(super) unsafe fn whole(&self, row: usize, i: usize) -> i32 {
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
pub(super) struct Step {
    pub(super) weights: Weights,
    pub(super) x: Inputs,
    /// First byte of the step that it becomes where it is unpacked.
    pub(super) unpacked: *mut u8,
    pub(super) run: Run,
    pub(super) ahead: Ahead,
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
pub(super) struct Run {
    pub(super) len: usize,
}

impl Run {
    pub(super) fn of<M: Multiplier>(layout: Layout) -> Run {
        Run { len: std::hint::black_box(M::run_len(layout)) }
    }
}

/// What is brought into the cache nearest to the core during a step.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    start: *const u8,
    n_bytes: usize,
    n_lines: usize,
}

impl Ahead {
    /// What each of `n_strips` brings of a tile, the first one now and the others some steps later.
    #[inline(always)]
    pub(super) fn of(tile: &Tile<'_>, n_strips: usize) -> Ahead {
        let n_bytes = tile.prefetch_bytes.div_ceil(n_strips);
        Ahead { start: tile.prefetch, n_bytes, n_lines: n_bytes.div_ceil(LINE_BYTES) }
    }

    /// What is brought some steps later.
    #[inline(always)]
    pub(super) fn after(self, n_steps: usize) -> Ahead {
        Ahead { start: self.start.wrapping_add(n_steps * self.n_bytes), ..self }
    }

    /// Brings the share of a pair of quads: all at once they would fill the places for outstanding misses.
    #[inline(always)]
    pub(super) fn fetch(self, pair: usize) {
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
pub(super) unsafe fn add_step<M: Multiplier, L: Grouped, const UNPACKS: bool, const R: usize>(
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
