//! The JSON object in which a call names its function and its arguments, read character by character.

use super::Part;

/// Most text that is held back because it may still become a call, in bytes: until the name is known, or arguments end that
/// stand before it.
pub const HELD_BYTES_MAX: usize = 64 << 10;

/// What a character meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Part of the object.
    Inside,
    /// The last character of the object, which was a call.
    Ended,
    /// No part of it.
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a key; where none has come, the object may also end.
    Key {
        is_first: bool,
    },
    InKey,
    Colon,
    Value,
    InValue,
    AfterValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Arguments,
    Other,
}

/// Follows one object, from the character after its `{`.
#[derive(Clone, Debug)]
pub(super) struct ObjectReader {
    place: Place,
    key: Key,
    /// The key or value that is being read, as far as it is needed.
    text: String,
    nesting: Nesting,
    name: Option<String>,
    /// Arguments that came before the name.
    arguments: Option<String>,
    is_known: bool,
    n_read: usize,
}

impl ObjectReader {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Key { is_first: true },
            key: Key::Other,
            text: String::new(),
            nesting: Nesting::begin(' '),
            name: None,
            arguments: None,
            is_known: false,
            n_read: 0,
        }
    }

    /// Whether this is a call for certain; from then on its parts are told as they come.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// * `functions`: the names there are, where nothing but them tells a call from other JSON.
    pub(super) fn push(
        &mut self,
        character: char,
        functions: Option<&[String]>,
        parts: &mut Vec<Part>,
    ) -> Seen {
        self.n_read += character.len_utf8();
        match self.follow(character, functions, parts) {
            Seen::Inside if !self.is_known && self.n_read > HELD_BYTES_MAX => Seen::Wrong,
            seen => seen,
        }
    }

    fn follow(&mut self, character: char, functions: Option<&[String]>, parts: &mut Vec<Part>) -> Seen {
        match (self.place, character) {
            (Place::InKey, _) => return self.in_key(character, functions.is_some()),
            (Place::InValue, _) => return self.in_value(character, functions, parts),
            (_, space) if space.is_whitespace() => {}
            (Place::Key { .. }, '"') => self.begin(character, Place::InKey),
            (Place::Colon, ':') => self.place = Place::Value,
            (Place::Value, _) => return self.begin_value(character, parts),
            (Place::AfterValue, ',') => self.place = Place::Key { is_first: false },
            (Place::AfterValue | Place::Key { is_first: true }, '}') => return self.end(parts),
            _ => return Seen::Wrong,
        }
        Seen::Inside
    }

    fn begin(&mut self, character: char, place: Place) {
        self.text = character.to_string();
        self.nesting = Nesting::begin(character);
        self.place = place;
    }

    fn in_key(&mut self, character: char, is_strict: bool) -> Seen {
        self.text.push(character);
        if self.nesting.push(character) == End::No {
            return Seen::Inside;
        }
        self.place = Place::Colon;
        let has_arguments = self.is_known || self.arguments.is_some();
        self.key = match serde_json::from_str::<String>(&self.text).as_deref() {
            Ok("name") if self.name.is_none() => Key::Name,
            Ok("arguments" | "parameters") if !has_arguments => Key::Arguments,
            Ok("type" | "id") => Key::Other,
            _ if is_strict && !self.is_known => return Seen::Wrong,
            _ => Key::Other,
        };
        Seen::Inside
    }

    fn begin_value(&mut self, character: char, parts: &mut Vec<Part>) -> Seen {
        self.begin(character, Place::InValue);
        match (self.key, character, &self.name) {
            (Key::Name, '"', _) => Seen::Inside,
            (Key::Name, ..) => Seen::Wrong,
            (Key::Arguments, '{', Some(name)) => {
                Part::Call(name.clone()).push_to(parts);
                Part::Arguments(character.to_string()).push_to(parts);
                self.is_known = true;
                Seen::Inside
            }
            _ => Seen::Inside,
        }
    }

    fn in_value(&mut self, character: char, functions: Option<&[String]>, parts: &mut Vec<Part>) -> Seen {
        let end = self.nesting.push(character);
        let is_told = self.is_known && self.key == Key::Arguments;
        if is_told {
            Part::Arguments(character.to_string()).push_to(parts);
        } else if self.key != Key::Other && end != End::Before {
            self.text.push(character);
        }
        if end == End::No {
            return Seen::Inside;
        }
        self.place = Place::AfterValue;
        if !is_told && !self.take_value(functions, parts) {
            return Seen::Wrong;
        }
        match end {
            End::Before => self.follow(character, functions, parts),
            _ => Seen::Inside,
        }
    }

    /// Takes in a whole name or whole arguments; whether they may be those of a call.
    fn take_value(&mut self, functions: Option<&[String]>, parts: &mut Vec<Part>) -> bool {
        match self.key {
            Key::Name => match serde_json::from_str::<String>(&self.text) {
                Ok(name) if functions.is_none_or(|names| names.contains(&name)) && !name.is_empty() => {
                    self.name = Some(name);
                }
                _ => return false,
            },
            Key::Arguments => self.arguments = Some(unquoted(&self.text)),
            Key::Other => return true,
        }
        if let (Some(name), Some(arguments)) = (&self.name, &self.arguments) {
            Part::Call(name.clone()).push_to(parts);
            Part::Arguments(arguments.clone()).push_to(parts);
            self.is_known = true;
        }
        true
    }

    fn end(&mut self, parts: &mut Vec<Part>) -> Seen {
        match &self.name {
            _ if self.is_known => Seen::Ended,
            None => Seen::Wrong,
            Some(name) => {
                Part::Call(name.clone()).push_to(parts);
                Part::Arguments(NO_ARGUMENTS.to_owned()).push_to(parts);
                self.is_known = true;
                Seen::Ended
            }
        }
    }
}

/// Arguments of a call that names none.
const NO_ARGUMENTS: &str = "{}";

/// Arguments that are no object: some models write the object's JSON as a text, or null for none.
fn unquoted(value: &str) -> String {
    let text = serde_json::from_str::<Option<String>>(value).map(Option::unwrap_or_default);
    match text {
        Ok(text) if text.trim().is_empty() => NO_ARGUMENTS.to_owned(),
        Ok(text) => text,
        Err(_) => value.to_owned(),
    }
}

/// Where a value ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    No,
    /// With this character.
    Here,
    /// The character belongs to what follows.
    Before,
}

/// How deep a value is nested; knows texts, so brackets in them do not count.
#[derive(Clone, Debug)]
pub(super) struct Nesting {
    depth: u32,
    is_in_text: bool,
    is_escaped: bool,
    is_bare: bool,
}

impl Nesting {
    /// Begins with the first character of a value.
    pub(super) fn begin(character: char) -> Self {
        let depth = u32::from(matches!(character, '{' | '['));
        let is_in_text = character == '"';
        Self { depth, is_in_text, is_escaped: false, is_bare: depth == 0 && !is_in_text }
    }

    /// The next character.
    pub(super) fn push(&mut self, character: char) -> End {
        if self.is_in_text {
            self.is_in_text = self.is_escaped || character != '"';
            self.is_escaped = !self.is_escaped && character == '\\';
            return if self.is_in_text || self.depth > 0 { End::No } else { End::Here };
        }
        match character {
            ',' | '}' | ']' if self.is_bare => End::Before,
            space if self.is_bare && space.is_whitespace() => End::Before,
            '"' if !self.is_bare => {
                self.is_in_text = true;
                End::No
            }
            '{' | '[' => {
                self.depth += 1;
                End::No
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 { End::Here } else { End::No }
            }
            _ => End::No,
        }
    }
}
