//! Chat templates and what they are given.

use std::sync::LazyLock;

use dsde_text::{
    Call, CallFormat, ChatTemplate, Conversation, Date, Message, ReasoningFormat, TEXT_BYTES_MAX, Tokenizer,
    embedded,
};
use serde_json::{Map, Value};

use crate::input::{head_and_body, sections};

/// Messages, tools and variables of an input.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) messages: Vec<Message>,
    tools: Vec<Value>,
    variables: Map<String, Value>,
}

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(embedded::tokenizer);

/// A template writes a bounded text or fails, whatever it says and is told; a text that is continued is a beginning of the transcript
/// or of what the template writes otherwise.
///
/// Input: the template; behind lines of dashes messages, as `Given::read` takes them.
pub fn chat_template(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sections = sections(&text);
    let source = sections.next().unwrap_or_default();
    let config = br#"{"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}"#;
    let _ = (CallFormat::of_template(source), ReasoningFormat::of_template(source));
    let Ok(template) = ChatTemplate::parse(config, Some(source)) else { return };
    let given = Given::read(sections);
    let date = Date::new(2025, 3, 5);
    let plain = template.prompt(given.conversation(), date).map(|prompt| prompt.text().len());
    assert!(
        plain.is_ok_and(|len| len <= TEXT_BYTES_MAX) || template.prompt(given.conversation(), date).is_err()
    );
    let _ = template.end_of_turn(&TOKENIZER);
    let template = template.for_tokenizer(&TOKENIZER).expect("the embedded tokenizer normalises nothing");
    let prompts = [
        template.prompt(given.conversation(), date),
        template.transcript(given.conversation(), None),
        template.continued(given.conversation(), date),
    ];
    for prompt in prompts.into_iter().flatten() {
        let tokens = TOKENIZER.encode_prompt(&prompt).expect("a bounded text has tokens");
        assert_eq!(TOKENIZER.decode_with_special(&tokens), prompt.text());
    }
}

impl Given {
    /// Reads sections whose first line is a role, and the rest what is said. After `tools` and `variables` stands JSON, and `call NAME` adds
    /// a call with what stands below to the message before it.
    pub(crate) fn read<'a>(sections: impl Iterator<Item = &'a str>) -> Self {
        let mut given = Self::default();
        for section in sections {
            let (role, content) = head_and_body(section);
            let json = || serde_json::from_str(content).unwrap_or(Value::Null);
            match (role, given.messages.last_mut()) {
                ("tools", _) => given.tools.extend(json().as_array().cloned().unwrap_or_default()),
                ("variables", _) => given.variables.extend(json().as_object().cloned().unwrap_or_default()),
                ("reasoning", Some(last)) => last.reasoning = Some(content.to_owned()),
                (role, Some(last)) if role.starts_with("call ") => {
                    let name = role["call ".len()..].to_owned();
                    last.calls.push(Call { id: Some("a".to_owned()), name, arguments: json() });
                }
                (role, _) => given.messages.push(Message::new(role, content)),
            }
        }
        given
    }

    pub(crate) fn conversation(&self) -> Conversation<'_> {
        Conversation { messages: &self.messages, tools: &self.tools, variables: Some(&self.variables) }
    }
}
