//! `tokenizer.json`: text to tokens, tokens to bytes.

use std::path::Path;

use dsde_engine::Vocabulary;
use serde::Deserialize;

use super::TEXT_BYTES_MAX;
use super::decoder::Decoder;
use crate::checkpoint::{JSON_BYTES_MAX, check_folder, read_optional};
use crate::config::VOCAB_LEN_MAX;
use crate::error::Error;

const FILE: &str = "tokenizer.json";

/// What is read of the file beside the tokenizer itself.
#[derive(Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// A Hugging Face tokenizer together with the bytes of each of its tokens.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    decoder: Decoder,
    /// Bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// First byte of each token, `[len + 1]`.
    offsets: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// If the folder or the file is missing, or as [`Tokenizer::parse`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        check_folder(folder)?;
        let path = folder.join(FILE);
        let text = read_optional(&path, JSON_BYTES_MAX)?
            .ok_or(Error::MissingFile { path: folder.to_path_buf(), expected: FILE })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads the text of a `tokenizer.json`; `name` is for messages.
    ///
    /// # Errors
    /// If it is not one, or its decoder does not map every token to bytes of its own.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, Error> {
        let failed = |source| Error::Tokenizer { file: name.to_string(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(text).map_err(failed)?;
        // Files may ask for both; a served prompt is neither cut nor filled up.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let decoder = serde_json::to_value(inner.get_decoder())
            .map_err(|source| Error::Json { file: name.to_string(), source })?;
        let decoder = Decoder::parse(&decoder)?;
        check_added_tokens(name, text, &inner)?;
        if let Some(&got) = inner.get_vocab(true).values().max().filter(|id| **id as usize >= VOCAB_LEN_MAX) {
            return Err(Error::TokenId { file: name.to_string(), expected: VOCAB_LEN_MAX, got });
        }
        let (bytes, offsets) = byte_table(&inner, &decoder);
        Ok(Self { inner, decoder, bytes, offsets })
    }

    /// One more than the largest token id.
    pub fn vocab_len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Tokens of a prompt that already holds its special tokens, such as the output of a chat template.
    ///
    /// # Errors
    /// If the text is longer than [`TEXT_BYTES_MAX`] or the tokenizer fails on it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_as(text, false)
    }

    /// Tokens of plain text, with the special tokens around it that the model was trained with (usually one that begins).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_as(text, true)
    }

    /// Whole text of `tokens` from the beginning of a sequence; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.token_bytes(token)).copied().collect();
        let text = match bytes.strip_prefix(b" ") {
            Some(rest) if self.decoder.has_leading_space() => rest,
            _ => &bytes,
        };
        String::from_utf8_lossy(text).into_owned()
    }

    /// Id of the token whose text in the vocabulary is `text`.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// Whether the first `n_tokens` tokens mean the same in `other`, as those that both models have embeddings for must.
    ///
    /// # Errors
    /// [`Error::VocabularyToken`] at the first difference.
    pub fn same_tokens(&self, other: &Self, n_tokens: usize) -> Result<(), Error> {
        for token in 0..n_tokens as u32 {
            let (expected, got) = (self.inner.id_to_token(token), other.inner.id_to_token(token));
            if expected != got {
                return Err(Error::VocabularyToken { token, expected, got });
            }
        }
        Ok(())
    }

    fn encode_as(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { expected: TEXT_BYTES_MAX, got: text.len() });
        }
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|source| Error::Encode { source })?.get_ids().to_vec())
    }
}

impl Vocabulary for Tokenizer {
    fn token_bytes(&self, token: u32) -> &[u8] {
        match self.offsets.get(token as usize..).unwrap_or_default() {
            [start, end, ..] => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

/// The library numbers added tokens on its own; a file that has other numbers would be read wrongly.
fn check_added_tokens(name: &str, text: &[u8], inner: &tokenizers::Tokenizer) -> Result<(), Error> {
    let file: AddedTokens =
        serde_json::from_slice(text).map_err(|source| Error::Json { file: name.to_string(), source })?;
    for AddedToken { id, content } in file.added_tokens {
        let got = inner.token_to_id(&content);
        if got != Some(id) {
            return Err(Error::AddedToken { file: name.to_string(), text: content, expected: id, got });
        }
    }
    Ok(())
}

/// Bytes of all tokens and their offsets; special tokens and unused ids have none.
fn byte_table(inner: &tokenizers::Tokenizer, decoder: &Decoder) -> (Vec<u8>, Vec<u32>) {
    let vocabulary = inner.get_vocab(true);
    let added = inner.get_added_tokens_decoder();
    let mut texts: Vec<(u32, String)> = vocabulary.into_iter().map(|(text, token)| (token, text)).collect();
    texts.sort_unstable();
    let mut bytes = Vec::new();
    let mut offsets = vec![0];
    for (token, text) in texts {
        let next = offsets.len() - 1;
        if (token as usize) < next {
            continue; // A second text of the same id; no tokenizer emits it.
        }
        // Ids that no entry has are empty.
        offsets.resize(token as usize + 1, bytes.len() as u32);
        match added.get(&token) {
            Some(entry) if entry.special => {}
            Some(entry) => bytes.extend_from_slice(entry.content.as_bytes()),
            None => bytes.extend(decoder.bytes(&text)),
        }
        offsets.push(bytes.len() as u32);
    }
    (bytes, offsets)
}
