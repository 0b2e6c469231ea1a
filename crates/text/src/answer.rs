//! What an answer says beside its text: thoughts before it, and calls of functions in it.
//!
//! Models write all of that as text, in forms that only their templates tell. An [`AnswerReader`] takes an answer apart while it
//! comes: character by character, so the way in which a text was cut changes nothing, and so a stream says what a whole
//! answer says. It holds back only what may still become a call, at most [`HELD_BYTES_MAX`]. What turns out to be none is
//! text; what began as a call stays one, even if its arguments are cut or no JSON.

mod calls;
mod format;
pub(crate) mod harmony;
mod object;
mod reasoning;

use crate::Thoughts;
use calls::CallReader;
pub use format::CallFormat;
use harmony::HarmonyReader;
pub use object::HELD_BYTES_MAX;
pub use reasoning::ReasoningFormat;
use reasoning::ReasoningReader;

/// A part of an answer. Two of the same kind in a row continue each other, except that every call is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Thoughts before the answer.
    Reasoning(String),
    /// Text.
    Content(String),
    /// A call of the function of this name begins; its arguments follow.
    Call(String),
    /// The next piece of the arguments of the last call, as JSON.
    Arguments(String),
}

impl Part {
    /// Adds to `parts`, as a continuation where it is one.
    pub fn push_to(self, parts: &mut Vec<Self>) {
        match (parts.last_mut(), self) {
            (Some(Self::Reasoning(before)), Self::Reasoning(text))
            | (Some(Self::Content(before)), Self::Content(text))
            | (Some(Self::Arguments(before)), Self::Arguments(text)) => before.push_str(&text),
            (_, part) => parts.push(part),
        }
    }
}

/// Calls that an answer may contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedCalls {
    /// How the model writes them.
    pub format: CallFormat,
    /// The functions there are. Where nothing but its name marks a call, others are text.
    pub names: Vec<String>,
    /// Whether there may be several; else those after the first are left out.
    pub are_parallel: bool,
    /// Whether the answer's form leaves room for calls alone. What is none, then, is the beginning of one that was cut, or
    /// stands around calls, and is no text.
    pub are_required: bool,
}

/// Takes one answer apart.
#[derive(Clone, Debug, Default)]
pub struct AnswerReader {
    reasoning: Option<ReasoningReader>,
    calls: Option<CallReader>,
    /// Of a model that writes messages; nothing else reads then.
    harmony: Option<HarmonyReader>,
}

impl AnswerReader {
    /// * `reasoning`: how the model marks its thoughts, if it has any.
    /// * `thoughts`: what the prompt leaves to the answer.
    /// * `calls`: `None` if there can be none.
    pub fn new(reasoning: Option<ReasoningFormat>, thoughts: Thoughts, calls: Option<ExpectedCalls>) -> Self {
        if reasoning == Some(ReasoningFormat::Harmony) {
            return Self { harmony: Some(HarmonyReader::new(thoughts, calls)), ..Self::default() };
        }
        Self {
            reasoning: reasoning.map(|format| ReasoningReader::new(format, thoughts.have_begun())),
            calls: calls.map(CallReader::new),
            harmony: None,
        }
    }

    /// The parts that became certain with `text`.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        match (&mut self.harmony, &mut self.reasoning) {
            (Some(harmony), _) => harmony.push(text, &mut parts),
            (None, None) => self.content(text, &mut parts),
            (None, Some(reasoning)) => {
                let split = reasoning.push(text);
                self.split(split, &mut parts);
            }
        }
        parts
    }

    /// The parts that are certain at the end of the answer.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        if let Some(split) = self.reasoning.as_mut().map(ReasoningReader::finish) {
            self.split(split, &mut parts);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(&mut parts);
        }
        if let Some(harmony) = &mut self.harmony {
            harmony.finish(&mut parts);
        }
        parts
    }

    fn split(&mut self, split: reasoning::Split, parts: &mut Vec<Part>) {
        if !split.reasoning.is_empty() {
            Part::Reasoning(split.reasoning).push_to(parts);
        }
        self.content(&split.content, parts);
    }

    fn content(&mut self, text: &str, parts: &mut Vec<Part>) {
        match &mut self.calls {
            Some(calls) => calls.push(text, parts),
            None if text.is_empty() => {}
            None => Part::Content(text.to_owned()).push_to(parts),
        }
    }
}

#[cfg(test)]
mod tests;
