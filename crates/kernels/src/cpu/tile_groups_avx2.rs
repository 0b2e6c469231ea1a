//! Tiles over groups of whole numbers with AVX2.
//!
//! Codes without a sign meet bytes of activations in `vpmaddubsw`, whose 16-bit sums hold as many quads as the codes' bits
//! allow before they are widened; codes with one are split into their even and odd inputs and meet 16-bit activations
//! in `vpmaddwd`. Up to four rows share what is read of the weights.

use std::arch::x86_64::*;

use super::groups::{Grouped, Layout, QUADS, by_layout};
use super::tile::{COLUMNS, LANES, Sums, Tile, TileFns, by_rows};
use super::weights::Format;

/// Rows whose sums of 16 columns fit the registers beside the weights.
const STRIP_ROWS_MAX: usize = 4;
/// Columns of a vector.
const OCTET: usize = LANES / 2;
/// Bytes of a vector.
const VECTOR_BYTES: usize = 32;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Sums of `R` rows by 16 columns.
type Whole<const R: usize> = [[__m256i; 2]; R];

/// Codes of two successive quads of 16 columns.
struct Codes {
    low: [__m256i; 2],
    high: [__m256i; 2],
}

/// Quads `2 * pair` and `2 * pair + 1`.
///
/// # Safety
/// A half step of `L` must be readable at `half`, and AVX2 enabled.
#[inline(always)]
unsafe fn codes<L: Grouped>(half: *const u8, pair: usize) -> Codes {
    // SAFETY: by the caller's promise.
    unsafe {
        if L::LAYOUT.bits() == 8 {
            let low = load_pair(half.add(2 * pair * QUAD_BYTES));
            return Codes { low, high: load_pair(half.add((2 * pair + 1) * QUAD_BYTES)) };
        }
        let both = load_pair(half.add(pair * QUAD_BYTES));
        let nibble = _mm256_set1_epi8(15);
        let low = both.map(|both| _mm256_and_si256(both, nibble));
        let high = both.map(|both| _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble));
        if let Some(table) = L::LAYOUT.table() {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let look_up = |places| _mm256_shuffle_epi8(table, places);
            return Codes { low: low.map(look_up), high: high.map(look_up) };
        }
        let plane = |plane: usize, bits_before: usize| {
            let shift = _mm_cvtsi32_si128(bits_before as i32);
            load_pair(half.add(plane * QUAD_BYTES)).map(|plane| _mm256_srl_epi16(plane, shift))
        };
        match L::LAYOUT.bits() {
            5 => {
                let bits = plane(4, 2 * pair);
                let first =
                    bits.map(|bits| _mm256_slli_epi16::<4>(_mm256_and_si256(bits, _mm256_set1_epi8(1))));
                let next =
                    bits.map(|bits| _mm256_slli_epi16::<3>(_mm256_and_si256(bits, _mm256_set1_epi8(2))));
                Codes { low: or(low, first), high: or(high, next) }
            }
            6 => {
                let bits = plane(4 + pair / 2, pair % 2 * 4);
                let first =
                    bits.map(|bits| _mm256_slli_epi16::<4>(_mm256_and_si256(bits, _mm256_set1_epi8(3))));
                let next =
                    bits.map(|bits| _mm256_slli_epi16::<2>(_mm256_and_si256(bits, _mm256_set1_epi8(12))));
                Codes { low: or(low, first), high: or(high, next) }
            }
            _ => Codes { low, high },
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
}

/// Bytes of 16 columns by one quad.
const QUAD_BYTES: usize = 2 * VECTOR_BYTES;

/// # Safety
/// Two vectors must be readable at `start`, and AVX2 enabled.
#[inline(always)]
unsafe fn load_pair(start: *const u8) -> [__m256i; 2] {
    // SAFETY: by the caller's promise.
    unsafe { [_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(VECTOR_BYTES).cast())] }
}

/// Pairs of quads in a row, of a number that the compiler must not know: it would write all of them out, mix them, and run out of
/// registers.
#[derive(Clone, Copy)]
struct Run {
    len: usize,
}

impl Run {
    fn of(layout: Layout) -> Run {
        Run { len: std::hint::black_box(Self::pairs(layout)) }
    }

    /// Of codes with a sign a part, of others as many as fit 16 bits at `2 * 127 * largest code` per quad.
    const fn pairs(layout: Layout) -> usize {
        let fitting = match layout.bits() {
            6 => 1,
            5 => 2,
            _ => 4,
        };
        let in_part = QUADS / 2 / layout.parts();
        if fitting < in_part { fitting } else { in_part }
    }
}

