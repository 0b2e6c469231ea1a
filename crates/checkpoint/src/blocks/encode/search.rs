//! Scales with the least weighted square error: codes are tried for a row of scales, and for each set of codes the best scale,
//! and minimum, follows by least squares.

use crate::stored::Group;

/// Sums run in as many lanes, so that they are done in parallel and in the same order on every machine.
const LANES: usize = 8;
/// Distance of the tried scales, in codes of the largest value.
const STEP: f32 = 0.1;
/// Scales tried on either side of the one that takes the largest value exactly.
const N_SYMMETRIC: i32 = 9;
/// Scales tried from [`BELOW`] on.
const N_AFFINE: i32 = 20;
/// How many codes below the largest one the range may end in the first try.
const BELOW: f32 = 1.0;

/// The nearest whole number, the even one of two; for numbers of less than 22 bits.
pub(super) fn rounded(x: f32) -> f32 {
    /// Numbers of this size have no fraction: 1.5 * 2^23.
    const WHOLE: f32 = 12_582_912.0;
    (x + WHOLE) - WHOLE
}

/// A scale for codes from `-middle` to `middle - 1`.
///
/// Errors count by the square of the value: large weights matter more than their number says.
pub(super) fn symmetric_scale(values: &[f32], middle: i32) -> f32 {
    let middle = middle as f32;
    let extreme =
        values.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = extreme / -middle;
    // The error is less by this than that of zeros.
    let mut gain = 0.0;
    for step in -N_SYMMETRIC..=N_SYMMETRIC {
        let inverse = -(middle + STEP * step as f32) / extreme;
        let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for values in values.as_chunks::<LANES>().0 {
            for (i, x) in values.iter().enumerate() {
                let q = rounded(inverse * x).clamp(-middle, middle - 1.0);
                let weighted = x * x * q;
                xq[i] += weighted * x;
                qq[i] += weighted * q;
            }
        }
        let (xq, qq) = (sum(xq), sum(qq));
        if xq * xq > gain * qq {
            (gain, best) = (xq * xq / qq, xq / qq);
        }
    }
    best
}

/// What [`affine`] finds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Affine {
    /// Not negative.
    pub(super) scale: f32,
    /// Taken away from scaled codes; not negative.
    pub(super) min: f32,
}

/// A scale and a minimum for codes from 0 to `most`.
///
/// Errors count by the value and the root mean square, added.
pub(super) fn affine(values: &[f32; Group::LEN], most: i32) -> Affine {
    let most = most as f32;
    let least = values.iter().fold(0.0_f32, |least, &x| least.min(x));
    let largest = values.iter().fold(least, |largest, &x| largest.max(x));
    if largest == least {
        return Affine { scale: 0.0, min: -least };
    }
    let square = sum(lanes(values, |x| x * x));
    let root = (square / Group::LEN as f32).sqrt();
    let weight = |x: f32| root + x.abs();
    let mut best = Affine { scale: (largest - least) / most, min: -least };
    let mut error = f32::INFINITY;
    for step in 0..=N_AFFINE {
        let inverse = (most - BELOW + STEP * step as f32) / (largest - least);
        let codes = values.map(|x| rounded(inverse * (x - least)).clamp(0.0, most));
        let Some(tried) = fitted(values, &codes, weight) else { continue };
        let tried_error = error_of(values, &codes, weight, tried);
        if tried_error < error {
            (error, best) = (tried_error, tried);
        }
    }
    best
}

/// The best scale and minimum for given codes, if there is one.
fn fitted(values: &[f32], codes: &[f32], weight: impl Fn(f32) -> f32) -> Option<Affine> {
    let [mut w, mut wx, mut wq, mut wxq, mut wqq] = [[0.0; LANES]; 5];
    let chunks = values.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0);
    for (values, codes) in chunks {
        for i in 0..LANES {
            let (x, q, weight) = (values[i], codes[i], weight(values[i]));
            w[i] += weight;
            wx[i] += weight * x;
            wq[i] += weight * q;
            wxq[i] += weight * x * q;
            wqq[i] += weight * q * q;
        }
    }
    let [w, wx, wq, wxq, wqq] = [w, wx, wq, wxq, wqq].map(sum);
    let determinant = w * wqq - wq * wq;
    if determinant > 0.0 {
        let min = (wq * wxq - wqq * wx) / determinant;
        let scale = (w * wxq - wx * wq) / determinant;
        if min >= 0.0 && scale >= 0.0 {
            return Some(Affine { scale, min });
        }
    }
    (wqq > 0.0 && wxq >= 0.0).then(|| Affine { scale: wxq / wqq, min: 0.0 })
}

fn error_of(values: &[f32], codes: &[f32], weight: impl Fn(f32) -> f32, affine: Affine) -> f32 {
    let mut error = [0.0; LANES];
    for (values, codes) in values.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let difference = affine.scale * codes[i] - affine.min - values[i];
            error[i] += weight(values[i]) * difference * difference;
        }
    }
    sum(error)
}

fn lanes(values: &[f32], term: impl Fn(f32) -> f32) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for (lane, &x) in lanes.iter_mut().zip(values) {
            *lane += term(x);
        }
    }
    lanes
}

fn sum(lanes: [f32; LANES]) -> f32 {
    lanes.iter().sum()
}
