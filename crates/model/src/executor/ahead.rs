//! Drafting ahead on some of the threads while the target verifies on the others.
//!
//! What a row gets does not depend on the number of threads, and the passes share nothing but weights that nobody writes: so both give
//! the bits that they would have given one after the other.

use std::panic::resume_unwind;
use std::thread;

use dsde_engine::{DraftAhead, Executor as _, ExecutorError, RowBatch, TargetDraw, Verification};

use super::drafted::DraftedRows;
use super::drafting::Drafting;
use super::outputs::OutputPlan;
use super::parallel::Workers;
use super::{Model, ModelExecutor, no_draft};
use crate::backend::Backend;

/// The threads in two groups, and the memory of the one that drafts.
pub(super) struct Groups<B> {
    /// Verifies; its place is taken by the backend with all threads meanwhile.
    target: B,
    draft: B,
    workers: Workers,
    plan: OutputPlan,
}

impl<B: Backend> Groups<B> {
    /// `None` if there are too few threads for two groups.
    fn of(backend: &B) -> Option<Self> {
        let [target, draft] = backend.halves()?;
        Some(Self { target, draft, workers: Workers::default(), plan: OutputPlan::default() })
    }
}

impl<B: Backend> ModelExecutor<B> {
    /// See [`Executor::verify_ahead`](dsde_engine::Executor::verify_ahead).
    pub(super) fn verify_beside(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        ahead: &mut DraftAhead<'_>,
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        let Some(mut groups) = self.groups.take().or_else(|| Groups::of(&self.backend)) else {
            self.verify(rows, draws, verifications)?;
            return ahead.run(|rows, draws, drafted| self.draft(rows, draws, drafted));
        };
        let mut model = self.draft.take().ok_or_else(no_draft)?;
        std::mem::swap(&mut self.backend, &mut groups.target);
        let result = thread::scope(|scope| {
            let (groups, model) = (&mut groups, &mut model);
            let drafting = scope.spawn(move || groups.run(model, ahead));
            let verified = self.verify(rows, draws, verifications);
            let drafted = drafting.join().unwrap_or_else(|panic| resume_unwind(panic));
            verified.and(drafted)
        });
        std::mem::swap(&mut self.backend, &mut groups.target);
        (self.groups, self.draft) = (Some(groups), Some(model));
        result
    }
}

impl<B: Backend> Groups<B> {
    /// All rounds of `ahead`, on the threads that draft.
    fn run(&mut self, model: &mut Model<B>, ahead: &mut DraftAhead<'_>) -> Result<(), ExecutorError> {
        let Self { draft: backend, workers, plan, .. } = self;
        let mut drafting = Drafting { backend, model, workers, plan };
        ahead.run(|rows, draws, drafted| {
            // Nothing of it is kept.
            let mut kept: Vec<DraftedRows> = draws.iter().map(|_| DraftedRows::default()).collect();
            drafting.pass(rows, draws, &mut kept, drafted);
            Ok(())
        })
    }
}
