//! From checked requests to an answer, whole or streamed; the routes differ only in how it is written.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dsde_engine::{EmittedToken, Request, RequestTimeline};
use dsde_text::{AnswerReader, Tokenizer};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::choice::Choice;
use super::error::ApiError;
use super::origins::origins;
use super::span::{Beginning, GenerationSpan};
use super::statistics::{Detail, metrics};
use super::wire::{Envelope, Piece, Wire};
use crate::app::{App, RequestId};
use crate::engine_thread::Submission;
use crate::inbox::{Inbox, Loss, Reader, Update, Wake};
use crate::stamp::Stamp;

/// Keeps proxies from collecting a stream before they pass it on.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// What is to be generated, and what the answer says beyond the choices.
pub(crate) struct Order {
    pub(crate) requests: Vec<Request>,
    pub(crate) is_streamed: bool,
    pub(crate) includes_usage: bool,
    /// Whether its events are filled up; `None` leaves it to the server.
    pub(crate) is_padded: Option<bool>,
    pub(crate) detail: Detail,
    pub(crate) request_id: RequestId,
    /// Of the connection that waits for the answer.
    pub(crate) stamp: Arc<Stamp>,
    /// Takes a choice apart; before the beginning of one.
    pub(crate) reader: AnswerReader,
}

/// Generates.
///
/// # Errors
/// If the requests are refused; of a whole answer, also if it is lost on the way.
pub(crate) async fn respond<W: Wire>(app: &Arc<App>, wire: W, order: Order) -> Result<Response, ApiError> {
    if app.is_draining() {
        return Err(Loss::Shutdown.into());
    }
    let n_choices: usize = order.requests.iter().map(|request| request.n_choices as usize).sum();
    let waiting_max = app.config.waiting_max;
    if n_choices > waiting_max as usize {
        let message =
            format!("prompts times `n` must be at most {waiting_max} on this server, got {n_choices}");
        return Err(ApiError::bad_field("n", message));
    }
    let chosen = order.requests.first().and_then(|request| request.policy.as_ref());
    if let Some(policy) = chosen.filter(|policy| !app.engine.can_draft && policy.entry().name != "off") {
        let message =
            format!("policy {policy} needs a drafter and this server has none; `off` can be chosen");
        return Err(ApiError::bad_field("policy", message));
    }
    let wake = match (order.is_streamed, app.config.pace) {
        (false, _) => Wake::AtEnd,
        (true, None) => Wake::Always,
        (true, Some(pace)) => Wake::Paced(pace),
    };
    let (inbox, reader) = Inbox::new(n_choices, wake);
    let mut generation = Generation::new(app, wire, &order, reader, n_choices);
    let deadline = Instant::now() + app.config.request_timeout;
    if let Err(rejected) = app.engine.submit(Submission { requests: order.requests, inbox, deadline }).await {
        generation.span.refused();
        return Err(ApiError::from(rejected).of_prompt(W::PROMPT));
    }
    match order.is_streamed {
        true => Ok(generation.stream(app)),
        false => generation.whole().await,
    }
}

struct Generation<W> {
    wire: W,
    reader: Reader,
    choices: Vec<Choice>,
    /// Choices per prompt.
    n: usize,
    prompt_tokens: usize,
    has_logprobs: bool,
    /// Names tokens and their origins, if asked for.
    origins: Option<Arc<Tokenizer>>,
    includes_usage: bool,
    is_padded: bool,
    detail: Detail,
    id: String,
    created: u64,
    model: String,
    span: GenerationSpan,
    stamp: Arc<Stamp>,
    is_over: bool,
}

