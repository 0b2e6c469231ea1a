//! AdaServe: every request gets the tree that its latency bound needs, and what is left goes where it emits most.
//!
//! Li et al., "AdaServe: Accelerating Multi-SLO LLM Serving with SLO-Customized Speculative Decoding", arXiv:2501.12162. A
//! request that falls behind its bound on the time per token must emit more than others in this step. The draft proposes
//! a tree of the same shape to everybody; out of these candidates the rows of one target pass are given first to requests
//! with a bound until each is expected to keep it, then to the likeliest nodes of the whole batch.
//!
//! | equation | here |
//! |---|---|
//! | `d = clip(d_max, d_min, floor(B1 / (n + c1)) - 1)` (Eq. 8), `w = clip(w_max, 1, floor(B2 / n) + c2)` (Eq. 9) | [`shape()`] |
//! | `A(r) = (l + t_spec) / t_tpot - o`, tokens the request must emit now | [`tokens_needed`] |
//! | `A_cap(r) = min(A(r), d + 1)`; in falling order of `A(r)`, the best nodes until `1 + sum of f >= A_cap` | `AdaServe::select_for_slo` |
//! | the rest of the budget to the best nodes of all | `AdaServe::select_for_throughput` |
//! | `f(v)`, product of the draft's probabilities on the path | `DraftPosition::path_log_prob`, by the engine |
//!
//! Deviations and choices:
//! * `B` and `B1`, the rows that a target pass takes at full efficiency, and `B2`, the same of a draft pass, come from a
//!   profile. Here they are the knees of cost lines ([`crate::step_cost::knee`]), which a start-up profile begins and every
//!   step refines, or parameters. Where nothing was timed, and where rows are free, they are 1024. Every 16th step verifies
//!   with half of a measured `B`: what a row costs is only seen where their number changes.
//! * No constant but `d >= 1`, `w >= 1` was published: `d_max` 8 and `w_max` 4 suit a proposal of at most 64 nodes, `n_max` 16
//!   is half of such a tree, `c1` and `c2` are 0. `d w <= 64` always; `d` is clipped to what `w` leaves.
//! * `o` counts the tokens after the first and `l` the time since then, as the bound on the time per token does.
//! * `t_spec` is what a step costs with these shapes and the whole budget, from the same cost lines; nothing at first.
//! * The budget counts rows of verification, one per sequence included. Prompt rows of the same pass do not count: an extra
//!   row costs no more beside them.
//! * In a chain (`w` 1) `f` is the product of `max q`. The probabilities of drawn tokens would make the output follow
//!   another distribution than the target's; beam trees involve no draw.

use std::collections::BinaryHeap;
use std::time::Duration;

use crate::ranking::{Candidate, Ranking};
use crate::registry::{Entry, LEN_MAX, Parameter, ValueSet};
use crate::step_cost::{StepCost, knee};
use crate::{DraftPosition, PlanView, Planned, Policy, SeqId, SequenceView, Signals, StepFeedback};

mod shape;

pub use shape::{Config, Shape, shape};

/// Stands for a budget that follows from the cost model.
const MEASURED: &str = "measured";

/// Largest budget, rows; holds where no pass was timed or where rows cost nothing.
const BUDGET_MAX: u32 = 1024;

/// One of so many steps uses half the measured budget.
const HALVED_EVERY: u64 = 16;

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "adaserve",
    summary: "a tree per sequence, as large as its bound on the time per token needs; the rest by probability",
    source: "Li et al., arXiv:2501.12162",
    parameters: &[
        Parameter {
            key: "d_min",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("1"),
            meaning: "fewest levels that are drafted",
        },
        Parameter {
            key: "d_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("8"),
            meaning: "most levels that are drafted",
        },
        Parameter {
            key: "w_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("4"),
            meaning: "most nodes per level; 1 drafts chains",
        },
        Parameter {
            key: "n_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("16"),
            meaning: "most nodes that a sequence gets for the sake of its bound",
        },
        Parameter {
            key: "budget",
            values: ValueSet::CountOr { min: 1, max: BUDGET_MAX, word: MEASURED },
            default: Some(MEASURED),
            meaning: "rows of verification of one target pass",
        },
        Parameter {
            key: "draft_budget",
            values: ValueSet::CountOr { min: 1, max: BUDGET_MAX, word: MEASURED },
            default: Some(MEASURED),
            meaning: "rows of one draft pass",
        },
        Parameter {
            key: "c1",
            values: ValueSet::Count { min: 0, max: BUDGET_MAX },
            default: Some("0"),
            meaning: "added to the number of sequences in the depth",
        },
        Parameter {
            key: "c2",
            values: ValueSet::Count { min: 0, max: LEN_MAX },
            default: Some("0"),
            meaning: "added to the nodes per level",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(AdaServe::new(Config::new(settings)?))),
};

