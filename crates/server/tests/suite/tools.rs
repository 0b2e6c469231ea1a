//! Calls of functions: the same with speculation on and off, whole and streamed, and of the functions' schemas where one must
//! be called.

use crate::common::{Server, Setup, chat, start, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const POLICIES: [&str; 4] = ["off", "auto", "fixed:k=4", "dsde"];

fn tools() -> Value {
    let city = json!({"type": "string", "enum": ["Paris", "London", "Rome"]});
    let days = json!({"type": "integer", "minimum": 1, "maximum": 9});
    json!([
        {"type": "function", "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": city, "days": days}, "required": ["city", "days"]},
        }},
        {"type": "function", "function": {"name": "get_time"}},
    ])
}

fn asked(more: Value) -> Value {
    with(chat("What is the weather in Paris?"), with(json!({"tools": tools(), "max_tokens": 120}), more))
}

fn named(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

/// What a stream says, put together as clients do.
fn assembled(events: &[Value]) -> (Value, Value) {
    let (mut content, mut calls, mut reason) = (String::new(), Vec::<Value>::new(), Value::Null);
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().unwrap() as usize;
            let arguments = part["function"]["arguments"].as_str().unwrap();
            match calls.get_mut(index) {
                None => {
                    assert_eq!(index, calls.len(), "calls come in order");
                    assert!(part["id"].is_string() && part["type"] == "function", "{part}");
                    calls.push(json!({"name": part["function"]["name"], "arguments": arguments}));
                }
                Some(call) => {
                    assert!(part.get("id").is_none() && part["function"].get("name").is_none(), "{part}");
                    let so_far = call["arguments"].as_str().unwrap();
                    call["arguments"] = json!(format!("{so_far}{arguments}"));
                }
            }
        }
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    (json!({"content": content, "calls": calls}), reason)
}

/// What a whole answer says, in the same shape.
fn told(answer: &Value) -> (Value, Value) {
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |call: &Value| {
        assert!(call["id"].as_str().unwrap().len() > 8 && call["type"] == "function", "{call}");
        call["function"].clone()
    };
    let calls: Vec<Value> = calls.iter().map(call).collect();
    let content = message["content"].as_str().unwrap_or_default();
    (json!({"content": content, "calls": calls}), choice["finish_reason"].clone())
}

/// The answer under every policy, whole and streamed, which is always the same.
async fn same_for_all(server: &Server, body: &Value) -> (Value, Value) {
    let off = told(&server.post(CHAT, with(body.clone(), json!({"policy": "off"}))).await);
    for policy in POLICIES {
        let body = with(body.clone(), json!({"policy": policy}));
        assert_eq!(told(&server.post(CHAT, body.clone()).await), off, "{policy}: {body}");
        let events = server.events(CHAT, with(body.clone(), json!({"stream": true}))).await;
        assert_eq!(assembled(&events), off, "{policy}, streamed: {body}");
    }
    off
}

#[tokio::test]
async fn every_choice_of_tools_gets_the_answer_of_plain_decoding() {
    let server = start(Setup::default()).await;
    let free = |more: Value| asked(with(json!({"max_tokens": 24}), more));
    let (auto, _) = same_for_all(&server, &free(json!({"tool_choice": "auto"}))).await;
    assert!(auto["calls"] == json!([]) && auto["content"] != "", "the small model only talks: {auto}");
    assert_eq!(told(&server.post(CHAT, free(json!({}))).await).0, auto);
    let (none, _) = same_for_all(&server, &free(json!({"tool_choice": "none"}))).await;
    let (without, _) = told(&server.post(CHAT, free(json!({"tools": null}))).await);
    assert_eq!(none, without, "tools that must not be called are not told to the model");
    for tool_choice in [json!("required"), named("get_weather"), named("get_time")] {
        let body = asked(json!({"tool_choice": tool_choice, "parallel_tool_calls": false}));
        let (said, reason) = same_for_all(&server, &body).await;
        assert_eq!((&said["content"], reason), (&json!(""), json!("tool_calls")), "{said}");
        assert_eq!(said["calls"].as_array().unwrap().len(), 1, "{said}");
        check_call(&said["calls"][0]);
    }
    assert!(server.metric("vllm:spec_decode_num_accepted_tokens_total").await > 0.0, "speculation was on");
}

#[tokio::test]
async fn a_required_call_that_is_cut_leaves_no_markup_behind() {
    let server = start(Setup::default()).await;
    for max_tokens in (1..100).step_by(3) {
        let more = json!({"tool_choice": "required", "max_tokens": max_tokens, "policy": "auto"});
        let body = asked(with(more, json!({"parallel_tool_calls": false})));
        let whole = server.post(CHAT, body.clone()).await;
        let (said, reason) = told(&whole);
        assert_eq!((&said["content"], &reason), (&json!(""), &json!("length")), "{whole}");
        let streamed = assembled(&server.events(CHAT, with(body, json!({"stream": true}))).await);
        assert_eq!(streamed, (said.clone(), reason));
        if said["calls"] != json!([]) {
            assert!(max_tokens > 4, "the marker and the name take several tokens");
            return;
        }
    }
    panic!("a call begins within 100 tokens");
}

