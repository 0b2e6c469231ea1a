//! A model in several files: `NAME-00001-of-00003.gguf` and so on, of which the first has the metadata.

use std::path::{Path, PathBuf};

use super::header::malformed;
use super::metadata::Metadata;
use crate::error::Error;

/// Most files of a model; the largest published ones have some dozens.
const N_PARTS_MAX: usize = 4096;
const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const N_TENSORS: &str = "split.tensors.count";

/// What a file says about its being a part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// From 0 on.
    pub(super) idx: usize,
    /// Files of the model.
    pub(super) n_parts: usize,
    /// Tensors of the model, where this is stated.
    pub(super) n_tensors: Option<usize>,
}

impl Part {
    /// A file that does not say anything is the only part; one that was merged from parts says 0.
    pub(super) fn of(file: &str, metadata: &Metadata) -> Result<Self, Error> {
        let n_parts = metadata.len(COUNT)?.unwrap_or(1).max(1);
        if n_parts > N_PARTS_MAX {
            return Err(malformed(file, COUNT, format!("at most {N_PARTS_MAX}"), n_parts));
        }
        let idx = metadata.len(NUMBER)?.unwrap_or(0);
        if idx >= n_parts {
            return Err(malformed(file, NUMBER, format!("below {n_parts}"), idx));
        }
        let n_tensors = if n_parts > 1 { metadata.len(N_TENSORS)? } else { None };
        Ok(Self { idx, n_parts, n_tensors })
    }

    /// Paths of all parts; they lie beside this one and are named alike.
    pub(super) fn paths(self, path: &Path) -> Result<Vec<PathBuf>, Error> {
        if self.n_parts == 1 {
            return Ok(vec![path.to_path_buf()]);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = |idx: usize| format!("-{:05}-of-{:05}.gguf", idx + 1, self.n_parts);
        let Some(prefix) = name.strip_suffix(&ending(self.idx)) else {
            let expected = format!("NAME{}, as it is a part", ending(self.idx));
            return Err(malformed(&path.display().to_string(), "the name", expected, name));
        };
        Ok((0..self.n_parts).map(|idx| path.with_file_name(format!("{prefix}{}", ending(idx)))).collect())
    }
}

/// Whether a file name is that of a part other than the first.
pub fn is_later_part(name: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-of-"));
    let number = parts.filter(|(_, n_parts)| digits(n_parts)).and_then(|(rest, _)| rest.rsplit_once('-'));
    number.is_some_and(|(_, number)| digits(number) && number != "00001")
}
