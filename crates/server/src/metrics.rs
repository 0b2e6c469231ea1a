//! What the server counts, in Prometheus' text form.
//!
//! Names and meanings are vLLM's (`vllm:*`) where the meaning is the same, so that its dashboards, autoscalers and load
//! generators read this server; what has no equivalent there is `dsde:*`. `docs/serving.md` lists all of them.

mod requests;
mod speculation;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dsde_engine::{FinishReason, RequestTimeline, SequenceTrace, Shape, Slo, StepReport};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder,
};

use crate::serving::Load;
use requests::Requests;
pub(crate) use speculation::N_LENGTHS;
use speculation::Speculation;

/// Seconds; finer below 10 ms than vLLM's, because small models on a CPU emit that fast.
const TOKEN_BUCKETS: [f64; 20] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 10.0,
];
/// Experts of a layer.
const EXPERT_BUCKETS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0];
/// Tokens of a step.
const STEP_BUCKETS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];
/// Seconds that the server itself takes.
const DELIVERY_BUCKETS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.0015, 0.0025,
    0.005, 0.01, 0.1,
];

/// Of an engine whose stores nobody looks at.
#[cfg(test)]
pub(crate) const TEST_SHAPE: Shape = Shape {
    vocab_len: 2,
    context_len_max: 64,
    block_len: 16,
    n_blocks: 4,
    draft_context_len: None,
    draft_reads_target: false,
    window: None,
    n_states: 0,
};

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) running: Gauge,
    pub(crate) waiting: Gauge,
    /// 0 to 1.
    pub(crate) kv_usage: Gauge,
    pub(crate) blocks_free: Gauge,
    pub(crate) connections: Gauge,
    accepted_connections: IntCounter,
    tasks: Gauge,
    resident_memory: Gauge,
    open_files: Gauge,
    speculation: Speculation,
    requests: Requests,
    pub(crate) generation_tokens: IntCounter,
    preemptions: IntCounter,
    drafted: IntCounter,
    pub(crate) verified: IntCounter,
    pub(crate) accepted: IntCounter,
    gap: Histogram,
    delivery: Histogram,
    step_tokens: Histogram,
    pub(crate) steps: IntCounter,
    experts_woken: Histogram,
    blocks_lent: Gauge,
    step_time: Histogram,
    step_failures: IntCounter,
    policy_failures: IntCounter,
    refused: IntCounterVec,
    /// Times that a sequence emitted; for the live feed.
    pub(crate) emissions: AtomicU64,
    /// Blocks that sequences own; for who asks for the load.
    pub(crate) blocks_owned: AtomicU64,
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

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(self.opts(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> GaugeVec {
        self.add(GaugeVec::new(self.opts(name, help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(self.opts(name, help)))
    }

    /// A gauge that is always 1 and says what it has to say in its labels.
    fn info(&self, name: &str, help: &str, labels: &[(&str, String)]) {
        let opts =
            labels.iter().fold(self.opts(name, help), |opts, (key, value)| opts.const_label(*key, value));
        self.add(Gauge::with_opts(opts)).set(1.0);
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.add(Histogram::with_opts(opts))
    }
}

impl Metrics {
    /// * `model_name`: a label of every metric.
    /// * `shape`: of the stores, which never changes.
    pub(crate) fn new(model_name: &str, shape: &Shape) -> Self {
        let m = Maker(Registry::new(), model_name.to_owned());
        m.info(
            "vllm:cache_config_info",
            "What the key/value stores hold; routers read it. The blocks are those of the CPU.",
            &[
                ("block_size", shape.block_len.to_string()),
                ("num_gpu_blocks", shape.n_blocks.to_string()),
                ("enable_prefix_caching", "True".to_owned()),
            ],
        );
        Self {
            running: m.gauge("vllm:num_requests_running", "Sequences that run."),
            waiting: m.gauge("vllm:num_requests_waiting", "Sequences that wait."),
            kv_usage: m.gauge("vllm:kv_cache_usage_perc", "Share of blocks in use, 0 to 1."),
            blocks_free: m.gauge("dsde:kv_blocks_free", "Blocks that no sequence owns."),
            connections: m.gauge("dsde:connections", "Open connections."),
            accepted_connections: m.counter("dsde:connections_total", "Connections accepted."),
            tasks: m.gauge("dsde:tasks", "Tasks of the runtime that handles connections."),
            resident_memory: m.gauge("process_resident_memory_bytes", "Resident memory; Linux only."),
            open_files: m.gauge("process_open_fds", "Open files and sockets; Linux only."),
            speculation: Speculation::new(&m),
            requests: Requests::new(&m),
            generation_tokens: m.counter("vllm:generation_tokens_total", "Tokens emitted."),
            preemptions: m.counter("vllm:num_preemptions_total", "Sequences preempted."),
            drafted: m.counter("dsde:drafted_tokens_total", "Tokens drafted, verified or not."),
            verified: m.counter("vllm:spec_decode_num_draft_tokens_total", "Drafted tokens verified."),
            accepted: m.counter("vllm:spec_decode_num_accepted_tokens_total", "Drafted tokens accepted."),
            gap: m.histogram("vllm:inter_token_latency_seconds", "Time between emissions.", &TOKEN_BUCKETS),
            delivery: m.histogram(
                "dsde:delivery_seconds",
                "The engine's emission to the first byte of its event handed to the socket, of streams.",
                &DELIVERY_BUCKETS,
            ),
            step_tokens: m.histogram(
                "vllm:iteration_tokens_total",
                "Rows of the target pass of a step.",
                &STEP_BUCKETS,
            ),
            experts_woken: m.histogram(
                "dsde:experts_woken",
                "Distinct experts that a target pass asked, mean over layers; empty where the model has none.",
                &EXPERT_BUCKETS,
            ),
            blocks_lent: m.gauge("dsde:kv_blocks_lent", "Blocks of the target in the memory of the draft."),
            steps: m.counter("dsde:steps_total", "Steps of the engine."),
            step_time: m.histogram("dsde:step_seconds", "Time of a step.", &TOKEN_BUCKETS),
            step_failures: m.counter("dsde:step_failures_total", "Steps that failed."),
            policy_failures: m.counter(
                "dsde:policy_failures_total",
                "Policies that panicked; their requests are decoded plainly.",
            ),
            refused: m.counters(
                "dsde:requests_refused_total",
                "Requests answered with an error.",
                &["status"],
            ),
            emissions: AtomicU64::new(0),
            blocks_owned: AtomicU64::new(0),
            registry: m.0,
        }
    }

    /// Counts a step.
    pub(crate) fn step(&self, report: &StepReport) {
        self.steps.inc();
        self.blocks_lent.set(f64::from(report.blocks_lent));
        self.step_time.observe(report.step_time.as_secs_f64());
        self.preemptions.inc_by(u64::from(report.preempted));
        self.generation_tokens.inc_by(u64::from(report.emitted));
        self.step_tokens.observe(f64::from(report.target_rows));
        if let Some(experts) = report.experts {
            self.experts_woken.observe(experts.per_layer());
        }
        self.drafted.inc_by(u64::from(report.drafted));
        self.verified.inc_by(u64::from(report.verified));
        self.accepted.inc_by(u64::from(report.accepted));
    }

    /// Counts a failed step.
    pub(crate) fn step_failed(&self) {
        self.step_failures.inc();
    }

    /// Counts a policy that panicked.
    pub(crate) fn policy_failed(&self) {
        self.policy_failures.inc();
    }

    /// Counts one sequence's part of a step.
    pub(crate) fn sequence_step(&self, sequence: &SequenceTrace<'_>) {
        self.emissions.fetch_add(1, Ordering::Relaxed);
        self.speculation.sequence_step(sequence);
    }

    /// Counts the time between two emissions of a choice.
    pub(crate) fn gap(&self, seconds: f64) {
        self.gap.observe(seconds);
    }

    /// Counts how long it took from the engine to the socket.
    pub(crate) fn delivered(&self, time: Duration) {
        self.delivery.observe(time.as_secs_f64());
    }

    /// Counts the end of a choice.
    ///
    /// * `policy`: name of the one that planned for it, without parameters.
    pub(crate) fn ended(&self, reason: FinishReason, timeline: &RequestTimeline, slo: &Slo, policy: &str) {
        self.requests.ended(reason, timeline, slo);
        self.speculation.ended(policy, timeline);
    }

    /// Counts a new connection.
    pub(crate) fn connected(&self) {
        self.connections.inc();
        self.accepted_connections.inc();
    }

    /// Looks at the process.
    ///
    /// * `n_tasks`: tasks alive in the runtime.
    pub(crate) fn process(&self, n_tasks: usize) {
        self.tasks.set(n_tasks as f64);
        if let Some(n_bytes) = resident_bytes() {
            self.resident_memory.set(n_bytes);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One is that of the folder.
            self.open_files.set(files.count().saturating_sub(1) as f64);
        }
    }

    /// Counts an answer with an error status.
    pub(crate) fn refused(&self, status: u16) {
        self.refused.with_label_values(&[&status.to_string()]).inc();
    }

    /// Planned lengths so far, by length.
    pub(crate) fn lengths(&self) -> [u64; N_LENGTHS] {
        self.speculation.lengths()
    }

    /// What there is to do and to store.
    pub(crate) fn load(&self) -> Load {
        let [tokens_asked, tokens_cached] = self.requests.prefix_tokens();
        Load {
            running: self.running.get() as u64,
            waiting: self.waiting.get() as u64,
            blocks_owned: self.blocks_owned.load(Ordering::Relaxed),
            tokens_asked,
            tokens_cached,
        }
    }

    /// Everything, as a scraper reads it.
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("a vector takes everything that is written");
        String::from_utf8(text).expect("the text form is UTF-8")
    }
}

/// Resident memory of the process; `None` where the system does not tell.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
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
        let metrics = Metrics::new("m", &TEST_SHAPE);
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
        metrics.ended(FinishReason::Length, &timeline, &slo, "auto");
        metrics.ended(FinishReason::Cancelled, &timeline, &slo, "auto");
        let text = metrics.text();
        let labels = "engine=\"0\",model_name=\"m\"";
        // 100 ms over 10 gaps is 10 ms per token: one target of two is missed.
        for line in [
            format!("vllm:time_to_first_token_seconds_sum{{{labels}}} 0.04"),
            format!("vllm:request_time_per_output_token_seconds_sum{{{labels}}} 0.01"),
            format!("vllm:e2e_request_latency_seconds_count{{{labels}}} 1"),
            format!("vllm:request_decode_time_seconds_sum{{{labels}}} 0.1"),
            format!("vllm:prefix_cache_hits_total{{{labels}}} 16"),
            "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"m\"} 1"
                .to_owned(),
            "dsde:policy_tokens_total{engine=\"0\",kind=\"emitted\",model_name=\"m\",policy=\"auto\"} 22"
                .to_owned(),
            "dsde:slo_requests_total{attained=\"false\",engine=\"0\",model_name=\"m\"} 1".to_owned(),
            "vllm:cache_config_info{block_size=\"16\",enable_prefix_caching=\"True\",engine=\"0\",model_name=\"m\",num_gpu_blocks=\"4\"} 1"
                .to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_sums_of_a_step_feed_the_counters() {
        let metrics = Metrics::new("m", &TEST_SHAPE);
        let report = StepReport { drafted: 7, verified: 5, accepted: 3, emitted: 4, ..StepReport::default() };
        metrics.step(&report);
        metrics.step(&report);
        assert_eq!((metrics.verified.get(), metrics.accepted.get()), (10, 6));
        assert_eq!(metrics.generation_tokens.get(), 8);
        assert!(metrics.text().contains("dsde:drafted_tokens_total{engine=\"0\",model_name=\"m\"} 14"));
    }
}
