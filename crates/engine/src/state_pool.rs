//! Who holds which state of the target's recurrent layers, and which ones are snapshots.
//!
//! A state is *held* by the sequence that runs with it, by those that are about to start from it, or by one that is about to leave
//! a snapshot in it. A *snapshot* has read the tokens up to the end of a remembered or owned block and goes with that block, or
//! before it, the least recently used first, where a state is wanted. What is neither is blank.

use std::collections::HashMap;

use crate::rows::{BlockId, StateSlot};

#[derive(Clone, Debug, Default)]
struct State {
    n_holders: u32,
    /// The block that ends where the snapshot does.
    block: Option<BlockId>,
    last_use: u64,
}

impl State {
    fn is_blank(&self) -> bool {
        self.n_holders == 0 && self.block.is_none()
    }
}

/// All states of the executor.
#[derive(Debug)]
pub(crate) struct StatePool {
    states: Vec<State>,
    blank: Vec<StateSlot>,
    snapshots: HashMap<BlockId, StateSlot>,
    n_uses: u64,
}

impl StatePool {
    pub(crate) fn new(n_states: u32) -> Self {
        Self {
            states: vec![State::default(); n_states as usize],
            blank: (0..n_states).rev().map(StateSlot).collect(),
            snapshots: HashMap::new(),
            n_uses: 0,
        }
    }

    pub(crate) fn n_total(&self) -> u32 {
        self.states.len() as u32
    }

    /// States that nobody holds, snapshots included.
    pub(crate) fn n_free(&self) -> u32 {
        self.states.iter().filter(|state| state.n_holders == 0).count() as u32
    }

    /// A state to write to, held once; gives up the least recently used snapshot if none is blank. `None` if all are held.
    pub(crate) fn take(&mut self) -> Option<StateSlot> {
        if self.blank.is_empty() {
            let unheld = self.states.iter().filter(|state| state.n_holders == 0);
            let block = unheld.min_by_key(|state| state.last_use)?.block;
            self.forget(block.expect("a state that is neither held nor blank is a snapshot"));
        }
        let slot = self.blank.pop()?;
        self.state_mut(slot).n_holders = 1;
        Some(slot)
    }

    /// The snapshot that ends with a block.
    pub(crate) fn snapshot(&self, block: BlockId) -> Option<StateSlot> {
        self.snapshots.get(&block).copied()
    }

    /// Adds a holder to a snapshot.
    pub(crate) fn hold(&mut self, slot: StateSlot) {
        self.touch(slot);
        self.state_mut(slot).n_holders += 1;
    }

    /// Removes a holder.
    pub(crate) fn release(&mut self, slot: StateSlot) {
        let state = self.state_mut(slot);
        assert!(state.n_holders > 0, "a released state is held");
        state.n_holders -= 1;
        if state.is_blank() {
            self.blank.push(slot);
        }
    }

    /// Makes a state that its only holder has written the snapshot that ends with `block`, unless there is one.
    pub(crate) fn keep(&mut self, slot: StateSlot, block: BlockId) {
        let kept = *self.snapshots.entry(block).or_insert(slot);
        self.touch(kept);
        if kept == slot {
            self.state_mut(slot).block = Some(block);
        }
        self.release(slot);
    }

    /// Forgets the snapshot that ends with `block`, if there is one; who holds it still may read it.
    pub(crate) fn forget(&mut self, block: BlockId) {
        let Some(slot) = self.snapshots.remove(&block) else { return };
        let state = self.state_mut(slot);
        state.block = None;
        if state.is_blank() {
            self.blank.push(slot);
        }
    }

    /// Follows the contents of a block to another one.
    pub(crate) fn relocate(&mut self, from: BlockId, to: BlockId) {
        if let Some(slot) = self.snapshots.remove(&from) {
            self.snapshots.insert(to, slot);
            self.state_mut(slot).block = Some(to);
        }
    }

