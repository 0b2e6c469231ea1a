//! Tokens, texts and prompts as Hugging Face's own implementations make them, and what must hold for any text.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};

use dsde_engine::Vocabulary;
use dsde_text::Error;
use dsde_text::embedded;
use dsde_text::{ChatTemplate, Conversation, Date, Message, TEXT_BYTES_MAX, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn fixture_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).unwrap()
}

fn text(case: &Value, field: &str) -> String {
    case[field].as_str().unwrap().to_string()
}

/// Text of all token bytes, as streaming emits them.
fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
    String::from_utf8(bytes).unwrap()
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::parse(b"{}", Some(source)).unwrap()
}

/// What the template makes of one user message, or its complaint.
fn prompt(source: &str) -> Result<String, String> {
    let user = [message("user", "hi")];
    template(source).prompt(&user, None).map(|prompt| prompt.text().to_string()).map_err(|e| e.to_string())
}

#[test]
fn the_embedded_tokenizer_is_that_of_the_embedded_pair() {
    let tokenizer = embedded::tokenizer();
    for model in [dsde_checkpoint::embedded::target(), dsde_checkpoint::embedded::draft()] {
        assert_eq!(model.config().vocab_len, tokenizer.vocab_len());
        assert_eq!(model.config().eos_tokens, [tokenizer.token("<|im_end|>").unwrap()]);
    }
}

#[test]
fn the_embedded_tokenizer_agrees_with_the_reference() {
    let tokenizer = embedded::tokenizer();
    for case in fixture_json("tokens.json").as_array().unwrap() {
        assert_eq!(tokenizer.encode(&text(case, "text")).unwrap(), ids(case), "{case}");
    }
}

#[test]
fn sentence_pieces_agree_with_the_reference() {
    let tokenizer = Tokenizer::open(&fixture("sentencepiece")).unwrap();
    let cases = fixture_json("sentencepiece/tokens.json");
    for case in cases.as_array().unwrap() {
        assert_eq!(tokenizer.encode(&text(case, "text")).unwrap(), ids(case), "{case}");
        assert_eq!(tokenizer.decode(&ids(case)), text(case, "decoded"), "{case}");
    }
}

#[test]
fn sentence_pieces_carry_their_space() {
    let tokenizer = Tokenizer::open(&fixture("sentencepiece")).unwrap();
    let tokens = tokenizer.encode("and caf\u{e9}").unwrap();
    assert_eq!(streamed(&tokenizer, &tokens), " and caf\u{e9}");
    assert_eq!(tokenizer.decode(&tokens), "and caf\u{e9}");
    let byte = tokenizer.token("<0xE9>").unwrap();
    assert_eq!(tokenizer.token_bytes(byte), [0xE9]);
}

#[test]
fn special_tokens_and_unknown_ids_have_no_bytes() {
    let tokenizer = embedded::tokenizer();
    for token in [0, 1, 2, 4096, u32::MAX] {
        assert!(tokenizer.token_bytes(token).is_empty(), "{token}");
    }
    // The vocabulary begins with the three special tokens and the printable characters from '!' on.
    assert_eq!(tokenizer.token_bytes(3), b"!");
    let chat = tokenizer.encode("<|im_start|>user\nhi<|im_end|>").unwrap();
    assert_eq!(streamed(&tokenizer, &chat), "user\nhi");
}

#[test]
fn every_byte_is_a_token_of_a_byte_level_vocabulary() {
    let tokenizer = embedded::tokenizer();
    let mut bytes: Vec<u8> = (0..4096)
        .filter_map(|token| <[u8; 1]>::try_from(tokenizer.token_bytes(token)).ok())
        .map(|[byte]| byte)
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
}

