//! Tokenizers and chat templates of GGUF files: tokens as the programs make them that trained them, and what is refused.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};

use dsde_checkpoint::gguf::{Gguf, Metadata, Value};
use dsde_engine::Vocabulary;
use dsde_text::{ChatTemplate, Conversation, Error, Message, Tokenizer};
use serde_json::json;

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const SPLITS: &str = "tokenizer.ggml.pre";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/vocabularies").join(name)
}

fn metadata(name: &str) -> Metadata {
    Gguf::open(&path(name)).unwrap().metadata().clone()
}

fn goldens(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// A file with other values of some keys; without a value the key is left out.
fn changed<const N: usize>(name: &str, changes: [(&str, Option<Value>); N]) -> Metadata {
    let metadata = metadata(name);
    let is_kept = |key: &&str| changes.iter().all(|(changed, _)| changed != key);
    let kept =
        metadata.keys().filter(is_kept).map(|key| (key.to_string(), metadata.get(key).unwrap().clone()));
    let new = changes.iter().filter_map(|(key, value)| Some((key.to_string(), value.clone()?)));
    kept.chain(new).collect()
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_string()))
}

fn texts(texts: &[&str]) -> Option<Value> {
    Some(Value::Texts(texts.iter().map(|text| text.to_string()).collect()))
}

fn open(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_gguf("test", metadata).unwrap()
}

/// Text of all token bytes, as streaming emits them.
fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
    String::from_utf8(bytes).unwrap()
}

/// A vocabulary of the SentencePiece kind, made of pieces with their scores and kinds.
fn pieces(pieces: &[(&str, f64, i64)]) -> Metadata {
    let values = [
        ("tokenizer.ggml.model", Value::Text("llama".to_string())),
        (TOKENS, Value::Texts(pieces.iter().map(|(text, ..)| text.to_string()).collect())),
        (SCORES, Value::Floats(pieces.iter().map(|(_, score, _)| *score).collect())),
        (KINDS, Value::Signeds(pieces.iter().map(|(.., kind)| *kind).collect())),
        ("tokenizer.ggml.add_space_prefix", Value::Flag(false)),
    ];
    values.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

#[test]
fn byte_level_tokens_agree_with_the_reference_however_texts_are_split() {
    let goldens = goldens("byte_level.json");
    let inputs: Vec<String> = serde_json::from_value(goldens["texts"].clone()).unwrap();
    for (name, ids) in goldens["ids"].as_object().unwrap() {
        let tokenizer = open(&changed("byte_level.gguf", [(SPLITS, text(name))]));
        let expected: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(inputs.len(), expected.len());
        for (input, expected) in inputs.iter().zip(expected) {
            assert_eq!(tokenizer.encode(input).unwrap(), expected, "{name}: {input:?}");
        }
    }
}

#[test]
fn sentence_pieces_agree_with_the_reference() {
    let tokenizer = open(&metadata("sentence_piece.gguf"));
    for case in goldens("sentence_piece.json").as_array().unwrap() {
        let input = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(input).unwrap(), expected, "{input:?}");
        assert_eq!(tokenizer.decode(&expected), input.replace('\u{2581}', " "), "{input:?}");
    }
}

