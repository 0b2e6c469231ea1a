//! Who runs in a step, and where it is stored: admission, prompt chunks, preemption, block reservations.
//!
//! A running sequence owns blocks for all its known tokens. Before a step every sequence that takes part gets the slots it
//! writes; when blocks run out, speculation is given up first, then the lowest ranked sequence is preempted: its blocks go,
//! its tokens stay, and it is computed again later (mostly from the prefix cache).

mod sharing;
mod snapshots;

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::block_pool::{BlockPool, OutOfBlocks};
use crate::rows::{BlockCopy, BlockId};
use crate::sequence::{OwnState, Rank, Sequence};
use sharing::Leader;

/// Limits of [`Scheduler`], all from the configuration and the executor's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) sequences_max: usize,
    pub(crate) rows_max: u32,
    pub(crate) block_len: u32,
    /// See [`Shape::window`](crate::executor::Shape::window).
    pub(crate) window: Option<u32>,
    /// See [`Shape::rows_ahead`](crate::executor::Shape::rows_ahead).
    pub(crate) rows_ahead: Option<u32>,
    pub(crate) has_prefix_cache: bool,
}

impl Limits {
    /// End of the slots that a sequence needs for what it reads next.
    fn slots_end(&self, seq: &Sequence) -> u32 {
        let ahead = self.rows_ahead.unwrap_or(u32::MAX);
        seq.len().min(seq.context_len.saturating_add(ahead))
    }
}

