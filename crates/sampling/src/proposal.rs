//! Drafted tokens of one sequence: a token tree, of which a chain is the case with one branch.

/// Most nodes of one proposal; ancestry is kept in one machine word per row.
pub const NODES_MAX: u32 = 64;

/// Drafted tokens in an order in which every node stands after its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    tokens: Vec<u32>,
    parents: Vec<Option<u32>>,
    /// Of the rows that have one, one after the other, and words of each.
    masks: Vec<u32>,
    mask_words: usize,
}

impl Proposal {
    /// A proposal without nodes: plain decoding.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a node below `parent` (`None`: below the last known token) and returns its index.
    ///
    /// # Panics
    /// If `parent` is not an earlier node or the proposal already holds [`NODES_MAX`] nodes.
    pub fn push(&mut self, token: u32, parent: Option<u32>) -> u32 {
        let idx = self.len();
        assert!(idx < NODES_MAX, "a proposal holds at most {NODES_MAX} nodes");
        assert!(parent.is_none_or(|p| p < idx), "parent {parent:?} of node {idx} must stand before it");
        self.tokens.push(token);
        self.parents.push(parent);
        idx
    }

    /// Appends a token to a chain.
    ///
    /// # Panics
    /// If the proposal already holds [`NODES_MAX`] nodes.
    pub fn push_chain(&mut self, token: u32) {
        let parent = self.len().checked_sub(1);
        self.push(token, parent);
    }

    /// Keeps the first `len` nodes; since parents stand first, what is left is a tree.
    pub fn truncate(&mut self, len: u32) {
        self.tokens.truncate(len as usize);
        self.parents.truncate(len as usize);
        self.masks.truncate((1 + len as usize) * self.mask_words);
    }

    /// Removes all nodes, keeping the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
        self.masks.clear();
    }

    /// Adds the mask of the next row, nothing allowed yet, and returns it: first that of the last known token, then those of the
    /// nodes. Bit `t % 32` of word `t / 32` says whether token `t` may follow.
    pub fn push_mask(&mut self, n_words: usize) -> &mut [u32] {
        self.mask_words = n_words;
        let start = self.masks.len();
        self.masks.resize(start + n_words, 0);
        &mut self.masks[start..]
    }

    /// Rows that have a mask.
    pub fn n_masked(&self) -> u32 {
        self.masks.len().checked_div(self.mask_words).unwrap_or(0) as u32
    }

    /// Which tokens may follow row `row_idx`: 0 is the last known token, `1 + i` node `i`. `None` if all may.
    pub fn mask(&self, row_idx: usize) -> Option<&[u32]> {
        self.masks.get(row_idx * self.mask_words..)?.get(..self.mask_words).filter(|mask| !mask.is_empty())
    }

    /// Number of nodes.
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Whether there is nothing to verify.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens of all nodes, `[len]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Parent of each node, `[len]`; `None` is the last known token.
    pub fn parents(&self) -> &[Option<u32>] {
        &self.parents
    }

    /// Tokens from the root down to `node`, which is the last one.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn path(&self, node: u32) -> Vec<u32> {
        let upwards = std::iter::successors(Some(node), |&i| self.parents[i as usize]);
        let mut tokens: Vec<u32> = upwards.map(|i| self.tokens[i as usize]).collect();
        tokens.reverse();
        tokens
    }

    /// The first child of `parent` (`None`: of the last known token) that holds `token`.
    pub fn child(&self, parent: Option<u32>, token: u32) -> Option<u32> {
        (0..self.len()).find(|&i| self.parents[i as usize] == parent && self.tokens[i as usize] == token)
    }

    /// Whether nothing was guessed below `parent` (`None`: below the last known token).
    pub fn is_leaf(&self, parent: Option<u32>) -> bool {
        !self.parents.contains(&parent)
    }

    /// Whether every node is the child of the one before it.
    pub fn is_chain(&self) -> bool {
        self.parents.iter().enumerate().all(|(i, p)| *p == (i as u32).checked_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `7 -> (8 -> 9, 5)` and a second root `6`.
    fn tree() -> Proposal {
        let mut proposal = Proposal::new();
        for (token, parent) in [(7, None), (8, Some(0)), (5, Some(0)), (9, Some(1)), (6, None)] {
            proposal.push(token, parent);
        }
        proposal
    }

    #[test]
    fn children_are_found_by_parent_and_token() {
        let cases = [
            (None, 7, Some(0)),
            (None, 6, Some(4)),
            (None, 8, None),
            (Some(0), 8, Some(1)),
            (Some(0), 5, Some(2)),
            (Some(1), 9, Some(3)),
            (Some(4), 7, None),
        ];
        for (parent, token, expected) in cases {
            assert_eq!(tree().child(parent, token), expected, "token {token} below {parent:?}");
        }
    }

    #[test]
    fn masks_belong_to_rows_and_go_with_them() {
        let mut proposal = tree();
        assert_eq!((proposal.mask(0), proposal.n_masked()), (None, 0));
        for row in 1..=6 {
            proposal.push_mask(2).copy_from_slice(&[row, 10 * row]);
        }
        assert_eq!((proposal.mask(3), proposal.n_masked()), (Some(&[4, 40][..]), 6));
        proposal.truncate(2);
        assert_eq!((proposal.mask(2), proposal.mask(3)), (Some(&[3, 30][..]), None));
        proposal.clear();
        assert_eq!((proposal.mask(0), proposal.n_masked()), (None, 0));
    }

    #[test]
    fn paths_lead_from_the_root() {
        let paths: Vec<Vec<u32>> = (0..5).map(|node| tree().path(node)).collect();
        assert_eq!(paths, [vec![7], vec![7, 8], vec![7, 5], vec![7, 8, 9], vec![6]]);
    }

    #[test]
    fn nodes_without_children_are_leaves() {
        let leaves: Vec<u32> = (0..5).filter(|&node| tree().is_leaf(Some(node))).collect();
        assert_eq!(leaves, [2, 3, 4]);
        assert!(!tree().is_leaf(None));
        assert!(Proposal::new().is_leaf(None));
    }

    #[test]
    fn a_tree_without_its_branches_is_a_chain() {
        let mut proposal = tree();
        assert!(!proposal.is_chain());
        proposal.truncate(2);
        assert!(proposal.is_chain());
        proposal.push_chain(3);
        assert_eq!(proposal.parents(), [None, Some(0), Some(1)]);
        assert!(proposal.is_chain());
    }

    #[test]
    #[should_panic(expected = "parent Some(1) of node 1 must stand before it")]
    fn a_node_cannot_be_its_own_parent() {
        let mut proposal = Proposal::new();
        proposal.push_chain(1);
        proposal.push(2, Some(1));
    }
}
