//! What a chat template is given: messages, the functions that the model may call, and variables of the template's own.

use minijinja::value::{Serde, Value};
use serde_json::{Map, Value as Json, json};

/// Variables of a template that nobody may replace by variables of their own.
pub const RESERVED_VARIABLES: [&str; 6] =
    ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now"];

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Who wrote it, in the template's words: `system`, `user`, `assistant`, `tool`, ...
    pub role: String,
    /// What was written; may be empty where functions were called.
    pub content: String,
    /// What the assistant thought before it wrote.
    pub reasoning: Option<String>,
    /// The functions that the assistant called.
    pub calls: Vec<Call>,
    /// Of a result: the call that it answers.
    pub call_id: Option<String>,
    /// Who wrote it by name: a function, or one of several users.
    pub name: Option<String>,
}

/// A call of a function in a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Which results refer to.
    pub id: Option<String>,
    /// Of the function.
    pub name: String,
    /// An object; a text only if the assistant wrote no JSON.
    pub arguments: Json,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// The message as templates see it: a mapping that has no keys but those it needs, as templates ask for their presence.
    pub(super) fn to_value(&self) -> Value {
        let text = |text: &String| Value::from(text.as_str());
        let mut entries = vec![("role", text(&self.role)), ("content", text(&self.content))];
        if let Some(reasoning) = &self.reasoning {
            // Templates know one of the names.
            entries.push(("reasoning_content", text(reasoning)));
            entries.push(("reasoning", text(reasoning)));
            entries.push(("thinking", text(reasoning)));
        }
        if !self.calls.is_empty() {
            entries.push(("tool_calls", self.calls.iter().map(Call::to_value).collect()));
        }
        entries.extend(self.call_id.as_ref().map(|id| ("tool_call_id", text(id))));
        entries.extend(self.name.as_ref().map(|name| ("name", text(name))));
        Value::from_pairs(entries)
    }
}

impl Call {
    fn to_value(&self) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments});
        let mut call = Map::new();
        call.extend(self.id.as_ref().map(|id| ("id".to_owned(), json!(id))));
        call.insert("type".to_owned(), json!("function"));
        call.insert("function".to_owned(), function);
        Value::from(Serde(call))
    }
}

/// Everything that a template turns into a prompt; made of messages alone where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// In order.
    pub messages: &'a [Message],
    /// The functions that may be called, as the API writes them: `{"type": "function", "function": {...}}`.
    pub tools: &'a [Json],
    /// Variables of the template's own, such as `enable_thinking`; those of [`RESERVED_VARIABLES`] are left out.
    pub variables: Option<&'a Map<String, Json>>,
}

impl<'a> From<&'a [Message]> for Conversation<'a> {
    fn from(messages: &'a [Message]) -> Self {
        Self { messages, tools: &[], variables: None }
    }
}

impl<'a, const N: usize> From<&'a [Message; N]> for Conversation<'a> {
    fn from(messages: &'a [Message; N]) -> Self {
        messages.as_slice().into()
    }
}

impl<'a> From<&'a Vec<Message>> for Conversation<'a> {
    fn from(messages: &'a Vec<Message>) -> Self {
        messages.as_slice().into()
    }
}
