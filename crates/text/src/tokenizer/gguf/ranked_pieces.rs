//! Vocabularies of pieces with ranked merges (`gemma4`): spaces are characters of pieces as in the SentencePiece kind, merges are those
//! of the file as in the byte-level kind, and a text is not split before.
//!
//! Deviation: llama.cpp joins nothing across the ends of lines, which no published vocabulary would.

use dsde_checkpoint::gguf::Metadata;

use super::Parts;
use super::byte_level::merges;
use super::entries::Entries;
use super::marks::Marks;
use super::sentence_piece::{ADDS_SPACE, of_merges};
use crate::error::Error;

/// What makes up the tokenizer.
///
/// # Errors
/// If there are no merges, or one of something else than two texts.
pub(super) fn parts(metadata: &Metadata, entries: &Entries, marks: &Marks) -> Result<Parts, Error> {
    let adds_space = metadata.flag(ADDS_SPACE)?.unwrap_or(false);
    Ok(of_merges(merges(metadata)?, adds_space, entries, marks))
}
