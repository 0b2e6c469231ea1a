//! A policy that fails alone: a panic in it ends the policy, not the engine that asked it.

use std::any::Any;
use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{DraftPosition, PlanView, Planned, Policy, Prune, SeqId, Signals, StepFeedback};

/// Why a policy is no longer asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFailure {
    /// Name of the policy.
    pub policy: String,
    /// What it panicked with.
    pub message: String,
}

/// The words of a panic, as [`catch_unwind`] returns it.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().copied();
    let formatted = || panic.downcast_ref::<String>().map(String::as_str);
    literal.or_else(formatted).unwrap_or("a panic without words").to_owned()
}

/// Asks a policy until it panics, or lengthens what it may only cut; from then on it does what [`Off`](crate::Off) does.
///
/// Lengths never change greedy output, so that stays what it was. Sampled output keeps its law in every step but that of the
/// failure: where a policy failed at the sight of a proposal, the proposal is dropped because of what it says.
pub(crate) struct Guarded {
    policy: Box<dyn Policy>,
    failure: OnceCell<String>,
}

impl Guarded {
    pub(crate) fn new(policy: Box<dyn Policy>) -> Self {
        Self { policy, failure: OnceCell::new() }
    }

    pub(crate) fn into_inner(self) -> Box<dyn Policy> {
        self.policy
    }

    /// What ended it.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The answer of the policy; `None` if it has failed.
    fn ask<T>(&self, question: impl FnOnce(&dyn Policy) -> T) -> Option<T> {
        guarded(&self.failure, || question(&*self.policy))
    }

    /// As [`Guarded::ask`], of one that may learn.
    fn tell<T>(&mut self, news: impl FnOnce(&mut dyn Policy) -> T) -> Option<T> {
        guarded(&self.failure, || news(&mut *self.policy))
    }
}

/// What `call` returns; `None` after a failure, and where it panics, which is one.
fn guarded<T>(failure: &OnceCell<String>, call: impl FnOnce() -> T) -> Option<T> {
    if failure.get().is_some() {
        return None;
    }
    // Nobody looks into a policy that has panicked.
    let answer = catch_unwind(AssertUnwindSafe(call));
    answer.map_err(|panic| failure.set(panic_message(&*panic))).ok()
}

impl Policy for Guarded {
    /// The policy's, also when it has failed.
    fn name(&self) -> String {
        self.ask(|policy| policy.name()).unwrap_or_else(|| "failed".to_owned())
    }

    fn signals(&self) -> Signals {
        self.ask(|policy| policy.signals()).unwrap_or_default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if self.tell(|policy| policy.plan(view, plan)).is_none() {
            plan.fill(Planned::none());
        }
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.tell(|policy| policy.keep_drafting(seq, position)).unwrap_or(false)
    }

    fn takes_foreseen(&self, seq: SeqId) -> bool {
        self.ask(|policy| policy.takes_foreseen(seq)).unwrap_or(false)
    }

    fn reranks(&self, seq: SeqId) -> bool {
        self.ask(|policy| policy.reranks(seq)).unwrap_or(false)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        let drafted_lens = verify_lens.to_vec();
        self.tell(|policy| policy.trim(view, drafted, verify_lens));
        if verify_lens.iter().zip(&drafted_lens).any(|(len, drafted)| len > drafted) {
            // A panic that came first is the failure.
            let _ = self.failure.set("trim made a proposal longer than it was drafted".to_owned());
        }
        if self.failure().is_some() {
            verify_lens.fill(0);
        }
    }

    fn prune(&self) -> Option<Prune> {
        self.ask(|policy| policy.prune()).flatten()
    }

    fn ahead_len(&self) -> u32 {
        self.ask(|policy| policy.ahead_len()).unwrap_or(0)
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.tell(|policy| policy.observe(feedback));
    }

    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.tell(|policy| policy.learn_costs(feedback));
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        self.ask(|policy| policy.explain(seq, numbers));
    }

    fn wants_draft(&self) -> bool {
        self.ask(|policy| policy.wants_draft()).unwrap_or(true)
    }

    fn forget(&mut self, seq: SeqId) {
        self.tell(|policy| policy.forget(seq));
    }
}
