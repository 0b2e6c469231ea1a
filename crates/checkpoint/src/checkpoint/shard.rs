//! One safetensors file: its bytes and the checked table of its tensors.

use std::path::Path;

use safetensors::tensor::Metadata;

use super::bytes::Bytes;
use super::span::{ElementType, Span};
use crate::error::Error;
use crate::stored::{Dtype, RowOrder};

/// Bytes of the length field at the start of the file.
const LEN_BYTES: usize = 8;
/// Longest header accepted, as in the format's own implementation; published shards stay under 1 MB.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A safetensors file whose header is consistent with its length.
#[derive(Debug)]
pub(super) struct Shard {
    bytes: Bytes,
    metadata: Metadata,
    /// Where the tensors' bytes begin in the file.
    data_start: usize,
}

impl Shard {
    /// Maps a file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Self::parse(&path.display().to_string(), Bytes::open(path)?)
    }

    /// Takes a file that is part of the program.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, Error> {
        Self::parse(name, Bytes::Embedded(bytes))
    }

    fn parse(name: &str, bytes: Bytes) -> Result<Self, Error> {
        let file_len =
            |expected: u64| Error::FileLen { file: name.to_string(), expected, got: bytes.len() as u64 };
        let (len, rest) = bytes.split_first_chunk::<LEN_BYTES>().ok_or_else(|| file_len(LEN_BYTES as u64))?;
        let header_len = u64::from_le_bytes(*len);
        if header_len > HEADER_BYTES_MAX {
            let file = name.to_string();
            return Err(Error::HeaderLen { file, expected: HEADER_BYTES_MAX, got: header_len });
        }
        let data_start = LEN_BYTES as u64 + header_len;
        let header = rest.get(..header_len as usize).ok_or_else(|| file_len(data_start))?;
        let metadata: Metadata = serde_json::from_slice(header)
            .map_err(|source| Error::Header { file: name.to_string(), source })?;
        // The sum is checked here because the crate's own reader adds without a check.
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != bytes.len() as u64 {
            return Err(file_len(expected));
        }
        Ok(Self { bytes, metadata, data_start: data_start as usize })
    }

    /// Every tensor of the file.
    pub(super) fn spans(&self) -> impl Iterator<Item = (String, Span)> {
        self.metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let range = self.data_start + start..self.data_start + end;
            let dtype = match info.dtype {
                safetensors::Dtype::F32 => ElementType::Read(Dtype::F32),
                safetensors::Dtype::F16 => ElementType::Read(Dtype::F16),
                safetensors::Dtype::BF16 => ElementType::Read(Dtype::Bf16),
                other => ElementType::Other(format!("{other:?}")),
            };
            (name, Span { dtype, shape: info.shape.clone(), range, order: RowOrder::AsIs })
        })
    }

    /// The file itself.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }
}
