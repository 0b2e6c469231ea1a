//! Answers of a given form: which tokens may come next, told by somebody who knows a grammar.
//!
//! The engine asks before tokens are drawn and tells what was emitted; it knows no grammar. Every other token gets probability
//! zero, for target and draft alike, so the output follows the target's distribution *given the form*, however far is
//! speculated: each row of a proposal is masked by the path that leads to it. A path that breaks the form is never accepted,
//! because its first wrong token has probability zero where it was drafted; the rows behind it need no mask.

use std::fmt::Debug;
use std::sync::Arc;

/// Why nobody can tell any more what may come: a limit on work was reached. The sequence ends as failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the form of the answer can no longer be followed: {0}")]
pub struct ConstraintError(pub String);

/// A form, before any answer has begun. Equal is only what is the same.
pub trait Grammar: Debug + Send + Sync {
    /// The beginning of an answer.
    fn begin(&self) -> Box<dyn Constraint>;
}

impl PartialEq for dyn Grammar {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}

/// A form as far as one answer has followed it.
pub trait Constraint: Debug + Send {
    /// Sets the bits of the tokens that may follow the answer and `path`; `false`, and no bits, if `path` itself may not.
    ///
    /// * `mask`: `[vocab_len.div_ceil(32)]`, zero; token `t` is bit `t % 32` of word `t / 32`.
    ///
    /// # Errors
    /// If that cannot be told.
    fn allow(&mut self, path: &[u32], mask: &mut [u32]) -> Result<bool, ConstraintError>;

    /// Takes in what was emitted; whether the answer is complete and nothing may follow.
    ///
    /// # Errors
    /// If the tokens do not follow the form, or that cannot be told.
    fn advance(&mut self, tokens: &[u32]) -> Result<bool, ConstraintError>;
}

/// The form of one answer, which begins when a token of it is first asked for: what waits costs nothing.
#[derive(Debug)]
pub(crate) struct Form {
    grammar: Arc<dyn Grammar>,
    begun: Option<Box<dyn Constraint>>,
}

impl Form {
    pub(crate) fn new(grammar: Arc<dyn Grammar>) -> Self {
        Self { grammar, begun: None }
    }

    /// As far as the answer has followed it.
    pub(crate) fn followed(&mut self) -> &mut dyn Constraint {
        self.begun.get_or_insert_with(|| self.grammar.begin()).as_mut()
    }
}
