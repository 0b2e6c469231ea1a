//! Drafting ahead on some of the threads while the target verifies on the others.
//!
//! What a row gets does not depend on the number of threads, and the passes share nothing but weights that nobody writes:
//! so both give the bits that they would have given one after the other.

use std::sync::{Mutex, PoisonError};

use dsde_engine::{DraftAhead, Executor as _, ExecutorError, RowBatch, TargetDraw, Verification};

use dsde_kernels::Backend;

use super::draft::{Draft, Reader};
use super::drafted::Keeper;
use super::drafting::Drafting;
use super::outputs::OutputPlan;
use super::parallel::Workers;
use super::{ModelExecutor, no_draft};

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
        let mut model = match self.draft.take() {
            Some(Draft::Model(model)) => model,
            other => {
                self.draft = other;
                return Err(no_draft());
            }
        };
        std::mem::swap(&mut self.backend, &mut groups.target);
        let Groups { target: whole, draft: backend, workers, plan } = &mut groups;
        let (mut verified, mut drafted) = (Ok(()), Ok(()));
        let verify = || verified = self.verify(rows, draws, verifications);
        let (result, draft_model) = (&mut drafted, &mut model);
        let draft = move || {
            let draft = Reader::Model(draft_model);
            *result = draft_all(&mut Drafting { backend, draft, workers, plan }, ahead);
        };
        side_by_side(whole, verify, draft);
        std::mem::swap(&mut self.backend, &mut groups.target);
        (self.groups, self.draft) = (Some(groups), Some(Draft::Model(model)));
        verified.and(drafted)
    }
}

/// All rounds of `ahead`.
fn draft_all<B: Backend>(
    drafting: &mut Drafting<'_, B>,
    ahead: &mut DraftAhead<'_>,
) -> Result<(), ExecutorError> {
    ahead.run(|rows, draws, drafted| {
        let mut kept: Vec<Keeper<'_>> = draws.iter().map(|_| Keeper::of_nothing()).collect();
        drafting.pass(rows, draws, &mut kept, drafted);
        Ok(())
    })
}

/// Runs two pieces of work on two threads of `backend`: threads of its own that are awake already, and would otherwise spin
/// beside new ones. Where none comes to help, one runs after the other.
fn side_by_side<B: Backend>(backend: &B, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    let (first, second) = (Mutex::new(Some(first)), Mutex::new(Some(second)));
    backend.for_each(2, &|i| match i {
        0 => run_once(&first),
        _ => run_once(&second),
    });
}

fn run_once(work: &Mutex<Option<impl FnOnce()>>) {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    work.expect("every index comes once")();
}