impl<W: Wire> Generation<W> {
    fn new(app: &App, wire: W, order: &Order, reader: Reader, n_choices: usize) -> Self {
        let id = format!("{}{}", W::ID, order.request_id.0);
        let span = GenerationSpan::begin(&Beginning {
            operation: W::OPERATION,
            model: app.config.model_name(),
            id: &id,
            requests: &order.requests,
            policy: &app.config.policy,
        });
        Self {
            wire,
            reader,
            choices: (0..n_choices)
                .map(|_| Choice { reader: order.reader.clone(), ..Choice::default() })
                .collect(),
            n: order.requests.first().map_or(1, |request| request.n_choices as usize),
            prompt_tokens: order.requests.iter().map(|request| request.prompt.len()).sum(),
            has_logprobs: order.requests.iter().any(|request| request.params.logprobs.is_some()),
            origins: order
                .requests
                .iter()
                .any(|request| request.tells_rejected)
                .then(|| app.text.tokenizer.clone()),
            includes_usage: order.includes_usage,
            is_padded: order.is_padded.unwrap_or(app.config.pace.is_some()),
            detail: order.detail,
            id,
            created: seconds_since_epoch(),
            model: app.config.model_name().to_owned(),
            span,
            stamp: order.stamp.clone(),
            is_over: false,
        }
    }

    /// Waits for the end and answers in one piece.
    async fn whole(mut self) -> Result<Response, ApiError> {
        while let Some(updates) = self.reader.next().await {
            for Update { choice, delta, end } in updates {
                let choice = &mut self.choices[choice];
                choice.scored.extend(delta.scored);
                choice.tokens.extend(delta.tokens);
                choice.speculative_steps.extend(delta.speculative_steps);
                let is_ended = end.is_some();
                if let Some(end) = end {
                    choice.done = Some(end.inspect_err(|&loss| self.span.lost(loss))?);
                }
                let parts = choice.read(&delta.text, is_ended);
                choice.count(&parts);
                parts.into_iter().for_each(|part| part.push_to(&mut choice.parts));
            }
        }
        self.answered();
        let whole = |(i, choice): (usize, &Choice)| {
            let Choice { parts, scored, tokens, .. } = choice;
            let piece = Piece { parts, scored, tokens, offset: 0, n_calls: 0 };
            self.with_origins(self.wire.whole(i, &piece, choice.reason()), &choice.tokens)
        };
        let choices: Vec<Value> = self.choices.iter().enumerate().map(whole).collect();
        let answer = self.envelope(W::OBJECT, &choices);
        let answer = Envelope { usage: Some(self.usage()), metrics: self.metrics(), ..answer };
        Ok(self.wire.answer(answer))
    }

    /// Answers with a stream of events.
    fn stream(self, app: &App) -> Response {
        let keep_alive = KeepAlive::new().interval(app.config.keep_alive).text("keep-alive");
        let batches = stream::unfold(self, |mut generation| async move {
            let events = generation.events().await?;
            Some((stream::iter(events.into_iter().map(Ok::<_, Infallible>)), generation))
        });
        ([UNBUFFERED], Sse::new(batches.flatten()).keep_alive(keep_alive)).into_response()
    }

