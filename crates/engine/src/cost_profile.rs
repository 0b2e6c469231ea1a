//! The start-up profile: what steps of several sizes cost on this machine, before the first request.
//!
//! A few made-up sequences are served by ordinary steps, so that what is timed is what will be served: kernels, verdicts and
//! the engine's own work. Their number grows, and at every number they draft several lengths in turn. Policies learn from
//! it what passes cost ([`Policy::learn_costs`]); nothing else remains of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dsde_policy::{CostProfile, Mixture, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::Params;

use crate::engine::Engine;
use crate::passes::ExecutorError;
use crate::request::Request;

/// Plain steps at every number of sequences: what speculation is compared with. In a row, since a plain step between
/// speculating ones takes longer than one among its like.
const PLAIN_STEPS: u32 = 5;

/// Lengths then drafted in turn; a step of its own for each.
const LENS: [u32; 4] = [2, 1, 8, 4];

/// Turns of [`LENS`] at every number of sequences. Costs count by their median at first, so an interrupted step does no harm.
const TURNS: u32 = 3;

/// Most rows of a step: beyond it passes are bound by arithmetic, and their times continue straight.
const ROWS_MAX: u32 = 192;

/// Tokens of a made-up prompt: more than a block, so that every sequence has several.
const PROMPT_LEN: u32 = 24;

/// Steps at the start that are not kept: the first touch of memory, threads that wake up.
const WARM_UP_STEPS: u32 = 3;

/// Drafts what it is told to and notes what that cost.
struct Profiler {
    orders: Arc<Mutex<Orders>>,
}

/// What the engine and its [`Profiler`] share.
#[derive(Default)]
struct Orders {
    len: u32,
    is_kept: bool,
    profile: CostProfile,
}

impl Profiler {
    fn with<T>(&self, work: impl FnOnce(&mut Orders) -> T) -> T {
        work(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Policy for Profiler {
    fn name(&self) -> String {
        "profile".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        let len = self.with(|orders| orders.len);
        plan.fill(Planned { len, reason: "profile", ..Planned::none() });
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.with(|orders| {
            if orders.is_kept {
                orders.profile.record(feedback);
            }
        });
    }

    fn forget(&mut self, _seq: SeqId) {}
}

impl Engine {
    /// Measures what steps cost, for policies to learn from ([`CostProfile::teach`]). Policies that requests choose know it
    /// from now on; the policy in force is left as it is.
    ///
    /// Empty where no model drafts, or where requests are being served already. Sizes go from one sequence to
    /// as many as may run at once; the smallest come first, in case the time ends.
    ///
    /// * `time_max`: no step begins after it; the first few always do.
    ///
    /// # Errors
    /// If the executor failed. The engine stays usable.
    pub fn profile_costs(&mut self, time_max: Duration) -> Result<CostProfile, ExecutorError> {
        if !self.config.drafter.has_model() || !self.is_idle() {
            return Ok(CostProfile::default());
        }
        let orders = Arc::new(Mutex::new(Orders::default()));
        let profiler = Mixture::new(Box::new(Profiler { orders: orders.clone() }));
        let policy = std::mem::replace(&mut self.policy, profiler);
        let trace = self.trace.take();
        let counts = (self.n_steps, self.next_request, self.next_seq);
        let result = self.take_profile(&Profiler { orders: orders.clone() }, self.clock.now() + time_max);
        self.cancel_all();
        self.events.clear();
        self.scheduler.pool.forget_cached();
        // Nothing of it is left, so numbers begin where they would have begun.
        (self.n_steps, self.next_request, self.next_seq) = counts;
        self.trace = trace;
        self.policy = policy;
        result?;
        let profile = Profiler { orders }.with(|orders| std::mem::take(&mut orders.profile));
        self.policy.set_cost_profile(profile.clone());
        Ok(profile)
    }

    fn take_profile(&mut self, profiler: &Profiler, deadline: Duration) -> Result<(), ExecutorError> {
        let n_max = self.config.sequences_max.min(ROWS_MAX);
        let sizes = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|&n| n <= n_max);
        let mut n_steps = 0;
        for n in sizes {
            if !self.add_made_up(n)? {
                return Ok(());
            }
            let n_plain = if n == 1 { WARM_UP_STEPS + PLAIN_STEPS } else { PLAIN_STEPS };
            let lens = (0..n_plain).map(|_| 0).chain((0..TURNS).flat_map(|_| LENS));
            for len in lens.filter(|len| n * (1 + len) <= ROWS_MAX) {
                if n_steps > WARM_UP_STEPS && self.clock.now() >= deadline {
                    return Ok(());
                }
                profiler.with(|orders| (orders.len, orders.is_kept) = (len, n_steps >= WARM_UP_STEPS));
                self.step()?;
                self.events.clear();
                n_steps += 1;
            }
        }
        Ok(())
    }

    /// Starts made-up sequences until `n` run and have read their prompts; `false` if they find no room.
    fn add_made_up(&mut self, n: u32) -> Result<bool, ExecutorError> {
        for i in self.n_running()..n {
            // Distinct prompts, so that none finds its blocks in the prefix cache.
            let token = |j: u32| (1 + i + j * 31) % self.shape.vocab_len;
            let request = Request::new((0..PROMPT_LEN).map(token).collect(), Params::greedy(), u32::MAX);
            if self.submit(request).is_err() {
                return Ok(false);
            }
        }
        // Each step reads at least one row of a prompt.
        for _ in 0..n * PROMPT_LEN {
            let is_ready = self.scheduler.waiting.is_empty()
                && self.scheduler.running.iter().all(|seq| seq.is_decoding());
            if is_ready {
                return Ok(true);
            }
            self.step()?;
            self.events.clear();
        }
        Ok(false)
    }

    fn cancel_all(&mut self) {
        let running = self.scheduler.running.iter().map(|seq| seq.request);
        let waiting = self.scheduler.waiting.values().map(|seq| seq.request);
        let requests: Vec<_> = running.chain(waiting).collect();
        for request in requests {
            self.cancel(request);
        }
    }
}
