//! GGUF files: metadata, vocabulary included, and tensors in one file or in numbered parts.
//!
//! Versions 2 and 3 in little endian are read. The header is parsed at once and copied, the weights stay mapped. As everything from
//! strangers, counts and lengths are checked against the file before anything is allocated for them.
//!
//! Source: the specification of the format, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod header;
mod metadata;

use std::path::Path;

use crate::checkpoint::Bytes;
use crate::error::Error;
use header::Header;
pub use metadata::{Metadata, Value};

/// An opened GGUF file.
///
/// What is said about the files of an open [`Checkpoint`](crate::Checkpoint) holds here, too.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
}

impl Gguf {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be read, is not a GGUF file of a version that is read, is truncated or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = Bytes::open(path)?;
        let header = Header::parse(&path.display().to_string(), &bytes)?;
        Ok(Self { metadata: header.metadata })
    }

    /// What the file says about the model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
