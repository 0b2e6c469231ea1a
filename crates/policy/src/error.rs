//! Errors of this crate; all of them are mistakes in the text that names a policy.

/// A policy that cannot be built from what was typed. Every message says what would have been possible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No policy has this name.
    #[error("unknown policy '{got}', expected one of: {expected}")]
    Name {
        /// Names of all policies.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A part after the colon is not of the form `key=value`.
    #[error("parameters of policy {policy} are written key=value and separated by commas, got '{got}'")]
    Syntax {
        /// Policy whose parameters were read.
        policy: &'static str,
        /// The part that was given.
        got: String,
    },
    /// The policy has no such parameter.
    #[error("policy {policy} has no parameter '{got}', expected one of: {expected}")]
    Key {
        /// Policy whose parameters were read.
        policy: &'static str,
        /// Keys of the policy with what each accepts, or `none`.
        expected: String,
        /// The key that was given.
        got: String,
    },
    /// A value outside what its parameter accepts.
    #[error("parameter {key} of policy {policy} must be {expected}, got '{got}'")]
    Value {
        /// Policy whose parameters were read.
        policy: &'static str,
        /// Key of the parameter.
        key: &'static str,
        /// Accepted values in words.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A parameter that was given more than once.
    #[error("parameter {key} of policy {policy} is given more than once, expected it once")]
    Duplicate {
        /// Policy whose parameters were read.
        policy: &'static str,
        /// Key of the parameter.
        key: &'static str,
    },
    /// A parameter without a default that was not given.
    #[error("policy {policy} needs {key}=<{expected}>")]
    Missing {
        /// Policy whose parameters were read.
        policy: &'static str,
        /// Key of the parameter.
        key: &'static str,
        /// Accepted values in words.
        expected: String,
    },
    /// Two values that are fine alone and contradict each other.
    #[error("policy {policy} needs {low_key} <= {high_key}, got {low} > {high}")]
    Order {
        /// Policy whose parameters were read.
        policy: &'static str,
        /// Key of the parameter that must not be larger.
        low_key: &'static str,
        /// Its value, defaults included.
        low: u32,
        /// Key of the parameter that must not be smaller.
        high_key: &'static str,
        /// Its value, defaults included.
        high: u32,
    },
}
