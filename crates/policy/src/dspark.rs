//! DSpark's scheduler: verify the likeliest positions of the batch until the next one no longer pays for its row.
//!
//! DSpark, arXiv:2607.05147, Algorithm 1. A block is drafted for everyone; every position has a confidence, the probability
//! that it is accepted if those before it were. Positions are taken in falling order of survival while the expected
//! tokens per second of the step rise, and the first that would lower them ends the search. That early stop is what keeps
//! the choice lossless: it looks at no position behind the one it decides on.
//!
//! | equation | here |
//! |---|---|
//! | survival `a_{r,j} = product over i <= j of c_{r,i}` | `DSpark::rank` |
//! | `theta = tau SPS(B)`, `tau` from `R` on, `B` from `R` rows on; stop at the first `theta` that is not higher (Alg. 1) | [`select`] |
//! | `SPS(B)`, steps per second at `B` rows | [`StepCost`] |
//! | `c = sigma(z / T_j)`, `T_j` by search for the least calibration error, position by position | [`Calibration`] |
//!
//! Deviations and choices:
//! * There is no trained head: `z` is the logit of the draft's largest probability. It is a function of the prefix.
//! * Temperatures are fitted while serving, every 100 steps from decayed counts, instead of once on held-out data, and to
//!   the error of a position's own confidence: acceptances behind a rejection are unknown, so only the positions before
//!   and at it count, and the product follows from its factors.
//! * `SPS` is measured at start-up ([`crate::cost_profile`]) and refined by every step. It counts the drafting of the step,
//!   which is paid already. Without a profile the first 16 steps draft blocks of several lengths and verify all of them.
//! * `k` is 7, which no source fixes.
//! * The production variant, a budget out of older confidences with the search run to its end, is left out.

use std::collections::BinaryHeap;

use crate::ranking::{Candidate, Ranking};
use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::step_cost::StepCost;
use crate::{DraftPosition, Outcome, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

mod calibration;

pub use calibration::{Calibration, logit};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "dspark",
    summary: "drafts a block for everyone and verifies the likeliest positions while tokens per second rise",
    source: "DSpark, arXiv:2607.05147",
    parameters: &[Parameter {
        key: "k",
        values: ValueSet::Count { min: 1, max: LEN_MAX },
        default: Some("7"),
        meaning: "tokens drafted per sequence and step",
    }],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(DSpark::new(settings))),
};

/// Steps at the start whose blocks have different lengths.
const PROBES: u32 = 16;

/// Least time of a step, seconds; keeps the rate finite where nothing was ever timed.
const SECONDS_MIN: f64 = 1e-9;

/// What Algorithm 1 chose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Positions selected in the whole batch.
    pub n_positions: u32,
    /// Expected tokens of the step, `tau`.
    pub tokens: f64,
    /// Expected tokens per second, `theta`.
    pub rate: f64,
}

/// Takes positions while each raises the expected tokens per second of the step (Alg. 1).
///
/// * `n_sequences`: each emits one token for sure.
/// * `ranked`: positions in falling order of survival.
/// * `seconds`: of the step by the number of positions selected.
/// * `verify_lens`: positions selected of every sequence; written.
pub fn select(
    n_sequences: usize,
    ranked: impl Iterator<Item = Candidate>,
    seconds: impl Fn(f64) -> f64,
    verify_lens: &mut [u32],
) -> Selection {
    verify_lens.fill(0);
    let rate_of = |tokens: f64, n: u32| tokens / seconds(f64::from(n)).max(SECONDS_MIN);
    let tokens = n_sequences as f64;
    let mut best = Selection { n_positions: 0, tokens, rate: rate_of(tokens, 0) };
    for candidate in ranked.take_while(|candidate| candidate.survival > 0.0) {
        let (n_positions, tokens) = (best.n_positions + 1, best.tokens + candidate.survival);
        let rate = rate_of(tokens, n_positions);
        if rate <= best.rate {
            break;
        }
        best = Selection { n_positions, tokens, rate };
        verify_lens[candidate.seq_idx] += 1;
    }
    best
}

/// Where the positions of a sequence lie in the buffers of the step.
#[derive(Clone, Copy, Debug)]
struct Block {
    seq: SeqId,
    first: usize,
    len: usize,
}

/// Drafts a block for everyone and verifies what pays.
#[derive(Clone, Debug)]
pub struct DSpark {
    name: String,
    k: u32,
    /// Steps of different block lengths still to come.
    n_probes: u32,
    /// Whether the step under way is one of them.
    is_probing: bool,
    cost: StepCost,
    calibration: Calibration,
    /// Drafted positions of the step under way, sequence by sequence.
    blocks: Vec<Block>,
    logits: Vec<f64>,
    survivals: Vec<f64>,
    heap: BinaryHeap<Candidate>,
    selection: Option<Selection>,
}

impl DSpark {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    pub fn new(settings: &Settings) -> Self {
        let k = settings.count("k");
        Self {
            name: settings.name(),
            k,
            n_probes: PROBES,
            is_probing: false,
            cost: StepCost::default(),
            calibration: Calibration::new(k as usize),
            blocks: Vec::new(),
            logits: Vec::new(),
            survivals: Vec::new(),
            heap: BinaryHeap::new(),
            selection: None,
        }
    }