/// Tokens that the sequence must emit in this step to keep its bound, `A(r)`; may be negative. `None` without a bound.
///
/// * `step`: expected duration of this step, seconds.
pub fn tokens_needed(sequence: &SequenceView, step: f64) -> Option<f64> {
    let tpot_max = sequence.tpot_max.filter(|tpot_max| *tpot_max > Duration::ZERO)?;
    let n_timed = f64::from(sequence.emitted.saturating_sub(1));
    Some((sequence.decode_time.as_secs_f64() + step) / tpot_max.as_secs_f64() - n_timed)
}

/// Drafts trees of one shape and verifies of each what its bound and the budget of the batch call for.
#[derive(Clone, Debug)]
pub struct AdaServe {
    config: Config,
    cost: StepCost,
    /// Of the step under way.
    shape: Shape,
    /// Sequences with a bound and the tokens they need, the neediest first.
    needs: Vec<(f64, usize)>,
    heap: BinaryHeap<Candidate>,
}

impl AdaServe {
    /// Nothing is learnt yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            cost: StepCost::default(),
            shape: Shape::default(),
            needs: Vec::new(),
            heap: BinaryHeap::new(),
        }
    }

    /// Rows of one target pass and of one draft pass.
    fn budgets(&self) -> (u32, u32) {
        // The cast saturates: a knee at infinity is the largest budget.
        let measured = |knee: Option<f64>| knee.map_or(BUDGET_MAX, |rows| (rows as u32).clamp(1, BUDGET_MAX));
        (
            self.config.budget.unwrap_or_else(|| measured(self.cost.knee())),
            self.config.draft_budget.unwrap_or_else(|| measured(knee(&self.cost.round))),
        )
    }

    /// Expected seconds of a step that uses all of `budget`.
    fn step_seconds(&self, view: &PlanView<'_>, budget: u32) -> f64 {
        let n = view.sequences.len() as f64;
        let (depth, width) = (f64::from(self.shape.depth), f64::from(self.shape.width));
        let rows = (n + n * depth * width).min(f64::from(budget).max(n)) + f64::from(view.prefill_rows);
        self.cost.drafting(depth, n * width) + self.cost.verifying(rows)
    }

    /// Gives every sequence with a bound its best nodes until it is expected to keep the bound, the neediest first.
    /// Returns what is left of `n_rows`.
    fn select_for_slo(
        &mut self,
        drafted: &[&[DraftPosition]],
        mut n_rows: usize,
        verify_lens: &mut [u32],
    ) -> usize {
        self.needs.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let needed_max = f64::from(self.shape.depth) + 1.0;
        for &(needed, seq_idx) in &self.needs {
            let needed = needed.min(needed_max);
            let mut expected = 1.0;
            for node in drafted[seq_idx].iter().take(self.config.n_max as usize) {
                if expected >= needed || n_rows == 0 {
                    break;
                }
                expected += f64::from(node.path_log_prob).exp();
                verify_lens[seq_idx] += 1;
                n_rows -= 1;
            }
        }
        n_rows
    }

    /// Gives `n_rows` rows to the best nodes that nobody has taken yet.
    fn select_for_throughput(
        &mut self,
        drafted: &[&[DraftPosition]],
        n_rows: usize,
        verify_lens: &mut [u32],
    ) {
        let f = |seq_idx: usize, node: usize| {
            let node: &DraftPosition = drafted[seq_idx].get(node)?;
            Some(f64::from(node.path_log_prob).exp())
        };
        let ranking = Ranking::new(&mut self.heap, verify_lens.iter().map(|&len| len as usize), f);
        for candidate in ranking.take(n_rows) {
            verify_lens[candidate.seq_idx] += 1;
        }
    }
}