/// A vocabulary of Gemma 4: pieces with the ends of words that merges make of them, and bytes for what has no piece.
#[test]
fn pieces_may_be_joined_by_ranked_merges() {
    let mut all: Vec<(String, i64)> = ["<bos>", "<turn|>", "<|tool_response>"]
        .iter()
        .zip([3, 3, 4])
        .map(|(t, k)| (t.to_string(), k))
        .collect();
    all.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    let words = ["\u{2581}", "a", "b", "c", "ab", "\u{2581}ab", "bc", "\n", "\n\n"];
    all.extend(words.map(|text| (text.to_string(), 1)));
    let first = 3 + 256;
    let values = [
        ("tokenizer.ggml.model", text("gemma4")),
        (TOKENS, Some(Value::Texts(all.iter().map(|(text, _)| text.clone()).collect()))),
        (KINDS, Some(Value::Signeds(all.iter().map(|(_, kind)| *kind).collect()))),
        ("tokenizer.ggml.merges", texts(&["a b", "b c", "\u{2581} ab", "\n \n"])),
        ("tokenizer.ggml.bos_token_id", Some(Value::Unsigned(0))),
        ("tokenizer.ggml.add_space_prefix", Some(Value::Flag(false))),
    ];
    let file = values.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect();
    let tokenizer = open(&file);
    let id = |word: &str| first + words.iter().position(|found| *found == word).unwrap() as u32;
    // The first merge goes first, wherever it is.
    assert_eq!(tokenizer.encode("abc ab").unwrap(), [id("ab"), id("c"), id("\u{2581}ab")]);
    assert_eq!(tokenizer.encode("bc\n\n\n").unwrap(), [id("bc"), id("\n\n"), id("\n")]);
    // Two bytes.
    let bytes = tokenizer.encode("a\u{e9}<|tool_response>").unwrap();
    assert_eq!(bytes, [id("a"), 3 + 0xc3, 3 + 0xa9, 2]);
    assert_eq!(tokenizer.decode(&bytes[..3]), "a\u{e9}");
    assert_eq!(tokenizer.encode_plain("a").unwrap(), [0, id("a")]);
    assert_eq!(tokenizer.end_tokens(), [1, 2]);
}

