//! Tiles with AVX2 and FMA intrinsics: 4 weight vectors, up to 3 broadcast activations, 12 accumulators in registers.
//!
//! Steps are taken in chunks that stay in the nearest cache while all rows meet them.

use std::arch::x86_64::*;

use super::tile::{COLUMNS, LANES, Sums, Tile, TileFns, by_rows};
use super::weights::Format;

/// Rows whose sums of 32 columns fit the registers.
const STRIP_ROWS_MAX: usize = 3;
/// Numbers of a vector.
const OCTET: usize = 8;
/// Vectors of a tile's columns.
const VECTORS: usize = COLUMNS / OCTET;
/// Steps that all rows meet before the next ones.
const CHUNK_STEPS: usize = 64;

/// Weights that are widened to vectors of `f32`.
trait Widen {
    /// Inputs per step.
    const INPUTS: usize;

    /// Input `input` of a step for columns `8 * octet..8 * (octet + 1)` of a half.
    ///
    /// # Safety
    /// The half step must be readable, and AVX2 and F16C enabled.
    unsafe fn octet(half: *const u8, input: usize, octet: usize) -> __m256;
}

struct Bf16;
struct F16;
struct F32;
struct Int8;

impl Widen for Bf16 {
    const INPUTS: usize = 2;

    #[inline(always)]
    unsafe fn octet(half: *const u8, input: usize, octet: usize) -> __m256 {
        // SAFETY: a half step holds 16 pairs, by the caller's promise readable.
        unsafe {
            let pairs = _mm256_loadu_si256(half.cast::<__m256i>().add(octet));
            _mm256_castsi256_ps(match input {
                0 => _mm256_slli_epi32::<16>(pairs),
                _ => _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed())),
            })
        }
    }
}

impl Widen for F16 {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn octet(half: *const u8, _input: usize, octet: usize) -> __m256 {
        // SAFETY: a half step holds 16 halves, by the caller's promise readable.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(half.cast::<__m128i>().add(octet))) }
    }
}

impl Widen for F32 {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn octet(half: *const u8, _input: usize, octet: usize) -> __m256 {
        // SAFETY: a half step holds 16 numbers, by the caller's promise readable.
        unsafe { _mm256_loadu_ps(half.cast::<f32>().add(octet * OCTET)) }
    }
}

impl Widen for Int8 {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn octet(half: *const u8, _input: usize, octet: usize) -> __m256 {
        // SAFETY: a half step holds 16 bytes, by the caller's promise readable.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(half.add(octet * OCTET).cast()))) }
    }
}

/// Steps in a row of one tile.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    halves: [*const u8; 2],
    n_steps: usize,
    /// Activations of the first step.
    x: *const f32,
    /// Rows that the activations were packed for.
    n_rows: usize,
    tile: &'a Tile<'a>,
}

/// Adds the products of `R` rows from `first` on.
///
/// # Safety
/// As [`super::tile::TileFn`], with AVX2, FMA and F16C enabled; `sums` are those of the rows.
#[inline(always)]
unsafe fn strip<W: Widen, const R: usize>(
    chunk: Chunk<'_>,
    first: usize,
    prefetch: Option<*const u8>,
    sums: *mut [f32; COLUMNS],
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); VECTORS]; R];
        for (row, acc) in acc.iter_mut().enumerate() {
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = _mm256_loadu_ps(sums.add(row).cast::<f32>().add(i * OCTET));
            }
        }
        let mut halves = chunk.halves;
        let mut x = chunk.x.wrapping_add(first);
        let mut prefetch = prefetch;
        for _ in 0..chunk.n_steps {
            if let Some(line) = prefetch {
                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64).cast());
                prefetch = Some(line.wrapping_add(chunk.tile.prefetch_bytes));
            }
            for input in 0..W::INPUTS {
                let mut of_rows = [_mm256_setzero_ps(); R];
                for (row, of_row) in of_rows.iter_mut().enumerate() {
                    *of_row = _mm256_broadcast_ss(&*x.add(row));
                }
                for i in 0..VECTORS {
                    let weights = W::octet(halves[i * OCTET / LANES], input, i % (LANES / OCTET));
                    for (acc, of_row) in acc.iter_mut().zip(of_rows) {
                        acc[i] = _mm256_fmadd_ps(of_row, weights, acc[i]);
                    }
                }
                x = x.wrapping_add(chunk.n_rows);
            }
            halves = halves.map(|half| half.wrapping_add(chunk.tile.step_bytes));
        }
        for (row, acc) in acc.iter().enumerate() {
            for (i, acc) in acc.iter().enumerate() {
                _mm256_storeu_ps(sums.add(row).cast::<f32>().add(i * OCTET), *acc);
            }
        }
    }
}

/// # Safety
/// As [`super::tile::TileFn`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Widen, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    sums.0[..ROWS].fill([0.0; COLUMNS]);
    let n_strips = ROWS.div_ceil(STRIP_ROWS_MAX);
    let mut x = tile.x.cast::<f32>();
    let mut prefetch = tile.prefetch;
    for stretch in tile.stretches {
        let mut halves = stretch.halves;
        let mut n_left = tile.n_steps;
        while n_left > 0 {
            let n_steps = n_left.min(CHUNK_STEPS);
            let chunk = Chunk { halves, n_steps, x, n_rows: ROWS, tile };
            for strip_idx in 0..n_strips {
                let rows = strip_idx * ROWS / n_strips..(strip_idx + 1) * ROWS / n_strips;
                let prefetch = (strip_idx == 0).then_some(prefetch);
                let sums = sums.0[rows.clone()].as_mut_ptr();
                // SAFETY: the caller's promise covers all rows and steps.
                unsafe {
                    match rows.len() {
                        1 => strip::<W, 1>(chunk, rows.start, prefetch, sums),
                        2 => strip::<W, 2>(chunk, rows.start, prefetch, sums),
                        _ => strip::<W, 3>(chunk, rows.start, prefetch, sums),
                    }
                }
            }
            n_left -= n_steps;
            halves = halves.map(|half| half.wrapping_add(n_steps * tile.step_bytes));
            x = x.wrapping_add(n_steps * W::INPUTS * ROWS);
            prefetch = prefetch.wrapping_add(n_steps * tile.prefetch_bytes);
        }
    }
}

/// Tiles of one format.
pub(super) fn tile_fns(format: Format) -> &'static TileFns {
    match format {
        Format::Bf16Dot => unreachable!("the dot product needs AVX-512 BF16"),
        Format::Bf16Wide => &const { by_rows!(tile, Bf16) },
        Format::F16 => &const { by_rows!(tile, F16) },
        Format::F32 => &const { by_rows!(tile, F32) },
        Format::Int8 => &const { by_rows!(tile, Int8) },
        Format::Grouped(_) | Format::GroupedDot(_) => unreachable!("groups have tiles of their own"),
    }
}
