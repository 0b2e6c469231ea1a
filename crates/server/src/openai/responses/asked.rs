//! What a request for a response asks, as a request of chat that means the same.

use serde_json::{Map, Value, json};

use super::input::{Messages, messages};
use crate::openai::error::ApiError;
use crate::openai::fields::foreign::is_empty;

/// Fields that chat has by the same name, with the same meaning.
const OF_CHAT: [&str; 24] = [
    "model",
    "temperature",
    "top_p",
    "stream",
    "stream_options",
    "parallel_tool_calls",
    // This server's own.
    "chat_template_kwargs",
    "enable_thinking",
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "min_p",
    "min_tokens",
    "policy",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "seed",
    "slo_tpot_ms",
    "slo_ttft_ms",
    "spec_decode_metrics",
    "stop",
    "stop_token_ids",
    "top_k",
];

/// Fields that have a meaning of their own here.
const OWN: [&str; 14] = [
    "background",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "previous_response_id",
    "prompt",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
];

/// Fields that change no answer: who asks, what is stored, how it is cached, and tools that this server does not have.
const WITHOUT_EFFECT: [&str; 9] = [
    "client_metadata",
    "max_tool_calls",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// What chat calls fields of responses.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("max_completion_tokens", "max_output_tokens"),
    ("max_tokens", "max_output_tokens"),
    ("messages", "input"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format", "text.format"),
];

/// Values of `include` that name what an answer contains anyway; thoughts are told as they are.
const INCLUDED: [&str; 1] = ["reasoning.encrypted_content"];

/// All fields that are read or known to change nothing.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    [OF_CHAT.as_slice(), &OWN, &WITHOUT_EFFECT].concat()
}

/// A request of chat, and what the answer repeats.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) chat: Value,
    /// Fields of the response that say what was asked.
    pub(super) repeated: Map<String, Value>,
    /// The field that each message comes from.
    fields: Vec<String>,
}

