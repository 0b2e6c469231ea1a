//! A streamed answer, chunk by chunk, as servers of the OpenAI API write it.

use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;

use super::Error;
use super::error::message_of;
use super::sse::{Event, Events};

/// Longest answer, bytes on the wire.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// The data of the last event.
const DONE: &str = "[DONE]";

/// What the server says about an answer as a whole, as far as it says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    /// `stop`, `length`, …
    pub(crate) finish_reason: Option<String>,
    /// Tokens.
    pub(crate) usage: Option<Usage>,
    /// What speculation did.
    pub(crate) speculation: Option<Speculation>,
}

/// `usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
}

/// `metrics.speculative_decoding`, of which only sums are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Speculation {
    /// Drafted tokens that were verified.
    pub(crate) num_draft_tokens: u32,
    pub(crate) num_accepted_draft_tokens: u32,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    metrics: Option<Metrics>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    /// Of a chat.
    delta: Option<Delta>,
    /// Of a text completion.
    text: Option<String>,
    finish_reason: Option<String>,
}

/// Thoughts are emitted tokens, too; servers name them in two ways.
#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

#[derive(Deserialize)]
struct Metrics {
    speculative_decoding: Option<Speculation>,
}

/// An answer that is being read.
pub(crate) struct Answer {
    response: Response,
    events: Events,
    n_bytes: u64,
    /// Longest wait for an event.
    timeout: Duration,
    is_over: bool,
    /// Complete when [`Answer::next`] has returned `None`.
    pub(crate) summary: Summary,
}

impl Answer {
    /// * `response`: a stream of events.
    /// * `timeout`: longest wait for one.
    pub(super) fn new(response: Response, timeout: Duration) -> Self {
        Self {
            response,
            events: Events::default(),
            n_bytes: 0,
            timeout,
            is_over: false,
            summary: Summary::default(),
        }
    }

    /// The next piece of text, never empty; `None` at the end of the answer.
    ///
    /// # Errors
    /// If the answer breaks off, makes no sense, or nothing comes for too long.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Error> {
        while !self.is_over {
            let wait = tokio::time::timeout(self.timeout, self.event());
            let text = match wait.await.map_err(|_| Error::silent(self.timeout))?? {
                Some(event) if event.data.trim() == DONE => {
                    self.is_over = true;
                    None
                }
                Some(event) => self.take(&event)?,
                // Some servers leave out the last event.
                None if self.summary.finish_reason.is_some() => {
                    self.is_over = true;
                    None
                }
                None => return Err(Error::Cut { cause: None }),
            };
            if text.is_some() {
                return Ok(text);
            }
        }
        Ok(None)
    }

    /// The next event; comments between events are no events. `None` when the connection has ended.
    async fn event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(event));
            }
            let bytes = self.response.chunk().await;
            match bytes.map_err(|cause| Error::Cut { cause: Some(cause) })? {
                Some(bytes) => {
                    self.n_bytes += bytes.len() as u64;
                    if self.n_bytes > ANSWER_BYTES_MAX {
                        let what = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
                        return Err(Error::Malformed { what });
                    }
                    self.events.push(&bytes)?;
                }
                None => {
                    self.events.finish()?;
                    return Ok(self.events.next());
                }
            }
        }
    }

    /// Takes in a chunk and returns its text, if it has any.
    fn take(&mut self, event: &Event) -> Result<Option<String>, Error> {
        let chunk = match serde_json::from_str::<Chunk>(&event.data) {
            Ok(chunk) => chunk,
            Err(_) if event.name.as_deref() == Some("error") => {
                return Err(Error::Event { message: message_of(&event.data) });
            }
            Err(error) => {
                let what = format!("expected a chunk of an answer, got {:?}: {error}", head(&event.data));
                return Err(Error::Malformed { what });
            }
        };
        if chunk.error.is_some_and(|error| !error.is_null()) || event.name.as_deref() == Some("error") {
            return Err(Error::Event { message: message_of(&event.data) });
        }
        self.summary.usage = chunk.usage.or(self.summary.usage);
        let speculation = chunk.metrics.and_then(|metrics| metrics.speculative_decoding);
        self.summary.speculation = speculation.or(self.summary.speculation);
        let mut text = String::new();
        for choice in chunk.choices.into_iter().flatten() {
            let delta =
                choice.delta.map(|delta| [delta.reasoning_content.or(delta.reasoning), delta.content]);
            for part in delta.into_iter().flatten().chain([choice.text]).flatten() {
                text += &part;
            }
            if choice.finish_reason.is_some() {
                self.summary.finish_reason = choice.finish_reason;
            }
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

/// The beginning of a text that is quoted in an error.
fn head(text: &str) -> String {
    text.chars().take(80).collect()
}
