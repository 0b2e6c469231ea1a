//! Rows of a tensor, rounded by several threads.

use std::ops::{AddAssign, Range};

use crate::blocks::Misfit;
use crate::stored::{Dtype, RowOrder, TensorView};

/// What rounding changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Loss {
    /// Sum of the squares of all values.
    squares: f64,
    /// Sum of the squares of all changes.
    changes: f64,
}

/// Rows of a tensor and what they become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    stored: TensorView<'a>,
    order: RowOrder,
    dtype: Dtype,
    /// Elements of a row.
    len: usize,
}

/// Some rounded rows.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(super) loss: Loss,
}

impl Loss {
    /// Root of the ratio of the sums.
    pub(super) fn relative(self) -> f64 {
        if self.changes == 0.0 { 0.0 } else { (self.changes / self.squares).sqrt() }
    }

    fn add(&mut self, value: f32, rounded: f32) {
        let (value, rounded) = (f64::from(value), f64::from(rounded));
        self.squares += value * value;
        self.changes += (value - rounded) * (value - rounded);
    }
}

impl AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.squares += other.squares;
        self.changes += other.changes;
    }
}

impl<'a> Rows<'a> {
    /// * `order`: in which order rows are to be written; of a vector, elements.
    pub(crate) fn new(stored: TensorView<'a>, order: RowOrder, dtype: Dtype) -> Self {
        let last = stored.shape.last().copied().unwrap_or(1);
        let is_moved_vector = stored.shape.len() == 1 && order != RowOrder::AsIs;
        let len = if is_moved_vector { 1 } else { last };
        Self { stored, order, dtype, len }
    }

    /// Elements of a row.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of a row before.
    pub(super) fn stored_bytes(&self) -> usize {
        self.stored.dtype.row_bytes(self.len)
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.stored.bytes.len() / self.stored_bytes()
    }

    /// Rows of `range`, in order and in at most `n_threads` pieces.
    pub(crate) fn rounded(&self, range: Range<usize>, n_threads: usize) -> Vec<Result<Piece, Misfit>> {
        let rows_per_thread = range.len().div_ceil(n_threads.max(1)).max(1);
        let parts: Vec<Range<usize>> = range
            .clone()
            .step_by(rows_per_thread)
            .map(|start| start..(start + rows_per_thread).min(range.end))
            .collect();
        if let [part] = parts.as_slice() {
            return vec![self.piece(part.clone())];
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                parts.into_iter().map(|part| scope.spawn(move || self.piece(part))).collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|piece| piece.expect("rounding does not panic")).collect()
        })
    }

    fn piece(&self, range: Range<usize>) -> Result<Piece, Misfit> {
        let (mut values, mut rounded) = (vec![0.0; self.len], vec![0.0; self.len]);
        let mut piece = Piece::default();
        piece.bytes.reserve(range.len() * self.dtype.row_bytes(self.len));
        for place in range {
            let row = self.order.row_at(place);
            let stored = &self.stored.bytes[row * self.stored_bytes()..][..self.stored_bytes()];
            self.stored.dtype.widen(stored, &mut values);
            let start = piece.bytes.len();
            let narrowed = match self.dtype == self.stored.dtype {
                // Rounding again to a block format would lose more.
                true => copy(stored, &values, &mut piece.bytes),
                false => self.dtype.narrow(&values, &mut piece.bytes),
            };
            narrowed.map_err(|misfit| Misfit { idx: row * self.len + misfit.idx, ..misfit })?;
            self.dtype.widen(&piece.bytes[start..], &mut rounded);
            for (value, rounded) in values.iter().zip(&rounded) {
                piece.loss.add(*value, *rounded);
            }
        }
        Ok(piece)
    }
}

fn copy(stored: &[u8], values: &[f32], out: &mut Vec<u8>) -> Result<(), Misfit> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(idx) => Err(Misfit { idx, value: values[idx] }),
        None => {
            out.extend(stored);
            Ok(())
        }
    }
}
