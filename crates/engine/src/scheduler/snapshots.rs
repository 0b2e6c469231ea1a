//! States of the target's recurrent layers: who runs with which, what it starts from, and where prompts leave snapshots.
//!
//! A state cannot go back, so a sequence that shares stored tokens starts from a snapshot of exactly these. Snapshots are left
//! where prompt chunks end, at ends of blocks only, and chunks end where it pays: before the last token of a prompt, for who asks
//! the same, goes on with the conversation or is another choice of the same request; where a prompt leaves what others have read
//! before it, since so many tokens are asked repeatedly (the branch points of Marconi, arXiv:2411.19379); and from time to time in
//! long prompts, of which the next one may share less.

use super::Scheduler;
use super::sharing::fork_len;
use crate::rows::BlockId;
use crate::sequence::{OwnState, Sequence};

/// Blocks between two snapshots of a prompt at least: a shorter piece is read again in about the time of the pass that a
/// snapshot costs.
const BLOCKS_MIN: u32 = 4;

/// Blocks between two snapshots of a long prompt at most, where there is room.
const BLOCKS_MAX: u32 = 64;

impl Scheduler {
    /// Whether the target has states.
    pub(super) fn has_states(&self) -> bool {
        self.pool.states.n_total() > 0
    }

    /// Finds the last snapshot for a sequence that starts and holds it.
    ///
    /// * `blocks`: hold the first tokens of the sequence.
    /// * Returns the blocks up to that snapshot; 0 without one.
    pub(super) fn hold_snapshot(
        &mut self,
        state: &mut OwnState,
        blocks: impl DoubleEndedIterator<Item = BlockId> + ExactSizeIterator,
    ) -> usize {
        let n_slots = |n_blocks: usize| n_blocks as u32 * self.limits.block_len;
        state.shared_len = n_slots(blocks.len());
        let states = &mut self.pool.states;
        let found = blocks.enumerate().rev().find_map(|(idx, id)| Some((idx + 1, states.snapshot(id)?)));
        let Some((n_blocks, slot)) = found else { return 0 };
        states.hold(slot);
        state.from = Some(slot);
        state.snapshot_len = n_slots(n_blocks);
        n_blocks
    }

    /// Gives a sequence that starts a state of its own, if the target has any: at worst the one that it would start from, and it
    /// starts from nothing. `false` if others hold all.
    pub(super) fn take_state(&mut self, seq: &mut Sequence) -> bool {
        if !self.has_states() {
            return true;
        }
        seq.state.slot = self.pool.states.take();
        if seq.state.slot.is_none() && seq.state.from.is_some() {
            self.release(seq);
            seq.reset();
            seq.state.slot = self.pool.states.take();
        }
        seq.state.slot.is_some()
    }

    /// Of the next `n_rows` known tokens of running sequence `i`, how many it reads before it leaves a snapshot: all, if it leaves
    /// none, or there is no state for one.
    pub(super) fn cut_at_snapshot(&mut self, i: usize, n_rows: u32) -> u32 {
        if !self.has_states() {
            return n_rows;
        }
        let seq = &self.running[i];
        let n_before = self.next_snapshot(seq).map(|end| end - seq.context_len).filter(|&n| n <= n_rows);
        let Some(n_before) = n_before else { return n_rows };
        let slot = self.pool.states.take();
        self.running[i].state.to = slot;
        if slot.is_some() { n_before } else { n_rows }
    }

    /// Tokens up to the next snapshot that `seq`, which reads more than one token, should leave.
    fn next_snapshot(&self, seq: &Sequence) -> Option<u32> {
        let block_len = self.limits.block_len;
        let block_end = |len: u32| len - len % block_len;
        let is_ahead = |&end: &u32| end > seq.context_len;
        // Other choices wait for this one, however short the prompt is.
        let fork = Some(block_end(fork_len(seq))).filter(is_ahead);
        let fork = fork.filter(|_| self.waiting.values().any(|other| other.leader == Some(seq.id)));
        if !self.limits.has_prefix_cache {
            return fork;
        }
        let period = BLOCKS_MAX * block_len;
        let in_between = seq.context_len - seq.context_len % period + period;
        let ends = [fork_len(seq), seq.len() - 1, seq.state.shared_len, in_between].map(block_end);
        let end_min = seq.state.snapshot_len + BLOCKS_MIN * block_len;
        let worthwhile = ends.into_iter().filter(|&end| end >= end_min && end < seq.len());
        worthwhile.filter(is_ahead).chain(fork).min()
    }

    /// Behind a step of running sequence `i`: it no longer needs what it started from, and what it left can be found.
    ///
    /// * `last_full`: the block that the step filled last, where it is remembered.
    pub(super) fn settle_state(&mut self, i: usize, last_full: Option<BlockId>) {
        let seq = &mut self.running[i];
        let states = &mut self.pool.states;
        if let Some(from) = seq.state.from.take() {
            states.release(from);
        }
        if let Some(to) = seq.state.to.take() {
            let last_read = (seq.context_len / self.limits.block_len) as usize - 1;
            states.keep(to, last_full.unwrap_or(seq.table[last_read]));
            seq.state.snapshot_len = seq.context_len;
        }
    }

    /// Gives back all that a sequence holds.
    pub(super) fn release_state(&mut self, seq: &mut Sequence) {
        for slot in std::mem::take(&mut seq.state).held() {
            self.pool.states.release(slot);
        }
    }
}
