//! Workers over the embedded pair, requests, and whole answers.

use clap::Parser as _;
use dsde_dynamo::{Args, Worker};
use dynamo_backend_common::testing::mock_context;
use dynamo_backend_common::{
    CompletionUsage, DynamoError, FinishReason, GenerateContext, LLMEngine as _, LLMEngineOutput,
    OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions,
};
use futures::StreamExt as _;
use serde_json::Value;

/// Where the tokenizer of the embedded pair lies.
pub const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/target");
pub const PROMPT: [u32; 40] = [7; 40];

/// A worker that has not been started.
pub fn worker(options: &[&str]) -> Worker {
    let fixed = ["dsde-dynamo", "--threads=1", "--kv-blocks=128", "--tokenizer", TOKENIZER];
    let args = Args::parse_from(fixed.iter().chain(options));
    args.worker(None).unwrap_or_else(|failure| panic!("{}", failure.line())).0
}

/// A worker that serves.
pub async fn started(options: &[&str]) -> Worker {
    let worker = worker(options);
    worker.start(0).await.unwrap();
    worker
}

pub fn greedy() -> SamplingOptions {
    SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() }
}

pub fn at_most(max_tokens: u32) -> StopConditions {
    StopConditions { max_tokens: Some(max_tokens), ignore_eos: Some(true), ..StopConditions::default() }
}

/// A greedy request; change what else it asks for.
pub fn request(max_tokens: u32) -> PreprocessedRequest {
    PreprocessedRequest::builder()
        .model("demo".to_owned())
        .token_ids(PROMPT.to_vec())
        .stop_conditions(at_most(max_tokens))
        .sampling_options(greedy())
        .output_options(OutputOptions::default())
        .build()
        .unwrap()
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    pub chunks: Vec<LLMEngineOutput>,
    pub tokens: Vec<u32>,
    pub log_probs: Vec<f64>,
    pub reason: FinishReason,
    pub usage: CompletionUsage,
    pub engine_data: Value,
}

pub async fn answer(worker: &Worker, request: PreprocessedRequest) -> Result<Whole, DynamoError> {
    let stream = worker.generate(request, GenerateContext::new(mock_context(), None)).await?;
    let items: Vec<_> = stream.collect().await;
    let chunks = items.into_iter().collect::<Result<Vec<_>, _>>()?;
    let last = chunks.last().expect("an answer has an end").clone();
    Ok(Whole {
        tokens: chunks.iter().flat_map(|chunk| chunk.token_ids.clone()).collect(),
        log_probs: chunks.iter().flat_map(|chunk| chunk.log_probs.clone().unwrap_or_default()).collect(),
        reason: last.finish_reason.expect("the last item says how it ended"),
        usage: last.completion_usage.expect("it counts tokens"),
        engine_data: last.engine_data.expect("it has statistics"),
        chunks,
    })
}
