//! How the signals of a place hang together with the odds that its draft is accepted.
//!
//! Straight lines over the log-odds `x` of acceptance with normal noise around them, and one noise for entropy and largest probability
//! of the draft, which say nearly the same. Measured on this project's embedded pair (2026-11-29: 10,800 places of chat, code and maths for
//! greedy requests, 5,664 of chat at temperature 1, places behind a rejection left out), where `x` is the logistic regression of acceptance
//! on all signals together, and at temperature 1 the log-odds of `sum(min(p, q))`, which is what a sampled draft is accepted with.
//!
//! What lines with normal noise leave out: at temperature 0 the pair's `x` has a long upper tail (1 % above 22).

use dsde_policy::PositionSignals;

use super::Place;
use crate::random::Random;

/// `value = at_even_odds + slope * x + noise * z`.
#[derive(Debug, PartialEq)]
struct Tie {
    at_even_odds: f64,
    slope: f64,
    noise: f64,
}

impl Tie {
    const fn new(at_even_odds: f64, slope: f64, noise: f64) -> Self {
        Self { at_even_odds, slope, noise }
    }

    fn at(&self, x: f64, z: f64) -> f64 {
        self.at_even_odds + self.slope * x + self.noise * z
    }
}

/// All signals of one kind of request.
#[derive(Debug, PartialEq)]
pub struct Ties {
    /// Logarithm of the KLD, nats.
    kld: Tie,
    /// Logarithm of the draft's entropy, nats.
    draft_entropy: Tie,
    /// Log-odds of the draft's largest probability.
    top_prob: Tie,
    /// Logarithm of the target's entropy, nats.
    target_entropy: Tie,
    /// Log-odds that a sampled draft is not rejected.
    overlap: Tie,
}

/// Of greedy requests.
pub static GREEDY: Ties = Ties {
    kld: Tie::new(-0.521, -0.317, 0.825),
    draft_entropy: Tie::new(1.530, -0.257, 0.860),
    top_prob: Tie::new(-1.024, 0.394, 1.074),
    target_entropy: Tie::new(1.599, -0.324, 1.085),
    overlap: Tie::new(0.146, 0.344, 0.606),
};

/// Of sampled requests. The draft's largest probability is tied by way of its entropy, since no trace holds both it and the KLD.
pub static SAMPLED: Ties = Ties {
    kld: Tie::new(-0.181, -0.972, 0.279),
    draft_entropy: Tie::new(1.508, -0.697, 0.691),
    top_prob: Tie::new(-1.337, 1.071, 1.316),
    target_entropy: Tie::new(1.391, -0.829, 0.961),
    overlap: Tie::new(0.0, 1.0, 0.0),
};

/// Entropy of an even choice among as many tokens as any vocabulary here has, nats: nothing is more undecided.
const ENTROPY_MAX: f64 = 12.5;
/// KLD between distributions clamped below at 1e-8, nats.
const KLD_MAX: f64 = 18.4;
/// Log-odds beyond which nothing was measured.
const ODDS_MAX: f64 = 25.0;

impl Ties {
    /// Draws a place where the draft is accepted with log-odds `x`, the acceptance included.
    pub(super) fn draw(&self, x: f64, random: &mut Random) -> Place {
        let is_accepted = random.uniform() < probability(x);
        let ([kld, shape], [target, overlap]) = (random.normals(), random.normals());
        let x = x.clamp(-ODDS_MAX, ODDS_MAX);
        let signals = PositionSignals {
            kld: self.kld.at(x, kld).exp().min(KLD_MAX) as f32,
            rejection: probability(-self.overlap.at(x, overlap)) as f32,
            draft_entropy: self.draft_entropy.at(x, shape).exp().min(ENTROPY_MAX) as f32,
            target_entropy: self.target_entropy.at(x, target).exp().min(ENTROPY_MAX) as f32,
        };
        let top_prob = probability(self.top_prob.at(x, -shape)) as f32;
        let rank = if is_accepted { 0 } else { super::later_rank(random) };
        Place { rank, top_prob, signals }
    }
}

/// Of log-odds.
pub(super) fn probability(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
