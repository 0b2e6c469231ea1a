//! Activations in the order in which a tile broadcasts them.

use dsde_checkpoint::Group;

use super::super::RmsNorm;
use super::groups::{BYTES_WORDS, CODE_MAX, EXCESS_OFFSET, QUAD, QUADS, SHORTS_WORDS};
use super::isa::{Isa, dispatch};
use super::math::rms_scale;
use super::weights::{Activations, BF16_RUN};

/// Inputs converted at a time, before they are spread over the block.
const PIECE: usize = 64;
/// Adding and taking away 1.5 * 2^23 rounds a smaller number to the nearest whole one, ties to even.
const TO_WHOLE: f32 = 12_582_912.0;

/// Where a row goes in a packed block of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// How the block is stored.
    pub(super) activations: Activations,
    /// Index of the row in the block.
    pub(super) row: usize,
    /// Rows of the block.
    pub(super) n_rows: usize,
}

/// Normalises a row, rounds it if the format asks for it, and writes it to its place in the block `words`.
pub(super) fn pack_row(isa: Isa, x: &[f32], norm: Option<RmsNorm<'_>>, place: Place, words: &mut [u32]) {
    match (isa, place.activations) {
        // SAFETY: a value of `Isa` reaches kernels only through `Cpu`, whose constructor checked that it is supported.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Activations::Bf16Pairs) => unsafe { avx512::pack_pairs(x, norm, place, words) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16, Activations::Bytes | Activations::BytesByRow) => unsafe {
            avx512::pack_bytes(x, norm, place, words)
        },
        _ => pack_any_row(isa, x, norm, place, words),
    }
}

/// The numbers of a row from `start` on, normalised, with zeros behind its end.
///
/// * `scale`: of the whole row.
#[inline(always)]
fn piece(x: &[f32], norm: Option<RmsNorm<'_>>, scale: f32, start: usize) -> [f32; PIECE] {
    let x = &x[start..x.len().min(start + PIECE)];
    let mut piece = [0.0; PIECE];
    piece[..x.len()].copy_from_slice(x);
    if let Some(norm) = norm {
        for (piece, weight) in piece.iter_mut().zip(&norm.weight[start..start + x.len()]) {
            *piece = *piece * scale * weight;
        }
    }
    piece
}

dispatch! {
    fn pack_any_row(x: &[f32], norm: Option<RmsNorm<'_>>, place: Place, words: &mut [u32]) {
        let scale = norm.map_or(1.0, |norm| rms_scale(x, norm.eps));
        for start in (0..x.len()).step_by(PIECE) {
            let piece = piece(x, norm, scale, start);
            let len = PIECE.min(x.len() - start);
            match place.activations {
                Activations::Bf16Pairs => unreachable!("AVX-512 BF16 alone multiplies pairs"),
                Activations::F32 => {
                    let padded_len = len.next_multiple_of(2);
                    spread(&piece.map(f32::to_bits)[..padded_len], &mut words[start * place.n_rows..], place);
                }
                Activations::Bytes | Activations::BytesByRow => {
                    let n_groups = len.div_ceil(Group::LEN);
                    for (i, group) in piece.as_chunks().0.iter().take(n_groups).enumerate() {
                        write_group(&bytes(&rounded(group)), start / Group::LEN + i, place, words);
                    }
                }
                Activations::Shorts => {
                    let n_groups = len.div_ceil(Group::LEN);
                    for (i, group) in piece.as_chunks().0.iter().take(n_groups).enumerate() {
                        write_group(&shorts(&rounded(group)), start / Group::LEN + i, place, words);
                    }
                }
            }
        }
    }
}

