//! The engine on its thread for programs with another way in than HTTP.
//!
//! What holds for connections holds here: who submits finds results in an inbox that the engine fills without waiting, and an
//! [`Answer`] that is dropped cancels its request between two steps.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use dsde_engine::{Engine, Request, Shape};

use crate::engine_thread::{self, EngineHandle, EngineThread, Rejected, Submission};
use crate::inbox::{Inbox, Reader, Update, Wake};
use crate::live::Board;
use crate::metrics::Metrics;

/// An engine that serves on a thread of its own, which ends when this is dropped.
pub struct Serving {
    engine: EngineHandle,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How much an engine has to do and to store, as of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that run.
    pub running: u64,
    /// Sequences that wait.
    pub waiting: u64,
    /// Blocks of the key/value stores that sequences own.
    pub blocks_owned: u64,
    /// Prompt tokens that were looked for in the prefix cache so far.
    pub tokens_asked: u64,
    /// Those that were found there.
    pub tokens_cached: u64,
}

/// What becomes of a request.
#[derive(Debug)]
pub struct Answer {
    inbox: Arc<Inbox>,
    reader: Reader,
}

/// Ends the request of an [`Answer`] from elsewhere.
#[derive(Clone, Debug)]
pub struct Cancellation(Arc<Inbox>);

impl Serving {
    /// Moves an engine to a thread of its own.
    ///
    /// * `model_name`: a label of every metric.
    /// * `waiting_max`: sequences that may wait; more are refused.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(engine: Engine, model_name: &str, waiting_max: u32) -> io::Result<Self> {
        let metrics = Arc::new(Metrics::new(model_name, &engine.shape()));
        let board = Arc::new(Board::new());
        let EngineThread { handle, thread, .. } =
            engine_thread::start(engine, metrics.clone(), board, waiting_max)?;
        Ok(Self { engine: handle, metrics, thread: Mutex::new(Some(thread)) })
    }

    /// What the engine can hold.
    pub fn shape(&self) -> Shape {
        self.engine.shape
    }

    /// Whether anybody drafts.
    pub fn can_draft(&self) -> bool {
        self.engine.can_draft
    }

    /// Whether requests can be submitted.
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive() && !self.engine.is_stopping()
    }

    /// Hands a request to the engine.
    ///
    /// * `deadline`: then it ends by its length with what it has, or with [`Loss::Deadline`](crate::Loss::Deadline) if that is nothing.
    ///
    /// # Errors
    /// If the request makes no sense, too many wait, or the thread has ended.
    pub async fn submit(&self, request: Request, deadline: Instant) -> Result<Answer, Rejected> {
        let (inbox, reader) = Inbox::new(request.n_choices as usize, Wake::Always);
        let submission = Submission { requests: vec![request], inbox: inbox.clone(), deadline };
        self.engine.submit(submission).await?;
        Ok(Answer { inbox, reader })
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        self.metrics.load()
    }

    /// All metrics of the engine in Prometheus' text form, under the names that `docs/serving.md` lists.
    pub fn metrics(&self) -> String {
        self.metrics.text()
    }

    /// Ends the thread after its current step and waits for it; requests in flight end with
    /// [`Loss::Shutdown`](crate::Loss::Shutdown). Later calls do nothing.
    pub fn stop(&self) {
        self.engine.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic was reported when it happened.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Answer {
    /// Waits for news of its choices, at least one; `None` when every end has been told.
    pub async fn next(&mut self) -> Option<Vec<Update>> {
        self.reader.next().await
    }

    /// A way to end the request that outlives the answer.
    pub fn cancellation(&self) -> Cancellation {
        Cancellation(self.inbox.clone())
    }
}

impl Cancellation {
    /// Has the engine end the request between two steps; its blocks are free then. Nothing happens if it has ended.
    pub fn cancel(&self) {
        self.0.abandon();
    }
}
