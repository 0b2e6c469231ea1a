//! What passes a form and what does not, over the embedded vocabulary; forms that are refused.

use super::*;
use crate::ReasoningFormat;
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
    grammars.outline.markers.insert("<tool_call>".to_owned(), token);
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
fn forms_whose_states_cannot_be_counted_are_refused_before_they_are_made() {
    let grammars = grammars();
    let schema = |schema| grammars.json_schema(schema, Thoughts::None);
    let grammar = |text: &str| grammars.grammar(text, Thoughts::None);
    let patterns = |n: usize, pattern: &str| -> Vec<Value> {
        (0..n).map(|i| json!({"pattern": format!("{pattern}{i}")})).collect()
    };
    let wide: String = ('b'..='z').map(|letter| format!("|[a{letter}]{letter}")).collect();
    let wide = format!(".*(a{wide})");
    let refused = |form: Result<Arc<dyn Grammar>, Error>, message: &str| {
        let got = form.map(drop).unwrap_err().to_string();
        assert!(got.contains(message), "{got}");
    };
    for (n, pattern) in [(100, "a"), (4, &*wide)] {
        let all = patterns(n, pattern);
        refused(schema(json!({"type": "string", "allOf": all})), "must hold at once");
        refused(schema(json!({"properties": {"a": {"items": {"allOf": all}}}})), "must hold at once");
        refused(grammar(&format!("start: %json {}", json!({"allOf": all}))), "must hold at once");
        let function =
            Function { name: "f".to_owned(), parameters: Some(json!({"properties": {"a": {"allOf": all}}})) };
        let calls = grammars.calls(CallFormat::Hermes, &[function], false, Thoughts::None);
        refused(calls, "must hold at once");

        // The same, of schemas that meet somewhere.
        let nested: Vec<Value> = all.iter().map(|pattern| json!({"properties": {"a": pattern}})).collect();
        refused(schema(json!({"allOf": nested})), "must hold at once");
        let chain: serde_json::Map<String, Value> = (0..n)
            .map(|i| {
                (
                    i.to_string(),
                    json!({"pattern": format!("{pattern}{i}"), "$ref": format!("#/$defs/{}", i + 1)}),
                )
            })
            .chain([(n.to_string(), json!({"type": "string"}))])
            .collect();
        refused(schema(json!({"$ref": "#/$defs/0", "$defs": chain})), "must hold at once");
        let other: Vec<Value> = all.iter().map(|pattern| json!({"additionalProperties": pattern})).collect();
        refused(schema(json!({"properties": {"a": {"pattern": "x"}}, "allOf": other})), "must hold at once");

        let terminals: Vec<String> = (0..n).map(|i| format!("/{pattern}.*{i}/")).collect();
        refused(grammar(&format!("start: A\nA: {}\n", terminals.join(" & "))), "may go on in too many ways");
    }
    let recursive = json!({"$defs": {"a": {"properties": {"x": {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {
        "x": {"pattern": wide}, "y": {"pattern": wide}, "z": {"pattern": wide}, "w": {"pattern": wide}}}]}}}},
        "$ref": "#/$defs/a"});
    refused(schema(recursive), "must hold at once");
    refused(grammars.regex(&"a?b?".repeat(16_000), Thoughts::None), "may go on in too many ways");
    let keys: serde_json::Map<String, Value> = (0..3000).map(|i| (format!("^{i:04}"), json!({}))).collect();
    refused(schema(json!({"type": "object", "patternProperties": keys})), "at most 64 patterns");
    let values: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
    refused(schema(json!({"enum": values, "pattern": "\\p{L}".repeat(2000)})), "enum times bytes");
    refused(schema(json!({"enum": vec![0; 16_000], "oneOf": vec![true; 6000]})), "options times bytes");
}

