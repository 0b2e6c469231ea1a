//! Why a model's files cannot be used.

use std::path::PathBuf;

use crate::stored::Dtype;

/// Why a model's files cannot be used; messages say what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The operating system refused to write.
    #[error("writing failed: {source}")]
    Write {
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// An element of a tensor that the type to write cannot hold.
    #[error("tensor {name} has {got} as element {idx}, which {dtype} cannot hold; the weights are broken")]
    Element {
        /// Name of the tensor.
        name: String,
        /// The type.
        dtype: &'static str,
        /// Which element, from 0 on.
        idx: usize,
        /// Its value.
        got: f32,
    },
    /// A model is a folder.
    #[error("{} is not a folder; give the folder that holds config.json, or a *.gguf file", path.display())]
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
    /// A folder with more than one model.
    #[error("{} holds several models; give one of {got}", path.display())]
    SeveralModels {
        /// The folder.
        path: PathBuf,
        /// Names of files.
        got: String,
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
    /// A key of a GGUF file's metadata that every model of the kind has is absent.
    #[error("the metadata lack {key}")]
    KeyMissing {
        /// The key.
        key: String,
    },
    /// A field of the configuration, or a key of a GGUF file's metadata, has a value that no model can have.
    #[error("{field} must be {expected}, got {got}")]
    Field {
        /// Its name in the file.
        field: String,
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
    /// The header of a weight file is larger than any real one.
    #[error("{file}: header must have at most {expected} bytes, got {got}; this is not a file of weights")]
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
    /// A weight file is shorter or longer than its header says, usually an interrupted download.
    #[error("{file} must have {expected} bytes, got {got}; download it again")]
    FileLen {
        /// Which file.
        file: String,
        /// Bytes that the header announces.
        expected: u64,
        /// Bytes there are.
        got: u64,
    },
    /// A part of a GGUF file contradicts another, or is none that is read.
    #[error("{file}: {what} must be {expected}, got {got}")]
    Gguf {
        /// Which file.
        file: String,
        /// The part.
        what: String,
        /// What it would be in a valid file.
        expected: String,
        /// What stands there.
        got: String,
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
    #[error("the weights have {name}, which {declarer} does not declare; {hint}")]
    TensorUndeclared {
        /// Its name.
        name: String,
        /// What would declare it.
        declarer: &'static str,
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
    /// A tensor that holds no weights has elements of another type.
    #[error("tensor {name} must hold {expected}, got {got}")]
    TensorElements {
        /// Its name.
        name: String,
        /// Their type as safetensors files call it.
        expected: &'static str,
        /// Type in the file.
        got: String,
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
}
