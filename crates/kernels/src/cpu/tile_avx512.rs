//! Tiles with AVX-512 intrinsics: 2 weight vectors, up to 12 broadcast activations, 24 accumulators in registers.

use std::arch::x86_64::*;

use super::tile::{LANES, Sums, Tile, TileFns, by_rows};
use super::weights::{BF16_RUN, Format};

/// Rows up to which a tile does little but wait for memory, and weights are prefetched into the first-level cache. More rows
/// prefetch into the second: the first has few places for outstanding misses, and activations and weights at hand need them.
/// On Zen 4, T1 against T0 through 2048 x 5632: 2 rows 1.05 to 1.24 times as long, 8 rows 0.91, 13 rows 0.75.
const STREAMING_ROWS_MAX: usize = 4;

/// How one step of a format is multiplied.
trait Step {
    /// 32-bit words of activations per row.
    const WORDS: usize;
    /// Steps whose activations of a row stand beside each other.
    const RUN: usize = 1;

    /// Adds one step to the accumulators of `ROWS` rows.
    ///
    /// # Safety
    /// Both halves of the weights and the step's words of activations of `ROWS` rows must be readable, and the features of the
    /// calling tile enabled.
    unsafe fn add<const ROWS: usize>(acc: &mut [[__m512; 2]; ROWS], halves: [*const u8; 2], x: *const u32);
}

struct Bf16Dot;
struct Bf16Wide;
struct F16;
struct F32;
struct Int8;

impl Step for Bf16Dot {
    const WORDS: usize = 1;
    const RUN: usize = BF16_RUN;

    #[inline(always)]
    unsafe fn add<const ROWS: usize>(acc: &mut [[__m512; 2]; ROWS], halves: [*const u8; 2], x: *const u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let weights = halves.map(|half| as_bf16(_mm512_loadu_si512(half.cast())));
            for (row, acc) in acc.iter_mut().enumerate() {
                let x = as_bf16(_mm512_set1_epi32(*x.add(row * Self::RUN).cast()));
                acc[0] = _mm512_dpbf16_ps(acc[0], weights[0], x);
                acc[1] = _mm512_dpbf16_ps(acc[1], weights[1], x);
            }
        }
    }
}

#[inline(always)]
fn as_bf16(vector: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(vector) }
}

impl Step for Bf16Wide {
    const WORDS: usize = 2;

    #[inline(always)]
    unsafe fn add<const ROWS: usize>(acc: &mut [[__m512; 2]; ROWS], halves: [*const u8; 2], x: *const u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let pairs = halves.map(|half| _mm512_loadu_si512(half.cast()));
            let low = pairs.map(|pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
            multiply_add(acc, low, x);
            let mask = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            let high = pairs.map(|pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, mask)));
            multiply_add(acc, high, x.add(ROWS));
        }
    }
}

impl Step for F16 {
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn add<const ROWS: usize>(acc: &mut [[__m512; 2]; ROWS], halves: [*const u8; 2], x: *const u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let weights = halves.map(|half| _mm512_cvtph_ps(_mm256_loadu_si256(half.cast())));
            multiply_add(acc, weights, x);
        }
    }
}

impl Step for F32 {
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn add<const ROWS: usize>(acc: &mut [[__m512; 2]; ROWS], halves: [*const u8; 2], x: *const u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let weights = halves.map(|half| _mm512_loadu_ps(half.cast()));
            multiply_add(acc, weights, x);
        }
    }
}

impl Step for Int8 {
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn add<const ROWS: usize>(acc: &mut [[__m512; 2]; ROWS], halves: [*const u8; 2], x: *const u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let bytes = halves.map(|half| _mm_loadu_si128(half.cast()));
            let weights = bytes.map(|bytes| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
            multiply_add(acc, weights, x);
        }
    }
}

/// # Safety
/// `ROWS` numbers must be readable at `x`.
#[inline(always)]
unsafe fn multiply_add<const ROWS: usize>(
    acc: &mut [[__m512; 2]; ROWS],
    weights: [__m512; 2],
    x: *const u32,
) {
    for (row, acc) in acc.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        unsafe {
            let x = _mm512_set1_ps(*x.add(row).cast());
            acc[0] = _mm512_fmadd_ps(x, weights[0], acc[0]);
            acc[1] = _mm512_fmadd_ps(x, weights[1], acc[1]);
        }
    }
}

/// Brings a line nearer, from memory to the cache whose misses are not in the way of this tile.
#[inline(always)]
fn prefetch_line<const ROWS: usize>(line: *const u8) {
    // SAFETY: a prefetch may name any address.
    unsafe {
        if ROWS <= STREAMING_ROWS_MAX {
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(line.cast());
        }
    }
}

/// # Safety
/// As [`super::tile::TileFn`], with the features that `S` needs; the steps of a stretch are whole runs.
#[inline(always)]
unsafe fn tile<S: Step, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    debug_assert_eq!(tile.n_steps % S::RUN, 0, "steps come in runs");
    // SAFETY: `sums` has at least `ROWS` rows of two vectors; reads of operands are covered by the caller's promise.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
        let mut x = tile.x;
        let mut prefetch = tile.prefetch;
        for stretch in tile.stretches {
            let mut halves = stretch.halves;
            for _ in 0..tile.n_steps / S::RUN {
                // A loop, not a closure: what is not inlined has none of this function's instructions, at 25 times the cost.
                for step in 0..S::RUN {
                    prefetch_line::<ROWS>(prefetch);
                    prefetch_line::<ROWS>(prefetch.wrapping_add(64));
                    prefetch = prefetch.wrapping_add(tile.prefetch_bytes);
                    S::add::<ROWS>(&mut acc, halves, x.wrapping_add(step * S::WORDS));
                    halves = halves.map(|half| half.wrapping_add(tile.step_bytes));
                }
                x = x.wrapping_add(ROWS * S::RUN * S::WORDS);
            }
        }
        for (acc, sums) in acc.iter().zip(&mut sums.0) {
            _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
            _mm512_storeu_ps(sums.as_mut_ptr().add(LANES), acc[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn bf16_dot<const ROWS: usize>(operands: &Tile<'_>, sums: &mut Sums) {
    // SAFETY: the caller keeps the promise of `TileFn`.
    unsafe { tile::<Bf16Dot, ROWS>(operands, sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn wide<S: Step, const ROWS: usize>(operands: &Tile<'_>, sums: &mut Sums) {
    // SAFETY: the caller keeps the promise of `TileFn`.
    unsafe { tile::<S, ROWS>(operands, sums) }
}

/// Tiles of one format.
pub(super) fn tile_fns(format: Format) -> &'static TileFns {
    match format {
        Format::Bf16Dot => &const { by_rows!(bf16_dot) },
        Format::Bf16Wide => &const { by_rows!(wide, Bf16Wide) },
        Format::F16 => &const { by_rows!(wide, F16) },
        Format::F32 => &const { by_rows!(wide, F32) },
        Format::Int8 => &const { by_rows!(wide, Int8) },
        Format::Grouped(_) | Format::GroupedDot(_) => unreachable!("groups have tiles of their own"),
    }
}
