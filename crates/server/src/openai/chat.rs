//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use dsde_engine::EmittedToken;
use dsde_model::text::{Message, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::generation::{Order, Piece, Wire, respond};
use super::tokens::token_text;
use crate::app::{App, RequestId};
use crate::body::JsonBody;
use crate::stamp::Stamp;

/// Most messages of a conversation; the template's own bounds on work are tighter for long ones.
pub(crate) const MESSAGES_MAX: usize = 4096;

/// The body as typed.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatBody {
    messages: Vec<TypedMessage>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    add_generation_prompt: Option<bool>,
    #[serde(flatten)]
    fields: Fields,
}

/// A message as typed.
#[derive(Debug, Deserialize)]
pub(crate) struct TypedMessage {
    role: String,
    content: Option<Content>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of text parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// Answers a conversation.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(request_id): Extension<RequestId>,
    Extension(stamp): Extension<Arc<Stamp>>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Response, ApiError> {
    let ChatBody { messages, logprobs, top_logprobs, add_generation_prompt, fields } = body;
    app.check_model(fields.model.as_deref())?;
    fields.check()?;
    let logprobs = match (logprobs.unwrap_or(false), top_logprobs) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiError::bad_field("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
        }
    };
    let messages = typed_messages(messages)?;
    let prompt = app.encode_chat(messages, add_generation_prompt.unwrap_or(true)).await?;
    let context_len_max = app.engine.shape.context_len_max;
    // An answer may fill the context; a prompt that leaves no room for one is refused by the engine.
    let rest = |prompt_len: usize| context_len_max.saturating_sub(prompt_len as u32).max(1);
    let mut requests = fields.requests(vec![prompt], logprobs, &headers, &app.text.eos_tokens, rest)?;
    let grammar = app.grammar(fields.response_format()).await?;
    requests.iter_mut().for_each(|request| request.grammar = grammar.clone());
    let order = Order {
        requests,
        is_streamed: fields.is_streamed(),
        includes_usage: fields.includes_usage(),
        detail: fields.detail(),
        request_id,
        stamp,
    };
    respond(&app, ChatWire { tokenizer: app.text.tokenizer.clone() }, order).await
}

/// Messages in the template's words.
///
/// # Errors
/// 400 if there are none or too many, or one is more than text.
pub(crate) fn typed_messages(messages: Vec<TypedMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        let message = format!("`messages` must have 1 to {MESSAGES_MAX} entries, got {}", messages.len());
        return Err(ApiError::bad_field("messages", message));
    }
    messages.into_iter().enumerate().map(|(i, message)| message.checked(i)).collect()
}

impl TypedMessage {
    fn checked(self, index: usize) -> Result<Message, ApiError> {
        let refuse = |what: &str| {
            let message = format!("messages[{index}]: {what}");
            Err(ApiError::bad_field(format!("messages[{index}]"), message))
        };
        let calls = ["tool_calls", "function_call", "tool_call_id", "audio"];
        if let Some(name) = calls.into_iter().find(|name| self.rest.get(*name).is_some_and(|v| !v.is_null()))
        {
            return refuse(&format!("`{name}` is not supported by this server"));
        }
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut text = String::new();
                for part in parts {
                    match (part.r#type.as_str(), part.text) {
                        ("text", Some(part)) => text += &part,
                        (kind, _) => {
                            return refuse(&format!(
                                "only parts with `type` text and a `text` are supported, got {kind}"
                            ));
                        }
                    }
                }
                text
            }
            None => return refuse("`content` is missing"),
        };
        // The newer name of the same role; templates know the older one.
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        Ok(Message { role, content })
    }
}

/// Writes choices as messages.
struct ChatWire {
    tokenizer: Arc<Tokenizer>,
}

impl ChatWire {
    fn logprobs(&self, tokens: &[EmittedToken]) -> Value {
        let entry = |token: u32, logprob: f32| {
            let (text, bytes) = token_text(&self.tokenizer, token);
            json!({"token": text, "logprob": logprob, "bytes": bytes})
        };
        let content: Vec<Value> = tokens
            .iter()
            .filter_map(|emitted| {
                let logprobs = emitted.logprobs.as_ref()?;
                let mut value = entry(emitted.token, logprobs.logprob);
                let top = logprobs.top.iter().map(|&(token, logprob)| entry(token, logprob));
                value["top_logprobs"] = top.collect();
                Some(value)
            })
            .collect();
        if content.is_empty() { Value::Null } else { json!({"content": content}) }
    }
}

impl Wire for ChatWire {
    const OPERATION: &'static str = "chat";
    const ID: &'static str = "chatcmpl";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK_OBJECT: &'static str = "chat.completion.chunk";

    fn opening(&self, choice: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(json!({"index": choice, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn piece(&self, choice: usize, piece: &Piece<'_>) -> Value {
        json!({
            "index": choice,
            "delta": {"content": piece.text},
            "logprobs": self.logprobs(piece.tokens),
            "finish_reason": null,
        })
    }

    fn ending(&self, choice: usize, reason: &'static str) -> Value {
        json!({"index": choice, "delta": {}, "logprobs": null, "finish_reason": reason})
    }

    fn whole(&self, choice: usize, piece: &Piece<'_>, reason: &'static str) -> Value {
        json!({
            "index": choice,
            "message": {"role": "assistant", "content": piece.text},
            "logprobs": self.logprobs(piece.tokens),
            "finish_reason": reason,
        })
    }
}
