//! Vocabularies of the SentencePiece kind (`llama`): pieces with scores, the best pair of neighbours is joined first.
//!
//! Files have scores and no merges. Every pair of pieces that make a piece is a merge, in the order of the scores of what they
//! make. Deviation: where two pieces have the same score, the one with the lower id goes first, which is the order of training;
//! llama.cpp takes the leftmost in the text. No published SentencePiece model has such scores, but files converted without any have.

use dsde_checkpoint::gguf::Metadata;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BpeBuilder, Merges};

use super::entries::{Entries, Kind, TOKENS};
use super::marks::Marks;
use super::{Parts, refused};
use crate::error::Error;

const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const ADDS_SPACE: &str = "tokenizer.ggml.add_space_prefix";
/// Character that stands for a space.
const SPACE_MARK: &str = "\u{2581}";
/// Most bytes of all merges together; the 580 000 of published vocabularies of 262 144 pieces have 6 million.
const MERGES_BYTES_MAX: usize = 64 << 20;

/// What makes up the tokenizer.
///
/// # Errors
/// If there are no scores, or another number of them than of tokens.
pub(super) fn parts(metadata: &Metadata, entries: &Entries, marks: &Marks) -> Result<Parts, Error> {
    let scores = metadata.floats(SCORES)?.ok_or_else(|| refused(SCORES, "an array of numbers", "none"))?;
    if scores.len() != entries.len() {
        return Err(refused(SCORES, format!("as long as {TOKENS}, {}", entries.len()), scores.len()));
    }
    let adds_space = metadata.flag(ADDS_SPACE)?.unwrap_or(true);
    Ok(of_merges(merges(entries, scores)?, adds_space, entries, marks))
}

/// Pieces whose spaces are characters, joined by `merges`, with bytes for what has no piece.
pub(super) fn of_merges(merges: Merges, adds_space: bool, entries: &Entries, marks: &Marks) -> Parts {
    let model =
        BpeBuilder::new().vocab_and_merges(entries.vocabulary(), merges).byte_fallback(true).fuse_unk(true);
    Parts {
        normalizer: normalizer(adds_space),
        pre_tokenizer: Value::Null,
        decoder: decoder(adds_space),
        model: with_unknown(model, entries, marks),
        begins: true,
    }
}

/// With the token that stands for characters without a piece where there are no pieces for bytes, either.
fn with_unknown(model: BpeBuilder, entries: &Entries, marks: &Marks) -> BpeBuilder {
    let unknown = marks.unknown.map(|id| entries.text(id)).filter(|text| entries.id(text).is_some());
    match unknown {
        Some(text) => model.unk_token(text.to_string()),
        None => model,
    }
}

/// Two pieces that make a third.
#[derive(Clone, Copy)]
struct Pair {
    left: u32,
    right: u32,
    made: u32,
}

/// Pairs of pieces that make a piece, best first; of those that make the same, the one with the longer left side.
fn merges(entries: &Entries, scores: &[f64]) -> Result<Merges, Error> {
    let mut pairs = pairs(entries)?;
    let score = |pair: &Pair| scores[pair.made as usize];
    let left_len = |pair: &Pair| entries.text(pair.left).len();
    pairs.sort_unstable_by(|a, b| {
        let by_score = score(b).total_cmp(&score(a));
        by_score.then(a.made.cmp(&b.made)).then(left_len(b).cmp(&left_len(a)))
    });
    let texts = |pair: Pair| (entries.text(pair.left).to_string(), entries.text(pair.right).to_string());
    Ok(pairs.into_iter().map(texts).collect())
}

/// All pairs. Only pieces of text are made: no text becomes a control token by the way.
fn pairs(entries: &Entries) -> Result<Vec<Pair>, Error> {
    let is_text = |&id: &u32| matches!(entries.kind(id), Kind::Normal | Kind::Unused);
    let mut pieces: Vec<u32> = entries.ids().values().copied().filter(is_text).collect();
    pieces.sort_unstable_by_key(|&id| entries.text(id));
    let (mut pairs, mut n_bytes) = (Vec::new(), 0);
    // Pieces that the current one begins with, shorter ones first: all of them stand before it in the order of texts.
    let mut beginnings: Vec<u32> = Vec::new();
    for made in pieces {
        let text = entries.text(made);
        while beginnings.last().is_some_and(|&left| !text.starts_with(entries.text(left))) {
            beginnings.pop();
        }
        for &left in &beginnings {
            let rest = &text[entries.text(left).len()..];
            let Some(right) = entries.id(rest).filter(is_text) else { continue };
            n_bytes += text.len();
            if n_bytes > MERGES_BYTES_MAX {
                let expected = format!("tokens whose pairs have at most {MERGES_BYTES_MAX} bytes");
                return Err(refused(TOKENS, expected, "more"));
            }
            pairs.push(Pair { left, right, made });
        }
        beginnings.push(made);
    }
    Ok(pairs)
}

fn normalizer(adds_space: bool) -> Value {
    let mut steps = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK})];
    if adds_space {
        steps.insert(0, json!({"type": "Prepend", "prepend": SPACE_MARK}));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(adds_space: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if adds_space {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
