//! The life of one continuation in the engine.

use std::borrow::Cow;
use std::ops::Range;

use dsde_policy::{DraftPosition, SeqId};
use dsde_sampling::{Params, Proposal, Stream};

use crate::block_pool::Prefix;
use crate::constraint::Form;
use crate::passes::Drafted;
use crate::report::{FinishReason, RequestTimeline};
use crate::request::{Request, RequestId, Slo};
use crate::rows::{BlockId, StateSlot, StateUse};
use crate::stop::StopStrings;
use crate::suffix::Contexts;

/// Order of service: priority first, then arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: i32,
    pub(crate) seq: SeqId,
}

/// One choice of a request: its tokens, where its keys and values are, and what it does in the current step.
///
/// `context_len < tokens.len()` always; while decoding they differ by one: the last token is row 0 of the next step.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SeqId,
    pub(crate) request: RequestId,
    pub(crate) choice: u32,
    pub(crate) priority: i32,
    /// Latency targets.
    pub(crate) slo: Slo,
    /// Whose prompt blocks it shares once they are computed: the first choice of the same request.
    pub(crate) leader: Option<SeqId>,
    pub(crate) params: Params,
    /// Whose random numbers it draws from; those of nobody else unless the request has a seed.
    pub(crate) stream: Stream,
    /// Of the answer, if it has one.
    pub(crate) form: Option<Form>,
    /// Whether emitted tokens carry rejected ones.
    pub(crate) tells_rejected: bool,
    /// Tokens of the prompt that need no score any more: all of them, or those that have been told and the first, which has none.
    pub(crate) scored_len: u32,
    /// Whether the text holds special tokens.
    pub(crate) shows_special_tokens: bool,
    /// Whether the text, of which there is none yet, leaves out a first space.
    pub(crate) drops_leading_space: bool,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) stop_strings: StopStrings,
    pub(crate) tokens_max: u32,
    pub(crate) tokens_min: u32,
    /// Prompt and emitted tokens.
    pub(crate) tokens: Vec<u32>,
    /// What followed what in `tokens`, as far as a drafter without a model has read; empty for other drafters.
    pub(crate) contexts: Contexts,
    /// Whose blocks it may share, and whose past answers it may repeat.
    pub(crate) salt: String,
    pub(crate) prompt_len: u32,
    /// Slots `0..context_len` of the target store hold the keys and values of the same tokens.
    pub(crate) context_len: u32,
    /// Likewise for the draft store; at most `tokens.len() - 1`.
    pub(crate) draft_len: u32,
    pub(crate) table: Vec<BlockId>,
    /// Blocks of `table`, the first ones, that no row will attend to and that were given back.
    pub(crate) n_passed: usize,
    /// Blocks of `table` already offered to the prefix cache, and the prefix that ends with them.
    pub(crate) n_remembered: usize,
    pub(crate) prefix: Prefix,
    /// Blocks of `table` known to be filled in the draft store.
    pub(crate) n_draft_marked: usize,
    pub(crate) state: OwnState,
    /// Drafted ahead in the last step, to follow `tokens`.
    pub(crate) carried: Vec<Drafted>,
    pub(crate) timeline: RequestTimeline,
    pub(crate) turn: Turn,
}

/// What a running sequence holds of the states of the target's recurrent layers; nothing where there are none.
#[derive(Debug, Default)]
pub(crate) struct OwnState {
    /// Its own.
    pub(crate) slot: Option<StateSlot>,
    /// The snapshot that its first pass starts from.
    pub(crate) from: Option<StateSlot>,
    /// The snapshot that this step leaves.
    pub(crate) to: Option<StateSlot>,
    /// Tokens up to the last snapshot that it has started from or left.
    pub(crate) snapshot_len: u32,
    /// Tokens that were remembered when it started, with a snapshot or without: so many it has in common with others.
    pub(crate) shared_len: u32,
}

impl OwnState {
    pub(crate) fn held(&self) -> impl Iterator<Item = StateSlot> {
        [self.slot, self.from, self.to].into_iter().flatten()
    }
}

