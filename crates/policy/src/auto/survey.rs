//! Who takes part in a step, and what their drafts would be worth.

use super::choice::{Candidate, DEPTH_MAX};
use super::pricing::{Rates, weight};
use super::step::Drafting;
use super::{Auto, LAG_ORDINARY};
use crate::{DraftPosition, PlanView, SequenceView};

/// Steps within which catching up must have paid for itself, if the request does not end before.
const HORIZON_STEPS: f64 = 64.0;

/// Steps after which divergences are looked at again once acceptance is known: comparing two distributions takes time, and
/// says little that accepted and rejected drafts have not said by then.
const DIVERGENCE_STEPS: u64 = 8;

/// Uncertainty of acceptance from which every divergence is welcome, log-odds.
const UNCERTAINTY_TO_COMPARE: f64 = 0.2;

impl Auto {
    /// Notes who takes part and what their drafts would be worth.
    pub(super) fn survey(&mut self, view: &PlanView<'_>) {
        let step = &mut self.step;
        step.begin();
        step.wants_shape = self.insight.is_wanted(view.step, self.acceptance.insight());
        let is_sampled = |sequence: &SequenceView| sequence.temperature > 0.0;
        let is_unknown = || self.acceptance.uncertainty(1.0) > UNCERTAINTY_TO_COMPARE;
        step.wants_divergence = view.sequences.iter().all(is_sampled)
            && (view.step.is_multiple_of(DIVERGENCE_STEPS) || is_unknown());
        let stored = view.sequences.iter().map(|sequence| u64::from(sequence.context_len)).sum();
        self.costs.begin(view.sequences.len() as u32, stored);
        let rates = Rates::of(view, &self.costs);
        for sequence in view.sequences {
            let (candidate, is_foreseen) = match view.foreseen_of(sequence) {
                [] => (self.guessed(sequence), false),
                foreseen if sequence.can_choose => {
                    let (guessed, foreseen) = (self.guessed(sequence), self.repeated(sequence, foreseen));
                    let is_better = rates.surplus(&foreseen) >= rates.surplus(&guessed);
                    if is_better { (foreseen, true) } else { (guessed, false) }
                }
                foreseen => (self.repeated(sequence, foreseen), true),
            };
            let weight = candidate.weight;
            let offset = self.acceptance_of(is_foreseen).offset(sequence.seq);
            let step = &mut self.step;
            step.candidates.push(candidate);
            step.drafting.push(Drafting {
                seq: sequence.seq,
                temperature: sequence.temperature,
                is_foreseen,
                can_choose: sequence.can_choose,
                weight,
                offset,
                planned_survival: 1.0,
                survival: 1.0,
                depth: 0,
                drafts: false,
                goes_beyond: false,
                survivals: [0.0; DEPTH_MAX],
                features: (0, 0),
            });
        }
    }

    /// What drafts of the draft model would be worth to a sequence.
    fn guessed(&self, sequence: &SequenceView) -> Candidate {
        let mut survivals = [0.0; DEPTH_MAX];
        let planned = &mut survivals[..sequence.limit.min(self.k_max) as usize];
        let offset = self.acceptance.offset(sequence.seq);
        self.acceptance.survivals(sequence.temperature, offset, planned);
        let is_behind = sequence.draft_lag > LAG_ORDINARY;
        let read = if is_behind { self.costs.round(sequence.draft_lag) - self.costs.round(1) } else { 0.0 };
        let steps_left = f64::from(sequence.remaining.max(1)) / (1.0 + survivals[0]);
        let catch_up = read.max(0.0) / steps_left.clamp(1.0, HORIZON_STEPS);
        let (attending, drafting) =
            (self.costs.attending(sequence.context_len), self.costs.drafting(sequence.context_len));
        Candidate {
            weight: weight(&self.costs, sequence),
            survivals,
            catch_up,
            row_seconds: attending + drafting,
            is_foreseen: false,
        }
    }

    /// What the chain that was foreseen would be worth to a sequence.
    fn repeated(&self, sequence: &SequenceView, foreseen: &[DraftPosition]) -> Candidate {
        let mut survivals = [0.0; DEPTH_MAX];
        let len = foreseen.len().min(self.k_max as usize);
        let offset = self.foreseen.offset(sequence.seq);
        self.foreseen.foreseen(sequence.temperature, offset, foreseen, &mut survivals[..len]);
        let row_seconds = self.costs.attending(sequence.context_len);
        Candidate {
            weight: weight(&self.costs, sequence),
            survivals,
            catch_up: 0.0,
            row_seconds,
            is_foreseen: true,
        }
    }
}
