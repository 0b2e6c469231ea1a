//! The small files of a model folder.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::Error;

/// Most bytes of a JSON file about the model; the index of a 400-shard model has about 10 MB.
pub const JSON_BYTES_MAX: u64 = 64 << 20;

/// How the small file begins that stands for a large one in a repository cloned without Git LFS.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses paths that are no folders.
pub fn check_folder(folder: &Path) -> Result<(), Error> {
    let metadata = std::fs::metadata(folder);
    match metadata.map_err(|source| Error::Io { path: folder.to_path_buf(), source })?.is_dir() {
        true => Ok(()),
        false => Err(Error::NotAFolder { path: folder.to_path_buf() }),
    }
}

/// Reads a text file of bounded size; `Ok(None)` if there is none.
pub fn read_optional(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    if !metadata.is_file() {
        return Err(Error::NotAFile { path: path.to_path_buf() });
    }
    if metadata.len() > bytes_max {
        let (expected, got) = (bytes_max, metadata.len());
        return Err(Error::FileTooLarge { path: path.to_path_buf(), expected, got });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    match is_lfs_pointer(&bytes) {
        true => Err(Error::LfsPointer { file: path.display().to_string() }),
        false => Ok(Some(bytes)),
    }
}

/// What the JSON text of a file says.
///
/// # Errors
/// [`Error::Json`], which names `file`.
pub fn json<T: DeserializeOwned>(file: &str, text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|source| Error::Json { file: file.to_string(), source })
}

/// Whether the bytes of a file stand for another one.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}
