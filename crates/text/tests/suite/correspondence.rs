//! Tokens of one vocabulary as tokens of another.

use std::path::Path;

use dsde_engine::Vocabulary as _;
use dsde_text::{Correspondence, Tokenizer, embedded};
use serde_json::{Value, json};

fn added(id: u32, text: &str) -> Value {
    json!({
        "id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false,
    })
}

fn parse(file: &Value) -> Tokenizer {
    Tokenizer::parse("test", file.to_string().as_bytes()).unwrap()
}

/// Ten ids, of which 6 is nobody's; every text is written as bytes.
fn byte_level() -> Tokenizer {
    byte_level_with("<|end|>", "<|mark|>")
}

/// The same with other special tokens.
fn byte_level_with(end: &str, mark: &str) -> Tokenizer {
    let vocab = json!({"A": 0, "Ġthe": 1, "Ã": 2, "an": 3, "Ġthere": 4, "ing": 5, "b": 9});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    parse(&json!({
        "added_tokens": [added(7, end), added(8, mark)],
        "decoder": bytes,
        "pre_tokenizer": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }))
}

/// Pieces with a mark for the space, and tokens of single bytes beside them.
fn pieces(change: impl Fn(&mut Value)) -> Tokenizer {
    let vocab = json!({
        "<unk>": 0, "<s>": 1, "</s>": 2, "<0x41>": 3, "<0xC3>": 4, "▁the": 5, "an": 6, "A": 7, "ere": 8, "ing": 9,
    });
    let mut file = json!({
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true, "unk_token": "<unk>"},
    });
    change(&mut file);
    parse(&file)
}

#[test]
fn tokens_are_the_same_by_their_bytes_however_they_are_written() {
    let (target, draft) = (byte_level(), pieces(|_| ()));
    let got = Correspondence::new((&target, 10), (&draft, 10), Some((7, 2))).unwrap();
    // A is a piece and a byte; the piece is what texts are written with.
    assert_eq!(got.shared, [(0, 7), (1, 5), (2, 4), (3, 6), (5, 9), (7, 2)]);
    // " there" ends as "ere" does; the unused id, the mark and the b, of which the draft has nothing, are its beginning.
    assert_eq!(got.reads, [7, 5, 4, 6, 8, 9, 1, 2, 1, 1]);
}

#[test]
fn what_a_draft_cannot_guess_it_reads_all_the_same() {
    let (target, draft) = (pieces(|_| ()), byte_level());
    let got = Correspondence::new((&target, 10), (&draft, 10), Some((2, 7))).unwrap();
    assert_eq!(got.shared, [(2, 7), (4, 2), (5, 1), (6, 3), (7, 0), (9, 5)]);
    // The byte A reads as A. Of "<unk>", "<s>" and "ere" this draft has no end, and nothing begins its texts.
    assert_eq!(got.reads, [0, 0, 7, 0, 2, 1, 3, 0, 0, 5]);
}

#[test]
fn ends_that_are_shared_already_stay_what_they_are() {
    let target = byte_level();
    let got = Correspondence::new((&target, 10), (&byte_level(), 10), Some((7, 8))).unwrap();
    assert_eq!(got.shared, [0, 1, 2, 3, 4, 5, 7, 8, 9].map(|token| (token, token)));
    // The end of a turn is read as one even where the draft's is shared with another token.
    let marked = byte_level_with("<|other|>", "<|mark|>");
    let got = Correspondence::new((&target, 10), (&marked, 10), Some((7, 8))).unwrap();
    assert_eq!((got.shared.len(), &got.reads[7..9]), (8, &[8, 8][..]));
    // A token without an embedding is neither read nor guessed.
    let fewer = Correspondence::new((&target, 10), (&byte_level(), 8), None).unwrap();
    assert_eq!(fewer.shared.last(), Some(&(7, 7)));
    assert!(fewer.reads.iter().all(|&token| token < 8));
}

fn drop_words(file: &mut Value) {
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    for word in ["▁the", "ing"] {
        vocab.remove(word).unwrap();
    }
}

#[test]
fn vocabularies_that_share_hardly_a_word_are_refused() {
    let (target, draft) = (byte_level(), pieces(drop_words));
    let error = Correspondence::new((&target, 10), (&draft, 10), None).unwrap_err().to_string();
    let expected = "draft and target must share 3 tokens of more than one byte, got 1; use a draft whose vocabulary is nearer \
                    to the model's";
    assert_eq!(error, expected);
}

#[test]
fn vocabularies_made_apart_agree_on_whatever_they_share() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let targets = ["sentencepiece", "vocabularies/byte_level.gguf", "vocabularies/sentence_piece.gguf"]
        .map(|name| Tokenizer::open(&folder.join(name)).unwrap());
    let draft = embedded::tokenizer();
    for target in targets {
        let (n_target, n_draft) = (target.vocab_len(), draft.vocab_len());
        let got = Correspondence::new((&target, n_target), (&draft, n_draft), None).unwrap();
        assert_eq!(got.reads.len(), n_target);
        assert!(got.shared.is_sorted_by(|a, b| a.0 < b.0));
        let mut tokens: Vec<u32> = got.shared.iter().map(|pair| pair.1).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), got.shared.len(), "none is shared twice");
        for &(own, other) in &got.shared {
            assert_eq!(target.token_bytes(own), draft.token_bytes(other));
            assert_eq!(target.special_bytes(own), draft.special_bytes(other));
            assert_eq!(got.reads[own as usize], other);
        }
        // This draft has a token for every byte.
        for (own, &read) in (0..).zip(&got.reads) {
            let bytes = target.token_bytes(own);
            assert!(bytes.is_empty() || bytes.ends_with(draft.spelled(read)), "token {own}");
        }
    }
}
