//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use dsde_engine::{EmittedToken, Grammar, Vocabulary as _};
use dsde_sampling::{Params, TokenLogprobs};
use dsde_text::{AnswerReader, ChatTemplate, ExpectedCalls, Part, ReasoningFormat, Thoughts, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call_ids::CallIds;
use super::error::ApiError;
use super::fields::Fields;
use super::generation::{Order, respond};
use super::messages::{TypedConversation, TypedMessage, typed_messages, variables};
use super::tokens::token_text;
use super::tools::{Tools, TypedTools};
use super::wire::{Piece, Wire};
use crate::app::{App, PromptEnd, RequestId};
use crate::body::FieldsBody;
use crate::stamp::Stamp;

/// One more than may be asked for.
const TOP_LOGPROBS_MORE: u32 = Params::LOGPROBS_MAX + 1;

/// The body as typed.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatBody {
    messages: Vec<TypedMessage>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    chat_template_kwargs: Option<Map<String, Value>>,
    /// A variable of the template, as Qwen's services call it.
    enable_thinking: Option<bool>,
    /// A variable of the template, as OpenAI calls it.
    reasoning_effort: Option<String>,
}

/// Answers a conversation.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(request_id): Extension<RequestId>,
    Extension(stamp): Extension<Arc<Stamp>>,
    headers: HeaderMap,
    FieldsBody(body, fields): FieldsBody<ChatBody>,
) -> Result<Response, ApiError> {
    let (order, ids) = order(&app, body, &fields, &headers, request_id, stamp).await?;
    respond(&app, ChatWire { tokenizer: app.text.tokenizer.clone(), ids }, order).await
}

/// What is to be generated for a conversation, and how its calls are named.
///
/// # Errors
/// 400 with the field that cannot be honoured.
pub(crate) async fn order(
    app: &Arc<App>,
    body: ChatBody,
    fields: &Fields,
    headers: &HeaderMap,
    request_id: RequestId,
    stamp: Arc<Stamp>,
) -> Result<(Order, CallIds), ApiError> {
    let ChatBody { messages, tools, tool_choice, parallel_tool_calls, chat_template_kwargs, .. } = body;
    let of_template = [
        ("enable_thinking", body.enable_thinking.map(Value::from)),
        ("reasoning_effort", body.reasoning_effort.map(Value::from)),
    ];
    app.check_model(fields.model.as_deref())?;
    fields.check()?;
    let logprobs = n_logprobs(body.logprobs.unwrap_or(false), body.top_logprobs)?;
    let template = app.text.template.as_ref();
    let tools = TypedTools { tools, tool_choice, parallel_tool_calls }.checked(template)?;
    let conversation = TypedConversation {
        messages: typed_messages(messages, template.is_some_and(ChatTemplate::knows_tools))?,
        tools: tools.as_ref().map(|tools| tools.typed.clone()).unwrap_or_default(),
        variables: variables(chat_template_kwargs, of_template)?,
    };
    let end = PromptEnd::of(body.add_generation_prompt, body.continue_final_message)?;
    let prompt = app.encode_chat(conversation, end).await?;
    let thoughts = prompt.thoughts;
    let context_len_max = app.engine.shape.context_len_max;
    // An answer may fill the context; a prompt that leaves no room for one is refused by the engine.
    let rest = |prompt_len: usize| context_len_max.saturating_sub(prompt_len as u32).max(1);
    let sampling = &app.config.sampling;
    let mut requests =
        fields.requests(vec![prompt.tokens], logprobs, headers, &app.text.eos_tokens, sampling, rest)?;
    let salt = app.salt(headers, fields)?;
    let grammar = form(app, fields, tools.as_ref(), thoughts, &salt).await?;
    let calls = tools.as_ref().map(Tools::expected_calls);
    let reasoning = template.and_then(ChatTemplate::reasoning_format);
    let has_special_marker = has_special_marker(&app.text.tokenizer, reasoning, calls.as_ref());
    for request in &mut requests {
        request.grammar = grammar.clone();
        request.salt = salt.clone();
        request.drops_leading_space = end != PromptEnd::LastMessage && app.text.tokenizer.has_leading_space();
        request.shows_special_tokens |= has_special_marker;
    }
    let order = Order {
        requests,
        is_streamed: fields.is_streamed(),
        includes_usage: fields.includes_usage(),
        is_padded: fields.is_padded(),
        detail: fields.detail(),
        request_id,
        stamp,
        reader: AnswerReader::new(reasoning, thoughts, calls),
    };
    Ok((order, CallIds::new(tools.as_ref().and_then(Tools::id_len))))
}

/// How many other tokens are told beside each one with its log-probability; `None` if nothing is told.
///
/// # Errors
/// 400 if these are too many, or asked for without log-probabilities.
fn n_logprobs(are_told: bool, top: Option<u32>) -> Result<Option<u32>, ApiError> {
    match (are_told, top) {
        (true, Some(top @ TOP_LOGPROBS_MORE..)) => {
            let message = format!("`top_logprobs` must be at most {}, got {top}", TOP_LOGPROBS_MORE - 1);
            Err(ApiError::bad_field("top_logprobs", message))
        }
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::bad_field("top_logprobs", "`top_logprobs` needs `logprobs` to be true"))
        }
    }
}

