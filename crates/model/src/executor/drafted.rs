//! What the tokens of a proposal were drawn from, kept from the draft pass to the verification of the same step.

use std::collections::HashMap;

use dsde_engine::SeqId;
use dsde_sampling::{Params, Rows};

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
    probabilities: Vec<f32>,
    logits: Vec<f32>,
    /// The same number for every row.
    rivals: Vec<u32>,
}

impl DraftedRows {
    /// Forgets all rows and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.probabilities.clear();
        self.logits.clear();
        self.rivals.clear();
    }

    /// Rows drafted after so far.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Keeps the adjusted logits of the row being drafted after.
    pub(super) fn keep_logits(&mut self, row: &[f32]) {
        self.logits.extend_from_slice(row);
    }

    /// Keeps the processed probabilities of the row being drafted after.
    pub(super) fn keep_probabilities(&mut self, row: &[f32]) {
        self.probabilities.extend_from_slice(row);
    }

    /// Keeps the tokens that the one drafted after the row will be compared with.
    pub(super) fn keep_rivals(&mut self, rivals: impl Iterator<Item = u32>) {
        self.rivals.extend(rivals);
    }

    /// Counts the row being drafted after.
    pub(super) fn finish_row(&mut self) {
        self.len += 1;
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

    fn rows<'a>(&self, values: &'a [f32], vocab_len: usize) -> Option<Rows<'a>> {
        (self.len > 0 && values.len() == self.len as usize * vocab_len).then(|| Rows::new(values, vocab_len))
    }
}

/// Rows of all sequences of a step, and the memory of earlier ones.
#[derive(Debug, Default)]
pub(super) struct DraftedStore {
    by_seq: HashMap<SeqId, DraftedRows>,
    idle: Vec<DraftedRows>,
}

impl DraftedStore {
    /// Takes out the `n_rows` rows of `seq`; none means that a new proposal begins.
    ///
    /// # Panics
    /// If the store knows another number of rows.
    pub(super) fn take(&mut self, seq: SeqId, n_rows: u32) -> DraftedRows {
        let mut rows = self.by_seq.remove(&seq).or_else(|| self.idle.pop()).unwrap_or_default();
        if n_rows == 0 {
            rows.clear();
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

    /// Forgets all sequences and keeps the memory.
    pub(super) fn clear(&mut self) {
        let rows = self.by_seq.drain().map(|(_, mut rows)| {
            rows.clear();
            rows
        });
        self.idle.extend(rows);
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
            let mut rows = store.take(SEQ, node);
            rows.keep_probabilities(&[node as f32, 0.5]);
            rows.finish_row();
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
        store.clear();
        assert!(store.by_seq.is_empty());
        let rows = store.take(SEQ, 0);
        assert_eq!((rows.len(), rows.probabilities(2).is_none()), (0, true));
        assert!(rows.probabilities.capacity() >= 4);
    }

    #[test]
    fn a_new_proposal_replaces_one_that_was_never_verified() {
        assert_eq!(drafted(2).take(SEQ, 0).len(), 0);
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
