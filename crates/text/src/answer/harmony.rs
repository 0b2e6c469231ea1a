//! Answers of gpt-oss: a row of messages, each with a header that says what it is and whom it is for.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>`: "OpenAI harmony response
//! format" (2025). The prompt ends behind the first `<|start|>assistant`.
//!
//! | message | is |
//! |---|---|
//! | to `functions.NAME`, in any channel | a call; what it says are the arguments |
//! | of the channel `analysis` | thoughts |
//! | any other | text |

use super::{ExpectedCalls, Part};
use crate::Thoughts;

/// Begins a header.
pub(crate) const START: &str = "<|start|>";
/// Names the channel in a header.
pub(crate) const CHANNEL: &str = "<|channel|>";
/// Ends a header.
pub(crate) const MESSAGE: &str = "<|message|>";
/// Names the kind of data in a header.
pub(crate) const CONSTRAIN: &str = "<|constrain|>";
/// Ends a message.
pub(crate) const END: &str = "<|end|>";
/// Ends a call, and with it an answer.
pub(crate) const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";
/// What a message cannot contain: its ends, and beginnings of headers where an end was forgotten. The first character of each
/// occurs nowhere else in it.
const BOUNDS: [&str; 5] = [END, RETURN, CALL, START, CHANNEL];
/// Names the channel of thoughts.
pub(crate) const ANALYSIS: &str = "analysis";
/// Stands before the name of a function.
const FUNCTIONS: &str = "functions.";
/// Stands before whom a message is for.
const TO: &str = "to=";
/// Longest header, in bytes; what is longer is text.
const HEADER_BYTES_MAX: usize = 512;
/// Arguments of a call that says nothing.
const NO_ARGUMENTS: &str = "{}";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Thoughts,
    Text,
    Arguments {
        is_empty: bool,
    },
    /// In a call that is left out.
    Nothing,
}

/// Takes an answer of messages apart.
#[derive(Clone, Debug)]
pub(super) struct HarmonyReader {
    calls: Option<ExpectedCalls>,
    place: Place,
    /// The header so far, or the beginning of a bound of a message.
    held: String,
    has_thoughts: bool,
    has_text: bool,
    /// Whether the message goes on after one of its kind.
    is_parted: bool,
    n_calls: usize,
}

/// What a prompt leaves to its answer.
pub(crate) fn thoughts_after(prompt: &str) -> Thoughts {
    let last = prompt.rsplit_once(START).map_or(prompt, |(_, last)| last);
    match last.split_once(MESSAGE) {
        Some((_, said)) if [END, RETURN, CALL].iter().any(|end| said.contains(end)) => {
            Thoughts::POSSIBLE_HARMONY
        }
        Some((header, _)) if channel(header) == Some(ANALYSIS) => Thoughts::BEGUN_HARMONY,
        Some(_) => Thoughts::None,
        None => Thoughts::POSSIBLE_HARMONY,
    }
}

impl HarmonyReader {
    pub(super) fn new(thoughts: Thoughts, calls: Option<ExpectedCalls>) -> Self {
        let place = match thoughts {
            Thoughts::None => Place::Text,
            Thoughts::Possible(_) => Place::Header,
            Thoughts::Begun(_) => Place::Thoughts,
        };
        Self {
            calls,
            place,
            held: String::new(),
            has_thoughts: false,
            has_text: false,
            is_parted: false,
            n_calls: 0,
        }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        for character in text.chars() {
            match self.place {
                Place::Header => self.header(character, parts),
                _ => self.message(character, parts),
            }
        }
    }

