//! Workloads: which prompts are asked, read from JSON-lines files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

/// Longest accepted line, bytes: far above any prompt that fits a context, small enough to refuse a wrong file early.
pub const LINE_BYTES_MAX: u64 = 4 << 20;
/// Largest accepted file, bytes.
pub const FILE_BYTES_MAX: u64 = 512 << 20;

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What the user says.
    pub fn user(content: &str) -> Self {
        Self { role: "user".to_owned(), content: content.to_owned() }
    }
}

/// What is asked: never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// A conversation to continue.
    Messages(Vec<Message>),
}

/// One line of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is asked.
    pub prompt: Prompt,
    /// Kind of text (`chat`, `code`, …), where the file says so.
    pub domain: Option<String>,
    /// Most tokens to emit, where the file says so; at least 1.
    pub max_tokens: Option<u32>,
    /// Line of the file, counted from 1.
    pub line: u64,
}

/// Named prompts in the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// File name without its ending, or a given name.
    pub name: String,
    /// At least one.
    pub items: Vec<Item>,
}

/// A workload that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened or read.
    #[error("cannot read {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More than [`FILE_BYTES_MAX`].
    #[error("{file} is larger than {expected_max} bytes")]
    FileTooLarge {
        /// The file.
        file: String,
        /// [`FILE_BYTES_MAX`].
        expected_max: u64,
    },
    /// More than [`LINE_BYTES_MAX`] without a line break.
    #[error("{file}:{line}: the line is longer than {expected_max} bytes")]
    LineTooLong {
        /// The file.
        file: String,
        /// Line counted from 1.
        line: u64,
        /// [`LINE_BYTES_MAX`].
        expected_max: u64,
    },
    /// Not a JSON object of the expected fields.
    #[error("{file}:{line}: expected a JSON object with `prompt` or `messages`")]
    Json {
        /// The file.
        file: String,
        /// Line counted from 1.
        line: u64,
        /// What is wrong; its own line number is always 1.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON object that asks nothing usable.
    #[error("{file}:{line}: expected {expected}, got {got}")]
    Item {
        /// The file.
        file: String,
        /// Line counted from 1.
        line: u64,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        got: &'static str,
    },
    /// No prompt at all.
    #[error("{file} holds no prompts")]
    Empty {
        /// The file.
        file: String,
    },
}

/// A line as written; further fields are ignored.
#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    domain: Option<String>,
    max_tokens: Option<u32>,
}

impl Workload {
    /// Reads a file of JSON lines; its name becomes the file's without the ending.
    ///
    /// # Errors
    /// [`Error`] naming the file and, where there is one, the line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let reader = File::open(path).map_err(|source| Error::Io { file: file.clone(), source })?;
        let name = path.file_stem().map_or_else(|| file.clone(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&name, &file, BufReader::new(reader))
    }

    /// Reads JSON lines from `reader`; blank lines are skipped.
    ///
    /// * `name`: becomes the name of the workload.
    /// * `file`: what errors call the source.
    ///
    /// # Errors
    /// [`Error`] naming `file` and, where there is one, the line.
    pub fn parse(name: &str, file: &str, reader: impl BufRead) -> Result<Self, Error> {
        let mut source = Source { file, reader: reader.take(FILE_BYTES_MAX + 1), line: 0 };
        let mut items = Vec::new();
        let mut text = Vec::new();
        while source.next_line(&mut text)? {
            if text.iter().any(|byte| !byte.is_ascii_whitespace()) {
                items.push(source.item(&text)?);
            }
        }
        if items.is_empty() {
            return Err(Error::Empty { file: file.to_owned() });
        }
        Ok(Self { name: name.to_owned(), items })
    }

    /// Takes turns: the first prompts of all `parts`, then the second ones, until the longest part ends.
    pub fn mix(name: &str, parts: &[Self]) -> Self {
        let rounds = parts.iter().map(|part| part.items.len()).max().unwrap_or(0);
        let items = (0..rounds).flat_map(|round| parts.iter().filter_map(move |part| part.items.get(round)));
        Self { name: name.to_owned(), items: items.cloned().collect() }
    }
}

/// Where lines come from and how far it has been read.
struct Source<'a, R> {
    file: &'a str,
    reader: io::Take<R>,
    line: u64,
}