#[test]
fn patterns_that_people_combine_are_followed() {
    let grammars = grammars();
    let accepted = |form: Result<Arc<dyn Grammar>, Error>| drop(form.unwrap());
    let schema = |schema| accepted(grammars.json_schema(schema, Thoughts::None));
    let password = json!({"type": "string", "minLength": 8, "maxLength": 64, "allOf": [
        {"pattern": "[A-Z]"}, {"pattern": "[a-z]"}, {"pattern": "[0-9]"}, {"pattern": "[!@#$]"}]});
    schema(password);
    // One of many with a pattern each, and many properties with one each.
    let variants: Vec<Value> = (0..40)
        .map(|i| json!({"properties": {"kind": {"const": i}, "id": {"type": "string", "pattern": format!("^v{i}-[0-9a-f]{{32}}$")}}}))
        .collect();
    schema(json!({"oneOf": variants}));
    let properties: serde_json::Map<String, Value> = (0..60)
        .map(|i| (format!("p{i}"), json!({"type": "string", "pattern": "^[A-Z]{2}[0-9]{4,12}(-[a-z]+)*$"})))
        .collect();
    let base = json!({"type": "object", "properties": {"id": {"type": "string", "format": "uuid"}}});
    schema(json!({"allOf": [base, {"type": "object", "properties": properties}]}));
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,20}$"}, "at": {"type": "string", "format": "date-time"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}, "$ref": "#/$defs/node"});
    schema(tree);
    accepted(grammars.grammar("start: A\nA: /[a-z]{1,20}/ & /.*x.*/ & ~/.*yy.*/\n", Thoughts::None));
    accepted(grammars.regex(r"(\w+@\w+\.[a-z]{2,}(, )?)*", Thoughts::None));
    let names: Vec<String> = (0..5000).map(|i| format!("name {i}")).collect();
    accepted(grammars.choice(&names, Thoughts::None));
}

#[test]
fn numbers_at_the_edges_are_followed_or_refused() {
    let grammars = grammars();
    let integer = |bounds: Value| {
        let mut schema = json!({"type": "integer"});
        schema.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
        grammars.json_schema(schema, Thoughts::None)
    };
    for bounds in [
        json!({"minimum": i64::MIN, "maximum": i64::MAX}),
        json!({"minimum": i64::MIN}),
        json!({"maximum": u64::MAX}),
        json!({"exclusiveMinimum": -1e300}),
        json!({"minimum": 0, "maximum": 9_007_199_254_740_993_u64}),
    ] {
        integer(bounds.clone()).unwrap_or_else(|error| panic!("{bounds}: {error}"));
    }
    for bounds in [
        json!({"const": i64::MIN}),
        json!({"enum": [1, i64::MAX]}),
        json!({"minimum": i64::MIN, "maximum": i64::MIN}),
        json!({"minimum": 9_223_372_036_854_775_808_u64}),
        json!({"minimum": 9_007_199_254_740_993_u64, "maximum": 9_007_199_254_740_993_u64}),
        json!({"const": 9_007_199_254_740_993_u64}),
    ] {
        assert!(integer(bounds.clone()).is_err(), "{bounds}");
        let text = format!("start: %json {}", json!({"anyOf": [bounds]}));
        assert!(grammars.grammar(&text, Thoughts::None).is_err(), "{text}");
        let function =
            Function { name: "f".to_owned(), parameters: Some(json!({"properties": {"a": bounds}})) };
        // Where nothing fits between two bounds, a call leaves out what need not be there.
        if let Err(error) = grammars.calls(CallFormat::Hermes, &[function], false, Thoughts::None) {
            assert!(error.to_string().contains("parameters of the function 'f'"), "{error}");
        } else {
            assert!(bounds.get("minimum").is_some() && bounds.get("maximum").is_some(), "{bounds}");
        }
    }
    check(integer(json!({"const": 1_234_567_890_123_i64})), &["1234567890123"], &["1234567890124"]);
    let number = |bounds: Value| grammars.json_schema(bounds, Thoughts::None);
    let share = number(json!({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}));
    check(share, &["0.5", "0.25", "0.000001"], &["0", "0.0", "0.6", "-0.1"]);
    let loss = number(json!({"type": "number", "exclusiveMaximum": 0, "minimum": -20}));
    check(loss, &["-20", "-0.5", "-3.25"], &["1", "-21"]);
    let loss = number(json!({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}));
    check(loss, &["-0.5", "-0.25"], &["0", "0.0", "1", "-0.6"]);
    let price = number(json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1e9}));
    check(price, &["5", "0.5", "1000000000"], &["0", "0.0", "-1"]);
    let both = number(json!({"type": "number", "exclusiveMinimum": 0, "minimum": 0.25, "maximum": 0.5}));
    check(both, &["0.25", "0.5"], &["0", "0.125"]);
    // A schema that stands where none belongs is looked at by nobody.
    for place in ["#/x", "#/default", "#/x~1y", "#/$defs/a%20b", "#/anyOf/00"] {
        let hidden = json!({"const": i64::MIN});
        let schema =
            json!({"$ref": place, "x": hidden, "default": hidden, "x/y": hidden, "$defs": {"a b": hidden}});
        assert!(grammars.json_schema(schema, Thoughts::None).is_err(), "{place}");
    }
}