#[test]
fn special_tokens_have_texts_of_their_own() {
    let tokenizer = embedded::tokenizer();
    let chat = "<|im_start|>user\nhi<|im_end|>";
    let tokens = tokenizer.encode(chat).unwrap();
    assert_eq!(tokenizer.decode_with_special(&tokens), chat);
    assert_eq!(
        (tokenizer.special_bytes(tokens[0]), tokenizer.special_bytes(3)),
        (&b"<|im_start|>"[..], &b""[..])
    );
    assert_eq!(tokenizer.special_token_at("<|im_end|>\n"), tokens.last().copied());
    assert_eq!(tokenizer.special_token_at("a<|im_end|>"), None);
}

#[test]
fn every_file_may_name_the_token_that_ends_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    let file = include_bytes!("../../../../models/target/tokenizer.json");
    std::fs::write(folder.path().join("tokenizer.json"), file).unwrap();
    let ends = || Tokenizer::open(folder.path()).unwrap().end_tokens().to_vec();
    assert_eq!(ends(), [0; 0]);
    let [end_of_text, end_of_turn] =
        ["<|endoftext|>", "<|im_end|>"].map(|text| embedded_tokenizer().token(text).unwrap());
    write("tokenizer_config.json", r#"{"eos_token": {"content": "<|im_end|>"}}"#);
    assert_eq!(ends(), [end_of_turn]);
    write("special_tokens_map.json", r#"{"eos_token": "<|endoftext|>"}"#);
    assert_eq!(ends(), [end_of_turn, end_of_text]);
    for nothing in ["{}", r#"{"eos_token": null}"#, r#"{"eos_token": "<none>"}"#] {
        write("special_tokens_map.json", nothing);
        assert_eq!(ends(), [end_of_turn], "{nothing}");
    }
    // The template tells, too.
    assert_eq!(embedded::chat_template().end_of_turn(embedded_tokenizer()), Some(end_of_turn));
    assert_eq!(template("{{ messages[-1].content }}.").end_of_turn(embedded_tokenizer()), None);
}

/// Text of all kinds: any characters, words, white space.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        "[a-zA-Z0-9' ]{0,12}",
        "[ \t\r\n]{0,4}",
        "\\PC{0,6}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn token_bytes_put_together_are_the_text(text in any_text()) {
        let tokenizer = embedded_tokenizer();
        let tokens = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(&streamed(tokenizer, &tokens), &text);
        prop_assert_eq!(tokenizer.decode(&tokens), text);
    }
}

fn embedded_tokenizer() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(embedded::tokenizer)
}

#[test]
fn texts_over_the_limit_are_refused_before_work() {
    let long = "a".repeat(TEXT_BYTES_MAX + 1);
    let error = embedded_tokenizer().encode(&long).unwrap_err();
    assert!(
        matches!(error, Error::TextTooLong { expected: TEXT_BYTES_MAX, got } if got == TEXT_BYTES_MAX + 1)
    );
}

/// A small byte-level tokenizer with `changes` applied to its file.
fn tiny(change: impl Fn(&mut Value)) -> Result<Tokenizer, Error> {
    let mut file = json!({
        "added_tokens": [
            {"id": 3, "content": "<end>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false},
            {"id": 4, "content": "<tool call>", "special": false, "single_word": false, "lstrip": false,
             "rstrip": false, "normalized": false},
        ],
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 5}, "merges": []},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<end>": {"id": "<end>", "ids": [3], "tokens": ["<end>"]}},
        },
    });
    change(&mut file);
    Tokenizer::parse("tiny", file.to_string().as_bytes())
}

#[test]
fn files_cannot_ask_for_cut_prompts() {
    assert_eq!(tiny(|_| ()).unwrap().encode("aab").unwrap(), [0, 0, 1]);
}

#[test]
fn plain_text_gets_the_tokens_around_it() {
    assert_eq!(tiny(|_| ()).unwrap().encode_plain("ab").unwrap(), [3, 0, 1]);
}

