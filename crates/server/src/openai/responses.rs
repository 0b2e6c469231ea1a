//! `/v1/responses`: what chat answers, in the form of items and typed events.
//!
//! A request is turned into one of chat that means the same, so that both routes give the same answer. Nothing is stored: a
//! conversation goes on when a client sends all of its items again.

mod asked;
mod input;
mod output;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use dsde_sampling::{Params, TokenLogprobs};
use dsde_text::Tokenizer;
use serde_json::{Map, Value, json};

use self::asked::Asked;
use self::output::{COMPLETED, INCOMPLETE, Output};
use super::chat::{self, ChatBody};
use super::error::ApiError;
use super::generation::{respond, seconds_since_epoch};
use super::padding::pad;
use super::wire::{Envelope, Piece, Wire};
use crate::app::{App, RequestId};
use crate::body::{FieldsBody, JsonBody};
use crate::stamp::Stamp;

#[cfg(test)]
pub(crate) use self::asked::names;

/// Answers a list of items.
pub(crate) async fn respond_to(
    State(app): State<Arc<App>>,
    Extension(request_id): Extension<RequestId>,
    Extension(stamp): Extension<Arc<Stamp>>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let mut asked = Asked::read(body)?;
    let id = request_id.0.clone();
    let answered = async {
        let FieldsBody::<ChatBody>(body, fields) = FieldsBody::of(&asked.chat.take())?;
        let (order, ids) = chat::order(&app, body, &fields, &headers, request_id, stamp).await?;
        let mut repeated = std::mem::take(&mut asked.repeated);
        let params = order.requests.first().map(|request| &request.params);
        repeated.extend(params.into_iter().flat_map(drawing));
        let wire = ResponseWire {
            tokenizer: app.text.tokenizer.clone(),
            skeleton: skeleton(&id, app.config.model_name(), repeated),
            output: Output::new(&id, ids),
            n_events: 0,
            reason: None,
        };
        respond(&app, wire, order).await
    };
    let answered = answered.await;
    answered.map_err(|error| error.renamed(|field| asked.name(field)))
}

/// A response that says nothing yet.
fn skeleton(id: &str, model: &str, repeated: Map<String, Value>) -> Map<String, Value> {
    let skeleton = json!({
        "id": format!("{}{id}", ResponseWire::ID),
        "object": ResponseWire::OBJECT,
        "created_at": seconds_since_epoch(),
        "status": "in_progress",
        "error": null,
        "incomplete_details": null,
        "model": model,
        "output": [],
        "usage": null,
    });
    let Value::Object(mut skeleton) = skeleton else { return repeated };
    skeleton.extend(repeated);
    skeleton
}

/// How tokens are drawn, whether it was asked for or is the model's default.
fn drawing(params: &Params) -> [(String, Value); 2] {
    // The shortest decimals, which are what was typed; as doubles they would be other numbers.
    let decimal = |value: f32| json!(value.to_string().parse::<f64>().unwrap_or_else(|_| value.into()));
    [("temperature", params.temperature), ("top_p", params.top_p)]
        .map(|(name, value)| (name.to_owned(), decimal(value)))
}

/// Writes the one choice as a response.
struct ResponseWire {
    tokenizer: Arc<Tokenizer>,
    skeleton: Map<String, Value>,
    output: Output,
    /// Events of the stream so far.
    n_events: u64,
    /// Why the choice of a stream ended.
    reason: Option<&'static str>,
}

impl ResponseWire {
    /// The response as far as it has come.
    fn response(&self, status: &str, output: &Output) -> Value {
        let mut response = self.skeleton.clone();
        response["status"] = json!(status);
        response["output"] = output.items().into();
        response.into()
    }

