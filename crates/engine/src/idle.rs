//! An executor that does nothing, to measure the engine alone.

use dsde_policy::{DraftPosition, PositionSignals};
use dsde_sampling::walk::walk;
use dsde_sampling::{Proposal, TokenLogprobs, Verdict};

use crate::executor::{Executor, Shape};
use crate::passes::{DraftDraw, Drafted, ExecutorError, PromptScore, TargetDraw, Verification};
use crate::rows::{BlockCopy, RowBatch, SlotMove};

/// A step whose passes cost nothing: every draft is token 0 and kept (of a level, one is), every bonus is token 0.
#[derive(Debug)]
pub struct IdleExecutor(pub Shape);

impl Executor for IdleExecutor {
    fn shape(&self) -> Shape {
        self.0
    }

    fn copy_blocks(&mut self, _copies: &[BlockCopy]) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn move_slots(&mut self, _target: &[SlotMove], _draft: &[SlotMove]) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn draft(
        &mut self,
        _rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError> {
        drafted.clear();
        for draw in draws {
            let index = draw.proposal.len();
            let position = DraftPosition { index, entropy: 0.0, top_prob: 1.0, path_log_prob: 0.0 };
            let width = draw.beam.map_or(1, |beam| beam.width);
            drafted.extend((0..draw.n_drafted() as u32).map(|i| Drafted { token: i % width, position }));
        }
        Ok(())
    }

    fn verify(
        &mut self,
        _rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        verifications.clear();
        verifications.extend(draws.iter().map(|draw| Verification {
            verdict: accept_zeros(draw.proposal),
            pruned: 0,
            signals: vec![PositionSignals::default(); draw.proposal.len() as usize],
            logprobs: Vec::new(),
        }));
        Ok(())
    }

    fn score(
        &mut self,
        _rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError> {
        logprobs.clear();
        logprobs.resize(scores.iter().map(|score| score.successors.len()).sum(), TokenLogprobs::default());
        Ok(())
    }
}

/// Accepts the whole chain, or the path of zeros through a tree.
fn accept_zeros(proposal: &Proposal) -> Verdict {
    match proposal.is_chain() {
        true => Verdict { path: (0..proposal.len()).collect(), next: 0, is_bonus: true },
        false => walk(proposal, |_, _| 0),
    }
}
