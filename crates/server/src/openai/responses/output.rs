//! The output of a response: items, and the events of a stream that build them up.

use dsde_text::Part;
use serde_json::{Value, json};

use crate::openai::call_ids::CallIds;

/// Where an item stands.
const IN_PROGRESS: &str = "in_progress";
/// An item that was written to its end.
pub(super) const COMPLETED: &str = "completed";
/// An item that ran out of tokens.
pub(super) const INCOMPLETE: &str = "incomplete";

/// The items of an answer as far as it has come.
#[derive(Clone)]
pub(super) struct Output {
    /// Ends the ids of items.
    id: String,
    ids: CallIds,
    n_calls: usize,
    finished: Vec<Value>,
    open: Option<Item>,
    /// All thoughts.
    pub(super) reasoning: String,
}

/// The item that is being written.
#[derive(Clone)]
struct Item {
    kind: Kind,
    id: String,
    /// Its place in the output.
    index: usize,
    text: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

impl Output {
    /// * `id`: of the request.
    /// * `ids`: of calls, which their results refer to.
    pub(super) fn new(id: &str, ids: CallIds) -> Self {
        Self {
            id: id.to_owned(),
            ids,
            n_calls: 0,
            finished: Vec::new(),
            open: None,
            reasoning: String::new(),
        }
    }

    /// The items that are written to their ends.
    pub(super) fn items(&self) -> &[Value] {
        &self.finished
    }

    /// Goes on with a part of the answer; returns the events that say so.
    pub(super) fn push(&mut self, part: &Part) -> Vec<Value> {
        let mut events = Vec::new();
        let text = match part {
            Part::Reasoning(text) => {
                self.reasoning.push_str(text);
                events.extend(self.be_in(Kind::Reasoning));
                text
            }
            Part::Content(text) => {
                events.extend(self.be_in(Kind::Message));
                text
            }
            Part::Call(name) => {
                let call_id = self.ids.id(0, self.n_calls);
                self.n_calls += 1;
                events.extend(self.be_in(Kind::Call { call_id, name: name.clone() }));
                return events;
            }
            Part::Arguments(text) => text,
        };
        if let Some(item) = self.open.as_mut().filter(|_| !text.is_empty()) {
            item.text.push_str(text);
            events.push(item.delta(text));
        }
        events
    }

    /// Ends the last item; an answer that says nothing is an empty message.
    ///
    /// * `status`: of that item.
    pub(super) fn finish(&mut self, status: &'static str) -> Vec<Value> {
        let mut events = Vec::new();
        if self.open.is_none() && self.finished.is_empty() {
            events.extend(self.be_in(Kind::Message));
        }
        events.extend(self.close(status));
        events
    }

    /// Goes on with an item of a kind, after the end of another one.
    fn be_in(&mut self, kind: Kind) -> Vec<Value> {
        if self.open.as_ref().is_some_and(|item| item.kind == kind) {
            return Vec::new();
        }
        let mut events = self.close(COMPLETED);
        let index = self.finished.len();
        let item =
            Item { id: format!("{}_{}_{index}", kind.prefix(), self.id), kind, index, text: String::new() };
        events.extend(item.opening());
        self.open = Some(item);
        events
    }

    fn close(&mut self, status: &'static str) -> Vec<Value> {
        let Some(item) = self.open.take() else { return Vec::new() };
        self.finished.push(item.value(status));
        item.ending(status)
    }
}

impl Kind {
    fn prefix(&self) -> &'static str {
        match self {
            Self::Reasoning => "rs",
            Self::Message => "msg",
            Self::Call { .. } => "fc",
        }
    }
}

