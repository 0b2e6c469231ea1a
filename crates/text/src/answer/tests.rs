use proptest::prelude::*;

use super::*;

fn reader(format: CallFormat) -> AnswerReader {
    let names = vec!["f".to_owned(), "get_weather".to_owned()];
    AnswerReader::new(
        None,
        Thoughts::None,
        Some(ExpectedCalls { format, names, are_parallel: true, are_required: false }),
    )
}

fn thinker(is_reasoning: bool, format: Option<CallFormat>) -> AnswerReader {
    let calls = format.map(|format| ExpectedCalls {
        format,
        names: Vec::new(),
        are_parallel: true,
        are_required: false,
    });
    let format = ReasoningFormat::Think;
    let thoughts = if is_reasoning { Thoughts::Begun(format) } else { Thoughts::Possible(format) };
    AnswerReader::new(Some(format), thoughts, calls)
}

/// Reads a text in pieces of so many characters.
fn read(mut reader: AnswerReader, text: &str, piece_len: usize) -> Vec<Part> {
    let characters: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    for piece in characters.chunks(piece_len.max(1)) {
        for part in reader.push(&piece.iter().collect::<String>()) {
            part.push_to(&mut parts);
        }
    }
    reader.finish().into_iter().for_each(|part| part.push_to(&mut parts));
    parts
}

fn content(text: &str) -> Part {
    Part::Content(text.to_owned())
}

fn call(name: &str, arguments: &str) -> [Part; 2] {
    [Part::Call(name.to_owned()), Part::Arguments(arguments.to_owned())]
}

#[track_caller]
fn check(reader: &AnswerReader, text: &str, expected: &[Part]) {
    for piece_len in [1, 2, 3, 7, text.len()] {
        assert_eq!(read(reader.clone(), text, piece_len), expected, "{text} in pieces of {piece_len}");
    }
}

#[track_caller]
fn check_text(format: CallFormat, text: &str) {
    check(&reader(format), text, &[content(text)]);
}

