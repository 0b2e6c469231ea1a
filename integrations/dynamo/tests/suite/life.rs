//! Start, cancellation, drain, end.

use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use dsde_dynamo::Worker;
use dynamo_backend_common::metrics::{EngineMetrics, TestHierarchy};
use dynamo_backend_common::testing::{mock_context, run_conformance};
use dynamo_backend_common::{
    AsyncEngineContext, BackendError, DynamoError, ErrorType, FinishReason, GenerateContext, LLMEngine as _,
    LLMEngineOutput, MetricsCtx,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;

/// Longer than any test.
const ENDLESS: u32 = 100_000;

type Chunks = BoxStream<'static, Result<LLMEngineOutput, DynamoError>>;

async fn endless(worker: &Worker) -> (Chunks, Arc<dyn AsyncEngineContext>) {
    let context = mock_context();
    let mut stream =
        worker.generate(request(ENDLESS), GenerateContext::new(context.clone(), None)).await.unwrap();
    assert!(!stream.next().await.unwrap().unwrap().token_ids.is_empty());
    (stream, context)
}

async fn wait_until_quiescent(worker: &Worker) {
    while worker.is_quiescent().await.unwrap() != Some(true) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_contract_is_kept() {
    for options in [&["--policy=fixed:k=3"][..], &["--draft=none"]] {
        run_conformance(|| worker(options)).await.unwrap();
    }
}

#[tokio::test]
async fn registration_says_what_the_engine_can_hold() {
    let worker = worker(&["--context=512", "--max-concurrency=5", "--served-model-name=mine"]);
    let config = worker.start(0).await.unwrap();
    assert_eq!((config.model.as_str(), config.served_model_name.as_deref()), ("demo", Some("mine")));
    let llm = config.llm.unwrap();
    assert_eq!((llm.context_length, llm.kv_cache_block_size), (Some(512), Some(16)));
    assert_eq!((llm.total_kv_blocks, llm.max_num_seqs), (Some(128), Some(5)));
    assert_eq!((llm.max_num_batched_tokens, llm.enable_eagle), (Some(256), false));
}

#[tokio::test]
async fn the_canary_is_answered() {
    let worker = started(&[]).await;
    let canary = worker.health_check_payload().await.unwrap().unwrap();
    let request = serde_json::from_value(canary).unwrap();
    assert_eq!(answer(&worker, request).await.unwrap().tokens.len(), 1);
}

#[tokio::test]
async fn a_stream_that_is_dropped_frees_its_request() {
    let worker = started(&["--context=2048", "--max-concurrency=1"]).await;
    let (stream, _) = endless(&worker).await;
    assert_eq!(worker.is_quiescent().await.unwrap(), Some(false));
    drop(stream);
    // Only one runs at a time, so this one is answered only if the other is gone.
    assert_eq!(answer(&worker, request(3)).await.unwrap().tokens.len(), 3);
    wait_until_quiescent(&worker).await;
}

#[tokio::test]
async fn an_abort_frees_a_request_whose_stream_nobody_reads() {
    let worker = started(&["--context=2048", "--max-concurrency=1"]).await;
    let (mut stream, context) = endless(&worker).await;
    context.stop_generating();
    worker.abort(context).await;
    assert_eq!(answer(&worker, request(3)).await.unwrap().tokens.len(), 3);
    let last = stream.next().await.unwrap().unwrap();
    assert_eq!(last.finish_reason, Some(FinishReason::Cancelled));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn requests_in_flight_end_before_the_engine_does() {
    let worker = started(&["--drain-timeout=600"]).await;
    let (in_flight, cleaned) = tokio::join!(answer(&worker, request(100)), async {
        // The request is in flight once it is polled, which `join!` does first.
        worker.cleanup().await
    });
    assert_eq!((in_flight.unwrap().tokens.len(), cleaned.unwrap()), (100, ()));
}

#[tokio::test]
async fn what_does_not_end_in_time_may_go_on_elsewhere() {
    let worker = started(&["--context=2048", "--drain-timeout=0"]).await;
    let (stream, _) = endless(&worker).await;
    worker.cleanup().await.unwrap();
    let last = stream.collect::<Vec<_>>().await.pop().unwrap().unwrap_err();
    assert_eq!(last.error_type(), ErrorType::Backend(BackendError::EngineShutdown));
    worker.cleanup().await.unwrap();
}

#[tokio::test]
async fn metrics_have_the_names_of_the_server() {
    let worker = started(&["--policy=fixed:k=3"]).await;
    answer(&worker, request(24)).await.unwrap();
    let registry = EngineMetrics::from_hierarchy(TestHierarchy::new());
    let (model, component) = ("demo", "backend");
    let context = MetricsCtx { model, component, model_load_time_seconds: 0.0, metrics: &registry };
    assert_eq!(worker.setup_metrics(context).await.unwrap().dp_ranks, [0]);
    let text = registry.hierarchy().get_metrics_registry().execute_expfmt_callbacks();
    for name in [
        "vllm:spec_decode_num_accepted_tokens_total",
        "vllm:prompt_tokens_total",
        "dsde:drafted_tokens_total",
    ] {
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        let value: f64 = lines.next().expect(name).rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!(value > 0.0, "{name} counts");
    }
}
