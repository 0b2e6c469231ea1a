//! Calls of functions in an answer.

use super::object::{End, Nesting, ObjectReader, Seen};
use super::{CallFormat, ExpectedCalls, Part};

/// White space that is held back until it is known what follows it, in bytes.
const SPACE_BYTES_MAX: usize = 64;
/// Longest name of a function that stands outside of JSON, in bytes, with an id behind it.
const NAME_BYTES_MAX: usize = 256;
const ARGUMENTS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";
const CLOSING: &str = "</tool_call>";

#[derive(Clone, Debug)]
enum Place {
    /// At the beginning, or after a call: white space is left out if a call follows, or nothing.
    Edge,
    Text,
    /// After the marker that begins calls.
    Opened,
    Object(ObjectReader),
    /// In a name that stands outside of JSON.
    Name,
    /// In arguments that follow such a name.
    Arguments(Nesting),
    /// After a call that something is to close.
    Closing,
}

/// Finds the calls in a text.
#[derive(Clone, Debug)]
pub(super) struct CallReader {
    expected: ExpectedCalls,
    place: Place,
    /// What may still belong to a call: white space, markers, the beginning of an object.
    held: String,
    /// Bytes of the opening or closing marker at the end of `held`.
    marker_len: usize,
    /// Whether a marker, not a name, tells that this is a call.
    is_marked: bool,
    is_list: bool,
    n_calls: usize,
}

impl CallReader {
    pub(super) fn new(expected: ExpectedCalls) -> Self {
        Self {
            expected,
            place: Place::Edge,
            held: String::new(),
            marker_len: 0,
            is_marked: false,
            is_list: false,
            n_calls: 0,
        }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        for character in text.chars() {
            self.step(character, parts);
        }
    }

