//! Dropping the ends of proposals between two layers of the target ([`Prune`](dsde_policy::Prune)).
//!
//! Attention is causal and kernels are batch-invariant, so rows that stay get the bits that they would have got, and a
//! wrong guess only ends a proposal early. The keys and values of dropped rows are missing in the later layers; their slots
//! lie behind the context and are written again before anything sees them.

use dsde_engine::{RowBatch, TargetDraw};
use dsde_policy::Prune;
use dsde_sampling::Proposal;

use dsde_kernels::Backend;

use super::{Model, ModelExecutor};

/// What is left of a pass after its first layers.
pub(super) struct Cut {
    /// Layers that have run.
    pub(super) n_layers: usize,
    /// Rows that go on.
    pub(super) rows: RowBatch,
    /// What is left of each draw's proposal.
    pub(super) proposals: Vec<Proposal>,
}

impl Cut {
    /// Draws about what is left.
    pub(super) fn draws<'a>(&'a self, draws: &[TargetDraw<'a>]) -> Vec<TargetDraw<'a>> {
        draws.iter().zip(&self.proposals).map(|(draw, proposal)| TargetDraw { proposal, ..*draw }).collect()
    }
}

impl<B: Backend> ModelExecutor<B> {
    /// Runs the first layers of a pass that has begun and drops what they seem to reject. `None`, and no layer has run, if
    /// nobody asks for it or nothing can be dropped.
    pub(super) fn cut(&mut self, rows: &RowBatch, draws: &[TargetDraw<'_>]) -> Option<Cut> {
        let is_asked = |draw: &&TargetDraw<'_>| draw.prune.is_some() && !draw.proposal.is_empty();
        let prune = draws.iter().find(is_asked)?.prune?;
        let Model { llama, kv } = &mut self.target;
        let n_layers = n_layers_before(prune, llama.config().n_layers);
        // States go through a pass once, so rows of a model that has them stay until its end.
        let goes_through = llama.config().delta.is_some();
        if n_layers == llama.config().n_layers || !llama.config().tie_embeddings || goes_through {
            return None;
        }
        llama.run_layers(&self.backend, 0..n_layers, rows, &[], kv);
        let proposals: Vec<Proposal> = draws.iter().map(|draw| self.promising(rows, draw)).collect();
        let mut n_dropped = vec![0; rows.n_seqs()];
        for (draw, proposal) in draws.iter().zip(&proposals) {
            n_dropped[draw.seq_idx] = draw.proposal.len() - proposal.len();
        }
        let mut cut = Cut { n_layers, rows: RowBatch::default(), proposals };
        cut.rows.copy_without_ends(rows, &n_dropped);
        let ends = (0..rows.n_seqs()).map(|seq_idx| rows.rows_of(seq_idx)).zip(&n_dropped);
        let kept: Vec<u32> =
            ends.flat_map(|(rows, &n_dropped)| rows.start as u32..rows.end as u32 - n_dropped).collect();
        self.target.llama.keep_rows(&kept);
        Some(cut)
    }

    /// The proposal up to the first token that a rival leads by more than the margin.
    fn promising(&self, rows: &RowBatch, draw: &TargetDraw<'_>) -> Proposal {
        let mut proposal = draw.proposal.clone();
        let n_nodes = draw.proposal.len();
        let kept = draw
            .prune
            .filter(|_| draw.is_model_drafted)
            .and_then(|prune| Some((prune, self.drafted.get(draw.seq, n_nodes)?)));
        let Some((Prune { margin, .. }, kept)) = kept else {
            return proposal;
        };
        let first_row = rows.rows_of(draw.seq_idx).end - 1 - n_nodes as usize;
        let is_rejected = |node: usize| {
            let tokens = [&draw.proposal.tokens()[node..=node], kept.rivals(node)].concat();
            let logits = self.target.llama.early_logits(&self.backend, first_row + node, &tokens);
            logits.is_some_and(|logits| logits[1..].iter().any(|rival| *rival > logits[0] + margin))
        };
        let n_promising = (0..n_nodes as usize).find(|&node| is_rejected(node));
        proposal.truncate(n_promising.map_or(n_nodes, |node| node as u32));
        proposal
    }
}

/// Layers that every row passes.
fn n_layers_before(prune: Prune, n_layers: usize) -> usize {
    ((prune.depth * n_layers as f32).ceil() as usize).clamp(1, n_layers)
}

/// The `n` tokens beside `token` with the largest logits, largest first; of equal ones the first. Fewer if there are not as many.
pub(super) fn rivals(row: &[f32], token: u32, n: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(n + 1);
    for (rival, &logit) in (0..).zip(row).filter(|&(rival, _)| n > 0 && rival != token) {
        if best.len() < n || best.last().is_some_and(|&(least, _)| logit > least) {
            let at = best.partition_point(|&(other, _)| other >= logit);
            best.insert(at, (logit, rival));
            best.truncate(n);
        }
    }
    best.into_iter().map(|(_, rival)| rival).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_are_the_most_probable_others() {
        let row = [0.5, 3.0, 1.0, 3.0, -1.0, 2.0];
        assert!(rivals(&row, 1, 0).is_empty());
        assert_eq!(rivals(&row, 1, 3), [3, 5, 2]);
        assert_eq!(rivals(&row, 5, 2), [1, 3], "of equal ones the first");
        assert_eq!(rivals(&row, 0, 9), [1, 3, 5, 2, 4]);
    }

    #[test]
    fn the_depth_is_a_share_of_the_layers() {
        let check = |depth, expected| {
            assert_eq!(n_layers_before(Prune { depth, n_rivals: 4, margin: 0.0 }, 6), expected);
        };
        for (depth, expected) in [(0.0, 1), (0.1, 1), (0.5, 3), (0.51, 4), (1.0, 6)] {
            check(depth, expected);
        }
    }
}
