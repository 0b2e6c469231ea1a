//! How the proposal of one sequence grows: token by token as a chain, or level by level as a tree.
//!
//! A tree is grown by beam search over the draft's distribution: of all tokens offered after the nodes of a level, the most
//! probable paths become the next one, as in AdaServe (arXiv:2501.12162); the finished tree is ordered by path probability, as
//! in EAGLE-2 (arXiv:2406.16858). Where the policy asks for it, children that no beam kept stand for the finished tree too, as
//! leaves: that is EAGLE-2's reranking of all candidates. A tree is a deterministic function of the emitted tokens, so the target may
//! judge it by walking it, and a policy may look at all of it before it trims.

use dsde_policy::DraftPosition;
use dsde_sampling::Proposal;

use crate::passes::{Beam, Drafted};
use crate::sequence::Turn;

impl Turn {
    /// Whether the proposal may branch.
    pub(crate) fn is_tree(&self) -> bool {
        self.width > 1
    }

    /// Whether the plan allows another round.
    pub(crate) fn has_room(&self) -> bool {
        self.drafted < self.planned && (!self.is_tree() || self.n_levels < self.levels)
    }

    /// What the policy is told after a round: the token drafted last, or the level drafted last in one: the features of its
    /// best node and the probability that the target's path lies in it. `None` if nothing was drafted.
    pub(crate) fn last_position(&self) -> Option<DraftPosition> {
        if !self.is_tree() {
            return self.positions.last().copied();
        }
        let level = &self.positions[self.level.start as usize..self.level.end as usize];
        let best = level.first()?;
        let shares = level.iter().map(|node| (node.path_log_prob - best.path_log_prob).exp());
        Some(DraftPosition { path_log_prob: best.path_log_prob + shares.sum::<f32>().ln(), ..*best })
    }

    /// Appends a drawn token to a chain.
    pub(crate) fn push_token(&mut self, drafted: &Drafted) {
        let before = self.positions.last().map_or(0.0, |last| last.path_log_prob);
        let path_log_prob = before + drafted.position.top_prob.ln();
        self.proposal.push_chain(drafted.token);
        self.positions.push(DraftPosition { path_log_prob, ..drafted.position });
        self.drafted += 1;
    }

    /// Appends the best paths among `candidates` as the next level of a tree; the nodes of a level stand by falling path
    /// probability, and of equal ones the child of the earlier node comes first.
    ///
    /// * `candidates`: `[beam.n_rows, beam.width]`.
    pub(crate) fn push_level(&mut self, beam: Beam, candidates: &[Drafted]) {
        let (parents, index) = (self.level.clone(), self.n_levels);
        let mut paths: Vec<(Option<u32>, Drafted)> = Vec::with_capacity(candidates.len());
        for (row, candidates) in candidates.chunks_exact(beam.width as usize).enumerate() {
            let parent = parents.clone().nth(row);
            let before = parent.map_or(0.0, |node| self.positions[node as usize].path_log_prob);
            paths.extend(candidates.iter().map(|&candidate| {
                let path_log_prob = before + candidate.position.path_log_prob.min(0.0);
                let position = DraftPosition { index, path_log_prob, ..candidate.position };
                (parent, Drafted { position, ..candidate })
            }));
        }
        paths.retain(|(_, path)| path.position.path_log_prob > f32::NEG_INFINITY);
        paths.sort_by(|(_, a), (_, b)| b.position.path_log_prob.total_cmp(&a.position.path_log_prob));
        let n_kept = self.width.min(self.planned - self.drafted) as usize;
        let spares = paths.split_off(n_kept.min(paths.len()));
        if self.reranks {
            self.spares.extend(spares);
        }
        for (parent, path) in &paths {
            self.proposal.push(path.token, *parent);
            self.positions.push(path.position);
        }
        self.level = self.drafted..self.proposal.len();
        self.drafted = self.proposal.len();
        self.n_levels += 1;
    }

