//! What a client gets: routes, streams, and the same text that plain decoding gives.

use std::time::Duration;

use crate::common::{Setup, chat, events, plain, start, with};
use dsde_server::{Config, Shutdown};
use reqwest::StatusCode;
use serde_json::{Value, json};

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("an answer has content")
}

/// Text of one choice of a stream.
fn streamed(events: &[Value], choice: u64) -> String {
    let of_choice = events.iter().flat_map(|event| event["choices"].as_array().expect("a chunk has choices"));
    let of_choice = of_choice.filter(|part| part["index"] == choice);
    of_choice.map(|part| part["delta"]["content"].as_str().or(part["text"].as_str()).unwrap_or("")).collect()
}

#[tokio::test]
async fn parts_of_a_message_are_a_line_each() {
    let server = start(Setup::default()).await;
    let part = |text: &str| json!({"type": "text", "text": text});
    let in_parts = json!([{"role": "user", "content": [part("Hello."), part("Tell me a story.")]}]);
    let tokens = server.post("/tokenize", json!({"messages": in_parts})).await["tokens"].clone();
    let whole =
        server.post("/tokenize", json!({"messages": chat("Hello.\nTell me a story.")["messages"]})).await;
    assert_eq!(tokens, whole["tokens"]);
}

#[tokio::test]
async fn greedy_answers_are_those_of_plain_decoding() {
    let server = start(Setup::default()).await;
    for question in ["Hello.", "Tell me a story about a dog.", "What is 3 + 4?"] {
        let tokens = server.post("/tokenize", json!({"messages": chat(question)["messages"]})).await;
        let tokens: Vec<u32> = serde_json::from_value(tokens["tokens"].clone()).unwrap();
        let expected = plain(tokens.clone(), 24);
        assert!(!expected.is_empty());
        let answer = server.post("/v1/chat/completions", chat(question)).await;
        assert_eq!(content(&answer), expected);
        let events =
            server.events("/v1/chat/completions", with(chat(question), json!({"stream": true}))).await;
        assert_eq!(streamed(&events, 0), expected);
        let by_tokens = json!({"prompt": tokens, "temperature": 0, "max_tokens": 24});
        let completion = server.post("/v1/completions", by_tokens).await;
        assert_eq!(completion["choices"][0]["text"], expected);
    }
    assert!(server.metric("vllm:spec_decode_num_accepted_tokens_total").await > 0.0, "speculation was on");
}

#[tokio::test]
async fn a_chat_answer_has_the_shape_of_the_api() {
    let server = start(Setup::default()).await;
    let answer = server.post("/v1/chat/completions", chat("Hello.")).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "demo");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let usage = &answer["usage"];
    let [prompt, completion, total] =
        ["prompt_tokens", "completion_tokens", "total_tokens"].map(|key| usage[key].as_u64().unwrap());
    assert!(prompt > 0 && completion > 0 && total == prompt + completion);
    assert!(answer.get("metrics").is_none(), "statistics come only when asked for");
    let details = &usage["completion_tokens_details"];
    let [accepted, rejected] = ["accepted_prediction_tokens", "rejected_prediction_tokens"]
        .map(|key| details[key].as_u64().unwrap());
    assert!(accepted + rejected > 0 && accepted <= completion, "{usage}");
    let again = server.post("/v1/chat/completions", chat("Hello.")).await;
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].is_u64());
}

#[tokio::test]
async fn a_stream_has_role_pieces_reason_usage_and_end() {
    let server = start(Setup::default()).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5});
    let events = server.events("/v1/chat/completions", with(chat("Hello."), options)).await;
    let (usage, chunks) = events.split_last().unwrap();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(
        chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["usage"].is_null())
    );
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
}

#[tokio::test]
async fn a_paced_stream_has_the_same_text_in_few_events_of_few_sizes() {
    let streamed_body = |options: Value| {
        let stream = json!({"stream": true, "stream_options": options, "max_tokens": 40, "ignore_eos": true});
        with(chat("Tell me a story about a dog."), stream)
    };
    let server = start(Setup::default()).await;
    let at_once = server.events("/v1/chat/completions", streamed_body(json!({}))).await;
    assert!(at_once.iter().all(|event| event.get("obfuscation").is_none()));
    // Longer than the whole answer takes, so that all of it comes together but what came before the first look.
    let pace = |config: &mut Config| config.pace = Some(Duration::from_secs(1));
    let paced = start(Setup { config: pace, ..Setup::default() }).await;
    for path in ["/v1/chat/completions", "/v1/responses"] {
        let body = match path {
            "/v1/responses" => {
                json!({"input": "Hello.", "temperature": 0, "stream": true, "max_output_tokens": 16})
            }
            _ => streamed_body(json!({"include_usage": true})),
        };
        let lines = paced.send(path, &body).await.text().await.unwrap();
        let data: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("data: {")).collect();
        assert!(data.len() > 3 && data.iter().all(|json| (1 + json.len()) % 256 == 0), "{path}: {data:?}");
    }
    let events = paced.events("/v1/chat/completions", streamed_body(json!({}))).await;
    assert_eq!(streamed(&events, 0), streamed(&at_once, 0));
    assert!(events.len() < at_once.len(), "{} of {}", events.len(), at_once.len());
    let unfilled = streamed_body(json!({"include_obfuscation": false}));
    let unfilled = paced.events("/v1/chat/completions", unfilled).await;
    assert!(unfilled.iter().all(|event| event.get("obfuscation").is_none()), "the client has the last word");
}

