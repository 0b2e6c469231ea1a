//! The ragged layout of one pass: prompt chunks, plain decodes and verifications are n, 1 and 1 + l rows of a sequence.

use std::ops::Range;

use dsde_sampling::Proposal;

/// Index of a block in the key/value stores; target and draft use the same ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Contents of `from` are copied to `to`, in every store, before the next pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// Source block.
    pub from: BlockId,
    /// Destination block.
    pub to: BlockId,
}

/// One slot in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which block.
    pub block: BlockId,
    /// Index inside the block.
    pub offset: u32,
}

/// Contents of slot `from` are copied to slot `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMove {
    /// Source.
    pub from: Slot,
    /// Destination.
    pub to: Slot,
}

/// Index of a state that a target's recurrent layers keep, all layers of it together ([`Shape::n_states`](crate::Shape::n_states)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateSlot(pub u32);

/// What a target pass does with the state of one sequence.
///
/// What a pass without [`from`](Self::from) starts from, by where the sequence's first row stands (its first pass begins at
/// position 0 or has `from`):
///
/// * At position 0, an empty state.
/// * Elsewhere, what `slot` has read: all tokens before the known rows of the sequence's last pass, and those rows. Between
///   them and the first row now stand the proposals of that pass that were accepted. Their inputs were kept when they were
///   verified, by the block and offset of the slot in which their keys and values are; they are read now, found through the
///   block table. Proposals are never read by the state itself, so those that were rejected leave no trace in it.
///
/// Kept inputs follow the target's keys and values: [`Executor::move_slots`](crate::Executor::move_slots) moves and
/// [`Executor::copy_blocks`](crate::Executor::copy_blocks) copies them. Rows that are dropped inside a pass
/// ([`TargetDraw::prune`](crate::TargetDraw::prune)) need not be kept. Nobody asks for what stands before the known rows of the last pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateUse {
    /// The sequence's own state; nobody else's from its first pass to its last.
    pub slot: StateSlot,
    /// The first so many rows of the sequence are known tokens, at least one; the rest are its proposal.
    pub n_known: u32,
    /// A snapshot of exactly the tokens before the first row; before anything else it is copied to `slot`. It is nobody's `slot`
    /// and nobody's `to` in this pass, but may be `from` of several sequences.
    pub from: Option<StateSlot>,
    /// Where the state is copied to once it has read the known rows: a snapshot of all tokens up to the last of them. Only
    /// without a proposal, and where that token ends a block.
    pub to: Option<StateSlot>,
}

/// Rows of all sequences of a pass, flattened. Row `r` of sequence `i` has `offsets[i] <= r < offsets[i + 1]`.
///
/// A row's key and value are written to slot `slots[r]` of its sequence. It sees the slots `0..visible_len[r]` and, above
/// them, slot `visible_len[r] + b` for every set bit `b` of `tree_mask[r]`. Rows of known tokens and of chains have
/// `visible_len = slot + 1` and no mask; the mask carries the ancestry of nodes of branching proposals.
#[derive(Clone, Debug, Default)]
pub struct RowBatch {
    /// Input token of each row, `[n_rows]`.
    pub tokens: Vec<u32>,
    /// Position for rotary embedding, `[n_rows]`.
    pub positions: Vec<u32>,
    /// Where key and value are stored, counted in the sequence's own slots, `[n_rows]`.
    pub slots: Vec<u32>,
    /// Slots that the row sees without exception, `[n_rows]`.
    pub visible_len: Vec<u32>,
    /// Further visible slots, relative to `visible_len`, `[n_rows]`.
    pub tree_mask: Vec<u64>,
    /// First row of each sequence, `[n_seqs + 1]`.
    pub offsets: Vec<u32>,
    /// Block tables of all sequences, one after the other.
    pub tables: Vec<BlockId>,
    /// Entries of each sequence's table, `[n_seqs]`.
    pub table_ranges: Vec<Range<u32>>,
    /// What a target pass does with the state of each sequence, `[n_seqs]`. Empty in passes of the draft, and where the target
    /// has no recurrent layers.
    pub states: Vec<StateUse>,
}

