//! The one error type of this crate.

use std::path::PathBuf;

use crate::backend::Dtype;

/// Why a model, a tokenizer or a chat template cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The form asked of an answer cannot be had.
    #[error("the form of the answer cannot be followed: {reason}")]
    Grammar {
        /// Why.
        reason: String,
    },
    /// The operating system refused a file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A model is a folder.
    #[error("{} is not a folder; give the folder that holds config.json", path.display())]
    NotAFolder {
        /// What was given.
        path: PathBuf,
    },
    /// A file that every model folder of this kind has.
    #[error("{} has no {expected}", path.display())]
    MissingFile {
        /// The folder.
        path: PathBuf,
        /// The missing file, with a hint where one helps.
        expected: &'static str,
    },
    /// Something else where a regular file should be, such as a folder or a pipe.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// A repository was cloned without its large files.
    #[error(
        "{file} is a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder, or download it again"
    )]
    LfsPointer {
        /// Which file.
        file: String,
    },
    /// A text file far larger than any real one.
    #[error("{} must have at most {expected} bytes, got {got}", path.display())]
    FileTooLarge {
        /// Which file.
        path: PathBuf,
        /// Accepted bytes.
        expected: u64,
        /// Its bytes.
        got: u64,
    },
    /// Text that is not JSON, or JSON of another shape.
    #[error("{file} cannot be parsed: {source}")]
    Json {
        /// Which file.
        file: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },

    /// A required field of the configuration is absent.
    #[error("config.json lacks {field}")]
    FieldMissing {
        /// Its name in the file.
        field: &'static str,
    },
    /// A field of the configuration has a value that no model can have.
    #[error("{field} must be {expected}, got {got}")]
    Field {
        /// Its name in the file.
        field: &'static str,
        /// Accepted values in words.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A model of a family that is not implemented.
    #[error("architecture {got} is not supported; supported are {expected}")]
    Architecture {
        /// The supported ones.
        expected: String,
        /// What the configuration names.
        got: String,
    },
    /// A feature of a supported family that is not implemented.
    #[error("{feature} is not supported ({got}); {hint}")]
    Unsupported {
        /// The feature.
        feature: &'static str,
        /// What the configuration asks for.
        got: String,
        /// What the user can do.
        hint: &'static str,
    },

    /// The length field of a safetensors file is larger than any real header.
    #[error("{file}: header must have at most {expected} bytes, got {got}; this is not a safetensors file")]
    HeaderLen {
        /// Which file.
        file: String,
        /// Accepted bytes.
        expected: u64,
        /// Claimed bytes.
        got: u64,
    },
    /// The header of a safetensors file contradicts itself or is not JSON.
    #[error("{file}: invalid safetensors header: {source}")]
    Header {
        /// Which file.
        file: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A safetensors file is shorter or longer than its header says, usually an interrupted download.
    #[error("{file} must have {expected} bytes, got {got}; download it again")]
    FileLen {
        /// Which file.
        file: String,
        /// Bytes that the header announces.
        expected: u64,
        /// Bytes there are.
        got: u64,
    },
    /// A shard name in the index that is not a plain `.safetensors` name inside the folder.
    #[error("shard name must be a plain *.safetensors file name, got {got:?}")]
    ShardName {
        /// The name.
        got: String,
    },
    /// An index with more shards than any real one.
    #[error("the index must name at most {expected} shards, got {got}")]
    TooManyShards {
        /// Accepted number.
        expected: usize,
        /// Named shards.
        got: usize,
    },
    /// The index promises a tensor that its shard does not hold.
    #[error("{shard} lacks tensor {tensor}, which the index promises")]
    ShardLacks {
        /// The shard.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the configuration implies is absent.
    #[error("the weights lack tensor {name}")]
    TensorMissing {
        /// Its name.
        name: String,
    },
    /// A tensor that changes what a model computes, of a model whose configuration does not mention it.
    #[error("the weights have {name}, which config.json does not declare; {hint}")]
    TensorUndeclared {
        /// Its name.
        name: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("tensor {name} must have shape {expected:?}, got {got:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Shape that the configuration implies.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor has an element type that is not read.
    #[error("tensor {name} must be one of {expected:?}, got {got}; convert the weights")]
    TensorDtype {
        /// Its name.
        name: String,
        /// Accepted types.
        expected: &'static [Dtype],
        /// Type in the file.
        got: String,
    },

    /// tokenizer.json is not a tokenizer.
    #[error("{file} is not a tokenizer: {source}")]
    Tokenizer {
        /// Which file.
        file: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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
    /// A token id larger than any real one.
    #[error("{file}: token ids must be below {expected}, got {got}")]
    TokenId {
        /// Which file.
        file: String,
        /// Accepted number of ids.
        expected: usize,
        /// The largest id.
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
    #[error("tokenising failed: {source}")]
    Encode {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Draft and target must agree on every token; their numbers of tokens differ.
    #[error("draft and target must have the same vocabulary: {expected} tokens in one, {got} in the other")]
    VocabularyLen {
        /// Tokens of the first.
        expected: usize,
        /// Tokens of the second.
        got: usize,
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

    /// A draft that was to be loaded again is another model now.
    #[error("the draft must have the shape that it had at the start, got another; start again to use it")]
    DraftChanged,

    /// A model without chat template.
    #[error("the model has no chat template; send plain text (--raw)")]
    NoChatTemplate,
    /// A chat template that is not a valid program, or that refused these messages.
    #[error("the chat template failed: {source}")]
    ChatTemplate {
        /// Its own message.
        #[source]
        source: minijinja::Error,
    },
}
