//! Answers of a form: JSON of a schema, texts of an expression, a choice or a grammar, with speculation on, and the same as without.

use crate::common::{Setup, chat, start, with};
use dsde_policy::registry::ENTRIES;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "animal": {"enum": ["dog", "cat", "bird"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "is_big": {"type": "boolean"},
            "names": {"type": "array", "items": {"enum": ["Tom", "Ben", "Lily"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["animal", "count", "is_big", "names"],
        "additionalProperties": false,
    })
}

fn asked(more: Value) -> Value {
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "pet", "schema": schema(), "strict": true}});
    with(chat("Tell me about a pet."), with(json!({"response_format": format, "max_tokens": 200}), more))
}

fn content(choice: &Value) -> &str {
    choice["message"]["content"].as_str().expect("a choice has content")
}

/// Panics unless the text is of the schema.
fn check(text: &str) {
    let pet: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(["dog", "cat", "bird"].contains(&pet["animal"].as_str().unwrap()), "{text}");
    assert!(pet["count"].as_u64().unwrap() <= 99 && pet["is_big"].is_boolean(), "{text}");
    assert!((1..=3).contains(&pet["names"].as_array().unwrap().len()), "{text}");
    assert_eq!(pet.as_object().unwrap().len(), 4, "{text}");
}

#[tokio::test]
async fn answers_have_the_schema_under_every_policy_and_are_those_of_plain_decoding() {
    let server = start(Setup::default()).await;
    let off = server.post(CHAT, asked(json!({"policy": "off"}))).await;
    check(content(&off["choices"][0]));
    for entry in ENTRIES {
        let policy = if entry.name == "fixed" { "fixed:k=5" } else { entry.name };
        let greedy = server.post(CHAT, asked(json!({"policy": policy}))).await;
        assert_eq!(content(&greedy["choices"][0]), content(&off["choices"][0]), "{policy}");
        assert_eq!(greedy["choices"][0]["finish_reason"], "stop");
        let sampled =
            server.post(CHAT, asked(json!({"policy": policy, "temperature": 1.3, "n": 3, "seed": 5}))).await;
        sampled["choices"].as_array().unwrap().iter().for_each(|choice| check(content(choice)));
    }
    assert!(server.metric("vllm:spec_decode_num_accepted_tokens_total").await > 0.0, "speculation was on");
}

#[tokio::test]
async fn a_json_object_of_any_kind_is_json_as_far_as_it_goes() {
    let server = start(Setup::default()).await;
    let body = with(
        chat("Hello."),
        json!({"response_format": {"type": "json_object"}, "temperature": 1, "n": 8, "seed": 1, "max_tokens": 120}),
    );
    let answer = server.post(CHAT, body).await;
    for choice in answer["choices"].as_array().unwrap() {
        let text = content(choice);
        assert!(text.starts_with('{'), "{text}");
        if choice["finish_reason"] == "stop" {
            assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}");
        }
    }
}

#[tokio::test]
async fn schemas_that_cannot_be_followed_are_refused_and_hurt_nobody() {
    let server = start(Setup::default()).await;
    let refused = async |format: Value, message: &str| {
        let response = server.send(CHAT, &with(chat("x"), json!({"response_format": format}))).await;
        assert_eq!(response.status(), 400, "{format}");
        let error: Value = response.json().await.unwrap();
        let got = error["error"]["message"].as_str().unwrap();
        assert!(got.contains(message), "{got}");
    };
    let of_schema =
        |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    refused(json!({"type": "poem"}), "must have the type").await;
    refused(json!({"type": "json_schema"}), "with a `schema`").await;
    refused(of_schema(json!([1, 2])), "must be an object").await;
    refused(of_schema(json!({"type": "no such"})), "cannot be followed").await;
    refused(of_schema(json!({"type": "string", "pattern": "(("})), "cannot be followed").await;
    refused(of_schema(json!({"description": "x".repeat(70_000)})), "at most 65536 bytes").await;
    let contradicting = json!({"response_format": {"type": "json_object"}, "min_tokens": 5});
    assert_eq!(server.send(CHAT, &with(chat("x"), contradicting)).await.status(), 400);
    server.post(CHAT, asked(json!({}))).await;
}

