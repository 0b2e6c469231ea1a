//! Work over sequences on the backend's threads, with memory that is handed from job to job.

use std::sync::{Mutex, PoisonError};

use dsde_sampling::Scratch;

use dsde_kernels::Backend;

/// Below this many logits jobs run one after the other: waking a thread costs as much as a softmax over them.
const PARALLEL_LOGITS_MIN: usize = 8192;

/// Memory of the threads that work on rows of logits.
#[derive(Default)]
pub(super) struct Workers {
    idle: Mutex<Vec<Scratch>>,
}

impl Workers {
    /// Runs `work` on every job, in parallel if there is enough to do.
    ///
    /// * `n_logits`: of all jobs together.
    pub(super) fn run<B: Backend, J: Send>(
        &self,
        backend: &B,
        n_logits: usize,
        jobs: impl Iterator<Item = J>,
        work: impl Fn(J, &mut Scratch) + Sync,
    ) {
        if n_logits < PARALLEL_LOGITS_MIN {
            let mut scratch = self.take();
            jobs.for_each(|job| work(job, &mut scratch));
            self.give_back(scratch);
            return;
        }
        let jobs: Vec<Mutex<Option<J>>> = jobs.map(|job| Mutex::new(Some(job))).collect();
        backend.for_each(jobs.len(), &|i| {
            let job = jobs[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = job {
                let mut scratch = self.take();
                work(job, &mut scratch);
                self.give_back(scratch);
            }
        });
    }

    fn take(&self) -> Scratch {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, scratch: Scratch) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}
