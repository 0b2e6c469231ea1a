//! What users wrote stays text: a message never becomes a token that steers the model; only the template's own words do.
//!
//! A template turns messages into one text, in which nobody can tell a turn that it ended from one that a message claims to
//! end. So where a message spells a control token, one character of it is replaced, while the template runs, by a stand-in: a
//! private character that occurs in no message. Filters, concatenation and JSON carry it along; afterwards it is replaced back,
//! and its place is remembered. The text is then tokenised as a whole, only that no control token may hold such a place
//! ([`Tokenizer::encode_prompt`](super::Tokenizer::encode_prompt)). A conversation that spells none is rendered as it is.
//!
//! A control token may also be spelled by template and message together. Its beginning at the end of a message, or its end at
//! the beginning of one, is therefore treated alike, unless it is a word alone: `'<|' + role + '|>'` is a template's way to
//! write its own tokens.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use minijinja::value::{Value, ValueKind};
use tokenizers::{NormalizedString, Normalizer as _, NormalizerWrapper, tokenizer::normalizer::Range as Of};

use crate::error::Error;

/// Private characters, none of which has a meaning or is changed by case or normalisation.
const STAND_INS: [std::ops::RangeInclusive<char>; 2] =
    ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// What a chat template wrote, and which of it is not the template's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Bytes that no control token may hold, in order.
    veiled: Vec<usize>,
}

impl Prompt {
    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What stands before the last `mark`.
    pub(super) fn before_last(mut self, mark: &str) -> Option<Self> {
        let len = self.text.rfind(mark)?;
        self.text.truncate(len);
        self.veiled.retain(|&place| place < len);
        Some(self)
    }

    /// Bytes that no control token may hold, in order.
    pub(super) fn veiled(&self) -> &[usize] {
        &self.veiled
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self { text, veiled: Vec::new() }
    }
}

/// Tokens that steer a model, as a text may spell them.
#[derive(Debug)]
pub(super) struct ControlTokens {
    /// Special tokens: nobody but the template writes them.
    special: Spellings,
    /// Other tokens of their own that the template writes, such as the marks of thoughts and calls: the model does, too.
    written: Spellings,
}

/// Who wrote a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Author {
    Model,
    Other,
}

/// Some tokens, as a text may spell them.
#[derive(Debug)]
pub(super) struct Spellings {
    /// As they are written.
    raw: Spelling,
    /// As they are after normalisation, if that is when they are looked for.
    normalized: Option<(NormalizerWrapper, Spelling)>,
}

#[derive(Debug)]
struct Spelling {
    /// In lower case.
    texts: Vec<String>,
    automaton: AhoCorasick,
}

impl ControlTokens {
    pub(super) fn new(special: Spellings, written: Spellings) -> Self {
        Self { special, written }
    }

    /// Characters of `text` without which it spells no control token, by their first bytes, in order.
    fn places(&self, text: &str, author: Author) -> BTreeSet<usize> {
        let mut places = BTreeSet::new();
        self.special.places(text, &mut places);
        if author == Author::Other {
            self.written.places(text, &mut places);
        }
        places
    }
}

impl Spellings {
    /// * `raw`: texts that are looked for in a text as it is.
    /// * `normalized`: those that are looked for once it is normalised, in their normal form.
    pub(super) fn new(
        raw: Vec<String>,
        normalized: Vec<String>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, aho_corasick::BuildError> {
        let normalized = match normalizer.filter(|_| !normalized.is_empty()) {
            Some(normalizer) => Some((normalizer.clone(), Spelling::new(normalized)?)),
            None => None,
        };
        Ok(Self { raw: Spelling::new(raw)?, normalized })
    }

    fn places(&self, text: &str, places: &mut BTreeSet<usize>) {
        self.raw.places(text, |place| places.extend([place]));
        let Some((normalizer, spelling)) = &self.normalized else { return };
        let mut string = NormalizedString::from(text);
        // What cannot be normalised cannot be tokenised either.
        if normalizer.normalize(&mut string).is_ok() {
            spelling.places(string.get(), |place| {
                let original = string.convert_offsets(Of::Normalized(place..place + 1));
                places.insert(text.floor_char_boundary(original.map_or(0, |range| range.start)));
            });
        }
    }
}

impl Spelling {
    fn new(mut texts: Vec<String>) -> Result<Self, aho_corasick::BuildError> {
        texts.retain(|text| !text.is_empty());
        // A template may change the case of what it is given.
        let automaton = AhoCorasick::builder().ascii_case_insensitive(true).build(&texts)?;
        Ok(Self { automaton, texts: texts.iter().map(|text| text.to_ascii_lowercase()).collect() })
    }

