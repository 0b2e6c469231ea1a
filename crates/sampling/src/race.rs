//! Draws by exponential race: the same numbers mostly let the same token win in two similar rows.
//!
//! Every token `v` gets an exponential time `-ln(1 - u_v)` from a number of its own; the token with the smallest
//! `time / weight` wins, and that is `v` with probability `weight_v / sum of weights` (the Gumbel-max trick in another form).
//! A draft and a target that race with the same numbers agree with probability at least `(1 - TV) / (1 + TV)`
//! (Daliri, Musco, Suresh: "Coupling without communication and drafter-invariant speculative decoding", arXiv:2408.07978),
//! while what the target draws depends on nothing that was guessed.
//!
//! Numbers have 64 bits. A time is never below its `u`, so a token can only take the lead if `u < weight * ratio of the
//! leader`: the upper 32 bits rule out nearly all tokens with a multiplication and a comparison each.

use crate::lanes;
use crate::rng::{Purpose, Stream, WORDS, words};

/// The winner of the race for the token at `position`; token 0 if nothing has weight.
///
/// * `row`: weights, `[vocab_len]`, not negative, need not add up to 1.
#[inline(always)]
pub fn winner(stream: Stream, position: u32, row: &[f32]) -> u32 {
    let mut leader = Leader { token: 0, ratio: f64::INFINITY };
    let (chunks, tail) = row.as_chunks::<WORDS>();
    for (part, weights) in (0..).zip(chunks) {
        leader = challenge(leader, stream, position, part, weights);
    }
    if !tail.is_empty() {
        let mut weights = [0.0; WORDS];
        weights[..tail.len()].copy_from_slice(tail);
        leader = challenge(leader, stream, position, chunks.len() as u32, &weights);
    }
    leader.token
}

/// Who has the smallest ratio of time and weight.
#[derive(Clone, Copy)]
struct Leader {
    token: u32,
    ratio: f64,
}

/// The leader after the `part`-th [`WORDS`] tokens.
#[inline(always)]
fn challenge(mut leader: Leader, stream: Stream, position: u32, part: u32, weights: &[f32; WORDS]) -> Leader {
    // Rows that were cut down to few tokens consist of zeros.
    if !lanes::reaches(weights, WEIGHT_MIN) {
        return leader;
    }
    let high = words(stream, position, Purpose::Draft, part);
    if !may_lead(weights, &high, leader.ratio) {
        return leader;
    }
    let low = words(stream, position, Purpose::Accept, part);
    for i in 0..WORDS {
        let weight = f64::from(weights[i]);
        if f64::from(high[i]) * WORD < weight * leader.ratio {
            let ratio = time(high[i], low[i]) / weight;
            if ratio < leader.ratio {
                leader = Leader { token: part * WORDS as u32 + i as u32, ratio };
            }
        }
    }
    leader
}

/// The smallest positive weight.
const WEIGHT_MIN: f32 = f32::from_bits(1);

/// One step of a 32-bit word, as a number in `[0, 1)`.
const WORD: f64 = 1.0 / (1_u64 << 32) as f64;

/// Whether some token may have a smaller ratio. Never wrongly says no: the left side errs downwards, and the right side is
/// rounded up by more than `f32` can err.
#[inline(always)]
fn may_lead(weights: &[f32; WORDS], high: &[u32; WORDS], ratio: f64) -> bool {
    const UP: f64 = 1.0 + 1e-5;
    // Infinite while nobody leads.
    let halved = (ratio * UP * f64::from(1_u32 << 31)) as f32;
    let mut found = false;
    for i in 0..WORDS {
        // Signed integers convert in one instruction everywhere; the bit that is lost makes the number smaller.
        found |= (high[i] >> 1) as i32 as f32 <= weights[i] * halved;
    }
    found
}

/// `-ln(1 - u)` for the number `u` in `(0, 1)` that two words make.
fn time(high: u32, low: u32) -> f64 {
    // The half keeps `u` off 0, the bound off 1.
    let u = (f64::from(high) + (f64::from(low) + 0.5) * WORD) * WORD;
    let rest = (1.0 - u).max(f64::EPSILON / 2.0);
    if u < 0.5 {
        // 1 / (1 - u) = (1 + s) / (1 - s)
        return twice_artanh(u / (2.0 - u));
    }
    // rest = 2^-n m with m in 1..2
    let n = 1023 - (rest.to_bits() >> 52) as i32;
    let m = rest * f64::from_bits(((1023 + n) as u64) << 52);
    f64::from(n) * std::f64::consts::LN_2 - twice_artanh((m - 1.0) / (m + 1.0))
}

