//! Vocabularies of pieces with ranked merges (`gemma4`): spaces are characters of pieces as in the SentencePiece kind, merges are those
//! of the file as in the byte-level kind, and a text is not split before.
//!
//! Deviation: llama.cpp joins nothing across the ends of lines, which no published vocabulary would.

use dsde_checkpoint::gguf::Metadata;
use serde_json::Value;
use tokenizers::models::bpe::BpeBuilder;

use super::Parts;
use super::byte_level::merges;
use super::entries::Entries;
use super::marks::Marks;
use super::sentence_piece::{ADDS_SPACE, decoder, normalizer, with_unknown};
use crate::error::Error;

/// What makes up the tokenizer.
///
/// # Errors
/// If there are no merges, or one of something else than two texts.
pub(super) fn parts(metadata: &Metadata, entries: &Entries, marks: &Marks) -> Result<Parts, Error> {
    let adds_space = metadata.flag(ADDS_SPACE)?.unwrap_or(false);
    let model = BpeBuilder::new()
        .vocab_and_merges(entries.vocabulary(), merges(metadata)?)
        .byte_fallback(true)
        .fuse_unk(true);
    Ok(Parts {
        normalizer: normalizer(adds_space),
        pre_tokenizer: Value::Null,
        decoder: decoder(adds_space),
        model: with_unknown(model, entries, marks),
        begins: true,
    })
}
