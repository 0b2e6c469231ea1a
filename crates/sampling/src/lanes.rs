//! Arithmetic on [`LANES`] values at a time, the same bits on every instruction set.
//!
//! Plain loops over arrays of fixed length, inlined into their caller, are what the compiler turns into vector code for
//! whatever the caller may use. IEEE addition, multiplication and division round the same everywhere, and nothing here is
//! fused (`mul_add`) or left to a mathematics library, so a row gives the same result with SSE2, AVX-512 or NEON. A row that
//! does not fill its last lanes is padded with a neutral value instead of taking another path.

/// Values handled together: one AVX-512 register of `f32`, two of AVX, four of SSE or NEON.
pub const LANES: usize = 16;

/// A piece of a row.
pub type Lanes = [f32; LANES];

/// One running sum per lane.
pub type Sums = [f64; LANES];

/// Below this `exp` is 0: about the logarithm of the smallest normal number.
pub const EXP_MIN: f32 = -87.0;

/// Above this `exp` stays where it is: about the logarithm of the largest number.
pub const EXP_MAX: f32 = 88.0;

/// Part of ln 2 with ten bits, whose product with an exponent is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;

/// The rest of ln 2.
const LN_2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;

/// Added and subtracted again, it rounds to an integer: the spacing of numbers in `2^23..2^24` is one.
const ROUNDER: f32 = (3 << 22) as f32;

/// Bits of an `f32` below its exponent.
const MANTISSA_BITS: u32 = f32::MANTISSA_DIGITS - 1;

/// A partial piece, filled up with `fill`.
#[inline(always)]
pub fn padded(tail: &[f32], fill: f32) -> Lanes {
    let mut lanes = [fill; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// The values from `start` on, filled up with 0 at the end of the row.
#[inline(always)]
pub fn piece(row: &[f32], start: usize) -> Lanes {
    let rest = &row[start..];
    match rest.first_chunk() {
        Some(lanes) => *lanes,
        None => padded(rest, 0.0),
    }
}

/// `e^x` with a relative error below 2e-7 in `EXP_MIN..=EXP_MAX`; 0 below and for NaN, `e^EXP_MAX` above.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is its Taylor series up to `r^7 / 7!` (remainder 5e-9), `2^n` its bits.
#[inline(always)]
pub fn exp(x: Lanes) -> Lanes {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = exp_one(x[i]);
    }
    out
}

#[inline(always)]
fn exp_one(x: f32) -> f32 {
    let capped = if x < EXP_MAX { x } else { EXP_MAX };
    let bounded = if capped > EXP_MIN { capped } else { EXP_MIN };
    let rounded = bounded * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (bounded - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut series = 1.0 / 5040.0;
    series = series * r + 1.0 / 720.0;
    series = series * r + 1.0 / 120.0;
    series = series * r + 1.0 / 24.0;
    series = series * r + 1.0 / 6.0;
    series = series * r + 0.5;
    series = series * r + 1.0;
    series = series * r + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << MANTISSA_BITS);
    if x >= EXP_MIN { series * power } else { 0.0 }
}

/// `ln x` with an absolute error below 2e-7 plus a relative one below 2e-7; numbers under the smallest normal one count as it.
///
/// `x = 2^n m` with `m` in `sqrt(1/2)..sqrt(2)`; `ln m = 2 artanh s` with `s = (m - 1) / (m + 1)`, up to `s^9 / 9`
/// (remainder 1e-9).
#[inline(always)]
pub fn ln(x: Lanes) -> Lanes {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = ln_one(x[i]);
    }
    out
}

#[inline(always)]
fn ln_one(x: f32) -> f32 {
    let bounded = if x > f32::MIN_POSITIVE { x } else { f32::MIN_POSITIVE };
    let bits = bounded.to_bits() as i32;
    let n = (bits - std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32) >> MANTISSA_BITS;
    let m = f32::from_bits((bits - (n << MANTISSA_BITS)) as u32);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut series = 2.0 / 9.0;
    series = series * s2 + 2.0 / 7.0;
    series = series * s2 + 2.0 / 5.0;
    series = series * s2 + 2.0 / 3.0;
    series = series * s2 + 2.0;
    let n = n as f32;
    n * LN_2_HIGH + (series * s + n * LN_2_LOW)
}

/// Adds each value to the sum of its lane.
#[inline(always)]
pub fn accumulate(sums: &mut Sums, values: Lanes) {
    for i in 0..LANES {
        sums[i] += f64::from(values[i]);
    }
}

