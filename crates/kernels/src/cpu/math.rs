//! Functions of one row, in ordinary Rust that is compiled once per instruction set.

use super::super::RmsNorm;
use super::isa::dispatch;

/// Partial sums of a reduction; fixed, so that a sum does not depend on the instruction set.
pub(super) const PARTS: usize = 16;

/// `e^x` with a relative error under 2e-7 where the result is a normal number; smaller results become the smallest normal one.
///
/// `x = n ln 2 + r` with integer `n`; the power series of `e^r` up to `r^7`, whose next term is below 6e-9 for
/// `|r| <= ln 2 / 2`; the exponent field takes `n`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the low bits: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a number with few bits, whose multiples are exact, and the rest.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Where the exponent field ends.
    const X_MIN: f32 = -87.3;
    const X_MAX: f32 = 88.3;
    // Comparisons written so that a NaN passes through.
    let x = if x < X_MIN { X_MIN } else { x };
    let x = if x > X_MAX { X_MAX } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    series * power
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The Gaussian error linear unit by its tanh approximation, `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
///
/// `(1 + tanh(y)) / 2 = 1 / (1 + e^-2y)`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    /// -2 sqrt(2 / pi).
    const SLOPE: f32 = -1.595_769;
    x / (1.0 + exp(SLOPE * (x + 0.044_715 * x * x * x)))
}

/// Hyperbolic tangent with an absolute error under 3e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// Sum of squares, in [`PARTS`] partial sums by index.
#[inline(always)]
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut parts = [0.0; PARTS];
    let (chunks, rest) = x.as_chunks::<PARTS>();
    for chunk in chunks {
        for (part, x) in parts.iter_mut().zip(chunk) {
            *part += x * x;
        }
    }
    for (part, x) in parts.iter_mut().zip(rest) {
        *part += x * x;
    }
    parts.iter().sum()
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(super) fn rms_scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// [`RmsNorm`] of one row in place.
#[inline(always)]
pub(super) fn normalise(x: &mut [f32], norm: RmsNorm<'_>) {
    let scale = rms_scale(x, norm.eps);
    for (x, weight) in x.iter_mut().zip(norm.weight) {
        *x = *x * scale * weight;
    }
}

dispatch! {
    /// [`RmsNorm`] of rows as wide as its weight.
    pub(super) fn rms_norm(input: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
        let width = norm.weight.len().max(1);
        for (x, out) in input.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(x);
            normalise(out, norm);
        }
    }
}

dispatch! {
    /// `x = cap * tanh(scale * x / cap)`.
    pub(super) fn soft_cap(x: &mut [f32], scale: f32, cap: f32) {
        let slope = scale / cap;
        for x in x {
            *x = cap * tanh(*x * slope);
        }
    }
}
