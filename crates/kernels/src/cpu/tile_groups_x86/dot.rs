//! Four products of bytes and their sum in one instruction: AVX-VNNI and AVX-512 VNNI.
//!
//! The instruction wants codes without a sign. Those with one meet activations 128 too large, which is taken away again with the sum
//! of the activations, as the offset of other codes is.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::groups::{BYTES_WORDS, EXCESS_OFFSET, Grouped, Layout, QUADS, SCALE};
use super::codes::Codes;
use super::vector::{Vector, Ymm, Zmm};
use super::{Multiplier, Step, Strides, Whole};

/// What is added to a code with a sign.
const BIAS: u8 = EXCESS_OFFSET as u8;

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
    const DIVIDES_EXCESS: bool = true;

    fn words(_: Layout) -> usize {
        BYTES_WORDS
    }

    fn strides(_: usize) -> Strides {
        Strides { row: BYTES_WORDS, word: 1 }
    }

    fn scale_word(_: Layout) -> usize {
        SCALE
    }

    fn offset(layout: Layout) -> i32 {
        if layout.is_signed() { BIAS.into() } else { layout.offset() }
    }

    fn run_len(layout: Layout) -> usize {
        QUADS / 2 / layout.parts()
    }

    #[inline(always)]
    unsafe fn add_part<L: Grouped, const UNPACKS: bool, const R: usize>(
        whole: &mut Whole<V, R>,
        step: Step,
        part: usize,
    ) {
        let Step { weights, x, unpacked, run, ahead } = step;
        let columns = weights.codes(L::LAYOUT);
        let first = part * Self::run_len(L::LAYOUT);
        for pair in first..first + run.len {
            ahead.fetch(pair);
            // SAFETY: by the caller's promise.
            unsafe {
                let mut codes = Codes::<V>::read::<L>(columns, pair).map(|codes| unsigned::<V, L>(codes));
                if UNPACKS {
                    let more = L::Unpacked::LAYOUT.offset() - Self::offset(L::LAYOUT);
                    if more != 0 {
                        codes = codes.map(|codes| V::add_bytes(codes, V::splat_byte(more as u8)));
                    }
                    codes.write(unpacked, weights.columns, pair);
                }
                for (codes, quad) in [(codes.low, 2 * pair), (codes.high, 2 * pair + 1)] {
                    for (row, whole) in whole.iter_mut().enumerate() {
                        let x = V::splat(x.whole(row, quad));
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

/// The functions of a vector in a module of its own: tiles of packed steps, those of many rows, and what both are compiled from.
macro_rules! tiles {
    ($(#[$doc:meta])* $name:ident, $vector:ident, $features:literal) => {
        $(#[$doc])*
        pub(super) mod $name {
            use super::super::super::groups::{Grouped, Layout, by_layout};
            use super::super::super::tile::{COLUMNS, Sums, Tile, TileFns, Unpacked, by_rows};
            use super::super::vector::$vector;
            use super::super::{tile_in_strips, unpack_in_strips};
            use super::Dot;

            /// Tiles of packed steps.
            pub(in super::super) fn fns(layout: Layout) -> &'static TileFns {
                by_layout!(layout, L => &const { by_rows!(tile, L) })
            }

            /// Tiles for many rows.
            pub(in super::super) fn unpacked(layout: Layout) -> Unpacked {
                by_layout!(layout, L => {
                    type U = <L as Grouped>::Unpacked;
                    const { Unpacked { first: &by_rows!(unpacking, L), others: &by_rows!(added, U) } }
                })
            }

            #[target_feature(enable = $features)]
            unsafe fn tile<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
                sums.0[..ROWS].fill([0.0; COLUMNS]);
                // SAFETY: the caller keeps the promise of `TileFn`.
                unsafe { strips::<L>(tile, sums, ROWS) }
            }

            #[target_feature(enable = $features)]
            unsafe fn added<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
                // SAFETY: as above.
                unsafe { strips::<L>(tile, sums, ROWS) }
            }

            #[target_feature(enable = $features)]
            unsafe fn unpacking<L: Grouped, const ROWS: usize>(
                tile: &Tile<'_>,
                first_step: usize,
                unpacked: *mut u8,
                sums: &mut Sums,
            ) {
                // SAFETY: the caller keeps the promise of `UnpackingFn`.
                unsafe { unpacking_strips::<L>(tile, first_step, unpacked, sums, ROWS) }
            }

            // One function for any number of rows, as they call the same strips.
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn strips<L: Grouped>(tile: &Tile<'_>, sums: &mut Sums, n_rows: usize) {
                // SAFETY: as above.
                unsafe { tile_in_strips::<Dot<$vector>, L>(tile, sums, n_rows) }
            }

            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn unpacking_strips<L: Grouped>(
                tile: &Tile<'_>,
                first_step: usize,
                unpacked: *mut u8,
                sums: &mut Sums,
                n_rows: usize,
            ) {
                // SAFETY: as above.
                unsafe { unpack_in_strips::<Dot<$vector>, L>(tile, first_step, unpacked, sums, n_rows) }
            }
        }
    };
}

tiles! {
    /// AVX-512 VNNI.
    avx512, Zmm, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
}

tiles! {
    /// AVX-VNNI.
    avx, Ymm, "avx2,fma,f16c,avxvnni"
}
