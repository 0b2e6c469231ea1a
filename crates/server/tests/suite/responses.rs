//! Responses: the answers of chat in another form, whole and streamed, with speculation on and off, and nothing kept.

use crate::common::{Server, Setup, chat, start, with};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = "Tell me a story about a dog.";

fn asked(more: Value) -> Value {
    with(json!({"model": "demo", "input": HELLO, "temperature": 0, "max_output_tokens": 40}), more)
}

fn weather() -> Value {
    let city = json!({"type": "string", "enum": ["Paris", "London", "Rome"]});
    let parameters = json!({"type": "object", "properties": {"city": city}, "required": ["city"]});
    json!({"type": "function", "name": "get_weather", "description": "The weather.", "parameters": parameters, "strict": true})
}

/// Names and data of a stream's events, which agree and are numbered from 0.
async fn events(server: &Server, body: Value) -> Vec<Value> {
    let response = server.send(RESPONSES, &with(body, json!({"stream": true}))).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':')) {
        let (name, data) = block.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{block}");
        assert_eq!(data["sequence_number"], events.len(), "{block}");
        events.push(data);
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap()).collect()
}

/// A response without what differs between two that say the same.
fn compared(mut response: Value) -> Value {
    response["id"].take();
    response["created_at"].take();
    response["usage"]["input_tokens_details"].take();
    for item in response["output"].as_array_mut().unwrap() {
        item["id"].take();
        item["call_id"].take();
    }
    response
}

/// The answer under every policy, whole and streamed, which is always the same.
async fn same_for_all(server: &Server, body: &Value) -> Value {
    let off = server.post(RESPONSES, with(body.clone(), json!({"policy": "off"}))).await;
    for policy in ["off", "auto", "fixed:k=4"] {
        let body = with(body.clone(), json!({"policy": policy}));
        let whole = server.post(RESPONSES, body.clone()).await;
        assert_eq!(compared(whole), compared(off.clone()), "{policy}: {body}");
        let events = events(server, body.clone()).await;
        let last = events.last().unwrap();
        assert_eq!(compared(last["response"].clone()), compared(off.clone()), "{policy}, streamed: {body}");
        check_built(&events, &last["response"]);
    }
    off
}

/// Panics unless the events add up to the response.
fn check_built(events: &[Value], response: &Value) {
    assert_eq!(kinds(&events[..2]), ["created", "in_progress"]);
    assert_eq!(
        (&events[0]["response"]["status"], &events[0]["response"]["output"]),
        (&json!("in_progress"), &json!([]))
    );
    for (i, item) in response["output"].as_array().unwrap().iter().enumerate() {
        let of_item: Vec<&Value> = events.iter().filter(|event| event["output_index"] == i).collect();
        let text = of_item.iter().filter_map(|event| event["delta"].as_str()).collect::<String>();
        let written =
            if item["type"] == "message" { &item["content"][0]["text"] } else { &item["arguments"] };
        assert_eq!(&json!(text), written, "{item}");
        assert_eq!(of_item[0]["type"], "response.output_item.added");
        assert_eq!(of_item[0]["item"]["id"], item["id"]);
        assert_eq!(&of_item.last().unwrap()["item"], item);
    }
}

