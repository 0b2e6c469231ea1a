//! The engine on its own thread: requests come in over a bounded channel, results go to inboxes.
//!
//! Between two steps the thread takes all new requests, ends those whose client is gone or whose time is over, and looks
//! whether the server stops; within a step it talks to nobody. It sleeps while there is nothing to do.

mod delivery;

use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dsde_engine::{Engine, Refused, Request, RequestId, Shape, Slo};
use dsde_policy::guard::panic_message;
use dsde_policy::registry::{ENTRIES, Entry};
use dsde_policy::{Policy, PolicyFailure};
use tokio::sync::oneshot;

use crate::inbox::{Inbox, Loss};
use crate::live::Board;
use crate::metrics::Metrics;
use delivery::{SpeculatedList, watch_steps};

/// Requests on their way to the thread; it takes them before every step.
const SUBMISSIONS_MAX: usize = 256;

/// The requests of one HTTP request, and where their results go.
pub(crate) struct Submission {
    /// All or none of them are taken; their choices fill the inbox in order.
    pub(crate) requests: Vec<Request>,
    /// Has a slot for every choice.
    pub(crate) inbox: Arc<Inbox>,
    /// It ends then.
    pub(crate) deadline: Instant,
}

/// Why nothing was submitted.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// A bad request, or a full queue.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// More requests arrive than the thread can take.
    #[error("too many requests arrive at once; try again later")]
    Busy,
    /// The thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

type Reply = oneshot::Sender<Result<(), Refused>>;

/// The way to the thread; it ends when all are dropped or [`EngineHandle::stop`] is called.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    submissions: SyncSender<Option<(Submission, Reply)>>,
    shared: Arc<Shared>,
    /// What the engine can hold.
    pub(crate) shape: Shape,
    /// Whether anybody drafts.
    pub(crate) can_draft: bool,
}

/// Share of a step's time that the next one may wait for readers: one in so many.
const WAITING_SHARE: u32 = 4;

struct Shared {
    is_alive: AtomicBool,
    is_stopping: AtomicBool,
}

/// Marks the thread as ended, however it ends; whoever waits for that is told by the sender's end.
struct AliveGuard {
    shared: Arc<Shared>,
    _alive: oneshot::Sender<()>,
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.shared.is_alive.store(false, Ordering::Release);
    }
}

/// A running thread.
pub(crate) struct EngineThread {
    pub(crate) handle: EngineHandle,
    pub(crate) thread: JoinHandle<()>,
    /// Receives nothing and ends with the thread.
    pub(crate) ended: oneshot::Receiver<()>,
}

impl EngineHandle {
    /// Hands requests to the engine.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<(), Rejected> {
        let (reply, answer) = oneshot::channel();
        self.submissions.try_send(Some((submission, reply))).map_err(|error| match error {
            TrySendError::Full(_) => Rejected::Busy,
            TrySendError::Disconnected(_) => Rejected::Stopped,
        })?;
        match answer.await {
            Ok(taken) => taken.map_err(Rejected::Refused),
            Err(_) => Err(Rejected::Stopped),
        }
    }

    /// Whether the thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.shared.is_alive.load(Ordering::Acquire)
    }

    /// Whether [`EngineHandle::stop`] was called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.is_stopping.load(Ordering::Acquire)
    }

    /// Ends the thread after its current step; requests in flight are lost.
    pub(crate) fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        // Wakes it if it sleeps; a full channel means that it does not.
        let _ = self.submissions.try_send(None);
    }
}

/// Starts the thread.
///
/// * `waiting_max`: sequences that may wait; more are refused.
pub(crate) fn start(
    mut engine: Engine,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    waiting_max: u32,
) -> std::io::Result<EngineThread> {
    let (submissions, incoming) = mpsc::sync_channel(SUBMISSIONS_MAX);
    let shared = Arc::new(Shared { is_alive: AtomicBool::new(true), is_stopping: AtomicBool::new(false) });
    let (shape, can_draft) = (engine.shape(), engine.can_draft());
    let handle = EngineHandle { submissions, shared: shared.clone(), shape, can_draft };
    let speculated = watch_steps(&mut engine, metrics.clone(), board.clone());
    let in_flight = HashMap::new();
    let policy = policy_name(engine.policy());
    let mut owner =
        Owner { engine, metrics, board, waiting_max, policy, incoming, in_flight, speculated, shared };
    let (alive, ended) = oneshot::channel();
    let guard = AliveGuard { shared: owner.shared.clone(), _alive: alive };
    let thread = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let _guard = guard;
        owner.run();
    })?;
    Ok(EngineThread { handle, thread, ended })
}

/// Without parameters, as the registry calls it; other policies are `other`.
fn policy_name(policy: &dyn Policy) -> &'static str {
    let name = policy.name();
    let is_named = |entry: &&&Entry| name.split(':').next() == Some(entry.name);
    ENTRIES.iter().find(is_named).map_or("other", |entry| entry.name)
}

/// A request inside the engine. Choices that have not ended when it is dropped are lost.
struct InFlight {
    inbox: Arc<Inbox>,
    /// Slot of its first choice.
    first: usize,
    deadline: Instant,
    slo: Slo,
    /// Name of its policy.
    policy: &'static str,
    /// Last emission of each choice.
    emitted: Vec<Option<Instant>>,
    n_open: usize,
    /// What a cancellation is to be called.
    loss: Loss,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        for choice in 0..self.emitted.len() {
            self.inbox.end(self.first + choice, Err(self.loss));
        }
    }
}

