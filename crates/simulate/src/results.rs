//! What a simulation found out, as it is written and read.

use std::time::Duration;

use dsde_bench::metrics::{self, Totals};
use dsde_bench::{Attained, Quantiles, Summary};
use dsde_engine::{FinishReason, RequestTimeline};
use serde::{Deserialize, Serialize};

use crate::load::Traffic;
use crate::scenario::{Point, Scenario};
use crate::series::Part;
use crate::serving::Served;
use crate::signals::SignalReport;

/// All cells of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Name of the scenario.
    pub scenario: String,
    /// What it is about.
    pub about: Option<String>,
    /// Version of the program.
    pub version: String,
    /// Target and draft.
    pub pair: String,
    /// What they run on.
    pub machine: String,
    /// What an hour of that costs, US dollars.
    pub dollars_per_hour: Option<f64>,
    /// Of all random numbers.
    pub seed: u64,
    /// What is on the axis of loads.
    pub load_axis: String,
    /// Policy by policy, within these temperature by temperature, within these load by load.
    pub cells: Vec<Cell>,
    /// What passes cost.
    pub costs: Vec<CostCurve>,
}

/// One policy at one temperature under one load. Times are of the virtual clock, and latencies of requests that ended by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Policy with its parameters.
    pub policy: String,
    /// 0 is greedy.
    pub temperature: f32,
    /// For people.
    pub load: String,
    /// On the axis of loads.
    pub load_value: f64,
    /// Requests that ended by themselves.
    pub requests: u64,
    /// Requests that were cancelled, that failed, and that found the queue full.
    pub lost: Lost,
    /// Tokens emitted.
    pub output_tokens: u64,
    /// Of a closed load [`metrics::full_load_throughput`], else [`metrics::throughput`]; one value per repeat.
    pub tokens_per_s: Summary,
    /// From the first arrival to the last end, seconds; one value per repeat.
    pub seconds: Summary,
    /// Arrival to first token, ms.
    pub ttft_ms: Option<Quantiles>,
    /// Time per token after the first, ms.
    pub tpot_ms: Option<Quantiles>,
    /// Arrival to the end, ms.
    pub e2e_ms: Option<Quantiles>,
    /// Mean of arrival to the end, ms.
    pub e2e_ms_mean: Option<f64>,
    /// Between two emissions of a request, ms.
    pub gap_ms: Option<Quantiles>,
    /// Requests per second that met their latency targets; one value per repeat.
    pub goodput: Option<Summary>,
    /// Requests that met them, by class.
    pub attained: Vec<Attained>,
    /// Accepted over verified tokens.
    pub acceptance_rate: Option<f64>,
    /// Tokens emitted per request and step.
    pub emitted_per_step: Option<f64>,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were verified.
    pub verified: u64,
    /// Verified tokens that were kept.
    pub accepted: u64,
    /// Steps of the engine.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Sequences that lost their blocks.
    pub preempted: u64,
    /// Over time, of the first repeat.
    pub series: Vec<Part>,
    /// How signals and acceptance hang together, of the first repeat; absent where the policy asks for none.
    pub signals: Option<SignalReport>,
}

/// Requests without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// By their users.
    pub cancelled: u64,
    /// By the executor.
    pub failed: u64,
    /// At the door.
    pub refused: u64,
}

/// Seconds of a pass by its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostCurve {
    /// Which pass, at which context.
    pub name: String,
    /// Rows and milliseconds.
    pub points: Vec<[f64; 2]>,
}

/// One run of a cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct CellRun {
    pub(crate) served: Served,
    pub(crate) series: Vec<Part>,
    pub(crate) signals: Option<SignalReport>,
}

