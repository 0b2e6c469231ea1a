//! What messages say never steers the model.

use std::sync::LazyLock;

use dsde_engine::Vocabulary as _;
use dsde_text::{ChatTemplate, Conversation, Message, Tokenizer, embedded};

use crate::input::{head_and_body, sections};

/// Who may speak.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(embedded::tokenizer);
static TEMPLATE: LazyLock<ChatTemplate> = LazyLock::new(|| {
    let template = embedded::chat_template().for_tokenizer(&TOKENIZER);
    template.expect("the embedded tokenizer normalises nothing")
});

/// The control tokens of a prompt are those of the same conversation in which nobody says anything, and the text is what the template
/// wrote.
///
/// Input: messages between lines of dashes, the first line of each its role.
pub fn control_tokens(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let message = |section| {
        let (role, content) = head_and_body(section);
        let role = ROLES.into_iter().find(|known| *known == role).unwrap_or("user");
        Message::new(role, content)
    };
    let messages: Vec<Message> = sections(&text).map(message).collect();
    let silent: Vec<Message> =
        messages.iter().map(|message| Message::new(message.role.as_str(), "x")).collect();
    assert_eq!(controls(&messages), controls(&silent));
}

fn controls(messages: &[Message]) -> Vec<u32> {
    let conversation = Conversation { messages, tools: &[], variables: None };
    let prompt = TEMPLATE.prompt(conversation, None).expect("the template takes every text");
    let tokens = TOKENIZER.encode_prompt(&prompt).expect("a short text has tokens");
    assert_eq!(TOKENIZER.decode_with_special(&tokens), prompt.text());
    tokens.into_iter().filter(|&token| !TOKENIZER.special_bytes(token).is_empty()).collect()
}
