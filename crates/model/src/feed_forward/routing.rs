//! Which experts the rows of a pass ask, and what each answer weighs.
//!
//! Shazeer et al., "Outrageously large neural networks" (arXiv:1701.06538), Eq. 2: a row asks the experts to which it gives
//! the largest probabilities. These are a softmax over all experts; Mixtral (arXiv:2401.04088) and Qwen3 scale those of the
//! chosen ones to a sum of 1, which is a softmax over the chosen ones, as gpt-oss (arXiv:2508.10925) has it, and OLMoE
//! (arXiv:2409.02060) does not.
//!
//! A row's experts and weights are functions of its own scores: of equal scores the lower expert is chosen, and sums run over
//! rising experts. So nothing here depends on the rows beside it.

use dsde_checkpoint::config::Experts;
use dsde_kernels::{Routed, Woken};

/// Experts of all rows of a pass, kept for its memory.
#[derive(Default)]
pub(crate) struct Routing {
    /// Experts with rows, by rising index.
    woken: Vec<Woken>,
    /// Row of the pass of each place; places are grouped by expert, each expert's by rising row.
    sources: Vec<u32>,
    /// Place of the answer of each expert that a row asks, `[n_rows, n_chosen]`, experts rising.
    places: Vec<u32>,
    /// What that answer weighs, `[n_rows, n_chosen]`.
    weights: Vec<f32>,
    /// Experts of a row by falling score, while it is being routed.
    ranking: Vec<u32>,
    /// Per expert: first its rows, then its next place.
    counts: Vec<u32>,
}

impl Routing {
    /// Routes rows by their scores, `[n_rows, n_experts]`.
    ///
    /// * `scales`: factors of the weights of experts, `[n_experts]`.
    pub(crate) fn route(&mut self, experts: &Experts, scores: &[f32], scales: Option<&[f32]>) {
        let n_rows = scores.len() / experts.n_experts;
        self.places.clear();
        self.weights.clear();
        for scores in scores.chunks_exact(experts.n_experts) {
            self.choose(experts, scores, scales);
        }
        self.group(experts, n_rows);
    }

