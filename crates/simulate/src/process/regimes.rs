//! Synthetic acceptance: texts pass through regimes in which drafts are accepted more or less often.
//!
//! The log-odds of acceptance at a place are `base + regime + request + place`: a shift for as long as a regime lasts, a normal number
//! for the whole text, and one for the place. `base` is such that the probability of acceptance is the wanted rate in the mean over
//! all of them. One regime without any spread is independent acceptance, for which everything is known in closed form.

use super::Place;
use super::ties::{self, Ties};
use crate::random::Random;

/// A kind of text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regime {
    /// Added to the log-odds.
    pub shift: f64,
    /// Places that it lasts in the mean, at least 1; then another one begins, each as likely.
    pub run: f64,
    /// Standard deviation over its places, log-odds.
    pub spread: f64,
}

/// The process.
#[derive(Clone, Debug, PartialEq)]
pub struct Regimes {
    base: f64,
    spread_requests: f64,
    regimes: Vec<Regime>,
    ties: &'static Ties,
}

/// Where a text is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    regime: usize,
    request: f64,
}

/// Log-odds that stand for certainty.
const CERTAIN: f64 = 40.0;
/// Halvings of the interval in which the base is looked for.
const HALVINGS: u32 = 60;
/// Nodes on each side of a mean over a normal number, and their distance in standard deviations.
const NODES: i32 = 40;
const NODE_STEP: f64 = 0.15;

impl Regimes {
    /// The same everywhere.
    ///
    /// * `rate`: probability that a drafted token is accepted, 0 to 1.
    pub fn independent(rate: f64, ties: &'static Ties) -> Self {
        Self::new(rate, 0.0, vec![Regime { shift: 0.0, run: f64::INFINITY, spread: 0.0 }], ties)
    }

    /// * `rate`: mean probability of acceptance, 0 to 1.
    /// * `spread_requests`: standard deviation over texts, log-odds.
    /// * `regimes`: at least one.
    pub fn new(rate: f64, spread_requests: f64, regimes: Vec<Regime>, ties: &'static Ties) -> Self {
        let mut process = Self { base: 0.0, spread_requests, regimes, ties };
        let (mut low, mut high) = (-CERTAIN, CERTAIN);
        for _ in 0..HALVINGS {
            process.base = f64::midpoint(low, high);
            if process.mean() < rate {
                low = process.base;
            } else {
                high = process.base;
            }
        }
        process
    }

    /// Mean probability of acceptance over everything.
    fn mean(&self) -> f64 {
        // As each regime is as likely to be next, it takes part by how long it lasts.
        let total: f64 = self.regimes.iter().map(Self::weight).sum();
        let share = |regime: &Regime| {
            let spread = self.spread_requests.hypot(regime.spread);
            Self::weight(regime) / total * mean_probability(self.base + regime.shift, spread)
        };
        self.regimes.iter().map(share).sum()
    }

    fn weight(regime: &Regime) -> f64 {
        regime.run.min(1e12)
    }

    pub(super) fn begin(&self, random: &mut Random) -> State {
        let total: f64 = self.regimes.iter().map(Self::weight).sum();
        let mut left = random.uniform() * total;
        let regime = self.regimes.iter().position(|regime| {
            left -= Self::weight(regime);
            left < 0.0
        });
        State { regime: regime.unwrap_or(0), request: self.spread_requests * random.normal() }
    }

    pub(super) fn next(&self, state: &mut State, random: &mut Random) -> Place {
        let regime = self.regimes[state.regime];
        let x = self.base + regime.shift + state.request + regime.spread * random.normal();
        let place = self.ties.draw(x, random);
        let n_others = self.regimes.len() as u64 - 1;
        if n_others > 0 && random.uniform() * regime.run < 1.0 {
            let other = random.below(n_others) as usize;
            state.regime = if other < state.regime { other } else { other + 1 };
        }
        place
    }
}

/// Mean of the probability over log-odds that are normal around `x`.
fn mean_probability(x: f64, spread: f64) -> f64 {
    if spread == 0.0 {
        return ties::probability(x);
    }
    let nodes = (-NODES..=NODES).map(|i| f64::from(i) * NODE_STEP);
    let (sum, weights) = nodes.fold((0.0, 0.0), |(sum, weights), z| {
        let weight = (-0.5 * z * z).exp();
        (sum + weight * ties::probability(x + spread * z), weights + weight)
    });
    sum / weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use crate::process::ties::GREEDY;

    /// Share of accepted places over many texts.
    fn accepted(regimes: Regimes) -> f64 {
        let process = Process::Regimes(regimes);
        let (mut n, mut n_accepted) = (0_u32, 0_u32);
        for number in 0..400 {
            let mut text = process.text(1, number);
            for index in 0..500 {
                let is_accepted = text.place(&process, index).rank == 0;
                n += 1;
                n_accepted += u32::from(is_accepted);
            }
        }
        f64::from(n_accepted) / f64::from(n)
    }

    #[test]
    fn drafts_are_accepted_at_the_rate_that_was_asked_for() {
        let regimes =
            [Regime { shift: 1.0, run: 40.0, spread: 0.5 }, Regime { shift: -1.5, run: 15.0, spread: 1.5 }];
        for rate in [0.3, 0.7, 0.9] {
            let share = accepted(Regimes::independent(rate, &GREEDY));
            assert!((share - rate).abs() < 0.005, "independent: {share} for {rate}");
            let share = accepted(Regimes::new(rate, 0.5, regimes.to_vec(), &GREEDY));
            // 400 texts whose means have a standard deviation of up to 0.13.
            assert!((share - rate).abs() < 0.025, "regimes: {share} for {rate}");
        }
    }

    #[test]
    fn certainty_is_certain() {
        assert_eq!(accepted(Regimes::independent(1.0, &GREEDY)), 1.0);
        assert_eq!(accepted(Regimes::independent(0.0, &GREEDY)), 0.0);
    }

    #[test]
    fn in_regimes_acceptance_comes_in_longer_runs() {
        let calm = Regime { shift: 2.0, run: 50.0, spread: 0.0 };
        let rough = Regime { shift: -2.0, run: 50.0, spread: 0.0 };
        let process = Process::Regimes(Regimes::new(0.6, 0.0, vec![calm, rough], &GREEDY));
        let mut text = process.text(3, 0);
        let ranks: Vec<bool> = (0..20_000).map(|index| text.place(&process, index).rank == 0).collect();
        let after_accepted = ranks.windows(2).filter(|pair| pair[0]);
        let (n, n_again) =
            after_accepted.fold((0, 0), |(n, again), pair| (n + 1, again + i32::from(pair[1])));
        // If places were independent it would be the rate.
        assert!(f64::from(n_again) / f64::from(n) > 0.7);
    }
}
