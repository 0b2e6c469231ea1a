//! What a sequence that starts shares with others: the blocks of its leader, or those that are remembered.

use super::{Scheduler, give_back_passed};
use crate::block_pool::CachedBlock;
use crate::sequence::Sequence;

/// How far the first choice of a request is, whose prompt the others share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leader {
    /// Still reading the prompt, or not running yet.
    Reading,
    /// Has stored all of the prompt but at most the last token.
    Ahead,
}

impl Scheduler {
    pub(super) fn leader_of(&self, seq: &Sequence) -> Option<Leader> {
        let leader = seq.leader.filter(|_| seq.emitted() == 0)?;
        if let Some(running) = self.running.iter().find(|other| other.id == leader) {
            return match running.context_len >= fork_len(seq) {
                false => Some(Leader::Reading),
                true if running.n_passed == 0 => Some(Leader::Ahead),
                // It has given back a part of the prompt; what is remembered of that is found otherwise.
                true => None,
            };
        }
        self.waiting.values().any(|other| other.id == leader).then_some(Leader::Reading)
    }

    /// Shares what is stored already of the tokens of a sequence that starts.
    pub(super) fn share(&mut self, seq: &mut Sequence, leader: Option<Leader>) {
        // Whoever starts from a snapshot shares full blocks only, and all of those are remembered.
        let is_remembered = self.has_states() && self.limits.has_prefix_cache;
        match leader {
            Some(_) if !is_remembered => self.fork(seq),
            _ => self.adopt_cached(seq),
        }
    }

    /// Shares the leader's blocks up to the last prompt token, the partly filled one included; who writes first copies it.
    /// With states, shares those before a snapshot.
    fn fork(&mut self, seq: &mut Sequence) {
        let block_len = self.limits.block_len;
        let leader = seq
            .leader
            .and_then(|id| self.running.iter().find(|other| other.id == id))
            .expect("the leader runs");
        let mut fork_len = fork_len(seq);
        let draft_len = leader.draft_len;
        seq.table.extend_from_slice(&leader.table[..fork_len.div_ceil(block_len) as usize]);
        if self.has_states() {
            seq.table.truncate((fork_len / block_len) as usize);
            let n_blocks = self.hold_snapshot(&mut seq.state, seq.table.iter().copied());
            seq.table.truncate(n_blocks);
            fork_len = n_blocks as u32 * block_len;
        }
        seq.context_len = fork_len;
        seq.draft_len = draft_len.min(fork_len);
        for &id in &seq.table {
            self.pool.share(id);
        }
    }

    /// Shares remembered blocks from the start of the sequence, with states those before a snapshot.
    fn adopt_cached(&mut self, seq: &mut Sequence) {
        if !self.limits.has_prefix_cache {
            return;
        }
        let mut remembered = self.remembered(seq);
        if self.has_states() {
            let blocks = remembered.iter().map(|block| block.id);
            let n_blocks = self.hold_snapshot(&mut seq.state, blocks);
            remembered.truncate(n_blocks);
        }
        let mut is_draft_unbroken = true;
        for block in remembered {
            self.pool.share(block.id);
            seq.table.push(block.id);
            seq.prefix = block.prefix;
            seq.n_remembered += 1;
            is_draft_unbroken &= block.has_draft;
            if is_draft_unbroken {
                seq.n_draft_marked += 1;
            }
        }
        let block_len = self.limits.block_len as usize;
        seq.context_len = (seq.n_remembered * block_len) as u32;
        seq.draft_len = (seq.n_draft_marked * block_len) as u32;
        // What was found may be longer than all blocks that a window leaves for one sequence.
        give_back_passed(&self.limits, &mut self.pool, seq);
    }

    /// Blocks that hold the first tokens of a sequence; the last known token is always left to compute, and what a score
    /// depends on.
    fn remembered(&self, seq: &Sequence) -> Vec<CachedBlock> {
        let block_len = self.limits.block_len as usize;
        let sharable = if seq.is_scoring() { seq.scored_len as usize } else { seq.tokens.len() } - 1;
        let mut prefix = seq.prefix;
        let lookup = |idx| {
            let found = self.pool.lookup(prefix, &seq.contents(idx, block_len))?;
            prefix = found.prefix;
            Some(found)
        };
        (0..sharable / block_len).map_while(lookup).collect()
    }
}

/// Slots that all choices of a request share: everything but the last prompt token, which each reads for itself.
pub(super) fn fork_len(seq: &Sequence) -> u32 {
    seq.prompt_len - 1
}
