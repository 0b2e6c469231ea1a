//! `tokenizer.json`, or what a GGUF file says instead: text to tokens, tokens to bytes.

mod added;
pub(crate) mod gguf;
mod growth;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dsde_engine::Vocabulary;
use serde::Deserialize;
use serde_json::Value;

use dsde_checkpoint::Error as FileError;
use dsde_checkpoint::config::VOCAB_LEN_MAX;
use dsde_checkpoint::files::{JSON_BYTES_MAX, check_folder, json, read_optional};
use dsde_checkpoint::gguf::Gguf;
use dsde_checkpoint::gguf_file;

use super::TEXT_BYTES_MAX;
use super::decoder::Decoder;
use super::veil::{ControlTokens, Prompt, Spellings};
use crate::error::Error;
use added::{AddedTokens, normal};
pub use gguf::gguf_keys;
use growth::{Growth, NORMALIZED_BYTES_MAX};
use words::Words;

const FILE: &str = "tokenizer.json";
/// Files that may name the token that ends a text.
const NAMING: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// What is read of the file beside the tokenizer itself.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
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
    added: AddedTokens,
    growth: Growth,
    words: Words,
    end_tokens: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and what the files beside it say about the end of a text; or what a
    /// GGUF file says, or that of a folder without safetensors files.
    ///
    /// # Errors
    /// If the folder or the file is missing, or as [`Tokenizer::parse`] and [`Tokenizer::from_gguf`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(file) = gguf_file(path)? {
            return Self::from_gguf(&file.display().to_string(), Gguf::open(&file)?.metadata());
        }
        check_folder(path)?;
        let file = path.join(FILE);
        let text = read_optional(&file, JSON_BYTES_MAX)?
            .ok_or(FileError::MissingFile { path: path.to_path_buf(), expected: FILE })?;
        let mut tokenizer = Self::parse(&file.display().to_string(), &text)?;
        for file in NAMING {
            if let Some(text) = read_optional(&path.join(file), JSON_BYTES_MAX)? {
                tokenizer.read_end_tokens(file, &text)?;
            }
        }
        Ok(tokenizer)
    }

    /// Reads the text of a `tokenizer.json`; `name` is for messages.
    ///
    /// # Errors
    /// If it is not one, or its decoder does not map every token to bytes of its own.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, Error> {
        let failed = |cause| Error::Tokenizer { file: name.to_string(), cause };
        let json = |source| FileError::Json { file: name.to_string(), source };
        // What is no tokenizer at all is told by the library, in its words.
        let file = serde_json::from_slice::<File>(text);
        let growth = match &file {
            Ok(file) => Growth::of(&file.normalizer).map_err(|reason| failed(reason.into()))?,
            Err(_) => Growth::NONE,
        };
        let mut inner = caught(|| tokenizers::Tokenizer::from_bytes(text)).map_err(failed)?;
        // Files may ask for both; a served prompt is neither cut nor filled up.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let tokenizer = Self::new(name, inner, growth)?;
        check_added_tokens(name, file.map_err(json)?.added_tokens, &tokenizer.inner)?;
        Ok(tokenizer)
    }

    /// A tokenizer of the library with the bytes of its tokens.
    fn new(name: &str, inner: tokenizers::Tokenizer, growth: Growth) -> Result<Self, Error> {
        let failed = |cause| Error::Tokenizer { file: name.to_string(), cause };
        let json = |source| FileError::Json { file: name.to_string(), source };
        let decoder = Decoder::parse(&serde_json::to_value(inner.get_decoder()).map_err(json)?)?;
        if let Some(&got) = inner.get_vocab(true).values().max().filter(|id| **id as usize >= VOCAB_LEN_MAX) {
            return Err(Error::TokenId { file: name.to_string(), expected: VOCAB_LEN_MAX, got });
        }
        let words = Words::new(&inner, &decoder);
        let added = caught(|| AddedTokens::new(&inner)).map_err(failed)?;
        let tokenizer = Self { inner, decoder, added, growth, words, end_tokens: Vec::new() };
        // Those around every text are numbers in the file, and the library does not look them up.
        let expected = tokenizer.vocab_len();
        let around = tokenizer.encode_plain("").unwrap_or_default();
        match around.into_iter().find(|&token| token as usize >= expected) {
            Some(got) => Err(Error::TokenId { file: name.to_string(), expected, got }),
            None => Ok(tokenizer),
        }
    }

    /// One more than the largest token id.
    pub fn vocab_len(&self) -> usize {
        self.words.len()
    }

    /// Tokens that end a text, as far as the files of the tokenizer name them.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Tokens of a text in which special tokens may be spelled.
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

    /// Tokens of what a chat template wrote; what messages said of it becomes no control token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        if prompt.veiled().is_empty() {
            return self.encode(prompt.text());
        }
        self.check_len(prompt.text())?;
        let encoded = caught(|| self.added.encode(&self.inner, prompt.text(), prompt.veiled()));
        encoded.map_err(|cause| Error::Encode { cause })
    }

    /// Whole text of `tokens` from the beginning of a sequence; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.decode_as(tokens, |token| self.token_bytes(token))
    }

    /// The same with special tokens.
    pub fn decode_with_special(&self, tokens: &[u32]) -> String {
        self.decode_as(tokens, |token| self.words.get(token))
    }

    /// Bytes of a token, special or not.
    pub fn spelled(&self, token: u32) -> &[u8] {
        self.words.get(token)
    }

    /// Id of the token whose text in the vocabulary is `text`.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The special token that `text` begins with.
    pub fn special_token_at(&self, text: &str) -> Option<u32> {
        let special = |&token: &u32| text.as_bytes().starts_with(self.words.get(token));
        self.words.special().iter().copied().filter(special).max_by_key(|&token| self.words.get(token).len())
    }

    /// Whether the first space of an answer is an artefact of how texts are tokenised.
    pub fn has_leading_space(&self) -> bool {
        self.decoder.has_leading_space()
    }

    /// Whether a token is a byte that a text is made of where the vocabulary has nothing longer, beside tokens of characters.
    pub(super) fn is_byte_token(&self, token: u32) -> bool {
        self.inner.id_to_token(token).is_some_and(|text| self.decoder.is_byte_token(&text))
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

    /// Tokens that steer the model: the special ones, and what has the form of a tag and is written by the template.
    ///
    /// # Errors
    /// If the tokenizer cannot normalise its own tokens.
    pub(super) fn control_tokens(&self, template: &str) -> Result<ControlTokens, Error> {
        let normalizer = self.inner.get_normalizer();
        let spellings = |is_meant: &dyn Fn(&tokenizers::AddedToken) -> bool| -> Result<Spellings, Failure> {
            let (mut raw, mut normalized) = (Vec::new(), Vec::new());
            for token in self.inner.get_added_vocabulary().get_added_tokens_decoder().values() {
                match is_meant(token) {
                    true if token.normalized => normalized.push(normal(normalizer, &token.content)?),
                    true => {}
                    false => continue,
                }
                raw.push(token.content.clone());
            }
            Spellings::new(raw, normalized, normalizer).map_err(Failure::from)
        };
        let is_written = |token: &tokenizers::AddedToken| {
            let is_tag = token.content.starts_with(['<', '[']) && token.content.ends_with(['>', ']']);
            !token.special && is_tag && template.contains(&token.content)
        };
        let both = || {
            Ok::<_, Failure>(ControlTokens::new(spellings(&|token| token.special)?, spellings(&is_written)?))
        };
        caught(both).map_err(|cause| Error::Encode { cause })
    }

    fn decode_as<'a>(&self, tokens: &[u32], bytes: impl Fn(u32) -> &'a [u8]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| bytes(token)).copied().collect();
        let text = match bytes.strip_prefix(b" ") {
            Some(rest) if self.has_leading_space() => rest,
            _ => &bytes,
        };
        String::from_utf8_lossy(text).into_owned()
    }

    fn encode_as(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        self.check_len(text)?;
        let encoding = caught(|| self.inner.encode_fast(text, add_special_tokens));
        Ok(encoding.map_err(|cause| Error::Encode { cause })?.get_ids().to_vec())
    }

    fn check_len(&self, text: &str) -> Result<(), Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { expected: TEXT_BYTES_MAX, got: text.len() });
        }
        match self.growth.bytes_max(text.len()) {
            got if got > NORMALIZED_BYTES_MAX => {
                Err(Error::TextGrows { expected: NORMALIZED_BYTES_MAX, got })
            }
            _ => Ok(()),
        }
    }

    /// Adds the token that `file` says ends a text.
    fn read_end_tokens(&mut self, file: &str, text: &[u8]) -> Result<(), Error> {
        let named: Value = json(file, text)?;
        let field = &named["eos_token"];
        let name = field.as_str().or_else(|| field["content"].as_str());
        let token = name.and_then(|name| self.token(name)).filter(|token| !self.end_tokens.contains(token));
        self.end_tokens.extend(token);
        Ok(())
    }
}

impl Vocabulary for Tokenizer {
    fn token_bytes(&self, token: u32) -> &[u8] {
        if self.words.is_special(token) { &[] } else { self.words.get(token) }
    }

    fn special_bytes(&self, token: u32) -> &[u8] {
        if self.words.is_special(token) { self.words.get(token) } else { &[] }
    }
}

/// What the library does; it panics on some files and texts, which is an error of theirs.
fn caught<T, E: Into<Failure>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err("the tokenizer cannot handle this".into()),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The library numbers added tokens on its own; a file that has other numbers would be read wrongly.
fn check_added_tokens(
    name: &str,
    added_tokens: Vec<AddedToken>,
    inner: &tokenizers::Tokenizer,
) -> Result<(), Error> {
    for AddedToken { id, content } in added_tokens {
        let got = inner.token_to_id(&content);
        if got != Some(id) {
            return Err(Error::AddedToken { file: name.to_string(), text: content, expected: id, got });
        }
    }
    Ok(())
}
