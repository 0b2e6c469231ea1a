//! What passes a form and what does not, over the embedded vocabulary; forms that are refused.

use super::*;
use crate::embedded;

fn grammars() -> Grammars {
    Grammars::new(&embedded::tokenizer(), &dsde_checkpoint::embedded::target().config().eos_tokens).unwrap()
}

fn followed(schema: Value, text: &str) -> (String, bool) {
    follows(grammars().json_schema(schema, Thoughts::None).unwrap().begin(), text)
}

fn follows(mut constraint: Box<dyn Constraint>, text: &str) -> (String, bool) {
    let tokenizer = embedded::tokenizer();
    let eos = dsde_checkpoint::embedded::target().config().eos_tokens[0];
    let mut passed = Vec::new();
    let allowed = |constraint: &mut Box<dyn Constraint>, path: &[u32], token: u32| {
        let mut mask = vec![0; tokenizer.vocab_len().div_ceil(32)];
        let is_path = constraint.allow(path, &mut mask).unwrap();
        is_path && mask[token as usize / 32] >> (token % 32) & 1 == 1
    };
    for token in tokenizer.encode(text).unwrap() {
        if !allowed(&mut constraint, &[], token) {
            break;
        }
        // Looking further changes nothing.
        allowed(&mut constraint, &[token, token, token], token);
        constraint.advance(&[token]).unwrap();
        passed.push(token);
    }
    (tokenizer.decode(&passed), allowed(&mut constraint, &[], eos))
}

#[test]
fn a_schema_lets_pass_what_has_its_form() {
    let schema = json!({
        "type": "object",
        "properties": {"animal": {"enum": ["dog", "cat"]}, "n": {"type": "integer"}},
        "required": ["animal", "n"],
        "additionalProperties": false,
    });
    let good = r#"{"animal":"dog","n":12}"#;
    assert_eq!(followed(schema.clone(), good), (good.to_owned(), true));
    let (passed, may_end) = followed(schema.clone(), r#"{"animal":"cow","n":12}"#);
    assert!(passed.len() < 14 && !may_end, "{passed}");
    let (passed, may_end) = followed(schema, "Sure, here is a dog");
    assert_eq!((passed.as_str(), may_end), ("", false));
}

#[test]
fn schemas_that_make_no_sense_or_too_much_of_it_are_refused() {
    let grammars = grammars();
    for schema in [
        json!([1]),
        json!({"type": "no such type"}),
        json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}),
        json!({"type": "string", "pattern": "(("}),
        json!({"$ref": "#/nowhere"}),
    ] {
        assert!(grammars.json_schema(schema.clone(), Thoughts::None).is_err(), "{schema}");
    }
    assert!(grammars.json_object(Thoughts::None).is_ok());
}

fn functions() -> Vec<Function> {
    let parameters = json!({
        "type": "object", "properties": {"x": {"type": "integer"}, "y": {"$ref": "#/$defs/y"}}, "required": ["x"],
        "$defs": {"y": {"enum": ["a", "b"]}},
    });
    vec![
        Function { name: "f".to_owned(), parameters: Some(parameters) },
        Function { name: "g".to_owned(), parameters: None },
    ]
}

#[track_caller]
fn check_call(format: CallFormat, are_parallel: bool, thoughts: Thoughts, text: &str, is_whole: bool) {
    let grammar = grammars().calls(format, &functions(), are_parallel, thoughts).unwrap();
    let (passed, may_end) = follows(grammar.begin(), text);
    assert_eq!((passed == text, may_end), (is_whole, is_whole), "{text}: {passed}");
}

