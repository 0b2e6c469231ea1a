//! Errors of this crate.

/// A sampling parameter that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number outside its range.
    #[error("{name} must be {expected}, got {got}")]
    OutOfRange {
        /// Parameter name as users write it.
        name: &'static str,
        /// Accepted range in words.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// A bias for a token that the model does not have.
    #[error("logit_bias names token {token}, the vocabulary ends at {}", vocab_len.saturating_sub(1))]
    BiasOutsideVocabulary {
        /// The token.
        token: u32,
        /// Tokens in the vocabulary.
        vocab_len: u32,
    },
}

impl Error {
    pub(crate) fn out_of_range(name: &'static str, expected: &'static str, got: impl ToString) -> Self {
        Self::OutOfRange { name, expected, got: got.to_string() }
    }
}
