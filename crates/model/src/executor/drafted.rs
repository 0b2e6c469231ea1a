//! What the tokens of a proposal were drawn from, kept from the draft pass to the verification of the same step.

use std::collections::HashMap;

use dsde_engine::SeqId;
use dsde_sampling::{Params, Rows};

use super::row_pool::RowPool;

/// What signals of a sequence are computed from; draft and verification must agree, so the decision stands here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Basis {
    /// The softmax of adjusted logits: of greedy requests, and of truncated ones, whose processed distributions may not
    /// even overlap.
    Logits {
        /// The request's, or 1 for greedy ones.
        temperature: f32,
    },
    /// The processed probabilities, which are that softmax where nothing is truncated.
    Probabilities,
}

impl Basis {
    /// For requests with `params`.
    pub(super) fn of(params: &Params) -> Self {
        let is_truncated = params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0;
        match (params.is_greedy(), is_truncated) {
            (true, _) => Basis::Logits { temperature: 1.0 },
            (false, true) => Basis::Logits { temperature: params.temperature },
            (false, false) => Basis::Probabilities,
        }
    }
}

/// Rows of one sequence in the order in which the draft saw them: the last known token's, then those of the nodes that were
/// drafted after. Row `i` of a chain is what node `i` was drawn from. Only what the verification will read.
#[derive(Debug, Default)]
pub(super) struct DraftedRows {
    len: u32,
    probabilities: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
    /// The same number for every row.
    rivals: Vec<u32>,
}

impl DraftedRows {
    /// Rows drafted after so far.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Processed probabilities, `[len, vocab_len]`; `None` for greedy requests, and for trees
    /// unless signals are computed from them.
    pub(super) fn probabilities(&self, vocab_len: usize) -> Option<Rows<'_>> {
        self.rows(&self.probabilities, vocab_len)
    }

    /// Adjusted logits, `[len, vocab_len]`; `None` unless signals are computed from them.
    pub(super) fn logits(&self, vocab_len: usize) -> Option<Rows<'_>> {
        self.rows(&self.logits, vocab_len)
    }

    /// Rivals of the token drafted after row `i`; none unless they were asked for.
    pub(super) fn rivals(&self, i: usize) -> &[u32] {
        let n_rivals = self.rivals.len() / (self.len as usize).max(1);
        &self.rivals[i * n_rivals..(i + 1) * n_rivals]
    }

    fn rows<'a>(&self, rows: &'a [Vec<f32>], vocab_len: usize) -> Option<Rows<'a>> {
        (self.len > 0 && rows.len() == self.len as usize).then(|| Rows::apart(rows, vocab_len))
    }
}

/// Where a draft pass leaves what the verification will read.
#[derive(Debug)]
pub(super) struct Keeper<'a>(Option<(DraftedRows, &'a RowPool)>);

impl<'a> Keeper<'a> {
    /// For drafts that nobody verifies.
    pub(super) fn of_nothing() -> Self {
        Self(None)
    }

    /// Adds to what was drafted before.
    pub(super) fn after(rows: DraftedRows, pool: &'a RowPool) -> Self {
        Self(Some((rows, pool)))
    }

    /// Keeps the adjusted logits of the row being drafted after.
    pub(super) fn keep_logits(&mut self, row: &[f32]) {
        if let Some((rows, pool)) = &mut self.0 {
            rows.logits.push(pool.copy_of(row));
        }
    }

    /// Keeps the processed probabilities of the row being drafted after.
    pub(super) fn keep_probabilities(&mut self, row: &[f32]) {
        if let Some((rows, pool)) = &mut self.0 {
            rows.probabilities.push(pool.copy_of(row));
        }
    }

    /// Keeps the tokens that the one drafted after the row will be compared with.
    pub(super) fn keep_rivals(&mut self, rivals: impl Iterator<Item = u32>) {
        if let Some((rows, _)) = &mut self.0 {
            rows.rivals.extend(rivals);
        }
    }

    /// Counts the row being drafted after.
    pub(super) fn finish_row(&mut self) {
        if let Some((rows, _)) = &mut self.0 {
            rows.len += 1;
        }
    }

    /// All rows, unless nothing is kept.
    pub(super) fn into_rows(self) -> Option<DraftedRows> {
        self.0.map(|(rows, _)| rows)
    }
}

/// Rows of all sequences of a step.
#[derive(Debug, Default)]
pub(super) struct DraftedStore {
    by_seq: HashMap<SeqId, DraftedRows>,
    pool: RowPool,
}

