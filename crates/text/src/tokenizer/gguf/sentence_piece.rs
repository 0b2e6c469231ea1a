//! Vocabularies of the SentencePiece kind (`llama`): pieces with scores, the best pair of neighbours is joined first.
//!
//! Files have scores and no merges. Every pair of pieces that make a piece is a merge, in the order of the scores of what they
//! make. Deviation: where two pieces have the same score, the one with the lower id goes first, which is the order of training;
//! llama.cpp takes the leftmost in the text. No published SentencePiece model has such scores, but files converted without any have.

use dsde_checkpoint::gguf::Metadata;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges};

use super::entries::{Entries, Kind, TOKENS};
use super::marks::Marks;
use super::{Parts, failed, refused};
use crate::error::Error;

const SCORES: &str = "tokenizer.ggml.scores";
const ADDS_SPACE: &str = "tokenizer.ggml.add_space_prefix";
/// Character that stands for a space.
const SPACE_MARK: &str = "\u{2581}";
/// Most bytes of all merges together; the 580 000 of published vocabularies of 262 144 pieces have 6 million.
const MERGES_BYTES_MAX: usize = 64 << 20;

/// What makes up the tokenizer.
///
/// # Errors
/// If there are no scores, or another number of them than of tokens.
pub(super) fn parts(
    name: &str,
    metadata: &Metadata,
    entries: &Entries,
    marks: &Marks,
) -> Result<Parts, Error> {
    let scores = metadata.floats(SCORES)?.ok_or_else(|| refused(SCORES, "an array of numbers", "none"))?;
    if scores.len() != entries.len() {
        return Err(refused(SCORES, format!("as long as {TOKENS}, {}", entries.len()), scores.len()));
    }
    let adds_space = metadata.flag(ADDS_SPACE)?.unwrap_or(true);
    let model = model(entries, merges(entries, scores)?, marks.unknown);
    Ok(Parts {
        normalizer: normalizer(adds_space),
        pre_tokenizer: Value::Null,
        decoder: decoder(adds_space),
        model: model.map_err(|source| failed(name, source))?,
        begins: true,
    })
}

/// Joins pieces; characters without one become bytes, and the unknown token where there are no pieces for bytes.
fn model(entries: &Entries, merges: Merges, unknown: Option<u32>) -> tokenizers::Result<BPE> {
    let mut builder =
        BpeBuilder::new().vocab_and_merges(entries.vocabulary(), merges).byte_fallback(true).fuse_unk(true);
    if let Some(id) = unknown.filter(|&id| entries.id(entries.text(id)) == Some(id)) {
        builder = builder.unk_token(entries.text(id).to_string());
    }
    builder.build()
}

/// Pairs of pieces that make a piece, best first; of those that make the same, the one with the longer left side.
///
/// Only pieces of text are made: no text becomes a control token by the way.
fn merges(entries: &Entries, scores: &[f64]) -> Result<Merges, Error> {
    let is_text = |id: u32| matches!(entries.kind(id), Kind::Normal | Kind::Unused);
    let part = |text: &str| entries.id(text).is_some_and(is_text);
    let mut made: Vec<u32> = entries.ids().values().copied().filter(|&id| is_text(id)).collect();
    made.sort_unstable_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
    let (mut merges, mut n_bytes) = (Merges::new(), 0);
    for id in made {
        let text = entries.text(id);
        for (at, _) in text.char_indices().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let (left, right) = text.split_at(at);
            if !part(left) || !part(right) {
                continue;
            }
            n_bytes += text.len();
            if n_bytes > MERGES_BYTES_MAX {
                let expected = format!("tokens whose pairs have at most {MERGES_BYTES_MAX} bytes");
                return Err(refused(TOKENS, expected, "more"));
            }
            merges.push((left.to_string(), right.to_string()));
        }
    }
    Ok(merges)
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
