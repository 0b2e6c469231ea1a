//! The marginal rule: a draft token has to bring more, for the time it takes, than the planned step brings.

use super::Auto;
use super::step::Turn;
use crate::acceptance::has_shape;
use crate::{DraftPosition, PlanView, SeqId};

impl Auto {
    /// Whether a sequence drafts on behind this position.
    pub(super) fn goes_on(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        if self.step.turn != Turn::Speculating || !has_shape(position) {
            return true;
        }
        let acceptance = &self.acceptance;
        let Some(drafting) = self.step.find(seq) else { return false };
        drafting.survival *= acceptance.sighted(drafting.temperature, drafting.offset, position);
        drafting.depth = position.index + 1;
        let next = acceptance.blind(drafting.temperature, drafting.offset, position.index + 1);
        let worth = drafting.weight * drafting.survival * next;
        if self.step.rounds_decided <= position.index {
            self.decide_round(position.index, worth);
        }
        self.step.is_round_taken && worth > self.step.entry_price
    }

    /// Decides whether another draft round is taken, when the first sequence asks for it.
    ///
    /// A round costs nearly the same for one sequence as for many, so it is taken or not by what it is worth to all of them;
    /// who joins it then pays for one row more. The worth of those that have not asked yet is what was known a position ago.
    fn decide_round(&mut self, index: u32, first_worth: f64) {
        let step = &mut self.step;
        let row_price = step.best.value * step.row_seconds;
        let (mut n, mut surplus) = (1, (first_worth - row_price).max(0.0));
        for other in step.drafting.iter().filter(|other| other.drafts && other.depth == index) {
            let chance = |index| self.acceptance.blind(other.temperature, other.offset, index);
            let worth = other.weight * other.survival * chance(index) * chance(index + 1);
            if worth > row_price {
                n += 1;
                surplus += worth - row_price;
            }
        }
        let round = self.costs.round(n);
        step.rounds_decided = index + 1;
        step.is_round_taken = surplus > step.best.value * round;
        step.entry_price = row_price + step.best.value * (round - self.costs.round(n.max(2) - 1)).max(0.0);
    }

    /// Cuts what was drafted to what is worth its rows, and keeps the features of all of it.
    pub(super) fn cut(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        let price = self.step.best.value * self.step.row_seconds;
        for ((sequence, positions), len) in view.sequences.iter().zip(drafted).zip(verify_lens) {
            let start = self.step.features.len();
            self.step.features.extend_from_slice(positions);
            let is_speculating = self.step.turn == Turn::Speculating;
            let Some(drafting) = self.step.find(sequence.seq) else { continue };
            drafting.features = (start, positions.len());
            if !is_speculating {
                continue;
            }
            let mut worth = drafting.weight;
            let pays = |position: &&DraftPosition| {
                if !has_shape(position) {
                    return true;
                }
                worth *= self.acceptance.sighted(drafting.temperature, drafting.offset, position);
                worth > price
            };
            *len = (*len).min(positions.iter().take_while(pays).count() as u32);
        }
    }
}
