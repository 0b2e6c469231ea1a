//! Adaptive verification: as many positions as pay by last step's survivals, given to those that look best now.
//!
//! The scheduler of DSpark (arXiv:2607.05147, production variant) with an online estimator in place of its trained head, as
//! published with vLLM (pull requests 52228 and 52992). Two decisions are kept apart. *How many* positions of the batch are
//! verified is settled before anything is drafted, out of older survivals, so the search may look at all of them. *Which*
//! positions these are is settled by the survivals of this step.
//!
//! | equation | here |
//! |---|---|
//! | `z = logit(max q)`, clamped | [`logit`] |
//! | `c = sigma(s z + b_j)`, one slope, an intercept per position | [`Estimator::confidence`] |
//! | accepted 1, first rejected 0, later positions no label | `AdaptiveVerification::learn` |
//! | every 100 steps a Newton step, ridge 1e-3, damping `n / (n + 50)`, no negative slope | [`Estimator::fit`] |
//! | survival `a_{r,j} = product over i <= j of c_{r,i}` | `blocks.rs` |
//! | `m = arg max (n + sum of the m best a) / (draft[n] + verify[base + m])` | [`budget`] |
//! | the `m` best positions now, equals by depth | [`Ranking`] in [`Policy::trim`] |
//!
//! Why it is lossless: `m` is fixed before the first token of the step is drawn. The features of a chain are functions of the
//! prefix, and whether a position is among the `m` best depends on its own survival and on those ahead of it in the ranking;
//! later positions of its sequence are never ahead.
//!
//! Deviations and choices:
//! * Costs of a start-up profile ([`crate::cost_profile`]) are refined by every step. Without a profile the first 16 steps draft
//!   blocks of several lengths and verify all of them, so that several sizes are timed.
//! * Survivals are one step old where the original's are two: plans are not made ahead here.
//! * A block goes as far as the sequence's limit allows, and prompt rows count among the base rows.
//! * One step moves no weight by more than 1, and starts from a slope of 0.5 and intercepts of -0.2.
//! * After 100 steps in which nothing was verified one step verifies everything, or a low opinion of the draft would last.
//! * A sequence that was not in the last step counts as sure, as a new one does.

mod blocks;
mod costs;
pub mod estimator;

use std::collections::BinaryHeap;

