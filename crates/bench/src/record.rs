//! What a benchmark leaves behind: one JSON object with everything needed to judge and repeat it.

use serde::{Deserialize, Serialize};

use crate::class::{Attained, LatencyClass};
use crate::conditions::Conditions;
use crate::failures::Failures;

use crate::metrics::{self, Totals};
use crate::run::{Run, Seen};
use crate::stats::{Quantiles, Summary};

/// The machine of a measurement; of a server, that of its client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor as it names itself.
    pub cpu: String,
    /// Logical cores.
    pub cores: u32,
    /// Instruction sets that matter for the kernels.
    pub isa: Vec<String>,
    /// Main memory, bytes.
    pub memory_bytes: u64,
    /// Operating system.
    pub os: String,
    /// Kernels and threads in use, in the backend's words.
    pub backend: String,
}

/// How a benchmark was asked for, where it is the same for every row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Command line.
    pub command: String,
    /// Version of the program.
    pub version: String,
    /// Most tokens per request.
    pub max_tokens: u32,
    /// Whether requests run to `max_tokens` past the end of text.
    pub ignore_eos: bool,
    /// Seed of the first request; request `i` uses `seed + i`.
    pub seed: u64,
    /// Requests per run, where they were given; else they follow the load.
    #[serde(default)]
    pub requests: Option<u32>,
    /// Measured runs per row.
    pub repeats: u32,
    /// Rule that judges sampled proposals.
    pub verification: String,
    /// Address of the server that was asked; absent if the model ran in the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Latency target of every request, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_ttft_ms: Option<f64>,
    /// Latency target of every request, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_tpot_ms: Option<f64>,
    /// Latency classes that the requests took in turns; empty if they had none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slo_classes: Vec<LatencyClass>,
}

/// One policy on one workload at one concurrency. Counts and quantiles are over all requests of all repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// Finished requests.
    pub requests: u64,
    /// Tokens emitted.
    pub output_tokens: u64,
    /// [`metrics::full_load_throughput`], tokens per second; one value per repeat.
    pub tokens_per_s: Summary,
    /// Arrival to first token, ms.
    pub ttft_ms: Option<Quantiles>,
    /// Time per token after the first, ms; absent if no request emitted two.
    pub tpot_ms: Option<Quantiles>,
    /// Arrival to the end, ms.
    pub e2e_ms: Option<Quantiles>,
    /// Accepted over verified; absent if nothing was verified.
    pub acceptance_rate: Option<f64>,
    /// Tokens emitted per request and step in which it emitted.
    pub emitted_per_step: Option<f64>,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were verified.
    pub verified: u64,
    /// Verified tokens that were kept.
    pub accepted: u64,
    /// Steps in which a request emitted, summed over requests.
    pub steps: u64,
    /// Time between two emissions of a request, ms.
    #[serde(default)]
    pub gap_ms: Option<Quantiles>,
    /// Requests per second that met their latency targets; one value per repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput: Option<Summary>,
    /// Requests that met their latency targets, by class; absent without targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attained: Vec<Attained>,
    /// Requests without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
}

impl Row {
    /// Judges measured runs of the same conditions; `None` if there are none.
    pub fn new(repeats: &[(Run, Seen)]) -> Option<Self> {
        let conditions = repeats.first()?.0.conditions.clone();
        let runs = || repeats.iter().map(|(run, _)| run);
        let all = Seen {
            timelines: repeats.iter().flat_map(|(_, seen)| seen.timelines.iter().copied()).collect(),
            gaps: repeats.iter().flat_map(|(_, seen)| seen.gaps.iter().copied()).collect(),
            ..Seen::default()
        };
        let gaps: Vec<f64> = all.gaps.iter().copied().map(metrics::milliseconds).collect();
        let totals = runs().fold(Totals::default(), |sum, run| sum.and(run));
        let goodputs: Vec<f64> = runs().filter_map(|run| run.goodput).collect();
        Some(Self {
            conditions,
            requests: totals.requests,
            output_tokens: totals.output_tokens,
            tokens_per_s: Summary::of(&runs().map(|run| run.tokens_per_s).collect::<Vec<_>>())?,
            ttft_ms: all.quantiles_ms(metrics::ttft),
            tpot_ms: all.quantiles_ms(metrics::tpot),
            e2e_ms: all.quantiles_ms(|timeline| Some(metrics::e2e(timeline))),
            acceptance_rate: totals.acceptance_rate(),
            emitted_per_step: totals.emitted_per_step(),
            drafted: totals.drafted,
            verified: totals.verified,
            accepted: totals.accepted,
            steps: totals.steps,
            gap_ms: Quantiles::of(&gaps),
            goodput: Summary::of(&goodputs),
            attained: Attained::sums(runs().flat_map(|run| &run.attained)),
            failures: runs().filter_map(|run| run.failures).reduce(|sum, failures| sum.and(&failures)),
        })
    }
}

/// A whole benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it was measured.
    pub machine: Machine,
    /// Target model as given on the command line.
    pub model: String,
    /// Draft as given on the command line: a model, `suffix` or `none`.
    pub draft: String,
    /// What all rows share.
    pub settings: Settings,
    /// Results.
    pub rows: Vec<Row>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dsde_engine::RequestTimeline;

    use super::*;

    #[test]
    fn a_row_judges_all_repeats_and_stays_flat_in_json() {
        let timeline = RequestTimeline {
            arrival: Duration::from_secs(1),
            first_token: Some(Duration::from_millis(1500)),
            finished: Duration::from_secs(3),
            emitted: 4,
            steps: 2,
            drafted: 6,
            verified: 4,
            accepted: 2,
            ..RequestTimeline::default()
        };
        let slower = RequestTimeline { finished: Duration::from_secs(5), ..timeline };
        let conditions = Conditions {
            policy: "off".to_owned(),
            workload: "chat".to_owned(),
            concurrency: 1,
            temperature: 0.0,
            segment: None,
        };
        let repeat = |round: u32, timeline| {
            let gaps = vec![Duration::from_secs(round.into())];
            let seen = Seen { timelines: vec![timeline], gaps, ..Seen::default() };
            (Run::closed(conditions.clone(), round, &seen).unwrap(), seen)
        };
        let row = Row::new(&[repeat(1, timeline), repeat(3, slower)]).unwrap();
        let json = serde_json::to_value(&row).unwrap();
        // 4 tokens in 2 s and in 4 s; TPOT (3 - 1.5) / 3 = 0.5 s and (5 - 1.5) / 3 = 1.167 s.
        assert_eq!(json["tokens_per_s"]["mean"], 1.5);
        assert_eq!(json["tokens_per_s"]["n"], 2);
        assert_eq!(json["ttft_ms"]["p50"], 500.0);
        assert!((row.tpot_ms.unwrap().p50 - (500.0 + 3500.0 / 3.0) / 2.0).abs() < 1e-3);
        assert_eq!(json["e2e_ms"]["p50"], 3000.0);
        assert_eq!(json["acceptance_rate"], 0.5);
        assert_eq!(json["emitted_per_step"], 2.0);
        assert_eq!((json["policy"].as_str(), json["workload"].as_str()), (Some("off"), Some("chat")));
        assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
        assert_eq!(row.gap_ms.unwrap().p50, 2000.0);
        assert_eq!(Row::new(&[]), None);
    }
}
