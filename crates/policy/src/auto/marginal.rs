//! The marginal rule: a draft token has to bring more, for the time it takes, than the planned step brings.

use super::Auto;
use super::choice::DEPTH_MAX;
use super::step::Turn;
use crate::acceptance::has_shape;
use crate::{DraftPosition, PlanView, SeqId};

impl Auto {
    /// Whether a sequence drafts on behind this position.
    pub(super) fn goes_on(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        if self.step.turn != Turn::Speculating || !has_shape(position) {
            return true;
        }
        let Some(i) = self.step.find(seq) else { return false };
        if self.step.drafting[i].is_foreseen {
            // All of it was seen when it was planned.
            return true;
        }
        if self.step.drafting[i].goes_beyond {
            return true;
        }
        let (index, drafting) = (position.index as usize, &mut self.step.drafting[i]);
        drafting.survival *= self.acceptance.sighted(drafting.temperature, drafting.offset, position);
        drafting.survivals[index.min(DEPTH_MAX - 1)] = drafting.survival;
        drafting.depth = position.index + 1;
        let candidate = &self.step.candidates[i];
        let attending = self.step.best.value * candidate.row_seconds;
        let net = drafting.weight * drafting.survival * candidate.chance(index + 1) - attending;
        if self.step.rounds_decided <= position.index {
            self.decide_round(position.index, net);
        }
        self.step.is_round_taken && net > self.step.entry_price
    }

    /// Decides whether another draft round is taken, when the first sequence asks for it.
    ///
    /// A round costs nearly the same for one sequence as for many, so it is taken or not by what it is worth to all of them;
    /// who joins it then pays for one row more. The worth of those that have not asked yet is what was known a position ago.
    ///
    /// * `first_net`: what the first one's next token is worth, less what attending to its context is worth elsewhere.
    fn decide_round(&mut self, index: u32, first_net: f64) {
        let step = &mut self.step;
        let row_price = step.best.value * step.row_seconds;
        let (mut n, mut surplus) = (1, (first_net - row_price).max(0.0));
        let (here, next) = (index as usize, index as usize + 1);
        for (other, candidate) in step.drafting.iter().zip(&step.candidates) {
            if !other.drafts || other.depth != index {
                continue;
            }
            let worth = other.weight * other.survival * candidate.chance(here) * candidate.chance(next);
            let net = worth - step.best.value * candidate.row_seconds;
            if net > row_price {
                n += 1;
                surplus += net - row_price;
            }
        }
        let round = self.costs.round(n);
        step.rounds_decided = index + 1;
        step.is_round_taken = surplus > step.best.value * round;
        step.entry_price = row_price + step.best.value * (round - self.costs.round(n.max(2) - 1)).max(0.0);
    }

    /// Cuts what was drafted to what is worth its rows, and keeps the features of all of it.
    pub(super) fn cut(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        if self.step.turn == Turn::Plain {
            return;
        }
        for ((sequence, positions), len) in view.sequences.iter().zip(drafted).zip(verify_lens) {
            let start = self.step.features.len();
            self.step.features.extend_from_slice(positions);
            let is_speculating = self.step.turn == Turn::Speculating;
            let Some(i) = self.step.find(sequence.seq) else { continue };
            let drafting = &mut self.step.drafting[i];
            drafting.features = (start, positions.len());
            if !is_speculating || drafting.is_foreseen || drafting.goes_beyond {
                continue;
            }
            // What drafting took is gone.
            let attending = self.costs.attending(sequence.context_len);
            let price = self.step.best.value * (self.step.row_seconds + attending);
            let mut survival = 1.0;
            let pays = |(index, position): &(usize, &DraftPosition)| {
                if !has_shape(position) {
                    return true;
                }
                survival = match drafting.survivals.get(*index) {
                    Some(&seen) if *index < drafting.depth as usize => seen,
                    _ => survival * self.acceptance.sighted(drafting.temperature, drafting.offset, position),
                };
                drafting.weight * survival > price
            };
            *len = (*len).min(positions.iter().enumerate().take_while(pays).count() as u32);
        }
    }
}