#[tokio::test]
async fn texts_of_other_forms_are_those_of_plain_decoding() {
    let server = start(Setup::default()).await;
    let gbnf = "root ::= animal (\" and \" root)? \".\"\nanimal ::= (\"a \" | \"the \") (\"dog\" | \"cat\")";
    for (form, pattern) in [
        (json!({"structured_outputs": {"regex": "[A-Z][a-z]{2,9} is [0-9]{1,3}\\."}}), 0),
        (json!({"regex": "(yes|no), [a-z ]{5,30}"}), 1),
        (json!({"guided_choice": ["a dog", "a doghouse", "the sea"]}), 2),
        (json!({"response_format": {"type": "grammar", "grammar": gbnf}}), 3),
        (json!({"grammar": gbnf}), 3),
        (json!({"guided_grammar": "start: \"x\" start | \"y\"\n"}), 4),
        (json!({"format": "json"}), 5),
        (json!({"response_format": {"type": "json_object", "schema": schema()}}), 5),
    ] {
        let body = with(with(chat("Tell me about a dog."), form.clone()), json!({"max_tokens": 120}));
        let off = server.post(CHAT, with(body.clone(), json!({"policy": "off"}))).await;
        for policy in ["auto", "fixed:k=5", "dsde"] {
            let greedy = server.post(CHAT, with(body.clone(), json!({"policy": policy}))).await;
            assert_eq!(content(&greedy["choices"][0]), content(&off["choices"][0]), "{policy} {form}");
        }
        if off["choices"][0]["finish_reason"] == "stop" {
            let text = content(&off["choices"][0]);
            let is_right = match pattern {
                0 => text.ends_with('.') && text.contains(" is "),
                1 => text.starts_with("yes, ") || text.starts_with("no, "),
                2 => ["a dog", "a doghouse", "the sea"].contains(&text),
                3 => text.ends_with('.') && (text.starts_with("a ") || text.starts_with("the ")),
                4 => text.trim_start_matches('x') == "y",
                _ => serde_json::from_str::<Value>(text).unwrap().is_object(),
            };
            assert!(is_right, "{form}: {text}");
        }
    }
}

#[tokio::test]
async fn forms_that_cannot_be_had_are_blamed_on_their_field() {
    let server = start(Setup::default()).await;
    for (form, param, message) in [
        (json!({"regex": "(("}), "regex", "cannot be followed"),
        (json!({"guided_grammar": "start: nothing\n"}), "guided_grammar", "cannot be followed"),
        (json!({"grammar": "root ::= x"}), "grammar", "there is no rule `x`"),
        (json!({"guided_choice": [""]}), "guided_choice", "none of them is empty"),
        (json!({"guided_json": {"$ref": "#"}}), "guided_json", "no answer can have it"),
        (json!({"regex": "a", "format": "json"}), "format", "ask for two"),
        (json!({"regex": "a", "ignore_eos": true}), "regex", "decides where the answer ends"),
    ] {
        let response = server.send(CHAT, &with(chat("x"), form.clone())).await;
        assert_eq!(response.status(), 400, "{form}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(message), "{error}");
    }
    server.post(CHAT, asked(json!({}))).await;
}

#[tokio::test]
async fn a_form_that_is_lost_on_the_way_is_no_failure_of_the_server() {
    let server = start(Setup::default()).await;
    // Many more places at which a part may have begun with every token.
    let grammar = "start: e \"~\"\ne: e e | /[a-z ]/\n";
    let body = with(chat("x"), json!({"grammar": grammar, "temperature": 0, "max_tokens": 1800}));
    let response = server.send(CHAT, &body).await;
    assert_eq!(response.status(), 400);
    assert!(response.text().await.unwrap().contains("could not be followed to its end"));
}