impl DraftedStore {
    /// Memory of the rows.
    pub(super) fn pool(&self) -> &RowPool {
        &self.pool
    }

    /// Takes out the `n_rows` rows of `seq`; none means that a new proposal begins.
    ///
    /// # Panics
    /// If the store knows another number of rows.
    pub(super) fn take(&mut self, seq: SeqId, n_rows: u32) -> DraftedRows {
        let mut rows = self.by_seq.remove(&seq).unwrap_or_default();
        if n_rows == 0 {
            self.free(std::mem::take(&mut rows));
        }
        assert_eq!(
            rows.len(),
            n_rows,
            "every node of the proposal of {seq:?} was drafted here, in this step"
        );
        rows
    }

    /// Puts the rows of `seq` back.
    pub(super) fn put(&mut self, seq: SeqId, rows: DraftedRows) {
        self.by_seq.insert(seq, rows);
    }

    /// The rows of `seq`, of which the first `n_rows` are read; `None` if nothing is to be verified.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn get(&self, seq: SeqId, n_rows: u32) -> Option<&DraftedRows> {
        if n_rows == 0 {
            return None;
        }
        let rows = self.by_seq.get(&seq);
        let n_drafted = rows.map_or(0, DraftedRows::len);
        assert!(n_rows <= n_drafted, "{n_rows} rows of {seq:?} to verify, {n_drafted} drafted in this step");
        rows
    }

    /// Forgets all sequences, and keeps as much memory as they took.
    pub(super) fn clear(&mut self) {
        let mut by_seq = std::mem::take(&mut self.by_seq);
        by_seq.drain().for_each(|(_, rows)| self.free(rows));
        self.by_seq = by_seq;
        self.pool.trim();
    }

    fn free(&self, rows: DraftedRows) {
        let DraftedRows { probabilities, logits, .. } = rows;
        self.pool.give_back(probabilities.into_iter().chain(logits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQ: SeqId = SeqId(7);

    /// A store that drafted `n_nodes` nodes of two probabilities each.
    fn drafted(n_nodes: u32) -> DraftedStore {
        let mut store = DraftedStore::default();
        for node in 0..n_nodes {
            let rows = store.take(SEQ, node);
            let mut keeper = Keeper::after(rows, store.pool());
            keeper.keep_probabilities(&[node as f32, 0.5]);
            keeper.finish_row();
            let rows = keeper.into_rows().unwrap();
            store.put(SEQ, rows);
        }
        store
    }

    #[test]
    fn a_prefix_of_what_was_drafted_can_be_verified() {
        let store = drafted(3);
        let rows = store.get(SEQ, 2).unwrap();
        assert_eq!(rows.probabilities(2).unwrap().row(1), [1.0, 0.5]);
        assert!(rows.logits(2).is_none());
        assert!(store.get(SEQ, 0).is_none());
    }

    #[test]
    fn nothing_remains_after_a_step_but_memory() {
        let mut store = drafted(2);
        assert_eq!(store.pool().n_rows(), [2, 0]);
        store.clear();
        assert!(store.by_seq.is_empty());
        assert_eq!(store.pool().n_rows(), [0, 2]);
        let rows = store.take(SEQ, 0);
        assert_eq!((rows.len(), rows.probabilities(2).is_none()), (0, true));
    }

    #[test]
    fn a_new_proposal_replaces_one_that_was_never_verified() {
        let mut store = drafted(2);
        assert_eq!(store.take(SEQ, 0).len(), 0);
        assert_eq!(store.pool().n_rows(), [0, 2]);
    }

    #[test]
    fn drafts_that_nobody_verifies_are_not_kept() {
        let mut keeper = Keeper::of_nothing();
        keeper.keep_logits(&[1.0]);
        keeper.keep_probabilities(&[1.0]);
        keeper.keep_rivals([1].into_iter());
        keeper.finish_row();
        assert!(keeper.into_rows().is_none());
    }

    #[test]
    #[should_panic(expected = "was drafted here")]
    fn a_node_without_its_parents_is_a_bug() {
        drafted(1).take(SEQ, 2);
    }

    #[test]
    #[should_panic(expected = "3 rows of SeqId(7) to verify, 2 drafted")]
    fn verifying_more_than_was_drafted_is_a_bug() {
        drafted(2).get(SEQ, 3);
    }
}
