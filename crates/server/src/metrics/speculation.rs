//! What is counted about speculation: how far, why, what it brought, and how the draft compared with the target.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use dsde_engine::{RequestTimeline, SequenceTrace};
use prometheus::{GaugeVec, Histogram, IntCounter, IntCounterVec};

use super::Maker;

/// Lengths 0 to 64; nothing longer can be planned.
pub(crate) const N_LENGTHS: usize = 65;

/// Tokens per step and sequence.
const LENGTH_BUCKETS: [f64; 14] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 32.0, 64.0];
/// Nats; 18.4 is the largest that the clamp at 1e-8 allows.
const KLD_BUCKETS: [f64; 12] = [0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0];
/// Without unit; 1 is calm.
const WVIR_BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];
/// The number that DSDE explains its lengths with.
const WVIR: &str = "wvir";

/// Metrics of speculation.
#[derive(Debug)]
pub(super) struct Speculation {
    drafts: IntCounter,
    verified_per_pos: PerPosition,
    accepted_per_pos: PerPosition,
    planned_len: Histogram,
    decisions: IntCounterVec,
    kld: Histogram,
    wvir: Histogram,
    numbers: GaugeVec,
    by_policy: IntCounterVec,
    /// Planned lengths so far, by length; for the live feed.
    lengths: [AtomicU64; N_LENGTHS],
}

impl Speculation {
    pub(super) fn new(m: &Maker) -> Self {
        Self {
            drafts: m.counter("vllm:spec_decode_num_drafts_total", "Verifications of a proposal."),
            verified_per_pos: PerPosition::new(
                m,
                "dsde:verified_tokens_per_pos_total",
                "Drafted tokens verified, by position from 0.",
            ),
            accepted_per_pos: PerPosition::new(
                m,
                "vllm:spec_decode_num_accepted_tokens_per_pos_total",
                "Drafted tokens accepted, by position from 0.",
            ),
            planned_len: m.histogram(
                "dsde:speculation_length",
                "Length planned per sequence and step.",
                &LENGTH_BUCKETS,
            ),
            decisions: m.counters(
                "dsde:policy_decisions_total",
                "Plans, by the policy's reason.",
                &["reason"],
            ),
            kld: m.histogram("dsde:kld_nats", "KL(target || draft) per verified position.", &KLD_BUCKETS),
            wvir: m.histogram(
                "dsde:wvir",
                "Recent over long-run variance of the KLDs, per plan.",
                &WVIR_BUCKETS,
            ),
            numbers: m.gauges("dsde:policy_number", "The policy's own numbers behind its last plan.", "name"),
            by_policy: m.counters(
                "dsde:policy_tokens_total",
                "Tokens and steps of choices that ended, by the policy that planned for them.",
                &["policy", "kind"],
            ),
            lengths: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Counts one sequence's part of a step.
    pub(super) fn sequence_step(&self, sequence: &SequenceTrace<'_>) {
        // The last rows of a prompt emit without a plan.
        if sequence.limit > 0 {
            self.planned_len.observe(f64::from(sequence.planned));
            self.lengths[(sequence.planned as usize).min(N_LENGTHS - 1)].fetch_add(1, Ordering::Relaxed);
            self.decisions.with_label_values(&[sequence.asked.reason]).inc();
        }
        if sequence.verified > 0 {
            self.drafts.inc();
        }
        self.verified_per_pos.count(sequence.verified, sequence.verified);
        self.accepted_per_pos.count(sequence.accepted, sequence.verified);
        sequence.signals.iter().for_each(|signals| self.kld.observe(f64::from(signals.kld)));
        for &(name, number) in sequence.numbers {
            self.numbers.with_label_values(&[name]).set(number);
            if name == WVIR {
                self.wvir.observe(number);
            }
        }
    }

    /// Counts what a policy brought to a choice that ended, however it did.
    pub(super) fn ended(&self, policy: &str, timeline: &RequestTimeline) {
        let kinds = [
            ("steps", timeline.steps),
            ("drafted", timeline.drafted),
            ("verified", timeline.verified),
            ("accepted", timeline.accepted),
            ("emitted", timeline.emitted),
        ];
        for (kind, n) in kinds {
            self.by_policy.with_label_values(&[policy, kind]).inc_by(u64::from(n));
        }
    }

    /// Planned lengths so far, by length.
    pub(super) fn lengths(&self) -> [u64; N_LENGTHS] {
        std::array::from_fn(|i| self.lengths[i].load(Ordering::Relaxed))
    }
}

/// A counter per position of a proposal. Those that no proposal has reached are not there: clients print all that are.
#[derive(Debug)]
struct PerPosition {
    counters: IntCounterVec,
    by_position: [OnceLock<IntCounter>; N_LENGTHS - 1],
}

impl PerPosition {
    fn new(m: &Maker, name: &str, help: &str) -> Self {
        let by_position = std::array::from_fn(|_| OnceLock::new());
        Self { counters: m.counters(name, help, &["position"]), by_position }
    }

    /// Counts the first `n` positions of the `n_reached` that a proposal has.
    fn count(&self, n: u32, n_reached: u32) {
        for (i, counter) in self.by_position.iter().enumerate().take(n_reached as usize) {
            let counter = counter.get_or_init(|| self.counters.with_label_values(&[&i.to_string()]));
            counter.inc_by(u64::from((i as u32) < n));
        }
    }
}