use crate::acceptance::logistic::logit;
use crate::dspark::Selection;
use crate::ranking::{Candidate, Ranking};
use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{DraftPosition, Outcome, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use blocks::Blocks;
use costs::Costs;
pub use estimator::Estimator;

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "adaptive_verification",
    summary: "drafts a block for everyone and verifies as many of the likeliest positions as pay, by an online estimate",
    source: "vLLM pull request 52228, after arXiv:2607.05147",
    parameters: &[
        Parameter {
            key: "k",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("7"),
            meaning: "tokens drafted per sequence and step",
        },
        Parameter {
            key: "interval",
            values: ValueSet::Count { min: 1, max: 10_000 },
            default: Some("100"),
            meaning: "steps between fits of the acceptance estimate",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(AdaptiveVerification::new(settings))),
};

/// Steps at the start whose blocks have different lengths.
const PROBES: u32 = 16;

/// Steps without a verified draft after which one step verifies everything.
const UNTESTED_MAX: u32 = 100;

/// Bound on the log-odds of a position.
const LOGIT_MAX: f64 = 8.0;

/// Least time of a step, seconds; keeps the rate finite where nothing was ever timed.
const SECONDS_MIN: f64 = 1e-9;

/// The number of positions with the most expected tokens per second; of equals the smallest.
///
/// * `n_sequences`: each emits one token for sure.
/// * `ranked`: positions in falling order of survival.
/// * `seconds`: of the step by the number of positions verified.
pub fn budget(
    n_sequences: usize,
    ranked: impl Iterator<Item = Candidate>,
    seconds: impl Fn(u32) -> f64,
) -> Selection {
    let mut tokens = n_sequences as f64;
    let mut best = Selection { n_positions: 0, tokens, rate: tokens / seconds(0).max(SECONDS_MIN) };
    for (n_positions, candidate) in (1..).zip(ranked) {
        tokens += candidate.survival;
        let rate = tokens / seconds(n_positions).max(SECONDS_MIN);
        if rate > best.rate {
            best = Selection { n_positions, tokens, rate };
        }
    }
    best
}

/// Drafts a block for everyone and verifies the best of the batch.
#[derive(Clone, Debug)]
pub struct AdaptiveVerification {
    name: String,
    k: u32,
    interval: u32,
    /// Steps of different block lengths still to come.
    n_probes: u32,
    /// Steps since a draft was verified.
    n_untested: u32,
    /// Steps since the last fit.
    n_unfitted: u32,
    costs: Costs,
    estimator: Estimator,
    /// Of the last step, until this one is drafted.
    blocks: Blocks,
    /// Of the last step in the order of this one: index of the sequence's block, if it has any.
    last: Vec<Option<usize>>,
    heap: BinaryHeap<Candidate>,
    /// What this step verifies; `None` if that is everything.
    budget: Option<Selection>,
}

impl AdaptiveVerification {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    pub fn new(settings: &Settings) -> Self {
        let k = settings.count("k");
        Self {
            name: settings.name(),
            k,
            interval: settings.count("interval"),
            n_probes: PROBES,
            n_untested: 0,
            n_unfitted: 0,
            costs: Costs::default(),
            estimator: Estimator::new(k as usize),
            blocks: Blocks::default(),
            last: Vec::new(),
            heap: BinaryHeap::new(),
            budget: None,
        }
    }

    /// Plans a step that verifies all it drafts, if one is due.
    fn probe(&mut self) -> Option<Planned> {
        let len = if self.n_probes > 0 {
            self.n_probes -= 1;
            // The whole block, half of it, the whole, nothing.
            [self.k, self.k.div_ceil(2), self.k, 0][(PROBES - 1 - self.n_probes) as usize % 4]
        } else if self.n_untested >= UNTESTED_MAX {
            self.k
        } else {
            return None;
        };
        Some(Planned { len, width: 1, is_settled: false, reason: "probe" })
    }

    /// Finds out how many positions pay, by the survivals of the last step.
    fn set_budget(&mut self, view: &PlanView<'_>) {
        let mut after = 0;
        self.last.clear();
        self.last.extend(view.sequences.iter().map(|sequence| {
            let idx = self.blocks.find(sequence.seq, &mut after)?;
            (!self.blocks.survivals(idx).is_empty()).then_some(idx)
        }));
        let survival = |seq_idx: usize, j: usize| {
            let is_within = j < self.k.min(view.sequences[seq_idx].limit) as usize;
            match self.last[seq_idx] {
                _ if !is_within => None,
                None => Some(1.0),
                Some(idx) => self.blocks.survivals(idx).get(j).copied(),
            }
        };
        let n_sequences = view.sequences.len();
        let n_rounds = view.sequences.iter().map(|sequence| sequence.limit.min(self.k)).max().unwrap_or(0);
        let n_drafting = view.sequences.iter().filter(|sequence| sequence.limit > 0).count() as u32;
        let drafting = self.costs.drafting(n_rounds, n_drafting);
        let rows = n_sequences as u32 + view.prefill_rows;
        let seconds = |n_positions| drafting + self.costs.verifying(rows + n_positions);
        let ranked = Ranking::new(&mut self.heap, view.sequences.iter().map(|_| 0), survival);
        self.budget = Some(budget(n_sequences, ranked, seconds));
    }

    /// Notes the acceptances of a block up to and including the first rejection.
    fn learn(&mut self, idx: usize, outcome: &Outcome<'_>) {
        let n_tested = outcome.verified.min(outcome.accepted.saturating_add(1)) as usize;
        for (j, &z) in self.blocks.odds(idx).iter().take(n_tested).enumerate() {
            self.estimator.note(j, z, j < outcome.accepted as usize);
        }
    }
}

impl Policy for AdaptiveVerification {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.budget = None;
        if view.sequences.is_empty() {
            return;
        }
        let planned = self.probe().unwrap_or_else(|| {
            self.set_budget(view);
            Planned { len: self.k, width: 1, is_settled: true, reason: "block" }
        });
        plan.fill(planned);
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.blocks.clear();
        for (sequence, positions) in view.sequences.iter().zip(drafted) {
            let odds = positions.iter().map(|position| logit(f64::from(position.top_prob), LOGIT_MAX));
            let odds = odds.take(self.k as usize);
            self.blocks.push(sequence.seq, odds, |j, z| self.estimator.confidence(j, z));
        }
        let Some(budget) = self.budget else { return };
        verify_lens.fill(0);
        let survival = |seq_idx: usize, j: usize| self.blocks.survivals(seq_idx).get(j).copied();
        let ranked = Ranking::new(&mut self.heap, (0..self.blocks.len()).map(|_| 0), survival);
        for candidate in ranked.take(budget.n_positions as usize) {
            verify_lens[candidate.seq_idx] += 1;
        }
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.n_untested = self.n_untested.saturating_add(1);
        let mut after = 0;
        for outcome in feedback.outcomes.iter().filter(|outcome| outcome.verified > 0) {
            if let Some(idx) = self.blocks.find(outcome.seq, &mut after) {
                self.learn(idx, outcome);
                self.n_untested = 0;
            }
        }
        self.n_unfitted += 1;
        if self.n_unfitted >= self.interval {
            self.n_unfitted = 0;
            self.estimator.fit();
        }
        self.costs.learn(feedback);
    }

    /// A profiled step stands for one of the first probes.
    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.n_probes = self.n_probes.saturating_sub(1);
        self.costs.learn(feedback);
    }

    fn explain(&self, _seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        if let Some(budget) = self.budget {
            numbers.push(("budget", f64::from(budget.n_positions)));
            numbers.push(("expected_tokens", budget.tokens));
            numbers.push(("tokens_per_second", budget.rate));
        }
    }

    /// Nothing to drop: blocks are replaced with every step, and no other number belongs to a sequence.
    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget of a batch with these survivals, if a step takes `seconds[m]` with `m` positions.
    fn check(survivals: &[&[f64]], seconds: &[f64], expected: (u32, f64)) {
        let survival = |seq_idx: usize, j: usize| survivals[seq_idx].get(j).copied();
        let mut heap = BinaryHeap::new();
        let ranked = Ranking::new(&mut heap, survivals.iter().map(|_| 0), survival);
        let got = budget(survivals.len(), ranked, |m| seconds[m as usize]);
        assert_eq!(got.n_positions, expected.0, "{survivals:?}, {seconds:?}: {got:?}");
        assert!((got.tokens - expected.1).abs() < 1e-12, "{got:?}");
    }

    #[test]
    fn budgets_of_hand_computed_rates() {
        let survivals: &[&[f64]] = &[&[0.9, 0.5, 0.2], &[0.6, 0.1]];
        // Ranked 0.9, 0.6, 0.5, 0.2, 0.1. 2 / 10 = 0.2, 2.9 / 11 = 0.264, 3.5 / 12 = 0.292, 4 / 13 = 0.308, 4.2 / 14 = 0.3.
        check(survivals, &[10.0, 11.0, 12.0, 13.0, 14.0, 15.0], (3, 4.0));
        // 2 / 10 against 2.9 / 15, 3.5 / 20, ...
        check(survivals, &[10.0, 15.0, 20.0, 25.0, 30.0, 35.0], (0, 2.0));
        check(survivals, &[10.0; 6], (5, 4.3));
        check(&[&[], &[]], &[10.0], (0, 2.0));
    }

    #[test]
    fn the_search_goes_on_behind_a_bump() {
        // 1 / 10, 1.9 / 20, 2.8 / 20, 3.7 / 20 = 0.185: the second position pays for the first one's jump.
        check(&[&[0.9, 0.9, 0.9]], &[10.0, 20.0, 20.0, 20.0], (3, 3.7));
        // Equals: 1 / 10 = 2 / 20; no more rows than needed.
        check(&[&[1.0]], &[10.0, 20.0], (0, 1.0));
    }
}
