//! Tokens from the last known one down to a node of a proposal.

use std::borrow::Cow;
use std::ops::Deref;

use dsde_sampling::Proposal;

/// Tokens of a node and its ancestors, root first; a part of the proposal itself if that is a chain.
pub(super) struct Path<'a>(Cow<'a, [u32]>);

impl<'a> Path<'a> {
    /// To the row of `row_idx`: 0 is the last known token, `1 + i` is node `i`.
    pub(super) fn to_row(proposal: &'a Proposal, row_idx: usize) -> Self {
        if proposal.is_chain() {
            return Self(Cow::Borrowed(&proposal.tokens()[..row_idx]));
        }
        let node = (row_idx as u32).checked_sub(1);
        Self(Cow::Owned(node.map_or_else(Vec::new, |node| proposal.path(node))))
    }
}

impl Deref for Path<'_> {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nodes: &[(u32, Option<u32>)], expected: &[&[u32]]) {
        let mut proposal = Proposal::new();
        for &(token, parent) in nodes {
            proposal.push(token, parent);
        }
        for (row_idx, expected) in expected.iter().enumerate() {
            assert_eq!(&*Path::to_row(&proposal, row_idx), *expected, "row {row_idx}");
        }
    }

    #[test]
    fn the_path_of_a_chain_is_its_beginning() {
        check(&[(7, None), (8, Some(0)), (9, Some(1))], &[&[], &[7], &[7, 8], &[7, 8, 9]]);
    }

    #[test]
    fn the_path_in_a_tree_leaves_siblings_out() {
        // 7 has the children 8 and 9; 5 is a second root below which 6 hangs.
        let nodes = [(7, None), (8, Some(0)), (9, Some(0)), (5, None), (6, Some(3))];
        check(&nodes, &[&[], &[7], &[7, 8], &[7, 9], &[5], &[5, 6]]);
    }
}
