//! Verification by walking the token tree: the target chooses a token, and the walk follows the child that guessed it.
//!
//! Every emitted token is the target's own choice, so the output is the target's output whatever was proposed, chain or
//! tree, guessed in any way. With the arg max as choice this is greedy verification. With a draw from the target's
//! distribution it accepts a guess `x` with probability `p(x)`, which is the best possible for guesses that were not sampled
//! (for them the rejection rule accepts with `min(1, p(x) / 1)` too).

use crate::{Proposal, Verdict};

/// Follows the tree from its root while some child holds the chosen token.
///
/// * `choose(row_idx, depth)`: the target's token after `depth` accepted ones; `row_idx` is 0 at the root and `1 + i` at
///   node `i`.
#[inline(always)]
pub fn walk(proposal: &Proposal, mut choose: impl FnMut(usize, u32) -> u32) -> Verdict {
    let mut path = Vec::new();
    loop {
        let parent = path.last().copied();
        let row_idx = parent.map_or(0, |node| node as usize + 1);
        let next = choose(row_idx, path.len() as u32);
        match proposal.child(parent, next) {
            Some(node) => path.push(node),
            None => {
                let is_bonus = proposal.is_leaf(parent);
                return Verdict { path, next, is_bonus };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nodes`: token and parent; `choices`: the target's token at each row.
    fn check(nodes: &[(u32, Option<u32>)], choices: &[u32], expected: Verdict) {
        let mut proposal = Proposal::new();
        for &(token, parent) in nodes {
            proposal.push(token, parent);
        }
        let mut depths = Vec::new();
        let verdict = walk(&proposal, |row_idx, depth| {
            depths.push(depth);
            choices[row_idx]
        });
        assert_eq!(verdict, expected, "{nodes:?} {choices:?}");
        assert_eq!(depths, (0..=expected.accepted()).collect::<Vec<_>>());
    }

    fn verdict(path: &[u32], next: u32, is_bonus: bool) -> Verdict {
        Verdict { path: path.to_vec(), next, is_bonus }
    }

    #[test]
    fn an_empty_proposal_yields_one_token() {
        check(&[], &[4], verdict(&[], 4, true));
    }

    #[test]
    fn a_chain_stops_at_the_first_mismatch() {
        let chain = [(1, None), (2, Some(0)), (3, Some(1))];
        check(&chain, &[9, 2, 3, 4], verdict(&[], 9, false));
        check(&chain, &[1, 9, 3, 4], verdict(&[0], 9, false));
        check(&chain, &[1, 2, 9, 4], verdict(&[0, 1], 9, false));
        check(&chain, &[1, 2, 3, 4], verdict(&[0, 1, 2], 4, true));
    }

    #[test]
    fn a_tree_is_followed_along_the_guessed_branch() {
        // 1 -> (2 -> 4, 3), and a second root 5
        let tree = [(1, None), (2, Some(0)), (3, Some(0)), (4, Some(1)), (5, None)];
        check(&tree, &[1, 2, 4, 0, 7, 0], verdict(&[0, 1, 3], 7, true));
        check(&tree, &[1, 2, 9, 0, 7, 0], verdict(&[0, 1], 9, false));
        check(&tree, &[1, 3, 0, 8, 0, 0], verdict(&[0, 2], 8, true));
        check(&tree, &[5, 0, 0, 0, 0, 6], verdict(&[4], 6, true));
        check(&tree, &[2, 0, 0, 0, 0, 0], verdict(&[], 2, false));
    }

    #[test]
    fn of_equal_siblings_the_first_is_followed() {
        check(&[(1, None), (1, None)], &[1, 2, 3], verdict(&[0], 2, true));
    }
}
