//! What was drafted ahead, from one step to the next: who drafts ahead, what is kept, and how it becomes a proposal.
//!
//! A carried proposal is tokens and nothing else that anybody relies on: it may be dropped at any time, and is, if nothing
//! or a tree is planned, if the draft goes away, and with the blocks of a preempted sequence. The draft has stored most of
//! it already, but slots behind the block of the last known token are given back between steps, and read again.
//!
//! What a policy trims is carried likewise: it was drafted ahead, only before the verification and not beside it.

use dsde_policy::{DraftPosition, Policy as _, SeqId, Signals};
use dsde_sampling::proposal::NODES_MAX;

use crate::ahead::DraftAhead;
use crate::engine::Engine;
use crate::executor::Shape;
use crate::passes::{DraftDraw, Drafted, Verification};
use crate::scheduler::Scheduler;
use crate::sequence::{Sequence, Turn};

/// Bounds on what is drafted ahead in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest proposal that is carried, tokens.
    len_max: u32,
    context_len_max: u32,
    /// Longest sequence that the draft can read.
    draft_context_len: u32,
    block_len: u32,
}

impl Engine {
    /// Bounds of this step; `None` if nobody drafts ahead.
    pub(crate) fn ahead_limits(&self) -> Option<Limits> {
        let len_max = self.policy.ahead_len().min(self.config.sl_limit);
        let Shape { context_len_max, block_len, draft_context_len, draft_reads_target, .. } = self.shape;
        let may_draft = self.config.drafter.has_model() && !draft_reads_target && len_max > 0;
        let draft_context_len = draft_context_len.filter(|_| may_draft)?;
        Some(Limits { len_max, context_len_max, draft_context_len, block_len })
    }

    /// Makes what was drafted ahead in the step before the proposal of this one, as far as the plan goes; such a sequence
    /// drafts no more in this step.
    pub(crate) fn adopt_carried(&mut self) {
        for seq in &mut self.scheduler.running {
            let carried = std::mem::take(&mut seq.carried);
            if seq.turn.is_tree() || seq.turn.is_foreseen {
                continue;
            }
            for Drafted { token, position } in carried {
                if !seq.turn.has_room() {
                    break;
                }
                let position = DraftPosition { index: seq.turn.drafted, ..position };
                seq.turn.push_token(&Drafted { token, position });
                let last = seq.turn.last_position().expect("a token was just appended");
                if seq.turn.has_room() && !self.policy.keep_drafting(seq.id, &last) {
                    break;
                }
            }
            seq.adopt(self.shape.block_len);
        }
    }
}

/// Reserves slots for what may be drafted ahead, out of what all proposals have left.
pub(crate) fn reserve(scheduler: &mut Scheduler, limits: Limits) {
    for i in 0..scheduler.running.len() {
        let seq = &scheduler.running[i];
        let (planned, len) = (seq.turn.planned, seq.ahead_len(seq.turn.planned, limits));
        if len > 0 {
            scheduler.reserve_speculation(i, planned + len);
        }
    }
}

/// Chains behind the proposals that are about to be verified.
pub(crate) fn chains(running: &[Sequence], limits: Limits, signals: Signals) -> DraftAhead<'_> {
    let mut ahead = DraftAhead::default();
    for seq in running {
        let proposed = seq.turn.proposal.len();
        let n_slots = seq.table.len() as u32 * limits.block_len - seq.len() - proposed;
        let len = seq.ahead_len(proposed, limits).min(n_slots);
        // Behind a trimmed proposal stands what was trimmed.
        if len > 0 && proposed == seq.turn.drafted {
            ahead.push(seq.ahead_draw(signals), 1 + len, seq.draft_len, &seq.table);
        }
    }
    ahead
}

/// Gives every sequence what was drafted ahead for it.
///
/// * `drafted`: in the order of `running`.
pub(crate) fn note(running: &mut [Sequence], drafted: Vec<(SeqId, Vec<Drafted>)>) {
    let mut drafted = drafted.into_iter().peekable();
    for seq in running {
        if let Some((_, drafted)) = drafted.next_if(|(id, _)| *id == seq.id) {
            // All of it but the last token is stored behind the proposal.
            seq.draft_len = seq.len() + seq.turn.proposal.len() + drafted.len() as u32 - 1;
            seq.turn.ahead = drafted;
        }
    }
    debug_assert!(drafted.next().is_none(), "what was drafted belongs to running sequences");
}

impl Sequence {
    /// Whether anything may be carried behind the proposal of this step.
    fn is_followed(&self) -> bool {
        self.params.is_greedy() && !self.turn.is_tree() && !self.turn.is_foreseen && self.form.is_none()
    }

    /// Counts the proposal from node `len` on, which is about to be trimmed, as drafted ahead.
    pub(crate) fn set_aside(&mut self, len: u32) {
        if self.is_followed() {
            let Turn { proposal, positions, ahead, .. } = &mut self.turn;
            let trimmed = proposal.tokens().iter().zip(&*positions).skip(len as usize);
            ahead.extend(trimmed.map(|(&token, &position)| Drafted { token, position }));
        }
    }

    /// Tokens worth carrying behind a proposal of `proposed` tokens; 0 if nothing is drafted ahead behind it.
    fn ahead_len(&self, proposed: u32, limits: Limits) -> u32 {
        if proposed == 0 || !self.is_followed() {
            return 0;
        }
        // With all of the proposal the target emits one token more, which the draft guesses first.
        let n_emitted = proposed + 1;
        let room = NODES_MAX.saturating_sub(n_emitted);
        // It reads all of them but the last.
        let readable = limits.draft_context_len.saturating_sub(self.len() + proposed);
        limits.len_max.min(room).min(readable).min(self.sl_limit_after(n_emitted, limits.context_len_max))
    }

    fn ahead_draw(&self, signals: Signals) -> DraftDraw<'_> {
        DraftDraw {
            seq_idx: 0,
            seq: self.id,
            params: &self.params,
            stream: self.stream,
            history: &self.tokens,
            prompt_len: self.prompt_len,
            proposal: &self.turn.proposal,
            beam: None,
            n_rivals: 0,
            banned: self.banned(),
            signals,
            is_ahead: true,
        }
    }

    /// Counts the proposal as carried and says how much of it the draft has stored.
    fn adopt(&mut self, block_len: u32) {
        self.turn.carried = self.turn.drafted;
        if self.turn.carried > 0 {
            let n_kept = self.len().next_multiple_of(block_len);
            self.draft_len = n_kept.min(self.len() + self.turn.carried - 1);
        }
    }

    /// Keeps what was drafted ahead for the next step if the target went the same way: it accepted all and drew the token
    /// guessed.
    pub(crate) fn carry(&mut self, verification: &Verification) {
        let Some((guess, rest)) = self.turn.ahead.split_first() else {
            return;
        };
        let verdict = &verification.verdict;
        let has_all = verification.pruned == 0 && verdict.accepted() == self.turn.proposal.len();
        let is_right = has_all && verdict.next == guess.token;
        if is_right && self.turn.finish.is_none() {
            self.carried.extend_from_slice(rest);
        }
    }
}