    /// At the end of the answer, a header without a message says nothing.
    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        let held = std::mem::take(&mut self.held);
        if self.place == Place::Header {
            if held.contains('<') || held.trim().is_empty() {
                return;
            }
            self.begin(Place::Text);
        }
        self.tell(&held, parts);
        self.end(parts);
    }

    fn header(&mut self, character: char, parts: &mut Vec<Part>) {
        let before = self.held.len();
        self.held.push(character);
        if self.held.ends_with(MESSAGE) {
            let header = std::mem::take(&mut self.held);
            return self.open(&header, parts);
        }
        let begun = self.held.trim_start();
        let is_header = ["<|", TO].iter().any(|start| start.starts_with(begun) || begun.starts_with(start));
        if !is_header || self.held.len() > HEADER_BYTES_MAX {
            let text = std::mem::take(&mut self.held);
            self.begin(Place::Text);
            self.tell(&text[..before], parts);
            self.message(character, parts);
        }
    }

    /// Begins the message of a header.
    fn open(&mut self, header: &str, parts: &mut Vec<Part>) {
        let function = self.function(header);
        self.n_calls += usize::from(function.is_some());
        let may_call = self.n_calls == 1 || self.calls.as_ref().is_some_and(|calls| calls.are_parallel);
        let place = match function {
            Some(name) if may_call => {
                Part::Call(name).push_to(parts);
                Place::Arguments { is_empty: true }
            }
            Some(_) => Place::Nothing,
            None if channel(header) == Some(ANALYSIS) => Place::Thoughts,
            None => Place::Text,
        };
        self.begin(place);
    }

    /// The function that a message is for, if it may be called.
    fn function(&self, header: &str) -> Option<String> {
        let calls = self.calls.as_ref()?;
        let recipient = words(header).find_map(|word| word.strip_prefix(TO))?;
        let is_known = |name: &str| calls.names.iter().any(|known| known == name);
        let name = recipient.strip_prefix(FUNCTIONS).or(is_known(recipient).then_some(recipient))?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn begin(&mut self, place: Place) {
        self.place = place;
        self.is_parted = match place {
            Place::Thoughts => self.has_thoughts,
            _ => self.has_text,
        };
    }

    fn message(&mut self, character: char, parts: &mut Vec<Part>) {
        let continues = |bound: &&&str| {
            bound.strip_prefix(self.held.as_str()).is_some_and(|rest| rest.starts_with(character))
        };
        let Some(bound) = BOUNDS.iter().find(continues) else {
            let held = std::mem::take(&mut self.held);
            self.tell(&held, parts);
            if character == '<' {
                self.held.push(character);
            } else {
                self.tell(character.encode_utf8(&mut [0; 4]), parts);
            }
            return;
        };
        self.held.push(character);
        if self.held.len() == bound.len() {
            self.end(parts);
            if ![START, CHANNEL].contains(bound) {
                self.held.clear();
            }
            self.place = Place::Header;
        }
    }

    fn end(&mut self, parts: &mut Vec<Part>) {
        if self.place == (Place::Arguments { is_empty: true }) {
            Part::Arguments(NO_ARGUMENTS.to_owned()).push_to(parts);
        }
    }

    /// Hands on what a message says.
    fn tell(&mut self, text: &str, parts: &mut Vec<Part>) {
        if text.is_empty() {
            return;
        }
        let parted =
            |text: &str, is_parted: bool| if is_parted { format!("\n{text}") } else { text.to_owned() };
        match &mut self.place {
            Place::Thoughts => {
                self.has_thoughts = true;
                Part::Reasoning(parted(text, std::mem::take(&mut self.is_parted))).push_to(parts);
            }
            Place::Text => {
                self.has_text = true;
                Part::Content(parted(text, std::mem::take(&mut self.is_parted))).push_to(parts);
            }
            Place::Arguments { is_empty } => {
                let text = if *is_empty { text.trim_start() } else { text };
                if !text.is_empty() {
                    *is_empty = false;
                    Part::Arguments(text.to_owned()).push_to(parts);
                }
            }
            Place::Header | Place::Nothing => {}
        }
    }
}

/// Words and markers of a header; these without their brackets.
fn words(header: &str) -> impl Iterator<Item = &str> {
    let is_between = |character: char| character.is_whitespace() || matches!(character, '<' | '>');
    header.split(is_between).filter(|word| !word.is_empty())
}

/// The channel that a header names.
fn channel(header: &str) -> Option<&str> {
    let marker = CHANNEL.trim_matches(['<', '>']);
    words(header).skip_while(|word| *word != marker).nth(1)
}
