//! The input of a response: items, which become messages of a conversation.

use serde_json::{Value, json};

use crate::openai::error::ApiError;
use crate::openai::messages::MESSAGES_MAX;

/// Messages as chat reads them.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) messages: Vec<Value>,
    /// The field that each of them comes from.
    pub(super) fields: Vec<String>,
}

/// Reads a conversation.
///
/// * `instructions`: go before everything else.
/// * `input`: a text, or a list of items.
///
/// # Errors
/// 400 with the path of an item that is no message, call, result of a call or thought.
pub(super) fn messages(instructions: Option<&str>, input: &Value) -> Result<Messages, ApiError> {
    let mut read = Messages::default();
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        read.push("instructions".to_owned(), json!({"role": "system", "content": text}));
    }
    match input {
        Value::String(text) => read.push("input".to_owned(), json!({"role": "user", "content": text})),
        Value::Array(items) if !items.is_empty() && items.len() <= MESSAGES_MAX => {
            for (i, item) in items.iter().enumerate() {
                read.item(format!("input[{i}]"), item)?;
            }
        }
        Value::Array(items) => {
            let message = format!("`input` must have 1 to {MESSAGES_MAX} items, got {}", items.len());
            return Err(ApiError::bad_field("input", message));
        }
        Value::Null => return Err(ApiError::bad_field("input", "missing field `input`")),
        _ => return Err(ApiError::bad_field("input", "`input` must be a string or a list of items")),
    }
    Ok(read)
}

impl Messages {
    fn push(&mut self, field: String, message: Value) {
        self.messages.push(message);
        self.fields.push(field);
    }

    fn item(&mut self, field: String, item: &Value) -> Result<(), ApiError> {
        let kind = match (item.is_object(), &item["type"]) {
            (true, Value::Null) => "message",
            (true, Value::String(kind)) => kind.as_str(),
            _ => return Err(ApiError::bad_field(field.clone(), format!("`{field}` must be an item"))),
        };
        match kind {
            "message" => self.message(field, item),
            "function_call" => self.call(field, item),
            "function_call_output" => self.result(field, item),
            "reasoning" => self.reasoning(field, item),
            "item_reference" => {
                let message =
                    format!("`{field}` refers to an item, but this server stores none; send the item");
                Err(ApiError::bad_field(field, message))
            }
            other => {
                let expected = "message, function_call, function_call_output or reasoning";
                let message = format!("`{field}.type` must be {expected}, got `{other}`");
                Err(ApiError::bad_field(format!("{field}.type"), message))
            }
        }
    }

    fn message(&mut self, field: String, item: &Value) -> Result<(), ApiError> {
        let role = text_of(&field, item, "role")?;
        let content = content(&format!("{field}.content"), &item["content"])?;
        if role == "assistant" {
            let is_begun = |last: &Value| last.get("content").is_some() || last.get("tool_calls").is_some();
            self.answer(field, |last| !is_begun(last))["content"] = json!(content);
        } else {
            self.push(field, json!({"role": role, "content": content}));
        }
        Ok(())
    }

    fn call(&mut self, field: String, item: &Value) -> Result<(), ApiError> {
        let [id, name, arguments] = ["call_id", "name", "arguments"].map(|name| text_of(&field, item, name));
        let call =
            json!({"id": id?, "type": "function", "function": {"name": name?, "arguments": arguments?}});
        let calls = &mut self.answer(field, |_| true)["tool_calls"];
        match calls.as_array_mut() {
            Some(calls) => calls.push(call),
            None => *calls = json!([call]),
        }
        Ok(())
    }

    fn result(&mut self, field: String, item: &Value) -> Result<(), ApiError> {
        let id = text_of(&field, item, "call_id")?;
        let content = content(&format!("{field}.output"), &item["output"])?;
        self.push(field, json!({"role": "tool", "tool_call_id": id, "content": content}));
        Ok(())
    }

    /// Thoughts belong to what follows them; those that only their server can read are left out.
    fn reasoning(&mut self, field: String, item: &Value) -> Result<(), ApiError> {
        let texts = ["content", "summary"].into_iter().find_map(|name| {
            let parts = item[name].as_array().filter(|parts| !parts.is_empty())?;
            Some((format!("{field}.{name}"), parts))
        });
        let Some((path, parts)) = texts else { return Ok(()) };
        let mut thoughts = String::new();
        for (i, part) in parts.iter().enumerate() {
            thoughts += text_of(&format!("{path}[{i}]"), part, "text")?;
        }
        let answer = self.answer(field, |_| false);
        answer["reasoning_content"] = json!(thoughts);
        Ok(())
    }

