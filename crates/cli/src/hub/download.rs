//! A file on its way: what has arrived is kept, so that the next attempt goes on from there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};

use super::Error;
use super::client::{Client, Remote};

/// Bytes that are hashed at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Fetches a file to `blob`, unless it is there.
///
/// # Errors
/// If it does not arrive whole and as announced; a beginning that may be right is kept.
pub(super) async fn fetch(
    client: &Client,
    remote: &Remote,
    blob: &Path,
    bar: &ProgressBar,
) -> Result<(), Error> {
    if is_whole(blob, remote) {
        bar.inc(remote.size);
        return Ok(());
    }
    let mut partial = Partial::open(remote, blob)?;
    bar.inc(partial.len);
    while partial.len < remote.size {
        let before = partial.len;
        match append(client, remote, &mut partial, bar).await {
            // Asking again is of use where the last attempt brought something.
            Err(Error::Cut { .. }) if partial.len > before => {}
            appended => appended?,
        }
    }
    // Somebody else may have been faster while the lock was not yet ours.
    if is_whole(blob, remote) { Ok(()) } else { partial.finish(remote, blob) }
}

fn is_whole(blob: &Path, remote: &Remote) -> bool {
    fs::metadata(blob).is_ok_and(|metadata| metadata.is_file() && metadata.len() == remote.size)
}

/// Adds what one answer brings.
async fn append(
    client: &Client,
    remote: &Remote,
    partial: &mut Partial,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let malformed = |what: String| Error::Malformed { host: "the host of the file".to_owned(), what };
    let mut response = client.content(remote, partial.len).await?;
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let expected = format!("bytes {}-", partial.len);
        if !range.is_some_and(|range| range.starts_with(&expected)) {
            return Err(malformed(format!("expected {expected}..., got {range:?}")));
        }
    } else if partial.len > 0 {
        bar.set_position(bar.position().saturating_sub(partial.len));
        partial.restart()?;
    }
    // A connection that breaks and one that ends too early are the same here.
    while let Ok(Some(bytes)) = response.chunk().await {
        if bytes.len() as u64 > remote.size - partial.len {
            return Err(malformed(format!(
                "{} is longer than the {} bytes announced",
                remote.file, remote.size
            )));
        }
        partial.write(&bytes)?;
        bar.inc(bytes.len() as u64);
    }
    match partial.len == remote.size {
        true => Ok(()),
        false => Err(Error::Cut { file: remote.file.clone(), expected: remote.size, got: partial.len }),
    }
}

/// What has arrived, locked against other programs.
struct Partial {
    file: File,
    path: PathBuf,
    /// Bytes.
    len: u64,
    /// Of them.
    hash: Sha256,
}

impl Partial {
    fn open(remote: &Remote, blob: &Path) -> Result<Self, Error> {
        let path = blob.with_extension("incomplete");
        let io = |source| Error::io(&path, source);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(io)?;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(io)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { file: remote.file.clone() }),
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let (len, hash) = hashed(&mut file).map_err(io)?;
        let mut partial = Self { file, path, len, hash };
        if partial.len > remote.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn restart(&mut self) -> Result<(), Error> {
        let restart = self.file.set_len(0).and_then(|()| self.file.rewind());
        restart.map_err(|source| Error::io(&self.path, source))?;
        (self.len, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| Error::io(&self.path, source))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks what arrived and gives it its name.
    fn finish(self, remote: &Remote, blob: &Path) -> Result<(), Error> {
        let got: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(expected) = remote.sha256().filter(|&expected| expected != got) {
            fs::remove_file(&self.path).map_err(|source| Error::io(&self.path, source))?;
            return Err(Error::Checksum { file: remote.file.clone(), expected: expected.to_owned(), got });
        }
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        named.map_err(|source| Error::io(&self.path, source))
    }
}

/// Length and hash of a file, which is then at its end.
fn hashed(file: &mut File) -> io::Result<(u64, Sha256)> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        let n_bytes = file.read(&mut buffer)?;
        if n_bytes == 0 {
            return Ok((file.seek(SeekFrom::End(0))?, hash));
        }
        hash.update(&buffer[..n_bytes]);
    }
}