/// Everything that lives on the thread.
struct Owner {
    engine: Engine,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    waiting_max: u32,
    /// Name of the policy of requests that choose none.
    policy: &'static str,
    incoming: Receiver<Option<(Submission, Reply)>>,
    in_flight: HashMap<RequestId, InFlight>,
    speculated: SpeculatedList,
    shared: Arc<Shared>,
}

impl Owner {
    fn run(&mut self) {
        while self.receive() && !self.shared.is_stopping.load(Ordering::Acquire) {
            self.end_overdue();
            self.step();
        }
        let remaining: Vec<RequestId> = self.in_flight.keys().copied().collect();
        for id in remaining {
            self.cancel(id, Loss::Shutdown);
        }
        self.deliver();
    }

    /// Takes what has arrived, waiting for it if there is nothing else to do; `false` when nobody is left.
    fn receive(&mut self) -> bool {
        if self.engine.is_idle() {
            self.count_state();
            match self.incoming.recv() {
                Ok(submission) => self.take(submission),
                Err(_) => return false,
            }
        }
        while let Ok(submission) = self.incoming.try_recv() {
            self.take(submission);
        }
        true
    }

    /// `None` only wakes.
    fn take(&mut self, submission: Option<(Submission, Reply)>) {
        if let Some((submission, reply)) = submission {
            // A client that is gone needs no answer; its requests are cancelled with its inbox.
            let _ = reply.send(self.submit(submission));
        }
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Refused> {
        let Submission { requests, inbox, deadline } = submission;
        let n_new: u32 = requests.iter().map(|request| request.n_choices).sum();
        let (waiting, waiting_max) = (self.engine.n_waiting() as usize, self.waiting_max as usize);
        if waiting + n_new as usize > waiting_max {
            return Err(Refused::QueueFull { waiting, waiting_max });
        }
        let shape = self.engine.shape();
        requests.iter().try_for_each(|request| request.check(&shape))?;
        let mut first = 0;
        for request in requests {
            let (n_choices, slo) = (request.n_choices as usize, request.slo);
            let policy = request.policy.as_ref().map_or(self.policy, |policy| policy.entry().name);
            let chosen = request.policy.as_ref().map(ToString::to_string);
            let id = self.engine.submit(request)?;
            if let Some(chosen) = chosen {
                self.board.chose(id, chosen);
            }
            let emitted = vec![None; n_choices];
            let inbox = inbox.clone();
            let loss = Loss::Failed;
            self.in_flight.insert(
                id,
                InFlight { inbox, first, deadline, slo, policy, emitted, n_open: n_choices, loss },
            );
            first += n_choices;
        }
        Ok(())
    }

    /// Ends requests whose client is gone or whose time is over.
    ///
    /// An HTTP request whose answer has begun is answered with what there is, be it nothing of some choices: an error would lose
    /// that, and clients that repeat what fails would have it computed, and lost, again.
    fn end_overdue(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (&id, InFlight { inbox, deadline, .. }) in &self.in_flight {
            if inbox.is_abandoned() || now >= *deadline {
                over.push((id, inbox.is_begun() && !inbox.is_abandoned()));
            }
        }
        for (id, is_begun) in over {
            // Of what a panic has lost nothing can be cut.
            if !(is_begun && self.engine.cut(id)) {
                self.cancel(id, Loss::Deadline);
            }
        }
    }

    fn cancel(&mut self, id: RequestId, loss: Loss) {
        if let Some(flight) = self.in_flight.get_mut(&id) {
            flight.loss = loss;
            if !self.engine.cancel(id) {
                // A panic has lost it.
                self.in_flight.remove(&id);
            }
        }
    }

    fn step(&mut self) {
        let began = Instant::now();
        if !self.engine.is_idle() {
            // What a panic has left in the engine is not used: `recover` begins with what waits.
            match catch_unwind(AssertUnwindSafe(|| self.engine.step())) {
                Ok(Ok(report)) => self.metrics.step(&report),
                Ok(Err(error)) => self.step_failed(&error),
                Err(panic) => {
                    self.engine.recover();
                    self.step_failed(&panic_message(&*panic));
                }
            }
            for PolicyFailure { policy, message } in self.engine.take_policy_failures() {
                self.metrics.policy_failed();
                tracing::error!("{policy} failed, its requests are decoded plainly from now on: {message}");
            }
        }
        let computed = began.elapsed();
        self.deliver();
        self.count_state();
        self.let_readers_go_first(computed / WAITING_SHARE);
    }

    fn step_failed(&self, why: &dyn Display) {
        self.metrics.step_failed();
        tracing::error!("a step failed: {why}");
    }

    /// Leaves the processor to those who write to the sockets, until all have looked or `at_most` is over.
    ///
    /// They have just woken up. Where every processor computes, the system would let some of them wait for milliseconds, and
    /// then take the time from the next step.
    fn let_readers_go_first(&self, at_most: Duration) {
        let began = Instant::now();
        while self.in_flight.values().any(|flight| flight.inbox.is_awaited()) && began.elapsed() < at_most {
            thread::yield_now();
        }
    }

    fn count_state(&self) {
        let (free, total) = self.engine.blocks_free_and_total();
        self.metrics.blocks_owned.store((total - free).into(), Ordering::Relaxed);
        self.metrics.running.set(f64::from(self.engine.n_running()));
        self.metrics.waiting.set(f64::from(self.engine.n_waiting()));
        self.metrics.blocks_free.set(f64::from(free));
        self.metrics.kv_usage.set(1.0 - f64::from(free) / f64::from(total.max(1)));
    }
}