#[test]
fn hermes_calls_stand_between_marks() {
    let hermes = reader(CallFormat::Hermes);
    let f = call("f", r#"{"x": 1}"#);
    check(&hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>", &f);
    let two = "Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{\"x\": 1}}</tool_call>\n<tool_call>\n{\"arguments\": {\"a\": \"}<\\\"\"}, \"name\": \"g\"}\n</tool_call>\n";
    let [g, g_arguments] = call("g", r#"{"a": "}<\""}"#);
    let [f_name, f_arguments] = f.clone();
    check(&hermes, two, &[content("Let me see.\n"), f_name, f_arguments, g, g_arguments]);
    let nothing = "<tool_call>{\"name\": \"f\"}</tool_call>";
    check(&hermes, nothing, &call("f", "{}"));
    check(&hermes, "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", &call("f", "{}"));
    let quoted = r#"<tool_call>{"name": "f", "arguments": "{\"x\": 1}"}</tool_call>"#;
    check(&hermes, quoted, &f);
    let surrounded =
        r#"<tool_call>{"id": 7, "name": "f", "arguments": {"x": 1}, "more": [{}]}</tool_call> Done."#;
    let [name, arguments] = f.clone();
    check(&hermes, surrounded, &[name, arguments, content(" Done.")]);
    let open = "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}";
    let [name, arguments] = f.clone();
    check(&hermes, open, &[name.clone(), arguments.clone(), name, arguments]);
}

#[test]
fn llama_calls_are_bare_objects_of_known_functions() {
    let llama = reader(CallFormat::Llama);
    let f = call("f", r#"{"x": "1"}"#);
    check(&llama, r#"{"name": "f", "parameters": {"x": "1"}}"#, &f);
    check(&llama, r#"<|python_tag|>{"type": "function", "name": "f", "parameters": {"x": "1"}}"#, &f);
    let two = r#"{"name": "f", "parameters": {"x": "1"}}; {"name": "f", "parameters": {"x": "1"}}"#;
    let [name, arguments] = f.clone();
    check(&llama, two, &[name.clone(), arguments.clone(), name, arguments]);
    // Behind the marker it can be nothing else.
    check(&llama, r#"<|python_tag|>{"name": "h", "parameters": {}}"#, &call("h", "{}"));
}

#[test]
fn mistral_calls_are_a_list_or_follow_their_names() {
    let mistral = reader(CallFormat::Mistral);
    let f = call("f", r#"{"x": [1]}"#);
    let [name, arguments] = f.clone();
    check(&mistral, r#"[TOOL_CALLS] [{"name": "f", "arguments": {"x": [1]}}]"#, &f);
    let two = r#"[TOOL_CALLS][{"name": "f", "arguments": {"x": [1]}, "id": "123456789"}, {"name": "f", "arguments": {"x": [1]}}]"#;
    check(&mistral, two, &[name.clone(), arguments.clone(), name.clone(), arguments.clone()]);
    let named = reader(CallFormat::MistralNamed);
    check(&named, r#"[TOOL_CALLS]f[ARGS]{"x": [1]}"#, &f);
    check(&named, r#"[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"x": [1]}"#, &f);
    check(&named, r#"[TOOL_CALLS]f{"x": [1]}"#, &f);
    let two = r#"Well. [TOOL_CALLS]f[ARGS]{"x": [1]}[TOOL_CALLS]f[ARGS]{"x": [1]}"#;
    check(&named, two, &[content("Well. "), name.clone(), arguments.clone(), name, arguments]);
}

#[test]
fn what_is_no_call_is_text() {
    use CallFormat::{Hermes, Llama, Mistral, MistralNamed};
    for text in [
        "Hello.",
        "  \n",
        "\n\n  Hello.",
        "a < b, <tool, <tool_cal",
        "<<tool_call",
        "<tool_call>",
        "<tool_call>{\"name\": \"f\"",
        "<tool_call>{\"name\": 5}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>not JSON</tool_call> <tool_call>{]</tool_call>",
        "{\"name\": \"f\", \"arguments\": {}}",
    ] {
        check_text(Hermes, text);
    }
    for text in [
        r#"{"name": "unknown", "parameters": {}}"#,
        r#"{"name": "f", "surname": "g", "parameters": {}}"#,
        r#"{"animal": "dog"}"#,
        "{}",
        r#"Call it: {"name": "f", "parameters": {}}"#,
        r#"<|python_tag|>f.call(x="1")"#,
    ] {
        check_text(Llama, text);
    }
    for text in ["[TOOL_CALLS]", "[TOOL_CALLS] []", "[1, 2]", "[TOOL_CALLS][[", "[TOOL_CALLS] [1]"] {
        check_text(Mistral, text);
    }
    for text in ["[TOOL_CALLS]f", "[TOOL_CALLS]f[ARGS", "[TOOL_CALLS]f[X]{}", "[TOOL_CALLS]two words{}"] {
        check_text(MistralNamed, text);
    }
}

#[test]
fn a_call_that_is_cut_keeps_what_came() {
    let cut = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"abc";
    check(&reader(CallFormat::Hermes), cut, &call("f", "{\"x\": \"abc"));
    let unclosed = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool";
    check(&reader(CallFormat::Hermes), unclosed, &call("f", "{\"x\": 1}"));
}

#[test]
fn where_a_call_is_required_its_cut_beginning_is_no_text() {
    use CallFormat::{Hermes, Llama, Mistral, MistralNamed};
    for (format, whole) in [
        (Hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>"),
        (Llama, "{\"name\": \"f\", \"parameters\": {\"x\": 1}}"),
        (Mistral, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"x\": 1}}]"),
        (MistralNamed, "[TOOL_CALLS]f[ARGS]{\"x\": 1}"),
    ] {
        let names = vec!["f".to_owned()];
        let required = ExpectedCalls { format, names, are_parallel: true, are_required: true };
        let required = AnswerReader::new(None, Thoughts::None, Some(required));
        let arguments_at = whole.find("{\"x\"").unwrap();
        for (end, _) in whole.char_indices() {
            let [name, arguments] =
                call("f", &whole[arguments_at..end.clamp(arguments_at, arguments_at + 8)]);
            let expected = if end <= arguments_at { vec![] } else { vec![name, arguments] };
            check(&required, &whole[..end], &expected);
        }
    }
}

#[test]
fn text_that_might_become_a_call_is_held_up_to_a_bound() {
    let mut hermes = reader(CallFormat::Hermes);
    let long = format!("<tool_call>{{\"arguments\": {{\"x\": \"{}", "x".repeat(2 * HELD_BYTES_MAX));
    let told = hermes.push(&long);
    assert!(matches!(&told[..], [Part::Content(text)] if *text == long), "it is text by now");
}

#[test]
fn where_one_call_is_wanted_the_first_is_told() {
    let names = vec!["f".to_owned()];
    let one = ExpectedCalls { format: CallFormat::Hermes, names, are_parallel: false, are_required: false };
    let two = "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call><tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 2}}</tool_call>";
    check(&AnswerReader::new(None, Thoughts::None, Some(one)), two, &call("f", "{\"x\": 1}"));
}

#[test]
fn thoughts_are_parted_from_the_answer() {
    let thought = Part::Reasoning("I <think> so,\n then".to_owned());
    let text = "<think>\nI <think> so,\n then\n</think>\n\nYes. </think>";
    check(&thinker(false, None), text, &[thought.clone(), content("Yes. </think>")]);
    let begun = "\nI <think> so,\n then </think>Yes.";
    check(&thinker(true, None), begun, &[thought.clone(), content("Yes.")]);
    check(&thinker(true, None), "I <think> so,\n then", std::slice::from_ref(&thought));
    check(&thinker(true, None), "a <</think>b", &[Part::Reasoning("a <".to_owned()), content("b")]);
    check(&thinker(false, None), "No <think>thoughts</think>", &[content("No <think>thoughts</think>")]);
    check(&thinker(false, None), " <thin", &[content(" <thin")]);
    let [name, arguments] = call("f", "{}");
    let calls = "<think>I <think> so,\n then</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    check(&thinker(false, Some(CallFormat::Hermes)), calls, &[thought, name, arguments]);
}

/// A reader of the messages of gpt-oss.
fn messages(calls: bool, are_parallel: bool) -> AnswerReader {
    let names = vec!["f".to_owned(), "get_weather".to_owned()];
    let calls = calls.then_some(ExpectedCalls {
        format: CallFormat::Harmony,
        names,
        are_parallel,
        are_required: false,
    });
    AnswerReader::new(Some(ReasoningFormat::Harmony), Thoughts::POSSIBLE_HARMONY, calls)
}

fn thought(text: &str) -> Part {
    Part::Reasoning(text.to_owned())
}

#[test]
fn messages_are_thoughts_text_or_calls_by_their_headers() {
    let both = messages(true, true);
    let answer = "<|channel|>analysis<|message|>Two < three.<|end|><|start|>assistant<|channel|>final<|message|>Yes: 2 <| 3.<|return|>";
    check(&both, answer, &[thought("Two < three."), content("Yes: 2 <| 3.")]);
    check(&messages(false, false), answer, &[thought("Two < three."), content("Yes: 2 <| 3.")]);
    let [name, arguments] = call("get_weather", r#"{"city": "Oslo <|"}"#);
    let thinking = "<|channel|>analysis<|message|>I ask.<|end|><|start|>assistant";
    for header in [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        " to=functions.get_weather<|channel|>commentary json<|message|>",
        " to=functions.get_weather<|channel|>commentary<|message|>",
        "<|channel|>commentary to=get_weather <|constrain|>json<|message|>",
        "<|channel|>analysis to=functions.get_weather code<|message|> ",
    ] {
        let text = format!(r#"{thinking}{header}{{"city": "Oslo <|"}}<|call|>"#);
        check(&both, &text, &[thought("I ask."), name.clone(), arguments.clone()]);
        // The prompt's own header is continued, and the end may be the token that is not shown.
        let text = format!(r#"{header}{{"city": "Oslo <|"}}"#);
        check(&both, &text, &[name.clone(), arguments.clone()]);
    }
    let preamble = r#"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|> <|call|>"#;
    let [name, nothing] = call("f", "{}");
    check(&both, preamble, &[content("I look."), name, nothing]);
}

#[test]
fn of_several_messages_each_is_told() {
    let f = |x: u32| {
        format!("<|start|>assistant<|channel|>commentary to=functions.f<|message|>{{\"x\": {x}}}<|call|>")
    };
    let two = [f(1), f(2)].concat();
    let [name, first] = call("f", "{\"x\": 1}");
    let [_, second] = call("f", "{\"x\": 2}");
    check(&messages(true, true), &two, &[name.clone(), first.clone(), name.clone(), second]);
    check(&messages(true, false), &two, &[name, first]);
    let message =
        |channel: &str, text: &str| format!("<|start|>assistant<|channel|>{channel}<|message|>{text}<|end|>");
    let all = [("analysis", "a"), ("commentary", "b"), ("analysis", "c"), ("final", "d"), ("other", "e")];
    let all: String = all.iter().map(|(channel, text)| message(channel, text)).collect();
    check(&messages(true, true), &all, &[thought("a"), content("b"), thought("\nc"), content("\nd\ne")]);
    // Ends that were forgotten.
    let open = "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|start|>assistant<|channel|>final<|message|>c";
    check(&messages(true, true), open, &[thought("a"), content("b\nc")]);
}

#[test]
fn what_is_no_message_is_text() {
    for text in ["Hello.", " Hello <|end", "to", "{\"a\": 1}", "<p>", "t\n", "t<|en"] {
        check(&messages(true, true), text, &[content(text)]);
    }
    let long = format!("<|channel|>{}", "a ".repeat(1000));
    let told = read(messages(true, true), &long, 7);
    assert!(matches!(&told[..], [Part::Content(text)] if text.starts_with("<|channel|>a a ")), "{told:?}");
    // Headers without messages say nothing.
    for text in
        ["", " ", "<|channel|>analysis", "<|start|>assistant to=functions.f<|channel|>commentary json"]
    {
        check(&messages(true, true), text, &[]);
    }
    // Where there can be no calls, and for whom is no function.
    let to = |who: &str| format!("<|channel|>commentary to={who}<|message|>{{}}<|call|>");
    check(&messages(false, false), &to("functions.f"), &[content("{}")]);
    check(&messages(true, true), &to("browser.search"), &[content("{}")]);
    check(&messages(true, true), &to("functions."), &[content("{}")]);
}

#[test]
fn a_prompt_leaves_a_header_thoughts_or_text() {
    let after = |prompt: &str| Thoughts::after(prompt, Some(ReasoningFormat::Harmony));
    let question = "<|start|>user<|message|>Hello.<|end|>";
    assert_eq!(after(&format!("{question}<|start|>assistant")), Thoughts::POSSIBLE_HARMONY);
    assert_eq!(after(question), Thoughts::POSSIBLE_HARMONY);
    let begun = format!("{question}<|start|>assistant<|channel|>analysis<|message|>I");
    assert_eq!(after(&begun), Thoughts::BEGUN_HARMONY);
    let last = format!("{question}<|start|>assistant<|channel|>final<|message|>Hel");
    assert_eq!(after(&last), Thoughts::None);
    let read_after = |thoughts, text| {
        check(
            &AnswerReader::new(Some(ReasoningFormat::Harmony), thoughts, None),
            text,
            &match thoughts {
                Thoughts::None => vec![content("lo.")],
                _ => vec![thought("lo.")],
            },
        );
    };
    read_after(Thoughts::None, "lo.<|return|>");
    read_after(Thoughts::BEGUN_HARMONY, "lo.<|end|>");
}

fn any_format() -> impl Strategy<Value = CallFormat> {
    use CallFormat::{Hermes, Llama, Mistral, MistralNamed};
    prop_oneof![Just(Hermes), Just(Llama), Just(Mistral), Just(MistralNamed)]
}

/// Texts that look like calls, broken in all ways.
fn any_answer() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<tool_call>".to_owned()),
        Just("</tool_call>".to_owned()),
        Just("<|python_tag|>".to_owned()),
        Just("[TOOL_CALLS]".to_owned()),
        Just("[ARGS]".to_owned()),
        Just("<|channel|>analysis<|message|>".to_owned()),
        Just(
            "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>".to_owned()
        ),
        Just("<|end|>".to_owned()),
        Just("<|call|>".to_owned()),
        Just("<think>".to_owned()),
        Just("</think>".to_owned()),
        Just("{\"name\": \"f\", \"arguments\": {\"x\": 1}}".to_owned()),
        Just("{\"name\": \"f\", \"parameters\": ".to_owned()),
        Just("[{\"name\": \"get_weather\", \"arguments\"".to_owned()),
        "[\\[\\]{}\":, \n;<>/\\\\f]{0,6}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn how_a_text_is_cut_changes_nothing(
        text in any_answer(), format in any_format(), thinks in any::<Option<bool>>(), piece_len in 1..9_usize,
    ) {
        let mut whole = reader(format);
        whole.reasoning = thinks.map(|is_reasoning| ReasoningReader::new(ReasoningFormat::Think, is_reasoning));
        let expected = read(whole.clone(), &text, usize::MAX);
        prop_assert_eq!(read(whole, &text, piece_len), expected);
    }

    #[test]
    fn how_messages_are_cut_changes_nothing(
        text in any_answer(), calls in any::<bool>(), piece_len in 1..9_usize,
    ) {
        let expected = read(messages(calls, true), &text, usize::MAX);
        prop_assert_eq!(read(messages(calls, true), &text, piece_len), expected);
    }

    #[test]
    fn texts_without_calls_are_kept_whole(text in any_answer(), format in any_format()) {
        let parts = read(reader(format), &text, 3);
        if !parts.iter().any(|part| matches!(part, Part::Call(_))) {
            let told: String = parts.iter().map(|part| match part {
                Part::Content(text) => text.as_str(),
                _ => "",
            }).collect();
            prop_assert_eq!(told, text);
        }
    }
}