/// Panics unless the arguments are of the function's schema.
fn check_call(call: &Value) {
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    match call["name"].as_str().unwrap() {
        "get_weather" => {
            assert!(["Paris", "London", "Rome"].contains(&arguments["city"].as_str().unwrap()), "{call}");
            assert!((1..=9).contains(&arguments["days"].as_u64().unwrap()), "{call}");
            assert_eq!(arguments.as_object().unwrap().len(), 2, "{call}");
        }
        "get_time" => assert_eq!(arguments, json!({}), "{call}"),
        name => panic!("no such function: {name}"),
    }
}

#[tokio::test]
async fn sampled_calls_have_their_schemas() {
    let server = start(Setup::default()).await;
    for policy in POLICIES {
        let more =
            json!({"tool_choice": "required", "policy": policy, "temperature": 1.3, "n": 3, "seed": 5});
        let answer = server.post(CHAT, asked(with(more, json!({"max_tokens": 400})))).await;
        for choice in answer["choices"].as_array().unwrap() {
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            assert!((1..=16).contains(&calls.len()), "{choice}");
            calls.iter().for_each(|call| check_call(&call["function"]));
        }
    }
}

#[tokio::test]
async fn a_conversation_goes_on_with_the_results_of_its_calls() {
    let server = start(Setup::default()).await;
    let first = asked(json!({"tool_choice": named("get_weather")}));
    let answer = server.post(CHAT, first.clone()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    let id = &message["tool_calls"][0]["id"];
    let result = json!({"role": "tool", "tool_call_id": id, "content": "Sunny, 21 degrees."});
    let messages = json!([first["messages"][0], message, result]);
    let second = asked(json!({"messages": messages, "max_tokens": 24}));
    let (said, _) = same_for_all(&server, &second).await;
    assert!(!said["content"].as_str().unwrap().is_empty() && said["calls"] == json!([]), "{said}");
    // The model reads calls and results as its template writes them.
    let asked = json!({"messages": messages, "tools": tools()});
    let tokens = server.post("/tokenize", asked).await["tokens"].clone();
    let text = server.post("/detokenize", json!({"tokens": tokens})).await["prompt"].clone();
    let arguments = message["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    let call =
        format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {arguments}}}\n</tool_call>");
    let text = text.as_str().unwrap();
    for part in [&call, "<tool_response>\nSunny, 21 degrees.\n</tool_response>", "\"name\": \"get_time\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_its_field() {
    let server = start(Setup::default()).await;
    let refused = async |body: Value, field: &str, message: &str| {
        let response = server.send(CHAT, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], field, "{error}");
        let got = error["error"]["message"].as_str().unwrap();
        assert!(got.contains(message), "{got}");
    };
    let with_tools = |tools: Value| asked(json!({"tools": tools}));
    let of_function = |function: Value| with_tools(json!([{"type": "function", "function": function}]));
    refused(with_tools(json!([{"type": "web_search"}])), "tools[0]", "type function").await;
    refused(of_function(json!({"name": "two words"})), "tools[0]", "whose name is").await;
    refused(of_function(json!({"name": "f", "parameters": [1]})), "tools[0]", "JSON schema").await;
    let twice = json!([tools()[0], tools()[0]]);
    refused(with_tools(twice), "tools[1]", "already").await;
    let many: Vec<Value> =
        (0..129).map(|i| json!({"type": "function", "function": {"name": format!("f{i}")}})).collect();
    refused(with_tools(json!(many)), "tools", "at most 128").await;
    let long = json!({"name": "f", "description": "x".repeat(300_000)});
    refused(of_function(long), "tools", "at most 262144 bytes").await;
    refused(asked(json!({"tool_choice": "some"})), "tool_choice", "`some`").await;
    refused(asked(json!({"tool_choice": named("other")})), "tool_choice", "not among").await;
    let nothing = json!({"tools": [], "tool_choice": "required"});
    refused(asked(nothing), "tool_choice", "no `tools`").await;
    let form = json!({"tool_choice": "required", "response_format": {"type": "json_object"}});
    refused(asked(form), "tool_choice", "another form").await;
    let endless = json!({"tool_choice": "required", "ignore_eos": true});
    refused(asked(endless), "tool_choice", "decides where the answer ends").await;
    let replaced = json!({"chat_template_kwargs": {"messages": []}});
    refused(asked(replaced), "chat_template_kwargs", "cannot replace `messages`").await;
    let calls = json!([{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]);
    refused(asked(json!({"messages": calls})), "messages[0]", "only an assistant").await;
    let nameless = json!([{"role": "assistant", "tool_calls": [{"function": {}}]}]);
    refused(asked(json!({"messages": nameless})), "messages[0]", "tool_calls[0]").await;
}
