//! What requests really said, as `dsde generate --json --prompt-token-ids` writes it. Where it is known, suffix decoding has
//! something to repeat, and repeats what it would repeat in reality.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;

/// One request.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Answer {
    /// Number of its prompt, from 0.
    index: usize,
    /// Tokens of its prompt.
    #[serde(rename = "prompt_token_ids")]
    pub prompt: Vec<u32>,
    /// Tokens that it was answered with.
    pub tokens: Vec<u32>,
}

/// Largest file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Reads one answer to each prompt, in their order.
///
/// # Errors
/// If the file cannot be read, is larger than a gibibyte, or a line is no answer or that to another prompt than the next.
pub fn read(path: &Path) -> Result<Vec<Answer>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(unreadable)?.take(FILE_BYTES_MAX);
    let mut answers = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let wrong =
            |expected: String, got: String| Error::Line { path: path.to_path_buf(), number, expected, got };
        let answer: Answer = serde_json::from_str(&line.map_err(unreadable)?)
            .map_err(|error| wrong("an answer with `prompt_token_ids`".to_owned(), error.to_string()))?;
        if answer.index != answers.len() {
            let expected = format!("the answer to prompt {}", answers.len());
            return Err(wrong(expected, format!("one to prompt {}", answer.index)));
        }
        answers.push(answer);
    }
    Ok(answers)
}