/// `2 artanh s` for `s` in `0..=1/3`, by its series up to `s^33` (remainder below 1e-17).
fn twice_artanh(s: f64) -> f64 {
    let s2 = s * s;
    let mut series = 0.0;
    for k in (0..=16).rev() {
        series = series * s2 + 1.0 / f64::from(2 * k + 1);
    }
    2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u32 = 40_000;

    fn stream(seed: u64) -> Stream {
        Stream::Seeded { seed, choice: 0 }
    }

    /// Weights of `len` tokens, falling from the token `first` on.
    fn falling(len: usize, first: usize, ratio: f32) -> Vec<f32> {
        let mut row: Vec<f32> = (0..len).map(|i| ratio.powi(((i + len - first) % len) as i32)).collect();
        let mass: f32 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= mass);
        row
    }

    #[test]
    fn tokens_win_as_often_as_their_weights_say() {
        for (len, first, ratio) in [(2, 1, 0.5), (5, 0, 0.7), (64, 40, 0.9), (65, 64, 0.8), (300, 130, 0.97)]
        {
            let row = falling(len, first, ratio);
            let mut counts = vec![0.0; len];
            (0..N).for_each(|position| counts[winner(stream(5), position, &row) as usize] += 1.0);
            // Pearson's chi-square, tokens with fewer than five expected wins pooled; five sigma of its normal limit.
            let (mut chi_square, mut freedom, mut pooled) = (0.0, -1.0, (0.0, 0.0));
            for (&weight, count) in row.iter().zip(counts) {
                let expected = f64::from(weight) * f64::from(N);
                if expected < 5.0 {
                    pooled = (pooled.0 + expected, pooled.1 + count);
                } else {
                    chi_square += (count - expected) * (count - expected) / expected;
                    freedom += 1.0;
                }
            }
            if pooled.0 > 5.0 {
                chi_square += (pooled.1 - pooled.0) * (pooled.1 - pooled.0) / pooled.0;
                freedom += 1.0;
            }
            let bound = freedom + 5.0 * f64::sqrt(2.0 * freedom) + 10.0;
            assert!(chi_square < bound, "{len} tokens: chi-square {chi_square} of {bound}");
        }
    }

    #[test]
    fn the_short_cut_changes_no_winner() {
        for (len, first, ratio) in [(3, 0, 1e-3), (130, 70, 0.8), (500, 499, 0.99), (1000, 3, 0.5)] {
            let row = falling(len, first, ratio);
            for position in 0..500 {
                let mut expected = (f64::INFINITY, 0);
                for (token, &weight) in row.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                    let of =
                        |purpose| words(stream(9), position, purpose, (token / WORDS) as u32)[token % WORDS];
                    let ratio = time(of(Purpose::Draft), of(Purpose::Accept)) / f64::from(weight);
                    if ratio < expected.0 {
                        expected = (ratio, token as u32);
                    }
                }
                assert_eq!(winner(stream(9), position, &row), expected.1, "{len} tokens at {position}");
            }
        }
    }

    #[test]
    fn similar_rows_mostly_have_the_same_winner() {
        // Flat rows in which the draft underrates the first half by a tenth: total variation 0.05.
        let target = vec![0.01; 100];
        let draft: Vec<f32> = (0..100).map(|i| if i < 50 { 0.009 } else { 0.011 }).collect();
        let agree = |position| winner(stream(2), position, &target) == winner(stream(2), position, &draft);
        let share = (0..N).filter(|&position| agree(position)).count() as f64 / f64::from(N);
        // At least 0.95 / 1.05 = 0.905; sigma is 0.0015.
        assert!((0.9..0.96).contains(&share), "{share}");
    }

    #[test]
    fn tokens_without_weight_never_win() {
        let mut row = vec![0.0; 200];
        assert_eq!(winner(stream(1), 0, &row), 0);
        (row[77], row[150]) = (1e-30, 1e-30);
        let winners: Vec<u32> = (0..200).map(|position| winner(stream(1), position, &row)).collect();
        assert!(winners.contains(&77) && winners.contains(&150));
        assert!(winners.iter().all(|token| [77, 150].contains(token)));
        assert_eq!(winner(stream(1), 0, &[]), 0);
    }

    #[test]
    fn times_are_logarithms() {
        let cases =
            [(0, 0), (0, 1), (1, 7), (1 << 20, 5), (1 << 31, 0), ((1 << 31) - 1, 9), (u32::MAX - 3, 1)];
        for (high, low) in cases {
            let u = (f64::from(high) + (f64::from(low) + 0.5) * WORD) * WORD;
            let expected = -(-u).ln_1p();
            let got = time(high, low);
            assert!((got / expected - 1.0).abs() < 1e-14, "{high}, {low}: {got}, expected {expected}");
        }
        // The largest number that two words make rounds to 1; 53 ln 2 = 36.7368.
        assert!((time(u32::MAX, u32::MAX) - 36.7368).abs() < 1e-4);
    }
}
