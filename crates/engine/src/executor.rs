//! The port behind which tensors live: a real model, a scripted one in tests, a pretended one in simulation.

use dsde_policy::ExpertsWoken;
use dsde_sampling::TokenLogprobs;

use crate::ahead::DraftAhead;
use crate::passes::{DraftDraw, Drafted, ExecutorError, PromptScore, TargetDraw, Verification};
use crate::rows::{BlockCopy, RowBatch, SlotMove};

/// What an executor can hold; constant for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens in the target's vocabulary, which are also what a draft reads and guesses here.
    pub vocab_len: u32,
    /// Longest sequence, prompt and output together.
    pub context_len_max: u32,
    /// Slots per block.
    pub block_len: u32,
    /// Blocks in each store; while the draft is lent out ([`Executor::lend_draft`]) the target's has more.
    pub n_blocks: u32,
    /// Longest sequence that the draft model can read, possibly shorter than `context_len_max`; `None` without one.
    pub draft_context_len: Option<u32>,
    /// Whether the draft reads a token together with what the target made of the one before. While it drafts it can only guess
    /// that, so what it read of a proposal it reads again once the target has, and it cannot run ahead of the target.
    pub draft_reads_target: bool,
    /// Of the slots that a row sees, how many a layer attends to at most, the last ones; the blocks before them are given back
    /// while a sequence goes on. `None` where a layer of target or draft attends to all.
    pub window: Option<u32>,
    /// States of the target's recurrent layers that can be kept at a time: one for each running sequence, and snapshots in what is
    /// left. 0 without such layers.
    pub n_states: u32,
}

impl Shape {
    /// Longest sequence that the blocks can hold.
    pub fn storable_len(&self) -> u32 {
        let n_slots = self.n_blocks.saturating_mul(self.block_len);
        // A window, as many rows at a time, and the ends of both inside of blocks.
        let is_enough = |ahead: u32| n_slots / 2 >= ahead.saturating_add(self.block_len);
        match self.rows_ahead() {
            Some(ahead) if is_enough(ahead) => u32::MAX,
            _ => n_slots,
        }
    }

    /// Rows of a sequence that may be read at once, so that what it has passed makes room for them; `None` is any number.
    pub(crate) fn rows_ahead(&self) -> Option<u32> {
        self.window.map(|window| window.max(self.block_len))
    }

    /// Longest chain that the draft model can guess behind `known_len` tokens: it reads all of them, and all guesses but
    /// the last. 0 where it cannot read so far, or there is none.
    pub fn draft_limit(&self, known_len: u32) -> u32 {
        self.draft_context_len.map_or(0, |len| len.saturating_add(1).saturating_sub(known_len))
    }
}

/// Runs passes of draft and target over a shared set of blocks.
pub trait Executor: Send {
    /// Limits of this executor.
    fn shape(&self) -> Shape;

    /// Copies blocks in every store, and what is kept beside their slots for states ([`StateUse`](crate::StateUse)).
    ///
    /// # Errors
    /// If the copy failed; the blocks' contents are then undefined.
    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), ExecutorError>;

    /// Copies single slots, one after the other: the accepted path of a tree moves to the slots behind the known tokens.
    ///
    /// * `target`, `draft`: in the store of that model; what the draft reads of the target moves with the target's slots, and so does
    ///   what is kept beside them for states ([`StateUse`](crate::StateUse)).
    ///
    /// # Errors
    /// If the copy failed; the slots' contents are then undefined.
    fn move_slots(&mut self, target: &[SlotMove], draft: &[SlotMove]) -> Result<(), ExecutorError>;

    /// One draft pass: stores keys and values of `rows` in the draft store and drafts the tokens asked for.
    ///
    /// * `draws`: at most one per sequence, ascending `seq_idx`; sequences without one only catch up.
    /// * `drafted`: cleared and filled in the order of `draws`, [`DraftDraw::n_drafted`] for each. For a beam, row by row the
    ///   most probable tokens of the processed distribution (of greedy requests: the softmax), most probable first.
    ///
    /// # Errors
    /// If the pass failed or no draft model is loaded.
    fn draft(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError>;

    /// One target pass: stores keys and values of `rows` in the target store and judges the proposals.
    ///
    /// * `draws`: at most one per sequence, ascending `seq_idx`; sequences without one are prompt chunks that go on.
    /// * `verifications`: cleared and filled in the order of `draws`.
    ///
    /// # Errors
    /// If the pass failed.
    fn verify(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError>;

    /// One target pass over parts of prompts: stores keys and values of `rows` in the target store and tells how probable what
    /// follows was, before penalties and temperature.
    ///
    /// * `scores`: one per sequence, in order.
    /// * `logprobs`: cleared and filled in the order of `scores`, one per successor.
    ///
    /// # Errors
    /// If the pass failed.
    fn score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError>;

    /// [`Executor::verify`], and beside it the draft passes of `ahead`, on another part of the machine if there is one.
    ///
    /// Neither reads what the other writes, so together they give what one after the other gives, as here.
    ///
    /// # Errors
    /// If a pass failed.
    fn verify_ahead(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        ahead: &mut DraftAhead<'_>,
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        self.verify(rows, draws, verifications)?;
        ahead.run(|rows, draws, drafted| self.draft(rows, draws, drafted))
    }

    /// Experts that target passes asked since the last call; `None` where the target has none.
    fn take_experts_woken(&mut self) -> Option<ExpertsWoken> {
        None
    }

    /// Frees the draft: weights, keys and values. Their memory becomes blocks of the target's store behind those of
    /// [`Shape::n_blocks`].
    ///
    /// Returns how many, at least one. `None`, and nothing has changed, if the draft could not be loaded again, or its memory
    /// holds no block, or it is not there.
    fn lend_draft(&mut self) -> Option<u32> {
        None
    }

    /// Frees the blocks behind [`Shape::n_blocks`], whose contents are needed no longer, and loads the draft; its store is empty.
    ///
    /// # Errors
    /// If the draft could not be loaded. The blocks are gone nevertheless; passes of the target work, and the call may be
    /// repeated.
    fn reclaim_draft(&mut self) -> Result<(), ExecutorError> {
        Ok(())
    }
}
