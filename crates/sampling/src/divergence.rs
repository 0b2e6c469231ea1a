//! How far draft and target are apart at one position.
//!
//! Policies read these numbers; nothing here influences what is emitted. Everything is in nats. For sampled requests compare
//! the processed probabilities (then `tv` is the rejection probability of a draft), for greedy ones the logits at
//! temperature 1.
//!
//! The definition of the KLD is that of DSDE (arXiv:2509.01083) as its authors released it: the full vocabulary, target
//! first, both probabilities clamped below. Clamped rows do not sum to one exactly, so a result may come out a hair under
//! zero; it is then zero.

use crate::lanes::{self, LANES, Lanes, Sums};
use crate::log_softmax::LogSoftmax;

/// Probabilities below this count as this in the KLD.
pub const PROBABILITY_MIN: f32 = 1e-8;

/// Natural logarithm of [`PROBABILITY_MIN`]: `-8 ln 10`.
const LOG_PROBABILITY_MIN: f32 = (-8.0 * std::f64::consts::LN_10) as f32;

/// Draft against target at one position.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// KL(target || draft) over the full vocabulary, nats, both clamped below at [`PROBABILITY_MIN`]; never negative.
    pub kld: f32,
    /// Total variation distance, in `0..=1`.
    pub tv: f32,
    /// Entropy of the draft, nats.
    pub draft_entropy: f32,
    /// Entropy of the target, nats.
    pub target_entropy: f32,
}

impl Divergence {
    /// Compares two rows of probabilities `[vocab_len]` in one pass.
    ///
    /// # Panics
    /// If the rows differ in length.
    #[inline(always)]
    pub fn of_probabilities(target: &[f32], draft: &[f32]) -> Self {
        assert_eq!(target.len(), draft.len(), "target and draft share a vocabulary");
        let (target_chunks, target_tail) = target.as_chunks::<LANES>();
        let (draft_chunks, draft_tail) = draft.as_chunks::<LANES>();
        let mut comparison = Comparison::default();
        for (p, q) in target_chunks.iter().zip(draft_chunks) {
            comparison.add(Position::of_probabilities(p), Position::of_probabilities(q));
        }
        let p = lanes::padded(target_tail, 0.0);
        let q = lanes::padded(draft_tail, 0.0);
        comparison.add(Position::of_probabilities(&p), Position::of_probabilities(&q));
        comparison.finish()
    }

    /// Compares the softmax of two rows of logits `[vocab_len]` at a temperature `> 0`, without changing them.
    ///
    /// # Panics
    /// If the rows differ in length.
    #[inline(always)]
    pub fn of_logits(target: &[f32], draft: &[f32], temperature: f32) -> Self {
        assert_eq!(target.len(), draft.len(), "target and draft share a vocabulary");
        let target_map = LogSoftmax::of(target, temperature);
        let draft_map = LogSoftmax::of(draft, temperature);
        let (target_chunks, target_tail) = target.as_chunks::<LANES>();
        let (draft_chunks, draft_tail) = draft.as_chunks::<LANES>();
        let mut comparison = Comparison::default();
        for (x, y) in target_chunks.iter().zip(draft_chunks) {
            comparison.add(Position::of_logits(x, &target_map), Position::of_logits(y, &draft_map));
        }
        let x = lanes::padded(target_tail, f32::NEG_INFINITY);
        let y = lanes::padded(draft_tail, f32::NEG_INFINITY);
        comparison.add(Position::of_logits(&x, &target_map), Position::of_logits(&y, &draft_map));
        comparison.finish()
    }
}

/// How sure one distribution is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Entropy, nats.
    pub entropy: f32,
    /// Largest probability.
    pub top_prob: f32,
}

impl Shape {
    /// Of a row of probabilities `[vocab_len]`.
    #[inline(always)]
    pub fn of_probabilities(row: &[f32]) -> Self {
        let (chunks, tail) = row.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for p in chunks {
            lanes::accumulate(&mut sums, Position::of_probabilities(p).surprise());
        }
        let last = Position::of_probabilities(&lanes::padded(tail, 0.0));
        lanes::accumulate(&mut sums, last.surprise());
        Self { entropy: lanes::total(sums).max(0.0) as f32, top_prob: lanes::max(row).max(0.0) }
    }

    /// Of the softmax of a row of logits `[vocab_len]` at a temperature `> 0`.
    #[inline(always)]
    pub fn of_logits(row: &[f32], temperature: f32) -> Self {
        let map = LogSoftmax::of(row, temperature);
        let (chunks, tail) = row.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for x in chunks {
            lanes::accumulate(&mut sums, Position::of_logits(x, &map).surprise());
        }
        let last = Position::of_logits(&lanes::padded(tail, f32::NEG_INFINITY), &map);
        lanes::accumulate(&mut sums, last.surprise());
        Self { entropy: lanes::total(sums).max(0.0) as f32, top_prob: map.top_prob() }
    }
}

