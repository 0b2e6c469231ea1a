//! What the server counts, in Prometheus' text form.
//!
//! Names and meanings are vLLM's (`vllm:*`) where the meaning is the same, so that its dashboards, autoscalers and load
//! generators read this server; what has no equivalent there is `dsde:*`. `docs/serving.md` lists all of them.

use std::sync::atomic::{AtomicU64, Ordering};

use dsde_bench::metrics::{e2e, is_attained, tpot, ttft};
use dsde_engine::{FinishReason, RequestTimeline, SequenceTrace, Slo, StepReport};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

/// Lengths 0 to 64; nothing longer can be planned.
pub(crate) const N_LENGTHS: usize = 65;

/// Seconds; finer below 10 ms than vLLM's, because small models on a CPU emit that fast.
const TOKEN_BUCKETS: [f64; 20] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 10.0,
];
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
/// Tokens per step and sequence.
const LENGTH_BUCKETS: [f64; 14] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 32.0, 64.0];

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) running: Gauge,
    pub(crate) waiting: Gauge,
    /// 0 to 1.
    pub(crate) kv_usage: Gauge,
    prompt_tokens: IntCounter,
    pub(crate) generation_tokens: IntCounter,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    finished: IntCounterVec,
    drafts: IntCounter,
    pub(crate) verified: IntCounter,
    pub(crate) accepted: IntCounter,
    accepted_per_pos: IntCounterVec,
    ttft: Histogram,
    gap: Histogram,
    tpot: Histogram,
    e2e: Histogram,
    queue_time: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    pub(crate) steps: IntCounter,
    step_time: Histogram,
    step_failures: IntCounter,
    drafted: IntCounter,
    planned_len: Histogram,
    decisions: IntCounterVec,
    refused: IntCounterVec,
    slo_requests: IntCounterVec,
    /// Times that a sequence emitted; for the live feed.
    pub(crate) emissions: AtomicU64,
    /// Planned lengths so far, by length; likewise.
    lengths: [AtomicU64; N_LENGTHS],
}

/// Registers metrics under constant labels.
struct Maker(Registry, String);

impl Maker {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_label("model_name", &self.1).const_label("engine", "0")
    }

    fn add<M: Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let metric = made.expect("names and labels are valid");
        self.0.register(Box::new(metric.clone())).expect("names are different");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(self.opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(self.opts(name, help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(self.opts(name, help)))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.add(Histogram::with_opts(opts))
    }
}

impl Metrics {
    /// * `model_name`: a label of every metric.
    pub(crate) fn new(model_name: &str) -> Self {
        let m = Maker(Registry::new(), model_name.to_owned());
        Self {
            running: m.gauge("vllm:num_requests_running", "Sequences that run."),
            waiting: m.gauge("vllm:num_requests_waiting", "Sequences that wait."),
            kv_usage: m.gauge("vllm:kv_cache_usage_perc", "Share of blocks in use, 0 to 1."),
            prompt_tokens: m.counter("vllm:prompt_tokens_total", "Tokens of prompts that ended."),
            generation_tokens: m.counter("vllm:generation_tokens_total", "Tokens emitted."),
            prefix_queries: m
                .counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
            prefix_hits: m
                .counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache."),
            preemptions: m.counter("vllm:num_preemptions_total", "Sequences preempted."),
            finished: m.counters("vllm:request_success_total", "Choices that ended.", "finished_reason"),
            drafts: m.counter("vllm:spec_decode_num_drafts_total", "Verifications of a proposal."),
            verified: m.counter("vllm:spec_decode_num_draft_tokens_total", "Drafted tokens verified."),
            accepted: m.counter("vllm:spec_decode_num_accepted_tokens_total", "Drafted tokens accepted."),
            accepted_per_pos: m.counters(
                "vllm:spec_decode_num_accepted_tokens_per_pos_total",
                "Drafted tokens accepted, by position from 0.",
                "position",
            ),
            ttft: m.histogram(
                "vllm:time_to_first_token_seconds",
                "Arrival to first token.",
                &REQUEST_BUCKETS,
            ),
            gap: m.histogram("vllm:inter_token_latency_seconds", "Time between emissions.", &TOKEN_BUCKETS),
            tpot: m.histogram(
                "vllm:request_time_per_output_token_seconds",
                "Mean time per token after the first, of a request.",
                &TOKEN_BUCKETS,
            ),
            e2e: m.histogram("vllm:e2e_request_latency_seconds", "Arrival to end.", &REQUEST_BUCKETS),
            queue_time: m.histogram(
                "vllm:request_queue_time_seconds",
                "Arrival to first run.",
                &REQUEST_BUCKETS,
            ),
            request_prompt: m.histogram("vllm:request_prompt_tokens", "Tokens per prompt.", &COUNT_BUCKETS),
            request_generation: m.histogram(
                "vllm:request_generation_tokens",
                "Tokens per choice.",
                &COUNT_BUCKETS,
            ),
            steps: m.counter("dsde:steps_total", "Steps of the engine."),
            step_time: m.histogram("dsde:step_seconds", "Time of a step.", &TOKEN_BUCKETS),
            step_failures: m.counter("dsde:step_failures_total", "Steps that failed."),
            drafted: m.counter("dsde:drafted_tokens_total", "Tokens drafted, verified or not."),
            planned_len: m.histogram(
                "dsde:speculation_length",
                "Length planned per sequence and step.",
                &LENGTH_BUCKETS,
            ),
            decisions: m.counters("dsde:policy_decisions_total", "Plans, by the policy's reason.", "reason"),
            refused: m.counters("dsde:requests_refused_total", "Requests answered with an error.", "status"),
            slo_requests: m.counters(
                "dsde:slo_requests_total",
                "Choices with latency targets, by whether all were met.",
                "attained",
            ),
            emissions: AtomicU64::new(0),
            lengths: std::array::from_fn(|_| AtomicU64::new(0)),
            registry: m.0,
        }
    }

