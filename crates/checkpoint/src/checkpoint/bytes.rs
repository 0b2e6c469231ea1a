//! The bytes of a weight file: mapped, or part of the program; or bytes that take the place of some of them.

use std::fs::File;
use std::path::Path;

use crate::error::Error;
use crate::files::is_lfs_pointer;

/// All bytes of a weight file.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Embedded(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// If it cannot be read, is no regular file, or stands for another one.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::NotAFile { path: path.to_path_buf() });
        }
        let map = map_read_only(&File::open(path).map_err(io)?).map_err(io)?;
        match is_lfs_pointer(&map) {
            true => Err(Error::LfsPointer { file: path.display().to_string() }),
            false => Ok(Self::Mapped(map)),
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

#[expect(unsafe_code, reason = "the one memory map of the project")]
fn map_read_only(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is read-only and private, and its bytes are only ever read as plain bytes, for which every value is
    // valid. Another process that writes to the file can change weights, not memory safety as far as this program reads
    // each byte once into its packed form; one that shortens it ends this process with SIGBUS, as documented at `Checkpoint`.
    unsafe { memmap2::MmapOptions::new().map(file) }
}
