//! Messages of a conversation as clients type them.

use dsde_text::{Call, Message, RESERVED_VARIABLES};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::ApiError;

/// Most messages of a conversation; the template's own bounds on work are tighter for long ones.
pub(crate) const MESSAGES_MAX: usize = 4096;
/// Most calls of one message.
const CALLS_MAX: usize = 128;

/// A message as typed.
#[derive(Debug, Deserialize)]
pub(crate) struct TypedMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<Value>>,
    tool_call_id: Option<String>,
    name: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of text parts")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize)]
struct ContentPart {
    r#type: String,
    text: Option<String>,
}

/// Longest variables for a template, bytes of compact JSON.
const VARIABLES_BYTES_MAX: usize = 16 << 10;

/// Everything that a template turns into a prompt.
#[derive(Debug, Default)]
pub(crate) struct TypedConversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<Value>,
    pub(crate) variables: Map<String, Value>,
}

/// Variables for the template, as in `chat_template_kwargs`.
///
/// * `fields`: variables that have a field of their own, which a variable of that name replaces.
///
/// # Errors
/// 400 if they are too long, or replace what the template gets anyway.
pub(crate) fn variables<const N: usize>(
    typed: Option<Map<String, Value>>,
    fields: [(&str, Option<Value>); N],
) -> Result<Map<String, Value>, ApiError> {
    const FIELD: &str = "chat_template_kwargs";
    let mut typed = typed.unwrap_or_default();
    for (name, value) in fields {
        if let Some(value) = value {
            typed.entry(name).or_insert(value);
        }
    }
    let n_bytes: usize = typed.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    if n_bytes > VARIABLES_BYTES_MAX {
        let message = format!("`{FIELD}` must have at most {VARIABLES_BYTES_MAX} bytes, got {n_bytes}");
        return Err(ApiError::bad_field(FIELD, message));
    }
    match typed.keys().find(|name| RESERVED_VARIABLES.contains(&name.as_str())) {
        Some(name) => Err(ApiError::bad_field(FIELD, format!("`{FIELD}` cannot replace `{name}`"))),
        None => Ok(typed),
    }
}

/// Messages in the template's words.
///
/// * `knows_tools`: whether the template can write calls and their results.
///
/// # Errors
/// 400 if there are none or too many, or one is more than text and calls of functions.
pub(crate) fn typed_messages(
    messages: Vec<TypedMessage>,
    knows_tools: bool,
) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        let message = format!("`messages` must have 1 to {MESSAGES_MAX} entries, got {}", messages.len());
        return Err(ApiError::bad_field("messages", message));
    }
    messages.into_iter().enumerate().map(|(i, message)| message.checked(i, knows_tools)).collect()
}

impl TypedMessage {
    fn checked(self, index: usize, knows_tools: bool) -> Result<Message, ApiError> {
        let refusal = |what: String| {
            ApiError::bad_field(format!("messages[{index}]"), format!("messages[{index}]: {what}"))
        };
        let refuse = |what: &str| Err(refusal(what.to_owned()));
        let foreign = ["function_call", "audio"];
        let is_used = |name: &&str| self.rest.get(*name).is_some_and(|value| !value.is_null());
        if let Some(name) = foreign.into_iter().find(is_used) {
            return refuse(&format!("`{name}` is not supported by this server"));
        }
        let typed_calls = self.tool_calls.unwrap_or_default();
        let is_of_tools = !typed_calls.is_empty() || self.role == "tool";
        if is_of_tools && !knows_tools {
            return refuse(
                "the model's chat template knows no tools, so calls and results cannot be written",
            );
        }
        if !typed_calls.is_empty() && self.role != "assistant" {
            return refuse(&format!("only an assistant has `tool_calls`, got the role {}", self.role));
        }
        if typed_calls.len() > CALLS_MAX {
            return refuse(&format!("at most {CALLS_MAX} `tool_calls`, got {}", typed_calls.len()));
        }
        let content = match self.content {
            Some(content) => content.text().map_err(refusal)?,
            None if matches!(self.role.as_str(), "assistant" | "tool") => String::new(),
            None => return refuse("`content` is missing"),
        };
        let mut calls = Vec::new();
        for (i, call) in typed_calls.into_iter().enumerate() {
            calls.push(typed_call(&call).map_err(|what| refusal(format!("tool_calls[{i}] {what}")))?);
        }
        // The newer name of the same role; templates know the older one.
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        let reasoning = self.reasoning_content.or(self.reasoning).filter(|text| !text.is_empty());
        Ok(Message { role, content, reasoning, calls, call_id: self.tool_call_id, name: self.name })
    }
}

impl Content {
    /// The parts' texts, a line each, or why they have none.
    fn text(self) -> Result<String, String> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let text = |part: ContentPart| match (part.r#type.as_str(), part.text) {
            ("text" | "input_text" | "output_text", Some(text)) => Ok(text),
            (kind, _) => Err(format!("only parts with `type` text and a `text` are supported, got {kind}")),
        };
        Ok(parts.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
    }
}

/// A past call. Its arguments are a text in the API and an object in templates; what is no JSON stays as it is.
fn typed_call(call: &Value) -> Result<Call, String> {
    let kind = &call["type"];
    if !kind.is_null() && kind != "function" {
        return Err(format!("must have the type function, got {kind}"));
    }
    let function = &call["function"];
    let Some(name) = function["name"].as_str() else {
        return Err("must have a `function` with a `name`".to_owned());
    };
    let arguments = match &function["arguments"] {
        Value::Null => json!({}),
        Value::String(text) if text.trim().is_empty() => json!({}),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => json!(text),
        },
        object @ Value::Object(_) => object.clone(),
        other => return Err(format!("must have `arguments` that are JSON in a string, got {other}")),
    };
    Ok(Call { id: call["id"].as_str().map(str::to_owned), name: name.to_owned(), arguments })
}
