//! Random decisions as an argument, and the distributions they are made from.

use crate::lanes::{self, LANES, Sums};
use crate::race::winner;
use crate::rng::{Purpose, Stream, uniform};

/// Answers the random decisions of one step of one sequence.
///
/// An index counts the tokens of the step that stand before the decision's own: drafted token `i` is drawn and judged under
/// index `i`, and the token after `i` accepted ones is drawn under index `i` too.
pub trait Draws {
    /// True with `probability`.
    fn accept(&mut self, index: u32, probability: f64) -> bool;

    /// A token with probability proportional to its weight.
    fn token(&mut self, purpose: Purpose, index: u32, weights: Weights<'_>) -> u32;
}

/// Production draws: pure functions of stream, sequence length and index.
///
/// Of a sequence with a stream of its own, drafts and acceptances are keyed by the length at the *beginning of the step* and the
/// index. A key of absolute position alone would be wrong: a step that rejects position 7 has already drawn positions 8 and
/// 9, its verdict may depend on those draws, and the next step would draw them again. Every step emits a token, so the length
/// at its beginning is new. Tokens from the target are keyed by the absolute position they will stand at; exactly one is
/// emitted per position at most.
///
/// With a seed every token, drafted or decided, is the winner of the race for its absolute position ([`race`](crate::race)). What the
/// target draws is then a function of seed and text before it: the same whoever drafts, however far, whoever runs beside it,
/// and whoever has the same seed.
#[derive(Clone, Copy, Debug)]
pub struct CounterDraws {
    /// Whose numbers are used.
    pub stream: Stream,
    /// Length of prompt and output when the step began.
    pub position: u32,
}

impl Draws for CounterDraws {
    #[inline(always)]
    fn accept(&mut self, index: u32, probability: f64) -> bool {
        uniform(self.stream, self.position, Purpose::Accept, index) < probability
    }

    #[inline(always)]
    fn token(&mut self, purpose: Purpose, index: u32, weights: Weights<'_>) -> u32 {
        match (self.stream, weights) {
            (Stream::Seeded { .. }, Weights::Row(row)) => winner(self.stream, self.position + index, row),
            _ => weights.pick(match purpose {
                Purpose::Target => uniform(self.stream, self.position + index, purpose, 0),
                Purpose::Draft | Purpose::Accept => uniform(self.stream, self.position, purpose, index),
            }),
        }
    }
}

/// Weights of all tokens, not normalised.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// As they stand, `[vocab_len]`, not negative.
    Row(&'a [f32]),
    /// `max(scale * target - draft, 0)`: what the draft left uncovered. Differences are formed in `f64`, where products of
    /// `f32` are nearly exact.
    Residual {
        /// Probability with which the drafted prefix counts as drawn from the target.
        scale: f64,
        /// Probabilities of the target, `[vocab_len]`.
        target: &'a [f32],
        /// Probabilities of the draft, `[vocab_len]`.
        draft: &'a [f32],
    },
}

impl Weights<'_> {
    /// Number of tokens.
    #[inline(always)]
    pub fn vocab_len(&self) -> usize {
        match self {
            Self::Row(row) => row.len(),
            Self::Residual { target, .. } => target.len(),
        }
    }

    /// Weight of one token.
    ///
    /// # Panics
    /// If the token is outside the vocabulary.
    #[inline(always)]
    pub fn weight(&self, token: usize) -> f64 {
        match self {
            Self::Row(row) => f64::from(row[token]),
            Self::Residual { scale, target, draft } => {
                positive(scale * f64::from(target[token]) - f64::from(draft[token]))
            }
        }
    }

    /// Sum of all weights.
    #[inline(always)]
    pub fn mass(&self) -> f64 {
        let mut sums = [0.0; LANES];
        for start in (0..self.vocab_len()).step_by(LANES) {
            let weights = self.weights_from(start);
            for i in 0..LANES {
                sums[i] += weights[i];
            }
        }
        lanes::total(sums)
    }

    /// The token at fraction `uniform` (in `[0, 1)`) of the cumulated weights.
    ///
    /// A token of weight zero is never picked, except token 0 when all weights are zero.
    #[inline(always)]
    pub fn pick(&self, uniform: f64) -> u32 {
        let threshold = uniform * self.mass();
        let mut before = 0.0;
        let mut last_positive = 0;
        for start in (0..self.vocab_len()).step_by(LANES) {
            let weights = self.weights_from(start);
            let chunk_mass = lanes::total(weights);
            if before + chunk_mass > threshold {
                return start as u32 + lane_at(&weights, threshold - before);
            }
            last_positive = if chunk_mass > 0.0 { start } else { last_positive };
            before += chunk_mass;
        }
        // Added in another order, the chunks can stay below a threshold next to the mass.
        last_positive as u32 + lane_at(&self.weights_from(last_positive), f64::INFINITY)
    }

    /// Weights of [`LANES`] tokens from `start` on, zeros beyond the vocabulary.
    #[inline(always)]
    fn weights_from(&self, start: usize) -> Sums {
        let mut out = [0.0; LANES];
        match self {
            Self::Row(row) => {
                let row = lanes::piece(row, start);
                for i in 0..LANES {
                    out[i] = f64::from(row[i]);
                }
            }
            Self::Residual { scale, target, draft } => {
                let (p, q) = (lanes::piece(target, start), lanes::piece(draft, start));
                for i in 0..LANES {
                    out[i] = positive(scale * f64::from(p[i]) - f64::from(q[i]));
                }
            }
        }
        out
    }
}

