//! Measures every policy in every cell, round after round.
//!
//! A round measures all policies in all cells once, cell by cell, and begins each cell with another policy than the round
//! before. So runs that are compared stand close in time, and a measurement that is ended early has the same number of rounds
//! everywhere, give or take one.
//!
//! A policy keeps what it learned in a cell from round to round, as it would in a server that has run for hours. Before its first
//! run there it serves a warm-up that is not counted.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use dsde_bench::load::{Choice, Observer, closed_loop, profiled_loop};
use dsde_bench::{Conditions, Log, Profile, Run, Segment, Served};
use dsde_engine::{Request, RequestTimeline};
use dsde_policy::registry;
use indicatif::{ProgressBar, ProgressStyle};

use super::kept::Kept;
use super::plan::{Budget, Cell, Traffic};
use crate::failure::Outcome;
use crate::session::Session;
use crate::trace::TraceFile;

/// Fewest requests of a warm-up: learning policies need some steps.
const WARM_UP_REQUESTS_MIN: u32 = 4;
/// Offset and factor of the FNV-1a hash of 64 bits (Fowler, Noll, Vo).
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

/// Takes what was measured.
pub(super) trait Sink {
    /// The runs of earlier measurements, which are not repeated.
    fn log(&self) -> Option<&Log>;

    /// One measured run, and the requests that ended in it.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn take(&mut self, run: Run, timelines: Vec<RequestTimeline>) -> Outcome;
}

/// What is measured, and how often.
pub(super) struct Plan<'a> {
    pub(super) cells: Vec<Cell<'a>>,
    pub(super) policies: &'a [registry::Config],
    pub(super) rounds: u32,
    pub(super) budget: Budget,
    pub(super) trace: Option<&'a TraceFile>,
}

/// How far the plan got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    /// Runs that were measured, now or before.
    pub(super) measured: usize,
    /// Runs of the plan.
    pub(super) planned: usize,
}

/// Measures until everything is measured or the time is spent.
///
/// # Errors
/// If a step fails or `sink` cannot keep a run.
pub(super) fn measure(plan: &Plan<'_>, session: &mut Session, sink: &mut dyn Sink) -> Outcome<Coverage> {
    let planned = plan.cells.len() * plan.policies.len() * plan.rounds as usize;
    let mut measuring = Measuring { plan, kept: HashMap::new(), progress: Progress::new(planned as u64) };
    let mut measured = 0;
    for round in 0..plan.rounds {
        for cell_idx in 0..plan.cells.len() {
            for turn in 0..plan.policies.len() {
                let policy_idx = (round as usize + turn) % plan.policies.len();
                if measuring.is_known(sink, cell_idx, policy_idx, round) {
                    measured += 1;
                } else if !plan.budget.is_spent() {
                    measuring.run(session, sink, Turn { cell_idx, policy_idx, round })?;
                    measured += 1;
                }
                measuring.progress.bar.inc(1);
            }
        }
    }
    measuring.progress.bar.finish_and_clear();
    Ok(Coverage { measured, planned })
}

/// One run of the plan.
#[derive(Clone, Copy)]
struct Turn {
    cell_idx: usize,
    policy_idx: usize,
    round: u32,
}

struct Measuring<'a> {
    plan: &'a Plan<'a>,
    /// By cell and policy.
    kept: HashMap<(usize, usize), Kept>,
    progress: Progress,
}

impl Measuring<'_> {
    fn is_known(&self, sink: &dyn Sink, cell_idx: usize, policy_idx: usize, round: u32) -> bool {
        let conditions = self.plan.cells[cell_idx].conditions(&self.plan.policies[policy_idx]);
        sink.log().is_some_and(|log| log.has(&conditions, round))
    }

    fn run(&mut self, session: &mut Session, sink: &mut dyn Sink, turn: Turn) -> Outcome {
        let Turn { cell_idx, policy_idx, round } = turn;
        let (cell, policy) = (&self.plan.cells[cell_idx], &self.plan.policies[policy_idx]);
        let kept = match self.kept.get(&(cell_idx, policy_idx)) {
            Some(kept) => kept.clone(),
            None => {
                self.progress.describe(cell, policy, "warm-up");
                let kept = Kept::new(session.policy(policy));
                warm_up(session, cell, &kept)?;
                self.kept.insert((cell_idx, policy_idx), kept.clone());
                kept
            }
        };
        self.progress.describe(cell, policy, &format!("round {} of {}", round + 1, self.plan.rounds));
        let conditions = cell.conditions(policy);
        if let Some(trace) = self.plan.trace {
            trace.begin_run(&conditions, round);
            session.engine.set_trace(Some(trace.sink()));
        }
        session.engine.set_policy(Box::new(kept));
        let result = match cell.traffic {
            Traffic::Closed(_) => closed(session, cell, conditions, round, sink),
            Traffic::Changing(profile) => changing(session, cell, profile, conditions, round, sink),
        };
        session.engine.set_trace(None);
        result
    }
}