    /// The answer that an item is a part of: the last message if that is one and the item goes into it, else a new one.
    fn answer(&mut self, field: String, goes_into: impl Fn(&Value) -> bool) -> &mut Value {
        let is_open = self.messages.last().is_some_and(|last| last["role"] == "assistant" && goes_into(last));
        if !is_open {
            self.push(field, json!({"role": "assistant"}));
        }
        self.messages.last_mut().expect("one was pushed, if there was none")
    }
}

/// A text, or the texts of parts, a line each.
fn content(path: &str, content: &Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        Value::Null => return Err(ApiError::bad_field(path, format!("missing field `{path}`"))),
        _ => {
            let message = format!("`{path}` must be a string or a list of parts");
            return Err(ApiError::bad_field(path, message));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        match part["type"].as_str() {
            Some("input_text" | "output_text" | "text") => texts.push(text_of(&path, part, "text")?),
            Some("refusal") => texts.push(text_of(&path, part, "refusal")?),
            other => {
                let got = other.unwrap_or("none");
                let message = format!("`{path}.type` must be input_text or output_text, got {got}");
                return Err(ApiError::bad_field(format!("{path}.type"), message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// A text inside an item.
fn text_of<'a>(path: &str, item: &'a Value, name: &str) -> Result<&'a str, ApiError> {
    let path = format!("{path}.{name}");
    match &item[name] {
        Value::String(text) => Ok(text),
        Value::Null => Err(ApiError::bad_field(path.clone(), format!("missing field `{path}`"))),
        _ => Err(ApiError::bad_field(path.clone(), format!("`{path}` must be a string"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(instructions: Option<&str>, input: Value, expected: Value) {
        let read = messages(instructions, &input).unwrap();
        assert_eq!(Value::from(read.messages), expected);
    }

    #[track_caller]
    fn check_refused(input: Value, param: &str, message: &str) {
        let error = messages(None, &input).unwrap_err().body();
        assert_eq!(error["error"]["param"], param, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(message), "{error}");
    }

    #[test]
    fn items_become_the_messages_they_were_written_as() {
        check(None, json!("Hi"), json!([{"role": "user", "content": "Hi"}]));
        let thought = json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]});
        let said = json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]});
        let call = json!({"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"});
        let other = json!({"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"});
        let result = json!({"type": "function_call_output", "call_id": "a", "output": "1"});
        let parts = json!({"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]});
        let input = json!([
            {"role": "developer", "content": [{"type": "input_text", "text": "B"}, {"type": "input_text", "text": "C"}]},
            {"role": "user", "content": "?"}, thought, said, call, other, result, parts,
            {"role": "assistant", "content": "3"}, {"role": "assistant", "content": "4"},
            {"type": "reasoning", "summary": [], "encrypted_content": "x"}, {"role": "user", "content": "!"},
        ]);
        let called = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        let expected = json!([
            {"role": "system", "content": "A"}, {"role": "developer", "content": "B\nC"}, {"role": "user", "content": "?"},
            {"role": "assistant", "reasoning_content": "Hm", "content": "Let me see.", "tool_calls": [called("a", "f"), called("b", "g")]},
            {"role": "tool", "tool_call_id": "a", "content": "1"}, {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "assistant", "content": "3"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "!"},
        ]);
        check(Some("A"), input, expected);
    }

    #[test]
    fn what_is_no_conversation_is_refused_by_its_path() {
        check_refused(Value::Null, "input", "missing");
        check_refused(json!(1), "input", "a string or a list");
        check_refused(json!([]), "input", "1 to 4096 items, got 0");
        check_refused(json!(["x"]), "input[0]", "an item");
        check_refused(json!([{"content": "x"}]), "input[0].role", "missing");
        check_refused(json!([{"role": "user"}]), "input[0].content", "missing");
        check_refused(
            json!([{"role": "user", "content": "x"}, {"type": "item_reference", "id": "a"}]),
            "input[1]",
            "stores none",
        );
        check_refused(json!([{"type": "computer_call"}]), "input[0].type", "`computer_call`");
        check_refused(
            json!([{"type": "function_call", "call_id": "a", "name": "f"}]),
            "input[0].arguments",
            "missing",
        );
        let image = json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]);
        check_refused(image, "input[0].content[0].type", "got input_image");
    }
}