/// Sum over the lanes, in a fixed order of pairs.
#[inline(always)]
pub fn total(mut sums: Sums) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Largest value of a row, not above `f32::MAX`; `-inf` if there is none (empty, or all NaN or `-inf`).
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let (chunks, tail) = row.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        raise(&mut best, chunk);
    }
    raise(&mut best, &padded(tail, f32::NEG_INFINITY));
    best.into_iter().fold(f32::NEG_INFINITY, f32::max).min(f32::MAX)
}

/// Whether some value is at least `floor`.
#[inline(always)]
pub fn reaches<const N: usize>(values: &[f32; N], floor: f32) -> bool {
    let mut found = false;
    for value in values {
        found |= *value >= floor;
    }
    found
}

#[inline(always)]
fn raise(best: &mut Lanes, values: &Lanes) {
    for i in 0..LANES {
        best[i] = if values[i] > best[i] { values[i] } else { best[i] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly spaced points and the ends of `low..=high`.
    fn points(low: f32, high: f32) -> impl Iterator<Item = f32> {
        let n = 200_000;
        (0..=n).map(move |i| low + (high - low) * (i as f32 / n as f32))
    }

    #[test]
    fn exp_is_within_two_ten_millionths_of_the_exact_value() {
        for x in points(EXP_MIN, EXP_MAX) {
            let [got, ..] = exp([x; LANES]);
            let expected = f64::from(x).exp();
            let error = (f64::from(got) / expected - 1.0).abs();
            assert!(error < 2e-7, "exp({x}) = {got}, relative error {error:e}");
        }
    }

    #[test]
    fn exp_is_total() {
        let cases = [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::NEG_INFINITY, 0.0),
            (f32::NAN, 0.0),
            (-87.1, 0.0),
            (-1e30, 0.0),
            (f32::INFINITY, exp([EXP_MAX; LANES])[0]),
        ];
        for (x, expected) in cases {
            assert_eq!(exp([x; LANES]), [expected; LANES], "exp({x})");
        }
    }

    #[test]
    fn ln_is_within_two_ten_millionths_of_the_exact_value() {
        let exponents = points(-126.0, 127.0).map(f32::exp2);
        for x in exponents.chain(points(0.5, 2.0)).chain([f32::MAX]) {
            let [got, ..] = ln([x; LANES]);
            let expected = f64::from(x).ln();
            let error = (f64::from(got) - expected).abs() / expected.abs().max(1.0);
            assert!(error < 2e-7, "ln({x}) = {got}, error {error:e}");
        }
    }

    #[test]
    fn ln_counts_what_is_too_small_as_the_smallest_normal_number() {
        // ln(2^-126) = -126 * 0.693147 = -87.33654
        for x in [0.0, -1.0, 1e-40, f32::MIN_POSITIVE, f32::NAN] {
            let [got, ..] = ln([x; LANES]);
            assert!((got + 87.336_54).abs() < 1e-4, "ln({x}) = {got}");
        }
        assert_eq!(ln([1.0; LANES]), [0.0; LANES]);
    }

    #[test]
    fn lanes_do_not_influence_each_other() {
        let mut x = [0.0; LANES];
        for (i, value) in x.iter_mut().enumerate() {
            *value = -0.37 * i as f32;
        }
        let (all_exp, all_ln) = (exp(x), ln(exp(x)));
        for i in 0..LANES {
            assert_eq!(exp([x[i]; LANES])[0], all_exp[i]);
            assert_eq!(ln([all_exp[i]; LANES])[0], all_ln[i]);
        }
    }

    #[test]
    fn max_ignores_nan_and_finds_every_position() {
        for len in [1, 15, 16, 17, 40] {
            for position in 0..len {
                let mut row = vec![f32::NAN; len];
                row[len - 1 - position] = f32::NEG_INFINITY;
                row[position] = -3.0;
                assert_eq!(max(&row), -3.0, "position {position} of {len}");
            }
        }
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        assert_eq!(max(&[f32::NAN; 20]), f32::NEG_INFINITY);
        assert_eq!(max(&[0.0, f32::INFINITY]), f32::MAX);
    }

    #[test]
    fn total_adds_every_lane_once() {
        let mut sums = [0.0; LANES];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = f64::from(1_u32 << i);
        }
        assert_eq!(total(sums), 65_535.0);
    }
}
