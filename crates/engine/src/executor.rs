//! The port behind which tensors live: a real model, a scripted one in tests, a pretended one in simulation.

use dsde_policy::{DraftPosition, PositionSignals, Prune, SeqId, Signals};
use dsde_sampling::{CounterDraws, Params, Proposal, Stream, TokenLogprobs, Verdict};

use crate::ahead::DraftAhead;
use crate::rows::{BlockCopy, RowBatch, SlotMove};

/// What an executor can hold; constant for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens in the vocabulary, shared by target and draft.
    pub vocab_len: u32,
    /// Longest sequence, prompt and output together.
    pub context_len_max: u32,
    /// Slots per block.
    pub block_len: u32,
    /// Blocks in each store; while the draft is lent out ([`Executor::lend_draft`]) the target's has more.
    pub n_blocks: u32,
    /// Longest sequence that the draft model can read, possibly shorter than `context_len_max`; `None` without one.
    pub draft_context_len: Option<u32>,
}

impl Shape {
    /// Longest chain that the draft model can guess behind `known_len` tokens: it reads all of them, and all guesses but
    /// the last. 0 where it cannot read so far, or there is none.
    pub fn draft_limit(&self, known_len: u32) -> u32 {
        self.draft_context_len.map_or(0, |len| len.saturating_add(1).saturating_sub(known_len))
    }
}

/// What a sequence that grows a token tree wants of a draft pass: the `width` most probable tokens after each of its last
/// `n_rows` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beam {
    /// The row of the last known token (1) if the proposal is empty, else those of as many last nodes of the proposal.
    pub n_rows: u32,
    /// At most the vocabulary.
    pub width: u32,
}

impl Beam {
    /// Drafted tokens that answer it.
    pub fn n_drafted(self) -> usize {
        self.n_rows as usize * self.width as usize
    }
}

/// Asks for drafted tokens of sequence `seq_idx` of a draft pass: one after its last row, or those of a [`Beam`].
#[derive(Clone, Copy, Debug)]
pub struct DraftDraw<'a> {
    /// Index of the sequence in the batch.
    pub seq_idx: usize,
    /// Whose token it is; the executor keeps its distribution under this id until the verification of the same step.
    pub seq: SeqId,
    /// Sampling parameters.
    pub params: &'a Params,
    /// Whose random numbers it draws from.
    pub stream: Stream,
    /// Prompt and emitted tokens.
    pub history: &'a [u32],
    /// Length of the prompt inside `history`.
    pub prompt_len: u32,
    /// Tokens drafted so far in this step; a new one of a chain gets position `history.len() + proposal.len()`.
    pub proposal: &'a Proposal,
    /// `None` draws one token, as chains need it.
    pub beam: Option<Beam>,
    /// Most probable tokens beside the drawn one that the verification will compare it with ([`TargetDraw::prune`]).
    pub n_rivals: u32,
    /// Tokens that may not be emitted yet (stop tokens before `tokens_min`): probability zero.
    pub banned: &'a [u32],
    /// Which features of the distribution are wanted.
    pub signals: Signals,
    /// Whether it is drafted ahead ([`Executor::verify_ahead`]), behind a proposal that is still being judged: a greedy
    /// chain, of whose distributions nothing is kept.
    pub is_ahead: bool,
}

impl DraftDraw<'_> {
    /// The random draws of this step.
    pub fn draws(&self) -> CounterDraws {
        CounterDraws { stream: self.stream, position: self.history.len() as u32 }
    }

    /// Rows at the end of the sequence's that tokens are wanted after.
    pub fn n_rows(&self) -> u32 {
        self.beam.map_or(1, |beam| beam.n_rows)
    }

    /// Drafted tokens that answer it.
    pub fn n_drafted(&self) -> usize {
        self.beam.map_or(1, Beam::n_drafted)
    }

    /// Node of the proposal that row `i` of [`DraftDraw::n_rows`] holds; `None` is the last known token.
    pub fn node(&self, i: u32) -> Option<u32> {
        (self.proposal.len() + i).checked_sub(self.n_rows())
    }
}