/// Probabilities of some tokens and their logarithms.
#[derive(Clone, Copy, Debug)]
struct Position {
    probs: Lanes,
    logs: Lanes,
}

impl Position {
    #[inline(always)]
    fn of_probabilities(probs: &Lanes) -> Self {
        Self { probs: *probs, logs: lanes::ln(*probs) }
    }

    #[inline(always)]
    fn of_logits(logits: &Lanes, map: &LogSoftmax) -> Self {
        let logs = map.log_probs(logits);
        Self { probs: lanes::exp(logs), logs }
    }

    /// `-p ln p`.
    #[inline(always)]
    fn surprise(&self) -> Lanes {
        let mut out = self.logs;
        for (x, p) in out.iter_mut().zip(self.probs) {
            *x *= -p;
        }
        out
    }
}

/// Running sums of a [`Divergence`].
#[derive(Clone, Copy, Debug, Default)]
struct Comparison {
    kld: Sums,
    distance: Sums,
    draft_entropy: Sums,
    target_entropy: Sums,
}

impl Comparison {
    #[inline(always)]
    fn add(&mut self, target: Position, draft: Position) {
        let mut kld = [0.0; LANES];
        let mut distance = [0.0; LANES];
        for i in 0..LANES {
            let p = clamped(target.probs[i], PROBABILITY_MIN);
            let log_p = clamped(target.logs[i], LOG_PROBABILITY_MIN);
            let log_q = clamped(draft.logs[i], LOG_PROBABILITY_MIN);
            kld[i] = p * (log_p - log_q);
            distance[i] = (target.probs[i] - draft.probs[i]).abs();
        }
        lanes::accumulate(&mut self.kld, kld);
        lanes::accumulate(&mut self.distance, distance);
        lanes::accumulate(&mut self.draft_entropy, draft.surprise());
        lanes::accumulate(&mut self.target_entropy, target.surprise());
    }

    #[inline(always)]
    fn finish(self) -> Divergence {
        Divergence {
            kld: lanes::total(self.kld).max(0.0) as f32,
            tv: (lanes::total(self.distance) / 2.0).min(1.0) as f32,
            draft_entropy: lanes::total(self.draft_entropy).max(0.0) as f32,
            target_entropy: lanes::total(self.target_entropy).max(0.0) as f32,
        }
    }
}