#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) limits: Limits,
    pub(crate) waiting: BTreeMap<Rank, Sequence>,
    /// In rank order.
    pub(crate) running: Vec<Sequence>,
    pub(crate) pool: BlockPool,
    /// Copies the executor owes before its next pass.
    pub(crate) copies: Vec<BlockCopy>,
    /// In this step.
    n_preempted: u32,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, n_blocks: u32, n_states: u32) -> Self {
        Self {
            limits,
            waiting: BTreeMap::new(),
            running: Vec::new(),
            pool: BlockPool::new(n_blocks).with_states(n_states),
            copies: Vec::new(),
            n_preempted: 0,
        }
    }

    /// Decides what every sequence does in this step: admits, preempts, hands out rows and the slots they need.
    /// Returns the number of preempted sequences.
    pub(crate) fn schedule(&mut self) -> u32 {
        self.n_preempted = 0;
        self.secure_slots();
        if self.n_preempted == 0 {
            self.admit();
        }
        self.hand_out_rows();
        self.n_preempted
    }

    /// Gives every running sequence, best rank first, exclusive slots for its pending tokens.
    fn secure_slots(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            let slots_end = self.limits.slots_end(&self.running[i]);
            match self.reserve(i, slots_end) {
                Ok(()) => i += 1,
                // The last one may be `i` itself; then the loop ends.
                Err(OutOfBlocks) => self.preempt_last(),
            }
        }
    }

    /// Extends the table of running sequence `i` to `slots_end` slots and makes the slots from `context_len` on its own.
    fn reserve(&mut self, i: usize, slots_end: u32) -> Result<(), OutOfBlocks> {
        let seq = &mut self.running[i];
        let first_written = (seq.context_len / self.limits.block_len) as usize;
        for idx in first_written..seq.table.len() {
            self.copies.extend(self.pool.make_writable(&mut seq.table, idx)?);
        }
        let n_blocks = slots_end.div_ceil(self.limits.block_len) as usize;
        while seq.table.len() < n_blocks {
            seq.table.push(self.pool.allocate().ok_or(OutOfBlocks)?);
        }
        Ok(())
    }

    /// Slots for `len` drafted tokens of running sequence `i` from free blocks alone; returns the length that fits.
    pub(crate) fn reserve_speculation(&mut self, i: usize, len: u32) -> u32 {
        let known_len = self.running[i].len();
        // What was allocated before blocks ran out stays in the table until the step settles.
        let _ = self.reserve(i, known_len + len);
        let n_slots = self.running[i].table.len() as u32 * self.limits.block_len;
        len.min(n_slots - known_len)
    }

    fn preempt_last(&mut self) {
        let mut seq = self.running.pop().expect("preemption needs a running sequence");
        // A copy into a block that is given back is no longer owed.
        self.copies.retain(|copy| !seq.owned().contains(&copy.to));
        self.release(&mut seq);
        seq.reset();
        seq.timeline.preemptions += 1;
        self.n_preempted += 1;
        self.waiting.insert(seq.rank(), seq);
    }

    /// Starts waiting sequences in rank order until one does not fit: nobody overtakes, or a long prompt would wait for ever.
    fn admit(&mut self) {
        let mut after = None;
        while let Some((rank, leader)) = self.next_waiting(after) {
            if leader == Some(Leader::Reading) {
                // Its shared prompt is being computed; others need not wait for that.
                after = Some(rank);
                continue;
            }
            let is_full = self.running.len() >= self.limits.sequences_max;
            let has_started = !is_full && self.start(rank, leader);
            if !has_started && !self.preempt_below(rank) {
                return;
            }
        }
    }

    fn next_waiting(&self, after: Option<Rank>) -> Option<(Rank, Option<Leader>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (rank, seq) = self.waiting.range((from, Bound::Unbounded)).next()?;
        Some((*rank, self.leader_of(seq)))
    }

    /// Preempts the last running sequence if its priority is strictly worse than that of `rank`.
    fn preempt_below(&mut self, rank: Rank) -> bool {
        let is_worse = self.running.last().is_some_and(|last| last.priority > rank.priority);
        if is_worse {
            self.preempt_last();
        }
        is_worse
    }

    /// Moves a waiting sequence to the running ones with blocks for all its known tokens, shared where they hold the same
    /// tokens already, and a state where the target has such. `false` if there are not enough; then nothing has changed.
    fn start(&mut self, rank: Rank, leader: Option<Leader>) -> bool {
        let mut seq = self.waiting.remove(&rank).expect("the rank was just found");
        self.share(&mut seq, leader);
        let has_state = self.take_state(&mut seq);
        let n_blocks = self.limits.slots_end(&seq).div_ceil(self.limits.block_len) as usize;
        // Beside running sequences, each of them is left a block to grow into, and a shared last block will be copied.
        let n_left = if self.running.is_empty() { 0 } else { 1 + self.running.len() };
        if !has_state || (self.pool.n_free() as usize) < n_blocks - seq.table.len() + n_left {
            self.release(&mut seq);
            seq.reset();
            self.waiting.insert(rank, seq);
            return false;
        }
        let first_written = (seq.context_len / self.limits.block_len) as usize;
        for idx in first_written..seq.table.len() {
            let copy = self.pool.make_writable(&mut seq.table, idx).expect("a block for the copy is free");
            self.copies.extend(copy);
        }
        while seq.table.len() < n_blocks {
            seq.table.push(self.pool.allocate().expect("enough blocks are free"));
        }
        if seq.timeline.admitted.is_none() {
            seq.timeline.cached_tokens = seq.context_len;
        }
        let at = self.running.partition_point(|other| other.rank() < rank);
        self.running.insert(at, seq);
        true
    }

    /// Decodes first, one row each; prompt chunks share what is left, at least a block's worth in all.
    fn hand_out_rows(&mut self) {
        let n_decoding = self.running.iter().filter(|seq| seq.is_decoding()).count() as u32;
        let mut budget = self.limits.rows_max.saturating_sub(n_decoding).max(self.limits.block_len);
        for i in 0..self.running.len() {
            let seq = &mut self.running[i];
            seq.turn.clear();
            let n_known = if seq.is_decoding() {
                1
            } else {
                // A prompt is scored in passes of its own; the last token of it draws.
                let n_wanted = seq.n_pending() - u32::from(seq.is_scoring());
                let n_slots = seq.table.len() as u32 * self.limits.block_len;
                let n_rows = n_wanted.min(budget).min(n_slots - seq.context_len);
                let n_rows = self.cut_at_snapshot(i, n_rows);
                budget -= n_rows;
                n_rows
            };
            let seq = &mut self.running[i];
            seq.turn.n_known = n_known;
            seq.turn.is_drawing = n_known == seq.n_pending();
        }
    }

    /// After a step: gives back slots that were reserved and not used, remembers blocks that are full now, and gives back those
    /// that no row will attend to.
    pub(crate) fn settle(&mut self, i: usize) {
        self.give_back_unused(i);
        let last_full = self.remember_full(i);
        self.settle_state(i, last_full);
        give_back_passed(&self.limits, &mut self.pool, &mut self.running[i]);
    }

    fn give_back_unused(&mut self, i: usize) {
        let block_len = self.limits.block_len as usize;
        let seq = &mut self.running[i];
        let n_needed = seq.tokens.len().div_ceil(block_len);
        while seq.table.len() > n_needed {
            self.pool.release(seq.table.pop().expect("the table is longer than needed"));
        }
    }

    /// Returns the last full block, if there is one that was not full before; where others will find its contents.
    fn remember_full(&mut self, i: usize) -> Option<BlockId> {
        let block_len = self.limits.block_len as usize;
        let seq = &mut self.running[i];
        if !self.limits.has_prefix_cache {
            return None;
        }
        let mut last_full = None;
        while (seq.n_remembered + 1) * block_len <= seq.context_len as usize {
            let (id, idx) = (seq.table[seq.n_remembered], seq.n_remembered);
            let remembered = self.pool.remember(id, seq.prefix, &seq.contents(idx, block_len));
            last_full = Some(remembered.id);
            seq.prefix = remembered.prefix;
            seq.n_remembered += 1;
        }
        while (seq.n_draft_marked + 1) * block_len <= seq.draft_len.min(seq.context_len) as usize {
            self.pool.mark_draft(seq.table[seq.n_draft_marked]);
            seq.n_draft_marked += 1;
        }
        last_full
    }

    /// Gives back all blocks and states of a sequence.
    fn release(&mut self, seq: &mut Sequence) {
        self.release_state(seq);
        seq.table.drain(..seq.n_passed);
        seq.n_passed = 0;
        self.pool.release_all(&mut seq.table);
    }

    /// Forgets what the draft has read of every sequence and block: its store is empty.
    pub(crate) fn forget_draft(&mut self) {
        self.pool.forget_draft();
        for seq in &mut self.running {
            (seq.draft_len, seq.n_draft_marked) = (0, 0);
            seq.carried.clear();
        }
    }

    /// Gives up the blocks from `n_total` on; what they hold is owed a copy. `false`, and nothing has changed, if running
    /// sequences own more blocks than remain.
    pub(crate) fn contract(&mut self, n_total: u32) -> bool {
        debug_assert!(self.copies.is_empty(), "a copy would name a block that is gone");
        let Some(moves) = self.pool.contract(n_total) else {
            return false;
        };
        let owned = self.running.iter_mut().flat_map(|seq| &mut seq.table[seq.n_passed..]);
        for id in owned.filter(|id| id.0 >= n_total) {
            let idx = moves.binary_search_by_key(id, |moved| moved.from);
            *id = moves[idx.expect("an owned block was moved")].to;
        }
        self.copies = moves;
        true
    }

    /// Forgets who owns which block and state and what they hold.
    pub(crate) fn distrust(&mut self) {
        self.pool = self.pool.renewed();
        self.copies.clear();
        for seq in &mut self.running {
            seq.table.clear();
            seq.n_passed = 0;
            seq.state = OwnState::default();
        }
    }

    /// Takes running sequence `i` out and returns its blocks.
    pub(crate) fn retire(&mut self, i: usize) -> Sequence {
        let mut seq = self.running.remove(i);
        self.release(&mut seq);
        seq
    }

    /// Panics unless every block and state is accounted for and every sequence is in a possible state.
    pub(crate) fn check(&self) {
        self.pool.check(self.running.iter().map(Sequence::owned));
        self.pool.states.check(self.running.iter().flat_map(|seq| seq.state.held()));
        assert!(self.running.is_sorted_by_key(Sequence::rank), "running sequences stand in rank order");
        for seq in &self.running {
            assert!(seq.context_len < seq.len(), "the last known token of {:?} is pending", seq.id);
            assert!(seq.draft_len < seq.len(), "the draft of {:?} has not read the last token", seq.id);
            let n_slots = seq.table.len() as u32 * self.limits.block_len;
            assert!(n_slots >= seq.context_len, "blocks of {:?} cover its context", seq.id);
            assert!(seq.carried.is_empty() || seq.is_decoding(), "{:?} reads and has a proposal", seq.id);
            assert_eq!(seq.state.slot.is_some(), self.has_states(), "{:?} has the state it needs", seq.id);
        }
        for seq in self.waiting.values() {
            assert!(seq.table.is_empty() && seq.context_len == 0, "waiting {:?} owns nothing", seq.id);
            assert!(seq.contexts.is_empty(), "waiting {:?} has no index", seq.id);
            assert_eq!(seq.state.held().count(), 0, "waiting {:?} holds no state", seq.id);
        }
        assert!(self.copies.is_empty(), "copies are made before the pass they belong to");
    }
}

/// Gives back the blocks that no row of `seq` will attend to, the last one first, so that what begins with them is found longest.
/// What its state has still to read was kept by slot, so those blocks stay, too.
fn give_back_passed(limits: &Limits, pool: &mut BlockPool, seq: &mut Sequence) {
    let Some(window) = limits.window else { return };
    // The next row stands at `context_len` and attends to itself.
    let first_attended = (seq.context_len + 1).saturating_sub(window);
    let first_needed = match seq.state.slot {
        Some(_) => first_attended.min(seq.state_len()),
        None => first_attended,
    };
    let n_passed = (first_needed / limits.block_len) as usize;
    for id in seq.table[seq.n_passed..n_passed].iter().rev() {
        pool.release(*id);
    }
    seq.n_passed = n_passed;
}
