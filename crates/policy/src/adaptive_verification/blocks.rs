//! What was drafted last, sequence by sequence: log-odds and survivals of all positions in two buffers.

use crate::SeqId;

/// Where the positions of a sequence lie in the buffers.
#[derive(Clone, Copy, Debug)]
struct Block {
    seq: SeqId,
    first: usize,
    len: usize,
}

/// Drafted positions of a batch, in the engine's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    blocks: Vec<Block>,
    odds: Vec<f64>,
    survivals: Vec<f64>,
}

impl Blocks {
    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.odds.clear();
        self.survivals.clear();
    }

    /// Appends the positions of a sequence.
    ///
    /// * `odds`: log-odds of each position, root first.
    /// * `confidence`: probability that a position, given its index and log-odds, is accepted if all before it were.
    pub(super) fn push(
        &mut self,
        seq: SeqId,
        odds: impl Iterator<Item = f64>,
        confidence: impl Fn(usize, f64) -> f64,
    ) {
        let first = self.odds.len();
        self.odds.extend(odds);
        let mut survival = 1.0;
        for (j, &z) in self.odds[first..].iter().enumerate() {
            survival *= confidence(j, z);
            self.survivals.push(survival);
        }
        self.blocks.push(Block { seq, first, len: self.odds.len() - first });
    }

    /// Index of a sequence's block. Asked in the engine's order, every search after the first is short.
    ///
    /// * `after`: where the search begins; moved behind what was found.
    pub(super) fn find(&self, seq: SeqId, after: &mut usize) -> Option<usize> {
        let n = self.blocks.len();
        let start = (*after).min(n);
        let found = (start..n).chain(0..start).find(|&i| self.blocks[i].seq == seq)?;
        *after = found + 1;
        Some(found)
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Log-odds of a block's positions.
    pub(super) fn odds(&self, idx: usize) -> &[f64] {
        let Block { first, len, .. } = self.blocks[idx];
        &self.odds[first..first + len]
    }

    /// Survivals of a block's positions.
    pub(super) fn survivals(&self, idx: usize) -> &[f64] {
        let Block { first, len, .. } = self.blocks[idx];
        &self.survivals[first..first + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivals_are_products_and_blocks_are_found_from_anywhere() {
        let mut blocks = Blocks::default();
        blocks.push(SeqId(7), [3.0, 1.0].into_iter(), |j, z| z / 4.0 - 0.05 * j as f64);
        blocks.push(SeqId(3), [].into_iter(), |_, _| 1.0);
        blocks.push(SeqId(9), [2.0].into_iter(), |_, z| z / 4.0);
        // 3 / 4, then times 1 / 4 - 0.05.
        assert_eq!(blocks.odds(0), [3.0, 1.0]);
        assert!((blocks.survivals(0)[1] - 0.15).abs() < 1e-12 && blocks.survivals(0)[0] == 0.75);
        assert_eq!((blocks.len(), blocks.survivals(1).len(), blocks.survivals(2)), (3, 0, &[0.5][..]));
        let mut after = 0;
        let mut find = |seq| blocks.find(SeqId(seq), &mut after);
        assert_eq!([find(9), find(7), find(8), find(3), find(9)], [Some(2), Some(0), None, Some(1), Some(2)]);
    }
}
