//! What compiling a form takes of a vocabulary beside the texts of its tokens.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{CallFormat, ReasoningFormat, Tokenizer};

/// Texts that one byte can be.
const N_BYTES: usize = 256;

/// A vocabulary without the texts of its tokens; small enough to be handed to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outline {
    pub(super) vocab_len: u32,
    /// All below `vocab_len`.
    pub(super) eos_tokens: Vec<u32>,
    /// Tokens of the markers that have one of their own.
    pub(super) markers: HashMap<String, u32>,
}

impl Outline {
    /// * `eos_tokens`: end an answer; those that the vocabulary does not have are left out.
    pub fn new(tokenizer: &Tokenizer, eos_tokens: &[u32]) -> Self {
        let vocab_len = tokenizer.vocab_len() as u32;
        let reasoning = ReasoningFormat::ALL.into_iter().flat_map(ReasoningFormat::markers);
        let calls = CallFormat::ALL.into_iter().flat_map(|format| format.markers().iter().copied());
        let markers = reasoning.chain(calls);
        Self {
            vocab_len,
            eos_tokens: eos_tokens.iter().copied().filter(|&token| token < vocab_len).collect(),
            markers: markers
                .filter_map(|marker| Some((marker.to_owned(), tokenizer.token(marker)?)))
                .collect(),
        }
    }

    /// Tokens that there are.
    pub fn vocab_len(&self) -> u32 {
        self.vocab_len
    }

    /// The token of a marker, if it has one of its own.
    pub(super) fn marker(&self, marker: &str) -> Option<u32> {
        self.markers.get(marker).copied()
    }

    /// Texts of tokens of which those that neither end an answer nor mark anything are the bytes, as far as they go; a vocabulary that is too
    /// small for all bytes becomes larger.
    pub(super) fn byte_words(&mut self) -> Vec<Vec<u8>> {
        let n_other = self.eos_tokens.len() + self.markers.len();
        let n_least = u32::try_from(N_BYTES + n_other).unwrap_or(u32::MAX);
        self.vocab_len = self.vocab_len.max(n_least);
        let mut words = vec![Vec::new(); self.vocab_len as usize];
        let is_free =
            |token: &u32| !self.eos_tokens.contains(token) && !self.markers.values().any(|of| of == token);
        let free = (0..self.vocab_len).filter(is_free);
        for (byte, token) in (0..=u8::MAX).zip(free) {
            words[token as usize] = vec![byte];
        }
        words
    }
}