    /// Fills the buffers with the logits and survivals of what was drafted.
    fn rank(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]]) {
        self.blocks.clear();
        self.logits.clear();
        self.survivals.clear();
        for (sequence, positions) in view.sequences.iter().zip(drafted) {
            let (first, len) = (self.logits.len(), positions.len());
            self.blocks.push(Block { seq: sequence.seq, first, len });
            let mut survival = 1.0;
            for (j, position) in positions.iter().enumerate() {
                let z = logit(position.top_prob);
                survival *= self.calibration.confidence(j, z);
                self.logits.push(z);
                self.survivals.push(survival);
            }
        }
    }

    /// Counts the acceptances of a block up to and including the first rejection.
    fn learn(&mut self, block: Block, outcome: &Outcome<'_>) {
        let n_tested = outcome.verified.min(outcome.accepted + 1) as usize;
        let logits = &self.logits[block.first..][..n_tested.min(block.len)];
        for (j, &z) in logits.iter().enumerate() {
            self.calibration.count(j, z, j < outcome.accepted as usize);
        }
    }
}

impl Policy for DSpark {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.blocks.clear();
        self.selection = None;
        if view.sequences.is_empty() {
            return;
        }
        self.is_probing = self.n_probes > 0;
        let planned = if self.is_probing {
            // The whole block, half of it, the whole, nothing.
            let len = [self.k, self.k.div_ceil(2), self.k, 0][(PROBES - self.n_probes) as usize % 4];
            self.n_probes -= 1;
            Planned { len, width: 1, is_settled: false, reason: "probe" }
        } else {
            Planned { len: self.k, width: 1, is_settled: true, reason: "block" }
        };
        plan.fill(planned);
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.rank(view, drafted);
        if self.is_probing {
            return;
        }
        let n_sequences = view.sequences.len();
        let n_drafting = drafted.iter().filter(|positions| !positions.is_empty()).count() as f64;
        let n_rounds = drafted.iter().map(|positions| positions.len()).max().unwrap_or(0) as f64;
        let drafting = self.cost.drafting(n_rounds, n_drafting);
        let rows = (n_sequences as f64) + f64::from(view.prefill_rows);
        let seconds = |n_positions| drafting + self.cost.verifying(rows + n_positions);
        let survival = |seq_idx: usize, j: usize| {
            let block: &Block = &self.blocks[seq_idx];
            (j < block.len).then(|| self.survivals[block.first + j])
        };
        let ranked = Ranking::new(&mut self.heap, self.blocks.iter().map(|_| 0), survival);
        self.selection = Some(select(n_sequences, ranked, seconds, verify_lens));
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        let speculated = feedback.outcomes.iter().filter(|outcome| outcome.verified > 0);
        let mut next = 0;
        for outcome in speculated {
            // Blocks and outcomes are in the engine's order; not every block has an outcome.
            if let Some(skipped) = self.blocks[next..].iter().position(|block| block.seq == outcome.seq) {
                self.learn(self.blocks[next + skipped], outcome);
                next += skipped + 1;
            }
        }
        self.blocks.clear();
        self.calibration.end_step();
        self.cost.learn(feedback);
    }

    /// A profiled step stands for one of the first probes.
    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.n_probes = self.n_probes.saturating_sub(1);
        self.cost.learn(feedback);
    }

    fn explain(&self, _seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        if let Some(selection) = self.selection {
            numbers.push(("selected", f64::from(selection.n_positions)));
            numbers.push(("expected_tokens", selection.tokens));
            numbers.push(("tokens_per_second", selection.rate));
        }
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Survivals of every sequence; a step takes `fixed + row * positions`.
    fn check(survivals: &[&[f64]], fixed: f64, row: f64, expected: &[u32]) -> Selection {
        let survival = |seq_idx: usize, j: usize| survivals[seq_idx].get(j).copied();
        let mut heap = BinaryHeap::new();
        let ranked = Ranking::new(&mut heap, survivals.iter().map(|_| 0), survival);
        let mut verify_lens = vec![9; survivals.len()];
        let selection = select(survivals.len(), ranked, |n| fixed + row * n, &mut verify_lens);
        assert_eq!(verify_lens, expected, "{survivals:?}, {fixed} + {row} n seconds");
        selection
    }

    #[test]
    fn positions_are_taken_while_the_rate_rises() {
        let survivals: &[&[f64]] = &[&[0.9, 0.5, 0.2], &[0.6, 0.1]];
        // Rates: 2 / 10, 2.9 / 12 = 0.242, 3.5 / 14 = 0.25, 4.0 / 16 = 0.25: not higher, stop.
        let selection = check(survivals, 10.0, 2.0, &[1, 1]);
        assert_eq!(selection.n_positions, 2);
        assert!((selection.tokens - 3.5).abs() < 1e-12 && (selection.rate - 0.25).abs() < 1e-12);
        // 2 / 10, 2.9 / 11 = 0.264, 3.5 / 12 = 0.292, 4.0 / 13 = 0.308, 4.2 / 14 = 0.3.
        check(survivals, 10.0, 1.0, &[2, 1]);
        // 2 / 10 against 2.9 / 15 = 0.193.
        check(survivals, 10.0, 5.0, &[0, 0]);
        check(survivals, 10.0, 0.0, &[3, 2]);
        // Nothing was timed: every position raises the rate.
        check(survivals, 0.0, 0.0, &[3, 2]);
        check(&[&[0.0, 0.0], &[]], 10.0, 0.0, &[0, 0]);
    }

    #[test]
    fn the_search_stops_even_if_it_would_pay_again_later() {
        // The second position costs 10 s, the third nothing: 1 / 10, 1.9 / 11, 2.8 / 21 ends it, though 3.7 / 21 is more.
        let survivals: &[&[f64]] = &[&[0.9, 0.9, 0.9]];
        let survival = |seq_idx: usize, j: usize| survivals[seq_idx].get(j).copied();
        let mut heap = BinaryHeap::new();
        let seconds = |n: f64| [10.0, 11.0, 21.0, 21.0][n as usize];
        let mut verify_lens = [0];
        select(1, Ranking::new(&mut heap, [0].into_iter(), survival), seconds, &mut verify_lens);
        assert_eq!(verify_lens, [1]);
    }
}