#[test]
fn ids_without_an_entry_and_ordinary_added_tokens() {
    let tokenizer = tiny(|_| ()).unwrap();
    assert_eq!(tokenizer.vocab_len(), 6);
    let bytes: Vec<&[u8]> = (0..7).map(|token| tokenizer.token_bytes(token)).collect();
    let expected: [&[u8]; 7] = [b"a", b"b", b"", b"", b"<tool call>", b"ab", b""];
    assert_eq!(bytes, expected);
}

#[test]
fn unusable_tokenizers_are_refused() {
    let refused = |change: fn(&mut Value)| tiny(change).expect_err("refused").to_string();
    let decoder =
        refused(|file| file["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true}));
    assert!(decoder.starts_with("the tokenizer's decoder must be ByteLevel, Metaspace, or"), "{decoder}");
    assert!(refused(|file| file["decoder"] = Value::Null).ends_with("got null"));
    let id = refused(|file| file["model"]["vocab"]["b"] = json!(u32::MAX));
    assert_eq!(id, "tiny: token ids must be below 1048576, got 4294967295");
    let around = refused(|file| file["post_processor"]["special_tokens"]["<end>"]["ids"] = json!([6]));
    assert_eq!(around, "tiny: token ids must be below 6, got 6");
    assert!(
        refused(|file| file["model"] = json!({"type": "Unknown"})).starts_with("tiny is not a tokenizer: ")
    );
    for text in ["", "{}", "[1]", "nonsense"] {
        let error = Tokenizer::parse("tiny", text.as_bytes()).expect_err(text);
        assert!(matches!(error, Error::Tokenizer { .. }), "{text}: {error}");
    }
    let missing = Tokenizer::open(&fixture("llama2")).unwrap_err().to_string();
    assert!(missing.ends_with("llama2 has no tokenizer.json"), "{missing}");
}

#[test]
fn hostile_normalizers_fail_one_text_and_nothing_else() {
    let replace =
        |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let empty =
        tiny(|file| file["normalizer"] = replace(json!({"String": ""}), "x")).unwrap_err().to_string();
    assert!(empty.ends_with("a normalizer that replaces must have a pattern, got an empty one"), "{empty}");
    let chain: Vec<Value> = vec![replace(json!({"String": "a"}), "aaaaaaaa"); 12];
    let growing =
        tiny(|file| file["normalizer"] = json!({"type": "Sequence", "normalizers": chain})).unwrap();
    let error = growing.encode("ab").unwrap_err();
    assert!(matches!(error, Error::TextGrows { expected: 67_108_864, .. }), "{error}");
    assert_eq!(growing.encode("").unwrap(), [0; 0]);
    // Expressions that match nothing, or the end of every line, must not take the process down.
    for pattern in ["", "$", "b*?"] {
        if let Ok(tokenizer) = tiny(|file| file["normalizer"] = replace(json!({"Regex": pattern}), "a")) {
            let _ = tokenizer.encode("ab");
        }
    }
}

#[test]
fn vocabularies_are_compared_token_by_token() {
    let tokenizer = tiny(|_| ()).unwrap();
    tokenizer.same_tokens(&tiny(|file| file["pre_tokenizer"] = Value::Null).unwrap(), 6).unwrap();
    let message =
        |change: fn(&mut Value)| tokenizer.same_tokens(&tiny(change).unwrap(), 6).unwrap_err().to_string();
    let prefix = "draft and target must have the same vocabulary: ";
    let swapped = message(|file| file["model"]["vocab"] = json!({"b": 0, "a": 1, "ab": 5}));
    assert_eq!(swapped, format!("{prefix}token 0 is Some(\"a\") in one, Some(\"b\") in the other"));
    let shorter = |file: &mut Value| file["model"]["vocab"]["ab"] = json!(2);
    let expected = format!("{prefix}token 2 is None in one, Some(\"ab\") in the other");
    assert_eq!(message(shorter), expected);
    // Tokens that only one of them has do not count where no model has embeddings for them.
    tokenizer.same_tokens(&tiny(shorter).unwrap(), 2).unwrap();
}

#[test]
fn chat_templates_agree_with_the_reference() {
    let goldens = fixture_json("chats.json");
    for case in goldens["cases"].as_array().unwrap() {
        let template = &goldens["templates"][text(case, "template")];
        let config = json!({
            "chat_template": template, "bos_token": goldens["bos_token"], "eos_token": goldens["eos_token"],
        });
        let template = ChatTemplate::parse(config.to_string().as_bytes(), None).unwrap();
        let messages = case["messages"].as_array().unwrap();
        let messages: Vec<_> =
            messages.iter().map(|m| message(&text(m, "role"), &text(m, "content"))).collect();
        assert_eq!(template.prompt(&messages, None).unwrap().text(), text(case, "prompt"), "{case}");
        assert_eq!(template.transcript(&messages, None).unwrap().text(), text(case, "transcript"), "{case}");
    }
}

#[test]
fn the_embedded_template_is_chat_ml() {
    let messages = [message("system", "Be brief."), message("user", "Hi")];
    let expected =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(embedded::chat_template().prompt(&messages, None).unwrap().text(), expected);
}

#[test]
fn templates_are_found_where_models_keep_them() {
    let render = |config: Value, file: Option<&str>| {
        let template = ChatTemplate::parse(config.to_string().as_bytes(), file);
        template.and_then(|t| t.prompt(&[], None)).map(|p| p.text().to_string()).map_err(|e| e.to_string())
    };
    let named = |name: &str| json!({"chat_template": [{"name": "x", "template": "X"}, {"name": name, "template": "D"}]});
    assert_eq!(render(json!({"chat_template": "config"}), None).unwrap(), "config");
    assert_eq!(render(json!({"chat_template": "config"}), Some("file")).unwrap(), "file");
    assert_eq!(render(named("default"), None).unwrap(), "D");
    assert!(render(named("y"), None).unwrap_err().starts_with("chat_template must be a text or a list with"));
    assert!(render(json!({"chat_template": 5}), None).unwrap_err().starts_with("chat_template must be"));
    let none = "the model has no chat template; send plain text (--raw)";
    assert_eq!(render(json!({}), None).unwrap_err(), none);
    let tokens = json!({
        "bos_token": {"content": "<s>"}, "eos_token": null,
        "chat_template": "{{ bos_token }}|{{ eos_token }}|{{ eos_token is defined }}",
    });
    assert_eq!(render(tokens, None).unwrap(), "<s>||False");
}

#[test]
fn folders_hold_templates_in_either_file() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ChatTemplate::open(folder.path()).and_then(|t| t.prompt(&[], None));
    assert!(matches!(open(), Err(Error::NoChatTemplate)));
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"chat_template": "config"}"#).unwrap();
    assert_eq!(open().unwrap().text(), "config");
    std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(open().unwrap().text(), "file");
}