impl Cell {
    /// Judges the runs of a cell, at least one.
    pub(crate) fn of(
        scenario: &Scenario,
        policy: &str,
        temperature: f32,
        point: &Point,
        mut runs: Vec<CellRun>,
    ) -> Self {
        let series = std::mem::take(&mut runs[0].series);
        let signals = runs[0].signals.take();
        let answered: Vec<Vec<(usize, RequestTimeline)>> =
            runs.iter().map(|run| answered(&run.served)).collect();
        let all = || answered.iter().flatten().map(|(_, timeline)| timeline);
        let totals = Totals::of(all());
        let attained = |run: &Vec<(usize, RequestTimeline)>| {
            scenario.load.classes.attained(run.iter().map(|(idx, timeline)| (*idx, timeline)))
        };
        let attained: Vec<Vec<Attained>> = answered.iter().map(attained).collect();
        let goodput = answered.iter().zip(&attained).filter_map(|(run, classes)| goodput(run, classes));
        let e2e: Vec<f64> = all().map(|timeline| metrics::milliseconds(metrics::e2e(timeline))).collect();
        let sum = |of: fn(&Served) -> u64| runs.iter().map(|run| of(&run.served)).sum();
        let speeds: Vec<f64> = answered.iter().map(|run| throughput(run, point)).collect();
        let spans: Vec<f64> =
            answered.iter().map(|run| metrics::span(&timelines(run)).as_secs_f64()).collect();
        Self {
            policy: policy.to_owned(),
            temperature,
            load: point.label.clone(),
            load_value: point.value,
            requests: totals.requests,
            lost: Lost {
                cancelled: sum(|served| n_ended(served, FinishReason::Cancelled)),
                failed: sum(|served| n_ended(served, FinishReason::Failed)),
                refused: sum(|served| served.refused),
            },
            output_tokens: totals.output_tokens,
            tokens_per_s: Summary::of(&speeds).expect("there is a run"),
            seconds: Summary::of(&spans).expect("there is a run"),
            ttft_ms: quantiles(all().filter_map(metrics::ttft)),
            tpot_ms: quantiles(all().filter_map(metrics::tpot)),
            e2e_ms: Quantiles::of(&e2e),
            e2e_ms_mean: Summary::of(&e2e).map(|summary| summary.mean),
            gap_ms: quantiles(runs.iter().flat_map(|run| run.served.gaps.iter().copied())),
            goodput: Summary::of(&goodput.collect::<Vec<_>>()),
            attained: Attained::sums(attained.iter().flatten()),
            acceptance_rate: totals.acceptance_rate(),
            emitted_per_step: totals.emitted_per_step(),
            drafted: totals.drafted,
            verified: totals.verified,
            accepted: totals.accepted,
            steps: sum(|served| served.steps),
            failed_steps: sum(|served| served.failed_steps),
            preempted: sum(|served| served.preempted),
            series,
            signals,
        }
    }
}

fn answered(served: &Served) -> Vec<(usize, RequestTimeline)> {
    let ended = served.ended.iter();
    let by_themselves =
        ended.filter(|ended| matches!(ended.reason, FinishReason::Length | FinishReason::Stop));
    by_themselves.map(|ended| (ended.request_idx, ended.timeline)).collect()
}

fn n_ended(served: &Served, reason: FinishReason) -> u64 {
    served.ended.iter().filter(|ended| ended.reason == reason).count() as u64
}

fn timelines(run: &[(usize, RequestTimeline)]) -> Vec<RequestTimeline> {
    run.iter().map(|(_, timeline)| *timeline).collect()
}

fn throughput(run: &[(usize, RequestTimeline)], point: &Point) -> f64 {
    let timelines = timelines(run);
    let throughput = match point.traffic {
        Traffic::Closed(n) => metrics::full_load_throughput(&timelines, n as usize),
        Traffic::Open(_) => metrics::throughput(&timelines),
    };
    throughput.unwrap_or(0.0)
}

fn goodput(run: &[(usize, RequestTimeline)], classes: &[Attained]) -> Option<f64> {
    let attained = classes.iter().map(|class| class.attained).sum();
    metrics::goodput(&timelines(run), attained).filter(|_| !classes.is_empty())
}

fn quantiles(times: impl Iterator<Item = Duration>) -> Option<Quantiles> {
    Quantiles::of(&times.map(metrics::milliseconds).collect::<Vec<_>>())
}
