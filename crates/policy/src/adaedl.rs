//! AdaEDL: stop drafting where the draft is too undecided for the target to agree with it.
//!
//! Agrawal, Jeon, Lee, "AdaEDL: Early Draft Stopping for Speculative Decoding of Large Language Models via an Entropy-based
//! Lower Bound on Token Acceptance Probability", ENLSP-IV at NeurIPS 2024, arXiv:2410.18351.
//!
//! The acceptance probability is 1 minus the total variation distance of target and draft, which Pinsker's inequality
//! bounds by their divergence; approximating the cross entropy by a multiple of the draft's entropy `H` (nats) leaves
//! `1 - sqrt(gamma H)`. Drafting ends after the first token for which this falls below a threshold lambda, and lambda
//! follows each sequence's acceptance rate towards a target of 0.9.
//!
//! | equation | here |
//! |---|---|
//! | `1 - sqrt(gamma H) < lambda` | [`acceptance_bound`], [`AdaEdl::keep_drafting`](Policy::keep_drafting) |
//! | `AR <- beta1 AR + (1 - beta1) accepted / verified` | [`Threshold::learn`] |
//! | `lambda' = lambda + epsilon`, `- epsilon` or unchanged; `lambda <- beta2 lambda + (1 - beta2) lambda'` | [`Threshold::learn`] |
//!
//! The paper gives gamma and the target acceptance. The other constants are those of the baseline in the code that the
//! authors of DSDE (arXiv:2509.01083) released, which starts the acceptance rate at 0 and has a gamma of 0.1. Their update
//! moves lambda by `(1 - beta2) epsilon`, 0.001, per step.
//!
//! Deviations:
//! * Every sequence stops by itself. That baseline stops the whole batch as soon as one sequence falls under its threshold;
//!   this engine drafts raggedly, and the paper describes the rule for single sequences.
//! * Lambda falls when everything *planned* was accepted, not only `k_max` tokens: under an engine limit below `k_max` it
//!   could otherwise only rise. It is kept in `0..=1`, where the bound lies.
//! * An entropy that is not a number, which only a broken executor can deliver, ends drafting.
//! * `k_max` is 7, which no source fixes: the ceiling only matters for drafts that are certain, and wrong, for long.

use std::collections::HashMap;

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{Cap, DraftPosition, Outcome, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "adaedl",
    summary: "per sequence, stops drafting once the draft's entropy bounds the acceptance too low",
    source: "Agrawal et al., arXiv:2410.18351",
    parameters: &[
        Parameter {
            key: "gamma",
            values: ValueSet::Number { min: 0.0, max: 10.0 },
            default: Some("0.2"),
            meaning: "weight of the entropy in the bound, per nat",
        },
        Parameter {
            key: "k_min",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("1"),
            meaning: "tokens drafted before the rule may stop a sequence",
        },
        Parameter {
            key: "k_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("7"),
            meaning: "ceiling of the length, tokens",
        },
        Parameter {
            key: "lambda",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.5"),
            meaning: "threshold of a new sequence",
        },
        Parameter {
            key: "alpha",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.9"),
            meaning: "acceptance rate that the threshold aims at",
        },
        Parameter {
            key: "beta1",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.5"),
            meaning: "weight of the past in the acceptance rate",
        },
        Parameter {
            key: "beta2",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.9"),
            meaning: "weight of the past in the threshold",
        },
        Parameter {
            key: "epsilon",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.01"),
            meaning: "change of the threshold before it is smoothed",
        },
    ],
    presets: &[],
    is_per_sequence: true,
    build: |settings| Ok(Cap::around(AdaEdl::new(Config::new(settings)?), settings)),
};

/// Checked parameters; the table in [`ENTRY`] says what each means.
#[derive(Clone, Debug)]
pub struct Config {
    name: String,
    gamma: f64,
    k_min: u32,
    k_max: u32,
    lambda: f64,
    alpha: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
}

impl Config {
    /// Reads the settings of [`ENTRY`].
    ///
    /// # Errors
    /// [`Error::Order`](crate::Error::Order) if `k_min > k_max`.
    pub fn new(settings: &Settings) -> Result<Self, crate::Error> {
        let config = Self {
            name: settings.name(),
            gamma: settings.number("gamma"),
            k_min: settings.count("k_min"),
            k_max: settings.count("k_max"),
            lambda: settings.number("lambda"),
            alpha: settings.number("alpha"),
            beta1: settings.number("beta1"),
            beta2: settings.number("beta2"),
            epsilon: settings.number("epsilon"),
        };
        settings.check_order(("k_min", config.k_min), ("k_max", config.k_max))?;
        Ok(config)
    }
}

