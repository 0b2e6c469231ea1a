//! Chat templates where tools have put them over time.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;

use dsde_text::{ChatTemplate, Error, Message};
use serde_json::{Value, json};

const TEMPLATE: &str = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";

/// The prompt that a folder with these files makes of `hi`.
fn prompt(files: &[(&str, Value)]) -> Result<String, Error> {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let text = contents.as_str().filter(|_| name.ends_with("jinja")).map(str::to_owned);
        fs::write(folder.path().join(name), text.unwrap_or_else(|| contents.to_string())).unwrap();
    }
    let template = ChatTemplate::open(folder.path())?;
    let messages = [Message::new("user", "hi")];
    template.prompt(&messages, None).map(|prompt| prompt.text().to_owned())
}

#[test]
fn special_tokens_come_from_their_map_where_the_configuration_has_none() {
    let map = ("special_tokens_map.json", json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}));
    let config = |config| ("tokenizer_config.json", config);
    let template = json!({"chat_template": TEMPLATE});
    assert_eq!(prompt(&[config(template.clone()), map.clone()]).unwrap(), "<s>hi</s>");
    assert_eq!(prompt(&[config(template.clone())]).unwrap(), "hi");
    let own = json!({"chat_template": TEMPLATE, "bos_token": "<b>", "eos_token": null});
    assert_eq!(prompt(&[config(own), map]).unwrap(), "<b>hi</s>");
}

#[test]
fn a_template_may_stand_in_any_of_its_files() {
    let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "named"}]);
    let (jinja, json, config) = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json");
    let cases = [
        (vec![(jinja, json!("jinja")), (json, json!({"chat_template": "json"}))], "jinja"),
        (vec![(jinja, json!("jinja")), (config, json!({"chat_template": "config"}))], "jinja"),
        (
            vec![(json, json!({"chat_template": "json"})), (config, json!({"chat_template": "config"}))],
            "config",
        ),
        (vec![(json, json!({"chat_template": "json"})), (config, json!({"chat_template": null}))], "json"),
        (vec![(json, json!("text"))], "text"),
        (vec![(json, json!({"chat_template": named}))], "named"),
        (vec![(json, named.clone())], "named"),
        (vec![(config, json!({"chat_template": named}))], "named"),
        (vec![(config, json!({"chat_template": {"default": "mapped", "tool_use": "t"}}))], "mapped"),
    ];
    for (files, expected) in cases {
        assert_eq!(prompt(&files).unwrap(), expected, "{files:?}");
    }
    assert!(matches!(prompt(&[]), Err(Error::NoChatTemplate)));
}
