//! One drafted token: from a row of the draft's logits to a token and the features of its distribution.

use dsde_engine::{DraftDraw, Drafted};
use dsde_policy::DraftPosition;
use dsde_sampling::{
    Adjustment, CounterDraws, Draws, Purpose, Scratch, Shape, Weights, adjust, argmax, softmax,
};

use super::drafted::{Basis, DraftedRows};
use super::path::Path;
use crate::backend::cpu::Kernel;

/// Draws the token asked for and keeps what its verification will need.
pub(super) struct Draw<'a> {
    /// What is asked for.
    pub(super) draw: &'a DraftDraw<'a>,
    /// `[vocab_len]`, raw logits of the draft; changed.
    pub(super) row: &'a mut [f32],
    /// Rows of the nodes before this one.
    pub(super) kept: &'a mut DraftedRows,
    /// Memory.
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Draw<'_> {
    type Output = Drafted;

    #[inline(always)]
    fn run(self) -> Drafted {
        let Self { row, kept, scratch, .. } = self;
        let DraftDraw { params, history, prompt_len, proposal, banned, signals, .. } = *self.draw;
        let path = Path::to_last(proposal);
        adjust(row, &Adjustment { params, history, prompt_len, drafted: &path, banned }, scratch);
        let basis = Basis::of(params);
        let mut shape = Shape { entropy: 0.0, top_prob: 1.0 };
        if let Basis::Logits { temperature } = basis {
            if signals.divergence {
                kept.keep_logits(row);
            }
            if signals.draft_shape {
                shape = Shape::of_logits(row, temperature);
            }
        }
        let token = if params.is_greedy() {
            argmax(row)
        } else {
            softmax(row, params, scratch);
            if basis == Basis::Probabilities && signals.draft_shape {
                shape = Shape::of_probabilities(row);
            }
            kept.keep_probabilities(row);
            let mut draws = CounterDraws { seed: params.seed, position: history.len() as u32 };
            draws.token(Purpose::Draft, proposal.len(), Weights::Row(row))
        };
        kept.finish_node();
        let Shape { entropy, top_prob } = shape;
        Drafted { token, position: DraftPosition { index: proposal.len(), entropy, top_prob, path_log_prob: 0.0 } }
    }
}
