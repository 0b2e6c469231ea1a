//! Conversations with tools, as the templates of the great families write them; the templates are short ones of our own with the
//! same constructs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use dsde_text::embedded;
use dsde_text::{
    Call, CallFormat, ChatTemplate, Conversation, Date, Message, ReasoningFormat, Thoughts, Tokenizer,
};
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

/// Messages with headers; functions as types in a message of their own; one call per message, with thoughts until there is an answer.
const HARMONY: &str = r#"
{%- macro type_of(parameter) -%}
    {%- if parameter.type == "integer" -%}number{%- else -%}{{ parameter.type }}{%- endif -%}
{%- endmacro -%}
{{- "<|start|>system<|message|>Date: " + strftime_now("%Y-%m-%d") + "\nReasoning: " + (reasoning_effort or "medium") + "<|end|>" }}
{%- if tools %}
    {{- "<|start|>developer<|message|>namespace functions {\n" }}
    {%- for tool in tools %}
        {{- "type " + tool.function.name + " = (_: {" }}
        {%- for name, parameter in tool.function.parameters.properties.items() %}{{- name + ": " + type_of(parameter) + ", " }}{%- endfor %}
        {{- "}) => any;\n" }}
    {%- endfor %}
    {{- "}<|end|>" }}
{%- endif %}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and "tool_calls" in message -%}
        {%- set future = namespace(found=false) %}
        {%- for later in messages[loop.index:] %}
            {%- if later.role == 'assistant' and "tool_calls" not in later %}{%- set future.found = true %}{%- endif %}
        {%- endfor %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if message.content and message.thinking %}{{- raise_exception("both") }}
        {%- elif message.thinking and not future.found %}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
        {%- endif %}
        {{- "<|start|>assistant to=functions." + tool_call.name + "<|channel|>commentary json<|message|>" + tool_call.arguments|tojson + "<|call|>" }}
        {%- set last_tool_call.name = tool_call.name %}
    {%- elif message.role == 'assistant' and loop.last and not add_generation_prompt %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
    {%- elif message.role == 'assistant' %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
    {%- elif message.role == 'tool' -%}
        {{- "<|start|>functions." + last_tool_call.name + " to=assistant<|channel|>commentary<|message|>" + message.content|tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant
{%- endif -%}"#;

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
    let prompt = template(source).prompt(conversation, Date::new(2025, 8, 5));
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
fn a_template_of_messages_with_headers() {
    let call_message =
        Message { reasoning: Some("Hm.".to_owned()), ..calling(vec![call("1", json!({"x": 1, "a": "é"}))]) };
    let messages = [Message::new("user", "Go."), call_message, result("1", "one")];
    let head = "<|start|>system<|message|>Date: 2025-08-05\nReasoning: high<|end|>\
         <|start|>developer<|message|>namespace functions {\ntype f = (_: {x: number, a: string, }) => any;\n}<|end|>\
         <|start|>user<|message|>Go.<|end|>";
    let thoughts = "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>";
    let called = "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{\"x\": 1, \"a\": \"é\"}<|call|>\
         <|start|>functions.f to=assistant<|channel|>commentary<|message|>\"one\"<|end|>";
    let high = json!({"reasoning_effort": "high"});
    let asked = prompt(HARMONY, &messages, high.clone()).unwrap();
    assert_eq!(asked, format!("{head}{thoughts}{called}<|start|>assistant"));
    let format = template(HARMONY).reasoning_format();
    assert_eq!(Thoughts::after(&asked, format), Thoughts::Possible(ReasoningFormat::Harmony));
    // Text beside thoughts and a call, which models write and the template refuses, is left out.
    let mut crowded = messages.clone();
    crowded[1].content = "I look.".to_owned();
    assert_eq!(prompt(HARMONY, &crowded, high.clone()).unwrap(), asked);
    // Thoughts are forgotten once there is an answer.
    let answered = [&messages[..], &[Message::new("assistant", "So."), Message::new("user", "On.")]].concat();
    let rest = "<|start|>assistant<|channel|>final<|message|>So.<|end|><|start|>user<|message|>On.<|end|>";
    let expected = format!("{head}{called}{rest}<|start|>assistant");
    assert_eq!(prompt(HARMONY, &answered, high).unwrap(), expected);
    let open = [Message::new("user", "Go."), Message::new("assistant", "So far")];
    let open = template(HARMONY).continued(&open, Date::new(2025, 8, 5)).unwrap();
    assert!(open.text().ends_with("<|start|>assistant<|channel|>final<|message|>So far"));
    assert_eq!(Thoughts::after(open.text(), format), Thoughts::None);
}

#[test]
fn an_answer_of_messages_ends_with_the_last_or_a_call() {
    let token = |id: usize, text: &str| json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let added = ["<|end|>", "<|return|>", "<|call|>"];
    let added: Vec<Value> = added.into_iter().enumerate().map(|(i, text)| token(1 + i, text)).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let model = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    let file =
        json!({"added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level, "model": model});
    let tokenizer = Tokenizer::parse("test", file.to_string().as_bytes()).unwrap();
    let ends = |source: &str| {
        let template = template(source);
        (template.end_of_turn(&tokenizer), template.end_of_call(&tokenizer))
    };
    assert_eq!(ends(HARMONY), (Some(2), Some(3)));
    // What ends any message ends no answer.
    assert_eq!(ends(&HARMONY.replace("<|return|>", "<|end|>")), (None, Some(3)));
    assert_eq!(ends("{{ messages[-1].content }}<|end|>"), (Some(1), None));
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
    assert_eq!(formats(HARMONY), (true, Some(CallFormat::Harmony), Some(ReasoningFormat::Harmony)));
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
