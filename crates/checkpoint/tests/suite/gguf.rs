//! GGUF files: what they hold, what models they make, and what is wrong with broken ones.

mod architectures;
mod blocks;
mod gemma4;
mod hostile;
mod models;
mod parts;
mod values;
pub(crate) mod writer;
mod written;

use std::path::PathBuf;

use tempfile::TempDir;

/// A file with these bytes in a folder of its own.
pub(crate) fn written(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}