#[test]
fn schemas_of_functions_are_followed_as_those_of_answers_are() {
    let parameters = json!({"properties": {
        "tags": {"type": "array", "items": {"type": "string", "format": "path"}, "uniqueItems": true},
        "amount": {"oneOf": [{"type": "number"}, {"type": "null"}]}}});
    let function = |parameters| Function { name: "f".to_owned(), parameters: Some(parameters) };
    let grammars = grammars();
    let calls =
        |parameters| grammars.calls(CallFormat::Hermes, &[function(parameters)], false, Thoughts::None);
    calls(parameters).unwrap();
    let reason = calls(json!({"properties": {"a": {"contains": {"type": "null"}}}})).unwrap_err().to_string();
    assert!(reason.ends_with(r#"it has keywords that are not supported: ["contains"]"#), "{reason}");
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

/// Forms of bytes are those of the whole vocabulary: the same documents have them.
#[test]
fn a_vocabulary_of_bytes_knows_the_same_forms() {
    let whole = grammars();
    let bytes = Grammars::of_bytes(whole.outline().clone()).unwrap();
    let tokens = bytes.outline().clone().byte_words();
    for (regex, text, is_one) in [("ab*", "abbb", true), ("ab*", "abc", false), ("é|ÿ", "ÿ", true)] {
        let mut constraint = bytes.regex(regex, Thoughts::None).unwrap().begin();
        let token = |byte: u8| tokens.iter().position(|word| word == &[byte]).unwrap() as u32;
        let spelled: Vec<u32> = text.bytes().map(token).collect();
        assert_eq!(constraint.advance(&spelled).is_ok(), is_one, "{regex} {text}");
    }
    let fault =
        |grammars: &Grammars, form: &str| grammars.regex(form, Thoughts::None).unwrap_err().to_string();
    assert_eq!(fault(&bytes, "("), fault(&whole, "("));
}

#[test]
fn rules_that_cannot_be_taken_back_or_have_no_bound_are_refused_by_name() {
    let grammars = grammars();
    for (attribute, word) in [
        ("[stop=\"e\"]", "`stop` and `max_tokens`"),
        ("[max_tokens=5]", "`stop` and `max_tokens`"),
        ("[capture]", "captures"),
        ("::_", "parameters"),
    ] {
        let lark = format!("start: a \"!\"\na{attribute}: /[a-z]*/\n");
        let fault = grammars.grammar(&lark, Thoughts::None).unwrap_err().to_string();
        assert!(fault.contains(word), "{lark}: {fault}");
    }
    for attribute in ["[suffix=\"e\"]", "[lazy]", ""] {
        let lark = format!("start: a \"!\"\na{attribute}: /[a-z]*/\n");
        let form = grammars.grammar(&lark, Thoughts::None).unwrap();
        assert!(
            form.begin().allow(&[], &mut vec![0; grammars.outline.vocab_len.div_ceil(32) as usize]).unwrap()
        );
    }
}

/// What may come next takes as long as the square of what came before, as people write it without a thought.
#[test]
fn a_form_that_takes_ever_longer_is_stopped() {
    let grammar = grammars().grammar("start: e \"!\"\ne: e e | /[a-z]/\n", Thoughts::None).unwrap();
    let mut constraint = grammar.begin();
    let token = embedded::tokenizer().encode("a").unwrap()[0];
    let mut mask = vec![0; embedded::tokenizer().vocab_len().div_ceil(32)];
    let lost = (0..4000).find_map(|_| {
        let allowed = constraint.allow(&[], &mut mask);
        allowed.and_then(|_| constraint.advance(&[token])).map(|is_over| assert!(!is_over)).err()
    });
    assert!(lost.is_some());
    // Another answer of the same form is not concerned.
    assert!(grammar.begin().allow(&[token], &mut mask).unwrap());
}