#[tokio::test]
async fn n_choices_of_several_prompts_come_in_order_and_repeat_with_their_seed() {
    let server = start(Setup::default()).await;
    let body = json!({
        "prompt": ["The dog", "Once upon a time"], "n": 2, "temperature": 1, "seed": 7, "max_tokens": 12,
        "ignore_eos": true,
    });
    let first = server.post("/v1/completions", body.clone()).await;
    let texts = |answer: &Value| {
        let choices = answer["choices"].as_array().unwrap().clone();
        choices.into_iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&first).len(), 4);
    assert_eq!(first["usage"]["completion_tokens"], 48);
    let off = start(Setup { policy: "off", ..Setup::default() }).await;
    let plain = off.post("/v1/completions", body.clone()).await;
    assert_eq!(texts(&plain), texts(&off.post("/v1/completions", body.clone()).await));
    assert_eq!(texts(&plain), texts(&first), "speculation changes no text that has a seed");
    assert_ne!(texts(&plain)[0], texts(&plain)[1], "choices have streams of their own");
    let mut streamed_texts = Vec::new();
    let events = off.events("/v1/completions", with(body, json!({"stream": true}))).await;
    for choice in 0..4 {
        streamed_texts.push(streamed(&events, choice));
    }
    assert_eq!(streamed_texts, texts(&plain));
}

#[tokio::test]
async fn no_two_choices_of_a_request_and_no_two_requests_without_a_seed_say_the_same() {
    let server = start(Setup::default()).await;
    let asked = |seed: Value| {
        json!({
            "prompt": ["a b c", "a b c", "a b c"], "n": 3, "temperature": 1.3, "max_tokens": 24, "ignore_eos": true,
            "seed": seed,
        })
    };
    let mut texts = std::collections::HashSet::new();
    for seed in [json!(null), json!(null), json!(42)] {
        let answer = server.post("/v1/completions", asked(seed)).await;
        for choice in answer["choices"].as_array().unwrap() {
            let text = choice["text"].as_str().unwrap().to_owned();
            assert!(texts.insert(text.clone()), "{text}");
        }
    }
    assert_eq!(texts.len(), 27);
}

#[tokio::test]
async fn stop_strings_echo_and_bounds_are_honoured() {
    let server = start(Setup::default()).await;
    let base = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 40, "ignore_eos": true});
    let whole =
        server.post("/v1/completions", base.clone()).await["choices"][0]["text"].as_str().unwrap().to_owned();
    let stop: String = whole.chars().skip(20).take(5).collect();
    let expected = &whole[..whole.find(&stop).unwrap()];
    let cut = server.post("/v1/completions", with(base.clone(), json!({"stop": [stop]}))).await;
    assert_eq!(cut["choices"][0]["text"], expected);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    let echoed = server.post("/v1/completions", with(base.clone(), json!({"echo": true}))).await;
    assert_eq!(echoed["choices"][0]["text"], format!("Once upon a time{whole}"));
    let events = server.events("/v1/completions", with(base, json!({"echo": true, "stream": true}))).await;
    assert_eq!(streamed(&events, 0), format!("Once upon a time{whole}"));
}

#[tokio::test]
async fn logprobs_have_an_entry_per_token_and_agree_with_the_text() {
    let server = start(Setup::default()).await;
    let asked = json!({"logprobs": true, "top_logprobs": 3});
    let answer = server.post("/v1/chat/completions", with(chat("Hello."), asked.clone())).await;
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    for entry in entries {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["logprob"]), (3, &entry["logprob"]), "greedy takes the most probable");
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
    let joined: String = entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(joined, format!("{}<|im_end|>", content(&answer)), "the end is a token, too, and no text");
    let events = server
        .events("/v1/chat/completions", with(with(chat("Hello."), asked), json!({"stream": true})))
        .await;
    let parts = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(&parts.flatten().cloned().collect::<Vec<_>>(), entries);
    let body =
        json!({"prompt": "The dog", "logprobs": 2, "temperature": 0, "max_tokens": 6, "ignore_eos": true});
    let completion = server.post("/v1/completions", body).await;
    let logprobs = &completion["choices"][0]["logprobs"];
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[key].as_array().unwrap().len(), 6, "{key}");
    }
    let unlikely = json!({"prompt": "The dog", "logprobs": 0, "temperature": 5, "max_tokens": 6, "seed": 1});
    let completion = server.post("/v1/completions", unlikely).await;
    let logprobs = &completion["choices"][0]["logprobs"];
    for (i, token) in logprobs["tokens"].as_array().unwrap().iter().enumerate() {
        let top = &logprobs["top_logprobs"][i];
        assert_eq!(top[token.as_str().unwrap()], logprobs["token_logprobs"][i], "the emitted one is there");
    }
}

