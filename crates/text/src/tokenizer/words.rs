//! The bytes of every token, and which tokens are special.

use super::super::decoder::Decoder;

/// Bytes of all tokens, one after the other.
#[derive(Debug)]
pub(super) struct Words {
    bytes: Vec<u8>,
    /// First byte of each token, `[len + 1]`.
    offsets: Vec<u32>,
    /// In order.
    special: Vec<u32>,
}

impl Words {
    /// Unused ids have no bytes.
    pub(super) fn new(inner: &tokenizers::Tokenizer, decoder: &Decoder) -> Self {
        let vocabulary = inner.get_vocab(true);
        let added = inner.get_added_tokens_decoder();
        let mut texts: Vec<(u32, String)> =
            vocabulary.into_iter().map(|(text, token)| (token, text)).collect();
        texts.sort_unstable();
        let mut words = Self { bytes: Vec::new(), offsets: vec![0], special: Vec::new() };
        for (token, text) in texts {
            if (token as usize) < words.len() {
                continue; // A second text of the same id; no tokenizer emits it.
            }
            words.offsets.resize(token as usize + 1, words.bytes.len() as u32);
            match added.get(&token) {
                Some(entry) => words.bytes.extend_from_slice(entry.content.as_bytes()),
                None => words.bytes.extend(decoder.bytes(&text)),
            }
            words.special.extend(added.get(&token).filter(|entry| entry.special).map(|_| token));
            words.offsets.push(words.bytes.len() as u32);
        }
        words
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether a token is no part of a text.
    pub(super) fn is_special(&self, token: u32) -> bool {
        self.special.binary_search(&token).is_ok()
    }

    /// Special tokens, in order.
    pub(super) fn special(&self) -> &[u32] {
        &self.special
    }

    /// Bytes of a token, special or not.
    pub(super) fn get(&self, token: u32) -> &[u8] {
        match self.offsets.get(token as usize..).unwrap_or_default() {
            [start, end, ..] => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }
}
