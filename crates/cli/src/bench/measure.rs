//! Measures every policy in every cell, round after round.
//!
//! A round measures all policies in all cells once, cell by cell, and begins each cell with another policy than the round
//! before. So runs that are compared stand close in time, and a measurement that is ended early has the same number of rounds
//! everywhere, give or take one.
//!
//! Before its first run in a cell a policy serves a warm-up there that is not counted.

use std::collections::HashSet;
use std::num::NonZeroU32;

use dsde_bench::{Conditions, Log, Profile, Run, Seen, Segment, Served};
use indicatif::ProgressBar;

use super::loads::Asked;
use super::plan::{Budget, Cell};
use crate::failure::Outcome;
use crate::progress;
use crate::prompts::Ask;

/// Fewest requests of a warm-up: learning policies need some steps.
const WARM_UP_REQUESTS_MIN: u32 = 4;

/// Who is measured: an engine, or a server.
pub(super) trait Subject {
    /// What is sent for a prompt.
    type Request: Asked;

    /// The request of a prompt at a temperature.
    ///
    /// # Errors
    /// If the prompt or the temperature cannot be used.
    fn request(&self, ask: &Ask, temperature: f32) -> Outcome<Self::Request>;

    /// Serves the first `n_requests` of a cell under one of its policies.
    ///
    /// # Errors
    /// If it fails.
    fn warm_up(&mut self, turn: &Turn<'_, Self::Request>, n_requests: u32) -> Outcome;

    /// One run. Of a load that changes there is one more for every part, before the run for all of it: so a cut log has all or
    /// begins anew.
    ///
    /// # Errors
    /// If it fails or takes no measurable time.
    fn run(&mut self, turn: &Turn<'_, Self::Request>) -> Outcome<Vec<(Run, Seen)>>;
}

/// Takes what was measured.
pub(super) trait Sink {
    /// The runs of earlier measurements, which are not repeated.
    fn log(&self) -> Option<&Log>;

    /// One measured run.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn take(&mut self, run: Run, seen: Seen) -> Outcome;
}

/// What is measured, and how often.
pub(super) struct Plan<'a, R> {
    pub(super) cells: Vec<Cell<'a, R>>,
    /// Their names.
    pub(super) policies: &'a [String],
    pub(super) rounds: u32,
    pub(super) budget: Budget,
}

/// How far the plan got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    /// Runs that were measured, now or before.
    pub(super) measured: usize,
    /// Runs of the plan.
    pub(super) planned: usize,
}

/// One run of the plan.
pub(super) struct Turn<'a, R> {
    pub(super) cell: &'a Cell<'a, R>,
    pub(super) cell_idx: usize,
    pub(super) policy: &'a str,
    pub(super) policy_idx: usize,
    pub(super) round: u32,
}

/// A run for every part of a load that changes.
pub(super) fn parts<R>(turn: &Turn<'_, R>, profile: &Profile, served: &[Served]) -> Vec<(Run, Seen)> {
    let whole = turn.cell.conditions(turn.policy);
    let part = |((served, concurrency), i): ((&Served, &NonZeroU32), u32)| {
        let segment = Some(Segment { profile: profile.to_string(), segment: i });
        let conditions = Conditions { concurrency: concurrency.get(), segment, ..whole.clone() };
        // A part that one long step of the part before it has used up has no speed.
        let run = Run::profiled(conditions, turn.round, served, &Seen::default())?;
        Some((run, Seen::default()))
    };
    served.iter().zip(profile.concurrencies()).zip(1..).filter_map(part).collect()
}

/// Measures until everything is measured or the time is spent.
///
/// # Errors
/// If a run fails or `sink` cannot keep it.
pub(super) fn measure<S: Subject>(
    plan: &Plan<'_, S::Request>,
    subject: &mut S,
    sink: &mut dyn Sink,
) -> Outcome<Coverage> {
    let planned = plan.cells.len() * plan.policies.len() * plan.rounds as usize;
    let progress = Progress::new(planned as u64);
    let mut warm = HashSet::new();
    let mut measured = 0;
    for round in 0..plan.rounds {
        for (cell_idx, cell) in plan.cells.iter().enumerate() {
            for place in 0..plan.policies.len() {
                let policy_idx = (round as usize + place) % plan.policies.len();
                let policy = plan.policies[policy_idx].as_str();
                let is_known = sink.log().is_some_and(|log| log.has(&cell.conditions(policy), round));
                if is_known {
                    measured += 1;
                } else if !plan.budget.is_spent() {
                    let turn = Turn { cell, cell_idx, policy, policy_idx, round };
                    if warm.insert((cell_idx, policy_idx)) {
                        progress.describe(&turn, "warm-up");
                        subject.warm_up(&turn, warm_up_len(cell))?;
                    }
                    progress.describe(&turn, &format!("round {} of {}", round + 1, plan.rounds));
                    for (run, seen) in subject.run(&turn)? {
                        sink.take(run, seen)?;
                    }
                    measured += 1;
                }
                progress.bar.inc(1);
            }
        }
    }
    progress.bar.finish_and_clear();
    Ok(Coverage { measured, planned })
}

/// One batch.
fn warm_up_len<R>(cell: &Cell<'_, R>) -> u32 {
    cell.traffic.concurrency_max().get().max(WARM_UP_REQUESTS_MIN).min(cell.n_requests)
}

/// A run that cannot be judged.
pub(super) fn no_time() -> anyhow::Error {
    anyhow::anyhow!("a run took no measurable time; ask for more requests or tokens")
}

/// A bar on stderr; nothing where stderr is not a terminal.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(n_runs: u64) -> Self {
        Self { bar: progress::bar(n_runs, "{pos}/{len} runs, {eta} left: {msg}") }
    }

    fn describe<R>(&self, turn: &Turn<'_, R>, what: &str) {
        let Turn { cell, policy, .. } = turn;
        let (name, temperature) = (&cell.load.name, cell.load.temperature);
        self.bar.set_message(format!("{name}, T={temperature}, {}, {policy}, {what}", cell.traffic));
    }
}