/// Sums of the products of part `part` of a group.
///
/// * `x`: words of the first of `R` rows among `n_rows`.
///
/// # Safety
/// A half step of `L` and a group of activations must be readable, and AVX2 enabled.
#[inline(always)]
unsafe fn part_sums<L: Grouped, const R: usize>(
    half: *const u8,
    x: *const u32,
    n_rows: usize,
    part: usize,
    run: Run,
) -> Whole<R> {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut whole = [[_mm256_setzero_si256(); 2]; R];
        let mut pair = part * (QUADS / 2 / L::LAYOUT.parts());
        if L::LAYOUT.is_signed() {
            for _ in 0..run.len {
                let Codes { low, high } = codes::<L>(half, pair);
                add_signed::<R>(&mut whole, low, x.add(4 * pair * n_rows), n_rows);
                add_signed::<R>(&mut whole, high, x.add((4 * pair + 2) * n_rows), n_rows);
                pair += 1;
            }
            return whole;
        }
        let ones = _mm256_set1_epi16(1);
        for _ in 0..QUADS / 2 / L::LAYOUT.parts() / Run::pairs(L::LAYOUT) {
            let mut shorts = [[_mm256_setzero_si256(); 2]; R];
            for _ in 0..run.len {
                let x = x.add(2 * pair * n_rows);
                let Codes { low, high } = codes::<L>(half, pair);
                add_unsigned::<R>(&mut shorts, low, x);
                add_unsigned::<R>(&mut shorts, high, x.add(n_rows));
                pair += 1;
            }
            for (whole, shorts) in whole.iter_mut().zip(shorts) {
                whole[0] = _mm256_add_epi32(whole[0], _mm256_madd_epi16(shorts[0], ones));
                whole[1] = _mm256_add_epi32(whole[1], _mm256_madd_epi16(shorts[1], ones));
            }
        }
        whole
    }
}

/// Adds the products of one quad of codes without a sign.
///
/// # Safety
/// A word of activations of `R` rows must be readable, and AVX2 enabled.
#[inline(always)]
unsafe fn add_unsigned<const R: usize>(shorts: &mut Whole<R>, codes: [__m256i; 2], x: *const u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        for (row, shorts) in shorts.iter_mut().enumerate() {
            let x = _mm256_set1_epi32((*x.add(row)).cast_signed());
            shorts[0] = _mm256_add_epi16(shorts[0], _mm256_maddubs_epi16(codes[0], x));
            shorts[1] = _mm256_add_epi16(shorts[1], _mm256_maddubs_epi16(codes[1], x));
        }
    }
}

/// Adds the products of one quad of codes with a sign.
///
/// # Safety
/// Two words of activations of `R` rows must be readable, and AVX2 enabled.
#[inline(always)]
unsafe fn add_signed<const R: usize>(
    whole: &mut Whole<R>,
    codes: [__m256i; 2],
    x: *const u32,
    n_rows: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let even = codes.map(|codes| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes)));
        let odd = codes.map(|codes| _mm256_srai_epi16::<8>(codes));
        for (codes, x) in [(even, x), (odd, x.add(n_rows))] {
            for (row, whole) in whole.iter_mut().enumerate() {
                let x = _mm256_set1_epi32((*x.add(row)).cast_signed());
                whole[0] = _mm256_add_epi32(whole[0], _mm256_madd_epi16(codes[0], x));
                whole[1] = _mm256_add_epi32(whole[1], _mm256_madd_epi16(codes[1], x));
            }
        }
    }
}

/// Adds the products of one step, `R` rows by 16 columns, to `sums`.
///
/// * `x`: activations of the first of the `R` rows among `n_rows`.
///
/// # Safety
/// As [`super::tile::TileFn`], with AVX2 and FMA enabled; `sums` has `R` rows.
#[inline(always)]
unsafe fn add_step<L: Grouped, const R: usize>(
    half: *const u8,
    x: *const u32,
    n_rows: usize,
    run: Run,
    sums: *mut [f32; COLUMNS],
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        for (row, acc) in acc.iter_mut().enumerate() {
            let sums = sums.add(row).cast::<f32>();
            *acc = [_mm256_loadu_ps(sums), _mm256_loadu_ps(sums.add(OCTET))];
        }
        for part in 0..L::LAYOUT.parts() {
            let whole = part_sums::<L, R>(half, x, n_rows, part, run);
            scale::<L, R>(&mut acc, whole, half, x, n_rows, part);
        }
        for (row, acc) in acc.iter().enumerate() {
            let sums = sums.add(row).cast::<f32>();
            _mm256_storeu_ps(sums, acc[0]);
            _mm256_storeu_ps(sums.add(OCTET), acc[1]);
        }
    }
}

