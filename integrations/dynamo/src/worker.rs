//! The engine behind Dynamo's trait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use dsde_cli::{EnginePlan, Served};
use dsde_server::{Serving, Trial};
use dynamo_backend_common::{
    AsyncEngineContext, DynamoError, EngineConfig, GenerateContext, KvEventSource, LLMEngine,
    LLMEngineOutput, LlmRegistration, MetricsBindings, MetricsCtx, PreprocessedRequest,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};

use crate::answer::{Asked, Generation};
use crate::args::Limits;
use crate::cache::{self, Publisher};
use crate::error;
use crate::request::{self, Defaults};
use crate::running::Running;

/// A model that is loaded when Dynamo starts it, serves what Dynamo sends, and goes when Dynamo says so.
pub struct Worker {
    plan: EnginePlan,
    /// Name of the model in requests.
    name: String,
    limits: Limits,
    trial: Option<Trial>,
    /// Between start and cleanup.
    running: Mutex<Option<Arc<Running>>>,
    cache_events: Publisher,
}

type Chunks = BoxStream<'static, Result<LLMEngineOutput, DynamoError>>;

impl Worker {
    /// * `trial`: who compiles each form first.
    pub(crate) fn new(plan: EnginePlan, name: String, limits: Limits, trial: Option<Trial>) -> Self {
        let cache_events = Publisher::default();
        Self { plan, name, limits, trial, running: Mutex::default(), cache_events }
    }

    /// Loads the models and starts the engine's thread; takes as long as reading the weights.
    fn load(&self) -> impl FnOnce() -> Result<Running, DynamoError> + Send + 'static {
        let (plan, name, cache_events) = (self.plan.clone(), self.name.clone(), self.cache_events.clone());
        let trial = self.trial.clone();
        move || {
            let served = plan.open().map_err(|failure| error::failed(failure.line()))?;
            let Served { mut engine, tokenizer, eos_tokens, sampling, draft, kernels } = served;
            tracing::info!("policy {}, draft {draft}, kernels {kernels}", plan.policy());
            let shape = engine.shape();
            engine.set_cache_observer(Some(cache::observer(shape.block_len, cache_events)));
            let serving = Serving::start(engine, &name, plan.waiting_max()).map_err(error::failed)?;
            let defaults = Defaults { eos_tokens, sampling, can_draft: serving.can_draft() };
            Ok(Running::new(serving, defaults, tokenizer, trial))
        }
    }

    fn registration(&self, running: &Running) -> EngineConfig {
        let shape = running.serving.shape();
        let policy = json!(self.plan.policy());
        EngineConfig {
            model: self.plan.model_name(),
            served_model_name: Some(self.name.clone()),
            model_aliases: Vec::new(),
            runtime_data: HashMap::from([("dsde_policy".to_owned(), policy)]),
            llm: Some(LlmRegistration {
                context_length: Some(shape.context_len_max),
                kv_cache_block_size: Some(shape.block_len),
                total_kv_blocks: Some(shape.n_blocks.into()),
                max_num_seqs: Some(self.plan.sequences_max().into()),
                max_num_batched_tokens: Some(self.plan.rows_max().into()),
                ..LlmRegistration::default()
            }),
        }
    }

    fn running(&self) -> Result<Arc<Running>, DynamoError> {
        self.state().clone().filter(|running| running.serving.is_alive()).ok_or_else(error::leaving)
    }

    fn state(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LLMEngine for Worker {
    async fn start(&self, _worker_id: u64) -> Result<EngineConfig, DynamoError> {
        tracing::info!("loading {}", self.plan.model_name());
        let running = tokio::task::spawn_blocking(self.load()).await.map_err(error::failed)??;
        let registration = self.registration(&running);
        *self.state() = Some(Arc::new(running));
        Ok(registration)
    }

    async fn generate(
        &self,
        request: PreprocessedRequest,
        context: GenerateContext,
    ) -> Result<Chunks, DynamoError> {
        let running = self.running()?;
        let ticket = running.enter(context.id())?;
        let order = request::order(&request, &running.defaults).map_err(error::invalid)?;
        let asked = Asked {
            context: context.inner_arc(),
            prompt: request.token_ids.clone(),
            eos_tokens: [&request.eos_token_ids[..], &running.defaults.eos_tokens].concat(),
            told: order.told,
        };
        let deadline = Instant::now() + self.limits.request_timeout;
        let answer = running.submit(&ticket, order, deadline).await?;
        let generation = Generation::new(answer, ticket, asked);
        let next = |mut generation: Generation| async { Some((generation.next().await?, generation)) };
        Ok(stream::unfold(generation, next).boxed())
    }

    /// A stream that is polled sees for itself that it is to stop; one that waits for a slow reader does not.
    async fn abort(&self, context: Arc<dyn AsyncEngineContext>) {
        if let Some(running) = &*self.state() {
            running.abort(context.id());
        }
    }

    async fn is_quiescent(&self) -> Result<Option<bool>, DynamoError> {
        Ok(Some(self.state().as_ref().is_none_or(|running| running.is_quiescent())))
    }

    /// Dynamo waits for requests in flight only as long as its grace period, so those that are left end here.
    async fn cleanup(&self) -> Result<(), DynamoError> {
        let Some(running) = self.state().clone() else {
            return Ok(());
        };
        let ended = running.end(self.limits.drain_timeout).await;
        *self.state() = None;
        ended
    }

    async fn kv_event_sources(&self) -> Result<Vec<KvEventSource>, DynamoError> {
        let cache_events = self.cache_events.clone();
        let on_ready = Box::new(move |publisher| {
            // Only the first one can be the router's.
            let _ = cache_events.set(publisher);
            Ok(())
        });
        Ok(vec![KvEventSource::Push { on_ready, dp_rank: 0 }])
    }

    async fn setup_metrics(&self, context: MetricsCtx<'_>) -> Result<MetricsBindings, DynamoError> {
        let running = self.running()?;
        let scraped = Arc::downgrade(&running);
        let text =
            move || Ok(scraped.upgrade().map_or_else(String::new, |running| running.serving.metrics()));
        context.metrics.add_expfmt_callback(Arc::new(text));
        let on_publisher_ready = Box::new(move |publisher| {
            tokio::spawn(running.publish_load(publisher));
            Ok(())
        });
        Ok(MetricsBindings { dp_ranks: vec![0], on_publisher_ready: Some(on_publisher_ready) })
    }

    /// One token behind one token: whether the engine's thread still takes steps.
    async fn health_check_payload(&self) -> Result<Option<Value>, DynamoError> {
        Ok(Some(json!({
            "model": self.name,
            "token_ids": [0],
            "stop_conditions": {"max_tokens": 1, "ignore_eos": true},
            "sampling_options": {"temperature": 0.0},
            "output_options": {},
        })))
    }
}
