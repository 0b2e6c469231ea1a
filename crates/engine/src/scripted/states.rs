//! What a draft that reads the target's states reads, and whether it is allowed to.

use super::store::Store;
use crate::executor::Shape;
use crate::passes::DraftDraw;
use crate::rows::{BlockCopy, RowBatch, SlotMove};

/// What a slot holds of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The target has read the token.
    OfTarget,
    /// The draft guessed behind it.
    Guessed,
}

/// The states of slots, and those that the slots of the draft were read with.
#[derive(Debug)]
pub(super) struct States {
    states: Store<State>,
    read: Store<State>,
}

impl States {
    pub(super) fn new(shape: &Shape) -> Self {
        Self { states: Store::new(shape), read: Store::new(shape) }
    }

    pub(super) fn copy(&mut self, copy: BlockCopy) {
        self.states.copy(copy);
        self.read.copy(copy);
    }

    pub(super) fn move_slots(&mut self, target: &[SlotMove], draft: &[SlotMove]) {
        self.states.move_slots(target);
        self.read.move_slots(draft);
    }

    pub(super) fn verify(&mut self, rows: &RowBatch) {
        self.states.write(rows, |_, _| State::OfTarget);
    }

    /// # Panics
    /// If a row has no state before it, or a draw sees a known token that was read with a guess.
    pub(super) fn draft(&mut self, rows: &RowBatch, draws: &[DraftDraw<'_>]) {
        let Self { states, read } = self;
        read.write(rows, |seq_idx, r| match rows.parent_slot(r) {
            Some(parent) => states.get(rows, seq_idx, parent).expect("there is a state before every row"),
            // The first token of a sequence is read without one.
            None => State::OfTarget,
        });
        for draw in draws {
            let drawn =
                rows.rows_of(draw.seq_idx).end - draw.n_rows() as usize..rows.rows_of(draw.seq_idx).end;
            for slot in 0..draw.history.len() as u32 {
                let state = read.get(rows, draw.seq_idx, slot);
                assert_eq!(
                    state,
                    Some(State::OfTarget),
                    "known tokens are read with what the target made of them"
                );
            }
            for r in drawn {
                states.set(rows, draw.seq_idx, rows.slots[r], State::Guessed);
            }
        }
    }
}
