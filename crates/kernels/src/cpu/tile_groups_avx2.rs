//! Tiles over groups of whole numbers with AVX2.
//!
//! Codes without a sign meet bytes of activations in `vpmaddubsw`, whose 16-bit sums hold as many quads as the codes' bits
//! allow before they are widened; codes with one are split into their even and odd inputs and meet 16-bit activations
//! in `vpmaddwd`. Up to six rows share what is read of the weights.

use std::arch::x86_64::*;

use super::groups::{Grouped, Layout, QUADS, by_layout};
use super::tile::{LANES, Sums, Tile, TileFns, by_rows};
use super::tile_groups::words;
use super::weights::Format;

/// Rows whose sums of 16 columns fit the registers beside the weights.
const STRIP_ROWS_MAX: usize = 6;
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

/// Reads pairs of quads of a half step one after the other.
struct Reader {
    codes: *const u8,
    /// Bits of the codes above the fourth that are due next.
    plane: [__m256i; 2],
}

impl Reader {
    /// # Safety
    /// A half step of `L` must be readable at `half`, and AVX2 enabled.
    #[inline(always)]
    unsafe fn new<L: Grouped>(half: *const u8) -> Reader {
        // SAFETY: by the caller's promise.
        unsafe {
            let plane = match L::LAYOUT.bits() {
                5 | 6 => load_pair(half.add(4 * PLANE_STRIDE)),
                _ => [_mm256_setzero_si256(); 2],
            };
            Reader { codes: half, plane }
        }
    }

    /// Quads `2 * pair` and `2 * pair + 1`; to be called for ascending pairs.
    ///
    /// # Safety
    /// As [`Reader::new`].
    #[inline(always)]
    unsafe fn next<L: Grouped>(&mut self, pair: usize) -> Codes {
        // SAFETY: by the caller's promise.
        unsafe {
            if L::LAYOUT.bits() == 8 {
                let low = load_pair(self.codes.add(2 * pair * PLANE_STRIDE));
                let high = load_pair(self.codes.add((2 * pair + 1) * PLANE_STRIDE));
                return Codes { low, high };
            }
            let both = load_pair(self.codes.add(pair * PLANE_STRIDE));
            let nibble = _mm256_set1_epi8(15);
            let low = both.map(|both| _mm256_and_si256(both, nibble));
            let high = both.map(|both| _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble));
            match L::LAYOUT.bits() {
                5 => {
                    let [first, second] = [_mm256_set1_epi8(1), _mm256_set1_epi8(2)];
                    let bit = self.plane.map(|plane| _mm256_slli_epi16::<4>(_mm256_and_si256(plane, first)));
                    let next =
                        self.plane.map(|plane| _mm256_slli_epi16::<3>(_mm256_and_si256(plane, second)));
                    self.plane = self.plane.map(|plane| _mm256_srli_epi16::<2>(plane));
                    Codes { low: or(low, bit), high: or(high, next) }
                }
                6 => {
                    let [first, second] = [_mm256_set1_epi8(3), _mm256_set1_epi8(12)];
                    let bits = self.plane.map(|plane| _mm256_slli_epi16::<4>(_mm256_and_si256(plane, first)));
                    let next =
                        self.plane.map(|plane| _mm256_slli_epi16::<2>(_mm256_and_si256(plane, second)));
                    self.plane = match pair {
                        1 => load_pair(self.codes.add(5 * PLANE_STRIDE)),
                        _ => self.plane.map(|plane| _mm256_srli_epi16::<4>(plane)),
                    };
                    Codes { low: or(low, bits), high: or(high, next) }
                }
                _ => match L::LAYOUT.table() {
                    Some(table) => {
                        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                        let look_up = |places| _mm256_shuffle_epi8(table, places);
                        Codes { low: low.map(look_up), high: high.map(look_up) }
                    }
                    None => Codes { low, high },
                },
            }
        }
    }
}

/// Bytes of 16 columns by one quad.
const PLANE_STRIDE: usize = 2 * VECTOR_BYTES;

/// # Safety
/// Two vectors must be readable at `start`, and AVX2 enabled.
#[inline(always)]
unsafe fn load_pair(start: *const u8) -> [__m256i; 2] {
    // SAFETY: by the caller's promise.
    unsafe { [_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(VECTOR_BYTES).cast())] }
}

/// # Safety
/// AVX2 must be enabled.
#[inline(always)]
unsafe fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: by the caller's promise.
    unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
}

/// Quads whose products with bytes fit 16 bits: `2 * 127 * largest code` each.
const fn quads_in_shorts(layout: Layout) -> usize {
    match layout.bits() {
        4 => 8,
        5 => 4,
        6 => 2,
        _ => 0,
    }
}