#[test]
fn templates_may_refuse_a_conversation() {
    let error = prompt("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(error.contains("roles must alternate"), "{error}");
}

#[test]
fn why_a_template_or_tokenizer_failed_is_told_once() {
    let refusing = ChatTemplate::parse(b"{}", Some("{{ raise_exception('roles must alternate') }}")).unwrap();
    let refused = refusing.prompt(&[], None).unwrap_err();
    assert!(refused.to_string().ends_with("roles must alternate (in chat:1)"), "{refused}");
    let broken = ChatTemplate::parse(b"{}", Some("{% if %}")).err().unwrap();
    for error in [refused, broken] {
        // Who tells an error tells its causes, too.
        assert!(std::error::Error::source(&error).is_none(), "{error} says it all");
    }
}

#[test]
fn the_date_is_what_the_caller_says() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}no date{% endif %}";
    let today = Date::new(2025, 9, 1);
    assert_eq!(template(source).prompt(&[], today).unwrap().text(), "01 Sep 2025");
    assert_eq!(template(source).prompt(&[], None).unwrap().text(), "no date");
    let error = template("{{ strftime_now('%Q') }}").prompt(&[], today).unwrap_err().to_string();
    assert!(error.contains("strftime_now does not know %Q"), "{error}");
}

#[test]
fn json_is_written_as_in_python() {
    let spaced = r#"{{ ["<a href='x'>&", 1, 2.5, none, true, {"k": []}] | tojson }}"#;
    assert_eq!(prompt(spaced).unwrap(), r#"["<a href='x'>&", 1, 2.5, null, true, {"k": []}]"#);
    assert_eq!(prompt("{{ messages[0] | tojson }}").unwrap(), r#"{"role": "user", "content": "hi"}"#);
    assert_eq!(prompt("{{ [1, {'a': 2}] | tojson(indent=1) }}").unwrap(), "[\n 1,\n {\n  \"a\": 2\n }\n]");
    assert!(prompt("{{ 1 | tojson(indent=1000000000) }}").is_err());
}

#[test]
fn numbers_in_json_are_written_as_they_were_read() {
    let numbers = "[3.9787276993102743, 1.00101162, 0.24478442700000003, 3.332884099999996]";
    let tools: Vec<Value> = serde_json::from_str(numbers).unwrap();
    let conversation = Conversation { messages: &[], tools: &tools, variables: None };
    assert_eq!(template("{{ tools | tojson }}").prompt(conversation, None).unwrap().text(), numbers);
}

#[test]
fn templates_that_are_no_programs_are_refused() {
    for source in ["{% if %}", "{{ ", "{% for x in y %}", "{% unknown %}"] {
        let parsed = ChatTemplate::parse(b"{}", Some(source));
        assert!(matches!(parsed, Err(Error::ChatTemplate { .. })), "{source}");
    }
    assert!(matches!(
        ChatTemplate::parse(b"{", None),
        Err(Error::Checkpoint(dsde_checkpoint::Error::Json { .. }))
    ));
}

#[test]
fn hostile_templates_run_out_of_their_limits() {
    let nested = "[".repeat(100_000);
    let sources = [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'a' * 100000000000 }}",
        "{{ ('a' * 1000000) | replace('a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 1000) }}",
        "{% include 'chat' %}",
        "{% extends '/etc/passwd' %}",
        &format!("{{{{ {nested} }}}}"),
    ];
    for source in sources {
        let parsed = ChatTemplate::parse(b"{}", Some(source));
        let rendered = parsed.and_then(|t| t.prompt(&[], None));
        assert!(matches!(rendered, Err(Error::ChatTemplate { .. })), "{}", &source[..source.len().min(80)]);
    }
}