/// What a sequence does in the current step.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Known tokens it gives to the target, from `context_len` on; 0 if it sits this step out.
    pub(crate) n_known: u32,
    /// Whether the last of them is the last known token, so that a token is drawn.
    pub(crate) is_drawing: bool,
    /// Tokens that slots are reserved for.
    pub(crate) planned: u32,
    /// Levels a tree may have, and nodes of each; a width of 1 is a chain.
    pub(crate) levels: u32,
    pub(crate) width: u32,
    /// Whether children that no beam kept stand for the finished tree too, and those there are: parent and token.
    pub(crate) reranks: bool,
    /// Whether what was offered is drafted, and not what the draft model guesses.
    pub(crate) is_foreseen: bool,
    pub(crate) spares: Vec<(Option<u32>, Drafted)>,
    /// What a drafter without a model has to offer, known before anything is planned.
    pub(crate) offered: Vec<Drafted>,
    pub(crate) drafted: u32,
    /// All of `drafted` if it was drafted ahead, in the step before; else 0.
    pub(crate) carried: u32,
    pub(crate) proposal: Proposal,
    /// Of a tree: nodes of the level drafted last, and how many levels there are.
    pub(crate) level: Range<u32>,
    pub(crate) n_levels: u32,
    /// Of a finished tree: each node's index while it was drafted.
    pub(crate) drafted_as: Vec<u32>,
    pub(crate) positions: Vec<DraftPosition>,
    /// Drafted behind the proposal while it was verified, or trimmed: a guess of what the target draws itself, and what
    /// follows that.
    pub(crate) ahead: Vec<Drafted>,
    /// Tokens appended in this step.
    pub(crate) emitted: u32,
    /// Whether its form could not be followed in this step.
    pub(crate) is_broken: bool,
    /// Set when a stop condition held in this step.
    pub(crate) finish: Option<FinishReason>,
}

impl Turn {
    /// Drops the last `n_nodes` of the proposal, which were not verified to the end.
    pub(crate) fn prune(&mut self, n_nodes: u32) {
        let n_left = self.proposal.len().checked_sub(n_nodes);
        self.proposal.truncate(n_left.expect("no more is dropped than was proposed"));
    }

    /// Tokens drafted ahead that could be carried.
    pub(crate) fn ahead_len(&self) -> u32 {
        self.ahead.len().saturating_sub(1) as u32
    }

    pub(crate) fn clear(&mut self) {
        self.n_known = 0;
        self.is_drawing = false;
        self.planned = 0;
        (self.levels, self.width) = (0, 0);
        self.reranks = false;
        self.is_foreseen = false;
        self.spares.clear();
        self.offered.clear();
        (self.drafted, self.carried) = (0, 0);
        self.proposal.clear();
        (self.level, self.n_levels) = (0..0, 0);
        self.drafted_as.clear();
        self.positions.clear();
        self.ahead.clear();
        self.emitted = 0;
        self.is_broken = false;
        self.finish = None;
    }
}