/// Adds the products of part `part` of a group to `whole`.
///
/// * `x`: words of the first of `R` rows among `n_rows`.
///
/// # Safety
/// A half step of `L` and a group of activations must be readable, and AVX2 enabled.
#[inline(always)]
unsafe fn add_part<L: Grouped, const R: usize>(
    reader: &mut Reader,
    x: *const u32,
    n_rows: usize,
    part: usize,
) -> Whole<R> {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut whole = [[_mm256_setzero_si256(); 2]; R];
        let pairs_per_part = QUADS / 2 / L::LAYOUT.parts();
        let first = part * pairs_per_part;
        if L::LAYOUT.is_signed() {
            for pair in first..first + pairs_per_part {
                let codes = reader.next::<L>(pair);
                add_signed::<R>(&mut whole, codes.low, x.add(4 * pair * n_rows), n_rows);
                add_signed::<R>(&mut whole, codes.high, x.add((4 * pair + 2) * n_rows), n_rows);
            }
            return whole;
        }
        let ones = _mm256_set1_epi16(1);
        let pairs_per_run = (quads_in_shorts(L::LAYOUT) / 2).min(pairs_per_part);
        let mut pair = first;
        for _ in 0..pairs_per_part / pairs_per_run {
            let mut shorts = [[_mm256_setzero_si256(); 2]; R];
            for _ in 0..pairs_per_run {
                let codes = reader.next::<L>(pair);
                for (quad, codes) in [codes.low, codes.high].into_iter().enumerate() {
                    let x = x.add((2 * pair + quad) * n_rows);
                    for (row, shorts) in shorts.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32((*x.add(row)).cast_signed());
                        shorts[0] = _mm256_add_epi16(shorts[0], _mm256_maddubs_epi16(codes[0], x));
                        shorts[1] = _mm256_add_epi16(shorts[1], _mm256_maddubs_epi16(codes[1], x));
                    }
                }
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

/// `R` rows by 16 columns, over all steps.
///
/// * `x`: activations of the first of the `R` rows among `n_rows`.
/// * `prefetched`: what to bring nearer meanwhile, and how many bytes of it per step.
///
/// # Safety
/// As [`super::tile::TileFn`], with AVX2 and FMA enabled.
#[inline(always)]
unsafe fn strip<L: Grouped, const R: usize>(
    tile: &Tile<'_>,
    half: usize,
    n_rows: usize,
    x: *const u32,
    prefetched: Option<*const u8>,
    sums: &mut [[f32; 2 * LANES]],
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        let mut x = x;
        let mut prefetched = prefetched;
        for stretch in tile.stretches {
            let mut step = stretch.halves[half];
            for _ in 0..tile.n_steps {
                if let Some(start) = prefetched {
                    for line in 0..tile.prefetch_bytes.div_ceil(LINE_BYTES) {
                        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE_BYTES).cast());
                    }
                    prefetched = Some(start.wrapping_add(tile.prefetch_bytes));
                }
                let mut reader = Reader::new::<L>(step);
                for part in 0..L::LAYOUT.parts() {
                    let whole = add_part::<L, R>(&mut reader, x, n_rows, part);
                    scale::<L, R>(&mut acc, whole, step, x, n_rows, part);
                }
                step = step.wrapping_add(tile.step_bytes);
                x = x.wrapping_add(n_rows * words::<L>());
            }
        }
        for (acc, sums) in acc.iter().zip(sums) {
            let sums = sums.as_mut_ptr().add(half * LANES);
            _mm256_storeu_ps(sums, acc[0]);
            _mm256_storeu_ps(sums.add(OCTET), acc[1]);
        }
    }
}

/// Adds sums of products of whole numbers, scaled, and what the minima contribute.
///
/// # Safety
/// As [`strip`]; `step` and `x` are where the group begins.
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
            let (scale, sum) = if layout.is_signed() {
                (f32::from_bits(word(2 * QUADS)), 0)
            } else {
                let sums = [word(QUADS + 1), word(QUADS + 2)].map(u32::cast_signed);
                let sum = if layout.parts() == 2 { sums[part] } else { sums[0] + sums[1] };
                (f32::from_bits(word(QUADS)), sum)
            };
            if layout.offset() != 0 {
                let excess = _mm256_set1_epi32(layout.offset() * sum);
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

/// # Safety
/// As [`super::tile::TileFn`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    let n_strips = ROWS.div_ceil(STRIP_ROWS_MAX);
    for strip_idx in 0..n_strips {
        let rows = strip_idx * ROWS / n_strips..(strip_idx + 1) * ROWS / n_strips;
        let x = tile.x.wrapping_add(rows.start);
        let sums = &mut sums.0[rows.clone()];
        for half in 0..2 {
            let prefetched = (strip_idx == 0 && half == 0).then_some(tile.prefetch);
            // SAFETY: the caller's promise covers all rows and both halves.
            unsafe {
                match rows.len() {
                    1 => strip::<L, 1>(tile, half, ROWS, x, prefetched, sums),
                    2 => strip::<L, 2>(tile, half, ROWS, x, prefetched, sums),
                    3 => strip::<L, 3>(tile, half, ROWS, x, prefetched, sums),
                    4 => strip::<L, 4>(tile, half, ROWS, x, prefetched, sums),
                    5 => strip::<L, 5>(tile, half, ROWS, x, prefetched, sums),
                    _ => strip::<L, 6>(tile, half, ROWS, x, prefetched, sums),
                }
            }
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