#[tokio::test]
async fn statistics_on_request_agree_with_themselves_and_with_the_metrics() {
    let server = start(Setup { policy: "fixed:k=3", ..Setup::default() }).await;
    let asked = json!({"spec_decode_metrics": "detailed", "max_tokens": 60, "ignore_eos": true});
    let answer = server.post("/v1/chat/completions", with(chat("Tell me a story."), asked.clone())).await;
    let statistics = &answer["metrics"]["speculative_decoding"];
    let list = |key: &str| -> Vec<u64> { serde_json::from_value(statistics[key].clone()).unwrap() };
    let (accepted, drafted) = (list("per_step_accepted"), list("per_step_drafted"));
    assert!(
        drafted.iter().all(|&n| (1..=3).contains(&n)) && accepted.iter().zip(&drafted).all(|(a, d)| a <= d)
    );
    assert_eq!(statistics["num_spec_steps"], accepted.len());
    assert_eq!(statistics["num_draft_tokens"], drafted.iter().sum::<u64>());
    assert_eq!(statistics["num_accepted_draft_tokens"], accepted.iter().sum::<u64>());
    assert_eq!(list("acceptance_histogram").iter().sum::<u64>() as usize, accepted.len());
    let counted = [
        ("vllm:spec_decode_num_drafts_total", accepted.len() as u64),
        ("vllm:spec_decode_num_draft_tokens_total", drafted.iter().sum()),
        ("vllm:spec_decode_num_accepted_tokens_total", accepted.iter().sum()),
        ("vllm:generation_tokens_total", 60),
    ];
    for (name, expected) in counted {
        assert_eq!(server.metric(name).await, expected as f64, "{name}");
    }
    let per_pos = format!("position=\"0\"}} {}", accepted.iter().filter(|&&n| n > 0).count());
    assert!(server.get("/metrics").await.text().await.unwrap().contains(&per_pos), "{per_pos}");
    let streamed = with(with(chat("Tell me a story."), asked), json!({"stream": true}));
    let events = server.events("/v1/chat/completions", streamed).await;
    let last = &events.last().unwrap()["metrics"]["speculative_decoding"];
    assert_eq!(last["per_step_accepted"], statistics["per_step_accepted"], "greedy steps repeat");
}

#[tokio::test]
async fn connections_live_on_after_streams_and_errors() {
    let server = start(Setup::default()).await;
    let streaming = with(chat("Hello."), json!({"stream": true}));
    for _ in 0..3 {
        let response = server.send("/v1/chat/completions", &streaming).await;
        events(&response.text().await.unwrap());
        assert_eq!(server.send("/v1/chat/completions", &json!({})).await.status(), StatusCode::BAD_REQUEST);
        server.post("/v1/chat/completions", chat("Hello.")).await;
    }
    // Raw: the same socket serves a stream and then another request.
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let body = streaming.to_string();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    // A chunked body ends with an empty chunk.
    while !text.ends_with("0\r\n\r\n") {
        let n = socket.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the server closed the connection after {text}");
        text += &String::from_utf8_lossy(&buffer[..n]);
    }
    socket.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let n = socket.read(&mut buffer).await.unwrap();
    assert!(buffer[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..n]));
}

#[tokio::test]
async fn small_routes_answer() {
    let server = start(Setup::default()).await;
    for path in ["/", "/health", "/ready", "/metrics", "/version", "/v1/models", "/v1/models/demo"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!(models["data"][0]["max_model_len"], crate::common::CONTEXT);
    let tokens = server.post("/tokenize", json!({"prompt": "Hello, dog.", "return_token_strs": true})).await;
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let text = server.post("/detokenize", json!({"tokens": tokens["tokens"]})).await;
    assert!(text["prompt"].as_str().unwrap().ends_with("Hello, dog."), "{text}");
}

#[tokio::test]
async fn the_live_feed_tells_the_state_and_ends_with_the_server() {
    let mut server = start(Setup::default()).await;
    let mut feed = server.get("/v1/live").await;
    server.post("/v1/chat/completions", chat("Hello.")).await;
    let mut text = String::new();
    while text.matches("\n\n").count() < 5 {
        text += &String::from_utf8_lossy(&feed.chunk().await.unwrap().unwrap());
    }
    let states: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(states[0]["policy"], "dsde");
    assert!(states.iter().any(|state| state["tokens_per_second"].as_f64().unwrap() > 0.0), "{text}");
    assert!(states.iter().any(|state| !state["lengths"].as_array().unwrap().is_empty()), "{text}");
    server.shutdown.take().unwrap().send(Shutdown::Unannounced).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), server.ended).await;
    assert!(ended.unwrap().unwrap().is_ok());
}

