//! What greedy answers must say, however busy the server is: what it says when nobody else asks and nothing is guessed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use reqwest::Client;
use serde_json::{Value, json};

pub const QUESTIONS: [&str; 8] = [
    "Tell me a story about a dog.",
    "What is 3 + 4?",
    "Tell me about the sea.",
    "Write a function that adds two numbers.",
    "Hello.",
    "Why is the sky blue?",
    "Count to ten.",
    "Tell me a long story about a ship and a storm.",
];

/// The greedy answers to all questions, up to a number of tokens.
#[derive(Debug)]
pub struct References {
    /// To the end of the text, `[question]`.
    ending: Vec<Reference>,
    /// Past it, `[question]`.
    endless: Vec<Reference>,
}

/// One greedy answer, token by token.
#[derive(Debug)]
struct Reference {
    ids: Vec<u64>,
    /// What each adds to the text; nothing if it ends it.
    bytes: Vec<Vec<u8>>,
}

impl References {
    /// Asks an idle server.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn ask(client: &Client, url: &str, tokens_max: u64) -> Self {
        let (mut ending, mut endless) = (Vec::new(), Vec::new());
        for question in 0..QUESTIONS.len() {
            ending.push(Reference::ask(client, url, &body(question, tokens_max, false)).await);
            endless.push(Reference::ask(client, url, &body(question, tokens_max, true)).await);
        }
        Self { ending, endless }
    }

    /// The text of an answer of at most `tokens_max` tokens.
    pub fn text(&self, question: usize, tokens_max: u64, ignores_eos: bool) -> String {
        let reference = if ignores_eos { &self.endless[question] } else { &self.ending[question] };
        let n_tokens = reference.bytes.len().min(tokens_max as usize);
        String::from_utf8_lossy(&reference.bytes[..n_tokens].concat()).into_owned()
    }

    /// Compares with what `dsde generate` says of the same prompts; the first difference, if there is one.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn compare(&self, dsde: &str, tokens_max: u64) -> std::io::Result<Option<String>> {
        for (references, more) in [(&self.ending, None), (&self.endless, Some("--ignore-eos"))] {
            let generated = generate(dsde, tokens_max, more)?;
            let pairs = references.iter().zip(&generated).zip(QUESTIONS);
            let different = pairs.filter(|((reference, generated), _)| reference.ids != **generated);
            if let Some((_, question)) = different.into_iter().next() {
                return Ok(Some(format!("{question} {}", more.unwrap_or_default())));
            }
            if generated.len() != QUESTIONS.len() {
                return Ok(Some(format!("{} answers to {} questions", generated.len(), QUESTIONS.len())));
            }
        }
        Ok(None)
    }
}

impl Reference {
    async fn ask(client: &Client, url: &str, body: &Value) -> Self {
        let sent = client.post(format!("{url}/v1/chat/completions")).json(body).send().await;
        let answer: Value = sent.expect("an idle server answers").json().await.expect("answers are JSON");
        let entries = answer["choices"][0]["token_origins"].as_array().expect("tokens were asked for");
        let bytes = |entry: &Value| serde_json::from_value(entry["bytes"].clone()).expect("bytes of a token");
        Self {
            ids: entries.iter().filter_map(|entry| entry["id"].as_u64()).collect(),
            bytes: entries.iter().map(bytes).collect(),
        }
    }
}

fn body(question: usize, tokens_max: u64, ignores_eos: bool) -> Value {
    json!({
        "messages": [{"role": "user", "content": QUESTIONS[question]}],
        "max_tokens": tokens_max,
        "temperature": 0,
        "ignore_eos": ignores_eos,
        "policy": "off",
        "token_origins": true,
    })
}

/// Tokens of all answers of `dsde generate`.
fn generate(dsde: &str, tokens_max: u64, more: Option<&str>) -> std::io::Result<Vec<Vec<u64>>> {
    let mut command = Command::new(dsde);
    command.args(["generate", "--file", "-", "--json", "--max-tokens", &tokens_max.to_string()]);
    command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let prompts: String =
        QUESTIONS.iter().map(|question| json!({"prompt": question}).to_string() + "\n").collect();
    child.stdin.take().expect("it is piped").write_all(prompts.as_bytes())?;
    let output = child.wait_with_output()?.stdout;
    let tokens = |line: &str| {
        let answer: Value = serde_json::from_str(line).ok()?;
        answer["tokens"].as_array().map(|tokens| tokens.iter().filter_map(Value::as_u64).collect())
    };
    Ok(String::from_utf8_lossy(&output).lines().filter_map(tokens).collect())
}
