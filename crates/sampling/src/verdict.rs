//! The result of verifying one proposal.

/// Log-probabilities at one emitted position, nats, of the target's distribution before penalties and temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// Of the emitted token.
    pub logprob: f32,
    /// The most probable tokens, most probable first, as `(token, logprob)`.
    pub top: Vec<(u32, f32)>,
}

/// Which verification rule judges sampled proposals; greedy requests are always judged by arg max.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Accept position by position (Leviathan et al., arXiv:2211.17192).
    TokenWise,
    /// Accept by joint probability (Sun et al., arXiv:2403.10444); never accepts less. Falls back to token-wise where the
    /// proposal has no sampled distribution.
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
}