    /// Panics unless the books balance with `held`: every state as often as it is held.
    pub(crate) fn check(&self, held: impl Iterator<Item = StateSlot>) {
        let mut n_holders = vec![0; self.states.len()];
        held.for_each(|slot| n_holders[slot.0 as usize] += 1);
        for (i, state) in self.states.iter().enumerate() {
            assert_eq!(state.n_holders, n_holders[i], "holders of state {i}");
            let n_blank = self.blank.iter().filter(|slot| slot.0 as usize == i).count();
            assert_eq!(n_blank, usize::from(state.is_blank()), "blank state {i} can be taken");
        }
        let n_snapshots = self.states.iter().filter(|state| state.block.is_some()).count();
        assert_eq!(n_snapshots, self.snapshots.len(), "snapshots can be found");
        for (block, slot) in &self.snapshots {
            assert_eq!(
                self.states[slot.0 as usize].block,
                Some(*block),
                "snapshot {} knows its block",
                slot.0
            );
        }
    }

    fn touch(&mut self, slot: StateSlot) {
        self.n_uses += 1;
        self.state_mut(slot).last_use = self.n_uses;
    }

    fn state_mut(&mut self, slot: StateSlot) -> &mut State {
        &mut self.states[slot.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A snapshot that ends with `block`.
    fn snapshot(pool: &mut StatePool, block: u32) -> StateSlot {
        let slot = pool.take().unwrap();
        pool.keep(slot, BlockId(block));
        slot
    }

    #[test]
    fn the_least_recently_used_snapshot_is_given_up() {
        let mut pool = StatePool::new(3);
        let [a, b, c] = [0, 1, 2].map(|block| snapshot(&mut pool, block));
        pool.hold(a);
        pool.release(a);
        assert_eq!(pool.take(), Some(b));
        pool.hold(c);
        assert_eq!((pool.take(), pool.take()), (Some(a), None), "what is held stays");
        assert_eq!((pool.snapshot(BlockId(1)), pool.snapshot(BlockId(2))), (None, Some(c)));
        assert_eq!(pool.n_free(), 0);
    }

    #[test]
    fn a_forgotten_snapshot_is_blank_once_nobody_holds_it() {
        let mut pool = StatePool::new(1);
        let slot = snapshot(&mut pool, 7);
        pool.relocate(BlockId(7), BlockId(3));
        assert_eq!((pool.snapshot(BlockId(7)), pool.snapshot(BlockId(3))), (None, Some(slot)));
        pool.hold(slot);
        pool.forget(BlockId(3));
        assert_eq!((pool.snapshot(BlockId(3)), pool.take()), (None, None));
        pool.release(slot);
        assert_eq!(pool.take(), Some(slot));
    }

    #[test]
    fn of_equal_snapshots_the_first_is_kept() {
        let mut pool = StatePool::new(3);
        let [a, b] = [0, 1].map(|block| snapshot(&mut pool, block));
        let c = snapshot(&mut pool, 0);
        assert_eq!(pool.snapshot(BlockId(0)), Some(a));
        assert_eq!((pool.take(), pool.take()), (Some(c), Some(b)), "the first has just been of use");
        pool.check([b, c].into_iter());
    }

    proptest! {
        #[test]
        fn the_books_balance_under_any_order_of_operations(operations in prop::collection::vec((0..6u8, 0..6u32), 1..200)) {
            let mut pool = StatePool::new(4);
            let (mut own, mut readers) = (Vec::new(), Vec::new());
            for (operation, block) in operations {
                let block = BlockId(block);
                match operation {
                    0 => own.extend(pool.take()),
                    1 => own.pop().into_iter().for_each(|slot| pool.keep(slot, block)),
                    2 => own.pop().into_iter().for_each(|slot| pool.release(slot)),
                    3 => readers.extend(pool.snapshot(block).inspect(|&slot| pool.hold(slot))),
                    4 => readers.pop().into_iter().for_each(|slot| pool.release(slot)),
                    _ => pool.forget(block),
                }
                pool.check(own.iter().chain(&readers).copied());
                let is_shared = own.iter().any(|slot| readers.contains(slot));
                prop_assert!(!is_shared, "nobody writes what others read");
            }
        }
    }
}