/// One drafted token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drafted {
    /// Drawn from the draft's distribution (its arg max for greedy requests), or one of its most probable tokens.
    pub token: u32,
    /// Features of that distribution. Chain: `index` is the proposal's length before the draw. Beam: `path_log_prob` is the
    /// logarithm of the token's own probability. The engine fills in what depends on the path.
    pub position: DraftPosition,
}

/// Asks for a verdict on sequence `seq_idx` of a target pass, whose last `1 + proposal.len()` rows are the last known token
/// and the proposal.
#[derive(Clone, Copy, Debug)]
pub struct TargetDraw<'a> {
    /// Index of the sequence in the batch.
    pub seq_idx: usize,
    /// Whose verdict it is.
    pub seq: SeqId,
    /// Sampling parameters.
    pub params: &'a Params,
    /// Whose random numbers it draws from.
    pub stream: Stream,
    /// Prompt and emitted tokens.
    pub history: &'a [u32],
    /// Length of the prompt inside `history`.
    pub prompt_len: u32,
    /// What to verify; a prefix of what was drafted. Empty for plain decoding.
    pub proposal: &'a Proposal,
    /// Whether the proposal came from the draft model of this executor in this step; otherwise it is deterministic (one-hot).
    pub is_model_drafted: bool,
    /// Of a tree that the draft model grew: the index each node had in the proposal while it was drafted, `[drafted]`. Such
    /// nodes were chosen, not drawn, so no distribution stands behind them.
    pub drafted_as: Option<&'a [u32]>,
    /// Whether the end of the proposal may be dropped inside the pass; only of greedy chains of the draft model.
    pub prune: Option<Prune>,
    /// Tokens that may not be emitted yet, as in [`DraftDraw::banned`].
    pub banned: &'a [u32],
    /// Which comparisons of draft and target are wanted.
    pub signals: Signals,
}

impl TargetDraw<'_> {
    /// The random draws of this step.
    pub fn draws(&self) -> CounterDraws {
        CounterDraws { stream: self.stream, position: self.history.len() as u32 }
    }

    /// Row, of the `1 + proposal.len()` last ones, that says what follows `parent`; `None` is the last known token.
    pub fn target_row(&self, parent: Option<u32>) -> usize {
        parent.map_or(0, |node| 1 + node as usize)
    }

    /// Row, in the order in which the draft model saw them in this step, that says the same of the draft.
    pub fn draft_row(&self, parent: Option<u32>) -> usize {
        let drafted_as = |node: u32| self.drafted_as.map_or(node, |nodes| nodes[node as usize]);
        parent.map_or(0, |node| 1 + drafted_as(node) as usize)
    }
}

/// Verdict on one sequence and what was measured on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Accepted path and next token.
    pub verdict: Verdict,
    /// Nodes at the end of the proposal that were dropped inside the pass ([`TargetDraw::prune`]); the verdict is that on what
    /// is left.
    pub pruned: u32,
    /// One entry per verified node if divergence was requested and the draft model made the proposal, else empty.
    pub signals: Vec<PositionSignals>,
    /// One entry per emitted token if the parameters ask for them, else empty.
    pub logprobs: Vec<TokenLogprobs>,
}

/// A failed pass. Everything in the batch is lost; the engine fails those requests and goes on with others.
#[derive(Debug, thiserror::Error)]
#[error("the {pass} pass failed: {source}")]
pub struct ExecutorError {
    /// Which pass.
    pub pass: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Runs passes of draft and target over a shared set of blocks.
pub trait Executor {
    /// Limits of this executor.
    fn shape(&self) -> Shape;

    /// Copies blocks in every store.
    ///
    /// # Errors
    /// If the copy failed; the blocks' contents are then undefined.
    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), ExecutorError>;

    /// Copies single slots, one after the other: the accepted path of a tree moves to the slots behind the known tokens.
    ///
    /// * `target`, `draft`: in the store of that model.
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
