//! Text as a port: the engine matches stop strings on bytes and knows nothing of tokenisers.

/// Bytes of tokens; the text of a sequence is the concatenation of its tokens' bytes.
pub trait Vocabulary: Send + Sync {
    /// Bytes that `token` adds to the text: empty for special tokens and ids outside the vocabulary.
    fn token_bytes(&self, token: u32) -> &[u8];

    /// Text of a special token, which is no part of the text but can be stopped at; empty for all other tokens.
    fn special_bytes(&self, _token: u32) -> &[u8] {
        &[]
    }
}