    /// The next events, at least one; `None` after the last.
    async fn events(&mut self) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        while events.is_empty() {
            if self.is_over {
                return None;
            }
            match self.reader.next().await {
                Some(updates) => {
                    for update in updates {
                        if let Err(loss) = self.chunks(update, &mut events) {
                            self.span.lost(loss);
                            events.push(self.wire.lost(&ApiError::from(loss)));
                            events.extend(self.over());
                            break;
                        }
                    }
                }
                None => {
                    self.answered();
                    events.extend(self.closing());
                    events.extend(self.over());
                }
            }
        }
        Some(events)
    }

    fn closing(&mut self) -> Option<Event> {
        let (usage, metrics) = (self.usage(), self.metrics());
        if let Some(last) = self.wire.closing(&usage, metrics.clone()) {
            return Some(self.event(&self.envelope(W::CHUNK_OBJECT, &[last])));
        }
        let chunk = self.envelope(W::CHUNK_OBJECT, &[]);
        self.includes_usage.then(|| self.event(&Envelope { usage: Some(usage), metrics, ..chunk }))
    }

    fn over(&mut self) -> Option<Event> {
        self.is_over = true;
        W::LAST.map(|last| Event::default().data(last))
    }

    /// The chunks of one update.
    fn chunks(&mut self, update: Update, events: &mut Vec<Event>) -> Result<(), Loss> {
        let Update { choice: i, delta, end } = update;
        let choice = &mut self.choices[i];
        choice.speculative_steps.extend(delta.speculative_steps);
        let is_ended = end.is_some();
        if let Some(end) = end {
            choice.done = Some(end?);
        }
        let said = choice.read(&delta.text, is_ended);
        let mut parts = Vec::new();
        if !std::mem::replace(&mut choice.is_opened, true) {
            parts.extend(self.wire.opening(i, &delta.scored));
        }
        let tells_tokens = self.has_logprobs || self.origins.is_some();
        let (offset, n_calls) = (choice.n_chars, choice.n_calls);
        choice.count(&said);
        let done = choice.done.is_some().then(|| choice.reason());
        if !said.is_empty() || (tells_tokens && !delta.tokens.is_empty()) {
            let piece = Piece { parts: &said, scored: &[], tokens: &delta.tokens, offset, n_calls };
            let mut written = self.wire.piece(i, &piece);
            if let Some(first) = written.first_mut() {
                *first = self.with_origins(first.take(), &delta.tokens);
            }
            parts.extend(written);
        }
        parts.extend(done.into_iter().flat_map(|reason| self.wire.ending(i, reason)));
        let n_parts = parts.len();
        // Tokens without text, such as half a character, are sent with a later one; its time counts.
        if let Some(emitted) = delta.emitted.filter(|_| n_parts > 0) {
            self.stamp.set(emitted);
        }
        for (part_idx, part) in parts.into_iter().enumerate() {
            let is_last = is_ended && part_idx + 1 == n_parts;
            let chunk = Envelope {
                usage: self.includes_usage.then_some(Value::Null),
                metrics: if is_last && !self.includes_usage { self.metrics() } else { None },
                ..self.envelope(W::CHUNK_OBJECT, std::slice::from_ref(&part))
            };
            events.push(self.event(&chunk));
        }
        Ok(())
    }

    fn event(&self, chunk: &Envelope<'_>) -> Event {
        match self.is_padded {
            true => W::padded_event(chunk),
            false => W::event(chunk),
        }
    }

    /// Adds to a choice where its tokens came from.
    fn with_origins(&self, mut choice: Value, tokens: &[EmittedToken]) -> Value {
        if let Some(tokenizer) = &self.origins {
            choice["token_origins"] = origins(tokenizer, tokens);
        }
        choice
    }

    fn envelope<'a>(&'a self, object: &'static str, choices: &'a [Value]) -> Envelope<'a> {
        let Self { id, created, model, .. } = self;
        Envelope { id, object, created: *created, model, choices, usage: None, metrics: None }
    }

    fn timelines(&self) -> impl Iterator<Item = &RequestTimeline> {
        self.choices.iter().filter_map(|choice| choice.done.as_ref()).map(|done| &done.timeline)
    }

    /// The prompt counts once, however many choices continue it.
    fn usage(&self) -> Value {
        let completion_tokens: usize = self.timelines().map(|timeline| timeline.emitted as usize).sum();
        let sum = |of: fn(&RequestTimeline) -> u32| self.timelines().map(of).sum::<u32>();
        let cached: u32 = self.timelines().step_by(self.n).map(|timeline| timeline.cached_tokens).sum();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {
                // What was kept of the last proposal may be cut off by a stop condition.
                "accepted_prediction_tokens": sum(|timeline| timeline.accepted.min(timeline.emitted)),
                "rejected_prediction_tokens": sum(|timeline| timeline.verified - timeline.accepted),
            },
        })
    }

    /// Statistics describe one choice, so an answer with several has none.
    fn metrics(&self) -> Option<Value> {
        let [choice] = self.choices.as_slice() else { return None };
        let done = choice.done.as_ref().filter(|_| self.detail != Detail::None)?;
        Some(metrics(self.detail, &done.timeline, &choice.speculative_steps))
    }

    fn answered(&mut self) {
        let done = self.choices.iter().filter_map(|choice| choice.done.as_ref());
        self.span.answered(done.map(|done| &done.timeline));
    }
}

/// Of the wall clock; 0 if it makes no sense.
pub(crate) fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
