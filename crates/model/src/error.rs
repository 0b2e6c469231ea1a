//! Why models cannot be run.

/// Why models cannot be run; messages say what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] dsde_checkpoint::Error),
    /// Draft and target must agree on every token; their numbers of tokens differ.
    #[error("draft and target must have the same vocabulary: {expected} tokens in one, {got} in the other")]
    VocabularyLen {
        /// Tokens of the first.
        expected: usize,
        /// Tokens of the second.
        got: usize,
    },
    /// A draft that was to be loaded again is another model now.
    #[error("the draft must have the shape that it had at the start, got another; start again to use it")]
    DraftChanged,
}
