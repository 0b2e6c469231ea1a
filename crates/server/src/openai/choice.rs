//! One choice of an answer, while it comes.

use dsde_engine::{EmittedToken, FinishReason};
use dsde_sampling::TokenLogprobs;
use dsde_text::{AnswerReader, Part, Utf8Stream};

use crate::inbox::{Done, SpeculativeStep};

/// One choice as far as it has come.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) utf8: Utf8Stream,
    pub(super) reader: AnswerReader,
    /// Of a whole answer.
    pub(super) parts: Vec<Part>,
    /// Log-probabilities of the prompt of a whole answer, where they are told.
    pub(super) scored: Vec<TokenLogprobs>,
    /// Of a whole answer.
    pub(super) tokens: Vec<EmittedToken>,
    /// Characters of text sent in a stream.
    pub(super) n_chars: usize,
    /// Functions called so far.
    pub(super) n_calls: usize,
    pub(super) is_opened: bool,
    pub(super) speculative_steps: Vec<SpeculativeStep>,
    pub(super) done: Option<Done>,
}

impl Choice {
    /// The parts of the answer that became certain with these bytes, or with its end.
    pub(super) fn read(&mut self, bytes: &[u8], is_ended: bool) -> Vec<Part> {
        let mut parts = self.reader.push(&self.utf8.push(bytes));
        if is_ended {
            let last = self.reader.push(&self.utf8.finish());
            last.into_iter().chain(self.reader.finish()).for_each(|part| part.push_to(&mut parts));
        }
        parts
    }

    /// Counts what was read.
    pub(super) fn count(&mut self, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Content(text) => self.n_chars += text.chars().count(),
                Part::Call(_) => self.n_calls += 1,
                Part::Reasoning(_) | Part::Arguments(_) => {}
            }
        }
    }

    /// Why it ended.
    pub(super) fn reason(&self) -> &'static str {
        match self.done.as_ref().map(|done| done.reason) {
            Some(FinishReason::Length) => "length",
            _ if self.n_calls > 0 => "tool_calls",
            _ => "stop",
        }
    }
}
