//! Errors of this crate.

/// A sampling parameter outside its range.
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
}
