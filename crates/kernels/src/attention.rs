//! What attention is made of: shapes, rules, stores of keys and values, and what happens before anything is stored.

/// Shape of attention in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements per head; even.
    pub head_dim: usize,
    /// Slots before this one are stored and seen by no row; 0 leaves out nothing. A row that sees no slot attends to zeros.
    pub first_slot: usize,
}

impl AttentionShape {
    /// Numbers of the queries of a row.
    pub fn queries_len(self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Numbers of the queries, keys and values of a row.
    pub fn qkv_len(self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }
}

/// How the rows of one layer attend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionRule<'a> {
    /// Factor of every score.
    pub scale: f32,
    /// Scaled scores `s` become `cap * tanh(s / cap)`.
    pub soft_cap: Option<f32>,
    /// How many of the slots that a row sees it attends to, the last ones; itself included, at least 1.
    pub window: Option<usize>,
    /// `[n_heads]`: a score of every head that takes part in its softmax as if it were that of one more slot, whose value is 0;
    /// neither scaled nor capped. gpt-oss (arXiv:2508.10925), Section 2.2.
    pub sinks: Option<&'a [f32]>,
}

impl AttentionRule<'_> {
    /// Scaled by `1 / sqrt(head_dim)`, over everything that a row sees: Vaswani et al. (arXiv:1706.03762), Eq. 1.
    pub fn plain(head_dim: usize) -> Self {
        Self { scale: 1.0 / (head_dim as f32).sqrt(), soft_cap: None, window: None, sinks: None }
    }

    /// How many of `n_visible` slots, the first ones, lie before the window.
    pub(crate) fn n_before(self, n_visible: usize) -> usize {
        self.window.map_or(0, |window| n_visible.saturating_sub(window))
    }
}

/// Size of a paged key/value store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks; each has the slots of all layers.
    pub n_blocks: usize,
    /// Shape of attention in every layer that stores keys and values.
    pub layers: Vec<AttentionShape>,
}

impl KvShape {
    /// A store whose layers all have the same shape.
    pub fn uniform(n_layers: usize, n_blocks: usize, attention: AttentionShape) -> Self {
        Self { n_blocks, layers: vec![attention; n_layers] }
    }
}

/// Rotary embedding of the half-split convention: dimension `i` pairs with `i + distance` for `i` below `n_pairs`, and all others
/// stay as they are.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Pairs of dimensions that turn.
    pub n_pairs: usize,
    /// Dimensions from the first of a pair to the second, at least `n_pairs` and at most `head_dim / 2`. More than `n_pairs` where
    /// some pairs between those that turn do not.
    pub distance: usize,
    /// `[n_positions, n_pairs]`.
    pub cos: Vec<f32>,
    /// `[n_positions, n_pairs]`.
    pub sin: Vec<f32>,
}

impl RopeTable {
    /// Cosines and sines of a position, `[n_pairs]` each.
    pub(crate) fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        let angles = position * self.n_pairs..(position + 1) * self.n_pairs;
        (&self.cos[angles.clone()], &self.sin[angles])
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[n_in]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// What is done to queries, keys and values between projection and attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct QkvTransform<'a> {
    /// Normalisation of queries and keys, where the family has it: of each head (`weight: [head_dim]`), or of all heads together
    /// (`weight` as long as they are).
    pub q_norm: Option<RmsNorm<'a>>,
    /// See `q_norm`.
    pub k_norm: Option<RmsNorm<'a>>,
    /// The same of values.
    pub v_norm: Option<RmsNorm<'a>>,
    /// Rotary embedding of queries and keys, applied after the normalisation, where the layer has one.
    pub rope: Option<&'a RopeTable>,
}
