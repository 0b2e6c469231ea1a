//! Vocabularies of the byte-level kind (`gpt2`): a text is split into words, the bytes of each are joined by ranked merges.

use dsde_checkpoint::gguf::Metadata;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BpeBuilder, Merges};

use super::entries::Entries;
use super::marks::Marks;
use super::splits::{self, Splits};
use super::{Parts, refused, repeated};
use crate::error::Error;

const MERGES: &str = "tokenizer.ggml.merges";
const SPLITS: &str = "tokenizer.ggml.pre";

/// What makes up the tokenizer.
///
/// # Errors
/// If there are no merges, one of something else than two texts, or the way of splitting is unknown.
pub(super) fn parts(metadata: &Metadata, entries: &Entries, _: &Marks) -> Result<Parts, Error> {
    let known = || format!("one of {}", splits::names());
    let pre = metadata.text(SPLITS)?.ok_or_else(|| refused(SPLITS, known(), "none"))?;
    let splits = splits::named(pre).ok_or_else(|| refused(SPLITS, known(), repeated(pre)))?;
    let model = BpeBuilder::new()
        .vocab_and_merges(entries.vocabulary(), merges(metadata)?)
        .ignore_merges(splits.keeps_words);
    Ok(Parts {
        normalizer: if splits.composes { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre_tokenizer(splits),
        decoder: byte_level(),
        model,
        begins: splits.begins,
    })
}

/// Two tokens each, with a space between them.
pub(super) fn merges(metadata: &Metadata) -> Result<Merges, Error> {
    let merges = metadata.texts(MERGES)?.ok_or_else(|| refused(MERGES, "an array of texts", "none"))?;
    let pair = |text: &String| match text.char_indices().skip(1).find(|&(_, c)| c == ' ') {
        Some((at, _)) => Ok((text[..at].to_string(), text[at + 1..].to_string())),
        None => Err(refused(MERGES, "two tokens with a space between them", repeated(text))),
    };
    merges.iter().map(pair).collect()
}

/// Every expression splits what those before it left together, at what it matches and between.
fn pre_tokenizer(splits: &Splits) -> Value {
    let split = |expression: &&str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> = splits.expressions.iter().map(split).chain([byte_level()]).collect();
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// Bytes to characters, and back.
fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}
