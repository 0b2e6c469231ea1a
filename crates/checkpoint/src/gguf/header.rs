//! The header of a GGUF file.

use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::Error;

/// How a file begins.
const MAGIC: [u8; 4] = *b"GGUF";
/// Versions that are read; they differ only in that the later one may be big endian.
const VERSIONS: [u32; 2] = [2, 3];
/// Most tensors of a file; the deepest models of the families here have some 5000.
const N_TENSORS_MAX: usize = 1 << 16;

/// What stands before the weights.
pub(super) struct Header {
    pub(super) metadata: Metadata,
}

impl Header {
    /// Reads the beginning of a file.
    ///
    /// * `file`: its name, for errors.
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(file, bytes);
        let magic: [u8; 4] = cursor.array()?;
        if magic != MAGIC {
            return Err(malformed(file, "the beginning", "GGUF", magic.escape_ascii()));
        }
        let version = cursor.u32()?;
        if !VERSIONS.contains(&version) {
            let is_swapped = VERSIONS.contains(&version.swap_bytes());
            let got = if is_swapped { "big endian".to_string() } else { version.to_string() };
            return Err(malformed(file, "the version of the format", "2 or 3 in little endian", got));
        }
        let _n_tensors = cursor.count("the number of tensors", N_TENSORS_MAX)?;
        let metadata = Metadata::parse(&mut cursor)?;
        Ok(Self { metadata })
    }
}

/// Error about a part of a file.
pub(super) fn malformed(
    file: &str,
    what: impl Into<String>,
    expected: impl Into<String>,
    got: impl ToString,
) -> Error {
    let got = got.to_string();
    Error::Gguf { file: file.to_string(), what: what.into(), expected: expected.into(), got }
}
