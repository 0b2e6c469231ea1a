//! Conversations with tools, as the templates of the great families write them; the templates are short ones of our own with the
//! same constructs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use dsde_text::embedded;
use dsde_text::{Call, CallFormat, ChatTemplate, Conversation, Message, ReasoningFormat, Thoughts};
use serde_json::{Map, Value, json};

/// Functions in a system message; calls whose arguments may be a text or an object; thoughts that can be switched off.
const QWEN: &str = r#"
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.reasoning_content is string %}{{- '\n<think>\n' + message.reasoning_content + '\n</think>' }}{%- endif %}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- elif not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"#;

/// One call per message, `parameters`, and results under a role of their own.
const LLAMA: &str = r#"
{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' and loop.first and tools is not none %}
        {{- '<|start_header_id|>user<|end_header_id|>\n\n' }}
        {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- elif not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"#;

/// Ids of nine characters, functions before the last question, calls as a list.
const MISTRAL: &str = r#"
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {%- if tools is not none and loop.last %}{{- "[AVAILABLE_TOOLS] " + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}{%- endif %}
        {{- "[INST] " + message.content + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}{{- raise_exception("ids have nine characters") }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- " " + message.content|trim + eos_token }}
    {%- endif %}
{%- endfor %}"#;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::parse(br#"{"bos_token": "<s>", "eos_token": "</s>"}"#, Some(source)).unwrap()
}

/// Keys in an order of their own, which prompts keep.
fn tools() -> Vec<Value> {
    let parameters =
        json!({"type": "object", "properties": {"x": {"type": "integer"}, "a": {"type": "string"}}});
    vec![
        json!({"type": "function", "function": {"name": "f", "description": "F.", "parameters": parameters}}),
    ]
}

const TOOL: &str = r#"{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}, "a": {"type": "string"}}}}}"#;

fn call(id: &str, arguments: Value) -> Call {
    Call { id: Some(id.to_owned()), name: "f".to_owned(), arguments }
}

fn result(id: &str, content: &str) -> Message {
    Message { call_id: Some(id.to_owned()), ..Message::new("tool", content) }
}

fn calling(calls: Vec<Call>) -> Message {
    Message { calls, ..Message::new("assistant", "") }
}

fn prompt(source: &str, messages: &[Message], variables: Value) -> Result<String, String> {
    let (tools, variables): (_, Map<String, Value>) = (tools(), serde_json::from_value(variables).unwrap());
    let conversation = Conversation { messages, tools: &tools, variables: Some(&variables) };
    let prompt = template(source).prompt(conversation, None);
    prompt.map(|prompt| prompt.text().to_owned()).map_err(|error| error.to_string())
}

#[test]
fn a_template_with_tools_in_the_system_message_and_marked_calls() {
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Go."),
        Message {
            reasoning: Some("Hm.".to_owned()),
            ..calling(vec![call("1", json!({"x": 1, "a": "é"})), call("2", json!("{no JSON"))])
        },
        result("1", "one"),
        result("2", "two"),
    ];
    let expected = format!(
        "<|im_start|>system\nBe brief.\n\n<tools>\n{TOOL}\n</tools><|im_end|>\n\
         <|im_start|>user\nGo.<|im_end|>\n\
         <|im_start|>assistant\n<think>\nHm.\n</think>\n<tool_call>\n{{\"name\": \"f\", \"arguments\": {{\"x\": 1, \"a\": \"é\"}}}}\n</tool_call>\
         \n<tool_call>\n{{\"name\": \"f\", \"arguments\": {{no JSON}}\n</tool_call><|im_end|>\n\
         <|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n\
         <|im_start|>assistant\n"
    );
    assert_eq!(prompt(QWEN, &messages, json!({})).unwrap(), expected);
    // A variable that is reserved changes nothing.
    let off =
        prompt(QWEN, &messages, json!({"enable_thinking": false, "messages": [], "tools": null})).unwrap();
    assert_eq!(off, format!("{expected}<think>\n\n</think>\n\n"));
    let format = template(QWEN).reasoning_format();
    assert_eq!(Thoughts::after(&expected, format), Thoughts::Possible(ReasoningFormat::Think));
    assert_eq!(Thoughts::after(&off, format), Thoughts::None);
    assert!(Thoughts::after("assistant\n<think>\n", format).have_begun());
}

#[test]
fn a_template_with_one_bare_call_per_message() {
    let messages =
        [Message::new("user", "Go."), calling(vec![call("1", json!({"x": 1}))]), result("1", "one")];
    let tool = serde_json::to_string_pretty(&tools()[0]).unwrap().replace("  ", "    ");
    let expected = format!(
        "<s><|start_header_id|>user<|end_header_id|>\n\n{tool}\n\nGo.<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n{{\"name\": \"f\", \"parameters\": {{\"x\": 1}}}}<|eot_id|>\
         <|start_header_id|>ipython<|end_header_id|>\n\none<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(prompt(LLAMA, &messages, json!({})).unwrap(), expected);
    let two = [Message::new("user", "Go."), calling(vec![call("1", json!({})), call("2", json!({}))])];
    assert!(prompt(LLAMA, &two, json!({})).unwrap_err().contains("one call at a time"));
}

#[test]
fn a_template_that_insists_on_ids() {
    let id = "abcdef123";
    let messages = [
        Message::new("user", "Go."),
        calling(vec![call(id, json!({"x": 1}))]),
        result(id, "1.5"),
        Message::new("assistant", "So."),
        Message::new("user", "On."),
    ];
    let expected = format!(
        "<s>[INST] Go.[/INST][TOOL_CALLS] [{{\"name\": \"f\", \"arguments\": {{\"x\": 1}}, \"id\": \"{id}\"}}]</s>\
         [TOOL_RESULTS] {{\"content\": 1.5, \"call_id\": \"{id}\"}}[/TOOL_RESULTS] So.</s>\
         [AVAILABLE_TOOLS] [{TOOL}][/AVAILABLE_TOOLS][INST] On.[/INST]"
    );
    assert_eq!(prompt(MISTRAL, &messages, json!({})).unwrap(), expected);
    let short = [Message::new("user", "Go."), calling(vec![call("1", json!({}))])];
    assert!(prompt(MISTRAL, &short, json!({})).unwrap_err().contains("nine characters"));
}

#[test]
fn templates_tell_how_calls_are_written() {
    let formats = |source: &str| {
        let template = template(source);
        (template.knows_tools(), template.call_format(), template.reasoning_format())
    };
    assert_eq!(formats(QWEN), (true, Some(CallFormat::Hermes), Some(ReasoningFormat::Think)));
    assert_eq!(formats(LLAMA), (true, Some(CallFormat::Llama), None));
    assert_eq!(formats(MISTRAL), (true, Some(CallFormat::Mistral), None));
    let named = "{{ tools }}[TOOL_CALLS]f[ARGS]{}";
    assert_eq!(formats(named).1, Some(CallFormat::MistralNamed));
    assert_eq!(formats("{{ tools }} <tool_call><function=f>"), (true, None, None));
    assert_eq!(formats("{{ messages }} tools <tool_call>"), (false, None, None));
    let embedded = embedded::chat_template();
    assert_eq!(embedded.call_format(), Some(CallFormat::Hermes));
}

#[test]
fn conversations_with_tools_may_have_a_template_of_their_own() {
    let named = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} <tool_call>"},
    ]});
    let template = ChatTemplate::parse(named.to_string().as_bytes(), None).unwrap();
    let messages = [Message::new("user", "Go.")];
    assert_eq!(template.prompt(&messages, None).unwrap().text(), "plain");
    let tools = tools();
    let conversation = Conversation { messages: &messages, tools: &tools, variables: None };
    assert_eq!(template.prompt(conversation, None).unwrap().text(), "1 <tool_call>");
}