#[test]
fn calls_have_the_format_of_the_model_and_the_schema_of_the_function() {
    use CallFormat::{Hermes, Llama, Mistral, MistralNamed};
    let none = Thoughts::None;
    let f = r#"<tool_call>
{"name": "f", "arguments": {"x": 12, "y": "b"}}
</tool_call>"#;
    let g = "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
    check_call(Hermes, false, none, f, true);
    check_call(Hermes, false, none, g, true);
    check_call(Hermes, true, none, &format!("{f}\n{g}"), true);
    check_call(Hermes, false, none, &format!("{f}\n{g}"), false);
    check_call(Hermes, true, none, &f.replace("12", "\"x\""), false);
    check_call(Hermes, true, none, &f.replace("\"f\"", "\"h\""), false);
    check_call(Hermes, true, none, &f.replace("\"y\": \"b\"", "\"z\": 1"), false);
    check_call(Llama, true, none, r#"{"name": "f", "parameters": {"x": 1}}"#, true);
    check_call(
        Mistral,
        true,
        none,
        r#"[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]"#,
        true,
    );
    check_call(MistralNamed, true, none, r#"[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[ARGS]{}"#, true);
}

#[test]
fn thoughts_may_come_before_a_form() {
    use CallFormat::Hermes;
    let format = ReasoningFormat::Think;
    let call = "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
    let thought = format!("<think>\nI could call f.\n</think>\n\n{call}");
    check_call(Hermes, false, Thoughts::Possible(format), &thought, true);
    check_call(Hermes, false, Thoughts::Possible(format), call, true);
    check_call(Hermes, false, Thoughts::None, &thought, false);
    let begun = thought.strip_prefix("<think>").unwrap();
    check_call(Hermes, false, Thoughts::Begun(format), begun, true);
    let grammar = grammars().calls(Hermes, &functions(), false, Thoughts::Begun(format)).unwrap();
    assert_eq!(follows(grammar.begin(), "No end."), ("No end.".to_owned(), false));
    let json = "{\"a\":1}";
    for (thoughts, text) in [
        (Thoughts::Begun(format), format!("Hm.</think>\n{json}")),
        (Thoughts::Possible(format), format!("<think>Hm.</think>{json}")),
        (Thoughts::Possible(format), json.to_owned()),
    ] {
        let grammar = grammars().json_object(thoughts).unwrap();
        assert_eq!(follows(grammar.begin(), &text), (text.clone(), true), "{text}");
    }
}

#[test]
fn forms_and_calls_of_messages_have_headers() {
    use CallFormat::Harmony;
    let (possible, begun) = (Thoughts::POSSIBLE_HARMONY, Thoughts::BEGUN_HARMONY);
    let thoughts = "I could call f.<|end|><|start|>assistant";
    let header = "<|channel|>analysis<|message|>";
    let call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"x\": 12, \"y\": \"b\"}";
    for (thoughts, text) in [
        (possible, call.to_owned()),
        (possible, format!("{header}{thoughts}{call}")),
        (begun, format!("{thoughts}{call}")),
    ] {
        check_call(Harmony, true, thoughts, &text, true);
        check_call(Harmony, true, thoughts, &text.replace("functions.f", "functions.h"), false);
        check_call(Harmony, true, thoughts, &text.replace("12", "true"), false);
    }
    let grammar = grammars().json_object(possible).unwrap();
    for (text, is_whole) in [
        (format!("{header}{thoughts}<|channel|>final<|message|>{{\"a\":1}}"), true),
        ("<|channel|>final<|message|>{\"a\":1}".to_owned(), true),
        ("{\"a\":1}".to_owned(), false),
    ] {
        let (passed, may_end) = follows(grammar.begin(), &text);
        assert_eq!((passed == text, may_end), (is_whole, is_whole), "{text}: {passed}");
    }
    // An answer that goes on in the last message is the form alone.
    let grammar = grammars().json_object(Thoughts::None).unwrap();
    assert_eq!(follows(grammar.begin(), "{}"), ("{}".to_owned(), true));
}

#[test]
fn markers_that_are_tokens_are_those_tokens() {
    let mut grammars = grammars();
    let token = 1;
    grammars.markers.insert("<tool_call>", token);
    let mut constraint =
        grammars.calls(CallFormat::Hermes, &functions(), false, Thoughts::None).unwrap().begin();
    let mut mask = vec![0; embedded::tokenizer().vocab_len().div_ceil(32)];
    assert!(constraint.allow(&[], &mut mask).unwrap());
    let n_allowed: u32 = mask.iter().map(|word| word.count_ones()).sum();
    assert!(n_allowed == 1 && mask[0] == 1 << token, "{n_allowed}");
    assert!(!constraint.advance(&[token]).unwrap());
    let rest = "\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
    assert_eq!(follows(constraint, rest), (rest.to_owned(), true));
}

#[track_caller]
fn check(grammar: Result<Arc<dyn Grammar>, Error>, whole: &[&str], broken: &[&str]) {
    let grammar = grammar.unwrap();
    for text in whole {
        assert_eq!(follows(grammar.begin(), text), ((*text).to_owned(), true), "{text}");
    }
    for text in broken {
        assert_ne!(follows(grammar.begin(), text), ((*text).to_owned(), true), "{text}");
    }
}

#[test]
fn expressions_match_whole_answers() {
    let grammars = grammars();
    check(grammars.regex("[a-c]{2}/[0-9]+", Thoughts::None), &["ab/12"], &["ab/", "abc/1", "xab/12"]);
    check(grammars.regex("^(yes|no)$", Thoughts::None), &["yes", "no"], &["yesno", "maybe"]);
    check(grammars.regex("a\\$", Thoughts::None), &["a$"], &["a"]);
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let texts = ["a dog", "a dog's \"home\"\n", "ä"].map(str::to_owned);
    check(
        grammars().choice(&texts, Thoughts::None),
        &["a dog", "a dog's \"home\"\n", "ä"],
        &["a", "a dogs", "a dog a dog"],
    );
}

#[test]
fn grammars_may_be_written_in_two_ways() {
    let grammars = grammars();
    let lark = "start: item (\", \" item)*\nitem: WORD | \"[\" start \"]\"\nWORD: /[a-z]+/\n";
    let gbnf = "# a list\nroot ::= item (\", \" item)*\nitem ::= word\n  | \"[\" root \"]\"\nword ::= [a-z]+";
    for text in [lark, gbnf] {
        check(grammars.grammar(text, Thoughts::None), &["a", "a, [b, [c]], d"], &["a,b", "[a", "A"]);
    }
    let flat = "root ::= (\"if\" | [a-z]+) \"!\"? ws\nws ::= [ \\t]*";
    check(grammars.grammar(flat, Thoughts::None), &["if", "ifx!", "ix  "], &["!", "if!!"]);
    let json = r#"root ::= value
value ::= object | string | [0-9]+ | ("true" | "false") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
string ::= "\"" ([^"\\\x00-\x1F] | "\\" ["\\/bfnrt])* "\"" ws
ws ::= [ \t\n]{0,3}"#;
    check(
        grammars.grammar(json, Thoughts::None),
        &[r#"{"a": {"b\"": 12}, "c":true}"#, "{}"],
        &["{", r#"{"a":}"#],
    );
}

#[test]
fn forms_that_make_no_sense_or_too_much_of_it_are_refused_in_plain_words() {
    let grammars = grammars();
    let refused = |form: Result<Arc<dyn Grammar>, Error>, message: &str| {
        let got = form.unwrap_err().to_string();
        assert!(got.contains(message), "{got}");
        assert!(!["verbose", "NoExtension", "backtrace"].iter().any(|word| got.contains(word)), "{got}");
        assert!(got.len() < 500, "{got}");
    };
    refused(grammars.json_schema(json!({"$ref": "#"}), Thoughts::None), "no answer can have it");
    refused(
        grammars.json_schema(json!({"contains": {"type": "null"}}), Thoughts::None),
        "keywords that are not supported",
    );
    refused(grammars.regex("((", Thoughts::None), "");
    refused(grammars.regex("(?=a)b", Thoughts::None), "");
    refused(grammars.regex(&"(".repeat(60_000), Thoughts::None), "");
    refused(grammars.regex(&"a".repeat(70_000), Thoughts::None), "at most 65536 bytes");
    refused(grammars.choice(&[], Thoughts::None), "at least one text");
    refused(grammars.choice(&[String::new()], Thoughts::None), "none of them is empty");
    refused(grammars.grammar("start: nothing\n", Thoughts::None), "");
    refused(grammars.grammar("start: start\n", Thoughts::None), "");
    refused(grammars.grammar("root ::= root", Thoughts::None), "");
    refused(grammars.grammar("", Thoughts::None), "");
    refused(
        grammars.grammar(&format!("start: {}", "(".repeat(60_000)), Thoughts::None),
        "brackets may be open",
    );
    // Compiled lazily or refused, but at once.
    let _ = grammars.regex("(((a{1,1000}){1,1000}){1,1000}){1,1000}b", Thoughts::None);
    let chain: String = (0..5000).map(|i| format!("a{i}:a{}\n", i + 1)).collect();
    let _ = grammars.grammar(&format!("start: a0\n{chain}a5000: \"x\"\n"), Thoughts::None);
    let chain: String = (0..5000).map(|i| format!("A{i}:A{}\n", i + 1)).collect();
    let _ = grammars.grammar(&format!("start: A0\n{chain}A5000: \"x\"\n"), Thoughts::None);
}

#[test]
fn annotations_are_no_reason_to_refuse() {
    let set = json!({"type": "array", "items": {"type": "string", "format": "path"}, "uniqueItems": true});
    assert_eq!(followed(set, r#"["a","a"]"#), (r#"["a","a"]"#.to_owned(), true));
    for format in schema::FORMATS {
        assert!(
            grammars().json_schema(json!({"type": "string", "format": format}), Thoughts::None).is_ok(),
            "{format}"
        );
    }
}
