//! Why a model did not come.

use std::io;
use std::path::{Path, PathBuf};

use reqwest::StatusCode;

use crate::failure::Failure;
use crate::remote::innermost;

/// Tokens and signed addresses never stand in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing may be asked.
    #[error(
        "{name} is not in the cache ({missing}), and HF_HUB_OFFLINE forbids to ask for it; \
         run `dsde pull {name}` without it, or copy the cache of a machine that has it"
    )]
    Offline { name: String, missing: String },
    /// No connection, or it broke before the answer began.
    #[error(
        "cannot reach {host}: {}; where there is no network, copy the cache of a machine that ran `dsde pull`",
        innermost(cause)
    )]
    Unreachable { host: String, cause: reqwest::Error },
    /// Not there, or not for this user.
    #[error(
        "{endpoint} does not show {what} ({status}: {message}); check the name, or set HF_TOKEN to a token that may read it"
    )]
    Refused { endpoint: String, what: String, status: StatusCode, message: String },
    /// Not there.
    #[error("{endpoint} has no {what} ({status}: {message})")]
    NotFound { endpoint: String, what: String, status: StatusCode, message: String },
    /// Another error status.
    #[error(
        "{host} answered {status} for {what}: {message}; run the command again later, it goes on where it stopped"
    )]
    Status { host: String, what: String, status: StatusCode, message: String },
    /// The connection ended or stood still before the file was whole.
    #[error(
        "the connection ended after {got} of {expected} bytes of {file}; run the command again, it goes on from there"
    )]
    Cut { file: String, expected: u64, got: u64 },
    /// Something else than the Hub.
    #[error("the answer of {host} is none of the Hub: {what}")]
    Malformed { host: String, what: String },
    /// A file that would be written elsewhere.
    #[error("the repository has a file whose name leads out of its folder: {0:?}; nothing was fetched")]
    Escaping(String),
    /// Something else arrived than was announced.
    #[error(
        "{file} arrived broken and was removed: expected SHA-256 {expected}, got {got}; run the command again"
    )]
    Checksum { file: String, expected: String, got: String },
    /// Two at once.
    #[error("another program is fetching {file} right now; wait for it and run the command again")]
    Busy { file: String },
    /// The disk.
    #[error("cannot write {}: {source}{}", .path.display(), advice(source))]
    Io { path: PathBuf, source: io::Error },
    /// No kind of weights.
    #[error("there are neither safetensors nor GGUF files that would make a model")]
    NoModel,
    /// No file has the label.
    #[error("no GGUF file is or contains '{wanted}'; there are: {files}")]
    NoFile { wanted: String, files: String },
    /// Which one is meant?
    #[error("there are several GGUF files; name one behind a colon, as ORG/NAME:FILE: {files}")]
    SeveralFiles { files: String },
    /// A split file that is not whole.
    #[error("a GGUF file has {expected} parts, of which there are only: {got}")]
    PartsMissing { expected: usize, got: String },
}

impl Error {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    /// The failure of a command; what was typed is to blame where nothing broke.
    ///
    /// * `asked`: as typed, with its option.
    pub(super) fn failure(self, asked: &str) -> Failure {
        let is_usage = matches!(
            self,
            Self::Offline { .. }
                | Self::Refused { .. }
                | Self::NotFound { .. }
                | Self::NoModel
                | Self::NoFile { .. }
                | Self::SeveralFiles { .. }
        );
        let error = anyhow::Error::new(self).context(asked.to_owned());
        if is_usage { Failure::Usage(error) } else { Failure::Run(error) }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; what arrived is kept, so make room and run the command again, or set HF_HOME to another disk"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_are_told_what_helps() {
        let full = Error::io(Path::new("/x"), io::ErrorKind::StorageFull.into()).to_string();
        assert!(full.contains("/x") && full.contains("make room"), "{full}");
        let other = Error::io(Path::new("/x"), io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(!other.contains("room"), "{other}");
    }
}