impl Asked {
    /// # Errors
    /// 400 with the field that cannot be honoured.
    pub(super) fn read(mut body: Map<String, Value>) -> Result<Self, ApiError> {
        body.retain(|_, value| !value.is_null());
        check_names(&body)?;
        check_stateless(&body)?;
        check_neutral(&body)?;
        let instructions = text(&body, "instructions")?;
        let null = Value::Null;
        let Messages { messages, fields } = messages(instructions, body.get("input").unwrap_or(&null))?;
        let format = text_format(body.get("text"))?;
        let effort = reasoning_effort(body.get("reasoning"))?;
        let mut chat: Map<String, Value> =
            body.iter().filter(|(name, _)| OF_CHAT.contains(&name.as_str())).map(owned).collect();
        chat.insert("messages".to_owned(), messages.into());
        for (name, value) in [
            ("max_completion_tokens", body.get("max_output_tokens").cloned()),
            ("response_format", format),
            ("reasoning_effort", effort),
            ("tools", body.get("tools").map(tools).transpose()?),
            ("tool_choice", body.get("tool_choice").map(tool_choice).transpose()?),
        ] {
            chat.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(Self { chat: chat.into(), repeated: repeated(&body), fields })
    }

    /// What the route calls a field of chat.
    pub(super) fn name(&self, of_chat: &str) -> Option<String> {
        if matches!(of_chat, "prompt" | "messages") {
            return Some("input".to_owned());
        }
        if let Some(rest) = of_chat.strip_prefix("messages[") {
            let (index, rest) = rest.split_once(']')?;
            return Some(format!("{}{rest}", self.fields.get(index.parse::<usize>().ok()?)?));
        }
        let renamed = |(old, new): &(&str, &str)| {
            let rest = of_chat.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
            Some(format!("{new}{}", rest.strip_prefix(".json_schema").unwrap_or(rest)))
        };
        OTHER_NAMES.iter().find_map(renamed)
    }
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// Refuses fields that nobody knows; neutral values of them are let pass.
fn check_names(body: &Map<String, Value>) -> Result<(), ApiError> {
    let is_known =
        |name: &str| OF_CHAT.contains(&name) || OWN.contains(&name) || WITHOUT_EFFECT.contains(&name);
    let Some((name, _)) = body.iter().find(|(name, value)| !is_known(name) && !is_empty(value)) else {
        return Ok(());
    };
    let hint = OTHER_NAMES.iter().find(|(other, _)| other == name);
    let hint = hint.map_or_else(String::new, |(_, ours)| format!("; use `{ours}`"));
    Err(ApiError::bad_field(name, format!("`{name}` is not supported by this route{hint}")))
}

/// Refuses what lives from one request to the next.
fn check_stateless(body: &Map<String, Value>) -> Result<(), ApiError> {
    for name in ["previous_response_id", "conversation", "prompt"] {
        if body.contains_key(name) {
            let message =
                format!("`{name}` cannot be honoured: this server stores nothing; send all items as `input`");
            return Err(ApiError::bad_field(name, message));
        }
    }
    match body.get("background") {
        Some(value) if !is_empty(value) => {
            let message = "`background` cannot be honoured: this server stores no answers; use `stream`";
            Err(ApiError::bad_field("background", message))
        }
        _ => Ok(()),
    }
}

/// Refuses what answers here do not have.
fn check_neutral(body: &Map<String, Value>) -> Result<(), ApiError> {
    if body.get("top_logprobs").is_some_and(|value| value.as_f64() != Some(0.0)) {
        let message = "`top_logprobs` is not supported by this route; use /v1/chat/completions";
        return Err(ApiError::bad_field("top_logprobs", message));
    }
    if let Some(value) = body.get("truncation").filter(|value| *value != "disabled") {
        let message = format!("`truncation` must be disabled, since no input is ever left out, got {value}");
        return Err(ApiError::bad_field("truncation", message));
    }
    let include =
        body.get("include").map_or(&[][..], |value| value.as_array().map_or(&[][..], Vec::as_slice));
    match include.iter().find(|value| !value.as_str().is_some_and(|text| INCLUDED.contains(&text))) {
        None => Ok(()),
        Some(value) => {
            let message = format!("`include` can only have {}, got {value}", INCLUDED.join(", "));
            Err(ApiError::bad_field("include", message))
        }
    }
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = body.get(name) else { return Ok(None) };
    let text = value.as_str().ok_or_else(|| ApiError::bad_field(name, format!("`{name}` must be a string")));
    text.map(Some)
}

/// `text.format` as chat's `response_format`.
fn text_format(text: Option<&Value>) -> Result<Option<Value>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let Some(options) = text.as_object() else {
        return Err(ApiError::bad_field("text", "`text` must be an object"));
    };
    for (name, value) in options {
        let is_known = name == "format" || (name == "verbosity" && (value.is_null() || value == "medium"));
        if !is_known && !is_empty(value) {
            let message = format!("`text.{name}` is not supported by this route");
            return Err(ApiError::bad_field(format!("text.{name}"), message));
        }
    }
    let format = &text["format"];
    match format["type"].as_str() {
        None if format.is_null() => Ok(None),
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(json!({"type": "json_object"}))),
        Some("json_schema") if format["schema"].is_object() => {
            let mut schema = format.clone();
            schema.as_object_mut().and_then(|schema| schema.remove("type"));
            Ok(Some(json!({"type": "json_schema", "json_schema": schema})))
        }
        Some("json_schema") => {
            let message = "`text.format.schema` must be a JSON schema";
            Err(ApiError::bad_field("text.format.schema", message))
        }
        _ => {
            let message =
                format!("`text.format` must have the type text, json_object or json_schema, got {format}");
            Err(ApiError::bad_field("text.format", message))
        }
    }
}

/// How much is thought is for the template to know; a summary of it does not exist.
fn reasoning_effort(reasoning: Option<&Value>) -> Result<Option<Value>, ApiError> {
    match reasoning {
        None => Ok(None),
        Some(Value::Object(options)) => match options.get("effort") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(effort)) => Ok(Some(json!(effort))),
            Some(other) => {
                let message = format!("`reasoning.effort` must be a string, got {other}");
                Err(ApiError::bad_field("reasoning.effort", message))
            }
        },
        Some(_) => Err(ApiError::bad_field("reasoning", "`reasoning` must be an object")),
    }
}

/// Functions with their fields beside the type, as chat has them below `function`.
fn tools(typed: &Value) -> Result<Value, ApiError> {
    let Some(typed) = typed.as_array() else {
        return Err(ApiError::bad_field("tools", "`tools` must be a list"));
    };
    let tool = |tool: &Value| match tool {
        Value::Object(fields) if tool["type"] == "function" && !fields.contains_key("function") => {
            let function: Map<String, Value> =
                fields.iter().filter(|(name, _)| *name != "type").map(owned).collect();
            json!({"type": "function", "function": function})
        }
        other => other.clone(),
    };
    Ok(typed.iter().map(tool).collect())
}

fn tool_choice(typed: &Value) -> Result<Value, ApiError> {
    match (typed, typed["name"].as_str()) {
        (Value::String(_), _) => Ok(typed.clone()),
        (_, Some(name)) if typed["type"] == "function" => {
            Ok(json!({"type": "function", "function": {"name": name}}))
        }
        _ => {
            let example = json!({"type": "function", "name": "NAME"});
            let message = format!("`tool_choice` must be none, auto, required or {example}, got {typed}");
            Err(ApiError::bad_field("tool_choice", message))
        }
    }
}

