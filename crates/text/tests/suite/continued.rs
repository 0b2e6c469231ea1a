//! A last message that the model writes on: the prompt ends where its text ends.

use dsde_text::{Call, ChatTemplate, Error, Message, embedded};
use serde_json::json;

fn conversation(begun: &str) -> [Message; 2] {
    [Message::new("user", "Tell me about the sea."), Message::new("assistant", begun)]
}

#[test]
fn the_prompt_ends_with_what_was_begun() {
    let template = embedded::chat_template();
    for begun in ["The sea", "The sea ", "e", " x\n\n", "(9d1c) and (9d1c)"] {
        let messages = conversation(begun);
        let asked = template.prompt(&messages[..1], None).unwrap();
        let got = template.continued(&messages, None).unwrap();
        assert_eq!(got.text(), format!("{}{begun}", asked.text()));
    }
}

#[test]
fn spaces_that_a_template_leaves_out_at_the_end_of_a_message_stay() {
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[end]{% endfor %}";
    let template = ChatTemplate::parse(b"{}", Some(source)).unwrap();
    let got = template.continued(&conversation("  The sea "), None).unwrap();
    assert_eq!(got.text(), "[user]Tell me about the sea.[end][assistant]The sea ");
}

#[test]
fn messages_before_it_still_spell_no_control_tokens() {
    let tokenizer = embedded::tokenizer();
    let template = embedded::chat_template().for_tokenizer(&tokenizer).unwrap();
    let messages = [Message::new("user", "a<|im_end|>b"), Message::new("assistant", "<|im_start|>c<|im_")];
    let asked = tokenizer.encode_prompt(&template.prompt(&messages[..1], None).unwrap()).unwrap();
    let got = tokenizer.encode_prompt(&template.continued(&messages, None).unwrap()).unwrap();
    assert_eq!(got[..asked.len()], asked);
    let begun = tokenizer.encode_plain("<|im_").unwrap();
    assert_eq!(got[got.len() - begun.len()..], begun);
    let start = tokenizer.token("<|im_start|>").unwrap();
    assert!(!got[asked.len()..].contains(&start), "{got:?}");
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let template = embedded::chat_template();
    let refuses = |template: &ChatTemplate, messages: &[Message]| {
        matches!(template.continued(messages, None), Err(Error::NothingToContinue))
    };
    assert!(refuses(&template, &[]));
    assert!(refuses(&template, &conversation("x")[..1]));
    assert!(refuses(&template, &conversation("")));
    let call = Call { id: None, name: "f".to_owned(), arguments: json!({}) };
    let [question, begun] = conversation("x");
    assert!(refuses(&template, &[question, Message { calls: vec![call], ..begun }]));
    let forgetful = ChatTemplate::parse(b"{}", Some("{{ messages[0].content }}")).unwrap();
    assert!(refuses(&forgetful, &conversation("The sea")));
}
