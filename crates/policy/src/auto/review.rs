//! What a step tells: whether it brought what was foretold, and what is accepted.

use std::time::Duration;

use super::Auto;
use super::guard::Progress;
use super::step::Turn;
use crate::StepFeedback;

/// Steps without a draft after which what is known of acceptance fades.
const SILENT_STEPS: u32 = 64;

impl Auto {
    /// Compares what a step in which everyone may have drafted brought with what was foretold.
    pub(super) fn check(&mut self, feedback: &StepFeedback<'_>) {
        let step = &mut self.step;
        let Some(foretold) = step.foretold.filter(|_| feedback.prefill_rows == 0) else { return };
        if feedback.step_time == Duration::ZERO {
            return;
        }
        let mut tokens = 0.0;
        for outcome in feedback.outcomes {
            tokens += step.find(outcome.seq).map_or(0.0, |i| step.drafting[i].weight)
                * f64::from(outcome.emitted());
        }
        let measured = Progress {
            tokens: tokens / step.weight,
            seconds: feedback.step_time.as_secs_f64() / step.plain_seconds,
        };
        if step.turn == Turn::Speculating {
            self.switch.note(measured);
        }
        // With catching up: who drafts in one step and not in the next reads again and again what was priced once.
        if self.costs.is_warm() {
            self.guard.note(feedback.outcomes.len(), foretold, measured);
        }
    }

    /// Takes in which drafts were accepted, of the draft model and of what was foreseen; while nothing is drafted, now and then that
    /// time passes.
    pub(super) fn learn_acceptance(&mut self, feedback: &StepFeedback<'_>) {
        self.n_unsettled += 1;
        if feedback.is_plain() && self.n_unsettled < SILENT_STEPS {
            return;
        }
        // Everyone in turn comes first: in a large batch the last ones are heard less.
        let first = feedback.step as usize % feedback.outcomes.len().max(1);
        let (before, after) = feedback.outcomes.split_at(first);
        for outcome in after.iter().chain(before).filter(|outcome| outcome.drafted > 0) {
            let found = self.step.find(outcome.seq).map(|i| &self.step.drafting[i]);
            let (start, len) = found.map_or((0, 0), |drafting| drafting.features);
            let acceptance = if outcome.is_foreseen { &mut self.foreseen } else { &mut self.acceptance };
            acceptance.learn(outcome, &self.step.features[start..start + len]);
        }
        let n_steps = std::mem::take(&mut self.n_unsettled);
        self.acceptance.settle(n_steps);
        self.foreseen.settle(n_steps);
    }
}
