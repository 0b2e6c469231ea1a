//! More blocks, and fewer again, while sequences own some.

use super::{Block, BlockPool};
use crate::rows::{BlockCopy, BlockId};

impl BlockPool {
    /// Appends blank blocks; they are handed out after those that are blank already.
    pub(crate) fn grow(&mut self, n_blocks: u32) {
        let n_before = self.n_total();
        self.blocks.extend((0..n_blocks).map(|_| Block::default()));
        self.blank.splice(0..0, (n_before..n_before + n_blocks).rev().map(BlockId));
    }

    /// Removes the blocks from `n_total` on and says where their contents have to be copied, owned and cached alike. Cached
    /// blocks without room below are forgotten, the longest released first. `None` if more blocks are owned than remain; then
    /// nothing has changed.
    pub(crate) fn contract(&mut self, n_total: u32) -> Option<Vec<BlockCopy>> {
        let n_owned = self.n_total() - self.n_free();
        let n_cached_max = n_total.checked_sub(n_owned)? as usize;
        while self.cached.len() > n_cached_max {
            let id = self.evict().expect("a cached block is left");
            self.blank.push(id);
        }
        self.blank.retain(|id| id.0 < n_total);
        let mut moves = Vec::new();
        for from in (n_total..self.n_total()).map(BlockId) {
            if !self.block(from).is_blank() {
                let to = self.blank.pop().expect("what is in use above fits into what is blank below");
                self.relocate(from, to);
                moves.push(BlockCopy { from, to });
            }
        }
        self.blocks.truncate(n_total as usize);
        Some(moves)
    }

