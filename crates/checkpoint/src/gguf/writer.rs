//! Writes GGUF files: the header at once, then the tensors piece by piece, so that none has to be in memory.

use std::io::Write;

use super::header::{ALIGNMENT_DEFAULT as ALIGNMENT, MAGIC, VERSION};
use super::keys::{Keys, put_text};
use super::tensor_type::number;
use crate::error::Error;
use crate::stored::Dtype;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Elements per dimension, the last the fastest and in whole blocks.
    pub shape: Vec<usize>,
}

/// A file of which the header is written.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Bytes of the tensors, in order.
    lens: Vec<usize>,
    /// Tensors that are complete.
    n_written: usize,
    /// Bytes of the next one.
    at: usize,
}

impl Declared {
    /// Bytes of the tensor.
    pub fn n_bytes(&self) -> usize {
        self.dtype.row_bytes(self.shape.iter().product())
    }
}

impl<W: Write> Writer<W> {
    /// Writes the header: version 3, little endian. Tensors lie in the given order, at multiples of 32 bytes.
    ///
    /// * `keys`: without `general.alignment`.
    ///
    /// # Errors
    /// If `out` fails, as of all functions here.
    pub fn new(mut out: W, keys: &Keys, tensors: &[Declared]) -> Result<Self, Error> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((keys.len() as u64).to_le_bytes());
        keys.put(&mut header);
        let mut offset = 0;
        for tensor in tensors {
            put_text(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            header.extend(tensor.shape.iter().rev().flat_map(|&len| (len as u64).to_le_bytes()));
            header.extend(number(tensor.dtype).to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += tensor.n_bytes().next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&header).map_err(|source| Error::Write { source })?;
        let lens = tensors.iter().map(Declared::n_bytes).collect();
        Ok(Self { out, lens, n_written: 0, at: 0 })
    }

    /// Writes the next bytes of the tensor whose turn it is; they end with it or before.
    ///
    /// # Errors
    /// As of all.
    ///
    /// # Panics
    /// If all tensors are written, or `bytes` reach beyond this one.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let len = *self.lens.get(self.n_written).expect("a tensor that was declared");
        assert!(bytes.len() <= len - self.at, "{} bytes at {} of {len}", bytes.len(), self.at);
        self.put(bytes)?;
        self.at += bytes.len();
        if self.at == len {
            self.put(&vec![0; len.next_multiple_of(ALIGNMENT) - len])?;
            (self.n_written, self.at) = (self.n_written + 1, 0);
        }
        Ok(())
    }

    /// Gives the output back when everything is written.
    ///
    /// # Errors
    /// As of all.
    ///
    /// # Panics
    /// If tensors are missing.
    pub fn finish(mut self) -> Result<W, Error> {
        assert_eq!(self.n_written, self.lens.len(), "tensors that were written and those that were declared");
        self.out.flush().map_err(|source| Error::Write { source })?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|source| Error::Write { source })
    }
}
