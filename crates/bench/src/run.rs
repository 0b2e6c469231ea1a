//! One measured run.

use std::time::Duration;

use dsde_engine::RequestTimeline;
use serde::{Deserialize, Serialize};

use crate::class::Attained;
use crate::conditions::Conditions;
use crate::failures::Failures;
use crate::load::Served;
use crate::metrics::{self, Totals};
use crate::stats::Quantiles;

/// One measured run: a policy serving a load once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What was measured.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// Which turn, from 0; runs of one round were measured soon after each other.
    pub round: u32,
    /// Requests that ended.
    pub requests: u64,
    /// Tokens emitted.
    pub output_tokens: u64,
    /// [`metrics::full_load_throughput`]; of a load that changes, all tokens by the time of all steps.
    pub tokens_per_s: f64,
    /// Arrival to first token, ms; absent where only a part of a load is told.
    pub ttft_ms: Option<Quantiles>,
    /// Time per token after the first, ms.
    pub tpot_ms: Option<Quantiles>,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were verified.
    pub verified: u64,
    /// Verified tokens that were kept.
    pub accepted: u64,
    /// Steps in which a request emitted, summed over requests; 0 where only a part of a load is told.
    pub steps: u64,
    /// Of all emitted tokens, of a server's answers their text; present for greedy runs that answered every request.
    pub digest: Option<String>,
    /// Time between two emissions of a request, ms; absent where only a part of a load is told.
    #[serde(default)]
    pub gap_ms: Option<Quantiles>,
    /// [`metrics::goodput`], requests per second; absent without latency targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput: Option<f64>,
    /// Requests that met their latency targets, by class; absent without targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attained: Vec<Attained>,
    /// Requests without an answer; only of a server, which can fail at some and go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
}

/// What was seen of the requests that ended in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// One per request.
    pub timelines: Vec<RequestTimeline>,
    /// Between the emissions of each request.
    pub gaps: Vec<Duration>,
    /// Requests that met their latency targets, by class; empty without targets.
    pub attained: Vec<Attained>,
}

impl Seen {
    /// Quantiles of a time of every request that has it, ms.
    pub(crate) fn quantiles_ms(&self, time: fn(&RequestTimeline) -> Option<Duration>) -> Option<Quantiles> {
        milliseconds(self.timelines.iter().filter_map(time))
    }

    fn goodput(&self) -> Option<f64> {
        let attained = self.attained.iter().map(|class| class.attained).sum();
        metrics::goodput(&self.timelines, attained).filter(|_| !self.attained.is_empty())
    }
}

fn milliseconds(times: impl Iterator<Item = Duration>) -> Option<Quantiles> {
    Quantiles::of(&times.map(metrics::milliseconds).collect::<Vec<_>>())
}

impl Run {
    /// A closed loop; `None` if no time passed.
    pub fn closed(conditions: Conditions, round: u32, seen: &Seen) -> Option<Self> {
        let concurrency = conditions.concurrency as usize;
        let tokens_per_s = metrics::full_load_throughput(&seen.timelines, concurrency)?;
        Some(Self::new(conditions, round, tokens_per_s, seen))
    }

    /// A load that changes, or a part of it; `None` if no time passed.
    ///
    /// * `seen`: where the whole load is meant; else nothing.
    pub fn profiled(conditions: Conditions, round: u32, served: &Served, seen: &Seen) -> Option<Self> {
        let seconds = Some(served.time.as_secs_f64()).filter(|&seconds| seconds > 0.0)?;
        let tokens_per_s = served.emitted as f64 / seconds;
        Some(Self {
            output_tokens: served.emitted,
            drafted: served.drafted,
            verified: served.verified,
            accepted: served.accepted,
            steps: 0,
            ..Self::new(conditions, round, tokens_per_s, seen)
        })
    }

    fn new(conditions: Conditions, round: u32, tokens_per_s: f64, seen: &Seen) -> Self {
        let totals = Totals::of(&seen.timelines);
        Self {
            conditions,
            round,
            requests: totals.requests,
            output_tokens: totals.output_tokens,
            tokens_per_s,
            ttft_ms: seen.quantiles_ms(metrics::ttft),
            tpot_ms: seen.quantiles_ms(metrics::tpot),
            drafted: totals.drafted,
            verified: totals.verified,
            accepted: totals.accepted,
            steps: totals.steps,
            digest: None,
            gap_ms: milliseconds(seen.gaps.iter().copied()),
            goodput: seen.goodput(),
            attained: seen.attained.clone(),
            failures: None,
        }
    }
}

impl Totals {
    /// With the counts of a run.
    #[must_use]
    pub fn and(self, run: &Run) -> Self {
        Self {
            requests: self.requests + run.requests,
            output_tokens: self.output_tokens + run.output_tokens,
            steps: self.steps + run.steps,
            drafted: self.drafted + run.drafted,
            verified: self.verified + run.verified,
            accepted: self.accepted + run.accepted,
        }
    }
}
