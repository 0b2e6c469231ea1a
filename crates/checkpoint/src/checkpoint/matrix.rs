//! Matrices as they are packed, whether their rows lie in the file like this or had to be copied.

use std::borrow::Cow;

use crate::stored::{Dense, Dtype};

/// A matrix `[n_out, n_in]` whose rows lie in their order.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    dtype: Dtype,
    shape: [usize; 2],
    bytes: Cow<'a, [u8]>,
}

impl Matrix<'_> {
    /// * `bytes`: rows one after the other.
    pub(super) fn copied(dtype: Dtype, shape: [usize; 2], bytes: Vec<u8>) -> Self {
        Self { dtype, shape, bytes: Cow::Owned(bytes) }
    }

    pub(super) fn dense(&self) -> Dense<'_> {
        Dense::new(self.dtype, self.shape[0], self.shape[1], &self.bytes)
    }
}

impl<'a> From<Dense<'a>> for Matrix<'a> {
    fn from(Dense { dtype, n_out, n_in, bytes, .. }: Dense<'a>) -> Self {
        Self { dtype, shape: [n_out, n_in], bytes: Cow::Borrowed(bytes) }
    }
}
