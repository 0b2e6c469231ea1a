//! Workloads: which prompts are asked, read from JSON-lines files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest accepted line, bytes: far above any prompt that fits a context, small enough to refuse a wrong file early.
pub const LINE_BYTES_MAX: u64 = 4 << 20;
/// Largest accepted file, bytes.
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// What some editors put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

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
    /// First key that its author probably expected to have an effect.
    pub suspect: Option<SuspectKey>,
}

/// A key of a line that is ignored although it looks as if it should not be: a misspelt known one, or a sampling option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectKey {
    /// As written.
    pub key: String,
    /// Line of the file, counted from 1.
    pub line: u64,
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

/// Keys that have an effect.
const KEYS: [&str; 4] = ["prompt", "messages", "max_tokens", "domain"];
/// Sampling options of other programs' request files, which are given for all lines together here.
const OPTIONS: [&str; 16] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "stop",
    "n",
    "max_completion_tokens",
    "max_new_tokens",
    "ignore_eos",
];
/// Most single-letter changes between a key and one it is a misspelling of.
const MISSPELT_MAX: usize = 2;

/// A line as written.
#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    domain: Option<String>,
    max_tokens: Option<u32>,
    /// Everything else.
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
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

    /// Reads JSON lines from `reader`; blank lines and a byte order mark at the beginning are skipped.
    ///
    /// * `name`: becomes the name of the workload.
    /// * `file`: what errors call the source.
    ///
    /// # Errors
    /// [`Error`] naming `file` and, where there is one, the line.
    pub fn parse(name: &str, file: &str, reader: impl BufRead) -> Result<Self, Error> {
        let mut source = Source { file, reader: reader.take(FILE_BYTES_MAX + 1), line: 0, suspect: None };
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
        Ok(Self { name: name.to_owned(), items, suspect: source.suspect })
    }

    /// Takes turns: the first prompts of all `parts`, then the second ones, until the longest part ends.
    pub fn mix(name: &str, parts: &[Self]) -> Self {
        let rounds = parts.iter().map(|part| part.items.len()).max().unwrap_or(0);
        let items = (0..rounds).flat_map(|round| parts.iter().filter_map(move |part| part.items.get(round)));
        Self { name: name.to_owned(), items: items.cloned().collect(), suspect: None }
    }
}

/// Where lines come from and how far it has been read.
struct Source<'a, R> {
    file: &'a str,
    reader: io::Take<R>,
    line: u64,
    suspect: Option<SuspectKey>,
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
        if self.line == 1 && text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(n_bytes > 0)
    }

    fn item(&mut self, text: &[u8]) -> Result<Item, Error> {
        let line: Line = serde_json::from_slice(text).map_err(|source| Error::Json {
            file: self.file.to_owned(),
            line: self.line,
            source,
        })?;
        let prompt = prompt(line.prompt, line.messages).map_err(|wrong| self.wrong(wrong))?;
        if line.max_tokens == Some(0) {
            return Err(self.wrong(Wrong { expected: "`max_tokens` of at least 1", got: "0" }));
        }
        if let (None, Some(key)) = (&self.suspect, line.others.into_keys().find(|key| is_suspect(key))) {
            self.suspect = Some(SuspectKey { key, line: self.line });
        }
        Ok(Item { prompt, domain: line.domain, max_tokens: line.max_tokens, line: self.line })
    }

    fn wrong(&self, Wrong { expected, got }: Wrong) -> Error {
        Error::Item { file: self.file.to_owned(), line: self.line, expected, got }
    }
}

/// Whether a key without effect was probably meant to have one.
fn is_suspect(key: &str) -> bool {
    let key = key.to_lowercase();
    OPTIONS.contains(&key.as_str()) || KEYS.iter().any(|known| distance(known, &key) <= MISSPELT_MAX)
}

/// Letters to insert, delete or replace to turn `a` into `b` (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    // row[j]: distance of the letters of `a` so far to the first j of `b`.
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
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
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        assert_eq!(text_of(&parse("\u{FEFF}{\"prompt\": \"a\"}").unwrap().items[0]), "a");
        assert!(parse("{\"prompt\": \"a\"}\n\u{FEFF}{\"prompt\": \"b\"}").is_err());
    }

    #[track_caller]
    fn check_suspect(keys: &[&str], expected: Option<(&str, u64)>) {
        let line = |key: &&str| format!("{{\"prompt\": \"a\", \"{key}\": [1]}}\n");
        let suspect = parse(&keys.iter().map(line).collect::<String>()).unwrap().suspect;
        assert_eq!(
            suspect.as_ref().map(|suspect| (suspect.key.as_str(), suspect.line)),
            expected,
            "{keys:?}"
        );
    }

    #[test]
    fn the_first_key_that_should_have_an_effect_and_has_none_is_remembered() {
        check_suspect(&["id", "reference", "answer", "source", "category", "title", "language"], None);
        check_suspect(&["id", "temperature", "top_p"], Some(("temperature", 2)));
        check_suspect(&["Max_Token"], Some(("Max_Token", 1)));
        check_suspect(&["maxtokens"], Some(("maxtokens", 1)));
        check_suspect(&["id", "promtp"], Some(("promtp", 2)));
        check_suspect(&["prompts"], Some(("prompts", 1)));
    }

    #[test]
    fn distances_count_single_letters() {
        assert_eq!(distance("prompt", "prompt"), 0);
        // One replaced, one inserted.
        assert_eq!(distance("prompt", "prumpts"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
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