#[test]
fn token_bytes_put_together_are_the_text() {
    let tokenizer = open(&metadata("byte_level.gguf"));
    for input in ["", " a", "caf\u{e9} \u{4f60}\u{597d}\u{1f600}\n\n", "<tool>x</tool>    y"] {
        assert_eq!(streamed(&tokenizer, &tokenizer.encode(input).unwrap()), input);
    }
    let tokenizer = open(&metadata("sentence_piece.gguf"));
    assert_eq!(streamed(&tokenizer, &tokenizer.encode("the \u{1f600}").unwrap()), " the \u{1f600}");
    assert!(tokenizer.has_leading_space());
    let add_space = "tokenizer.ggml.add_space_prefix";
    let tokenizer = open(&changed("sentence_piece.gguf", [(add_space, Some(Value::Flag(false)))]));
    assert_eq!(streamed(&tokenizer, &tokenizer.encode("the \u{1f600}").unwrap()), "the \u{1f600}");
    assert!(!tokenizer.has_leading_space());
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_text() {
    let tokenizer = open(&metadata("byte_level.gguf"));
    let tokens = tokenizer.encode("<|im_start|>a<tool><|im_end|>").unwrap();
    let [start, _, tool, end] = tokens[..] else { panic!("{tokens:?}") };
    assert_eq!([start, end], [1, 2]);
    assert_eq!(
        (tokenizer.token_bytes(start), tokenizer.special_bytes(start)),
        (&b""[..], &b"<|im_start|>"[..])
    );
    assert_eq!((tokenizer.token_bytes(tool), tokenizer.special_bytes(tool)), (&b"<tool>"[..], &b""[..]));
}

#[test]
fn rows_that_fill_up_the_embedding_are_no_tokens() {
    // The trained vocabulary has 600 entries, three more follow, and five rows without a token.
    let tokenizer = open(&metadata("byte_level.gguf"));
    assert_eq!(tokenizer.vocab_len(), 603);
    assert_eq!(tokenizer.token("[PAD603]"), None);
}

#[test]
fn texts_end_at_tokens_named_by_id_and_by_text() {
    // Ids 0 to 2 are <|endoftext|>, <|im_start|>, <|im_end|>; the file names 2.
    let ends = |metadata: &Metadata| open(metadata).end_tokens().to_vec();
    assert_eq!(ends(&metadata("byte_level.gguf")), [2, 0]);
    let id = |id| Some(Value::Unsigned(id));
    let more = [("tokenizer.ggml.eot_token_id", id(1)), ("tokenizer.ggml.eom_token_id", id(300))];
    assert_eq!(ends(&changed("byte_level.gguf", more)), [2, 1, 300, 0]);
    assert_eq!(ends(&changed("byte_level.gguf", [("tokenizer.ggml.eos_token_id", None)])), [0, 2]);
    // A part of an answer ends with <|end|> where <|return|> ends all of it; a piece of text ends nothing.
    let ends = |kind| ends(&pieces(&[("<|end|>", 0.0, 3), ("<|return|>", 0.0, 3), ("</s>", 0.0, kind)]));
    assert_eq!((ends(1), ends(3)), (vec![1], vec![2, 1]));
    let phi = pieces(&[("<|end|>", 0.0, 3), ("a", 0.0, 1)]);
    assert_eq!(open(&phi).end_tokens(), [0]);
}

#[test]
fn plain_text_begins_and_ends_as_the_file_says() {
    const ADDS: [&str; 2] = ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"];
    let plain = |name: &str, begins: Option<bool>, ends: Option<bool>, splits: &str| {
        let flag = |flag: Option<bool>| flag.map(Value::Flag);
        let changes = [(ADDS[0], flag(begins)), (ADDS[1], flag(ends)), (SPLITS, text(splits))];
        let tokenizer = open(&changed(name, changes));
        let inner = tokenizer.encode("a").unwrap();
        let outer = tokenizer.encode_plain("a").unwrap();
        let at = outer.windows(inner.len()).position(|part| part == inner).unwrap();
        (outer[..at].to_vec(), outer[at + inner.len()..].to_vec())
    };
    let bytes = |begins, ends, splits| plain("byte_level.gguf", begins, ends, splits);
    assert_eq!(bytes(None, None, "gpt-2"), (vec![], vec![]));
    assert_eq!(bytes(Some(true), None, "gpt-2"), (vec![1], vec![]));
    assert_eq!(bytes(Some(true), Some(true), "gpt-2"), (vec![1], vec![2]));
    assert_eq!(bytes(None, None, "llama-bpe"), (vec![1], vec![]));
    assert_eq!(bytes(Some(false), None, "llama-bpe"), (vec![], vec![]));
    // Ids 1 and 2 are <s> and </s>.
    assert_eq!(plain("sentence_piece.gguf", None, None, "default"), (vec![1], vec![]));
    assert_eq!(plain("sentence_piece.gguf", Some(false), Some(true), "default"), (vec![], vec![2]));
}

#[test]
fn prompts_of_templates_that_begin_them_begin_once() {
    let file = changed(
        "sentence_piece.gguf",
        [("tokenizer.chat_template", text("{{ bos_token }}{{ messages[0].content }}"))],
    );
    let (tokenizer, template) = (open(&file), ChatTemplate::from_gguf(&file).unwrap());
    let template = template.for_tokenizer(&tokenizer).unwrap();
    for content in ["a", "<s>a"] {
        let prompt = template.prompt(&[Message::new("user", content)][..], None).unwrap();
        let tokens = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(tokens.iter().filter(|&&token| token == 1).count(), 1, "{tokens:?}");
        assert_eq!(tokens[0], 1);
    }
}

#[test]
fn better_scores_are_joined_first_and_lower_ids_where_they_are_equal() {
    let check = |ab: f64, bc: f64, expected: [u32; 2]| {
        let metadata =
            pieces(&[("a", -9.0, 1), ("b", -9.0, 1), ("c", -9.0, 1), ("bc", bc, 1), ("ab", ab, 1)]);
        assert_eq!(open(&metadata).encode("abc").unwrap(), expected, "{ab} {bc}");
    };
    check(-1.0, -2.0, [4, 2]);
    check(-2.0, -1.0, [0, 3]);
    check(-1.0, -1.0, [0, 3]);
}

#[test]
fn characters_without_a_piece_become_bytes_or_unknown() {
    let known = [("<unk>", 0.0, 2), ("a", -1.0, 1), ("<0xC3>", 0.0, 6), ("<0xA9>", 0.0, 6)];
    let unknown = ("tokenizer.ggml.unknown_token_id".to_string(), Value::Unsigned(0));
    let metadata = |pieces_of: &[(&str, f64, i64)]| -> Metadata {
        let metadata = pieces(pieces_of);
        let values = metadata.keys().map(|key| (key.to_string(), metadata.get(key).unwrap().clone()));
        values.chain([unknown.clone()]).collect()
    };
    assert_eq!(open(&metadata(&known)).encode("a\u{e9}").unwrap(), [1, 2, 3]);
    assert_eq!(open(&metadata(&known[..2])).encode("a\u{e9}\u{e9}").unwrap(), [1, 0]);
}

#[test]
fn no_message_becomes_a_control_token_by_merges() {
    let metadata = pieces(&[
        ("<end>", 0.0, 3),
        ("<", -1.0, 1),
        ("e", -1.0, 1),
        ("n", -1.0, 1),
        ("d", -1.0, 1),
        (">", -1.0, 1),
        ("<e", -2.0, 1),
        ("<en", -3.0, 1),
        ("<end", -4.0, 1),
    ]);
    let tokenizer = open(&metadata);
    assert_eq!(tokenizer.encode("<end>").unwrap(), [0]);
    let template = ChatTemplate::parse(b"{}", Some("{{ messages[0].content }}<end>")).unwrap();
    let template = template.for_tokenizer(&tokenizer).unwrap();
    let prompt = template.prompt(&[Message::new("user", "<end>")][..], None).unwrap();
    assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), [8, 5, 0]);
}

