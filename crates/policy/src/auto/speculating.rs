//! The lengths of a step that speculates, as the search found them, and what departs from them.

use super::step::Turn;
use super::{Auto, beyond, plain};
use crate::{PlanView, Planned};

/// Nats per label from which the shape may lengthen a draft beyond its plan.
const INSIGHT_TO_GO_ON: f64 = 0.01;

impl Auto {
    /// Plans the best lengths, with room to go on where the draft is sure, or now and then another token; plain decoding if its time
    /// is to be measured.
    pub(super) fn plan_speculation(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if self.must_measure_plain(view) {
            self.measure_plain(view, plan);
            return;
        }
        self.n_since_plain += 1;
        self.step.turn = Turn::Speculating;
        self.step.foretell(self.step.best.tokens, self.step.best.seconds);
        self.step.rounds_decided = 0;
        let has_room =
            self.step.wants_shape && self.acceptance.insight().is_some_and(|nats| nats > INSIGHT_TO_GO_ON);
        let step = &mut self.step;
        for (i, (planned, &len)) in plan.iter_mut().zip(&step.lens).enumerate() {
            let (sequence, is_foreseen) = (&view.sequences[i], step.drafting[i].is_foreseen);
            let len_max = if is_foreseen { view.foreseen_of(sequence).len() as u32 } else { sequence.limit };
            let has_more = || beyond::has_more(sequence, is_foreseen, len, len_max.min(self.k_max));
            if beyond::is_drawn(view.step, i) && has_more() {
                step.drafting[i].goes_beyond = true;
                step.drafting[i].drafts = !is_foreseen;
                *planned = Planned { len: len + 1, width: 1, is_settled: false, reason: "looking beyond" };
                continue;
            }
            if len == 0 {
                *planned = plain("does not pay");
                continue;
            }
            step.drafting[i].drafts = !step.drafting[i].is_foreseen;
            step.drafting[i].planned_survival = step.candidates[i].survivals[len as usize - 1];
            // Room to go on where the draft turns out to be sure; the marginal rule ends it. What was foreseen is sure already.
            let len = if has_room && step.drafting[i].drafts { (2 * len + 2).min(self.k_max) } else { len };
            *planned = Planned { len, width: 1, is_settled: true, reason: "pays" };
        }
    }
}