    /// The response at its end, but for what [`used`] adds.
    fn ended(&self, reason: &str, output: &Output) -> Value {
        let status = status(reason);
        let mut response = self.response(status, output);
        if status == INCOMPLETE {
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        // The text of thoughts alone, without the marks around them.
        let n_thoughts = self.tokenizer.encode(&output.reasoning).map_or(0, |tokens| tokens.len());
        response["usage"] = json!({"output_tokens_details": {"reasoning_tokens": n_thoughts}});
        response
    }

    fn numbered(&mut self, mut event: Value) -> Value {
        event["sequence_number"] = json!(self.n_events);
        self.n_events += 1;
        event
    }

    fn all_numbered(&mut self, events: Vec<Value>) -> Vec<Value> {
        events.into_iter().map(|event| self.numbered(event)).collect()
    }
}

impl Wire for ResponseWire {
    const OPERATION: &'static str = "chat";
    const PROMPT: &'static str = "input";
    const ID: &'static str = "resp_";
    const OBJECT: &'static str = "response";
    const CHUNK_OBJECT: &'static str = "response";
    const LAST: Option<&'static str> = None;

    fn opening(&mut self, _choice: usize, _scored: &[TokenLogprobs]) -> Vec<Value> {
        let response = self.response("in_progress", &self.output);
        let event = |kind: &str| json!({"type": kind, "response": response});
        let events = ["response.created", "response.in_progress"].map(event);
        self.all_numbered(events.into())
    }

    fn piece(&mut self, _choice: usize, piece: &Piece<'_>) -> Vec<Value> {
        let events = piece.parts.iter().flat_map(|part| self.output.push(part)).collect();
        self.all_numbered(events)
    }

    fn ending(&mut self, _choice: usize, reason: &'static str) -> Vec<Value> {
        self.reason = Some(reason);
        let events = self.output.finish(status(reason));
        self.all_numbered(events)
    }

    fn whole(&self, _choice: usize, piece: &Piece<'_>, reason: &'static str) -> Value {
        let mut output = self.output.clone();
        for part in piece.parts {
            output.push(part);
        }
        output.finish(status(reason));
        self.ended(reason, &output)
    }

    fn answer(&self, answer: Envelope<'_>) -> Response {
        let Envelope { choices, usage, metrics, .. } = answer;
        let response = choices.first().cloned().unwrap_or_default();
        Json(used(response, &usage.unwrap_or_default(), metrics)).into_response()
    }

    fn event(chunk: &Envelope<'_>) -> Event {
        named(chunk.choices.first().unwrap_or(&Value::Null))
    }

    fn padded_event(chunk: &Envelope<'_>) -> Event {
        let mut data = chunk.choices.first().cloned().unwrap_or_default();
        pad(&mut data);
        named(&data)
    }

    fn closing(&mut self, usage: &Value, metrics: Option<Value>) -> Option<Value> {
        let reason = self.reason.unwrap_or_default();
        let response = used(self.ended(reason, &self.output), usage, metrics);
        let kind = format!("response.{}", status(reason));
        Some(self.numbered(json!({"type": kind, "response": response})))
    }

    fn lost(&mut self, error: &ApiError) -> Event {
        let mut response = self.response("failed", &self.output);
        response["error"] = json!({"code": "server_error", "message": error.message()});
        named(&self.numbered(json!({"type": "response.failed", "response": response})))
    }
}

/// A response with what it took.
///
/// * `usage`: in the words of chat.
fn used(mut response: Value, usage: &Value, metrics: Option<Value>) -> Value {
    let details = response["usage"]["output_tokens_details"].take();
    response["usage"] = json!({
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": details,
        "total_tokens": usage["total_tokens"],
    });
    if let Some(metrics) = metrics {
        response["metrics"] = metrics;
    }
    response
}

fn status(reason: &str) -> &'static str {
    if reason == "length" { INCOMPLETE } else { COMPLETED }
}

/// An event with its name, which is also in its data.
fn named(data: &Value) -> Event {
    let name = data["type"].as_str().unwrap_or_default();
    Event::default().event(name).data(data.to_string())
}
