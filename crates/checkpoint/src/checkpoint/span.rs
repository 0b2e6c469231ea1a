//! Where tensors lie.

use std::ops::Range;

use crate::stored::{Dtype, RowOrder};

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    /// Which of the model's files.
    pub(crate) file_idx: usize,
    pub(crate) span: Span,
}

/// Where a tensor lies in its file and how it is shaped.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) dtype: ElementType,
    /// Elements per dimension, the last the fastest.
    pub(crate) shape: Vec<usize>,
    /// Bytes of the file.
    pub(crate) range: Range<usize>,
    /// Order of the first dimension.
    pub(crate) order: RowOrder,
}

/// Element type of a tensor in a file.
#[derive(Clone, Debug)]
pub(crate) enum ElementType {
    Read(Dtype),
    /// The name of one that is not read.
    Other(String),
}
