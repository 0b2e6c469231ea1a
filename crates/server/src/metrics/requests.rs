//! What is counted when a choice ends: how it ended, its lengths, and where its time went.

use std::time::Duration;

use dsde_bench::metrics::{e2e, is_attained, tpot, ttft};
use dsde_engine::{FinishReason, RequestTimeline, Slo};
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::{Maker, TOKEN_BUCKETS};

/// Seconds.
const REQUEST_BUCKETS: [f64; 19] = [
    0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
    1280.0, 2560.0,
];
/// Tokens of a prompt or an answer.
const COUNT_BUCKETS: [f64; 16] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0,
    50_000.0, 100_000.0,
];

/// Metrics of choices that ended.
#[derive(Debug)]
pub(super) struct Requests {
    finished: IntCounterVec,
    slo: IntCounterVec,
    prompt_tokens: IntCounter,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    prompt_len: Histogram,
    generation_len: Histogram,
    ttft: Histogram,
    tpot: Histogram,
    e2e: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    inference_time: Histogram,
}

impl Requests {
    pub(super) fn new(m: &Maker) -> Self {
        let seconds = |name: &str, help: &str| m.histogram(name, help, &REQUEST_BUCKETS);
        let tokens = |name: &str, help: &str| m.histogram(name, help, &COUNT_BUCKETS);
        Self {
            finished: m.counters("vllm:request_success_total", "Choices that ended.", &["finished_reason"]),
            slo: m.counters(
                "dsde:slo_requests_total",
                "Choices with latency targets, by whether all were met.",
                &["attained"],
            ),
            prompt_tokens: m.counter("vllm:prompt_tokens_total", "Tokens of prompts that ended."),
            prefix_queries: m
                .counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
            prefix_hits: m
                .counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache."),
            prompt_len: tokens("vllm:request_prompt_tokens", "Tokens per prompt."),
            generation_len: tokens("vllm:request_generation_tokens", "Tokens per choice."),
            ttft: seconds("vllm:time_to_first_token_seconds", "Arrival to first token."),
            tpot: m.histogram(
                "vllm:request_time_per_output_token_seconds",
                "Mean time per token after the first, of a request.",
                &TOKEN_BUCKETS,
            ),
            e2e: seconds("vllm:e2e_request_latency_seconds", "Arrival to end."),
            queue_time: seconds("vllm:request_queue_time_seconds", "Arrival to first run."),
            prefill_time: seconds("vllm:request_prefill_time_seconds", "First run to first token."),
            decode_time: seconds("vllm:request_decode_time_seconds", "First token to end."),
            inference_time: seconds("vllm:request_inference_time_seconds", "First run to end."),
        }
    }

    /// Prompt tokens that were looked for in the prefix cache so far, and those that were found.
    pub(super) fn prefix_tokens(&self) -> [u64; 2] {
        [self.prefix_queries.get(), self.prefix_hits.get()]
    }

    /// Counts the end of a choice; cancelled and failed ones leave no latency behind.
    pub(super) fn ended(&self, reason: FinishReason, timeline: &RequestTimeline, slo: &Slo) {
        self.finished.with_label_values(&[finished_reason(reason)]).inc();
        if !matches!(reason, FinishReason::Stop | FinishReason::Length) {
            return;
        }
        self.prompt_tokens.inc_by(u64::from(timeline.prompt_tokens));
        self.prefix_queries.inc_by(u64::from(timeline.prompt_tokens));
        self.prefix_hits.inc_by(u64::from(timeline.cached_tokens));
        self.prompt_len.observe(f64::from(timeline.prompt_tokens));
        self.generation_len.observe(f64::from(timeline.emitted));
        let RequestTimeline { arrival, admitted, first_token, finished, .. } = *timeline;
        let between = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        let times = [
            (&self.ttft, ttft(timeline)),
            (&self.tpot, tpot(timeline)),
            (&self.e2e, Some(e2e(timeline))),
            (&self.queue_time, between(Some(arrival), admitted)),
            (&self.prefill_time, between(admitted, first_token)),
            (&self.decode_time, between(first_token, Some(finished))),
            (&self.inference_time, between(admitted, Some(finished))),
        ];
        for (histogram, time) in times {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        }
        if slo.ttft_ms_max.is_some() || slo.tpot_ms_max.is_some() {
            let attained = if is_attained(timeline, slo) { "true" } else { "false" };
            self.slo.with_label_values(&[attained]).inc();
        }
    }
}

/// As vLLM names them; an engine failure is `error` there.
fn finished_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "abort",
        FinishReason::Failed | FinishReason::FormLost => "error",
    }
}
