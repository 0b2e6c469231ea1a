//! A store that holds tokens, or whatever is worth checking, in place of keys and values.

use crate::executor::Shape;
use crate::rows::{BlockCopy, RowBatch, SlotMove};

/// What was written to each slot of each block; `None` where nothing was.
#[derive(Debug)]
pub(super) struct Store<T> {
    slots: Vec<Option<T>>,
    block_len: usize,
    /// See [`Shape::window`].
    window: usize,
}

impl<T: Copy> Store<T> {
    pub(super) fn new(shape: &Shape) -> Self {
        let block_len = shape.block_len as usize;
        let window = shape.window.map_or(usize::MAX, |window| window as usize);
        Self { slots: vec![None; shape.n_blocks as usize * block_len], block_len, window }
    }

    /// Appended blocks are empty.
    pub(super) fn resize(&mut self, n_blocks: u32) {
        self.slots.resize(n_blocks as usize * self.block_len, None);
    }

    pub(super) fn copy(&mut self, copy: BlockCopy) {
        let (from, to) = (copy.from.0 as usize * self.block_len, copy.to.0 as usize * self.block_len);
        self.slots.copy_within(from..from + self.block_len, to);
    }

    pub(super) fn move_slots(&mut self, moves: &[SlotMove]) {
        for SlotMove { from, to } in moves {
            let [from, to] = [from, to].map(|at| at.block.0 as usize * self.block_len + at.offset as usize);
            self.slots[to] = self.slots[from];
        }
    }

    fn index(&self, rows: &RowBatch, seq_idx: usize, slot: u32) -> usize {
        let block = rows.table_of(seq_idx)[slot as usize / self.block_len];
        block.0 as usize * self.block_len + slot as usize % self.block_len
    }

    /// Writes the slots of all rows; `value` is told sequence and row.
    pub(super) fn write(&mut self, rows: &RowBatch, value: impl Fn(usize, usize) -> T) {
        for seq_idx in 0..rows.n_seqs() {
            for r in rows.rows_of(seq_idx) {
                self.set(rows, seq_idx, rows.slots[r], value(seq_idx, r));
            }
        }
    }

    pub(super) fn set(&mut self, rows: &RowBatch, seq_idx: usize, slot: u32, value: T) {
        let index = self.index(rows, seq_idx, slot);
        self.slots[index] = Some(value);
    }

    pub(super) fn forget(&mut self, rows: &RowBatch, seq_idx: usize, slot: u32) {
        let index = self.index(rows, seq_idx, slot);
        self.slots[index] = None;
    }

    pub(super) fn get(&self, rows: &RowBatch, seq_idx: usize, slot: u32) -> Option<T> {
        self.slots[self.index(rows, seq_idx, slot)]
    }

    /// What row `r` attends to, in the order of the slots: before the window, blocks may hold what others wrote, or nothing.
    pub(super) fn visible<'a>(
        &'a self,
        rows: &'a RowBatch,
        seq_idx: usize,
        r: usize,
    ) -> impl Iterator<Item = T> + 'a {
        let base = rows.visible_len[r];
        let mask = rows.tree_mask[r];
        let nodes = (0..u64::BITS).filter(move |b| mask >> b & 1 == 1).map(move |b| base + b);
        let n_visible = (base + mask.count_ones()) as usize;
        (0..base).chain(nodes).skip(n_visible.saturating_sub(self.window)).map(move |slot| {
            self.get(rows, seq_idx, slot).expect("a row attends only to slots that were written")
        })
    }
}