/// The first lane at which the cumulated weights exceed `threshold`, or else the last one of positive weight.
#[inline(always)]
fn lane_at(weights: &Sums, threshold: f64) -> u32 {
    let mut cumulated = 0.0;
    let mut last_positive = 0;
    for (lane, &weight) in weights.iter().enumerate() {
        cumulated += weight;
        if weight > 0.0 {
            last_positive = lane as u32;
            if cumulated > threshold {
                break;
            }
        }
    }
    last_positive
}

#[inline(always)]
fn positive(x: f64) -> f64 {
    if x > 0.0 { x } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALMOST_ONE: f64 = 1.0 - f64::EPSILON / 2.0;

    fn check(weights: Weights<'_>, cases: &[(f64, u32)]) {
        for &(uniform, expected) in cases {
            assert_eq!(weights.pick(uniform), expected, "{weights:?} at {uniform}");
        }
    }

    #[test]
    fn tokens_own_intervals_as_long_as_their_weights() {
        let row = [0.0, 0.25, 0.0, 0.5, 0.25, 0.0];
        let cases = [(0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (ALMOST_ONE, 4)];
        check(Weights::Row(&row), &cases);
        // The same shape, four times as heavy.
        check(Weights::Row(&row.map(|w| 4.0 * w)), &cases);
    }

    #[test]
    fn residuals_are_what_the_draft_left() {
        // 0.5 * (0.8, 0.2, 0) - (0.1, 0.2, 0.7) = (0.3, -0.1, -0.7)
        let residual = Weights::Residual { scale: 0.5, target: &[0.8, 0.2, 0.0], draft: &[0.1, 0.2, 0.7] };
        assert!((residual.mass() - 0.3).abs() < 1e-7);
        assert_eq!([1, 2].map(|token| residual.weight(token)), [0.0, 0.0]);
        check(residual, &[(0.0, 0), (0.5, 0), (ALMOST_ONE, 0)]);
    }

    #[test]
    fn weights_without_mass_give_token_0() {
        check(Weights::Row(&[0.0; 40]), &[(0.0, 0), (ALMOST_ONE, 0)]);
    }

    #[test]
    fn every_length_of_row_is_covered() {
        for len in 1..70 {
            let mut row = vec![0.0; len];
            row[len - 1] = 1e-30;
            check(Weights::Row(&row), &[(0.0, len as u32 - 1), (ALMOST_ONE, len as u32 - 1)]);
        }
    }

    #[test]
    fn a_step_draws_each_number_under_its_own_key() {
        let row = [1.0; 1 << 12];
        let stream = Stream::Own { key: 9, number: 0 };
        let step = |position| CounterDraws { stream, position };
        let draw = |mut draws: CounterDraws, purpose, index| draws.token(purpose, index, Weights::Row(&row));
        // The token at position 12 is the same whether two guesses stood before it or none.
        assert_eq!(draw(step(10), Purpose::Target, 2), draw(step(12), Purpose::Target, 0));
        // A guess for position 12 is drawn anew by each step.
        assert_ne!(draw(step(10), Purpose::Draft, 2), draw(step(12), Purpose::Draft, 0));
    }

    #[test]
    fn with_a_seed_a_guess_is_what_the_target_will_draw() {
        let row = [1.0; 1 << 12];
        let step = |position| CounterDraws { stream: Stream::Seeded { seed: 9, choice: 1 }, position };
        let draw = |mut draws: CounterDraws, purpose, index| draws.token(purpose, index, Weights::Row(&row));
        let token = draw(step(12), Purpose::Target, 0);
        assert_eq!(draw(step(10), Purpose::Target, 2), token);
        assert_eq!(draw(step(10), Purpose::Draft, 2), token);
        assert_ne!(draw(step(13), Purpose::Target, 0), token);
    }

    #[test]
    fn certain_answers_need_no_luck() {
        let mut draws = CounterDraws { stream: Stream::Own { key: 1, number: 0 }, position: 2 };
        assert!((0..1000).all(|index| draws.accept(index, 1.0) && !draws.accept(index, 0.0)));
    }

    proptest! {
        #[test]
        fn a_pick_always_has_weight(
            steps in proptest::collection::vec(prop::sample::select(vec![0.0_f32, 0.0, 1e-38, 1e-9, 0.3, 1.0]), 1..80),
            uniform in prop_oneof![0.0..1.0, Just(0.0), Just(ALMOST_ONE)],
        ) {
            let token = Weights::Row(&steps).pick(uniform) as usize;
            let is_empty = steps.iter().all(|w| *w == 0.0);
            prop_assert!(steps[token] > 0.0 || is_empty && token == 0);
        }

        #[test]
        fn a_pick_stands_where_the_cumulated_weights_pass(
            steps in proptest::collection::vec(0_u8..4, 1..80),
            uniform in 0.0..1.0,
        ) {
            // Small integers add up without rounding.
            let row: Vec<f32> = steps.iter().map(|&s| f32::from(s)).collect();
            let mass: f64 = steps.iter().map(|&s| f64::from(s)).sum();
            prop_assume!(mass > 0.0);
            let token = Weights::Row(&row).pick(uniform) as usize;
            let before: f64 = steps[..token].iter().map(|&s| f64::from(s)).sum();
            let threshold = uniform * mass;
            prop_assert!(before <= threshold && threshold < before + f64::from(steps[token]));
        }
    }
}
