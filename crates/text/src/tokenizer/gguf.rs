//! Tokenizers from the metadata of GGUF files.
//!
//! The parts of a `tokenizer.json` are made from the vocabulary of the file, so that texts become tokens by the same code and under
//! the same checks. What the files say is described in <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; what they do not
//! say, and llama.cpp knows by name, stands in `splits.rs`.

mod byte_level;
mod entries;
mod export;
mod marks;
mod ranked_pieces;
mod sentence_piece;
mod splits;

use std::fmt::Display;

use dsde_checkpoint::Error as FileError;
use dsde_checkpoint::config::shown;
use dsde_checkpoint::gguf::Metadata;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BpeBuilder, Vocab};

use super::growth::Growth;
use super::{Failure, Tokenizer, caught};
use crate::error::Error;
use entries::{Entries, TOKENS};
pub use export::gguf_keys;
pub(crate) use marks::Marks;

const MODEL: &str = "tokenizer.ggml.model";
/// Accepted models.
const MODELS: &str = "gpt2 (byte-level), llama (SentencePiece) or gemma4";

/// What makes up a tokenizer, in the words of `tokenizer.json`.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: BpeBuilder,
    /// Whether a token is put before plain text where the file says nothing of it.
    begins: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes; `name` is for messages.
    ///
    /// Plain text gets the token that begins a text where the file asks for it; a chat template writes its own.
    ///
    /// # Errors
    /// If the file has none, one of a kind that is not known, or one that contradicts itself; otherwise as [`Tokenizer::parse`].
    pub fn from_gguf(name: &str, metadata: &Metadata) -> Result<Self, Error> {
        let model = metadata.text(MODEL)?;
        let parts = match model {
            Some("gpt2") => byte_level::parts,
            Some("llama") => sentence_piece::parts,
            Some("gemma4") => ranked_pieces::parts,
            _ => return Err(refused(MODEL, MODELS, model.map_or("none".to_string(), repeated))),
        };
        let entries = Entries::read(metadata)?;
        let marks = Marks::read(metadata, entries.len())?;
        let parts = parts(metadata, &entries, &marks)?;
        let around = marks.around(metadata, parts.begins)?;
        let rest = json!({
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": post_processor(&entries, around),
            "decoder": parts.decoder,
            "model": {"type": "BPE", "vocab": {}, "merges": []},
        });
        let inner = caught(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(rest.to_string())?;
            inner.with_model(parts.model.build()?);
            inner.add_tokens(entries.added(&marks.special()))?;
            Ok::<_, Failure>(inner)
        });
        let failed = |cause| Error::Tokenizer { file: name.to_string(), cause };
        let inner = inner.map_err(failed)?;
        let growth = Growth::of(&rest["normalizer"]).map_err(|reason| failed(reason.into()))?;
        let mut tokenizer = Self::new(name, inner, growth)?;
        tokenizer.end_tokens = marks.ends(&entries);
        Ok(tokenizer)
    }
}

impl Entries<'_> {
    /// Texts with their ids, as the library wants them.
    fn vocabulary(&self) -> Vocab {
        self.ids().iter().map(|(text, id)| (text.to_string(), *id)).collect()
    }
}

/// Puts tokens before and behind plain text.
fn post_processor(entries: &Entries, [before, behind]: [Option<u32>; 2]) -> Value {
    if before.is_none() && behind.is_none() {
        return Value::Null;
    }
    let token = |id: u32| json!({"SpecialToken": {"id": entries.text(id), "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let single = before.map(token).into_iter().chain([text("A")]).chain(behind.map(token));
    let special = before.into_iter().chain(behind).map(|id| {
        let text = entries.text(id);
        (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]}))
    });
    json!({
        "type": "TemplateProcessing",
        "single": single.collect::<Vec<_>>(),
        "pair": [text("A"), text("B")],
        "special_tokens": special.collect::<Map<_, _>>(),
    })
}

/// Texts of the tokens that begin and end a text, as chat templates mention them.
///
/// # Errors
/// As [`Marks::read`].
pub(crate) fn mark_texts(metadata: &Metadata) -> Result<[Option<&str>; 2], Error> {
    let texts = metadata.texts(TOKENS)?.unwrap_or_default();
    let marks = Marks::read(metadata, texts.len())?;
    Ok([marks.begin, marks.end].map(|id| id.map(|id| texts[id as usize].as_str())))
}

/// A value of the metadata that cannot be used.
fn refused(key: &str, expected: impl Into<String>, got: impl Display) -> Error {
    FileError::Field { field: key.to_string(), expected: expected.into(), got: got.to_string() }.into()
}

/// A text of a file in a message.
fn repeated(text: &str) -> String {
    shown(&Value::from(text))
}