/// Whether a special token of the model begins or ends thoughts or calls: then the reader of the answer must see such tokens.
fn has_special_marker(
    tokenizer: &Tokenizer,
    reasoning: Option<ReasoningFormat>,
    calls: Option<&ExpectedCalls>,
) -> bool {
    let of_thoughts = reasoning.map(ReasoningFormat::markers);
    let of_calls = calls.map_or(&[][..], |calls| calls.format.markers());
    let markers = of_thoughts.iter().flatten().chain(of_calls);
    markers
        .filter_map(|marker| tokenizer.token(marker))
        .any(|token| !tokenizer.special_bytes(token).is_empty())
}

/// The form of the answer: that of a call if there must be one, else the one that is asked for.
async fn form(
    app: &Arc<App>,
    fields: &Fields,
    tools: Option<&Tools>,
    thoughts: Thoughts,
    salt: &str,
) -> Result<Option<Arc<dyn Grammar>>, ApiError> {
    const FIELD: &str = "tool_choice";
    let Some(form) = tools.and_then(Tools::required) else {
        return app.grammar(fields.form(), thoughts, salt).await;
    };
    if fields.form().is_some() {
        let message = "an answer that must call a function cannot have another form";
        return Err(ApiError::bad_field(FIELD, message));
    }
    fields.check_end_is_free(FIELD)?;
    app.call_grammar(form, thoughts, salt).await.map(Some)
}

/// Writes choices as messages.
struct ChatWire {
    tokenizer: Arc<Tokenizer>,
    ids: CallIds,
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

    /// A message beside calls has no content if it says nothing else.
    fn message(&self, choice: usize, parts: &[Part]) -> Value {
        let (mut reasoning, mut content) = (String::new(), String::new());
        let mut calls: Vec<(&str, String)> = Vec::new();
        for part in parts {
            match (part, calls.last_mut()) {
                (Part::Reasoning(text), _) => reasoning.push_str(text),
                (Part::Content(text), _) => content.push_str(text),
                (Part::Call(name), _) => calls.push((name, String::new())),
                (Part::Arguments(text), last) => last.into_iter().for_each(|call| call.1.push_str(text)),
            }
        }
        let mut message = json!({"role": "assistant", "content": content});
        if !reasoning.is_empty() {
            message["reasoning_content"] = json!(reasoning);
        }
        if !calls.is_empty() {
            let numbered = calls.iter().enumerate();
            message["tool_calls"] =
                numbered.map(|(i, (name, arguments))| self.ids.call(choice, i, name, arguments)).collect();
            if content.is_empty() {
                message["content"] = Value::Null;
            }
        }
        message
    }
}

impl Wire for ChatWire {
    const OPERATION: &'static str = "chat";
    const PROMPT: &'static str = "messages";
    const ID: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK_OBJECT: &'static str = "chat.completion.chunk";

    fn opening(&mut self, choice: usize, _scored: &[TokenLogprobs]) -> Vec<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        vec![json!({"index": choice, "delta": delta, "logprobs": null, "finish_reason": null})]
    }

    fn piece(&mut self, choice: usize, piece: &Piece<'_>) -> Vec<Value> {
        let mut n_calls = piece.n_calls;
        let mut delta = |part: &Part| match part {
            Part::Reasoning(text) => json!({"reasoning_content": text}),
            Part::Content(text) => json!({"content": text}),
            Part::Call(name) => {
                n_calls += 1;
                let call = self.ids.call(choice, n_calls - 1, name, "");
                json!({"tool_calls": [with_index(call, n_calls - 1)]})
            }
            Part::Arguments(text) => {
                let call = json!({"function": {"arguments": text}});
                json!({"tool_calls": [with_index(call, n_calls.saturating_sub(1))]})
            }
        };
        let mut deltas: Vec<Value> = piece.parts.iter().map(&mut delta).collect();
        if deltas.is_empty() {
            deltas.push(json!({"content": ""}));
        }
        // Tokens are told once, with the first of what they became.
        let mut logprobs = self.logprobs(piece.tokens);
        let chunk = |delta| json!({"index": choice, "delta": delta, "logprobs": logprobs.take(), "finish_reason": null});
        deltas.into_iter().map(chunk).collect()
    }

    fn ending(&mut self, choice: usize, reason: &'static str) -> Vec<Value> {
        vec![json!({"index": choice, "delta": {}, "logprobs": null, "finish_reason": reason})]
    }

    fn whole(&self, choice: usize, piece: &Piece<'_>, reason: &'static str) -> Value {
        json!({
            "index": choice,
            "message": self.message(choice, piece.parts),
            "logprobs": self.logprobs(piece.tokens),
            "finish_reason": reason,
        })
    }
}

/// Numbers a call among those of its message.
fn with_index(mut call: Value, index: usize) -> Value {
    call["index"] = json!(index);
    call
}
