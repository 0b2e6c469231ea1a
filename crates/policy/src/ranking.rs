//! Drafted positions of a whole batch, the likeliest to survive first: what TETRIS, DSpark and AdaServe select from.
//!
//! A position is never likelier than the one before it, so the best of all sequences together come out of a heap that holds
//! one candidate per sequence, and whatever is taken is a prefix of every sequence.
//!
//! This is also what keeps a selection lossless. Whether a position is reached before the selection ends depends on the
//! positions ahead of it, its own sequence's earlier ones among them, and on its own survival, which is known before its
//! token is drawn; later positions of its sequence come after it even if they are equally likely.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// One drafted position that waits to be selected; the greatest is the next to be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Probability that it and all positions before it are accepted.
    pub survival: f64,
    /// Index of its sequence in the view.
    pub seq_idx: usize,
    /// 0 for the first drafted position; of a tree, the place of the node.
    pub position: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    /// By survival; among equals the shallower position, then the earlier sequence, comes out first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.survival
            .total_cmp(&other.survival)
            .then(other.position.cmp(&self.position))
            .then(other.seq_idx.cmp(&self.seq_idx))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Positions in falling order of survival. The heap is the caller's, so that a step allocates nothing.
#[derive(Debug)]
pub struct Ranking<'a, F> {
    heap: &'a mut BinaryHeap<Candidate>,
    survival: F,
}

impl<'a, F: Fn(usize, usize) -> Option<f64>> Ranking<'a, F> {
    /// Ranks the positions from `first_positions[seq_idx]` on of every sequence.
    ///
    /// * `heap`: overwritten.
    /// * `survival`: of a sequence's position; `None` past its end. A value above that of the position before counts as that,
    ///   and one that is not a number as 0.
    pub fn new(
        heap: &'a mut BinaryHeap<Candidate>,
        first_positions: impl Iterator<Item = usize>,
        survival: F,
    ) -> Self {
        heap.clear();
        heap.extend(first_positions.enumerate().filter_map(|(seq_idx, position)| {
            let survival = bounded(survival(seq_idx, position)?, 1.0);
            Some(Candidate { survival, seq_idx, position })
        }));
        Self { heap, survival }
    }
}

impl<F: Fn(usize, usize) -> Option<f64>> Iterator for Ranking<'_, F> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let mut top = self.heap.peek_mut()?;
        let taken = *top;
        match (self.survival)(taken.seq_idx, taken.position + 1) {
            Some(survival) => {
                let survival = bounded(survival, taken.survival);
                *top = Candidate { survival, position: taken.position + 1, ..taken };
            }
            None => drop(PeekMut::pop(top)),
        }
        Some(taken)
    }
}

fn bounded(survival: f64, max: f64) -> f64 {
    if survival.is_nan() { 0.0 } else { survival.clamp(0.0, max) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(survivals: &[Vec<f64>]) -> Vec<(usize, usize)> {
        let survival = |seq_idx: usize, position: usize| survivals[seq_idx].get(position).copied();
        let mut heap = BinaryHeap::new();
        let ranking = Ranking::new(&mut heap, survivals.iter().map(|_| 0), survival);
        ranking.map(|candidate| (candidate.seq_idx, candidate.position)).collect()
    }

    #[test]
    fn the_best_of_all_sequences_come_first() {
        let survivals = [vec![0.9, 0.45, 0.05], vec![], vec![0.6, 0.5]];
        assert_eq!(order(&survivals), [(0, 0), (2, 0), (2, 1), (0, 1), (0, 2)]);
    }

    #[test]
    fn equals_go_by_depth_and_then_by_sequence() {
        assert_eq!(order(&[vec![1.0, 1.0], vec![1.0, 1.0]]), [(0, 0), (1, 0), (0, 1), (1, 1)]);
    }

    #[test]
    fn broken_numbers_keep_their_place_in_the_chain() {
        assert_eq!(order(&[vec![0.2, f64::INFINITY], vec![f64::NAN, 0.9]]), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }

    proptest! {
        #[test]
        fn every_position_comes_once_after_the_one_before_and_in_falling_order(
            conditionals in prop::collection::vec(prop::collection::vec(0.0f64..=1.0, 0..8), 0..8),
        ) {
            let survivals: Vec<Vec<f64>> = conditionals
                .iter()
                .map(|c| c.iter().scan(1.0, |a, c| { *a *= c; Some(*a) }).collect())
                .collect();
            let order = order(&survivals);
            let mut lens = vec![0; survivals.len()];
            for &(seq_idx, position) in &order {
                prop_assert_eq!(lens[seq_idx], position);
                lens[seq_idx] += 1;
            }
            prop_assert_eq!(lens, survivals.iter().map(Vec::len).collect::<Vec<_>>());
            let falling: Vec<f64> = order.iter().map(|&(i, j)| survivals[i][j]).collect();
            prop_assert!(falling.is_sorted_by(|a, b| a >= b));
        }
    }
}