/// Whether a template that nests `40 * n` lists and ends like this stays within its limits.
fn nests(n: usize, end: &str) -> bool {
    let (open, close) = ("[".repeat(40), "]".repeat(40));
    let source = format!(
        "{{% set ns = namespace(x=[]) %}}{{% for i in range({n}) %}}{{% set ns.x = {open}ns.x{close} %}}\
         {{% endfor %}}{end}"
    );
    prompt(&source).is_ok()
}

#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    let ends =
        ["", "{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x] }}", "{{ [ns.x, [ns.x]] | sort }}"];
    for end in ends {
        assert!(nests(4000, end), "{end}");
        assert!(!nests(20_000, end), "{end}");
    }
}

#[test]
fn errors_do_not_repeat_the_conversation() {
    let secret = [message("user", "the secret")];
    let error = template("{{ messages[0].content.nonsense() }}").prompt(&secret, None).unwrap_err();
    assert!(!format!("{error} {error:#} {error:?}").contains("secret"), "{error:?}");
}

#[test]
fn long_outputs_of_cheap_templates_are_refused() {
    let source = "{% set line = 'a' * 50000 %}{% for i in range(100) %}{{ line }}{% endfor %}";
    assert!(matches!(
        template(source).prompt(&[], None),
        Err(Error::TextTooLong { expected: TEXT_BYTES_MAX, got: 5_000_000 })
    ));
}
