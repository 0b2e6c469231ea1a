//! Grammars of answers that call functions: what a model's format puts around arguments of a schema.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::answer::harmony;
use crate::{CallFormat, ReasoningFormat};

/// Most calls of an answer that must call something.
const CALLS_MAX: usize = 16;

/// A function that can be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its name: letters, digits and punctuation.
    pub name: String,
    /// Schema of its arguments; `None` if it has none.
    pub parameters: Option<Value>,
}

/// Whether an answer of a form may begin with thoughts, which have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thoughts {
    /// It begins with the form.
    #[default]
    None,
    /// Thoughts may come first.
    Possible(ReasoningFormat),
    /// The prompt has begun thoughts, and the answer ends them.
    Begun(ReasoningFormat),
}

impl Thoughts {
    pub(crate) const POSSIBLE_HARMONY: Self = Self::Possible(ReasoningFormat::Harmony);
    pub(crate) const BEGUN_HARMONY: Self = Self::Begun(ReasoningFormat::Harmony);

    /// What a prompt leaves to its answer.
    pub fn after(prompt: &str, format: Option<ReasoningFormat>) -> Self {
        let Some(format) = format else {
            return Self::None;
        };
        if format == ReasoningFormat::Harmony {
            return harmony::thoughts_after(prompt);
        }
        let [begin, end] = format.markers();
        match prompt.trim_end() {
            begun if begun.ends_with(begin) => Self::Begun(format),
            over if over.ends_with(end) => Self::None,
            _ => Self::Possible(format),
        }
    }

    /// Whether the prompt has begun thoughts.
    pub fn have_begun(self) -> bool {
        matches!(self, Self::Begun(_))
    }
}

/// A grammar in the syntax of Lark, in which markers that are tokens of the model stand for those tokens.
pub(super) struct Lark<'a> {
    text: String,
    /// What stands between thoughts and a form.
    head: String,
    token: &'a dyn Fn(&str) -> Option<u32>,
}

impl<'a> Lark<'a> {
    /// * `token`: of a marker, if it has one of its own.
    pub(super) fn new(thoughts: Thoughts, token: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        let mut lark = Self { text: String::new(), head: String::new(), token };
        let (start, format) = match thoughts {
            Thoughts::None => ("start: answer\n", None),
            Thoughts::Possible(format) => ("start: begun? answer\n", Some(format)),
            Thoughts::Begun(format) => ("start: thoughts answer\n", Some(format)),
        };
        lark.text.push_str(start);
        if let Some(format) = format {
            lark.thoughts(format);
        }
        lark
    }

    fn thoughts(&mut self, format: ReasoningFormat) {
        let [begin, end] = format.markers();
        let mut begin = self.marker(begin);
        let mut after = "/\\s{1,8}/?".to_owned();
        if format == ReasoningFormat::Harmony {
            let (channel, message) = (begin, self.marker(harmony::MESSAGE));
            self.head = format!("{channel} \"final\" {message} ");
            begin = format!("{channel} {} {message}", json!(harmony::ANALYSIS));
            after = format!("{} \"assistant\"", self.marker(harmony::START));
        }
        let _ = writeln!(self.text, "begun: {begin} thoughts");
        let _ = match (self.token)(end) {
            Some(token) => writeln!(self.text, "thoughts: /(?s:.*)/ <[{token}]> {after}"),
            None => {
                let end: String = end.chars().map(escaped).collect();
                writeln!(self.text, "thoughts: untilend {after}\nuntilend[lazy]: /(?s:.*){end}/")
            }
        };
    }

    /// The answer is of another grammar.
    pub(super) fn form(mut self, name: &str) -> String {
        let _ = writeln!(self.text, "answer: {}@{name}", self.head);
        self.text
    }

    /// The answer is one call or several.
    pub(super) fn calls(mut self, format: CallFormat, functions: &[Function], are_parallel: bool) -> String {
        let are_parallel = are_parallel && format.can_be_parallel();
        let more = CALLS_MAX - 1;
        let (open, close) =
            (self.marker(format.markers()[0]), format.markers().get(1).map(|m| self.marker(m)));
        let (answer, key, before, after) = match format {
            CallFormat::Hermes => {
                let close = close.unwrap_or_default();
                let several =
                    if are_parallel { format!("call (\"\\n\" call){{0,{more}}}") } else { "call".to_owned() };
                (several, "arguments", format!("{open} \"\\n\""), format!("\"\\n\" {close}"))
            }
            CallFormat::Llama => ("call".to_owned(), "parameters", String::new(), String::new()),
            CallFormat::Mistral => {
                let several =
                    if are_parallel { format!("call (\", \" call){{0,{more}}}") } else { "call".to_owned() };
                (format!("{open} \" \"? \"[\" {several} \"]\""), "arguments", String::new(), String::new())
            }
            CallFormat::MistralNamed => {
                let several = if are_parallel { format!("call call{{0,{more}}}") } else { "call".to_owned() };
                (several, "", open, close.unwrap_or_default())
            }
            CallFormat::Harmony => {
                let (constrain, message) = (self.marker(harmony::CONSTRAIN), self.marker(harmony::MESSAGE));
                ("call".to_owned(), "", open, format!("{constrain} \"json\" {message}"))
            }
        };
        let _ = writeln!(self.text, "answer: {answer}");
        let names: Vec<String> = (0..functions.len()).map(|i| format!("call{i}")).collect();
        let _ = writeln!(self.text, "call: {}", names.join(" | "));
        for (i, function) in functions.iter().enumerate() {
            let name = json!(function.name);
            let _ = match format {
                CallFormat::MistralNamed => {
                    writeln!(self.text, "call{i}: {before} {name} {after} arguments{i}")
                }
                CallFormat::Harmony => {
                    let head = json!(format!("commentary to=functions.{} ", function.name));
                    writeln!(self.text, "call{i}: {before} {head} {after} arguments{i}")
                }
                _ => {
                    let head = json!(format!("{{\"name\": {name}, \"{key}\": "));
                    writeln!(self.text, "call{i}: {before} {head} arguments{i} \"}}\" {after}")
                }
            };
            let _ = writeln!(self.text, "arguments{i}: %json {}", arguments(function.parameters.as_ref()));
        }
        self.text
    }

    fn marker(&self, marker: &str) -> String {
        (self.token)(marker).map_or_else(|| json!(marker).to_string(), |token| format!("<[{token}]>"))
    }
}

/// A character as a regular expression between slashes has it.
fn escaped(character: char) -> String {
    if matches!(character, '/' | '[' | ']' | '|') { format!("\\{character}") } else { character.to_string() }
}

/// Schema of a function's arguments. A function has no parameters but those that it declares, unless it declares none and
/// still takes an object; and they are spaced as in the prompts that models learned from.
fn arguments(parameters: Option<&Value>) -> Value {
    let mut schema = parameters.cloned().unwrap_or_else(|| json!({"properties": {}}));
    if let Some(fields) = schema.as_object_mut() {
        if fields.contains_key("properties") || !fields.contains_key("$ref") {
            fields.entry("type").or_insert_with(|| json!("object"));
        }
        if fields.contains_key("properties") {
            fields.entry("additionalProperties").or_insert_with(|| json!(false));
        }
        let options = json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": true,
        });
        fields.insert("x-guidance".to_owned(), options);
    }
    schema
}
