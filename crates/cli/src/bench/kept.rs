//! A policy that keeps what it has learned while the engine runs others in between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dsde_policy::{DraftPosition, PlanView, Planned, Policy, Prune, SeqId, Signals, StepFeedback};

/// One policy behind any number of handles; the engine owns a handle at a time.
#[derive(Clone)]
pub(crate) struct Kept(Arc<Mutex<Box<dyn Policy>>>);

impl Kept {
    /// * `policy`: nobody's yet.
    pub(crate) fn new(policy: Box<dyn Policy>) -> Self {
        Self(Arc::new(Mutex::new(policy)))
    }

    /// Nobody waits here: handles are used by one thread.
    fn policy(&self) -> MutexGuard<'_, Box<dyn Policy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Kept {
    fn name(&self) -> String {
        self.policy().name()
    }

    fn signals(&self) -> Signals {
        self.policy().signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.policy().plan(view, plan);
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.policy().keep_drafting(seq, position)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.policy().trim(view, drafted, verify_lens);
    }

    fn prune(&self) -> Option<Prune> {
        self.policy().prune()
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.policy().observe(feedback);
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        self.policy().explain(seq, numbers);
    }

    fn wants_draft(&self) -> bool {
        self.policy().wants_draft()
    }

    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.policy().learn_costs(feedback);
    }

    fn forget(&mut self, seq: SeqId) {
        self.policy().forget(seq);
    }
}

#[cfg(test)]
mod tests {
    use dsde_policy::registry;

    use super::*;

    #[test]
    fn all_handles_are_the_same_policy() {
        let kept = Kept::new("fixed:k=3".parse::<registry::Config>().unwrap().build());
        let mut handle = kept.clone();
        assert_eq!(handle.name(), "fixed:k=3");
        let view = PlanView {
            step: 0,
            sequences: &[],
            prefill_rows: 0,
            n_waiting: 0,
            blocks_free: 1,
            blocks_total: 1,
            now: std::time::Duration::ZERO,
        };
        let mut plan = [Planned::none()];
        handle.plan(&view, &mut plan);
        assert_eq!(plan[0].len, 3);
        drop(handle);
        assert_eq!(Arc::strong_count(&kept.0), 1);
    }
}
