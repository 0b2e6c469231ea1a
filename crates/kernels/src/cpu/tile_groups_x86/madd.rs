//! AVX2, which has no dot product of bytes.
//!
//! Codes without a sign meet bytes of activations in `vpmaddubsw`, whose 16-bit sums hold as many quads as the codes' bits
//! allow before they are widened; codes with one are split into their even and odd inputs and meet 16-bit activations
//! in `vpmaddwd`.

use std::arch::x86_64::*;

use super::super::groups::{Grouped, Layout, QUADS, by_layout};
use super::super::tile::{COLUMNS, Sums, Tile, TileFns, by_rows};
use super::codes::Codes;
use super::vector::{Vector, Ymm};
use super::{Inputs, Multiplier, Step, Strides, Whole, tile_in_strips};

struct Madd;

impl Multiplier for Madd {
    type V = Ymm;

    const STRIP_ROWS_MAX: usize = 4;
    const LONE_ROWS_MAX: usize = 4;
    const CHUNK_STEPS: usize = 1;
    const DIVIDES_EXCESS: bool = false;

    fn words(layout: Layout) -> usize {
        layout.words()
    }

    fn strides(n_rows: usize) -> Strides {
        Strides { row: 1, word: n_rows }
    }

    fn scale_word(layout: Layout) -> usize {
        layout.scale_word()
    }

    fn offset(layout: Layout) -> i32 {
        layout.offset()
    }

    /// Of codes with a sign a part, of others as many as fit 16 bits at `2 * 127 * largest code` per quad.
    fn run_len(layout: Layout) -> usize {
        run_len(layout)
    }

    #[inline(always)]
    unsafe fn add_part<L: Grouped, const UNPACKS: bool, const R: usize>(
        whole: &mut Whole<Ymm, R>,
        step: Step,
        part: usize,
    ) {
        const { assert!(!UNPACKS, "16-bit sums have no room for products of bytes without a sign") };
        let Step { weights, x, run, ahead, .. } = step;
        let columns = weights.codes(L::LAYOUT);
        // SAFETY: by the caller's promise.
        unsafe {
            let mut pair = part * (QUADS / 2 / L::LAYOUT.parts());
            if L::LAYOUT.is_signed() {
                for _ in 0..run.len {
                    ahead.fetch(pair);
                    let Codes { low, high } = signed::<L>(Codes::read::<L>(columns, pair));
                    add_signed::<R>(whole, low, x, 4 * pair);
                    add_signed::<R>(whole, high, x, 4 * pair + 2);
                    pair += 1;
                }
                return;
            }
            let ones = _mm256_set1_epi16(1);
            for _ in 0..QUADS / 2 / L::LAYOUT.parts() / run_len(L::LAYOUT) {
                let mut shorts = [[_mm256_setzero_si256(); 2]; R];
                for _ in 0..run.len {
                    ahead.fetch(pair);
                    let Codes { low, high } = Codes::<Ymm>::read::<L>(columns, pair);
                    add_unsigned::<R>(&mut shorts, low, x, 2 * pair);
                    add_unsigned::<R>(&mut shorts, high, x, 2 * pair + 1);
                    pair += 1;
                }
                for (whole, shorts) in whole.iter_mut().zip(shorts) {
                    whole[0] = _mm256_add_epi32(whole[0], _mm256_madd_epi16(shorts[0], ones));
                    whole[1] = _mm256_add_epi32(whole[1], _mm256_madd_epi16(shorts[1], ones));
                }
            }
        }
    }
}

const fn run_len(layout: Layout) -> usize {
    let fitting = match layout.bits() {
        6 => 1,
        5 => 2,
        _ => 4,
    };
    let in_part = QUADS / 2 / layout.parts();
    if fitting < in_part { fitting } else { in_part }
}

/// Codes with a sign.
///
/// # Safety
/// AVX2 must be enabled.
#[inline(always)]
unsafe fn signed<L: Grouped>(codes: Codes<Ymm>) -> Codes<Ymm> {
    match L::LAYOUT.table() {
        Some(table) => {
            let table = table.map(i8::cast_unsigned);
            // SAFETY: by the caller's promise.
            codes.map(|places| unsafe { Ymm::look_up(&table, places) })
        }
        None => codes,
    }
}

/// Adds the products of one quad of codes without a sign.
///
/// # Safety
/// A word of activations of `R` rows must be readable, and AVX2 enabled.
#[inline(always)]
unsafe fn add_unsigned<const R: usize>(
    shorts: &mut Whole<Ymm, R>,
    codes: [__m256i; 2],
    x: Inputs,
    word: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        for (row, shorts) in shorts.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(x.whole(row, word));
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
unsafe fn add_signed<const R: usize>(whole: &mut Whole<Ymm, R>, codes: [__m256i; 2], x: Inputs, word: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        let even = codes.map(|codes| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes)));
        let odd = codes.map(|codes| _mm256_srai_epi16::<8>(codes));
        for (codes, word) in [(even, word), (odd, word + 1)] {
            for (row, whole) in whole.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(x.whole(row, word));
                whole[0] = _mm256_add_epi32(whole[0], _mm256_madd_epi16(codes[0], x));
                whole[1] = _mm256_add_epi32(whole[1], _mm256_madd_epi16(codes[1], x));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline(never)]
    unsafe fn strips<L: Grouped>(tile: &Tile<'_>, sums: &mut Sums, n_rows: usize) {
        // SAFETY: the caller keeps the promise of `TileFn`.
        unsafe { tile_in_strips::<Madd, L>(tile, sums, n_rows) }
    }
    sums.0[..ROWS].fill([0.0; COLUMNS]);
    // SAFETY: as above.
    unsafe { strips::<L>(tile, sums, ROWS) }
}

/// Tiles of a layout.
pub(super) fn tile_fns(layout: Layout) -> &'static TileFns {
    by_layout!(layout, L => &const { by_rows!(tile, L) })
}