    /// Counts a step.
    pub(crate) fn step(&self, report: &StepReport) {
        self.steps.inc();
        self.step_time.observe(report.step_time.as_secs_f64());
        self.preemptions.inc_by(u64::from(report.preempted));
        self.generation_tokens.inc_by(u64::from(report.emitted));
        self.drafted.inc_by(u64::from(report.drafted));
        self.verified.inc_by(u64::from(report.verified));
        self.accepted.inc_by(u64::from(report.accepted));
    }

    /// Counts a failed step.
    pub(crate) fn step_failed(&self) {
        self.step_failures.inc();
    }

    /// Counts one sequence's part of a step.
    pub(crate) fn sequence_step(&self, sequence: &SequenceTrace<'_>) {
        self.emissions.fetch_add(1, Ordering::Relaxed);
        // The last rows of a prompt emit without a plan.
        if sequence.limit > 0 {
            self.planned_len.observe(f64::from(sequence.planned));
            self.lengths[(sequence.planned as usize).min(N_LENGTHS - 1)].fetch_add(1, Ordering::Relaxed);
            self.decisions.with_label_values(&[sequence.asked.reason]).inc();
        }
        if sequence.verified > 0 {
            self.drafts.inc();
        }
        for position in 0..sequence.accepted {
            self.accepted_per_pos.with_label_values(&[&position.to_string()]).inc();
        }
    }

    /// Counts the time between two emissions of a choice.
    pub(crate) fn gap(&self, seconds: f64) {
        self.gap.observe(seconds);
    }

    /// Counts the end of a choice; cancelled and failed ones leave no latency behind.
    pub(crate) fn ended(&self, reason: FinishReason, timeline: &RequestTimeline, slo: &Slo) {
        self.finished.with_label_values(&[finished_reason(reason)]).inc();
        if !matches!(reason, FinishReason::Stop | FinishReason::Length) {
            return;
        }
        self.prompt_tokens.inc_by(u64::from(timeline.prompt_tokens));
        self.prefix_queries.inc_by(u64::from(timeline.prompt_tokens));
        self.prefix_hits.inc_by(u64::from(timeline.cached_tokens));
        self.request_prompt.observe(f64::from(timeline.prompt_tokens));
        self.request_generation.observe(f64::from(timeline.emitted));
        self.e2e.observe(e2e(timeline).as_secs_f64());
        let queued = timeline.admitted.map(|admitted| admitted.saturating_sub(timeline.arrival));
        let times = [(&self.ttft, ttft(timeline)), (&self.tpot, tpot(timeline)), (&self.queue_time, queued)];
        for (histogram, time) in times {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        }
        if slo.ttft_ms_max.is_some() || slo.tpot_ms_max.is_some() {
            let attained = if is_attained(timeline, slo) { "true" } else { "false" };
            self.slo_requests.with_label_values(&[attained]).inc();
        }
    }

    /// Counts an answer with an error status.
    pub(crate) fn refused(&self, status: u16) {
        self.refused.with_label_values(&[&status.to_string()]).inc();
    }

    /// Planned lengths so far, by length.
    pub(crate) fn lengths(&self) -> [u64; N_LENGTHS] {
        std::array::from_fn(|i| self.lengths[i].load(Ordering::Relaxed))
    }

    /// Everything, as a scraper reads it.
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("a vector takes everything that is written");
        String::from_utf8(text).expect("the text form is UTF-8")
    }
}

/// As vLLM names them; an engine failure is `error` there.
fn finished_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "abort",
        FinishReason::Failed => "error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_end_of_a_request_is_counted_with_its_latencies() {
        let metrics = Metrics::new("m");
        let timeline = RequestTimeline {
            arrival: ms(0),
            admitted: Some(ms(10)),
            first_token: Some(ms(40)),
            finished: ms(140),
            prompt_tokens: 32,
            cached_tokens: 16,
            emitted: 11,
            ..RequestTimeline::default()
        };
        let slo = Slo { ttft_ms_max: Some(50.0), tpot_ms_max: Some(9.0) };
        metrics.ended(FinishReason::Length, &timeline, &slo);
        metrics.ended(FinishReason::Cancelled, &timeline, &slo);
        let text = metrics.text();
        let labels = "engine=\"0\",model_name=\"m\"";
        // 100 ms over 10 gaps is 10 ms per token: one target of two is missed.
        for line in [
            format!("vllm:time_to_first_token_seconds_sum{{{labels}}} 0.04"),
            format!("vllm:request_time_per_output_token_seconds_sum{{{labels}}} 0.01"),
            format!("vllm:e2e_request_latency_seconds_count{{{labels}}} 1"),
            format!("vllm:prefix_cache_hits_total{{{labels}}} 16"),
            "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"m\"} 1"
                .to_owned(),
            "dsde:slo_requests_total{attained=\"false\",engine=\"0\",model_name=\"m\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_sums_of_a_step_feed_the_counters() {
        let metrics = Metrics::new("m");
        let report = StepReport { drafted: 7, verified: 5, accepted: 3, emitted: 4, ..StepReport::default() };
        metrics.step(&report);
        metrics.step(&report);
        assert_eq!((metrics.verified.get(), metrics.accepted.get()), (10, 6));
        assert_eq!(metrics.generation_tokens.get(), 8);
        assert!(metrics.text().contains("dsde:drafted_tokens_total{engine=\"0\",model_name=\"m\"} 14"));
    }
}
