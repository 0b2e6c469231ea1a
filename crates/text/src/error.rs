//! Why text cannot become tokens, or a conversation a prompt.

use std::error::Error as _;

/// Why text cannot become tokens, or a conversation a prompt; messages say what was expected and what was found, causes included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] dsde_checkpoint::Error),
    /// The form asked of an answer cannot be had.
    #[error("the form of the answer cannot be followed: {reason}")]
    Grammar {
        /// Why.
        reason: String,
    },
    /// tokenizer.json is not a tokenizer.
    #[error("{file} is not a tokenizer: {cause}")]
    Tokenizer {
        /// Which file.
        file: String,
        /// What is wrong.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An added token that cannot have the id that the file gives it, because ids are missing below it.
    #[error("{file}: added token {text:?} must have id {expected}, got {got:?}")]
    AddedToken {
        /// Which file.
        file: String,
        /// The token.
        text: String,
        /// Id in the file.
        expected: u32,
        /// Id that the tokenizer would use.
        got: Option<u32>,
    },
    /// Text is not the concatenation of the bytes of its tokens, or this cannot be told.
    #[error("the tokenizer's decoder must be {expected}, got {got}")]
    Decoder {
        /// Accepted kinds.
        expected: &'static str,
        /// What the file has.
        got: String,
    },
    /// A token id larger than any real one, or of no token of the vocabulary.
    #[error("{file}: token ids must be below {expected}, got {got}")]
    TokenId {
        /// Which file.
        file: String,
        /// Accepted number of ids.
        expected: usize,
        /// The id.
        got: u32,
    },
    /// A prompt, or what a chat template made, is longer than what is tokenised.
    #[error("text must have at most {expected} bytes, got {got}")]
    TextTooLong {
        /// Accepted bytes.
        expected: usize,
        /// Its bytes.
        got: usize,
    },
    /// A text that the tokenizer's normaliser could make too long.
    #[error("text must have at most {expected} bytes once normalised, this tokenizer may need {got}")]
    TextGrows {
        /// Accepted bytes.
        expected: u64,
        /// What it may have.
        got: u64,
    },
    /// A conversation that spells control tokens and holds every character that could stand for a part of them.
    #[error("the conversation holds all private characters of Unicode; leave some out")]
    PrivateCharacters,
    /// The tokenizer failed on a text.
    #[error("tokenising failed: {cause}")]
    Encode {
        /// Why.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Draft and target must agree on every token; this is the first on which they differ.
    #[error(
        "draft and target must have the same vocabulary: token {token} is {expected:?} in one, {got:?} in the other"
    )]
    VocabularyToken {
        /// Its id.
        token: u32,
        /// Text in the first.
        expected: Option<String>,
        /// Text in the second.
        got: Option<String>,
    },
    /// Draft and target with different vocabularies that have too little in common.
    #[error(
        "draft and target must share {expected} tokens of more than one byte, got {got}; use a draft whose vocabulary is nearer to the model's"
    )]
    FewSharedWords {
        /// Least number.
        expected: usize,
        /// What both have.
        got: usize,
    },
    /// A model without chat template.
    #[error("the model has no chat template; send plain text (--raw)")]
    NoChatTemplate,
    /// A conversation whose end cannot be written on.
    #[error(
        "only a last message of the assistant's, of text that the chat template repeats, can be continued"
    )]
    NothingToContinue,
    /// A chat template that is not a valid program, or that refused these messages.
    #[error("the chat template failed: {reason}")]
    ChatTemplate {
        /// Its own message, and what led to it.
        reason: String,
    },
}

impl Error {
    pub(crate) fn of_template(error: &minijinja::Error) -> Self {
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        let reason = causes.fold(error.to_string(), |reason, cause| format!("{reason}: {cause}"));
        Self::ChatTemplate { reason }
    }
}
