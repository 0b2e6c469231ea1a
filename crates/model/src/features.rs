//! What a head reads of the tokens before: one row per slot, in the blocks of the key/value stores.

use dsde_engine::{BlockCopy, BlockId, RowBatch, Slot, SlotMove};

/// Features of slots, `[n_blocks, block_len, width]`, zero at creation.
#[derive(Debug)]
pub(crate) struct Features {
    values: Vec<f32>,
    block_len: usize,
    width: usize,
}

impl Features {
    pub(crate) fn new(n_blocks: usize, block_len: usize, width: usize) -> Self {
        Self { values: vec![0.0; n_blocks * block_len * width], block_len, width }
    }

    /// Bytes of one block.
    pub(crate) fn block_bytes(block_len: usize, width: usize) -> usize {
        block_len * width * size_of::<f32>()
    }

    /// `out[r, :]` is the feature of the slot before that of row `r`; zero for the first slot of a sequence.
    pub(crate) fn read(&self, rows: &RowBatch, out: &mut [f32]) {
        for seq in 0..rows.n_seqs() {
            for r in rows.rows_of(seq) {
                let out = &mut out[r * self.width..(r + 1) * self.width];
                match rows.parent_slot(r) {
                    Some(slot) => out
                        .copy_from_slice(&self.values[self.place(rows.table_of(seq), slot)..][..self.width]),
                    None => out.fill(0.0),
                }
            }
        }
    }

    /// The features of the slots of some rows become `values`, `[written.len(), width]`.
    ///
    /// * `written`: ascending.
    pub(crate) fn write(&mut self, rows: &RowBatch, written: impl Iterator<Item = usize>, values: &[f32]) {
        let mut seq = 0;
        for (r, value) in written.zip(values.chunks_exact(self.width)) {
            while rows.rows_of(seq).end <= r {
                seq += 1;
            }
            let start = self.place(rows.table_of(seq), rows.slots[r]);
            self.values[start..start + self.width].copy_from_slice(value);
        }
    }

    /// See [`Executor::copy_blocks`](dsde_engine::Executor::copy_blocks).
    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        let block_size = self.block_len * self.width;
        for BlockCopy { from, to } in copies {
            let [from, to] = [from, to].map(|block| block.0 as usize * block_size);
            self.values.copy_within(from..from + block_size, to);
        }
    }

    /// See [`Executor::move_slots`](dsde_engine::Executor::move_slots).
    pub(crate) fn move_slots(&mut self, moves: &[SlotMove]) {
        for SlotMove { from, to } in moves {
            let [from, to] = [from, to].map(|slot| self.start(*slot));
            self.values.copy_within(from..from + self.width, to);
        }
    }

    /// First element of a slot of a sequence.
    fn place(&self, table: &[BlockId], slot: u32) -> usize {
        let block_len = self.block_len as u32;
        self.start(Slot { block: table[(slot / block_len) as usize], offset: slot % block_len })
    }

    fn start(&self, slot: Slot) -> usize {
        (slot.block.0 as usize * self.block_len + slot.offset as usize) * self.width
    }
}

#[cfg(test)]
mod tests {
    use dsde_sampling::Proposal;

    use super::*;

    const WIDTH: usize = 2;

    /// Four blocks of two slots; the feature of slot `i` of block `b` is `[b, i]`.
    fn numbered() -> Features {
        let mut features = Features::new(4, 2, WIDTH);
        for (i, value) in features.values.chunks_exact_mut(WIDTH).enumerate() {
            value.copy_from_slice(&[(i / 2) as f32, (i % 2) as f32]);
        }
        features
    }

    fn tree() -> Proposal {
        let mut proposal = Proposal::new();
        for (token, parent) in [(1, None), (2, None), (3, Some(0))] {
            proposal.push(token, parent);
        }
        proposal
    }

    /// Two known tokens in block 2, and a tree whose nodes lie in the blocks 0 and 1; then one token in block 3.
    fn rows() -> RowBatch {
        let mut rows = RowBatch::default();
        rows.push(0, &[5, 6], &tree(), &[2, 0, 1].map(BlockId));
        rows.push(0, &[7], &Proposal::new(), &[3].map(BlockId));
        rows
    }

    #[track_caller]
    fn check_read(features: &Features, expected: &[[f32; WIDTH]]) {
        let rows = rows();
        let mut out = vec![9.0; rows.n_rows() * WIDTH];
        features.read(&rows, &mut out);
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn a_row_reads_the_feature_of_its_parent() {
        let last_known = [2.0, 1.0];
        check_read(&numbered(), &[[0.0; 2], [2.0, 0.0], last_known, last_known, [0.0, 0.0], [0.0; 2]]);
    }

    #[test]
    fn what_is_written_is_read_by_children() {
        let mut features = numbered();
        // The last known token, its first child, and the other sequence.
        features.write(&rows(), [1, 2, 5].into_iter(), &[7.0, 8.0, 5.0, 6.0, 3.0, 4.0]);
        check_read(&features, &[[0.0; 2], [2.0, 0.0], [7.0, 8.0], [7.0, 8.0], [5.0, 6.0], [0.0; 2]]);
        assert_eq!(features.values[6 * WIDTH..7 * WIDTH], [3.0, 4.0]);
    }

    #[test]
    fn features_follow_blocks_and_slots() {
        let mut features = numbered();
        features.copy_blocks(&[BlockCopy { from: BlockId(3), to: BlockId(2) }]);
        let slot = |block, offset| Slot { block: BlockId(block), offset };
        features.move_slots(&[SlotMove { from: slot(1, 1), to: slot(0, 0) }]);
        check_read(&features, &[[0.0; 2], [3.0, 0.0], [3.0, 1.0], [3.0, 1.0], [1.0, 1.0], [0.0; 2]]);
    }
}