/// What evaluation harnesses ask: how probable a continuation is, and whether it is the greedy one.
#[tokio::test]
async fn prompts_that_are_repeated_have_logprobs_too() {
    let server = start(Setup::default()).await;
    let path = "/v1/completions";
    let base =
        json!({"prompt": "The dog", "logprobs": 1, "temperature": 0, "max_tokens": 6, "ignore_eos": true});
    let generated = server.post(path, base).await["choices"][0].clone();
    let continued = format!("The dog{}", generated["text"].as_str().unwrap());
    let tokens = server.post("/tokenize", json!({"prompt": continued})).await["tokens"].clone();
    let n_tokens = tokens.as_array().unwrap().len();
    let scored = json!({"logprobs": 1, "temperature": 0, "echo": true, "ignore_eos": true});
    let asked = with(scored, json!({"prompt": [tokens, [5]], "max_tokens": 1}));
    let answer = server.post(path, asked.clone()).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[key].as_array().unwrap().len(), n_tokens + 1, "{key}");
    }
    assert_eq!((&logprobs["token_logprobs"][0], &logprobs["top_logprobs"][0]), (&Value::Null, &Value::Null));
    let said = generated["logprobs"]["tokens"].as_array().unwrap();
    for (i, token) in said.iter().enumerate() {
        let at = n_tokens - said.len() + i;
        assert_eq!(&logprobs["tokens"][at], token);
        let (got, expected) = (&logprobs["token_logprobs"][at], &generated["logprobs"]["token_logprobs"][i]);
        assert!((got.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-4, "{got} {expected}");
        assert_eq!(
            logprobs["top_logprobs"][at].as_object().unwrap().len(),
            1,
            "the greedy token is the first"
        );
    }
    let shown: Vec<String> = logprobs["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(answer["choices"][0]["text"], shown.concat());
    let mut offset = 0;
    for (shown, got) in shown.iter().zip(logprobs["text_offset"].as_array().unwrap()) {
        assert_eq!(got, offset);
        offset += shown.chars().count();
    }
    assert_eq!(answer["choices"][1]["logprobs"]["tokens"].as_array().unwrap().len(), 2);

    let streamed = with(asked.clone(), json!({"stream": true}));
    let events = server.events(path, streamed).await;
    for key in ["tokens", "token_logprobs", "text_offset"] {
        let parts = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == 0);
        let parts = parts.filter_map(|choice| choice["logprobs"][key].as_array());
        assert_eq!(Value::Array(parts.flatten().cloned().collect()), logprobs[key], "{key}");
    }

    let nothing = with(asked, json!({"max_tokens": 0}));
    let only_prompts = server.post(path, nothing.clone()).await;
    let choice = &only_prompts["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(continued), &json!("length")));
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), n_tokens);
    assert_eq!(only_prompts["usage"]["completion_tokens"], 0);
    let events = server.events(path, with(nothing, json!({"stream": true, "logprobs": null}))).await;
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text.len(), continued.len() + 1, "{text}");
}

#[tokio::test]
async fn a_last_message_of_the_assistant_is_written_on() {
    let server = start(Setup::default()).await;
    let path = "/v1/chat/completions";
    let whole = server.post(path, with(chat("Hello."), json!({"temperature": 0, "logprobs": true}))).await;
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let begun: String = tokens[..4].iter().map(|token| token["token"].as_str().unwrap()).collect();
    let mut asked = with(chat("Hello."), json!({"temperature": 0, "continue_final_message": true}));
    asked["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": begun}));
    let rest = server.post(path, asked.clone()).await;
    assert_eq!(format!("{begun}{}", content(&rest)), content(&whole));
    let events = server.events(path, with(asked.clone(), json!({"stream": true}))).await;
    assert_eq!(streamed(&events, 0), content(&rest));
    let asks = with(asked.clone(), json!({"add_generation_prompt": false}));
    assert_eq!(content(&server.post(path, asks).await), content(&rest));
    let refuse = async |body: Value, reason: &str| {
        let answer = server.client.post(server.url(path)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let body = answer.text().await.unwrap();
        assert!(body.contains(reason), "{body}");
    };
    refuse(with(asked.clone(), json!({"add_generation_prompt": true})), "cannot both be true").await;
    asked["messages"].as_array_mut().unwrap().pop();
    refuse(asked, "can be continued").await;
}