#[inline(always)]
fn clamped(x: f32, min: f32) -> f32 {
    if x > min { x } else { min }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Params, Scratch, softmax};
    use proptest::prelude::*;

    /// The formulas, one token at a time, in `f64`.
    fn reference(target: &[f64], draft: &[f64]) -> [f64; 4] {
        let min = f64::from(PROBABILITY_MIN);
        let entropy = |row: &[f64]| -> f64 { row.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum() };
        let pairs = || target.iter().zip(draft);
        let kld: f64 = pairs().map(|(p, q)| p.max(min) * (p.max(min).ln() - q.max(min).ln())).sum();
        let tv: f64 = pairs().map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0;
        [kld.max(0.0), tv, entropy(draft), entropy(target)]
    }

    fn check(got: Divergence, expected: [f64; 4]) {
        let numbers = [got.kld, got.tv, got.draft_entropy, got.target_entropy];
        for (got_one, expected_one) in numbers.into_iter().zip(expected) {
            let error = (f64::from(got_one) - expected_one).abs();
            assert!(error < 2e-6 * expected_one.max(1.0), "{got:?} is not {expected:?}");
        }
    }

    fn wide(row: &[f32]) -> Vec<f64> {
        row.iter().map(|&x| f64::from(x)).collect()
    }

    fn exact_softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
        let scaled: Vec<f64> = logits.iter().map(|&x| f64::from(x) / f64::from(temperature)).collect();
        let max = scaled.iter().copied().fold(f64::MIN, f64::max);
        let mass: f64 = scaled.iter().map(|x| (x - max).exp()).sum();
        scaled.iter().map(|x| (x - max).exp() / mass).collect()
    }

    #[test]
    fn two_coins_diverge_as_computed_by_hand() {
        // p = (3/4, 1/4), q = (1/4, 3/4): KL = 3/4 ln 3 - 1/4 ln 3 = ln 3 / 2, TV = 1/2,
        // H = 3/4 ln 4/3 + 1/4 ln 4 = 2 ln 2 - 3/4 ln 3
        let entropy = 2.0 * 2.0_f64.ln() - 0.75 * 3.0_f64.ln();
        let expected = [3.0_f64.ln() / 2.0, 0.5, entropy, entropy];
        check(Divergence::of_probabilities(&[0.75, 0.25], &[0.25, 0.75]), expected);
        let ln_3 = 3.0_f32.ln();
        check(Divergence::of_logits(&[ln_3, 0.0], &[5.0, 5.0 + ln_3], 1.0), expected);
        // Temperature 1/2 squares the odds: 9 to 1.
        let halved = Divergence::of_logits(&[ln_3, 0.0], &[0.0, ln_3], 0.5);
        check(halved, reference(&[0.9, 0.1], &[0.1, 0.9]));
    }

    #[test]
    fn a_row_does_not_diverge_from_itself() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 17) as f32 / 3.0).collect();
        let same = Divergence::of_logits(&logits, &logits, 0.8);
        assert_eq!((same.kld, same.tv), (0.0, 0.0));
        assert_eq!(same.draft_entropy, same.target_entropy);
    }

    #[test]
    fn disjoint_supports_are_clamped() {
        // 1 (ln 1 - ln 1e-8) + 1e-8 (ln 1e-8 - ln 1) = 8 ln 10 (1 - 1e-8)
        let certain = Divergence::of_probabilities(&[1.0, 0.0], &[0.0, 1.0]);
        check(certain, [8.0 * 10.0_f64.ln(), 1.0, 0.0, 0.0]);
        let inf = f32::INFINITY;
        let from_logits = Divergence::of_logits(&[0.0, -inf], &[-inf, 0.0], 1.0);
        check(from_logits, [8.0 * 10.0_f64.ln(), 1.0, 0.0, 0.0]);
    }

    #[test]
    fn undefined_logits_give_finite_numbers() {
        let row = [f32::NAN; 3];
        for got in [
            Divergence::of_logits(&row, &[1.0, 2.0, 3.0], 1.0),
            Divergence::of_logits(&[f32::INFINITY, 0.0, 1e30], &row, 1.0),
        ] {
            assert!(got.kld.is_finite() && got.tv.is_finite(), "{got:?}");
            assert!(got.draft_entropy.is_finite() && got.target_entropy.is_finite());
        }
    }

    #[test]
    fn shape_knows_entropy_and_largest_probability() {
        let uniform = Shape::of_probabilities(&[0.25; 4]);
        assert!((uniform.entropy - 4.0_f32.ln()).abs() < 1e-6);
        assert_eq!(uniform.top_prob, 0.25);
        let from_logits = Shape::of_logits(&[3.0; 4], 0.7);
        assert!((from_logits.entropy - 4.0_f32.ln()).abs() < 1e-6);
        assert!((from_logits.top_prob - 0.25).abs() < 1e-7);
        let certain = Shape { entropy: 0.0, top_prob: 1.0 };
        assert_eq!(Shape::of_probabilities(&[0.0, 1.0]), certain);
    }

    fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (1_usize..70).prop_flat_map(|len| {
            let row = || proptest::collection::vec(-12.0_f32..12.0, len);
            (row(), row())
        })
    }

    proptest! {
        #[test]
        fn logits_diverge_as_the_formulas_say((target, draft) in rows(), temperature in 0.5_f32..2.0) {
            let p = exact_softmax(&target, temperature);
            let q = exact_softmax(&draft, temperature);
            check(Divergence::of_logits(&target, &draft, temperature), reference(&p, &q));
        }

        #[test]
        fn probabilities_diverge_as_the_formulas_say((target, draft) in rows(), top_k in 0_u32..20) {
            let params = Params { top_k, temperature: 1.0, ..Params::greedy() };
            let (mut p, mut q) = (target, draft);
            softmax(&mut p, &params, &mut Scratch::default());
            softmax(&mut q, &params, &mut Scratch::default());
            check(Divergence::of_probabilities(&p, &q), reference(&wide(&p), &wide(&q)));
        }

        #[test]
        fn both_shapes_agree((logits, _) in rows(), temperature in 0.5_f32..2.0) {
            let mut probs = logits.clone();
            softmax(&mut probs, &Params { temperature, ..Params::greedy() }, &mut Scratch::default());
            let (a, b) = (Shape::of_logits(&logits, temperature), Shape::of_probabilities(&probs));
            prop_assert!((a.entropy - b.entropy).abs() < 1e-5 && (a.top_prob - b.top_prob).abs() < 1e-6, "{a:?} {b:?}");
        }
    }
}