    /// The rows by expert, whose input has one row per row of the pass.
    pub(crate) fn asked(&self) -> Routed<'_> {
        Routed { woken: &self.woken, sources: Some(&self.sources) }
    }

    /// The same for an input that is grouped already.
    pub(crate) fn grouped(&self) -> Routed<'_> {
        Routed { woken: &self.woken, sources: None }
    }

    /// Answers of all experts together.
    pub(crate) fn n_places(&self) -> usize {
        self.sources.len()
    }

    /// Distinct experts that are asked.
    pub(crate) fn n_woken(&self) -> usize {
        self.woken.len()
    }

    /// Where a row finds the answers of its experts, and what each weighs, `[n_rows, n_chosen]`.
    pub(crate) fn answers(&self) -> (&[u32], &[f32]) {
        (&self.places, &self.weights)
    }

    /// Appends the experts of one row (as `places`, for now) and their weights.
    fn choose(&mut self, experts: &Experts, scores: &[f32], scales: Option<&[f32]>) {
        self.ranking.clear();
        self.ranking.extend(0..scores.len() as u32);
        let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
        if experts.n_chosen < self.ranking.len() {
            self.ranking.select_nth_unstable_by(experts.n_chosen - 1, by_score);
        }
        let chosen = &mut self.ranking[..experts.n_chosen];
        chosen.sort_unstable();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let start = self.weights.len();
        self.weights.extend(chosen.iter().map(|&expert| (scores[expert as usize] - max).exp()));
        let weights = &mut self.weights[start..];
        let sum: f32 = match experts.is_renormalised {
            true => weights.iter().sum(),
            false => scores.iter().map(|score| (score - max).exp()).sum(),
        };
        weights.iter_mut().for_each(|weight| *weight /= sum);
        if let Some(scales) = scales {
            weights.iter_mut().zip(&*chosen).for_each(|(weight, &expert)| *weight *= scales[expert as usize]);
        }
        self.places.extend_from_slice(chosen);
    }

    /// Gives every answer its place.
    fn group(&mut self, experts: &Experts, n_rows: usize) {
        self.counts.clear();
        self.counts.resize(experts.n_experts, 0);
        self.places.iter().for_each(|&expert| self.counts[expert as usize] += 1);
        self.woken.clear();
        let mut end = 0;
        for (expert, count) in (0..).zip(&mut self.counts) {
            let start = end;
            end += *count;
            if *count > 0 {
                self.woken.push(Woken { expert, end });
            }
            *count = start;
        }
        self.sources.clear();
        self.sources.resize(n_rows * experts.n_chosen, 0);
        for (row, places) in (0..).zip(self.places.chunks_exact_mut(experts.n_chosen)) {
            for place in places {
                let next = &mut self.counts[*place as usize];
                *place = *next;
                self.sources[*next as usize] = row;
                *next += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts(n_experts: usize, n_chosen: usize, is_renormalised: bool) -> Experts {
        Experts::uniform(n_experts, n_chosen, 4, is_renormalised)
    }

    fn check_weights(experts: &Experts, scores: &[f32], expected: &[f32]) {
        let mut routing = Routing::default();
        routing.route(experts, scores, None);
        let close = routing.weights.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close && routing.weights.len() == expected.len(), "{:?} {expected:?}", routing.weights);
    }

    #[test]
    fn weights_are_probabilities_over_all_experts_or_over_the_chosen_ones() {
        // Probabilities 1/8, 4/8, 1/8, 2/8.
        let scores = [0.0, 4f32.ln(), 0.0, 2f32.ln()];
        check_weights(&experts(4, 2, false), &scores, &[0.5, 0.25]);
        check_weights(&experts(4, 2, true), &scores, &[2.0 / 3.0, 1.0 / 3.0]);
        check_weights(&experts(4, 4, true), &scores, &[0.125, 0.5, 0.125, 0.25]);
        check_weights(&experts(1, 1, false), &[-3.0], &[1.0]);
    }

    #[test]
    fn weights_of_experts_have_factors_beside_the_sum() {
        let mut routing = Routing::default();
        // Of the two chosen ones 2/3 and 1/3.
        let scores = [0.0, 4f32.ln(), 0.0, 2f32.ln()];
        routing.route(&experts(4, 2, true), &scores, Some(&[9.0, 0.5, 9.0, 3.0]));
        assert!((routing.weights[0] - 1.0 / 3.0).abs() < 1e-6 && (routing.weights[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn rows_are_grouped_by_expert_and_find_their_answers() {
        let mut routing = Routing::default();
        // Rows ask experts 1 and 3, 0 and 1, 1 and 3; nobody asks 2.
        let scores = [[0.0, 2.0, 0.0, 1.0], [2.0, 1.0, -1.0, 0.0], [-1.0, 5.0, 0.0, 5.0]];
        routing.route(&experts(4, 2, true), scores.as_flattened(), None);
        let woken = |expert, end| Woken { expert, end };
        assert_eq!(routing.woken, [woken(0, 1), woken(1, 4), woken(3, 6)]);
        assert_eq!(routing.sources, [1, 0, 1, 2, 0, 2]);
        assert_eq!(routing.places, [1, 4, 0, 2, 3, 5]);
        assert_eq!((routing.n_places(), routing.n_woken()), (6, 3));
        routing.route(&experts(4, 2, true), &[], None);
        assert_eq!((routing.n_places(), routing.n_woken()), (0, 0));
    }

    #[test]
    fn of_equal_scores_the_lower_experts_are_chosen() {
        let mut routing = Routing::default();
        routing.route(&experts(5, 3, true), &[1.0, 0.0, 0.0, 0.0, 1.0], None);
        assert_eq!(routing.woken.iter().map(|woken| woken.expert).collect::<Vec<_>>(), [0, 1, 4]);
        routing.route(&experts(3, 2, true), &[0.0, -0.0, 0.0], None);
        // -0 counts as less than 0.
        assert_eq!(routing.woken.iter().map(|woken| woken.expert).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn a_row_is_routed_alike_in_any_company() {
        let experts = experts(16, 3, false);
        let score = |i: usize| ((i * 7919 + 13) % 101) as f32 / 17.0;
        let rows: Vec<Vec<f32>> = (0..20).map(|row| (0..16).map(|i| score(row * 16 + i)).collect()).collect();
        let mut together = Routing::default();
        together.route(&experts, &rows.concat(), None);
        for (row, scores) in rows.iter().enumerate() {
            let mut alone = Routing::default();
            alone.route(&experts, scores, None);
            let bits = |weights: &[f32]| weights.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&alone.weights), bits(&together.weights[row * 3..][..3]));
            let expert_at = |place: u32| {
                let idx = together.woken.partition_point(|woken| woken.end <= place);
                together.woken[idx].expert
            };
            let chosen: Vec<u32> =
                together.places[row * 3..][..3].iter().map(|&place| expert_at(place)).collect();
            assert_eq!(chosen, alone.woken.iter().map(|woken| woken.expert).collect::<Vec<_>>());
            assert!(
                together.places[row * 3..][..3]
                    .iter()
                    .all(|&place| together.sources[place as usize] == row as u32)
            );
        }
    }
}
