//! Four products of bytes and their sum in one instruction: AVX-VNNI and AVX-512 VNNI.
//!
//! The instruction wants codes without a sign. Those with one meet activations 128 too large, which is taken away again with the sum
//! of the activations, as the offset of other codes is.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::groups::{BYTES_WORDS, Grouped, Layout, QUADS, by_layout};
use super::super::tile::{Sums, Tile, TileFns, by_rows};
use super::codes::Codes;
use super::vector::{Vector, Ymm, Zmm};
use super::{Multiplier, Step, Whole, tile_in_strips};

/// What is added to a code with a sign.
const BIAS: u8 = 128;

/// A vector with dot products.
trait ByteDot: Vector {
    /// See [`Multiplier`].
    const STRIP_ROWS_MAX: usize;
    /// See [`Multiplier`].
    const LONE_ROWS_MAX: usize;
    /// See [`Multiplier`].
    const CHUNK_STEPS: usize;

    /// `sums` and the sum of four products per lane, of codes without and activations with a sign.
    ///
    /// # Safety
    /// The instruction must be enabled.
    unsafe fn dot(sums: Self::Whole, codes: Self::Whole, x: Self::Whole) -> Self::Whole;
}

impl ByteDot for Ymm {
    const STRIP_ROWS_MAX: usize = 4;
    const LONE_ROWS_MAX: usize = 4;
    const CHUNK_STEPS: usize = 1;

    #[inline(always)]
    unsafe fn dot(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: by the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, codes, x) }
    }
}

impl ByteDot for Zmm {
    const STRIP_ROWS_MAX: usize = 6;
    const LONE_ROWS_MAX: usize = 8;
    // With the activations of 12 rows no more than 32 KiB.
    const CHUNK_STEPS: usize = 16;

    #[inline(always)]
    unsafe fn dot(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: by the caller's promise.
        unsafe { _mm512_dpbusd_epi32(sums, codes, x) }
    }
}

struct Dot<V>(PhantomData<V>);

impl<V: ByteDot> Multiplier for Dot<V> {
    type V = V;

    const STRIP_ROWS_MAX: usize = V::STRIP_ROWS_MAX;
    const LONE_ROWS_MAX: usize = V::LONE_ROWS_MAX;
    const CHUNK_STEPS: usize = V::CHUNK_STEPS;

    fn words(_: Layout) -> usize {
        BYTES_WORDS
    }

    fn scale_word(_: Layout) -> usize {
        QUADS
    }

    fn offset(layout: Layout) -> i32 {
        if layout.is_signed() { BIAS.into() } else { layout.offset() }
    }

    fn run_len(layout: Layout) -> usize {
        QUADS / 2 / layout.parts()
    }

    #[inline(always)]
    unsafe fn add_part<L: Grouped, const R: usize>(whole: &mut Whole<V, R>, step: Step, part: usize) {
        let Step { x, n_rows, run, ahead, .. } = step;
        let columns = step.codes(L::LAYOUT);
        let first = part * Self::run_len(L::LAYOUT);
        for pair in first..first + run.len {
            ahead.fetch(pair);
            // SAFETY: by the caller's promise.
            unsafe {
                let codes = Codes::<V>::read::<L>(columns, pair).map(|codes| unsigned::<V, L>(codes));
                let x = x.add(2 * pair * n_rows);
                for (codes, x) in [(codes.low, x), (codes.high, x.add(n_rows))] {
                    for (row, whole) in whole.iter_mut().enumerate() {
                        let x = V::splat((*x.add(row)).cast_signed());
                        whole[0] = V::dot(whole[0], codes[0], x);
                        whole[1] = V::dot(whole[1], codes[1], x);
                    }
                }
            }
        }
    }
}

/// Stored codes as the instruction wants them.
///
/// # Safety
/// The instructions of `V` must be enabled.
#[inline(always)]
unsafe fn unsigned<V: Vector, L: Grouped>(codes: V::Whole) -> V::Whole {
    // SAFETY: by the caller's promise.
    unsafe {
        match L::LAYOUT.table() {
            Some(table) => V::look_up(&table.map(|value| value.cast_unsigned() ^ BIAS), codes),
            None if L::LAYOUT.is_signed() => V::xor(codes, V::splat_byte(BIAS)),
            None => codes,
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline(never)]
    unsafe fn strips<L: Grouped>(tile: &Tile<'_>, sums: &mut Sums, n_rows: usize) {
        // SAFETY: the caller keeps the promise of `TileFn`.
        unsafe { tile_in_strips::<Dot<Zmm>, L>(tile, sums, n_rows) }
    }
    // SAFETY: as above.
    unsafe { strips::<L>(tile, sums, ROWS) }
}

/// Tiles with AVX-512 VNNI.
pub(super) fn avx512_fns(layout: Layout) -> &'static TileFns {
    by_layout!(layout, avx512)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn avx<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    #[inline(never)]
    unsafe fn strips<L: Grouped>(tile: &Tile<'_>, sums: &mut Sums, n_rows: usize) {
        // SAFETY: the caller keeps the promise of `TileFn`.
        unsafe { tile_in_strips::<Dot<Ymm>, L>(tile, sums, n_rows) }
    }
    // SAFETY: as above.
    unsafe { strips::<L>(tile, sums, ROWS) }
}

/// Tiles with AVX-VNNI.
pub(super) fn avx_fns(layout: Layout) -> &'static TileFns {
    by_layout!(layout, avx)
}
