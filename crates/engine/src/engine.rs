//! The engine's outside: take requests, take steps, tell what happened.

use std::sync::Arc;

use dsde_policy::{Mixture, Policy, PolicyFailure, SeqId};
use dsde_sampling::Stream;

use crate::cache_events::{CacheObserver, Watch};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Drafter};
use crate::executor::{Executor, Shape};
use crate::lending::Lending;
use crate::report::{Emission, Event, FinishReason, Finished};
use crate::request::{Refused, Request, RequestId};
use crate::scheduler::{Limits, Scheduler};
use crate::scoring::Scoring;
use crate::sequence::Sequence;
use crate::step::Scratch;
use crate::suffix::Answers;
use crate::trace::TraceSink;
use crate::vocabulary::Vocabulary;

/// Serves requests one step at a time. Not a thread and not a future: the owner calls [`Engine::step`] while there is work.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) shape: Shape,
    pub(crate) policy: Mixture,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    // Boxed: a call per pass costs nothing, and who serves a model does not compile the engine again.
    pub(crate) executor: Box<dyn Executor>,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) scheduler: Scheduler,
    pub(crate) lending: Lending,
    pub(crate) scratch: Scratch,
    pub(crate) scoring: Scoring,
    /// What ended sequences said, for a drafter that wants to know.
    pub(crate) answers: Answers,
    pub(crate) events: Vec<Event>,
    pub(crate) n_steps: u64,
    pub(crate) trace: Option<TraceSink>,
    pub(crate) next_request: u64,
    pub(crate) next_seq: u64,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// If `config` contradicts itself or the executor.
    pub fn new(
        config: Config,
        policy: Box<dyn Policy>,
        vocabulary: Arc<dyn Vocabulary>,
        executor: Box<dyn Executor>,
        clock: impl Clock + 'static,
    ) -> Result<Self, ConfigError> {
        let shape = executor.shape();
        config.check(&shape)?;
        let limits = Limits {
            sequences_max: config.sequences_max as usize,
            rows_max: config.rows_max,
            block_len: shape.block_len,
            window: shape.window,
            rows_ahead: shape.rows_ahead(),
            has_prefix_cache: config.prefix_cache,
        };
        let answer_tokens = config.drafter.suffix().map_or(0, |suffix| suffix.answer_tokens);
        Ok(Self {
            config,
            shape: Shape { context_len_max: context_len_max(&shape), ..shape },
            policy: Mixture::new(policy),
            vocabulary,
            executor,
            clock: Box::new(clock),
            scheduler: Scheduler::new(limits, shape.n_blocks, shape.n_states),
            lending: Lending::Loaded,
            scratch: Scratch::default(),
            scoring: Scoring::default(),
            answers: Answers::new(answer_tokens),
            events: Vec::new(),
            n_steps: 0,
            trace: None,
            next_request: 0,
            next_seq: 0,
        })
    }

    /// Queues a request; its tokens arrive as events of later steps.
    ///
    /// # Errors
    /// If the request makes no sense, cannot be served by this model, or the queue is full. Nothing is changed then.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refused> {
        request.check(&self.shape)?;
        let (waiting, waiting_max) = (self.scheduler.waiting.len(), self.config.waiting_max as usize);
        if waiting + request.n_choices as usize > waiting_max {
            return Err(Refused::QueueFull { waiting, waiting_max });
        }
        if let Some(policy) = &request.policy {
            let seqs = self.next_seq..self.next_seq + u64::from(request.n_choices);
            self.policy.choose(policy, seqs.map(SeqId))?;
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let leader = SeqId(self.next_seq);
        let arrival = self.clock.now();
        for choice in 0..request.n_choices {
            let seq_id = SeqId(self.next_seq);
            self.next_seq += 1;
            let leader = (choice > 0).then_some(leader);
            let stream = stream(&request, choice, seq_id, self.config.seed);
            let mut seq = Sequence::new(seq_id, leader, id, choice, &request, stream);
            seq.timeline.arrival = arrival;
            self.scheduler.waiting.insert(seq.rank(), seq);
        }
        Ok(id)
    }

    /// Ends all choices of a request at once; their blocks are free when this returns. `false` if nothing of it is left.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        self.end(id, FinishReason::Cancelled)
    }

    /// The same, but they end by their length as if their token bounds were what they have emitted so far.
    pub fn cut(&mut self, id: RequestId) -> bool {
        self.end(id, FinishReason::Length)
    }

    fn end(&mut self, id: RequestId, reason: FinishReason) -> bool {
        let mut ended: Vec<Sequence> =
            self.scheduler.waiting.extract_if(.., |_, seq| seq.request == id).map(|(_, s)| s).collect();
        while let Some(i) = self.scheduler.running.iter().position(|seq| seq.request == id) {
            ended.push(self.scheduler.retire(i));
        }
        let is_known = !ended.is_empty();
        for mut seq in ended {
            if reason == FinishReason::Length {
                self.emit_held(&mut seq);
            }
            self.finish(seq, reason);
        }
        is_known
    }

    /// Emits the text in which a stop string could have begun.
    fn emit_held(&mut self, seq: &mut Sequence) {
        let text = seq.held_text();
        if !text.is_empty() {
            let Sequence { request, choice, .. } = *seq;
            self.events.push(Event::Emitted(Emission { request, choice, tokens: Vec::new(), text }));
        }
    }

    /// Everything that happened since the last call, in order.
    pub fn drain_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether anybody can draft; without a drafter every policy decodes plainly.
    pub fn can_draft(&self) -> bool {
        self.config.drafter != Drafter::None
    }

    /// Whether no sequence runs or waits.
    pub fn is_idle(&self) -> bool {
        self.scheduler.running.is_empty() && self.scheduler.waiting.is_empty()
    }

    /// Sequences that run.
    pub fn n_running(&self) -> u32 {
        self.scheduler.running.len() as u32
    }

    /// Sequences that wait.
    pub fn n_waiting(&self) -> u32 {
        self.scheduler.waiting.len() as u32
    }

    /// Blocks nobody owns (those kept for their contents included), and all blocks.
    pub fn blocks_free_and_total(&self) -> (u32, u32) {
        (self.scheduler.pool.n_free(), self.scheduler.pool.n_total())
    }

    /// States that no sequence runs with (snapshots included), and all states; both 0 for a target without recurrent layers.
    pub fn states_free_and_total(&self) -> (u32, u32) {
        (self.scheduler.pool.states.n_free(), self.scheduler.pool.states.n_total())
    }

    /// What the executor can hold; `context_len_max` is bounded by the blocks, too.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Replaces the policy of all sequences that did not choose one and returns the old one, which may be set again with all it
    /// has learned. What it knows about running sequences makes no sense then, so the engine should be idle.
    ///
    /// An idle engine takes back at once what the old one lent of the draft's memory and the new one wants, so that none of
    /// its steps pays for that.
    pub fn set_policy(&mut self, policy: Box<dyn Policy>) -> Box<dyn Policy> {
        let old = self.policy.replace_main(policy);
        if self.is_idle() && self.lending.n_blocks() > 0 {
            self.scheduler.pool.forget_cached();
            self.update_lending().expect("nothing is copied where nothing is stored");
        }
        old
    }

    /// Policies that panicked since the last call; they are asked no more, and who has one of them decodes plainly.
    pub fn take_policy_failures(&mut self) -> Vec<PolicyFailure> {
        self.policy.take_failures().collect()
    }

    /// Makes the engine usable again after a panic in [`Engine::step`] that its owner has caught: every running sequence ends with
    /// [`FinishReason::Failed`], and nothing that was stored is trusted. What waits goes on.
    pub fn recover(&mut self) {
        self.scheduler.distrust();
        for seq in std::mem::take(&mut self.scheduler.running) {
            self.finish(seq, FinishReason::Failed);
        }
    }

    /// The policy of sequences that did not choose one.
    pub fn policy(&self) -> &dyn Policy {
        &self.policy
    }

    /// Hands every later step to `sink`; `None` ends that. Without a sink nothing is collected.
    pub fn set_trace(&mut self, sink: Option<TraceSink>) {
        self.trace = sink;
    }

    /// Takes back what was set by [`Engine::set_trace`].
    pub fn take_trace(&mut self) -> Option<TraceSink> {
        self.trace.take()
    }

    /// Tells `observer` what the prefix cache holds from now on; `None` ends that. What is cached and nobody uses is forgotten
    /// first, so the observer of an idle engine knows everything.
    pub fn set_cache_observer(&mut self, observer: Option<CacheObserver>) {
        self.scheduler.pool.forget_cached();
        let block_len = self.shape.block_len;
        let watch = observer.map(|observer| Watch::new(block_len, observer));
        self.scheduler.pool.watch = watch.unwrap_or_default();
    }

    /// Forgets cached prefixes and past answers, so that a benchmark starts like a fresh engine.
    pub fn clear_prefix_cache(&mut self) {
        self.answers.clear();
        self.scheduler.pool.forget_cached();
    }

    /// Panics unless blocks, lengths and ranks are consistent; called after every step in debug builds.
    pub fn check_invariants(&self) {
        self.scheduler.check();
        let n_total = self.shape.n_blocks + self.lending.n_blocks();
        assert_eq!(self.scheduler.pool.n_total(), n_total, "the executor has as many blocks as the pool");
        if self.is_idle() {
            assert_eq!(
                self.scheduler.pool.n_free(),
                self.scheduler.pool.n_total(),
                "an idle engine owns no block"
            );
            let (n_free, n_states) = self.states_free_and_total();
            assert_eq!(n_free, n_states, "an idle engine holds no state");
        }
    }

    /// Tells the end of a sequence that has left the scheduler.
    pub(crate) fn finish(&mut self, mut seq: Sequence, reason: FinishReason) {
        debug_assert!(seq.table.is_empty(), "a finished sequence owns no block");
        debug_assert_eq!(seq.state.held().count(), 0, "a finished sequence holds no state");
        self.policy.forget(seq.id);
        if matches!(reason, FinishReason::Stop | FinishReason::Length) {
            self.answers.keep(&seq.salt, &seq.tokens, seq.prompt_len as usize);
        }
        seq.timeline.finished = self.clock.now();
        self.events.push(Event::Finished(Finished {
            request: seq.request,
            choice: seq.choice,
            reason,
            timeline: seq.timeline,
        }));
    }
}

/// Whose random numbers a choice of a request draws from.
fn stream(request: &Request, choice: u32, id: SeqId, key: u64) -> Stream {
    match request.params.seed {
        Some(seed) => Stream::Seeded { seed, choice: request.first_choice.wrapping_add(choice) },
        None => Stream::Own { key, number: id.0 },
    }
}

/// A context that the blocks cannot hold can never be stored.
fn context_len_max(shape: &Shape) -> u32 {
    shape.context_len_max.min(shape.storable_len())
}