/// What the response says about its request; what was not asked has the API's defaults. How tokens are drawn is not among it.
fn repeated(body: &Map<String, Value>) -> Map<String, Value> {
    let or = |name: &str, default: Value| body.get(name).cloned().unwrap_or(default);
    let format = body.get("text").and_then(|text| text.get("format")).filter(|format| !format.is_null());
    let effort = body.get("reasoning").and_then(|reasoning| reasoning.get("effort"));
    let fields = json!({
        "background": false,
        "instructions": or("instructions", Value::Null),
        "max_output_tokens": or("max_output_tokens", Value::Null),
        "metadata": or("metadata", json!({})),
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": null,
        "reasoning": {"effort": effort, "summary": null},
        "store": false,
        "text": {"format": format.cloned().unwrap_or_else(|| json!({"type": "text"}))},
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": or("tools", json!([])),
        "truncation": "disabled",
        "user": or("user", Value::Null),
    });
    let Value::Object(fields) = fields else { return Map::new() };
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Asked, ApiError> {
        Asked::read(serde_json::from_value(body).unwrap())
    }

    #[track_caller]
    fn check_refused(body: Value, param: &str, message: &str) {
        let error = read(body).unwrap_err().body();
        assert_eq!(error["error"]["param"], param, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(message), "{error}");
    }

    #[test]
    fn every_field_means_what_it_means_in_chat() {
        let asked = read(json!({
            "model": "m", "input": "Hi", "instructions": null, "max_output_tokens": 9, "temperature": 0, "policy": "off",
            "text": {"format": {"type": "json_schema", "name": "n", "strict": true, "schema": {"type": "object"}}, "verbosity": "medium"},
            "reasoning": {"effort": "low"}, "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": true}],
            "tool_choice": {"type": "function", "name": "f"}, "store": true, "metadata": {"a": "b"}, "user": "u",
            "include": ["reasoning.encrypted_content"], "truncation": "disabled", "previous_response_id": null, "unknown": [],
        }));
        let asked = asked.unwrap();
        let expected = json!({
            "model": "m", "temperature": 0, "policy": "off", "messages": [{"role": "user", "content": "Hi"}],
            "max_completion_tokens": 9, "reasoning_effort": "low",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "object"}}},
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "strict": true}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        });
        assert_eq!(asked.chat, expected);
        assert_eq!(
            (&asked.repeated["store"], &asked.repeated["metadata"]),
            (&json!(false), &json!({"a": "b"}))
        );
        assert_eq!(asked.repeated["tools"][0]["name"], "f");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let more = |more: Value| {
            let mut body = json!({"input": "Hi"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        for name in ["previous_response_id", "conversation", "prompt"] {
            check_refused(more(json!({name: "x"})), name, "stores nothing");
        }
        check_refused(more(json!({"background": true})), "background", "stores no answers");
        check_refused(more(json!({"messages": [1]})), "messages", "use `input`");
        check_refused(more(json!({"max_tokens": 3})), "max_tokens", "use `max_output_tokens`");
        check_refused(
            more(json!({"response_format": {"type": "text"}})),
            "response_format",
            "use `text.format`",
        );
        check_refused(more(json!({"n": 2})), "n", "not supported");
        check_refused(more(json!({"top_logprobs": 2})), "top_logprobs", "/v1/chat/completions");
        check_refused(more(json!({"truncation": "auto"})), "truncation", "disabled");
        check_refused(
            more(json!({"include": ["file_search_call.results"]})),
            "include",
            "file_search_call.results",
        );
        check_refused(more(json!({"text": {"verbosity": "low"}})), "text.verbosity", "not supported");
        check_refused(more(json!({"text": {"format": {"type": "x"}}})), "text.format", "json_schema");
        check_refused(
            more(json!({"text": {"format": {"type": "json_schema"}}})),
            "text.format.schema",
            "schema",
        );
        check_refused(more(json!({"reasoning": {"effort": 1}})), "reasoning.effort", "string");
        check_refused(more(json!({"tools": {}})), "tools", "list");
        check_refused(more(json!({"tool_choice": {"type": "web_search"}})), "tool_choice", "required or");
        check_refused(more(json!({"instructions": 1})), "instructions", "string");
    }

    #[test]
    fn errors_of_chat_are_told_by_the_fields_of_the_route() {
        let asked = read(json!({"instructions": "A", "input": [{"role": "user", "content": "x"}]})).unwrap();
        for (of_chat, name) in [
            ("messages[0]", Some("instructions")),
            ("messages[1].role", Some("input[0].role")),
            ("messages", Some("input")),
            ("max_completion_tokens", Some("max_output_tokens")),
            ("response_format.json_schema.schema", Some("text.format.schema")),
            ("temperature", None),
        ] {
            assert_eq!(asked.name(of_chat).as_deref(), name, "{of_chat}");
        }
    }
}
