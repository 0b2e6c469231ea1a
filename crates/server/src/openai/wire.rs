//! How answers are written, which is where the routes differ: pieces of choices, and what is around them.

use axum::Json;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use dsde_engine::EmittedToken;
use dsde_sampling::TokenLogprobs;
use dsde_text::Part;
use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::padding::pad;

/// A part of a choice.
pub(crate) struct Piece<'a> {
    /// What became certain.
    pub(crate) parts: &'a [Part],
    /// Log-probabilities of the prompt, where they are told.
    pub(crate) scored: &'a [TokenLogprobs],
    /// The tokens of it; text may lag behind.
    pub(crate) tokens: &'a [EmittedToken],
    /// Characters of the choice's text before it.
    pub(crate) offset: usize,
    /// Calls of functions before it.
    pub(crate) n_calls: usize,
}

impl Piece<'_> {
    /// The text alone.
    pub(crate) fn text(&self) -> String {
        let text = |part: &Part| if let Part::Content(text) = part { Some(text.clone()) } else { None };
        self.parts.iter().filter_map(text).collect()
    }
}

/// How the choices of an answer are written.
pub(crate) trait Wire: Send + Sync + 'static {
    /// What is done, in OpenTelemetry's words.
    const OPERATION: &'static str;
    /// The field that prompts come from.
    const PROMPT: &'static str;
    /// Begins the id of an answer.
    const ID: &'static str;
    /// What an answer is called.
    const OBJECT: &'static str;
    /// What a part of a stream is called.
    const CHUNK_OBJECT: &'static str;

    /// Ends a stream, if anything does beside its last event.
    const LAST: Option<&'static str> = Some("[DONE]");

    /// What a stream begins with, before the first piece of a choice.
    ///
    /// * `scored`: log-probabilities of the prompt, where they are told.
    fn opening(&mut self, choice: usize, scored: &[TokenLogprobs]) -> Vec<Value>;

    /// A part of a choice in a stream, as one chunk or several.
    fn piece(&mut self, choice: usize, piece: &Piece<'_>) -> Vec<Value>;

    /// The end of a choice in a stream.
    fn ending(&mut self, choice: usize, reason: &'static str) -> Vec<Value>;

    /// A whole choice.
    fn whole(&self, choice: usize, piece: &Piece<'_>, reason: &'static str) -> Value;

    /// A whole answer, of what [`Wire::whole`] made of its choices.
    fn answer(&self, answer: Envelope<'_>) -> Response {
        Json(answer).into_response()
    }

    /// An event of a stream, of what the wire made of one choice.
    fn event(chunk: &Envelope<'_>) -> Event {
        Event::default().json_data(chunk).expect("texts and numbers can be written as JSON")
    }

    /// [`Wire::event`], filled up.
    fn padded_event(chunk: &Envelope<'_>) -> Event {
        let mut data = json!(chunk);
        pad(&mut data);
        Event::default().data(data.to_string())
    }

    /// What a stream says after all choices have ended; `None` leaves the usage to those who ask for it.
    fn closing(&mut self, _usage: &Value, _metrics: Option<Value>) -> Option<Value> {
        None
    }

    /// What a stream says last that is lost on the way.
    fn lost(&mut self, error: &ApiError) -> Event {
        Event::default().data(error.body().to_string())
    }
}

/// What answers and chunks have around their choices.
#[derive(Serialize)]
pub(crate) struct Envelope<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(crate) choices: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<Value>,
}
