//! Unnormalised softmax over the visible part of a row of scores.

use std::ops::Range;

use super::isa::dispatch;
use super::math::{PARTS, exp};

dispatch! {
    /// Replaces the scores of `visible` by `e^(scale * (score - max))`, the others by zeros, and returns the sum.
    /// `scores` are a whole number of [`PARTS`].
    ///
    /// * `sink`: a score, scaled already, whose `e^(sink - scale * max)` is part of the sum alone.
    pub(super) fn softmax(scores: &mut [f32], visible: Range<usize>, scale: f32, sink: Option<f32>) -> f32 {
        let max = max_of(&scores[visible.clone()]);
        let mut sums = [0.0; PARTS];
        for (chunk_idx, chunk) in scores.as_chunks_mut::<PARTS>().0.iter_mut().enumerate() {
            let [start, end] = [visible.start, visible.end].map(|at| at.saturating_sub(chunk_idx * PARTS));
            for (i, (score, sum)) in chunk.iter_mut().zip(&mut sums).enumerate() {
                let weight = exp((*score - max) * scale);
                *score = if i >= start && i < end { weight } else { 0.0 };
                *sum += *score;
            }
        }
        let sum: f32 = sums.iter().sum();
        sink.map_or(sum, |sink| sum + exp(sink - scale * max))
    }
}

#[inline(always)]
fn max_of(x: &[f32]) -> f32 {
    let mut parts = [f32::NEG_INFINITY; PARTS];
    let (chunks, rest) = x.as_chunks::<PARTS>();
    for chunk in chunks {
        for (part, &x) in parts.iter_mut().zip(chunk) {
            *part = if x > *part { x } else { *part };
        }
    }
    for (part, &x) in parts.iter_mut().zip(rest) {
        *part = if x > *part { x } else { *part };
    }
    parts.into_iter().fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max })
}

/// [`softmax`] with intrinsics, for weights that become [`Activations::Bf16Pairs`](super::weights::Activations).
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_bf16 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::super::activations::{Place, avx512::store_pairs};
    use super::{PARTS, exp, max_of};

    /// Packs the rounded weights as a row of `words` and returns the sum of them as rounded; else as [`softmax`](super::softmax).
    ///
    /// # Safety
    /// The processor must have AVX-512 BF16.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(in super::super) fn softmax_pairs(
        scores: &[f32],
        visible: Range<usize>,
        scale: f32,
        sink: Option<f32>,
        place: Place,
        words: &mut [u32],
    ) -> f32 {
        let max = max_of(&scores[visible.clone()]);
        let [max_vector, slope] = [max, scale * std::f32::consts::LOG2_E].map(|x| _mm512_set1_ps(x));
        let mut sums = _mm512_setzero_ps();
        for (run, chunk) in scores.as_chunks::<PARTS>().0.iter().enumerate() {
            let [before, end] =
                [visible.start, visible.end].map(|at| at.saturating_sub(run * PARTS).min(PARTS));
            let mask = ((1_u32 << end) - (1_u32 << before.min(end))) as u16;
            // SAFETY: a chunk is one vector of numbers.
            let scores = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
            let power = power_of_two(_mm512_mul_ps(_mm512_sub_ps(scores, max_vector), slope));
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_mov_ps(mask, power));
            sums = _mm512_add_ps(sums, widen(rounded));
            store_pairs(rounded, run, place, words);
        }
        let mut parts = [0.0; PARTS];
        // SAFETY: as many numbers are written as a vector has.
        unsafe { _mm512_storeu_ps(parts.as_mut_ptr(), sums) };
        let sum: f32 = parts.iter().sum();
        sink.map_or(sum, |sink| sum + exp(sink - scale * max))
    }

    /// `2^x` for `x` of at most 0, with a relative error under 3e-6, a thousandth of what rounding to bf16 adds.
    ///
    /// `x = n + f` with integer `n`; the power series of `2^f` up to `f^5`, whose next term is below 2.5e-6 for `|f| <= 1 / 2`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn power_of_two(x: __m512) -> __m512 {
        const LN_2: f32 = std::f32::consts::LN_2;
        const TERMS: [f32; 5] =
            [LN_2 * LN_2 * LN_2 * LN_2 / 24.0, LN_2 * LN_2 * LN_2 / 6.0, LN_2 * LN_2 / 2.0, LN_2, 1.0];
        // Far below what f32 holds; of two operands the second is taken where one is not a number.
        let x = _mm512_max_ps(_mm512_set1_ps(-1000.0), x);
        let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        let f = _mm512_sub_ps(x, n);
        let mut series = _mm512_set1_ps(LN_2 * LN_2 * LN_2 * LN_2 * LN_2 / 120.0);
        for term in TERMS {
            series = _mm512_fmadd_ps(series, f, _mm512_set1_ps(term));
        }
        _mm512_scalef_ps(series, n)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn widen(rounded: __m256bh) -> __m512 {
        // SAFETY: both are 32 bytes without invalid values.
        let bits: __m256i = unsafe { std::mem::transmute(rounded) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}
