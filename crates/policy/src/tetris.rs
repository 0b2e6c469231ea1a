//! TETRIS: draft a little more than the target can verify, and verify what is likeliest to survive anywhere in the batch.
//!
//! Wu et al., "TETRIS: Optimal Draft Token Selection for Batch Speculative Decoding", ACL 2025, arXiv:2502.15197. The
//! target's budget of `base_k` drafted rows per sequence belongs to the batch: a sequence whose draft is sure gets rows
//! of one whose draft is not.
//!
//! | equation | here |
//! |---|---|
//! | draft `base_k + extra` tokens per sequence, from two sequences on | [`Tetris::plan`](Policy::plan) |
//! | budget `C = base_k B` | [`Tetris::trim`](Policy::trim) |
//! | score of position j: `sum over t <= j of ln q(x_t)`; the `C` best of the batch are verified | [`select`] |
//!
//! Deviations:
//! * The score sums `ln max q`, the logarithms of the draft's largest probabilities, not `ln q(x_t)` of the drawn tokens. The
//!   published score looks at a token to decide whether it is verified. With sampled drafts this drops unlikely draws too
//!   often, and the output no longer follows the target. For greedy drafts both scores are the same number.
//! * The paper sweeps `base_k` from 1 to 6 and `extra` from 1 to 3 without recommending one; 3 and 2 lie in the middle.

use std::collections::BinaryHeap;

use crate::ranking::{Candidate, Ranking};
use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{DraftPosition, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "tetris",
    summary: "drafts a fixed surplus and verifies the positions likeliest to survive in the whole batch",
    source: "Wu et al., arXiv:2502.15197",
    parameters: &[
        Parameter {
            key: "base_k",
            values: ValueSet::Count { min: 1, max: LEN_MAX / 2 },
            default: Some("3"),
            meaning: "drafted tokens that are verified per sequence on average",
        },
        Parameter {
            key: "extra",
            values: ValueSet::Count { min: 0, max: LEN_MAX / 2 },
            default: Some("2"),
            meaning: "tokens drafted per sequence beyond that",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Tetris::new(settings))),
};

/// Keeps the `budget` positions of the batch that are likeliest to survive.
///
/// * `heap`: overwritten.
/// * `drafted`: positions of every sequence, root first.
/// * `verify_lens`: positions kept of every sequence; written.
pub fn select(
    heap: &mut BinaryHeap<Candidate>,
    drafted: &[&[DraftPosition]],
    budget: usize,
    verify_lens: &mut [u32],
) {
    let survival = |seq_idx: usize, position: usize| {
        let position: &DraftPosition = drafted[seq_idx].get(position)?;
        Some(f64::from(position.path_log_prob).exp())
    };
    verify_lens.fill(0);
    for candidate in Ranking::new(heap, drafted.iter().map(|_| 0), survival).take(budget) {
        verify_lens[candidate.seq_idx] += 1;
    }
}

/// Plans a surplus for everyone and trims it to the budget of the batch.
#[derive(Clone, Debug)]
pub struct Tetris {
    name: String,
    base_k: u32,
    extra: u32,
    heap: BinaryHeap<Candidate>,
}

impl Tetris {
    /// Reads the settings of [`ENTRY`].
    pub fn new(settings: &Settings) -> Self {
        Self {
            name: settings.name(),
            base_k: settings.count("base_k"),
            extra: settings.count("extra"),
            heap: BinaryHeap::new(),
        }
    }
}

impl Policy for Tetris {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        // Alone there is nobody to take rows from: the surplus would be drafted for nothing.
        let len = if view.sequences.len() < 2 { self.base_k } else { self.base_k + self.extra };
        plan.fill(Planned { len, width: 1, is_settled: true, reason: "surplus" });
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        let budget = self.base_k as usize * view.sequences.len();
        select(&mut self.heap, drafted, budget, verify_lens);
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(top_probs: &[f32]) -> Vec<DraftPosition> {
        let mut path_log_prob = 0.0;
        let position = |(index, &top_prob): (usize, &f32)| {
            path_log_prob += top_prob.ln();
            DraftPosition { index: index as u32, entropy: 0.0, top_prob, path_log_prob }
        };
        top_probs.iter().enumerate().map(position).collect()
    }

    fn check(top_probs: &[&[f32]], budget: usize, expected: &[u32]) {
        let chains: Vec<Vec<DraftPosition>> = top_probs.iter().map(|chain_of| chain(chain_of)).collect();
        let drafted: Vec<&[DraftPosition]> = chains.iter().map(Vec::as_slice).collect();
        let mut verify_lens: Vec<u32> = chains.iter().map(|chain| chain.len() as u32).collect();
        select(&mut BinaryHeap::new(), &drafted, budget, &mut verify_lens);
        assert_eq!(verify_lens, expected, "{top_probs:?}, budget {budget}");
    }

    #[test]
    fn rows_go_where_drafts_are_sure() {
        // Survivals 0.9, 0.81, 0.729 against 0.5, 0.25, 0.125.
        let unequal: &[&[f32]] = &[&[0.9, 0.9, 0.9], &[0.5, 0.5, 0.5]];
        check(unequal, 4, &[3, 1]);
        check(unequal, 2, &[2, 0]);
        check(unequal, 5, &[3, 2]);
        check(unequal, 0, &[0, 0]);
        check(unequal, 99, &[3, 3]);
        // 0.6, 0.54 against 0.7, 0.21: a sure position behind an unsure one does not help it.
        check(&[&[0.6, 0.9], &[0.7, 0.3]], 2, &[1, 1]);
        check(&[&[0.6, 0.9], &[0.7, 0.3]], 3, &[2, 1]);
    }

    #[test]
    fn drafts_without_a_distribution_share_alike() {
        check(&[&[1.0; 5], &[1.0; 5], &[1.0; 2]], 9, &[4, 3, 2]);
        check(&[&[1.0; 5], &[]], 6, &[5, 0]);
    }
}