/// Lower bound on the probability that a drafted token is accepted, `1 - sqrt(gamma H)`; at most 1, may be negative.
///
/// * `entropy`: of the draft's distribution, nats; NaN and negative values give NaN.
pub fn acceptance_bound(gamma: f64, entropy: f32) -> f64 {
    1.0 - (gamma * f64::from(entropy)).sqrt()
}

/// What is remembered of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// The bound below which drafting ends, `0..=1`.
    lambda: f64,
    /// Running acceptance rate; 0 before the first verification, so that the threshold rises at first.
    acceptance: f64,
}

impl Threshold {
    /// The threshold of a new sequence.
    pub fn new(config: &Config) -> Self {
        Self { lambda: config.lambda, acceptance: 0.0 }
    }

    /// Moves the threshold after a verification: up while too little is accepted, down when all of a good draft was.
    pub fn learn(&mut self, config: &Config, outcome: &Outcome<'_>) {
        if outcome.verified == 0 {
            return;
        }
        let of_step = f64::from(outcome.accepted) / f64::from(outcome.verified);
        self.acceptance = config.beta1 * self.acceptance + (1.0 - config.beta1) * of_step;
        let change = if self.acceptance < config.alpha {
            config.epsilon
        } else if self.acceptance > config.alpha && outcome.accepted == outcome.planned {
            -config.epsilon
        } else {
            0.0
        };
        let moved = config.beta2 * self.lambda + (1.0 - config.beta2) * (self.lambda + change);
        self.lambda = moved.clamp(0.0, 1.0);
    }
}

/// Plans `k_max` for every sequence and stops each where its bound falls below its threshold.
#[derive(Clone, Debug)]
pub struct AdaEdl {
    config: Config,
    sequences: HashMap<SeqId, Threshold>,
}

impl AdaEdl {
    /// Remembers no sequence yet.
    pub fn new(config: Config) -> Self {
        Self { config, sequences: HashMap::new() }
    }
}