    /// Notes that the draft's store is empty.
    pub(crate) fn forget_draft(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.has_draft = false);
    }

    fn relocate(&mut self, from: BlockId, to: BlockId) {
        let block = std::mem::take(self.block_mut(from));
        if let Some(contents) = &block.contents {
            self.index.insert(contents.fingerprint, to);
        }
        if block.n_owners == 0 {
            self.cached.insert(block.released, to);
        }
        *self.block_mut(to) = block;
        self.states.relocate(from, to);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Prefix;
    use super::*;

    #[test]
    fn new_blocks_are_used_last_and_contents_move_down() {
        let mut pool = BlockPool::new(2);
        let a = pool.allocate().unwrap();
        pool.grow(2);
        assert_eq!((pool.n_total(), pool.n_free()), (4, 3));
        let table: Vec<BlockId> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(table, [BlockId(1), BlockId(2), BlockId(3)]);
        assert_eq!(pool.contract(2), None, "four blocks are owned");
        // Block 2 is remembered and released, block 3 stays owned.
        pool.remember(BlockId(2), Prefix::EMPTY, &[7]);
        pool.release(BlockId(2));
        pool.release(BlockId(1));
        assert_eq!(pool.contract(2), Some(vec![BlockCopy { from: BlockId(3), to: BlockId(1) }]));
        assert_eq!(pool.lookup(Prefix::EMPTY, &[7]), None, "there was no room for it");
        pool.check([&[a, BlockId(1)][..]].into_iter());
    }

    #[test]
    fn remembered_blocks_move_with_their_contents() {
        let mut pool = BlockPool::new(2);
        pool.grow(1);
        let table: Vec<BlockId> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        pool.remember(table[2], Prefix::EMPTY, &[7]);
        pool.mark_draft(table[2]);
        pool.release_all(&mut table.clone());
        // The last released one is blank, and so the first to be handed out.
        assert_eq!(pool.contract(2), Some(vec![BlockCopy { from: BlockId(2), to: BlockId(0) }]));
        let found = pool.lookup(Prefix::EMPTY, &[7]).unwrap();
        assert_eq!((found.id, found.has_draft), (BlockId(0), true));
        pool.forget_draft();
        assert!(!pool.lookup(Prefix::EMPTY, &[7]).unwrap().has_draft);
        pool.check(std::iter::empty());
    }

    /// A sequence: its blocks, what was written into each, the prefix of the remembered ones and how many these are.
    #[derive(Default)]
    struct Owner {
        table: Vec<BlockId>,
        written: Vec<u32>,
        prefix: Prefix,
        n_remembered: usize,
    }

    /// The pool, what is stored in each block, and who owns blocks.
    struct World {
        pool: BlockPool,
        store: Vec<u32>,
        /// What a snapshot has read: here, what is in its block.
        states: Vec<u32>,
        owners: Vec<Owner>,
        n_own: u32,
    }

    impl World {
        fn new(n_own: u32) -> Self {
            let pool = BlockPool::new(n_own).with_states(3);
            Self { pool, store: vec![0; n_own as usize], states: vec![0; 3], owners: vec![], n_own }
        }

        fn copy(&mut self, copy: BlockCopy) {
            self.store[copy.to.0 as usize] = self.store[copy.from.0 as usize];
        }

        fn act(&mut self, operation: u8, i: usize, token: u32) {
            let n = self.owners.len().max(1);
            match (operation, self.owners.get_mut(i % n)) {
                (0, _) => self.owners.push(Owner::default()),
                (1 | 2, Some(owner)) => {
                    if let Some(id) = self.pool.allocate() {
                        self.store[id.0 as usize] = token;
                        owner.table.push(id);
                        owner.written.push(token);
                    }
                }
                (3, Some(owner)) if owner.n_remembered < owner.table.len() => {
                    let (id, tokens) = (owner.table[owner.n_remembered], [owner.written[owner.n_remembered]]);
                    owner.prefix = self.pool.remember(id, owner.prefix, &tokens).prefix;
                    owner.n_remembered += 1;
                }
                (4, Some(owner)) => {
                    self.pool.release_all(&mut owner.table);
                    *owner = Owner::default();
                }
                (5, Some(_)) => {
                    if let Some(found) = self.pool.lookup(Prefix::EMPTY, &[token]) {
                        assert_eq!(self.store[found.id.0 as usize], token, "a cached block has its contents");
                        self.pool.share(found.id);
                        let (table, written) = (vec![found.id], vec![token]);
                        self.owners.push(Owner { table, written, prefix: found.prefix, n_remembered: 1 });
                    }
                }
                (6, Some(owner)) if !owner.table.is_empty() => {
                    let last = owner.table.len() - 1;
                    let copy = self.pool.make_writable(&mut owner.table, last).ok().flatten();
                    copy.into_iter().for_each(|copy| self.copy(copy));
                }
                (7, _) if self.pool.n_total() == self.n_own => {
                    self.pool.grow(1 + token);
                    self.store.resize(self.pool.n_total() as usize, u32::MAX);
                }
                (8, Some(owner)) if !owner.table.is_empty() => {
                    let (id, slot) = (owner.table[0], self.pool.states.take().expect("nobody holds one"));
                    self.states[slot.0 as usize] = self.store[id.0 as usize];
                    self.pool.states.keep(slot, id);
                }
                (9, _) => self.contract(),
                _ => {}
            }
        }

        fn contract(&mut self) {
            let n_owned = self.pool.n_total() - self.pool.n_free();
            let Some(moves) = self.pool.contract(self.n_own) else {
                assert!(n_owned > self.n_own, "whatever fits is moved");
                return;
            };
            for &copy in &moves {
                self.copy(copy);
                let tables = self.owners.iter_mut().flat_map(|owner| &mut owner.table);
                tables.filter(|id| **id == copy.from).for_each(|id| *id = copy.to);
            }
            self.store.truncate(self.n_own as usize);
        }

        fn check(&self) {
            self.pool.check(self.owners.iter().map(|owner| &owner.table[..]));
            self.pool.states.check(std::iter::empty());
            for id in (0..self.pool.n_total()).map(BlockId) {
                if let Some(slot) = self.pool.states.snapshot(id) {
                    assert!(!self.pool.block(id).is_blank(), "a snapshot goes with its block");
                    assert_eq!(self.states[slot.0 as usize], self.store[id.0 as usize]);
                }
            }
            for Owner { table, written, .. } in &self.owners {
                let stored: Vec<u32> = table.iter().map(|id| self.store[id.0 as usize]).collect();
                assert_eq!(stored, *written, "contents follow their table");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn books_and_contents_are_right_under_any_order_of_operations(
            operations in prop::collection::vec((0..10u8, 0..8usize, 0..5u32), 1..200),
        ) {
            let mut world = World::new(5);
            for (operation, i, token) in operations {
                world.act(operation, i, token);
                world.check();
            }
            world.act(9, 0, 0);
            for owner in &mut world.owners {
                world.pool.release_all(&mut owner.table);
            }
            prop_assert_eq!(world.pool.n_free(), world.pool.n_total());
        }
    }
}