    /// At the end of the answer, what is held is text, unless it only surrounds calls.
    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        let is_around = match self.place {
            Place::Closing => true,
            Place::Edge => self.n_calls > 0 && self.marker_len == 0,
            // Between the calls of a list.
            Place::Opened => !self.held.contains(self.expected.format.opening()),
            _ => false,
        };
        if is_around {
            self.held.clear();
        }
        self.text(parts);
    }

    fn step(&mut self, character: char, parts: &mut Vec<Part>) {
        match &mut self.place {
            Place::Edge | Place::Text => self.between(character, parts),
            Place::Opened => self.opened(character, parts),
            Place::Object(_) => self.object(character, parts),
            Place::Name => self.name(character, parts),
            Place::Arguments(nesting) => {
                let is_over = nesting.push(character) != End::No;
                self.tell(Part::Arguments(character.to_string()), parts);
                if is_over {
                    self.place = Place::Edge;
                }
            }
            Place::Closing => self.closing(character, parts),
        }
    }

    /// Outside of calls.
    fn between(&mut self, character: char, parts: &mut Vec<Part>) {
        let opening = self.expected.format.opening();
        if self.marker_len > 0 && !opening[self.marker_len..].starts_with(character) {
            self.text(parts);
        }
        let is_edge = matches!(self.place, Place::Edge);
        if opening[self.marker_len..].starts_with(character) {
            self.hold(character);
            self.marker_len += character.len_utf8();
            if self.marker_len == opening.len() {
                self.marker_len = 0;
                self.is_marked = true;
                self.place = Place::Opened;
            }
        } else if is_edge && self.is_space(character) && self.held.len() < SPACE_BYTES_MAX {
            self.hold(character);
        } else if is_edge && character == '{' && self.expected.format.is_bare() {
            self.hold(character);
            self.place = Place::Object(ObjectReader::new());
        } else {
            self.hold(character);
            self.text(parts);
        }
    }

    fn is_space(&self, character: char) -> bool {
        // Several bare objects are parted by semicolons.
        character.is_whitespace() || (character == ';' && self.expected.format.is_bare() && self.n_calls > 0)
    }

    fn opened(&mut self, character: char, parts: &mut Vec<Part>) {
        let is_mistral = self.expected.format.opening() == "[TOOL_CALLS]";
        match character {
            '{' => self.place = Place::Object(ObjectReader::new()),
            '[' if is_mistral && !self.is_list => self.is_list = true,
            space if space.is_whitespace() && self.held.len() < 2 * SPACE_BYTES_MAX => {}
            letter if is_mistral && !self.is_list && is_of_name(letter) => self.place = Place::Name,
            _ => return self.no_call(character, parts),
        }
        self.hold(character);
    }

    fn object(&mut self, character: char, parts: &mut Vec<Part>) {
        let Place::Object(object) = &mut self.place else { return };
        let functions = (!self.is_marked).then_some(self.expected.names.as_slice());
        let mut told = Vec::new();
        let seen = object.push(character, functions, &mut told);
        let is_known = object.is_known();
        if is_known {
            self.held.clear();
        }
        for part in told {
            self.tell(part, parts);
        }
        match seen {
            Seen::Inside if is_known => {}
            Seen::Inside => self.hold(character),
            Seen::Ended => self.after_object(),
            // What follows a known call and is no part of it is read as what follows a whole one.
            Seen::Wrong if is_known => {
                self.after_object();
                self.step(character, parts);
            }
            Seen::Wrong => self.no_call(character, parts),
        }
    }

    fn after_object(&mut self) {
        let is_closed = self.expected.format == CallFormat::Hermes || self.is_list;
        self.is_marked = self.is_list;
        self.place = if is_closed { Place::Closing } else { Place::Edge };
    }

    /// `name[ARGS]{`, `name[CALL_ID]id[ARGS]{` or `name{`.
    fn name(&mut self, character: char, parts: &mut Vec<Part>) {
        let opening = self.expected.format.opening();
        if character == '{' {
            let start = self.held.find(opening).map_or(0, |at| at + opening.len());
            let written = self.held[start..].trim();
            let name = written.split('[').next().unwrap_or_default().trim();
            let rest = &written[name.len()..];
            let is_sound = name.chars().all(is_of_name)
                && (rest.is_empty()
                    || (rest.ends_with(ARGUMENTS) && (rest == ARGUMENTS || rest.starts_with(CALL_ID))));
            if is_sound {
                let name = name.to_owned();
                self.held.clear();
                self.tell(Part::Call(name), parts);
                self.tell(Part::Arguments(character.to_string()), parts);
                self.place = Place::Arguments(Nesting::begin(character));
                return;
            }
        }
        let may_follow = is_of_name(character) || matches!(character, '[' | ']') || character.is_whitespace();
        if !may_follow || self.held.len() > NAME_BYTES_MAX {
            return self.no_call(character, parts);
        }
        self.hold(character);
    }

    fn closing(&mut self, character: char, parts: &mut Vec<Part>) {
        if self.is_list {
            match character {
                ',' => {
                    self.hold(character);
                    self.place = Place::Opened;
                }
                ']' => {
                    self.is_list = false;
                    self.place = Place::Edge;
                }
                space if space.is_whitespace() => {}
                _ => self.no_call(character, parts),
            }
            return;
        }
        if CLOSING[self.marker_len..].starts_with(character) {
            self.hold(character);
            self.marker_len += character.len_utf8();
            if self.marker_len == CLOSING.len() {
                self.held.clear();
                self.marker_len = 0;
                self.place = Place::Edge;
            }
        } else if character.is_whitespace() && self.marker_len == 0 && self.held.len() < SPACE_BYTES_MAX {
            self.hold(character);
        } else {
            // Nothing closes the call; what was held may begin another one.
            let held = std::mem::take(&mut self.held);
            self.marker_len = 0;
            self.place = Place::Edge;
            self.push(&held, parts);
            self.step(character, parts);
        }
    }

    fn hold(&mut self, character: char) {
        self.held.push(character);
    }

    /// What is held turns out to be text, and so does what follows until the next marker.
    fn text(&mut self, parts: &mut Vec<Part>) {
        let text = std::mem::take(&mut self.held);
        if !text.is_empty() {
            self.tell(Part::Content(text), parts);
        }
        self.marker_len = 0;
        self.is_marked = false;
        self.place = Place::Text;
    }

    fn no_call(&mut self, character: char, parts: &mut Vec<Part>) {
        self.is_list = false;
        self.text(parts);
        self.step(character, parts);
    }

    /// Hands a part on, unless it is of a call beyond the first where there may be only one, or of none where there must be one.
    fn tell(&mut self, part: Part, parts: &mut Vec<Part>) {
        self.n_calls += usize::from(matches!(part, Part::Call(_)));
        let is_of_call = matches!(part, Part::Call(_) | Part::Arguments(_));
        let is_told = match is_of_call {
            true => self.n_calls == 1 || self.expected.are_parallel,
            false => !self.expected.are_required,
        };
        if is_told {
            part.push_to(parts);
        }
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.')
}