/// [`pack_row`] with intrinsics, of what compilers make three times as many instructions from plain loops.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::{
        BF16_RUN, BYTES_WORDS, CODE_MAX, Group, Place, QUADS, RmsNorm, beside_codes, inverse_scale,
        rms_scale, write_group,
    };

    /// Of [`super::Activations::Bf16Pairs`]. The instruction takes subnormal numbers for zeros, as the products do.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) fn pack_pairs(x: &[f32], norm: Option<RmsNorm<'_>>, place: Place, words: &mut [u32]) {
        let scale = _mm512_set1_ps(norm.map_or(1.0, |norm| rms_scale(x, norm.eps)));
        for (run, start) in (0..x.len()).step_by(2 * BF16_RUN).enumerate() {
            let numbers = &x[start..x.len().min(start + 2 * BF16_RUN)];
            let present = u16::MAX >> (2 * BF16_RUN - numbers.len());
            // SAFETY: as many numbers are read as `numbers` has, and as the weight of the norm has from `start` on: it is as long as `x`.
            let mut numbers = unsafe { _mm512_maskz_loadu_ps(present, numbers.as_ptr()) };
            if let Some(norm) = norm {
                let weight = &norm.weight[start..x.len().min(start + 2 * BF16_RUN)];
                // SAFETY: as above.
                let weight = unsafe { _mm512_maskz_loadu_ps(present, weight.as_ptr()) };
                numbers = _mm512_mul_ps(_mm512_mul_ps(numbers, scale), weight);
            }
            store_pairs(_mm512_cvtneps_pbh(numbers), run, place, words);
        }
    }

    /// Writes run `run` of a row of [`super::Activations::Bf16Pairs`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in super::super) fn store_pairs(pairs: __m256bh, run: usize, place: Place, words: &mut [u32]) {
        let at = (run * place.n_rows + place.row) * BF16_RUN;
        let to: &mut [u32; BF16_RUN] = words[at..].first_chunk_mut().expect("a block holds whole runs");
        // SAFETY: both are 32 bytes without invalid values.
        *to = unsafe { std::mem::transmute::<__m256bh, [u32; BF16_RUN]>(pairs) };
    }

    /// Of [`super::Activations::Bytes`], or by row.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn pack_bytes(x: &[f32], norm: Option<RmsNorm<'_>>, place: Place, words: &mut [u32]) {
        let scale = _mm512_set1_ps(norm.map_or(1.0, |norm| rms_scale(x, norm.eps)));
        for (at, group) in x.as_chunks::<{ Group::LEN }>().0.iter().enumerate() {
            // SAFETY: 32 numbers are read, and as many of the weight of the norm, which is as long as `x`.
            let mut halves = unsafe { halves_of(group.as_ptr()) };
            if let Some(norm) = norm {
                let weight: &[f32; Group::LEN] =
                    norm.weight[at * Group::LEN..].first_chunk().expect("a weight per input");
                // SAFETY: as above.
                let weights = unsafe { halves_of(weight.as_ptr()) };
                halves = [0, 1].map(|i| _mm512_mul_ps(_mm512_mul_ps(halves[i], scale), weights[i]));
            }
            write_group(&bytes(halves), at, place, words);
        }
    }

    /// # Safety
    /// 32 numbers must be readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn halves_of(numbers: *const f32) -> [__m512; 2] {
        // SAFETY: by the caller's promise.
        unsafe { [_mm512_loadu_ps(numbers), _mm512_loadu_ps(numbers.add(Group::LEN / 2))] }
    }

    /// As [`super::bytes`] of the rounded group; what is not a number becomes any one here, too.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    fn bytes(halves: [__m512; 2]) -> [u32; BYTES_WORDS] {
        let mut words = [0; BYTES_WORDS];
        let max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(halves[0]), _mm512_abs_ps(halves[1])));
        let inverse = _mm512_set1_ps(inverse_scale(max));
        let codes = halves.map(|x| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse))));
        let codes = _mm256_set_m128i(codes[1], codes[0]);
        // Sums of eight bytes each, which want no sign.
        let sums =
            _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN)), _mm256_setzero_si256());
        let sums = _mm_add_epi64(
            _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(sums)),
            _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b11_01>(sums)),
        );
        let of_half = |sum: i64| sum as i32 - 128 * (Group::LEN / 2) as i32;
        let sums = [of_half(_mm_extract_epi64::<0>(sums)), of_half(_mm_extract_epi64::<1>(sums))];
        // SAFETY: the group has as many bytes.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), codes) };
        words[QUADS..].copy_from_slice(&beside_codes(max / CODE_MAX, sums));
        words
    }
}