    /// Orders a finished tree by falling path probability, so that every prefix is the most probable tree of its size; of spare
    /// candidates those come in that are among the best `planned`. A parent is at least as probable as its children and was
    /// drafted before them, so it stays before them, and comes in wherever they do.
    pub(crate) fn finish_tree(&mut self) {
        let drafted: Vec<(Option<u32>, Drafted)> = self.candidates().collect();
        self.drafted_as.clear();
        self.drafted_as.extend(0..drafted.len() as u32);
        let path_log_prob = |node: u32| drafted[node as usize].1.position.path_log_prob;
        self.drafted_as.sort_by(|&a, &b| path_log_prob(b).total_cmp(&path_log_prob(a)));
        self.drafted_as.truncate(self.planned as usize);
        let mut sorted = Proposal::new();
        let mut places = vec![0; drafted.len()];
        for &node in &self.drafted_as {
            let (parent, Drafted { token, .. }) = drafted[node as usize];
            places[node as usize] = sorted.push(token, parent.map(|parent| places[parent as usize]));
        }
        self.positions = self.drafted_as.iter().map(|&node| drafted[node as usize].1.position).collect();
        self.proposal = sorted;
        self.drafted = self.proposal.len();
    }

    /// Every node with its parent, in drafting order, then the spare ones, which the draft has not read.
    fn candidates(&self) -> impl Iterator<Item = (Option<u32>, Drafted)> {
        let nodes = self.proposal.tokens().iter().zip(self.proposal.parents()).zip(&self.positions);
        let drafted = nodes.map(|((&token, &parent), &position)| (parent, Drafted { token, position }));
        drafted.chain(self.spares.iter().copied())
    }

