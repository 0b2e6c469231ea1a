//! Requests with everything that a client may ask for, and what an idle server answers when nothing is guessed.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A request whose answer is known: it is greedy or has a seed.
#[derive(Debug)]
pub struct Form {
    /// What it is about.
    pub name: &'static str,
    /// The route.
    pub path: &'static str,
    /// The request, without a policy.
    pub body: Value,
    /// What its stream says, see [`told`].
    pub expected: Value,
}

/// All of them that the model can be asked.
#[derive(Debug, Default)]
pub struct Forms {
    /// Those with an answer.
    pub known: Vec<Form>,
    /// Those that the server refuses, such as tools where the template knows none.
    pub refused: Vec<&'static str>,
}

impl Forms {
    /// Asks an idle server.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn ask(client: &Client, url: &str) -> Self {
        let mut forms = Self::default();
        for (name, path, body) in requests() {
            let sent =
                client.post(format!("{url}{path}")).json(&with(&body, json!({"policy": "off"}))).send().await;
            let response = sent.expect("an idle server answers");
            if response.status() == StatusCode::BAD_REQUEST {
                forms.refused.push(name);
                continue;
            }
            let stream = response.text().await.expect("a stream is text");
            let expected = told(&stream).unwrap_or_else(|| panic!("{name}: {stream}"));
            forms.known.push(Form { name, path, body, expected });
        }
        forms
    }
}

/// `base` with the fields of `more`.
pub fn with(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    for (name, value) in more.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all
}

/// What a stream says, put together: per choice the text, the calls, the tokens with log-probabilities and the reason of its end.
/// `None` if it is not whole.
pub fn told(stream: &str) -> Option<Value> {
    let mut choices = Vec::<Value>::new();
    let mut events: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    (events.pop()? == "[DONE]").then_some(())?;
    for event in events {
        let event: Value = serde_json::from_str(event).ok()?;
        for choice in event.get("choices")?.as_array()? {
            let index = choice["index"].as_u64()? as usize;
            while choices.len() <= index {
                choices.push(json!({"text": "", "calls": [], "tokens": [], "reason": null}));
            }
            add(&mut choices[index], choice);
        }
    }
    choices.iter().all(|choice| choice["reason"].is_string()).then(|| Value::Array(choices))
}

fn add(told: &mut Value, part: &Value) {
    let text = part["text"].as_str().or_else(|| part["delta"]["content"].as_str()).unwrap_or_default();
    told["text"] = json!(format!("{}{text}", told["text"].as_str().unwrap_or_default()));
    for call in part["delta"]["tool_calls"].as_array().into_iter().flatten() {
        let index = call["index"].as_u64().unwrap_or_default() as usize;
        let before = told["calls"][index].as_str().unwrap_or_default().to_owned();
        let [name, arguments] =
            ["name", "arguments"].map(|key| call["function"][key].as_str().unwrap_or_default());
        if let Some(calls) = told["calls"].as_array_mut() {
            calls.resize(calls.len().max(index + 1), Value::Null);
            calls[index] = json!(format!("{before}{name}{arguments}"));
        }
    }
    let probabilities = &part["logprobs"];
    let of_chat =
        probabilities["content"].as_array().into_iter().flatten().map(|entry| entry["token"].clone());
    let of_text = probabilities["tokens"].as_array().into_iter().flatten().cloned();
    if let Some(tokens) = told["tokens"].as_array_mut() {
        tokens.extend(of_chat.chain(of_text));
    }
    if part["finish_reason"].is_string() {
        told["reason"] = part["finish_reason"].clone();
    }
}

/// Name, route, body.
type Asked = (&'static str, &'static str, Value);

/// What is asked.
fn requests() -> Vec<Asked> {
    let greedy = json!({
        "messages": [{"role": "user", "content": "Tell me about a town by the sea."}],
        "temperature": 0, "max_tokens": 40, "stream": true,
    });
    let sampled = with(&greedy, json!({"temperature": 0.9, "seed": 7}));
    // One behind the others would wait for as long as they keep the server full.
    let paced =
        ("a targeted time per token", CHAT, with(&greedy, json!({"slo_tpot_ms": 50, "priority": -1})));
    [choosing_tokens(&greedy, &sampled), of_a_form(&greedy, &sampled), texts(), vec![paced]].concat()
}

/// Chats that say how each token is chosen, and which are told.
fn choosing_tokens(greedy: &Value, sampled: &Value) -> Vec<Asked> {
    let penalties = json!({"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.4});
    let asked = [
        ("choices with log-probabilities", greedy, json!({"n": 3, "logprobs": true, "top_logprobs": 4})),
        ("a seed", sampled, json!({})),
        ("a seed, top-k, top-p and min-p", sampled, json!({"top_k": 20, "top_p": 0.9, "min_p": 0.02})),
        (
            "a seed, choices and a high temperature",
            sampled,
            json!({"n": 2, "temperature": 1.5, "ignore_eos": true}),
        ),
        ("penalties", greedy, penalties),
        ("penalties with a seed", sampled, json!({"frequency_penalty": 0.7})),
        ("stop strings", greedy, json!({"stop": [" the", "."]})),
        ("biased tokens", greedy, json!({"logit_bias": {"11": -100, "13": 3.5}})),
        ("a least number of tokens", greedy, json!({"min_tokens": 30, "stop_token_ids": [5, 6, 7]})),
    ];
    asked.map(|(name, base, more)| (name, CHAT, with(base, more))).to_vec()
}

/// Chats whose answer must have a form, or may be a call.
fn of_a_form(greedy: &Value, sampled: &Value) -> Vec<Asked> {
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "minimum": 1, "maximum": 999}},
        "required": ["name", "people"], "additionalProperties": false,
    });
    let formatted = json!({"type": "json_schema", "json_schema": {"name": "town", "schema": schema}});
    let formatted = json!({"response_format": formatted, "max_tokens": 100});
    let function = json!({"name": "look_up", "description": "Looks a town up.", "parameters": schema});
    let tools = json!([{"type": "function", "function": function}]);
    let asked = [
        ("a schema", greedy, formatted.clone()),
        ("a schema with a seed", sampled, formatted),
        (
            "a regular expression",
            greedy,
            json!({"structured_outputs": {"regex": "[A-Z][a-z]{3,9}, [0-9]{2}"}}),
        ),
        ("a choice of answers", sampled, json!({"structured_outputs": {"choice": ["yes", "no", "perhaps"]}})),
        (
            "a call that must be",
            greedy,
            json!({"tools": tools, "tool_choice": "required", "max_tokens": 100}),
        ),
        ("a call that may be", greedy, json!({"tools": tools, "max_tokens": 60})),
    ];
    asked.map(|(name, base, more)| (name, CHAT, with(base, more))).to_vec()
}

/// Texts to be continued.
fn texts() -> Vec<Asked> {
    let text = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 30, "stream": true});
    let several = json!({"prompt": ["One", "Two and", "Three"], "n": 2, "seed": 3, "temperature": 1});
    vec![
        ("a text", TEXT, text.clone()),
        ("texts of several prompts", TEXT, with(&text, several)),
        ("a text with log-probabilities", TEXT, with(&text, json!({"logprobs": 3}))),
    ]
}