impl Policy for AdaEdl {
    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        for sequence in view.sequences {
            self.sequences.entry(sequence.seq).or_insert_with(|| Threshold::new(&self.config));
        }
        plan.fill(Planned { len: self.config.k_max, width: 1, is_settled: true, reason: "ceiling" });
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        let lambda = self.sequences.get(&seq).map_or(self.config.lambda, |threshold| threshold.lambda);
        let n_drafted = position.index + 1;
        // A bound that is not a number compares false and ends drafting.
        n_drafted < self.config.k_min || acceptance_bound(self.config.gamma, position.entropy) >= lambda
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        for outcome in feedback.outcomes {
            // Sequences that were never planned or are already forgotten leave nothing behind.
            if let Some(threshold) = self.sequences.get_mut(&outcome.seq) {
                threshold.learn(&self.config, outcome);
            }
        }
    }

    fn forget(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::OUTCOME;

    fn config(parameters: Option<&str>) -> Config {
        Config::new(&Settings::parse(&ENTRY, parameters).unwrap()).unwrap()
    }

    fn outcome(planned: u32, verified: u32, accepted: u32) -> Outcome<'static> {
        Outcome { planned, drafted: verified, verified, accepted, ..OUTCOME }
    }

    #[test]
    fn bounds_of_hand_computed_entropies() {
        let cases = [
            (0.2, 0.0, 1.0),
            // sqrt(0.2 * 0.05) = 0.1
            (0.2, 0.05, 0.9),
            // sqrt(0.2 * 1.25) = 0.5
            (0.2, 1.25, 0.5),
            // sqrt(0.2 * 5) = 1
            (0.2, 5.0, 0.0),
            // sqrt(0.2 * 20) = 2
            (0.2, 20.0, -1.0),
            (0.0, 20.0, 1.0),
        ];
        for (gamma, entropy, expected) in cases {
            let got = acceptance_bound(gamma, entropy);
            assert!((got - expected).abs() < 1e-7, "H {entropy}: expected {expected}, got {got}");
        }
    }

    /// Whether drafting goes on after position `index` with this entropy, under the threshold of a new sequence.
    fn check(parameters: Option<&str>, index: u32, entropy: f32, goes_on: bool) {
        let mut policy = AdaEdl::new(config(parameters));
        let position = DraftPosition { index, entropy, top_prob: 0.5, path_log_prob: 0.0 };
        assert_eq!(policy.keep_drafting(SeqId(1), &position), goes_on, "{parameters:?}, {position:?}");
    }

    #[test]
    fn drafting_ends_after_the_first_token_below_the_threshold() {
        // The threshold 0.5 is the entropy 1.25.
        check(None, 0, 1.24, true);
        check(None, 0, 1.26, false);
        // lambda 0.9: entropy 0.05.
        check(Some("lambda=0.9"), 3, 0.049, true);
        check(Some("lambda=0.9"), 3, 0.051, false);
        // The second token is the first that may be the last.
        check(Some("k_min=2"), 0, 9.0, true);
        check(Some("k_min=2"), 1, 9.0, false);
    }

    #[test]
    fn an_entropy_that_is_not_a_number_ends_drafting() {
        for entropy in [f32::NAN, f32::INFINITY, -1.0] {
            check(None, 0, entropy, false);
        }
    }

    #[test]
    fn the_threshold_follows_the_trace() {
        // (planned, verified, accepted) and the acceptance rate and threshold after it; each change is 0.1 * 0.01.
        let trace = [
            // (0 + 1/4) / 2, under 0.9: up.
            ((7, 4, 1), 0.125, 0.501),
            // (0.125 + 1) / 2, still under: up although everything was accepted.
            ((7, 7, 7), 0.5625, 0.502),
            ((7, 7, 7), 0.78125, 0.503),
            ((7, 7, 7), 0.890625, 0.504),
            // 0.9453125: above, and all seven accepted: down.
            ((7, 7, 7), 0.9453125, 0.503),
            // Above, but stopped early at 2 of 7: unchanged.
            ((7, 2, 2), 0.97265625, 0.503),
            // Nothing was verified: nothing is learnt.
            ((7, 0, 0), 0.97265625, 0.503),
            // The engine allowed 3 and all were accepted: down.
            ((3, 3, 3), 0.986328125, 0.502),
            // (0.986328125 + 0.5) / 2 = 0.7431640625: up.
            ((7, 2, 1), 0.7431640625, 0.503),
        ];
        let config = config(None);
        let mut threshold = Threshold::new(&config);
        for ((planned, verified, accepted), acceptance, lambda) in trace {
            threshold.learn(&config, &outcome(planned, verified, accepted));
            assert_eq!(threshold.acceptance, acceptance);
            assert!((threshold.lambda - lambda).abs() < 1e-12, "expected {lambda}, got {}", threshold.lambda);
        }
    }

    #[test]
    fn a_perfect_first_step_still_raises_the_threshold() {
        // The acceptance rate starts at 0: (0 + 1) / 2 is under 0.9.
        let config = config(None);
        let mut threshold = Threshold::new(&config);
        threshold.learn(&config, &outcome(7, 7, 7));
        assert_eq!(threshold, Threshold { lambda: 0.9 * 0.5 + (1.0 - 0.9) * 0.51, acceptance: 0.5 });
    }

    #[test]
    fn the_threshold_stays_a_probability() {
        // Steps of 0.5 * 1 from 0.5 would leave the range at once.
        let config = config(Some("epsilon=1,beta2=0.5"));
        let mut threshold = Threshold::new(&config);
        for (accepted, lambda) in
            [(0, 1.0), (0, 1.0), (7, 1.0), (7, 1.0), (7, 1.0), (7, 0.5), (7, 0.0), (7, 0.0)]
        {
            threshold.learn(&config, &outcome(7, 7, accepted));
            assert_eq!(threshold.lambda, lambda, "acceptance {}", threshold.acceptance);
        }
    }

    #[test]
    fn a_calm_sequence_drafts_on_where_another_has_stopped() {
        let mut policy = AdaEdl::new(config(Some("epsilon=1,beta2=0.5,alpha=0.4")));
        for (seq, accepted) in [(SeqId(1), 7), (SeqId(2), 0)] {
            policy.sequences.insert(seq, Threshold::new(&policy.config));
            let outcome = Outcome { seq, ..outcome(7, 7, accepted) };
            policy.sequences.get_mut(&seq).unwrap().learn(&policy.config, &outcome);
        }
        // Thresholds 0 and 1; the bound of 0.05 nats is 0.9.
        let position = DraftPosition { index: 0, entropy: 0.05, top_prob: 0.9, path_log_prob: 0.0 };
        assert!(policy.keep_drafting(SeqId(1), &position));
        assert!(!policy.keep_drafting(SeqId(2), &position));
        policy.forget(SeqId(2));
        assert_eq!(policy.sequences.len(), 1);
    }
}