    /// Nodes of a tree, in drafting order, whose keys and values the draft has stored: all but the last level.
    pub(crate) fn n_stored(&self) -> u32 {
        self.level.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn that may grow `levels` levels of `width` nodes.
    fn turn(levels: u32, width: u32, planned: u32) -> Turn {
        Turn { levels, width, planned, ..Turn::default() }
    }

    /// Grows a level from probabilities per row, tokens numbered from `10 * row`.
    fn grow(turn: &mut Turn, rows: &[&[f32]]) {
        let beam = Beam { n_rows: rows.len() as u32, width: rows[0].len() as u32 };
        let drafted = |(row, probabilities): (usize, &&[f32])| -> Vec<Drafted> {
            let one = |(rank, p): (usize, &f32)| Drafted {
                token: (10 * row + rank) as u32,
                position: DraftPosition { index: 99, entropy: 0.5, top_prob: 0.7, path_log_prob: p.ln() },
            };
            probabilities.iter().enumerate().map(one).collect()
        };
        let candidates: Vec<Drafted> = rows.iter().enumerate().flat_map(drafted).collect();
        turn.push_level(beam, &candidates);
    }

    fn probabilities(turn: &Turn) -> Vec<f32> {
        turn.positions.iter().map(|position| (position.path_log_prob.exp() * 1e4).round() / 1e4).collect()
    }

    /// Root 0.6 and 0.3; below them 0.5 and 0.4, 0.9 and 0.1: the paths 0.30, 0.24, 0.27 and 0.03.
    fn two_levels(planned: u32) -> Turn {
        let mut turn = turn(2, 2, planned);
        grow(&mut turn, &[&[0.6, 0.3]]);
        grow(&mut turn, &[&[0.5, 0.4], &[0.9, 0.1]]);
        turn
    }

    #[test]
    fn a_level_keeps_the_most_probable_paths() {
        let turn = two_levels(8);
        assert_eq!(turn.proposal.tokens(), [0, 1, 0, 10]);
        assert_eq!(turn.proposal.parents(), [None, None, Some(0), Some(1)]);
        assert_eq!(probabilities(&turn), [0.6, 0.3, 0.3, 0.27]);
        let indices: Vec<u32> = turn.positions.iter().map(|position| position.index).collect();
        assert_eq!(indices, [0, 0, 1, 1]);
        assert_eq!((turn.drafted, turn.n_levels, turn.level.clone(), turn.n_stored()), (4, 2, 2..4, 2));
        assert!(!turn.has_room(), "both levels are there");
    }

    #[test]
    fn the_last_level_is_cut_to_what_was_planned() {
        let turn = two_levels(3);
        assert_eq!(turn.proposal.tokens(), [0, 1, 0]);
        assert!(!turn.has_room());
    }

    #[test]
    fn equal_paths_stand_in_the_order_of_their_parents() {
        let mut turn = turn(3, 3, 9);
        grow(&mut turn, &[&[0.25, 0.25, 0.25]]);
        grow(&mut turn, &[&[0.5, 0.5, 0.0], &[0.5, 0.5, 0.0], &[0.5, 0.5, 0.0]]);
        assert_eq!(turn.proposal.parents()[3..], [Some(0), Some(0), Some(1)]);
        assert_eq!(turn.proposal.tokens()[3..], [0, 1, 10]);
    }

    #[test]
    fn impossible_tokens_are_no_nodes() {
        let mut turn = turn(3, 2, 6);
        grow(&mut turn, &[&[1.0, 0.0]]);
        assert_eq!((turn.drafted, turn.level.clone()), (1, 0..1));
        grow(&mut turn, &[&[0.0, 0.0]]);
        assert_eq!((turn.drafted, turn.last_position()), (1, None));
        assert_eq!(turn.n_stored(), 1, "the draft has read the only node");
    }

    #[test]
    fn the_policy_is_told_the_probability_of_a_whole_level() {
        let turn = two_levels(8);
        let last = turn.last_position().unwrap();
        // 0.30 + 0.27
        assert!((last.path_log_prob.exp() - 0.57).abs() < 1e-6, "{last:?}");
        assert_eq!((last.index, last.entropy, last.top_prob), (1, 0.5, 0.7));
    }

    #[test]
    fn a_finished_tree_stands_by_path_probability() {
        let mut turn = turn(2, 2, 8);
        grow(&mut turn, &[&[0.6, 0.2]]);
        grow(&mut turn, &[&[0.5, 0.4], &[0.9, 0.1]]);
        // Drafted: 0.6, 0.2, 0.30, 0.24.
        turn.finish_tree();
        assert_eq!(probabilities(&turn), [0.6, 0.3, 0.24, 0.2]);
        assert_eq!(turn.proposal.parents(), [None, Some(0), Some(0), None]);
        assert_eq!(turn.proposal.tokens(), [0, 0, 1, 1]);
        assert_eq!(turn.drafted_as, [0, 2, 3, 1]);
    }

    #[test]
    fn children_that_no_beam_kept_stand_for_the_finished_tree() {
        // Candidates: 0.6, 0.2 below the root; 0.30, 0.24 below 0.6 and 0.18, 0.02 below 0.2. The second beam is 0.30 and 0.24.
        let finished = |reranks, planned| {
            let mut turn = Turn { reranks, ..turn(2, 2, planned) };
            grow(&mut turn, &[&[0.6, 0.2]]);
            grow(&mut turn, &[&[0.5, 0.4], &[0.9, 0.1]]);
            turn.finish_tree();
            turn
        };
        assert_eq!(probabilities(&finished(false, 6)), [0.6, 0.3, 0.24, 0.2]);
        let all = finished(true, 6);
        assert_eq!(probabilities(&all), [0.6, 0.3, 0.24, 0.2, 0.18, 0.02]);
        assert_eq!(all.proposal.parents(), [None, Some(0), Some(0), None, Some(3), Some(3)]);
        assert_eq!(all.proposal.tokens(), [0, 0, 1, 1, 10, 11]);
        assert_eq!((all.drafted, all.n_stored()), (6, 2));
        // Nodes 4 and 5 are the spare ones; the draft has read neither them nor the last beam.
        assert_eq!(all.drafted_as, [0, 2, 3, 1, 4, 5]);
        assert_eq!(probabilities(&finished(true, 5)), [0.6, 0.3, 0.24, 0.2, 0.18]);
        assert_eq!(probabilities(&finished(true, 3)), [0.6, 0.3, 0.24], "a spare node instead of a beam's");
    }

    #[test]
    fn a_chain_sums_its_most_probable_tokens() {
        let mut turn = turn(3, 1, 3);
        for top_prob in [0.5, 0.25] {
            let position = DraftPosition { index: turn.drafted, entropy: 0.0, top_prob, path_log_prob: 0.0 };
            turn.push_token(&Drafted { token: 7, position });
        }
        assert_eq!(probabilities(&turn), [0.5, 0.125]);
        assert!(turn.proposal.is_chain() && turn.has_room());
        assert_eq!(turn.last_position().unwrap().index, 1);
    }
}
