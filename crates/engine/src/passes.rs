//! What passes of draft and target are asked, and what they answer.

use dsde_policy::{DraftPosition, PositionSignals, Prune, SeqId, Signals};
use dsde_sampling::{CounterDraws, Params, Proposal, Stream, TokenLogprobs, Verdict};

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
    /// Whether it is drafted ahead ([`Executor::verify_ahead`](crate::Executor::verify_ahead)), behind a proposal that is still being judged: a greedy
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

/// Asks what the target thinks of the tokens of a prompt while it reads them.
#[derive(Clone, Copy, Debug)]
pub struct PromptScore<'a> {
    /// Index of the sequence in the batch.
    pub seq_idx: usize,
    /// What follows the last rows of the sequence, one token per row.
    pub successors: &'a [u32],
    /// Most probable tokens to name beside each.
    pub top_len: u32,
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
