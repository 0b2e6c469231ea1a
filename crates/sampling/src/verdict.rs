//! The result of verifying one proposal, and the door to the rules that reach it.

use crate::block::block_wise;
use crate::chain::Chain;
use crate::distribution::argmax;
use crate::draws::{Draws, Weights};
use crate::rng::Purpose;
use crate::token::token_wise;
use crate::walk::walk;
use crate::{Params, Proposal};

/// Which verification rule judges sampled chains of a draft model.
///
/// Other proposals need no choice: requests that are greedy or have a seed, tokens that were not sampled (suffix decoding) and
/// branching proposals are judged by [`walk`](crate::walk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Accept position by position (Leviathan et al., arXiv:2211.17192).
    TokenWise,
    /// Accept by joint probability (Sun et al., arXiv:2403.10444); never accepts less.
    #[default]
    Block,
}

/// What a verification rule decided: a path of accepted nodes and one more token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Accepted nodes of the proposal, root first; for a chain `0..accepted`.
    pub path: Vec<u32>,
    /// The token after the path: recovered from a rejection, or the bonus token if nothing was rejected.
    pub next: u32,
    /// Whether `next` is a bonus: the path ends at a leaf.
    pub is_bonus: bool,
}

impl Verdict {
    /// Number of accepted draft tokens.
    pub fn accepted(&self) -> u32 {
        self.path.len() as u32
    }

    /// Tokens to emit: those of the accepted path, then `next`.
    pub fn emitted(&self, proposal: &Proposal) -> Vec<u32> {
        let accepted = self.path.iter().map(|&node| proposal.tokens()[node as usize]);
        accepted.chain([self.next]).collect()
    }
}

/// Rows over the vocabulary, `[n_rows, vocab_len]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: Values<'a>,
    vocab_len: usize,
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    /// One row after the other.
    Joined(&'a [f32]),
    /// Every row by itself.
    Apart(&'a [Vec<f32>]),
}

impl<'a> Rows<'a> {
    /// Sees a slice as rows, one after the other.
    ///
    /// # Panics
    /// If `values` does not consist of whole rows.
    pub fn new(values: &'a [f32], vocab_len: usize) -> Self {
        assert!(
            vocab_len > 0 && values.len().is_multiple_of(vocab_len),
            "{} values are not rows of {vocab_len}",
            values.len()
        );
        Self { values: Values::Joined(values), vocab_len }
    }

    /// Rows that stand apart from one another.
    ///
    /// # Panics
    /// If a row has another length.
    pub fn apart(rows: &'a [Vec<f32>], vocab_len: usize) -> Self {
        for row in rows {
            assert_eq!(row.len(), vocab_len, "a row has {} values instead of {vocab_len}", row.len());
        }
        Self { values: Values::Apart(rows), vocab_len }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        match self.values {
            Values::Joined(values) => values.len() / self.vocab_len,
            Values::Apart(rows) => rows.len(),
        }
    }

    /// Tokens in the vocabulary.
    pub fn vocab_len(&self) -> usize {
        self.vocab_len
    }

    /// One row, `[vocab_len]`.
    #[inline(always)]
    pub fn row(&self, row_idx: usize) -> &'a [f32] {
        match self.values {
            Values::Joined(values) => &values[row_idx * self.vocab_len..(row_idx + 1) * self.vocab_len],
            Values::Apart(rows) => &rows[row_idx],
        }
    }
}

/// What a verdict is reached from.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The drafted tokens.
    pub proposal: &'a Proposal,
    /// `[1 + proposal.len(), vocab_len]`: row 0 stands after the last known token, row `1 + i` after node `i`. Adjusted
    /// logits for greedy requests, processed probabilities for sampled ones.
    pub target: Rows<'a>,
    /// `[proposal.len(), vocab_len]`: row `i` holds the probabilities that node `i` was drawn from; at least as many rows as
    /// nodes. `None` if the tokens were not sampled from a distribution (suffix decoding, greedy drafting).
    pub draft: Option<Rows<'a>>,
}

/// Judges a proposal; the emitted tokens (accepted path, then `next`) follow the target's distribution.
///
/// Requests that are greedy or have a seed, and proposals that are no sampled chain, are judged by walking the tree, sampled
/// chains by `rule`.
///
/// The caller owes two things where a rule judges. No other sequence has the same draws. And whether a sampled token stands in the proposal may depend on anything known before it was
/// drawn, and never on the token itself ([`law`](crate::law) shows what happens otherwise).
///
/// Call from a `#[target_feature]` function for faster code with the same result.
///
/// # Panics
/// If there are fewer rows than the proposal needs, or if target and draft differ in vocabulary.
#[inline(always)]
pub fn verify(params: &Params, rule: Rule, evidence: &Evidence<'_>, draws: &mut impl Draws) -> Verdict {
    let Evidence { proposal, target, draft } = *evidence;
    let n_nodes = proposal.len() as usize;
    assert!(
        target.n_rows() > n_nodes,
        "{n_nodes} nodes need {} target rows, got {}",
        n_nodes + 1,
        target.n_rows()
    );
    if params.is_greedy() {
        return walk(proposal, |row_idx, _| argmax(target.row(row_idx)));
    }
    match draft {
        Some(draft) if proposal.is_chain() && params.seed.is_none() => {
            let chain = Chain::new(proposal.tokens(), target, draft);
            match rule {
                Rule::TokenWise => token_wise(&chain, draws),
                Rule::Block => block_wise(&chain, draws),
            }
        }
        _ => walk(proposal, |row_idx, depth| {
            draws.token(Purpose::Target, depth, Weights::Row(target.row(row_idx)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_apart_are_those_of_one_slice() {
        let apart = [vec![0.1, 0.9], vec![0.7, 0.3]];
        let (joined, apart) = (Rows::new(&[0.1, 0.9, 0.7, 0.3], 2), Rows::apart(&apart, 2));
        assert_eq!((joined.n_rows(), joined.vocab_len()), (apart.n_rows(), apart.vocab_len()));
        assert!((0..2).all(|i| joined.row(i) == apart.row(i)));
    }

    #[test]
    #[should_panic(expected = "a row has 1 values instead of 2")]
    fn rows_of_different_lengths_are_a_bug() {
        Rows::apart(&[vec![0.1, 0.9], vec![1.0]], 2);
    }
}
