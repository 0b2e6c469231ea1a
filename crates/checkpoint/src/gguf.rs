//! GGUF files: metadata, vocabulary included, and tensors, in one file or in numbered parts.
//!
//! Versions 2 and 3 in little endian are read, version 3 is written ([`Writer`]). Headers are parsed at once and copied, weights stay mapped. As with everything from
//! strangers, counts and lengths are checked against the file before anything is allocated for them.
//!
//! Source: the specification of the format, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod header;
mod keys;
mod metadata;
mod parts;
mod tensor_type;
mod writer;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::checkpoint::{Bytes, ElementType, Location};
use crate::error::Error;
use crate::stored::TensorView;
pub(crate) use header::{ALIGNMENT, MAGIC};
use header::{Header, malformed};
pub use keys::Keys;
pub use metadata::{Metadata, Value};
use parts::Part;
pub use parts::is_later_part;
pub use writer::{Declared, Writer};

/// An opened GGUF file, or all parts of one.
///
/// What is said about the files of an open [`Checkpoint`](crate::Checkpoint) holds here, too.
#[derive(Debug)]
pub struct Gguf {
    pub(crate) metadata: Metadata,
    /// Keys of the first file in its order, and where their values lie.
    places: Vec<(String, Range<usize>)>,
    pub(crate) files: Vec<Bytes>,
    pub(crate) tensors: HashMap<String, Location>,
}

/// A file by itself.
struct Opened {
    bytes: Bytes,
    header: Header,
    part: Part,
}

impl Gguf {
    /// Opens a file; if it is a part, all parts, which lie beside it.
    ///
    /// # Errors
    /// If one cannot be read, is not a GGUF file of a version that is read, is truncated or contradicts itself or another, or has
    /// a tensor of an element type that is not read ([`Error::TensorDtype`]).
    pub fn open(path: &Path) -> Result<Self, Error> {
        let given = Opened::open(path)?;
        let part = given.part;
        let mut given = Some(given);
        let mut all = Self {
            metadata: Metadata::default(),
            places: Vec::new(),
            files: Vec::new(),
            tensors: HashMap::new(),
        };
        for (idx, path) in part.paths(path)?.iter().enumerate() {
            let opened = match given.take_if(|given| given.part.idx == idx) {
                Some(given) => given,
                None => Opened::open(path)?,
            };
            all.add(&path.display().to_string(), opened, Part { idx, ..part })?;
        }
        match part.n_tensors {
            Some(expected) if expected != all.tensors.len() => {
                let file = path.display().to_string();
                Err(malformed(&file, "tensors of all parts", expected.to_string(), all.tensors.len()))
            }
            _ => Ok(all),
        }
    }

    fn add(&mut self, file: &str, opened: Opened, expected: Part) -> Result<(), Error> {
        let Opened { bytes, header, part } = opened;
        if part != expected {
            let shown = |part: Part| format!("part {} of {}", part.idx + 1, part.n_parts);
            let expected = format!("{}, with as many tensors in all", shown(expected));
            return Err(malformed(file, "the file", expected, shown(part)));
        }
        if part.idx == 0 {
            self.metadata = header.metadata;
            self.places = header.places;
        }
        let file_idx = self.files.len();
        self.files.push(bytes);
        for (name, span) in header.tensors {
            if self.tensors.contains_key(&name) {
                return Err(malformed(file, format!("tensor {name}"), "in one part", "in two"));
            }
            self.tensors.insert(name, Location { file_idx, span });
        }
        Ok(())
    }

    /// What the file says about the model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All keys with their values, to be written again as they are.
    pub fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        for (key, place) in &self.places {
            keys.encoded(key, self.files[0][place.clone()].to_vec());
        }
        keys
    }

    /// Names of all tensors but lists of whole numbers, in the order in which they lie in the files.
    pub fn stored_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensor_names().filter(|name| self.tensor(name).is_some()).collect();
        let place = |name: &str| {
            let Location { file_idx, span } = &self.tensors[name];
            (*file_idx, span.range.start)
        };
        names.sort_by_key(|name| place(name));
        names
    }

    /// Names of all tensors as the file has them (`blk.0.attn_q.weight`), in no particular order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names of the lists of whole numbers, which are no weights.
    pub(crate) fn list_names(&self) -> impl Iterator<Item = &str> {
        self.tensor_names().filter(|name| self.tensor(name).is_none())
    }

    /// A tensor as stored, unless it is a list of whole numbers; its last dimension is the fastest, which the file lists first.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let Location { file_idx, span } = self.tensors.get(name)?;
        match span.dtype {
            ElementType::Read(dtype) => {
                let bytes = &self.files[*file_idx][span.range.clone()];
                Some(TensorView { dtype, shape: &span.shape, bytes })
            }
            ElementType::Other(_) => None,
        }
    }
}

impl Opened {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let bytes = Bytes::open(path)?;
        let header = Header::parse(&file, &bytes)?;
        let part = Part::of(&file, &header.metadata)?;
        Ok(Self { bytes, header, part })
    }
}