/// One batch, not counted.
fn warm_up(session: &mut Session, cell: &Cell<'_>, kept: &Kept) -> Outcome {
    let concurrency = cell.traffic.concurrency_max();
    let n_requests = concurrency.get().max(WARM_UP_REQUESTS_MIN).min(cell.n_requests) as usize;
    session.engine.set_policy(Box::new(kept.clone()));
    closed_loop(
        &mut session.engine,
        cell.load.requests().take(n_requests),
        concurrency.try_into()?,
        &mut (),
    )?;
    Ok(())
}

fn closed(
    session: &mut Session,
    cell: &Cell<'_>,
    conditions: Conditions,
    round: u32,
    sink: &mut dyn Sink,
) -> Outcome {
    let requests = cell.load.requests().take(cell.n_requests as usize);
    let concurrency: NonZeroUsize = cell.traffic.concurrency_max().try_into()?;
    let answers = closed_loop(&mut session.engine, requests, concurrency, &mut ())?;
    let choices: Vec<Choice> = answers.into_iter().flatten().collect();
    let timelines: Vec<RequestTimeline> = choices.iter().map(|choice| choice.timeline).collect();
    let digest = (conditions.temperature == 0.0).then(|| digest(&choices));
    let run = Run::closed(conditions, round, &timelines).ok_or_else(no_time)?;
    sink.take(Run { digest, ..run }, timelines)
}

/// One run for all of the load and one for each part of it; the whole comes last, so that a cut log has all or begins anew.
fn changing(
    session: &mut Session,
    cell: &Cell<'_>,
    profile: &Profile,
    conditions: Conditions,
    round: u32,
    sink: &mut dyn Sink,
) -> Outcome {
    let mut ended = Ended::default();
    let segments = profiled_loop(&mut session.engine, cell.load.requests(), profile, &mut ended)?;
    let mut whole = Served::default();
    for ((served, concurrency), i) in segments.iter().zip(profile.concurrencies()).zip(1..) {
        whole = whole.and(served);
        let segment = Some(Segment { profile: profile.to_string(), segment: i });
        let part = Conditions { concurrency: concurrency.get(), segment, ..conditions.clone() };
        // A part that one long step of the part before it has used up has no speed.
        if let Some(run) = Run::profiled(part, round, served, &[]) {
            sink.take(run, Vec::new())?;
        }
    }
    let run = Run::profiled(conditions, round, &whole, &ended.0).ok_or_else(no_time)?;
    sink.take(run, ended.0)
}

fn no_time() -> anyhow::Error {
    anyhow::anyhow!("a run took no measurable time; ask for more requests or tokens")
}

/// Timelines of the requests that ended.
#[derive(Default)]
struct Ended(Vec<RequestTimeline>);

impl Observer for Ended {
    fn answered(&mut self, _request_idx: usize, choices: &[Choice]) {
        self.0.extend(choices.iter().map(|choice| choice.timeline));
    }
}

/// A number that differs if any emitted token does.
fn digest(choices: &[Choice]) -> String {
    let tokens = choices.iter().flat_map(|choice| choice.tokens.iter().map(|emitted| emitted.token));
    let bytes = tokens.flat_map(u32::to_le_bytes);
    let hash = bytes.fold(FNV.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV.1));
    format!("{hash:016x}")
}

/// Serves `requests` under a fresh policy.
///
/// # Errors
/// If a step fails.
pub(crate) fn serve(
    session: &mut Session,
    policy: &registry::Config,
    requests: impl IntoIterator<Item = Request>,
    concurrency: NonZeroUsize,
    observer: &mut dyn Observer,
) -> Outcome<Vec<Choice>> {
    let policy = session.policy(policy);
    session.engine.set_policy(policy);
    let choices = closed_loop(&mut session.engine, requests, concurrency, observer)?;
    Ok(choices.into_iter().flatten().collect())
}

/// A bar on stderr; nothing where stderr is not a terminal.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(n_runs: u64) -> Self {
        let bar = ProgressBar::new(n_runs);
        let template = "{elapsed_precise} [{bar:30}] {pos}/{len} runs, {eta} left: {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    fn describe(&self, cell: &Cell<'_>, policy: &registry::Config, what: &str) {
        let (name, temperature) = (&cell.load.name, cell.load.temperature);
        self.bar.set_message(format!("{name}, T={temperature}, {}, {policy}, {what}", cell.traffic));
    }
}
