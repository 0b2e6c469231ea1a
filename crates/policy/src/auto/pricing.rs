//! The prices of a step, and the lengths that are best at them.

use super::Auto;
use super::LAG_ORDINARY;
use super::choice::{Best, Candidate, Objective};
use super::costs::Costs;
use super::step::urgency;
use crate::{PlanView, SequenceView};

/// Bound on the draft tokens of a step.
const DRAFTS_MAX: u32 = 512;

impl Auto {
    /// Finds the best lengths of a step without prompts; `None` before the first timed step.
    pub(super) fn search(&mut self, view: &PlanView<'_>) -> Option<Best> {
        let n_sequences = view.sequences.len() as u32;
        let plain_seconds = self.costs.plain(n_sequences)?;
        let n_drafts_max = self.n_drafts_max(n_sequences, n_sequences);
        self.costs.targets_with(n_sequences, n_drafts_max, plain_seconds, &mut self.step.prices.target)?;
        let step = &mut self.step;
        step.prices.round.clear();
        step.prices.round.extend((0..=n_sequences).map(|n| self.costs.round(n.max(1))));
        let n_unread: u32 =
            view.sequences.iter().map(|sequence| sequence.draft_lag.clamp(1, LAG_ORDINARY)).sum();
        step.prices.first_round.clear();
        step.prices.first_round.extend((0..=n_sequences).map(|n| {
            let rows = (n * n_unread).div_ceil(n_sequences);
            self.costs.round(rows.max(1))
        }));
        step.plain_seconds = plain_seconds;
        step.weight = step.candidates.iter().map(|candidate| candidate.weight).sum();
        step.best = self.search.run(&step.candidates, &step.prices, Objective::Rate, &mut step.lens);
        let best = step.best;
        let is_known = |n| self.costs.is_sound(n_sequences + n as u32);
        self.step.row_seconds = self.row_seconds(best.n_drafts, is_known);
        Some(best)
    }

    /// Finds the best lengths beside prompts, where time costs what it does without them. Only differences count.
    pub(super) fn search_beside_prompts(&mut self, view: &PlanView<'_>) -> Option<()> {
        let n_sequences = view.sequences.len() as u32;
        let rows = n_sequences + view.prefill_rows;
        let n_drafts_max = self.n_drafts_max(rows, n_sequences);
        self.costs.targets_beside_prompts(rows, n_drafts_max, &mut self.step.prices.target)?;
        let step = &mut self.step;
        let objective = Objective::Surplus(step.best.value);
        let found = self.search.run(&step.candidates, &step.prices, objective, &mut step.lens);
        self.step.row_seconds = self.row_seconds(found.n_drafts, |_| true);
        Some(())
    }

    /// Seconds per draft row around `n` of them: the secant from half of them to twice as many, which averages over bumps; less
    /// far if that size is not known. Not from none: that would be a plain step, whose time differs for other reasons.
    fn row_seconds(&self, n: usize, is_known: impl Fn(usize) -> bool) -> f64 {
        let prices = &self.step.prices.target;
        let (from, farthest) = ((n / 2).max(1), (2 * n.max(1)).min(prices.len() - 1));
        let to = (n + 1..=farthest).rev().find(|&to| is_known(to)).unwrap_or(n.min(farthest));
        if to > from { ((prices[to] - prices[from]) / (to - from) as f64).max(0.0) } else { 0.0 }
    }

    /// Draft rows on top of `rows` that can be judged, if that many may be planned.
    fn n_drafts_max(&self, rows: u32, n_sequences: u32) -> u32 {
        let judged = self.costs.rows_trusted().saturating_sub(rows);
        let planned = self.step.candidates.iter().map(Candidate::len_max).sum::<u32>().min(DRAFTS_MAX);
        planned.min(judged).max(n_sequences)
    }
}

/// What a token of a sequence is worth: how urgent it is, and what plain decoding takes for it against the mean token.
pub(super) fn weight(costs: &Costs, sequence: &SequenceView) -> f64 {
    urgency(sequence) * costs.work(sequence.context_len)
}

/// What time is worth in a step, to compare drafts of one sequence before lengths are chosen for all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Weighted tokens per second of plain decoding; 0 while nothing was measured.
    rate: f64,
    /// Seconds of one more verified row.
    row: f64,
    /// A sequence's share of a draft round, seconds.
    round: f64,
}

impl Rates {
    /// Of the batch of `view`, if about half of it drafts a token.
    pub(super) fn of(view: &PlanView<'_>, costs: &Costs) -> Self {
        let n = view.sequences.len().max(1) as u32;
        let weight: f64 = view.sequences.iter().map(|sequence| weight(costs, sequence)).sum();
        let (plain, target) = (costs.plain(n), costs.target(n, 0));
        let row = target.zip(costs.target(n, n)).map_or(0.0, |(few, more)| (more - few) / f64::from(n));
        Self {
            rate: plain.filter(|&seconds| seconds > 0.0).map_or(0.0, |seconds| weight / seconds),
            row: row.max(0.0),
            round: costs.round(n) / f64::from(n),
        }
    }

    /// Weighted tokens that the best length of a candidate brings beyond what its time would bring otherwise.
    pub(super) fn surplus(&self, candidate: &Candidate) -> f64 {
        let round = if candidate.is_foreseen { 0.0 } else { self.round };
        let price = self.rate * (self.row + round + candidate.row_seconds);
        let (mut sum, mut best) = (0.0, 0.0_f64);
        for survival in &candidate.survivals[..candidate.len_max() as usize] {
            sum += candidate.weight * survival - price;
            best = best.max(sum - self.rate * candidate.catch_up);
        }
        best
    }
}
