//! Plain steps that need no decision: while speculation does not pay, and while plain decoding is measured.

use super::costs::STEPS_TO_WARM;
use super::{Auto, plain};
use crate::{PlanView, Planned, Reason};

/// Steps for which a decision to decode plainly stands while the batch stays the same: fewer while the question is open,
/// more once it is settled. Nothing is learnt about drafts meanwhile, and a small model's step takes no longer than a
/// hundred decisions.
const REST_STEPS: (u32, u32) = (8, 32);

/// Plain steps in a row that measure plain decoding: the first ones are slower and do not count.
const REFRESH_STEPS: u32 = STEPS_TO_WARM + 3;

/// What changing to plain decoding and back costs beyond the speed that is missed meanwhile, in plain steps.
const REFRESH_COST: f64 = 1.5;

/// Share of the time that measuring plain decoding may cost while speculating.
const REFRESH_SHARE: f64 = 0.006;

/// Plain steps of a batch size that say enough of it, and factor by which that share may grow while there are fewer: what
/// speculation is compared with must not rest on a few steps that something slowed down.
const EVIDENCE_ENOUGH: f64 = 32.0;
const DOUBT_MAX: f64 = 4.0;

/// Most speculating steps between two such measurements.
const REFRESH_INTERVAL_MAX: f64 = 1024.0;

/// Reason of steps that measure plain decoding.
const MEASURING: Reason = "measuring";

/// A decision to decode plainly, and how long it still stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    n_steps: u32,
    /// Batch size it was made for.
    n_sequences: usize,
    reason: Reason,
}

impl Rest {
    /// A decision for `n_steps` steps, this one included.
    pub(super) fn decided(n_steps: u32, view: &PlanView<'_>, reason: Reason) -> Self {
        Self { n_steps: n_steps - 1, n_sequences: view.sequences.len(), reason }
    }

    /// Whether it still stands: the batch is the same, or about to change anyway, since prompts are read. Where drafts are
    /// foreseen every step has its own, and a decision about others says nothing of them.
    pub(super) fn stands(&self, view: &PlanView<'_>) -> bool {
        let is_alike = self.n_sequences == view.sequences.len() || view.prefill_rows > 0;
        self.n_steps > 0 && is_alike && (self.reason == MEASURING || view.foreseen.is_empty())
    }
}

impl Auto {
    /// Decodes plainly for a while without asking again.
    pub(super) fn take_rest(&mut self, view: &PlanView<'_>) {
        let (open, settled) = REST_STEPS;
        let n_steps = if self.step.is_open { open } else { settled };
        self.rest = Rest::decided(n_steps, view, "does not pay");
    }

    /// Plans another step of the decision that stands.
    pub(super) fn go_on_resting(&mut self, plan: &mut [Planned]) {
        self.rest.n_steps -= 1;
        self.save_up();
        plan.fill(plain(self.rest.reason));
    }

    /// Whether plain decoding was measured too rarely for batches of about this size, or too long ago.
    pub(super) fn must_measure_plain(&self, view: &PlanView<'_>) -> bool {
        let missed = f64::from(REFRESH_STEPS) * (self.gain() - 1.0).max(0.0);
        let n_sequences = view.sequences.len() as u32;
        let evidence = self.costs.plain_evidence(n_sequences);
        let doubt = (EVIDENCE_ENOUGH / evidence).clamp(1.0, DOUBT_MAX);
        let interval = ((REFRESH_COST + missed) / (REFRESH_SHARE * doubt)).min(REFRESH_INTERVAL_MAX);
        view.prefill_rows == 0
            && (!self.costs.is_plain_sound(n_sequences) || f64::from(self.n_since_plain) >= interval)
    }

    /// Has plain decoding measured, from this step on.
    pub(super) fn measure_plain(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.n_since_plain = 0;
        self.rest = Rest::decided(REFRESH_STEPS, view, MEASURING);
        plan.fill(plain(self.rest.reason));
    }
}
