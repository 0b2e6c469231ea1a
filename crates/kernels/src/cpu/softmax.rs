//! Unnormalised softmax over the visible part of a row of scores.

use std::ops::Range;

use super::isa::dispatch;
use super::math::{PARTS, exp};
use super::weights::{Format, bf16_bits, bf16_value};

dispatch! {
    /// Replaces the scores of `visible` by `e^(scale * (score - max))`, the others by zeros, and returns the sum.
    /// `scores` are a whole number of [`PARTS`].
    ///
    /// * `sink`: a score, scaled already, whose `e^(sink - scale * max)` is part of the sum alone.
    ///
    /// Where the weights will be rounded to bf16 they are rounded here, so that the sum is that of the weights in use.
    pub(super) fn softmax(scores: &mut [f32], visible: Range<usize>, scale: f32, sink: Option<f32>, format: Format) -> f32 {
        let max = max_of(&scores[visible.clone()]);
        let mut sums = [0.0; PARTS];
        for (chunk_idx, chunk) in scores.as_chunks_mut::<PARTS>().0.iter_mut().enumerate() {
            let [start, end] = [visible.start, visible.end].map(|at| at.saturating_sub(chunk_idx * PARTS));
            for (i, (score, sum)) in chunk.iter_mut().zip(&mut sums).enumerate() {
                let weight = exp((*score - max) * scale);
                let weight = if format == Format::Bf16Dot { bf16_value(bf16_bits(weight)) } else { weight };
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
