//! Which rows of a pass become logits, and how many at a time.

use std::ops::Range;

use dsde_engine::RowBatch;

/// Rows of logits that exist at once: enough that reading the output projection once per group costs nothing beside the
/// arithmetic, and 80 MB at a vocabulary of 150 000. A single proposal has at most 65 rows.
pub(super) const LOGIT_ROWS_MAX: usize = 128;

/// Draws whose logits exist at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Indices of the draws.
    pub(super) draws: Range<usize>,
    /// Their rows, as indices into the outputs of the pass.
    pub(super) rows: Range<usize>,
}

/// Output rows of a pass.
#[derive(Debug, Default)]
pub(super) struct OutputPlan {
    /// Rows of the batch, ascending.
    pub(super) outputs: Vec<u32>,
}

impl OutputPlan {
    /// Names the last rows of every sequence that draws, and groups the draws.
    ///
    /// * `draws`: `(seq_idx, n_rows)`, ascending.
    pub(super) fn of(&mut self, rows: &RowBatch, draws: impl Iterator<Item = (usize, u32)>) -> Vec<Group> {
        self.outputs.clear();
        let mut groups: Vec<Group> = Vec::new();
        for (draw_idx, (seq_idx, n_rows)) in draws.enumerate() {
            let seq_rows = rows.rows_of(seq_idx);
            debug_assert!(seq_rows.len() >= n_rows as usize, "sequence {seq_idx} has rows for what it draws");
            let first = self.outputs.len();
            let end = seq_rows.end as u32;
            self.outputs.extend(end - n_rows..end);
            let last = self.outputs.len();
            match groups.last_mut() {
                Some(group) if last - group.rows.start <= LOGIT_ROWS_MAX => {
                    group.draws.end = draw_idx + 1;
                    group.rows.end = last;
                }
                _ => groups.push(Group { draws: draw_idx..draw_idx + 1, rows: first..last }),
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use dsde_engine::BlockId;
    use dsde_sampling::Proposal;

    use super::*;

    /// Sequences of so many rows each.
    fn batch(lens: &[usize]) -> RowBatch {
        let mut rows = RowBatch::default();
        rows.clear();
        for &len in lens {
            let table: Vec<BlockId> = (0..len.div_ceil(16) as u32).map(BlockId).collect();
            rows.push(0, &vec![1; len], &Proposal::new(), &table);
        }
        rows
    }

    #[test]
    fn outputs_are_the_last_rows_of_those_who_draw() {
        let mut plan = OutputPlan::default();
        let groups = plan.of(&batch(&[3, 2, 4]), [(0, 1), (2, 3)].into_iter());
        assert_eq!(plan.outputs, [2, 6, 7, 8]);
        assert_eq!(groups, [Group { draws: 0..2, rows: 0..4 }]);
        assert_eq!(plan.of(&batch(&[3]), std::iter::empty()), []);
        assert!(plan.outputs.is_empty());
    }

    #[test]
    fn groups_stay_below_the_limit_and_keep_draws_whole() {
        let mut plan = OutputPlan::default();
        let groups = plan.of(&batch(&[65, 63, 65, 1]), [(0, 65), (1, 63), (2, 65), (3, 1)].into_iter());
        let expected = [Group { draws: 0..2, rows: 0..128 }, Group { draws: 2..4, rows: 128..194 }];
        assert_eq!(groups, expected);
    }
}