#[test]
fn chat_templates_know_the_tokens_around_texts_and_tools() {
    let template = ChatTemplate::from_gguf(&metadata("byte_level.gguf")).unwrap();
    let messages = [Message::new("user", "Hi")];
    let prompt = template.prompt(&messages[..], None).unwrap();
    assert_eq!(prompt.text(), "<|im_start|>user: Hi<|im_end|>");
    let tools = [json!({"type": "function", "function": {"name": "look", "parameters": {}}})];
    let conversation = Conversation { messages: &messages, tools: &tools, variables: None };
    assert_eq!(template.prompt(conversation, None).unwrap().text(), "<|im_start|>look Hi");
    assert!(template.knows_tools());
    let none = ChatTemplate::from_gguf(&metadata("sentence_piece.gguf"));
    assert!(matches!(none, Err(Error::NoChatTemplate)));
    let odd = [("tokenizer.chat_template", Some(Value::Unsigned(3)))];
    let error = ChatTemplate::from_gguf(&changed("byte_level.gguf", odd)).unwrap_err().to_string();
    assert_eq!(error, "tokenizer.chat_template must be a text, got 3");
}

#[test]
fn gguf_files_are_opened_like_folders() {
    let tokenizer = Tokenizer::open(&path("byte_level.gguf")).unwrap();
    assert_eq!((tokenizer.vocab_len(), tokenizer.end_tokens()), (603, &[2, 0][..]));
    ChatTemplate::open(&path("byte_level.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("byte_level.gguf"), folder.path().join("model.gguf")).unwrap();
    assert_eq!(Tokenizer::open(folder.path()).unwrap().vocab_len(), 603);
    ChatTemplate::open(folder.path()).unwrap();
    let none = Tokenizer::open(&path("none.gguf")).unwrap_err().to_string();
    assert!(none.starts_with("cannot read ") && none.contains("none.gguf"), "{none}");
    let other = Tokenizer::open(&path("byte_level.json")).unwrap_err().to_string();
    assert!(other.contains("is not a folder"), "{other}");
}

#[test]
fn unusable_vocabularies_are_refused() {
    let refused = |name: &str, key: &str, value: Option<Value>| {
        Tokenizer::from_gguf("test", &changed(name, [(key, value)])).expect_err(key).to_string()
    };
    let check = |name: &str, key: &str, value: Option<Value>, expected: &str| {
        assert_eq!(refused(name, key, value), format!("{key} must be {expected}"));
    };
    let (bytes, pieces) = ("byte_level.gguf", "sentence_piece.gguf");
    let model = "gpt2 (byte-level), llama (SentencePiece) or gemma4, got ";
    check(bytes, "tokenizer.ggml.model", text("bert"), &format!("{model}\"bert\""));
    check(bytes, "tokenizer.ggml.model", None, &format!("{model}none"));
    let unknown = refused(bytes, SPLITS, text("gpt-5"));
    assert!(unknown.starts_with("tokenizer.ggml.pre must be one of a.x-4.0, bailingmoe, "), "{unknown}");
    assert!(unknown.ends_with(", ufakzeka, got \"gpt-5\""), "{unknown}");
    assert!(refused(bytes, SPLITS, None).ends_with(", got none"));
    check(bytes, "tokenizer.ggml.merges", None, "an array of texts, got none");
    let pair = "two tokens with a space between them, got ";
    check(bytes, "tokenizer.ggml.merges", texts(&["ab"]), &format!("{pair}\"ab\""));
    check(bytes, "tokenizer.ggml.merges", texts(&[" a"]), &format!("{pair}\" a\""));
    // One part is no token, both are and what they make is none, and it is longer than any.
    for merge in ["a nothing", "z q", "<|endoftext|> <|endoftext|>"] {
        let outside = refused(bytes, "tokenizer.ggml.merges", texts(&[merge]));
        assert!(outside.starts_with("test is not a tokenizer: "), "{outside}");
    }
    let long = "x".repeat(1000);
    assert!(refused(bytes, "tokenizer.ggml.merges", texts(&[&long])).len() < 200);
    check(bytes, TOKENS, None, "an array of texts, got none");
    check(bytes, TOKENS, texts(&[]), "1 to 1048576 tokens, got 0");
    check(bytes, TOKENS, texts(&["x".repeat(1025).as_str()]), "tokens of at most 1024 bytes, got 1025");
    let many: Vec<String> = (0..=16 << 10).map(|n| format!("{n:01024}")).collect();
    check(bytes, TOKENS, Some(Value::Texts(many)), "at most 16777216 bytes, got 16778240");
    check(bytes, TOKENS, Some(Value::Unsigned(1)), "an array of texts, got 1");
    check(bytes, KINDS, Some(Value::Signeds(vec![1])), &format!("as long as {TOKENS}, 608, got 1"));
    check(bytes, KINDS, Some(Value::Signeds(vec![7; 608])), "numbers from 1 to 6, got 7");
    check(pieces, SCORES, None, "an array of numbers, got none");
    check(pieces, SCORES, Some(Value::Floats(vec![0.5])), &format!("as long as {TOKENS}, 600, got 1"));
    for key in ["bos", "eos", "eot", "eom", "unknown"].map(|of| format!("tokenizer.ggml.{of}_token_id")) {
        let expected = format!("an id below 600, the length of {TOKENS}, got 600");
        check(pieces, &key, Some(Value::Unsigned(600)), &expected);
    }
    let added =
        [("tokenizer.ggml.add_bos_token", Some(Value::Flag(true))), ("tokenizer.ggml.bos_token_id", None)];
    let error = Tokenizer::from_gguf("test", &changed(pieces, added)).unwrap_err().to_string();
    let expected = "an id, as tokenizer.ggml.add_bos_token asks for it, got none";
    assert_eq!(error, format!("tokenizer.ggml.bos_token_id must be {expected}"));
}

#[test]
fn vocabularies_with_a_text_twice_or_with_too_many_pairs_are_refused() {
    let message = |metadata| Tokenizer::from_gguf("test", &metadata).unwrap_err().to_string();
    let twice = message(pieces(&[("a", 0.0, 1), ("b", 0.0, 1), ("a", 0.0, 1)]));
    assert_eq!(twice, format!("{TOKENS} must be tokens of which no two are the same, got \"a\" as 0 and 2"));
    // Every part of a run of one letter is a piece: 1024 pieces make 1024 * 1023 / 2 pairs of 341 bytes on average.
    let run = "a".repeat(1024);
    let all: Vec<_> = (1..=1024).map(|len| (&run[..len], 0.0, 1)).collect();
    let pairs = message(pieces(&all));
    assert_eq!(pairs, format!("{TOKENS} must be tokens whose pairs have at most 67108864 bytes, got more"));
}

#[test]
fn empty_tokens_are_rows_without_a_text() {
    let file = pieces(&[("", 0.0, 1), ("a", 0.0, 1), ("", 0.0, 1)]);
    assert_eq!(open(&file).encode("a").unwrap(), [1]);
    let values = file.keys().map(|key| (key.to_string(), file.get(key).unwrap().clone()));
    let begin = ("tokenizer.ggml.bos_token_id".to_string(), Value::Unsigned(0));
    assert_eq!(open(&values.chain([begin]).collect()).encode_plain("a").unwrap(), [0, 1]);
}
