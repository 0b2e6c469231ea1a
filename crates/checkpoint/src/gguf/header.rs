//! The header of a GGUF file: metadata and the table of tensors, held against the file.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::metadata::Metadata;
use super::tensor_type::TensorType;
use crate::checkpoint::Span;
use crate::error::Error;
use crate::stored::{Dtype, RowOrder};

/// How a file begins.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Versions that are read; they differ only in that the later one may be big endian.
const VERSIONS: [u32; 2] = [2, VERSION];
/// The one that is written.
pub(super) const VERSION: u32 = 3;
/// Most tensors of a file; the deepest models of the families here have some 5000.
const N_TENSORS_MAX: usize = 1 << 16;
/// Most dimensions of a tensor.
const N_DIMS_MAX: u32 = 4;
/// Tensors begin at multiples of this many bytes where the metadata do not say otherwise.
pub(super) const ALIGNMENT_DEFAULT: usize = 32;
pub(crate) const ALIGNMENT: &str = "general.alignment";

/// What stands before the weights.
pub(super) struct Header {
    pub(super) metadata: Metadata,
    /// Keys in the order of the file, and where their values lie.
    pub(super) places: Vec<(String, Range<usize>)>,
    pub(super) tensors: HashMap<String, Span>,
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
        let n_tensors = cursor.count("the number of tensors", N_TENSORS_MAX)?;
        let mut places = Vec::new();
        let metadata = Metadata::parse(&mut cursor, &mut places)?;
        let alignment = alignment(file, &metadata)?;
        let mut entries: Vec<Entry<'_>> = Vec::new();
        for _ in 0..n_tensors {
            entries.push(Entry::parse(&mut cursor, alignment)?);
        }
        let data_start = cursor.at().next_multiple_of(alignment);
        let tensors = spans(file, bytes.len() as u64, data_start, entries)?;
        Ok(Self { metadata, places, tensors })
    }
}

/// Bytes between which tensors begin.
fn alignment(file: &str, metadata: &Metadata) -> Result<u64, Error> {
    let alignment = metadata.len(ALIGNMENT)?.unwrap_or(ALIGNMENT_DEFAULT);
    match u32::try_from(alignment) {
        Ok(alignment) if alignment.is_power_of_two() => Ok(alignment.into()),
        _ => Err(malformed(file, ALIGNMENT, "a power of two below 2^32", alignment)),
    }
}

/// A line of the table of tensors.
struct Entry<'a> {
    name: &'a str,
    dtype: TensorType,
    /// The last dimension is the fastest.
    shape: Vec<usize>,
    /// Bytes after the beginning of the weights; `end` is at most `i64::MAX`.
    range: Range<u64>,
}

impl<'a> Entry<'a> {
    fn parse(cursor: &mut Cursor<'a>, alignment: u64) -> Result<Self, Error> {
        let file = cursor.file;
        let name = cursor.text("the name of a tensor")?;
        let of = |what: &str| format!("{what} of {name}");
        let n_dims = cursor.u32()?;
        if !(1..=N_DIMS_MAX).contains(&n_dims) {
            let expected = format!("1 to {N_DIMS_MAX}");
            return Err(malformed(file, of("the number of dimensions"), expected, n_dims));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let len = cursor.u64()?;
            match usize::try_from(len) {
                Ok(len) if len > 0 => shape.push(len),
                _ => return Err(malformed(file, of("a dimension"), "from 1 to the largest address", len)),
            }
        }
        shape.reverse();
        let dtype = TensorType::numbered(cursor.u32()?).map_err(|got| Error::TensorDtype {
            name: name.to_string(),
            expected: &Dtype::ALL,
            got,
        })?;
        let offset = cursor.u64()?;
        if !offset.is_multiple_of(alignment) {
            let expected = format!("a multiple of {alignment}");
            return Err(malformed(file, of("the place"), expected, offset));
        }
        let row_len = shape[shape.len() - 1];
        if !row_len.is_multiple_of(dtype.block_len) {
            let expected = format!("multiples of {}, the block of {}", dtype.block_len, dtype.name);
            return Err(malformed(file, of("the rows"), expected, row_len));
        }
        let end = n_bytes(&dtype, &shape).and_then(|len| offset.checked_add(len));
        let end = end.filter(|&end| i64::try_from(end).is_ok());
        let end = end.ok_or_else(|| {
            malformed(file, of("the size"), "below 2^63 bytes", format!("shape {shape:?} at {offset}"))
        })?;
        Ok(Self { name, dtype, shape, range: offset..end })
    }
}

/// Bytes of a tensor of whole rows, if they can be counted.
fn n_bytes(dtype: &TensorType, shape: &[usize]) -> Option<u64> {
    let n_elements = shape.iter().try_fold(1u64, |n, &len| n.checked_mul(len as u64))?;
    (n_elements / dtype.block_len as u64).checked_mul(dtype.block_bytes as u64)
}

/// Tensors by name, all within the file and none over another.
fn spans(
    file: &str,
    file_len: u64,
    data_start: u64,
    mut entries: Vec<Entry<'_>>,
) -> Result<HashMap<String, Span>, Error> {
    entries.sort_by_key(|entry| entry.range.start);
    for pair in entries.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.range.start < before.range.end {
            let what = format!("the place of {}", after.name);
            let expected = format!("behind {}, which ends at {}", before.name, before.range.end);
            return Err(malformed(file, what, expected, after.range.start));
        }
    }
    let end = data_start + entries.last().map_or(0, |entry| entry.range.end);
    if end > file_len && !entries.is_empty() {
        return Err(Error::FileLen { file: file.to_string(), expected: end, got: file_len });
    }
    let mut spans = HashMap::new();
    for Entry { name, dtype, shape, range } in entries {
        let range = (data_start + range.start) as usize..(data_start + range.end) as usize;
        let span = Span { dtype: dtype.element, shape, range, order: RowOrder::AsIs };
        if spans.insert(name.to_string(), span).is_some() {
            return Err(malformed(file, format!("tensor {name}"), "there once", "a second one"));
        }
    }
    Ok(spans)
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
