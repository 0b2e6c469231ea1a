//! Pretended recurrent layers: a state is the number and a hash of all tokens that it has read.
//!
//! Follows [`StateUse`] to the letter and fails as soon as a row is read with a state that has not read exactly the tokens before it.

use std::collections::HashSet;
use std::ops::Range;

use super::script::mix;
use super::store::Store;
use crate::executor::Shape;
use crate::passes::TargetDraw;
use crate::rows::{BlockCopy, RowBatch, SlotMove, StateUse};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    n_read: u32,
    hash: u64,
}

impl State {
    fn of(tokens: impl Iterator<Item = u32>) -> Self {
        tokens.fold(Self::default(), Self::after)
    }

    fn after(self, token: u32) -> Self {
        Self { n_read: self.n_read + 1, hash: mix(self.hash ^ u64::from(token)) }
    }
}

/// The states, and the inputs of proposals that a later pass may read.
#[derive(Debug)]
pub(super) struct Recurrent {
    shape: Shape,
    /// `None` where nothing was written.
    states: Vec<Option<State>>,
    /// Inputs of proposals, by the slots of their keys and values.
    kept: Store<u32>,
    /// Behind each row of the pass.
    rows: Vec<State>,
}

impl Recurrent {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            shape: *shape,
            states: vec![None; shape.n_states as usize],
            kept: Store::new(shape),
            rows: Vec::new(),
        }
    }

    pub(super) fn copy(&mut self, copy: BlockCopy) {
        self.kept.copy(copy);
    }

    pub(super) fn move_slots(&mut self, target: &[SlotMove]) {
        self.kept.move_slots(target);
    }

    pub(super) fn resize(&mut self, n_blocks: u32) {
        self.kept.resize(n_blocks);
    }

    /// Reads all rows, one sequence after the other, so that nobody may still need what an earlier one overwrites.
    ///
    /// * `target`: what the target has stored, the rows included.
    ///
    /// # Panics
    /// If a use breaks its contract, or a row's state has not read what the row sees.
    pub(super) fn read(&mut self, rows: &RowBatch, target: &Store<u32>) {
        assert_eq!(rows.states.len(), rows.n_seqs(), "a state for every sequence");
        check_slots(&rows.states);
        self.rows.clear();
        for seq_idx in 0..rows.n_seqs() {
            let state = self.begin(rows, seq_idx);
            self.read_sequence(rows, seq_idx, state);
            // A window hides what stands before it.
            for r in rows.rows_of(seq_idx).filter(|_| self.shape.window.is_none()) {
                assert_eq!(
                    self.rows[r],
                    State::of(target.visible(rows, seq_idx, r)),
                    "a state reads what a row sees"
                );
            }
        }
    }

    /// The state before the first row of a sequence.
    fn begin(&self, rows: &RowBatch, seq_idx: usize) -> State {
        let StateUse { slot, from, .. } = rows.states[seq_idx];
        let first = rows.slots[rows.rows_of(seq_idx).start];
        let written = |slot: u32| self.states[slot as usize].expect("a state that is read was written");
        let state = match from {
            Some(from) => written(from.0),
            None if first == 0 => State::default(),
            None => {
                let kept = |slot| self.kept.get(rows, seq_idx, slot).expect("accepted inputs were kept");
                let state = written(slot.0);
                (state.n_read..first).map(kept).fold(state, State::after)
            }
        };
        assert_eq!(state.n_read, first, "a state has read the tokens before the first row");
        state
    }

    fn read_sequence(&mut self, rows: &RowBatch, seq_idx: usize, mut state: State) {
        let StateUse { slot, n_known, to, .. } = rows.states[seq_idx];
        let Range { start, end } = rows.rows_of(seq_idx);
        let proposal = start + n_known as usize..end;
        for r in start..proposal.start {
            state = state.after(rows.tokens[r]);
            self.rows.push(state);
            // The next pass has no business with it.
            self.kept.forget(rows, seq_idx, rows.slots[r]);
        }
        self.states[slot.0 as usize] = Some(state);
        for r in proposal.clone() {
            let parent = rows.parent_slot(r).expect("a proposal follows a known token");
            let parent = (proposal.start - 1..r).find(|&before| rows.slots[before] == parent);
            self.rows
                .push(self.rows[parent.expect("a parent stands before its children")].after(rows.tokens[r]));
            self.kept.set(rows, seq_idx, rows.slots[r], rows.tokens[r]);
        }
        if let Some(to) = to {
            assert!(proposal.is_empty(), "a snapshot is left where nothing is proposed");
            assert!(state.n_read.is_multiple_of(self.shape.block_len), "a snapshot ends with a block");
            self.states[to.0 as usize] = Some(state);
        }
    }

    /// # Panics
    /// If what the last pass read is not the history, and behind it the proposal.
    pub(super) fn check(&self, rows: &RowBatch, draw: &TargetDraw<'_>) {
        let n_proposed = draw.proposal.len() as usize;
        let Range { start, end } = rows.rows_of(draw.seq_idx);
        let n_known = rows.states[draw.seq_idx].n_known as usize;
        assert_eq!(n_known, end - start - n_proposed, "all but the proposal is known");
        for row in 0..=n_proposed {
            let path = row.checked_sub(1).map_or_else(Vec::new, |node| draw.proposal.path(node as u32));
            let expected = State::of(draw.history.iter().copied().chain(path));
            assert_eq!(self.rows[end - 1 - n_proposed + row], expected, "a state reads the true prefix");
        }
    }

    /// Of a sequence whose last `n_pruned` rows were dropped inside the pass nothing is kept of them.
    pub(super) fn prune(&mut self, rows: &RowBatch, seq_idx: usize, n_pruned: u32) {
        let end = rows.rows_of(seq_idx).end;
        for r in end - n_pruned as usize..end {
            self.kept.forget(rows, seq_idx, rows.slots[r]);
        }
    }
}

/// # Panics
/// If a state is written twice in a pass, or written and read by others.
fn check_slots(states: &[StateUse]) {
    let mut written = HashSet::new();
    for slot in states.iter().flat_map(|state| [Some(state.slot), state.to]).flatten() {
        assert!(written.insert(slot), "{slot:?} is written once");
    }
    for from in states.iter().filter_map(|state| state.from) {
        assert!(!written.contains(&from), "{from:?} is a snapshot");
    }
}