#[tokio::test]
async fn a_response_says_what_chat_says_under_every_policy_whole_and_streamed() {
    let server = start(Setup::default()).await;
    let expected = server.post(CHAT, with(chat(HELLO), json!({"max_tokens": 40, "policy": "off"}))).await;
    let response = same_for_all(&server, &asked(json!({"metadata": {"a": "b"}}))).await;
    let text = &response["output"][0]["content"][0]["text"];
    assert_eq!(text, &expected["choices"][0]["message"]["content"]);
    let usage = &response["usage"];
    assert_eq!(usage["input_tokens"], expected["usage"]["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], expected["usage"]["completion_tokens"]);
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], 0);
    assert_eq!(
        (&response["object"], &response["store"], &response["metadata"]["a"]),
        (&json!("response"), &json!(false), &json!("b"))
    );
    assert!(response["id"].as_str().unwrap().starts_with("resp_"), "{response}");
    // The same conversation as items, with instructions.
    let items = json!([{"role": "user", "content": [{"type": "input_text", "text": HELLO}]}]);
    let with_items =
        server.post(RESPONSES, asked(json!({"input": items, "instructions": "Be brief."}))).await;
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": HELLO}]);
    let expected =
        server.post(CHAT, with(chat(HELLO), json!({"max_tokens": 40, "messages": messages}))).await;
    assert_eq!(with_items["output"][0]["content"][0]["text"], expected["choices"][0]["message"]["content"]);
    assert_eq!(with_items["usage"]["input_tokens"], expected["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn events_come_in_the_order_of_the_api() {
    let server = start(Setup::default()).await;
    let events = events(&server, asked(json!({"max_output_tokens": 5}))).await;
    let kinds = kinds(&events);
    assert_eq!(kinds[..4], ["created", "in_progress", "output_item.added", "content_part.added"]);
    let ending = ["output_text.done", "content_part.done", "output_item.done", "incomplete"];
    assert_eq!(kinds[kinds.len() - 4..], ending);
    assert!(kinds[4..kinds.len() - 4].iter().all(|kind| *kind == "output_text.delta"), "{kinds:?}");
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["usage"]["output_tokens"], 5);
}

#[tokio::test]
async fn a_conversation_goes_on_when_items_are_passed_back() {
    let server = start(Setup::default()).await;
    let question = json!({"role": "user", "content": "What is the weather in Paris?"});
    let choice = json!({"type": "function", "name": "get_weather"});
    let first =
        json!({"input": [question], "tools": [weather()], "tool_choice": choice, "max_output_tokens": 120});
    let response = same_for_all(&server, &asked(first)).await;
    let [call] = response["output"].as_array().unwrap().as_slice() else { panic!("{response}") };
    assert_eq!(
        (&call["type"], &call["name"], &call["status"]),
        (&json!("function_call"), &json!("get_weather"), &json!("completed"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(["Paris", "London", "Rome"].contains(&arguments["city"].as_str().unwrap()), "{call}");
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny."});
    let second = asked(json!({"input": [question, call, result], "tools": [weather()]}));
    let response = same_for_all(&server, &second).await;
    assert_eq!(response["output"][0]["type"], "message", "{response}");
    let function = json!({"name": "get_weather", "arguments": call["arguments"]});
    let called =
        json!({"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]});
    let messages = json!([question, called, {"role": "tool", "tool_call_id": "a", "content": "Sunny."}]);
    // The model reads the fields of a function in their order.
    let mut function = weather();
    function.as_object_mut().unwrap().shift_remove("type");
    let tools = json!([{"type": "function", "function": function}]);
    let of_chat = json!({"messages": messages, "tools": tools, "max_tokens": 40, "policy": "off"});
    let expected = server.post(CHAT, with(chat(""), of_chat)).await;
    assert_eq!(response["output"][0]["content"][0]["text"], expected["choices"][0]["message"]["content"]);
}

#[tokio::test]
async fn an_answer_can_have_a_form() {
    let server = start(Setup::default()).await;
    let city = json!({"type": "string", "enum": ["Paris", "Rome"]});
    let schema = json!({"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "place", "strict": true, "schema": schema});
    let body = asked(json!({"text": {"format": format}, "max_output_tokens": 80}));
    let response = same_for_all(&server, &body).await;
    let text = response["output"][0]["content"][0]["text"].as_str().unwrap();
    let place: Value = serde_json::from_str(text).unwrap();
    assert!(["Paris", "Rome"].contains(&place["city"].as_str().unwrap()), "{text}");
    assert_eq!(response["text"]["format"], format);
}

#[tokio::test]
async fn refusals_name_the_fields_of_the_route() {
    let server = start(Setup::default()).await;
    let refused = async |more: Value, field: &str, message: &str| {
        let response = server.send(RESPONSES, &asked(more.clone())).await;
        assert_eq!(response.status(), 400, "{more}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], field, "{error}");
        let got = error["error"]["message"].as_str().unwrap();
        assert!(got.contains(message), "{got}");
    };
    refused(json!({"previous_response_id": "resp_1"}), "previous_response_id", "stores nothing").await;
    refused(json!({"max_tokens": 3}), "max_tokens", "use `max_output_tokens`").await;
    refused(json!({"input": []}), "input", "1 to 4096 items").await;
    refused(json!({"input": "dog ".repeat(5000)}), "input", "").await;
    refused(json!({"input": [{"type": "file_search_call"}]}), "input[0].type", "file_search_call").await;
    refused(json!({"tools": [{"type": "web_search"}]}), "tools[0]", "type function").await;
    refused(json!({"tool_choice": "required"}), "tool_choice", "no `tools`").await;
    let call = json!({"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"});
    let input = [vec![json!({"role": "user", "content": "x"})], vec![call; 129]].concat();
    refused(json!({"input": input}), "input[1]", "at most 128").await;
}
