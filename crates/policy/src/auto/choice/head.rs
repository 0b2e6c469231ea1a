//! A head of the ranking, and what it takes.

use super::ranking::Ranking;
use super::{Candidate, DEPTH_MAX, Objective, Prices, Question, SLACK, added};

/// A head of the ranking among positions of lengths up to some depth.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Positions of the ranking that are in it or lie too deep for it.
    end: usize,
    /// Positions in it.
    pub(super) n_drafts: usize,
    /// Sequences of each draft round.
    per_level: [usize; DEPTH_MAX],
    /// Weighted tokens of the step.
    pub(super) tokens: f64,
    /// Seconds of draft rounds and of catching up, and the least that they come to when it grows.
    drafting: f64,
    drafting_floor: f64,
    /// Seconds of its rows for attending to their contexts.
    attending: f64,
}

impl Head {
    /// Plain decoding.
    ///
    /// * `weight`: of all candidates.
    pub(super) fn new(weight: f64) -> Self {
        Self {
            end: 0,
            n_drafts: 0,
            per_level: [0; DEPTH_MAX],
            tokens: weight,
            drafting: 0.0,
            drafting_floor: 0.0,
            attending: 0.0,
        }
    }

    /// Seconds of the step.
    pub(super) fn seconds(&self, prices: &Prices) -> f64 {
        self.drafting + self.attending + prices.target[self.n_drafts]
    }

    /// Least that the step takes with this head or a longer one.
    pub(super) fn seconds_at_least(&self, floors: &Prices) -> f64 {
        self.drafting_floor + self.attending + floors.target[self.n_drafts]
    }

    /// Takes in the next position of a length up to `depth`; `false` if there is none.
    pub(super) fn take_next(
        &mut self,
        ranking: &Ranking,
        question: &Question<'_>,
        floors: &Prices,
        depth: usize,
    ) -> bool {
        let rest = &ranking.positions()[self.end..];
        let Some(n_deeper) = rest.iter().position(|position| (position.index as usize) < depth) else {
            return false;
        };
        let position = rest[n_deeper];
        self.end += n_deeper + 1;
        let candidate = &question.candidates[position.candidate as usize];
        if !candidate.is_foreseen {
            let level = &mut self.per_level[position.index as usize];
            *level += 1;
            self.drafting += added(question.prices, position.index, *level);
            self.drafting_floor += added(floors, position.index, *level);
            if position.index == 0 {
                self.drafting += candidate.catch_up;
                self.drafting_floor += candidate.catch_up;
            }
        }
        self.n_drafts += 1;
        self.tokens += position.worth;
        self.attending += candidate.row_seconds;
        true
    }

    /// Takes in all positions before the first that belongs to longer lengths than `depth` alone.
    pub(super) fn take_until(
        &mut self,
        ranking: &Ranking,
        question: &Question<'_>,
        floors: &Prices,
        depth: usize,
    ) {
        while ranking.positions().get(self.end).is_some_and(|next| (next.index as usize) < depth) {
            self.take_next(ranking, question, floors, depth);
        }
    }
}

/// Where a head ends, whatever else is ranked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Net worth of its last position.
    pub(super) net: f64,
    /// Its longest length.
    pub(super) depth: usize,
}

impl Mark {
    /// What the head of these candidates that ends here reaches at least; `None` if it has too many rows.
    ///
    /// * `rate`: of plain decoding, tokens per second.
    pub(super) fn value(
        self,
        candidates: &[Candidate],
        prices: &Prices,
        objective: Objective,
        rate: f64,
    ) -> Option<f64> {
        let mut per_level = [0; DEPTH_MAX];
        let (mut n_drafts, mut tokens, mut seconds) = (0, 0.0, 0.0);
        for candidate in candidates {
            let is_in = |&&survival: &&f64| survival > 0.0 && candidate.net(survival, rate) >= self.net;
            let survivals = candidate.survivals[..self.depth].iter().take_while(is_in);
            let mut len = 0;
            tokens += candidate.weight;
            for survival in survivals {
                tokens += candidate.weight * survival;
                per_level[len] += usize::from(!candidate.is_foreseen);
                len += 1;
            }
            n_drafts += len;
            seconds += len as f64 * candidate.row_seconds;
            seconds += if len > 0 && !candidate.is_foreseen { candidate.catch_up } else { 0.0 };
        }
        let [first, later @ ..] = per_level;
        let round = |round: &[f64], n: usize| if n > 0 { round[n] } else { 0.0 };
        seconds += round(&prices.first_round, first);
        seconds += later.iter().map(|&n| round(&prices.round, n)).sum::<f64>();
        seconds += prices.target.get(n_drafts)?;
        Some(objective.value((1.0 - SLACK) * tokens, (1.0 + SLACK) * seconds))
    }
}