impl RowBatch {
    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.next_round();
        self.tables.clear();
        self.table_ranges.clear();
        self.states.clear();
    }

    /// Removes all rows and keeps the tables, so that [`RowBatch::keep`] can give sequences of this batch another row.
    pub fn next_round(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.visible_len.clear();
        self.tree_mask.clear();
        self.offsets.clear();
        self.offsets.push(0);
    }

    /// Appends one row for the sequence that was number `seq_idx` of the round before.
    ///
    /// * `slot`: inside the sequence's table; all slots before it are stored.
    /// * `seq_idx`: ascending from call to call.
    pub fn keep(&mut self, seq_idx: usize, slot: u32, token: u32) {
        self.keep_table(seq_idx);
        self.push_row(token, slot);
        self.offsets.push(self.tokens.len() as u32);
    }

    /// Appends the rows of some nodes of a proposal, like [`RowBatch::keep`].
    ///
    /// * `base`: slot of node 0; the slots before it and those of all ancestors are stored.
    pub fn keep_nodes(&mut self, seq_idx: usize, base: u32, proposal: &Proposal, nodes: Range<u32>) {
        self.keep_table(seq_idx);
        for node in nodes {
            self.push_node(base, proposal, node);
        }
        self.offsets.push(self.tokens.len() as u32);
    }

    fn keep_table(&mut self, seq_idx: usize) {
        debug_assert!(seq_idx >= self.n_seqs(), "sequences are kept in order");
        let n_seqs = self.n_seqs();
        self.table_ranges[n_seqs] = self.table_ranges[seq_idx].clone();
    }

    /// Appends a sequence: rows of `known` tokens that continue `context_len` stored ones, then rows of a proposal.
    ///
    /// * `known`: at least one token; they take the slots from `context_len` on.
    /// * `table`: covers `context_len + known.len() + proposal.len()` slots.
    pub fn push(&mut self, context_len: u32, known: &[u32], proposal: &Proposal, table: &[BlockId]) {
        if self.offsets.is_empty() {
            self.clear();
        }
        for (i, &token) in known.iter().enumerate() {
            self.push_row(token, context_len + i as u32);
        }
        let base = context_len + known.len() as u32;
        if proposal.is_chain() {
            for (i, &token) in proposal.tokens().iter().enumerate() {
                self.push_row(token, base + i as u32);
            }
        } else {
            for node in 0..proposal.len() {
                self.push_node(base, proposal, node);
            }
        }
        self.offsets.push(self.tokens.len() as u32);
        let start = self.tables.len() as u32;
        self.tables.extend_from_slice(table);
        self.table_ranges.push(start..self.tables.len() as u32);
    }

    /// Becomes `rows` without the last `n_dropped[i]` rows of sequence `i`; those that stay keep their slots and what they see.
    ///
    /// * `n_dropped`: one per sequence, each at most its rows.
    pub fn copy_without_ends(&mut self, rows: &RowBatch, n_dropped: &[u32]) {
        self.clear();
        for (seq_idx, &n_dropped) in n_dropped.iter().enumerate() {
            let Range { start, end } = rows.rows_of(seq_idx);
            let kept = start..end - n_dropped as usize;
            self.tokens.extend_from_slice(&rows.tokens[kept.clone()]);
            self.positions.extend_from_slice(&rows.positions[kept.clone()]);
            self.slots.extend_from_slice(&rows.slots[kept.clone()]);
            self.visible_len.extend_from_slice(&rows.visible_len[kept.clone()]);
            self.tree_mask.extend_from_slice(&rows.tree_mask[kept]);
            self.offsets.push(self.tokens.len() as u32);
        }
        self.tables.extend_from_slice(&rows.tables);
        self.table_ranges.extend_from_slice(&rows.table_ranges);
        self.states.extend_from_slice(&rows.states);
    }

    /// Becomes some rows of `rows`, which keep their slots and what they see; sequences may be left without any.
    ///
    /// * `kept`: ascending.
    pub fn copy_rows(&mut self, rows: &RowBatch, kept: &[u32]) {
        self.clear();
        let mut rest = kept;
        for seq_idx in 0..rows.n_seqs() {
            let n_kept = rest.partition_point(|&row| (row as usize) < rows.rows_of(seq_idx).end);
            let (of_seq, others) = rest.split_at(n_kept);
            for row in of_seq.iter().map(|&row| row as usize) {
                self.tokens.push(rows.tokens[row]);
                self.positions.push(rows.positions[row]);
                self.slots.push(rows.slots[row]);
                self.visible_len.push(rows.visible_len[row]);
                self.tree_mask.push(rows.tree_mask[row]);
            }
            self.offsets.push(self.tokens.len() as u32);
            rest = others;
        }
        self.tables.extend_from_slice(&rows.tables);
        self.table_ranges.extend_from_slice(&rows.table_ranges);
        self.states.extend_from_slice(&rows.states);
    }

    fn push_row(&mut self, token: u32, slot: u32) {
        self.tokens.push(token);
        self.positions.push(slot);
        self.slots.push(slot);
        self.visible_len.push(slot + 1);
        self.tree_mask.push(0);
    }

    /// The row of a node: it sees the slots before `base`, its ancestors and itself.
    fn push_node(&mut self, base: u32, proposal: &Proposal, node: u32) {
        let ancestors = std::iter::successors(Some(node), |&i| proposal.parents()[i as usize]);
        let mask = ancestors.fold(0u64, |mask, i| mask | 1 << i);
        self.tokens.push(proposal.tokens()[node as usize]);
        self.positions.push(base + mask.count_ones() - 1);
        self.slots.push(base + node);
        self.visible_len.push(base);
        self.tree_mask.push(mask);
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.tokens.len()
    }

    /// Number of sequences.
    pub fn n_seqs(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Rows of sequence `i`.
    pub fn rows_of(&self, i: usize) -> Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// Block table of sequence `i`.
    pub fn table_of(&self, i: usize) -> &[BlockId] {
        let Range { start, end } = self.table_ranges[i];
        &self.tables[start as usize..end as usize]
    }

    /// Slot of the token before that of row `r`; `None` for the first of a sequence.
    pub fn parent_slot(&self, r: usize) -> Option<u32> {
        let (visible_len, mask) = (self.visible_len[r], self.tree_mask[r]);
        // A row sees itself last.
        let Some(node) = mask.checked_ilog2() else {
            return visible_len.checked_sub(2);
        };
        match (mask ^ 1 << node).checked_ilog2() {
            Some(parent) => Some(visible_len + parent),
            None => visible_len.checked_sub(1),
        }
    }

    /// Slots that row `r` may read: one past the last visible one.
    pub fn extent(&self, r: usize) -> u32 {
        self.visible_len[r] + (u64::BITS - self.tree_mask[r].leading_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 and 2 below the last known token, 3 below 1, 4 below 3.
    fn tree() -> Proposal {
        let mut proposal = Proposal::new();
        for (token, parent) in [(1, None), (2, None), (3, Some(0)), (4, Some(2))] {
            proposal.push(token, parent);
        }
        proposal
    }

    fn table(n_blocks: u32) -> Vec<BlockId> {
        (0..n_blocks).map(BlockId).collect()
    }

    #[test]
    fn nodes_stand_at_their_depth_and_see_their_path() {
        let mut rows = RowBatch::default();
        rows.push(5, &[8], &tree(), &table(3));
        assert_eq!(rows.tokens, [8, 1, 2, 3, 4]);
        assert_eq!(rows.slots, [5, 6, 7, 8, 9]);
        assert_eq!(rows.positions, [5, 6, 6, 7, 8]);
        assert_eq!(rows.visible_len, [6, 6, 6, 6, 6]);
        assert_eq!(rows.tree_mask, [0, 0b1, 0b10, 0b101, 0b1101]);
        assert_eq!((rows.extent(0), rows.extent(2), rows.extent(4)), (6, 8, 10));
        let parents: Vec<_> = (0..5).map(|r| rows.parent_slot(r)).collect();
        assert_eq!(parents, [4, 5, 5, 6, 8].map(Some));
    }

    #[test]
    fn the_parent_of_a_row_in_a_chain_is_the_slot_before() {
        let mut rows = RowBatch::default();
        rows.push(0, &[8, 9], &tree(), &table(2));
        rows.push(62, &[7], &Proposal::new(), &table(4));
        assert_eq!(
            (rows.parent_slot(0), rows.parent_slot(1), rows.parent_slot(6)),
            (None, Some(0), Some(61))
        );
    }

    #[test]
    fn rows_without_ends_stay_what_they_were() {
        let (mut whole, mut got, mut expected) =
            (RowBatch::default(), RowBatch::default(), RowBatch::default());
        let mut chain = Proposal::new();
        for token in [7, 8, 9] {
            chain.push_chain(token);
        }
        whole.push(5, &[1], &chain, &table(3));
        whole.push(0, &[2, 3], &Proposal::new(), &table(1));
        whole.push(9, &[4], &chain, &table(4));
        got.copy_without_ends(&whole, &[2, 0, 3]);
        chain.truncate(1);
        expected.push(5, &[1], &chain, &table(3));
        expected.push(0, &[2, 3], &Proposal::new(), &table(1));
        expected.push(9, &[4], &Proposal::new(), &table(4));
        assert_eq!(format!("{got:?}"), format!("{expected:?}"));
    }

    #[test]
    fn some_rows_stay_what_they_were() {
        let (mut whole, mut got) = (RowBatch::default(), RowBatch::default());
        whole.push(5, &[8], &tree(), &table(3));
        whole.push(0, &[2, 3], &Proposal::new(), &table(1));
        whole.push(9, &[4, 5], &Proposal::new(), &table(4));
        got.copy_rows(&whole, &[0, 3, 4, 8]);
        assert_eq!((got.tokens.as_slice(), got.slots.as_slice()), (&[8, 3, 4, 5][..], &[5, 8, 9, 10][..]));
        assert_eq!(got.tree_mask, [0, 0b101, 0b1101, 0]);
        let rows: Vec<_> = (0..3).map(|seq| got.rows_of(seq)).collect();
        assert_eq!((rows, got.table_of(2)), (vec![0..3, 3..3, 3..4], whole.table_of(2)));
        got.copy_rows(&whole, &(0..9).collect::<Vec<u32>>());
        assert_eq!(format!("{got:?}"), format!("{whole:?}"));
        got.copy_rows(&whole, &[]);
        assert_eq!((got.n_rows(), got.n_seqs()), (0, 3));
    }

    #[test]
    fn a_level_has_the_rows_of_the_whole_tree() {
        let mut whole = RowBatch::default();
        whole.push(0, &[8, 9], &tree(), &table(2));
        let mut rows = RowBatch::default();
        for seq in 0..3 {
            rows.push(0, &[seq], &Proposal::new(), &table(1 + seq));
        }
        rows.next_round();
        rows.keep_nodes(0, 2, &tree(), 0..2);
        rows.keep(2, 1, 6);
        assert_eq!((rows.n_seqs(), rows.rows_of(0), rows.rows_of(1)), (2, 0..2, 2..3));
        assert_eq!((rows.table_of(0).len(), rows.table_of(1).len()), (1, 3));
        rows.next_round();
        rows.keep_nodes(0, 2, &tree(), 2..4);
        let last = |column: &[u64]| column[column.len() - 2..].to_vec();
        assert_eq!(last(&rows.tree_mask), last(&whole.tree_mask));
        assert_eq!((&rows.positions[..], &rows.slots[..]), (&whole.positions[4..], &whole.slots[4..]));
        assert_eq!(rows.tokens, [3, 4]);
    }
}