impl Sequence {
    /// Makes the sequence of one choice of a checked request.
    pub(crate) fn new(
        id: SeqId,
        leader: Option<SeqId>,
        request_id: RequestId,
        choice: u32,
        request: &Request,
        stream: Stream,
    ) -> Self {
        let prompt_len = request.prompt.len() as u32;
        Self {
            id,
            request: request_id,
            choice,
            priority: request.priority,
            slo: request.slo,
            leader,
            stream,
            params: request.params.clone(),
            form: request.grammar.clone().map(Form::new),
            tells_rejected: request.tells_rejected,
            scored_len: if request.scores_prompt && leader.is_none() { 1 } else { prompt_len },
            shows_special_tokens: request.shows_special_tokens,
            drops_leading_space: request.drops_leading_space,
            stop_tokens: request.stop.tokens.clone(),
            stop_strings: StopStrings::new(&request.stop.strings),
            tokens_max: request.tokens_max,
            tokens_min: request.tokens_min,
            tokens: request.prompt.clone(),
            contexts: Contexts::default(),
            salt: request.salt.clone(),
            prompt_len,
            context_len: 0,
            draft_len: 0,
            table: Vec::new(),
            n_passed: 0,
            n_remembered: 0,
            prefix: Prefix::EMPTY,
            n_draft_marked: 0,
            state: OwnState::default(),
            carried: Vec::new(),
            timeline: RequestTimeline { prompt_tokens: prompt_len, ..RequestTimeline::default() },
            turn: Turn::default(),
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        Rank { priority: self.priority, seq: self.id }
    }

    pub(crate) fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Tokens the target has not stored; 1 while decoding.
    pub(crate) fn n_pending(&self) -> u32 {
        self.len() - self.context_len
    }

    pub(crate) fn is_decoding(&self) -> bool {
        self.n_pending() == 1
    }

    /// Whether its prompt is being read and scored.
    pub(crate) fn is_scoring(&self) -> bool {
        self.scored_len < self.prompt_len
    }

    pub(crate) fn emitted(&self) -> u32 {
        self.len() - self.prompt_len
    }

    /// Leaves out the first space of an answer, of which `text` is what became certain now, if it is to be left out.
    pub(crate) fn drop_leading_space(&mut self, text: &mut Vec<u8>) {
        if !text.is_empty() && std::mem::take(&mut self.drops_leading_space) && text[0] == b' ' {
            text.remove(0);
        }
    }

    /// Takes the text that was held back because a stop string could have begun in it.
    pub(crate) fn held_text(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        self.stop_strings.flush(&mut text);
        self.drop_leading_space(&mut text);
        text
    }

    /// Tokens that may not be emitted in this step.
    pub(crate) fn banned(&self) -> &[u32] {
        if self.emitted() < self.tokens_min { &self.stop_tokens } else { &[] }
    }

    /// Masks the rows of the proposal that have no mask yet, if the answer has a form. Behind a path that breaks it nothing
    /// is ever drawn, so everything may follow there.
    pub(crate) fn mask_rows(&mut self, vocab_len: u32) {
        let (Some(form), proposal) = (&mut self.form, &mut self.turn.proposal) else {
            return;
        };
        while proposal.n_masked() <= proposal.len() {
            let node = proposal.n_masked().checked_sub(1);
            let path = node.map_or_else(Vec::new, |node| proposal.path(node));
            let mask = proposal.push_mask(vocab_len.div_ceil(32) as usize);
            let allowed = form.followed().allow(&path, mask);
            let is_stuck = allowed == Ok(true) && mask.iter().all(|&word| word == 0);
            if allowed != Ok(true) || is_stuck {
                mask.fill(u32::MAX);
            }
            self.turn.is_broken |= allowed.is_err() || is_stuck;
        }
    }

    /// Largest useful speculation length: a step emits at most the remaining tokens, fits the context, and does not cross
    /// the point from which stop tokens are allowed.
    pub(crate) fn sl_limit(&self, context_len_max: u32) -> u32 {
        self.sl_limit_after(0, context_len_max)
    }

    /// The same once `n` more tokens have been emitted; 0 if they cannot be.
    pub(crate) fn sl_limit_after(&self, n: u32, context_len_max: u32) -> u32 {
        let until_min = self.tokens_min.checked_sub(self.emitted() + n).filter(|&n| n > 0);
        let remaining = self.remaining(context_len_max).saturating_sub(n);
        // Of n emitted tokens, n - 1 were drafted.
        remaining.min(until_min.unwrap_or(u32::MAX)).saturating_sub(1)
    }

    /// Tokens that may still be emitted.
    pub(crate) fn remaining(&self, context_len_max: u32) -> u32 {
        let room = context_len_max.saturating_sub(self.len());
        (self.tokens_max - self.emitted()).min(room)
    }

    /// Whether the end of this step's proposal may be dropped inside the target's pass: what decides that knows the drafted
    /// tokens, and whether a sampled token is verified must not depend on its value. It needs what is not carried, too.
    pub(crate) fn can_prune(&self) -> bool {
        let Turn { is_foreseen, carried, .. } = self.turn;
        self.params.is_greedy() && !self.turn.is_tree() && !is_foreseen && carried == 0
    }

    /// What a full block is remembered for, behind the blocks before it: its tokens; and of the first one also the salt, so that
    /// sequences of different salts share nothing.
    pub(crate) fn contents(&self, idx: usize, block_len: usize) -> Cow<'_, [u32]> {
        let tokens = &self.tokens[idx * block_len..][..block_len];
        match idx {
            0 if !self.salt.is_empty() => {
                tokens.iter().copied().chain(self.salt.bytes().map(u32::from)).collect()
            }
            _ => Cow::Borrowed(tokens),
        }
    }

    /// What the pass of this step does with its state, if it has one.
    pub(crate) fn state_use(&self) -> Option<StateUse> {
        let OwnState { slot, from, to, .. } = self.state;
        slot.map(|slot| StateUse { slot, n_known: self.turn.n_known, from, to })
    }

    /// Behind a step: tokens that its state has read. It reads those that were accepted in the next one.
    pub(crate) fn state_len(&self) -> u32 {
        self.context_len.min(self.len() - self.turn.emitted)
    }

    /// Blocks that the sequence owns, in the order of its positions.
    pub(crate) fn owned(&self) -> &[BlockId] {
        &self.table[self.n_passed..]
    }

    /// Forgets what was computed, keeping the tokens: after preemption everything is read again.
    pub(crate) fn reset(&mut self) {
        debug_assert!(self.table.is_empty() && self.state.held().next().is_none(), "all was released");
        self.context_len = 0;
        self.draft_len = 0;
        self.n_remembered = 0;
        self.prefix = Prefix::EMPTY;
        self.n_draft_marked = 0;
        self.state = OwnState::default();
        self.carried.clear();
        // What waits holds tokens and nothing else.
        self.contexts = Contexts::default();
        self.turn.clear();
    }
}