/// Adds sums of products of whole numbers, scaled, and what the minima contribute.
///
/// # Safety
/// As [`add_step`].
#[inline(always)]
unsafe fn scale<L: Grouped, const R: usize>(
    acc: &mut [[__m256; 2]; R],
    whole: Whole<R>,
    step: *const u8,
    x: *const u32,
    n_rows: usize,
    part: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let layout = L::LAYOUT;
        let at = |offset: usize| {
            [0, OCTET].map(|octet| _mm256_loadu_ps(step.add(offset).cast::<f32>().add(octet)))
        };
        let scales = at(layout.scale_at(part, 0));
        for (row, (acc, mut whole)) in acc.iter_mut().zip(whole).enumerate() {
            let word = |i: usize| *x.add(i * n_rows + row);
            let scale = f32::from_bits(word(layout.scale_word()));
            // Codes with a sign need no sum: they have neither an offset nor minima.
            let sum = match (layout.is_signed(), layout.parts()) {
                (true, _) => 0,
                (false, 2) => word(QUADS + 1 + part).cast_signed(),
                (false, _) => word(QUADS + 1).cast_signed().wrapping_add(word(QUADS + 2).cast_signed()),
            };
            if layout.offset() != 0 {
                let excess = _mm256_set1_epi32(layout.offset().wrapping_mul(sum));
                whole = whole.map(|whole| _mm256_sub_epi32(whole, excess));
            }
            let of_row = _mm256_set1_ps(scale);
            for i in 0..2 {
                let scale = _mm256_mul_ps(scales[i], of_row);
                acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[i]), scale, acc[i]);
            }
            if layout.has_min() {
                let mins = at(layout.min_at(part, 0));
                let sum = _mm256_set1_ps(scale * sum as f32);
                acc[0] = _mm256_fmadd_ps(mins[0], sum, acc[0]);
                acc[1] = _mm256_fmadd_ps(mins[1], sum, acc[1]);
            }
        }
    }
}

/// Step by step, so that the weights of one are read from the cache nearest to the core by all rows.
///
/// # Safety
/// As [`super::tile::TileFn`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    sums.0[..ROWS].fill([0.0; COLUMNS]);
    let run = Run::of(L::LAYOUT);
    let n_strips = ROWS.div_ceil(STRIP_ROWS_MAX);
    let mut x = tile.x;
    let mut prefetch = tile.prefetch;
    for stretch in tile.stretches {
        let mut halves = stretch.halves;
        for _ in 0..tile.n_steps {
            for line in 0..tile.prefetch_bytes.div_ceil(LINE_BYTES) {
                _mm_prefetch::<_MM_HINT_T0>(prefetch.wrapping_add(line * LINE_BYTES).cast());
            }
            prefetch = prefetch.wrapping_add(tile.prefetch_bytes);
            for line in 0..tile.step_bytes.div_ceil(LINE_BYTES) {
                let next = halves[0].wrapping_add(tile.step_bytes + line * LINE_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
            for strip in 0..n_strips {
                let rows = strip * ROWS / n_strips..(strip + 1) * ROWS / n_strips;
                let x = x.wrapping_add(rows.start);
                for (half_idx, half) in halves.into_iter().enumerate() {
                    let sums =
                        sums.0[rows.clone()].as_mut_ptr().cast::<f32>().wrapping_add(half_idx * LANES).cast();
                    // SAFETY: the caller's promise covers all rows and both halves.
                    unsafe {
                        match rows.len() {
                            1 => add_step::<L, 1>(half, x, ROWS, run, sums),
                            2 => add_step::<L, 2>(half, x, ROWS, run, sums),
                            3 => add_step::<L, 3>(half, x, ROWS, run, sums),
                            _ => add_step::<L, 4>(half, x, ROWS, run, sums),
                        }
                    }
                }
            }
            halves = halves.map(|half| half.wrapping_add(tile.step_bytes));
            x = x.wrapping_add(ROWS * L::LAYOUT.words());
        }
    }
}

/// Tiles of one format.
///
/// # Panics
/// If the format has no groups.
pub(super) fn tile_fns(format: Format) -> &'static TileFns {
    match format {
        Format::Grouped(layout) => by_layout!(layout, tile),
        _ => unreachable!("{format:?} has no groups"),
    }
}
