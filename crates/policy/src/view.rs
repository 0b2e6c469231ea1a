//! What a policy may see before tokens are drawn.

use std::time::Duration;

/// Identity of a running sequence; unique for the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// Signals that cost arithmetic, requested by [`Policy::signals`](crate::Policy::signals).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Divergence of target and draft at every verified position ([`PositionSignals`](crate::PositionSignals)).
    pub divergence: bool,
    /// Entropy and top probability of the draft at every drafted position ([`DraftPosition`]).
    pub draft_shape: bool,
}

/// One sequence that could speculate in this step: its prompt is stored and one token waits to be processed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SequenceView {
    /// Whose row this is.
    pub seq: SeqId,
    /// Largest length that still makes sense: bounded by the configured limit, the contexts of target and draft, the remaining
    /// tokens, and what a drafter without a model has to offer.
    pub limit: u32,
    /// Tokens that it may still emit, at least 1; stop tokens may end it earlier.
    pub remaining: u32,
    /// Positions whose keys and values the target has stored.
    pub context_len: u32,
    /// Tokens the draft must read before it can guess (0 is impossible: the last token is always unread); 1 for a sequence
    /// that is longer than the draft can read, for which it never guesses again.
    pub draft_lag: u32,
    /// Sampling temperature; 0 means greedy.
    pub temperature: f32,
    /// Tokens emitted so far.
    pub emitted: u32,
    /// Time since the first token was emitted; zero before it.
    pub decode_time: Duration,
    /// Bound asked for the mean time per token after the first, if any.
    pub tpot_max: Option<Duration>,
    /// Lower is more urgent.
    pub priority: i32,
    /// Where its part of [`PlanView::foreseen`] starts, and how many positions it has; read it by [`PlanView::foreseen_of`].
    pub foreseen: (u32, u32),
    /// Whether the draft model could draft for it instead of what is foreseen ([`Policy::takes_foreseen`](crate::Policy::takes_foreseen)).
    pub can_choose: bool,
}

/// The batch as `plan` and `trim` see it.
#[derive(Clone, Copy, Debug)]
pub struct PlanView<'a> {
    /// Steps taken so far; strictly increasing.
    pub step: u64,
    /// Sequences that may speculate, in the engine's order.
    pub sequences: &'a [SequenceView],
    /// Of drafters that know before anything is planned what they will draft: the positions of every sequence's chain, one chain
    /// behind the other. Such drafts are functions of the emitted tokens alone, so a plan may look at all of them.
    pub foreseen: &'a [DraftPosition],
    /// Rows of prompt chunks that share this step's target pass.
    pub prefill_rows: u32,
    /// Requests waiting for admission.
    pub n_waiting: u32,
    /// Free blocks, counting cached ones that can be evicted.
    pub blocks_free: u32,
    /// All blocks.
    pub blocks_total: u32,
    /// Positions that a block holds.
    pub block_len: u32,
    /// Engine clock at the start of the step.
    pub now: Duration,
}

impl<'a> PlanView<'a> {
    /// The chain that one of the sequences will draft, or may ([`SequenceView::can_choose`]); empty if a chain shows only when it is
    /// drafted.
    pub fn foreseen_of(&self, sequence: &SequenceView) -> &'a [DraftPosition] {
        let (start, len) = sequence.foreseen;
        &self.foreseen[start as usize..][..len as usize]
    }
}

/// Why a length was chosen; ends up in traces and metrics.
pub type Reason = &'static str;

/// A planned length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Tokens to draft; 0 means plain decoding. Of a tree: levels.
    pub len: u32,
    /// Nodes kept per level: 1 drafts a chain, more a tree by beam search over path probability. A tree takes `len * width`
    /// slots, at most 64; where fewer are left its last level is cut.
    pub width: u32,
    /// Whether the length comes from the policy's settled rule rather than from a calibration phase; a batch-wide cap
    /// neither counts nor cuts unsettled lengths.
    pub is_settled: bool,
    /// Short, stable, lower-case reason.
    pub reason: Reason,
}

impl Planned {
    /// No speculation.
    pub const fn none() -> Self {
        Self { len: 0, width: 1, is_settled: true, reason: "none" }
    }
}

/// Dropping the end of a proposal inside the target's pass, once its first layers seem to reject a token.
///
/// After a share of its layers the target compares the drafted token with its rivals, the tokens that the draft thought next
/// most probable, as if the hidden state were already the last. Where a rival leads, the token's row and those behind it skip
/// the other layers: the proposal ends before it. Rows that stay get the bits that they would have got.
///
/// The signal is about the drawn token, so this is for greedy requests alone (*non-anticipation*): whether a sampled token
/// is verified must not depend on its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prune {
    /// Share of the target's layers that every row passes, in `0..=1`; rounded up to at least one layer.
    pub depth: f32,
    /// Tokens that the drafted one is compared with.
    pub n_rivals: u32,
    /// Lead of the best rival above which the token counts as rejected, in logits.
    pub margin: f32,
}

/// Features of the draft's distribution at one drafted position, of a drafter without a model those of a distribution that it
/// estimates, whoever requested them; what was not requested may still be there, if another policy
/// of a [`Mixture`](crate::Mixture) requested it. In a chain they are functions of the prefix, never of the
/// drawn token. A tree is a deterministic function of the emitted tokens as a whole, so its features may name its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DraftPosition {
    /// 0 for the first drafted token; in a tree, the depth of the node.
    pub index: u32,
    /// Entropy of the draft's distribution, nats; 0 unless [`Signals::draft_shape`] was requested.
    pub entropy: f32,
    /// Largest probability of the draft's distribution; 1 unless [`Signals::draft_shape`] was requested.
    pub top_prob: f32,
    /// Natural logarithm of the path's probability. Chain: sum of `ln top_prob` up to here. Tree node: sum of the log
    /// probabilities of the tokens on its path; for [`Policy::keep_drafting`](crate::Policy::keep_drafting) on a tree, the
    /// log of the sum of the path probabilities of the level just drafted, whose best node the other features are of. 0 for
    /// chains unless [`Signals::draft_shape`] was requested.
    pub path_log_prob: f32,
}
