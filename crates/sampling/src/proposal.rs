//! Drafted tokens of one sequence: a token tree, of which a chain is the case with one branch.

/// Most nodes of one proposal; ancestry is kept in one machine word per row.
pub const NODES_MAX: u32 = 64;

/// Drafted tokens in an order in which every node stands after its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    tokens: Vec<u32>,
    parents: Vec<Option<u32>>,
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
        assert!(
            parent.is_none_or(|p| p < idx),
            "parent {parent:?} of node {idx} must stand before it"
        );
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
    }

    /// Removes all nodes, keeping the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
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

    /// Whether every node is the child of the one before it.
    pub fn is_chain(&self) -> bool {
        self.parents
            .iter()
            .enumerate()
            .all(|(i, p)| *p == (i as u32).checked_sub(1))
    }
}