impl<R: BufRead> Source<'_, R> {
    /// Replaces `text` by the next line; `false` at the end.
    fn next_line(&mut self, text: &mut Vec<u8>) -> Result<bool, Error> {
        text.clear();
        self.line += 1;
        let file = self.file;
        let n_bytes = (&mut self.reader)
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', text)
            .map_err(|source| Error::Io { file: file.to_owned(), source })?;
        if self.reader.limit() == 0 {
            return Err(Error::FileTooLarge { file: file.to_owned(), expected_max: FILE_BYTES_MAX });
        }
        if n_bytes as u64 > LINE_BYTES_MAX {
            return Err(Error::LineTooLong {
                file: file.to_owned(),
                line: self.line,
                expected_max: LINE_BYTES_MAX,
            });
        }
        Ok(n_bytes > 0)
    }

    fn item(&self, text: &[u8]) -> Result<Item, Error> {
        let line: Line = serde_json::from_slice(text).map_err(|source| Error::Json {
            file: self.file.to_owned(),
            line: self.line,
            source,
        })?;
        let prompt = prompt(line.prompt, line.messages).map_err(|wrong| self.wrong(wrong))?;
        if line.max_tokens == Some(0) {
            return Err(self.wrong(Wrong { expected: "`max_tokens` of at least 1", got: "0" }));
        }
        Ok(Item { prompt, domain: line.domain, max_tokens: line.max_tokens, line: self.line })
    }

    fn wrong(&self, Wrong { expected, got }: Wrong) -> Error {
        Error::Item { file: self.file.to_owned(), line: self.line, expected, got }
    }
}

struct Wrong {
    expected: &'static str,
    got: &'static str,
}

fn prompt(text: Option<String>, messages: Option<Vec<Message>>) -> Result<Prompt, Wrong> {
    let (expected, got) = match (text, messages) {
        (Some(text), None) if !text.is_empty() => return Ok(Prompt::Text(text)),
        (None, Some(messages)) if !messages.is_empty() => return Ok(Prompt::Messages(messages)),
        (Some(_), None) => ("a `prompt` that is not empty", "an empty one"),
        (None, Some(_)) => ("at least one of `messages`", "none"),
        (None, None) => ("`prompt` or `messages`", "neither"),
        (Some(_), Some(_)) => ("either `prompt` or `messages`", "both"),
    };
    Err(Wrong { expected, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Workload, Error> {
        Workload::parse("name", "file.jsonl", text.as_bytes())
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        assert_eq!(parse(text).unwrap_err().to_string(), expected);
    }

    fn text_of(item: &Item) -> &str {
        match &item.prompt {
            Prompt::Text(text) => text,
            Prompt::Messages(messages) => &messages[0].content,
        }
    }

    #[test]
    fn lines_may_hold_a_prompt_or_messages_and_fields_of_others() {
        let workload = parse(concat!(
            "{\"prompt\": \"a\", \"domain\": \"chat\", \"reference\": 3}\n",
            "\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"max_tokens\": 5}",
        ))
        .unwrap();
        let [first, second] = &workload.items[..] else {
            panic!("expected two items, got {:?}", workload.items)
        };
        assert_eq!((text_of(first), first.domain.as_deref(), first.line), ("a", Some("chat"), 1));
        assert_eq!((text_of(second), second.max_tokens, second.line), ("b", Some(5), 3));
    }

    #[test]
    fn refusals_name_file_and_line() {
        let good = "{\"prompt\": \"a\"}\n";
        check_refused("", "file.jsonl holds no prompts");
        check_refused(
            &format!("{good}not json"),
            "file.jsonl:2: expected a JSON object with `prompt` or `messages`",
        );
        check_refused(
            &format!("{good}{good}[1]"),
            "file.jsonl:3: expected a JSON object with `prompt` or `messages`",
        );
        check_refused("{}", "file.jsonl:1: expected `prompt` or `messages`, got neither");
        check_refused(
            "{\"prompt\": \"a\", \"messages\": []}",
            "file.jsonl:1: expected either `prompt` or `messages`, got both",
        );
        check_refused(
            "{\"prompt\": \"\"}",
            "file.jsonl:1: expected a `prompt` that is not empty, got an empty one",
        );
        check_refused("{\"messages\": []}", "file.jsonl:1: expected at least one of `messages`, got none");
        check_refused(
            "{\"prompt\": \"a\", \"max_tokens\": 0}",
            "file.jsonl:1: expected `max_tokens` of at least 1, got 0",
        );
    }

    #[test]
    fn an_endless_line_is_refused_without_reading_it_whole() {
        let error = Workload::parse("name", "file", BufReader::new(io::repeat(b'x'))).unwrap_err();
        assert_eq!(error.to_string(), "file:1: the line is longer than 4194304 bytes");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Workload::read(Path::new("/nowhere/there.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/there.jsonl");
    }

    #[test]
    fn a_workload_is_named_after_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        std::fs::write(&path, "{\"prompt\": \"a\"}\n").unwrap();
        assert_eq!(Workload::read(&path).unwrap().name, "chat");
    }

    #[test]
    fn a_mix_takes_turns_until_the_longest_part_ends() {
        let one = parse("{\"prompt\": \"a1\"}\n{\"prompt\": \"a2\"}\n{\"prompt\": \"a3\"}").unwrap();
        let two = parse("{\"prompt\": \"b1\"}").unwrap();
        let mix = Workload::mix("mix", &[one, two]);
        assert_eq!(mix.items.iter().map(text_of).collect::<Vec<_>>(), ["a1", "b1", "a2", "a3"]);
    }
}
