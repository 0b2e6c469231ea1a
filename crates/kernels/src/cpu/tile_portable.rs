//! Tiles in plain Rust, which the compiler vectorises, for any processor.

use super::tile::{COLUMNS, LANES, ROWS_MAX, Sums, Tile, TileFns, by_rows};
use super::weights::{Format, bf16_value, f16_value};

/// Weights that can be widened to `f32` inside a tile.
trait Widen {
    /// Inputs per step.
    const INPUTS: usize;

    /// Weight of input `input` of a step for one column of a half.
    ///
    /// # Safety
    /// The step must be readable.
    unsafe fn get(step: *const u8, input: usize, column: usize) -> f32;
}

struct Bf16;
struct F16;
struct F32;
struct Int8;

impl Widen for Bf16 {
    const INPUTS: usize = 2;

    #[inline(always)]
    unsafe fn get(step: *const u8, input: usize, column: usize) -> f32 {
        // SAFETY: a step holds 16 pairs, by the caller's promise readable.
        let pair = unsafe { step.cast::<u32>().add(column).read_unaligned() };
        if input == 0 { bf16_value(pair & 0xffff) } else { f32::from_bits(pair & 0xffff_0000) }
    }
}

impl Widen for F16 {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn get(step: *const u8, _input: usize, column: usize) -> f32 {
        // SAFETY: a step holds 16 halves, by the caller's promise readable.
        f16_value(unsafe { step.cast::<u16>().add(column).read_unaligned() })
    }
}

impl Widen for F32 {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn get(step: *const u8, _input: usize, column: usize) -> f32 {
        // SAFETY: a step holds 16 numbers, by the caller's promise readable.
        unsafe { step.cast::<f32>().add(column).read_unaligned() }
    }
}

impl Widen for Int8 {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn get(step: *const u8, _input: usize, column: usize) -> f32 {
        // SAFETY: a step holds 16 bytes, by the caller's promise readable.
        f32::from(unsafe { step.cast::<i8>().add(column).read() })
    }
}

/// Rows are taken two at a time and columns half by half, so that 16 accumulators per row fit in 16 small registers.
///
/// # Safety
/// As [`super::tile::TileFn`].
#[inline(always)]
unsafe fn tile<W: Widen, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    for half in 0..2 {
        let mut row = 0;
        while row + 2 <= ROWS {
            // SAFETY: the caller's promise covers `ROWS` rows.
            unsafe { strip::<W, 2>(tile, ROWS, row, half, sums) };
            row += 2;
        }
        if row < ROWS {
            // SAFETY: as above.
            unsafe { strip::<W, 1>(tile, ROWS, row, half, sums) };
        }
    }
}

/// Rows `first..first + R` of one half of a tile.
///
/// # Safety
/// As [`super::tile::TileFn`], for a tile of `n_rows` rows.
#[inline(always)]
unsafe fn strip<W: Widen, const R: usize>(
    tile: &Tile<'_>,
    n_rows: usize,
    first: usize,
    half: usize,
    sums: &mut Sums,
) {
    let columns = half * LANES..(half + 1) * LANES;
    let mut acc = [[0.0; LANES]; R];
    let mut x = tile.x.cast::<f32>();
    for stretch in tile.stretches {
        let mut step = stretch.halves[half];
        for _ in 0..tile.n_steps {
            for input in 0..W::INPUTS {
                let mut weights = [0.0; LANES];
                for (column, weight) in weights.iter_mut().enumerate() {
                    // SAFETY: the caller promises readable weights and activations for every step.
                    *weight = unsafe { W::get(step, input, column) };
                }
                for (row, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let x = unsafe { *x.add(first + row) };
                    for (acc, weight) in acc.iter_mut().zip(weights) {
                        *acc += x * weight;
                    }
                }
                x = x.wrapping_add(n_rows);
            }
            step = step.wrapping_add(tile.step_bytes);
        }
    }
    for (acc, sums) in acc.iter().zip(&mut sums.0[first..]) {
        sums[columns.clone()].copy_from_slice(acc);
    }
}

/// Tiles of one format for any processor.
pub(super) fn tile_fns(format: Format) -> &'static TileFns {
    const _: () = assert!(ROWS_MAX == 12 && COLUMNS == 2 * LANES);
    match format {
        Format::Bf16Dot => unreachable!("the dot product needs AVX-512 BF16"),
        Format::Bf16Wide => &const { by_rows!(tile, Bf16) },
        Format::F16 => &const { by_rows!(tile, F16) },
        Format::F32 => &const { by_rows!(tile, F32) },
        Format::Int8 => &const { by_rows!(tile, Int8) },
        Format::Grouped(_) | Format::GroupedDot(_) => unreachable!("groups have tiles of their own"),
    }
}
