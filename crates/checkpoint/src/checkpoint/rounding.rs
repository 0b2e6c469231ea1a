//! Matrices rounded to a block format while a checkpoint is open.
//!
//! A draft is read in every round, and a pass over few rows takes as long as its weights take to come from memory. Its guesses are
//! verified, so rounding its weights changes how often it is right and never what is emitted.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use super::{Bytes, Checkpoint, ElementType, Location, OUTPUT};
use crate::conversion::Rows;
use crate::stored::{Dtype, RowOrder};

/// Parts of names of what is no matrix of a product with rows, or of one that decides where rows go.
const KEPT: [&str; 4] = ["norm", "conv1d", ".mlp.gate.", "router"];

/// How the name of an embedding table ends.
const TABLE: &str = "embed_tokens.weight";

impl Checkpoint {
    /// Rounds the matrices of plain numbers to a block format, in memory; what is in the files is left alone.
    ///
    /// Vectors, routers of experts, convolutions, an embedding table that is not the output projection too, rows that are not whole
    /// blocks, and matrices with an element that the type cannot hold stay as they are.
    ///
    /// # Panics
    /// If the type is not one of [`Dtype::WRITTEN`].
    #[must_use]
    pub fn with_matrices_rounded(mut self, dtype: Dtype) -> Self {
        let mut names: Vec<String> =
            self.tensors.keys().filter(|name| self.is_rounded(name, dtype)).cloned().collect();
        names.sort_unstable();
        let mut bytes = Vec::new();
        let file_idx = self.files.len();
        for name in names {
            let start = bytes.len();
            match self.narrow(&name, dtype, &mut bytes) {
                Some(()) => {
                    let location = self.tensors.get_mut(&name).expect("the name is from the map");
                    location.file_idx = file_idx;
                    location.span.dtype = ElementType::Read(dtype);
                    location.span.range = start..bytes.len();
                }
                None => bytes.truncate(start),
            }
        }
        self.files.push(Arc::new(Bytes::Owned(bytes)));
        self
    }

    fn is_rounded(&self, name: &str, dtype: Dtype) -> bool {
        let Location { span, .. } = &self.tensors[name];
        let is_plain = matches!(span.dtype, ElementType::Read(stored) if !stored.is_quantised());
        let n_in = span.shape.last().copied().unwrap_or(0);
        is_plain
            && span.shape.len() >= 2
            && n_in.is_multiple_of(dtype.block_len())
            && name.ends_with("weight")
            && !KEPT.iter().any(|part| name.contains(part))
            && !(name.ends_with(TABLE) && self.has_tensor(OUTPUT))
    }

    /// Appends a tensor as `dtype`; `None` if the type cannot hold it.
    fn narrow(&self, name: &str, dtype: Dtype, bytes: &mut Vec<u8>) -> Option<()> {
        let rows = Rows::new(self.stored(name).ok()?, RowOrder::AsIs, dtype);
        let n_threads = available_parallelism().map_or(1, NonZeroUsize::get);
        for piece in rows.rounded(0..rows.n_rows(), n_threads) {
            bytes.extend(piece.ok()?.bytes);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    /// All elements of a tensor.
    fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
        let tensor = checkpoint.stored(name).unwrap();
        let mut values = vec![0.0; tensor.shape.iter().product()];
        tensor.dtype.widen(tensor.bytes, &mut values);
        values
    }

    #[test]
    fn matrices_are_rounded_and_all_else_is_kept() {
        let (stored, rounded) = (embedded::draft(), embedded::draft().with_matrices_rounded(Dtype::Q8_0));
        let mut n_rounded = 0;
        for name in stored.tensor_names() {
            let (before, after) = (stored.stored(name).unwrap(), rounded.stored(name).unwrap());
            assert_eq!(before.shape, after.shape, "{name}");
            if after.dtype == before.dtype {
                assert!(name.contains("norm") && before.bytes == after.bytes, "{name}");
                continue;
            }
            n_rounded += 1;
            let mut expected = Vec::new();
            Dtype::Q8_0.narrow(&values(&stored, name), &mut expected).unwrap();
            assert!(after.dtype == Dtype::Q8_0 && after.bytes == expected, "{name}");
        }
        assert!(n_rounded > 0 && rounded.weight_bytes() < stored.weight_bytes() * 6 / 10);
        // What is rounded already stays so.
        let again = rounded.with_matrices_rounded(Dtype::Q4_0);
        assert_eq!(again.dtypes()[0].0, Dtype::Q8_0);
    }

    #[test]
    fn what_a_type_cannot_hold_stays_as_it_is() {
        let mut checkpoint = embedded::draft();
        let name = "model.layers.0.mlp.down_proj.weight";
        let mut bytes = checkpoint.stored(name).unwrap().bytes.to_vec();
        let dtype = checkpoint.stored(name).unwrap().dtype;
        assert_eq!(dtype, Dtype::Bf16);
        // No scale of 16 bits holds it.
        bytes[..2].copy_from_slice(&half::bf16::from_f32(3e38).to_le_bytes());
        let location = checkpoint.tensors.get_mut(name).unwrap();
        (location.file_idx, location.span.range) = (checkpoint.files.len(), 0..bytes.len());
        checkpoint.files.push(Arc::new(Bytes::Owned(bytes.clone())));
        let rounded = checkpoint.with_matrices_rounded(Dtype::Q8_0);
        let kept = rounded.stored(name).unwrap();
        assert!(kept.dtype == dtype && kept.bytes == bytes);
        let other = rounded.stored("model.layers.0.mlp.up_proj.weight").unwrap();
        assert_eq!(other.dtype, Dtype::Q8_0);
    }
}
