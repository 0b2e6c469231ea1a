//! A started engine, and who uses it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dsde_server::{Answer, Cancellation, Forms, Serving, Trial};
use dsde_text::{Thoughts, Tokenizer};
use dynamo_backend_common::{ComponentSnapshot, DynamoError, SnapshotPublisher};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error;
use crate::request::{Defaults, Order};

/// Time for the last items of a worker that ends, which are on their way to the frontend when nothing is in flight any more.
const FAREWELL: Duration = Duration::from_millis(500);
/// Time between two looks at the load, of which the router hears if it has changed.
const LOAD_PERIOD: Duration = Duration::from_millis(100);

/// A started engine.
pub(crate) struct Running {
    pub(crate) serving: Serving,
    pub(crate) defaults: Defaults,
    forms: Forms,
    in_flight: Mutex<HashMap<u64, InFlight>>,
    next_ticket: AtomicU64,
    is_leaving: AtomicBool,
    /// A request has ended.
    ended: Notify,
}

/// A request that was let in.
struct InFlight {
    /// As Dynamo calls it.
    id: String,
    /// `None` until the engine has it.
    cancellation: Option<Cancellation>,
}

/// Held by a request in flight.
pub(crate) struct Ticket {
    number: u64,
    running: Arc<Running>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.running.in_flight().remove(&self.number);
        self.running.ended.notify_waiters();
    }
}

impl Running {
    /// * `trial`: who compiles each form first.
    pub(crate) fn new(
        serving: Serving,
        defaults: Defaults,
        tokenizer: Arc<Tokenizer>,
        trial: Option<Trial>,
    ) -> Self {
        let forms = Forms::new(tokenizer, defaults.eos_tokens.clone(), trial);
        Self {
            serving,
            defaults,
            forms,
            in_flight: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            is_leaving: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    /// Lets a request in.
    ///
    /// * `id`: by which it can be aborted.
    ///
    /// # Errors
    /// If the worker is about to end.
    pub(crate) fn enter(self: &Arc<Self>, id: &str) -> Result<Ticket, DynamoError> {
        let number = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.in_flight().insert(number, InFlight { id: id.to_owned(), cancellation: None });
        let ticket = Ticket { number, running: self.clone() };
        // Who ends the worker first says so and then looks for tickets, so one of both sees the other.
        match self.is_leaving.load(Ordering::SeqCst) {
            true => Err(error::leaving()),
            false => Ok(ticket),
        }
    }

    /// Hands an order to the engine.
    ///
    /// # Errors
    /// If it makes no sense, or cannot be taken now.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        ticket: &Ticket,
        order: Order,
        deadline: Instant,
    ) -> Result<Answer, DynamoError> {
        let Order { mut request, form, .. } = order;
        if let Some(form) = form {
            // Thoughts are the frontend's business: a form begins with the answer.
            let grammar = self.forms.grammar(form, Thoughts::None, &request.salt).await;
            request.grammar = Some(grammar.map_err(|fault| error::formless(&fault))?);
        }
        let answer =
            self.serving.submit(request, deadline).await.map_err(|rejected| error::rejected(&rejected))?;
        if let Some(in_flight) = self.in_flight().get_mut(&ticket.number) {
            in_flight.cancellation = Some(answer.cancellation());
        }
        Ok(answer)
    }

    /// Cancels whatever has this id.
    pub(crate) fn abort(&self, id: &str) {
        let in_flight = self.in_flight();
        let meant = in_flight.values().filter(|in_flight| in_flight.id == id);
        meant.filter_map(|in_flight| in_flight.cancellation.as_ref()).for_each(Cancellation::cancel);
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_quiescent(&self) -> bool {
        self.in_flight().is_empty()
    }

    /// Takes no more requests, waits until those in flight have ended, at most for so long, ends the engine and with it what is left.
    pub(crate) async fn end(self: Arc<Self>, at_most: Duration) -> Result<(), DynamoError> {
        self.is_leaving.store(true, Ordering::SeqCst);
        let had_requests = !self.is_quiescent();
        self.drain(at_most).await;
        tokio::task::spawn_blocking(move || self.serving.stop()).await.map_err(error::failed)?;
        if had_requests {
            tokio::time::sleep(FAREWELL).await;
        }
        Ok(())
    }

    async fn drain(&self, at_most: Duration) {
        let all_ended = async {
            loop {
                let ended = self.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.is_quiescent() {
                    return;
                }
                ended.await;
            }
        };
        if timeout(at_most, all_ended).await.is_err() {
            let n = self.in_flight().len();
            tracing::warn!(
                "{n} requests in flight did not end in {at_most:?}; the frontend may go on with them elsewhere"
            );
        }
    }

    /// Tells the router and the metrics of Dynamo how full the stores are, until nobody else holds the engine.
    pub(crate) async fn publish_load(self: Arc<Self>, publisher: Arc<SnapshotPublisher>) {
        let this = Arc::downgrade(&self);
        drop(self);
        let (mut told, mut counted) = (None, [0, 0]);
        while let Some(running) = this.upgrade() {
            let load = running.serving.load();
            if told != Some(load) {
                let found = [load.tokens_asked - counted[0], load.tokens_cached - counted[1]];
                let total = running.serving.shape().n_blocks.into();
                publisher.publish(
                    0,
                    ComponentSnapshot {
                        kv_used_blocks: load.blocks_owned,
                        kv_total_blocks: total,
                        gpu_cache_usage: load.blocks_owned as f32 / total.max(1) as f32,
                        kv_cache_hit_rate: (found[0] > 0).then(|| found[1] as f32 / found[0] as f32),
                        dp_rank: 0,
                    },
                );
                (told, counted) = (Some(load), [load.tokens_asked, load.tokens_cached]);
            }
            drop(running);
            tokio::time::sleep(LOAD_PERIOD).await;
        }
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<u64, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