impl Policy for AdaServe {
    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if view.sequences.is_empty() {
            return;
        }
        let (budget, draft_budget) = self.budgets();
        self.shape = shape(&self.config, budget, draft_budget, view.sequences.len() as u32);
        let Shape { depth, width } = self.shape;
        plan.fill(Planned { len: depth, width, is_settled: true, reason: "shape" });
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        let (budget, _) = self.budgets();
        let is_halved = self.config.budget.is_none() && view.step.is_multiple_of(HALVED_EVERY);
        let budget = if is_halved { budget / 2 } else { budget };
        let n_rows = (budget as usize).saturating_sub(view.sequences.len());
        let step = self.step_seconds(view, budget);
        let need = |(seq_idx, sequence)| Some((tokens_needed(sequence, step)?, seq_idx));
        self.needs.clear();
        self.needs.extend(view.sequences.iter().enumerate().filter_map(need));
        verify_lens.fill(0);
        let n_rows = self.select_for_slo(drafted, n_rows, verify_lens);
        self.select_for_throughput(drafted, n_rows, verify_lens);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.cost.learn(feedback);
    }

    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.cost.learn(feedback);
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Settings;
    use crate::samples::{SEQUENCE, VIEW};

    fn config(parameters: &str) -> Config {
        let parameters = Some(parameters).filter(|text| !text.is_empty());
        Config::new(&Settings::parse(&ENTRY, parameters).unwrap()).unwrap()
    }

    fn sequence(emitted: u32, decode_ms: u64, tpot_ms: Option<u64>) -> SequenceView {
        SequenceView {
            seq: SeqId(0),
            limit: 64,
            remaining: 1000,
            emitted,
            decode_time: Duration::from_millis(decode_ms),
            tpot_max: tpot_ms.map(Duration::from_millis),
            ..SEQUENCE
        }
    }

    #[test]
    fn tokens_needed_of_hand_computed_sequences() {
        // (500 + 50) / 50 - 9 tokens after the first; half of that pace is enough at 100 ms.
        let check = |emitted, decode_ms, tpot_ms, expected: Option<f64>| {
            let got = tokens_needed(&sequence(emitted, decode_ms, tpot_ms), 0.05);
            assert!(
                got.zip(expected).map_or(got == expected, |(got, e)| (got - e).abs() < 1e-9),
                "{got:?}, {expected:?}"
            );
        };
        check(10, 500, Some(50), Some(2.0));
        check(10, 500, Some(100), Some(-3.5));
        check(10, 500, None, None);
        check(10, 500, Some(0), None);
        check(1, 0, Some(50), Some(1.0));
    }

    /// Nodes whose path probabilities are these.
    fn nodes(path_probs: &[f32]) -> Vec<DraftPosition> {
        let node =
            |&prob: &f32| DraftPosition { index: 0, entropy: 0.0, top_prob: 1.0, path_log_prob: prob.ln() };
        path_probs.iter().map(node).collect()
    }

    /// Selects for one sequence per row of `candidates` at no cost of a step.
    fn check(parameters: &str, sequences: &[SequenceView], candidates: &[&[f32]], expected: &[u32]) {
        let mut policy = AdaServe::new(config(parameters));
        policy.shape = Shape { depth: 4, width: 1 };
        let trees: Vec<_> = candidates.iter().map(|path_probs| nodes(path_probs)).collect();
        let drafted: Vec<&[DraftPosition]> = trees.iter().map(Vec::as_slice).collect();
        let mut verify_lens: Vec<u32> = trees.iter().map(|tree| tree.len() as u32).collect();
        let view = PlanView { sequences, ..VIEW };
        policy.trim(&view, &drafted, &mut verify_lens);
        assert_eq!(verify_lens, expected, "{parameters}, {candidates:?}");
    }

    #[test]
    fn bounds_come_first_and_probability_takes_the_rest() {
        // A = 100 / 50 - 0 = 2 for the first, none for the second. 1 + 0.5 + 0.4 + 0.2 >= 2 takes three nodes of five.
        let behind = sequence(1, 100, Some(50));
        let free = sequence(1, 100, None);
        let (unsure, sure) = (&[0.5, 0.4, 0.2, 0.1][..], &[0.9, 0.8, 0.7, 0.6][..]);
        check("budget=7", &[behind, free], &[unsure, sure], &[3, 2]);
        check("budget=4", &[behind, free], &[unsure, sure], &[2, 0]);
        check("budget=2", &[behind, free], &[unsure, sure], &[0, 0]);
        check("budget=99", &[behind, free], &[unsure, sure], &[4, 4]);
        // Without bounds the likeliest win; a sequence that keeps its bound anyway needs nothing.
        let ahead = sequence(10, 100, Some(50));
        for first in [free, ahead] {
            check("budget=7", &[first, free], &[unsure, sure], &[1, 4]);
        }
        // At most `n_max` nodes for the sake of a bound.
        check("budget=5,n_max=1", &[behind, free], &[unsure, sure], &[1, 2]);
    }

    #[test]
    fn the_neediest_is_served_first() {
        // A = 4 and 2; three rows. 1 + 0.9 + 0.8 + 0.7 < 4 takes them all.
        let (urgent, behind) = (sequence(1, 200, Some(50)), sequence(1, 100, Some(50)));
        let candidates: [&[f32]; 2] = [&[0.9, 0.8, 0.7], &[0.9, 0.8, 0.7]];
        check("budget=5", &[urgent, behind], &candidates, &[3, 0]);
        check("budget=5", &[behind, urgent], &candidates, &[0, 3]);
        // A = 100 is capped to d + 1 = 5; a sequence that cannot reach it still gets no more than it has.
        let lost = sequence(1, 5000, Some(50));
        check("budget=6", &[lost, behind], &candidates, &[3, 1]);
    }

    #[test]
    fn budgets_are_the_knees_of_the_costs() {
        let mut policy = AdaServe::new(config(""));
        assert_eq!(policy.budgets(), (BUDGET_MAX, BUDGET_MAX));
        for rows in (0..64).map(|i| f64::from(1 + i % 8)) {
            policy.cost.rest.learn(rows, 0.0, 0.0405 + 0.001 * rows);
            policy.cost.round.learn(rows, 0.0105 + 0.001 * rows);
        }
        assert_eq!(policy.budgets(), (40, 10));
        assert_eq!(AdaServe::new(config("budget=7,draft_budget=3")).budgets(), (7, 3));
    }
}
