//! A place in the header of a GGUF file; reading moves it forward and never past the end.

use super::header::malformed;
use crate::error::Error;

/// Longest header accepted; published files, whose vocabulary is in it, stay under 32 MiB.
const HEADER_BYTES_MAX: u64 = 256 << 20;

/// A place in a file.
pub(super) struct Cursor<'a> {
    pub(super) file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of a file.
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self { file, bytes, at: 0 }
    }

    /// Bytes before this place.
    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], Error> {
        let (end, file_len) = (self.at().saturating_add(len), self.bytes.len() as u64);
        let file = || self.file.to_string();
        if end > file_len {
            return Err(Error::FileLen { file: file(), expected: end, got: file_len });
        }
        if end > HEADER_BYTES_MAX {
            return Err(Error::HeaderLen { file: file(), expected: HEADER_BYTES_MAX, got: end });
        }
        let taken = &self.bytes[self.at..end as usize];
        self.at = end as usize;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let taken = self.take(N as u64)?;
        Ok(*taken.first_chunk().expect("as many bytes as were asked for"))
    }

    /// A number of 4 bytes.
    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of 8 bytes.
    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things of which there are at most `max`.
    ///
    /// * `what`: the things, for errors.
    pub(super) fn count(&mut self, what: &str, max: usize) -> Result<usize, Error> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(malformed(self.file, what, format!("at most {max}"), count)),
        }
    }

    /// A text: its length in bytes, then these.
    ///
    /// * `what`: where it stands, for errors.
    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, Error> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        str::from_utf8(bytes).map_err(|error| malformed(self.file, what, "UTF-8", error))
    }
}
