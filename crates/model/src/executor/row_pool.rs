//! Memory for rows over the vocabulary, one piece per row, shared by everybody who keeps some for the length of a step.
//!
//! Proposals differ in length from step to step. A buffer per sequence would grow to the longest proposal that its place ever had: with 32
//! places and a vocabulary of 49 thousand that was some 200 MiB for the 10 MiB that a step of mixed policies keeps.

use std::sync::{Mutex, PoisonError};

use super::outputs::LOGIT_ROWS_MAX;

/// Rows that are kept between steps even if the last step used fewer: as many as there are logits at once.
const IDLE_MIN: usize = LOGIT_ROWS_MAX;

/// Rows that nobody uses, and how many are used.
#[derive(Debug, Default)]
pub(super) struct RowPool(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    idle: Vec<Vec<f32>>,
    n_used: usize,
    /// Since the last trim.
    n_used_max: usize,
}

impl RowPool {
    /// A row with the values of another, to be given back.
    pub(super) fn copy_of(&self, row: &[f32]) -> Vec<f32> {
        let mut copy = self.with(|rows| {
            rows.n_used += 1;
            rows.n_used_max = rows.n_used_max.max(rows.n_used);
            rows.idle.pop().unwrap_or_default()
        });
        copy.clear();
        copy.reserve_exact(row.len());
        copy.extend_from_slice(row);
        copy
    }

    /// Takes rows back.
    pub(super) fn give_back(&self, copies: impl Iterator<Item = Vec<f32>>) {
        self.with(|rows| {
            let n_idle = rows.idle.len();
            rows.idle.extend(copies);
            rows.n_used -= rows.idle.len() - n_idle;
        });
    }

    /// Frees what has not been needed since the last time.
    pub(super) fn trim(&mut self) {
        let rows = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        rows.idle.truncate(rows.n_used_max.max(IDLE_MIN).saturating_sub(rows.n_used));
        rows.n_used_max = rows.n_used;
    }

    fn with<R>(&self, run: impl FnOnce(&mut Rows) -> R) -> R {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
impl RowPool {
    /// Rows in use, and idle ones.
    pub(super) fn n_rows(&self) -> [usize; 2] {
        self.with(|rows| [rows.n_used, rows.idle.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_from_row_to_row() {
        let pool = RowPool::default();
        let first = pool.copy_of(&[1.0, 2.0]);
        let place = first.as_ptr();
        pool.give_back([first].into_iter());
        let second = pool.copy_of(&[3.0, 4.0]);
        assert_eq!((second.as_ptr(), &second[..]), (place, &[3.0, 4.0][..]));
        assert_eq!(pool.n_rows(), [1, 0]);
    }

    #[test]
    fn what_a_step_needs_is_kept_for_the_next_and_no_longer() {
        let mut pool = RowPool::default();
        let mut step = |n_rows: usize| {
            let rows: Vec<_> = (0..n_rows).map(|_| pool.copy_of(&[0.5])).collect();
            pool.give_back(rows.into_iter());
            pool.trim();
            pool.n_rows()
        };
        assert_eq!(step(IDLE_MIN + 7), [0, IDLE_MIN + 7]);
        assert_eq!(step(IDLE_MIN + 5), [0, IDLE_MIN + 5]);
        assert_eq!(step(1), [0, IDLE_MIN]);
        assert_eq!(step(0), [0, IDLE_MIN]);
    }

    #[test]
    fn rows_in_use_count() {
        let mut pool = RowPool::default();
        let rows: Vec<_> = (0..2 * IDLE_MIN).map(|_| pool.copy_of(&[0.5])).collect();
        let (used, idle) = rows.split_at(IDLE_MIN + 1);
        pool.give_back(idle.iter().cloned());
        pool.trim();
        assert_eq!(pool.n_rows(), [used.len(), IDLE_MIN - 1]);
        pool.trim();
        assert_eq!(pool.n_rows(), [used.len(), 0]);
    }
}
