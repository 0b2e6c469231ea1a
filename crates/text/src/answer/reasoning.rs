//! Thoughts that a model writes before its answer.

use serde::{Deserialize, Serialize};

use super::harmony;

/// How a model marks its thoughts, as its template tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReasoningFormat {
    /// `<think>…</think>`: DeepSeek R1, Qwen 3, SmolLM 3.
    Think,
    /// `[THINK]…[/THINK]`: Magistral.
    Brackets,
    /// `<|channel|>analysis<|message|>…<|end|>`, one of several messages: gpt-oss.
    Harmony,
}

impl ReasoningFormat {
    pub(crate) const ALL: [Self; 3] = [Self::Think, Self::Brackets, Self::Harmony];

    /// The form that a template knows; `None` if it knows of no thoughts.
    pub fn of_template(source: &str) -> Option<Self> {
        if source.contains(harmony::CHANNEL) && source.contains(harmony::MESSAGE) {
            Some(Self::Harmony)
        } else if source.contains("</think>") || source.contains("<think>") {
            Some(Self::Think)
        } else if source.contains("[/THINK]") || source.contains("[THINK]") {
            Some(Self::Brackets)
        } else {
            None
        }
    }

    /// What thoughts begin and end with. The first character of a marker occurs nowhere else in it.
    pub fn markers(self) -> [&'static str; 2] {
        match self {
            Self::Think => ["<think>", "</think>"],
            Self::Brackets => ["[THINK]", "[/THINK]"],
            Self::Harmony => [harmony::CHANNEL, harmony::END],
        }
    }
}

/// White space that is held back until it is known what follows it, in bytes.
const SPACE_BYTES_MAX: usize = 64;

/// What became certain.
#[derive(Debug, Default)]
pub(super) struct Split {
    pub(super) reasoning: String,
    pub(super) content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space, or the beginning of the first marker, was written.
    Start,
    /// In thoughts; white space at both of their ends is left out.
    Thoughts {
        is_empty: bool,
    },
    /// After thoughts; white space is left out.
    Gap,
    Content,
}

/// Parts thoughts from the rest of an answer.
#[derive(Clone, Debug)]
pub(super) struct ReasoningReader {
    format: ReasoningFormat,
    place: Place,
    /// White space, then the beginning of a marker.
    held: String,
    /// Bytes of the marker in `held`.
    marker_len: usize,
}

impl ReasoningReader {
    pub(super) fn new(format: ReasoningFormat, is_reasoning: bool) -> Self {
        let place = if is_reasoning { Place::Thoughts { is_empty: true } } else { Place::Start };
        Self { format, place, held: String::new(), marker_len: 0 }
    }

    pub(super) fn push(&mut self, text: &str) -> Split {
        let mut split = Split::default();
        for character in text.chars() {
            match self.place {
                Place::Content => split.content.push(character),
                Place::Gap if character.is_whitespace() => {}
                Place::Gap => {
                    self.place = Place::Content;
                    split.content.push(character);
                }
                Place::Start => self.start(character, &mut split),
                Place::Thoughts { is_empty } => self.thoughts(character, is_empty, &mut split),
            }
        }
        split
    }

    pub(super) fn finish(&mut self) -> Split {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Thoughts { .. } => Split { reasoning: held.trim_end().to_owned(), ..Split::default() },
            _ => Split { content: held, ..Split::default() },
        }
    }

    fn start(&mut self, character: char, split: &mut Split) {
        let is_marked = self.takes_marker(0, character);
        match is_marked {
            Some(true) => self.place = Place::Thoughts { is_empty: true },
            Some(false) => {}
            None => {
                let can_wait =
                    self.marker_len == 0 && character.is_whitespace() && self.held.len() < SPACE_BYTES_MAX;
                self.held.push(character);
                if !can_wait {
                    split.content.push_str(&std::mem::take(&mut self.held));
                    self.place = Place::Content;
                }
            }
        }
    }

    fn thoughts(&mut self, character: char, is_empty: bool, split: &mut Split) {
        let mut is_marked = self.takes_marker(1, character);
        if is_marked.is_none() && self.marker_len > 0 {
            self.think(split);
            is_marked = self.takes_marker(1, character);
        }
        match is_marked {
            Some(true) => self.place = Place::Gap,
            Some(false) => {}
            None if character.is_whitespace() && is_empty && self.held.is_empty() => {}
            None => {
                self.held.push(character);
                if !character.is_whitespace() || self.held.len() > SPACE_BYTES_MAX {
                    self.think(split);
                }
            }
        }
    }

    /// What is held is part of the thoughts.
    fn think(&mut self, split: &mut Split) {
        split.reasoning.push_str(&std::mem::take(&mut self.held));
        self.marker_len = 0;
        self.place = Place::Thoughts { is_empty: false };
    }

    /// Takes a character that continues a marker, and tells whether it is complete; then nothing is held any more.
    fn takes_marker(&mut self, index: usize, character: char) -> Option<bool> {
        let marker = self.format.markers()[index];
        if !marker[self.marker_len..].starts_with(character) {
            return None;
        }
        self.held.push(character);
        self.marker_len += character.len_utf8();
        let is_complete = self.marker_len == marker.len();
        if is_complete {
            self.held.clear();
            self.marker_len = 0;
        }
        Some(is_complete)
    }
}