    fn places(&self, text: &str, mut found: impl FnMut(usize)) {
        for spelled in self.automaton.find_overlapping_iter(text) {
            let (start, end) = (spelled.start(), spelled.end());
            found(start + sign(&text[start..end]).unwrap_or(0));
        }
        let text = &text.to_ascii_lowercase();
        let (Some(first), Some(last)) = (text.chars().next(), text.chars().next_back()) else { return };
        for control in self.texts.iter().filter(|control| control.contains([first, last])) {
            for cut in control.char_indices().map(|(at, _)| at).skip(1) {
                let (head, tail) = control.split_at(cut);
                if text.ends_with(head) {
                    sign(head).into_iter().for_each(|at| found(text.len() - head.len() + at));
                }
                if text.starts_with(tail) {
                    sign(tail).into_iter().for_each(&mut found);
                }
            }
            if text.len() < control.len() && control.contains(text) {
                sign(text).into_iter().for_each(&mut found);
            }
        }
    }
}

/// First character that is neither of a word nor white space.
fn sign(text: &str) -> Option<usize> {
    text.find(|c: char| !c.is_alphanumeric() && c != '_' && !c.is_whitespace())
}

/// Stand-ins of one conversation.
#[derive(Debug)]
pub(super) struct Veil<'a> {
    controls: &'a ControlTokens,
    /// Private characters that occur somewhere and stand for nothing.
    taken: BTreeSet<char>,
    /// Characters that are replaced, and by what.
    stand_ins: Vec<(char, char)>,
    is_needed: bool,
}

impl<'a> Veil<'a> {
    /// A veil for a conversation, under a template of this source.
    ///
    /// * `rest`: what else users may have written.
    pub(super) fn new(
        controls: &'a ControlTokens,
        messages: &[Value],
        rest: &[&Value],
        source: &str,
    ) -> Self {
        let mut veil = Self { controls, taken: BTreeSet::new(), stand_ins: Vec::new(), is_needed: false };
        veil.taken.extend(source.chars().filter(is_private));
        messages.iter().for_each(|message| veil.look(message, author(message)));
        rest.iter().for_each(|value| veil.look(value, Author::Other));
        veil
    }

    fn look(&mut self, value: &Value, author: Author) {
        if let Some(text) = value.as_str() {
            self.taken.extend(text.chars().filter(is_private));
            self.is_needed |= !self.controls.places(text, author).is_empty();
            return;
        }
        for (key, value) in entries(value) {
            key.iter().for_each(|key| self.look(key, author));
            self.look(&value, author);
        }
    }

    /// A message with stand-ins.
    ///
    /// # Errors
    /// If every private character occurs in the conversation.
    pub(super) fn over_message(&mut self, message: &Value) -> Result<Value, Error> {
        self.over_value(message, author(message))
    }

    /// Anything else with stand-ins.
    ///
    /// # Errors
    /// As [`Veil::over_message`].
    pub(super) fn over(&mut self, value: &Value) -> Result<Value, Error> {
        self.over_value(value, Author::Other)
    }

    fn over_value(&mut self, value: &Value, author: Author) -> Result<Value, Error> {
        if !self.is_needed {
            return Ok(value.clone());
        }
        if let Some(text) = value.as_str() {
            return Ok(Value::from(self.over_text(text, author)?));
        }
        match value.kind() {
            ValueKind::Map => {
                let pair = |(key, value): (Option<Value>, Value)| {
                    Ok((self.over_value(&key.unwrap_or_default(), author)?, self.over_value(&value, author)?))
                };
                Ok(Value::from_pairs(entries(value).map(pair).collect::<Result<Vec<_>, Error>>()?))
            }
            ValueKind::Seq => {
                let items = entries(value).map(|(_, item)| self.over_value(&item, author));
                Ok(Value::from(items.collect::<Result<Vec<_>, Error>>()?))
            }
            _ => Ok(value.clone()),
        }
    }

    fn over_text(&mut self, text: &str, author: Author) -> Result<String, Error> {
        let places = self.controls.places(text, author);
        let mut veiled = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            veiled.push(if places.contains(&at) { self.stand_in(c)? } else { c });
        }
        Ok(veiled)
    }

    fn stand_in(&mut self, c: char) -> Result<char, Error> {
        if let Some(&(_, stand_in)) = self.stand_ins.iter().find(|(original, _)| *original == c) {
            return Ok(stand_in);
        }
        let free = STAND_INS.into_iter().flatten().find(|stand_in| !self.taken.contains(stand_in));
        let stand_in = free.ok_or(Error::PrivateCharacters)?;
        self.taken.insert(stand_in);
        self.stand_ins.push((c, stand_in));
        Ok(stand_in)
    }

    /// What the template wrote, with the characters that were replaced.
    pub(super) fn lift(&self, written: String) -> Prompt {
        if self.stand_ins.is_empty() {
            return Prompt::from(written);
        }
        let mut prompt = Prompt { text: String::with_capacity(written.len()), veiled: Vec::new() };
        for c in written.chars() {
            match self.stand_ins.iter().find(|(_, stand_in)| *stand_in == c) {
                Some(&(original, _)) => {
                    prompt.veiled.push(prompt.text.len());
                    prompt.text.push(original);
                }
                None => prompt.text.push(c),
            }
        }
        prompt
    }
}

fn author(message: &Value) -> Author {
    let role = message.get_attr("role").unwrap_or_default();
    if role.as_str() == Some("assistant") { Author::Model } else { Author::Other }
}

pub(super) fn is_private(c: &char) -> bool {
    STAND_INS.iter().any(|range| range.contains(c))
}

/// Keys, of a mapping, and values of what has some.
fn entries(value: &Value) -> Box<dyn Iterator<Item = (Option<Value>, Value)> + '_> {
    let Ok(items) = value.try_iter() else {
        return Box::new(std::iter::empty());
    };
    match value.kind() {
        ValueKind::Map => Box::new(items.map(|key| {
            let item = value.get_item(&key).unwrap_or_default();
            (Some(key), item)
        })),
        ValueKind::Seq => Box::new(items.map(|item| (None, item))),
        _ => Box::new(std::iter::empty()),
    }
}