impl Item {
    /// The one part of its content; calls have none.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Reasoning => Some(json!({"type": "reasoning_text", "text": self.text})),
            Kind::Message => {
                Some(json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}))
            }
            Kind::Call { .. } => None,
        }
    }

    fn value(&self, status: &str) -> Value {
        self.with_content(status, self.part().into_iter().collect())
    }

    fn with_content(&self, status: &str, content: Vec<Value>) -> Value {
        let id = &self.id;
        match &self.kind {
            Kind::Reasoning => {
                json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
            }
            Kind::Message => json!({
                "id": id, "type": "message", "role": "assistant", "content": content, "status": status,
            }),
            Kind::Call { call_id, name } => json!({
                "id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": self.text,
                "status": status,
            }),
        }
    }

    fn opening(&self) -> Vec<Value> {
        let item = self.with_content(IN_PROGRESS, Vec::new());
        let added = json!({"type": "response.output_item.added", "output_index": self.index, "item": item});
        let part = self.part().map(|part| self.event("response.content_part.added", json!({"part": part})));
        std::iter::once(added).chain(part).collect()
    }

    fn delta(&self, text: &str) -> Value {
        match self.kind {
            Kind::Reasoning => self.event("response.reasoning_text.delta", json!({"delta": text})),
            Kind::Message => self.event("response.output_text.delta", json!({"delta": text, "logprobs": []})),
            Kind::Call { .. } => self.event("response.function_call_arguments.delta", json!({"delta": text})),
        }
    }

    fn ending(&self, status: &str) -> Vec<Value> {
        let text = &self.text;
        let done = match &self.kind {
            Kind::Reasoning => self.event("response.reasoning_text.done", json!({"text": text})),
            Kind::Message => self.event("response.output_text.done", json!({"text": text, "logprobs": []})),
            Kind::Call { name, .. } => {
                let told = json!({"name": name, "arguments": text});
                self.event("response.function_call_arguments.done", told)
            }
        };
        let part = self.part().map(|part| self.event("response.content_part.done", json!({"part": part})));
        let item = self.value(status);
        let ended = json!({"type": "response.output_item.done", "output_index": self.index, "item": item});
        std::iter::once(done).chain(part).chain([ended]).collect()
    }

    /// An event about the item, or about its content if it has any.
    fn event(&self, kind: &str, more: Value) -> Value {
        let mut event = json!({"type": kind, "item_id": self.id, "output_index": self.index});
        if !matches!(self.kind, Kind::Call { .. }) {
            event["content_index"] = json!(0);
        }
        if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
            event.extend(more);
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of parts and of their end, by the ends of their names.
    fn check(parts: &[Part], expected: &[&str]) -> Output {
        let mut output = Output::new("x", CallIds::new(None));
        let mut events: Vec<Value> = parts.iter().flat_map(|part| output.push(part)).collect();
        events.extend(output.finish(COMPLETED));
        let kind = |event: &Value| event["type"].as_str().unwrap().replacen("response.", "", 1);
        assert_eq!(events.iter().map(kind).collect::<Vec<_>>(), expected);
        output
    }

    #[test]
    fn thoughts_text_and_calls_are_items_one_after_the_other() {
        let parts = [
            Part::Reasoning("Hm".to_owned()),
            Part::Reasoning("m.".to_owned()),
            Part::Content("Yes.".to_owned()),
            Part::Call("f".to_owned()),
            Part::Arguments("{}".to_owned()),
            Part::Call("f".to_owned()),
        ];
        let expected = [
            ["output_item.added", "content_part.added"].as_slice(),
            &["reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"],
            &["content_part.done", "output_item.done", "output_item.added", "content_part.added"],
            &["output_text.delta", "output_text.done", "content_part.done", "output_item.done"],
            &["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"],
            &["output_item.done", "output_item.added", "function_call_arguments.done", "output_item.done"],
        ];
        let output = check(&parts, &expected.concat());
        let [thoughts, message, call, other] = output.items() else { panic!("{:?}", output.items()) };
        assert_eq!(thoughts["content"], json!([{"type": "reasoning_text", "text": "Hmm."}]));
        assert_eq!(message["content"][0]["text"], "Yes.");
        assert_eq!(
            (&call["id"], &call["name"], &call["arguments"]),
            (&json!("fc_x_2"), &json!("f"), &json!("{}"))
        );
        assert_ne!(call["call_id"], other["call_id"]);
    }

    #[test]
    fn an_answer_that_says_nothing_is_an_empty_message() {
        let opening = ["output_item.added", "content_part.added"];
        let ending = ["output_text.done", "content_part.done", "output_item.done"];
        let output = check(&[], &[opening.as_slice(), &ending].concat());
        assert_eq!(output.items()[0]["content"][0]["text"], "");
    }
}