/// A group as whole numbers.
struct Rounded {
    codes: [i32; Group::LEN],
    scale: f32,
}

/// What numbers of at most this magnitude are multiplied by to become codes; 0 where that is no number.
#[inline(always)]
fn inverse_scale(max: f32) -> f32 {
    let inverse = CODE_MAX / max;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[inline(always)]
fn rounded(group: &[f32; Group::LEN]) -> Rounded {
    // Eight maxima beside each other, which compilers turn into one vector.
    let mut maxima = [0.0_f32; 8];
    for eight in group.as_chunks::<8>().0 {
        for (max, x) in maxima.iter_mut().zip(eight) {
            let magnitude = x.abs();
            *max = if magnitude > *max { magnitude } else { *max };
        }
    }
    let mut max = 0.0;
    for x in maxima {
        max = if x > max { x } else { max };
    }
    let inverse = inverse_scale(max);
    let mut codes = [0; Group::LEN];
    for (code, x) in codes.iter_mut().zip(group) {
        // The low bits of the sum are the whole number; what is not a number becomes any one.
        *code = (x * inverse + TO_WHOLE).to_bits().wrapping_sub(TO_WHOLE.to_bits()).cast_signed();
    }
    Rounded { codes, scale: max / CODE_MAX }
}

/// Words of [`Activations::Bytes`].
#[inline(always)]
fn bytes(group: &Rounded) -> [u32; BYTES_WORDS] {
    let mut bytes = [0; Group::LEN];
    for (byte, code) in bytes.iter_mut().zip(&group.codes) {
        *byte = *code as u8;
    }
    let mut words = [0; BYTES_WORDS];
    for (word, quad) in words.iter_mut().zip(bytes.as_chunks::<QUAD>().0) {
        *word = u32::from_le_bytes(*quad);
    }
    let mut sums = [0_i32; 2];
    for (sum, codes) in sums.iter_mut().zip(group.codes.as_chunks::<{ Group::LEN / 2 }>().0) {
        for code in codes {
            *sum = sum.wrapping_add(*code);
        }
    }
    words[QUADS..].copy_from_slice(&beside_codes(group.scale, sums));
    words
}

/// The words of [`Activations::Bytes`] behind the quads, of the sums of either half.
#[inline(always)]
fn beside_codes(scale: f32, sums: [i32; 2]) -> [u32; BYTES_WORDS - QUADS] {
    let [first, second] = sums;
    let sum = first.wrapping_add(second);
    let excess = |sum: i32| sum.wrapping_mul(-EXCESS_OFFSET).cast_unsigned();
    [scale.to_bits(), excess(sum), excess(first), (scale * sum as f32).to_bits()]
}

/// Words of [`Activations::Shorts`].
#[inline(always)]
fn shorts(group: &Rounded) -> [u32; SHORTS_WORDS] {
    let mut words = [0; SHORTS_WORDS];
    for (pair, quad) in words.as_chunks_mut::<2>().0.iter_mut().zip(group.codes.as_chunks::<QUAD>().0) {
        pair[0] = quad[0].cast_unsigned() & 0xffff | quad[2].cast_unsigned() << 16;
        pair[1] = quad[1].cast_unsigned() & 0xffff | quad[3].cast_unsigned() << 16;
    }
    words[2 * QUADS] = group.scale.to_bits();
    words
}

/// Writes group `group` of a row.
#[inline(always)]
fn write_group<const N: usize>(group_words: &[u32; N], group: usize, place: Place, block: &mut [u32]) {
    let at = group * place.n_rows * N;
    match place.activations {
        Activations::BytesByRow => block[at + place.row * N..][..N].copy_from_slice(group_words),
        _ => spread(group_words, &mut block[at..], place),
    }
}

/// Writes `words[i]` as word `i` of a row.
#[inline(always)]
fn spread(words: &[u32], block: &mut [u32], place: Place) {
    if place.n_rows == 1 {
        block[..words.len()].copy_from_slice(words);
        return;
    }
    let mut at = place.row;
    for word in words {
        block[at] = *word;
        at += place.n_rows;
    }
}
