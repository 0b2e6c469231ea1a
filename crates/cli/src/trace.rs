//! `--trace`: every step as a line of JSON; `docs/trace.md` describes the fields.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dsde_bench::Conditions;
use dsde_bench::metrics::milliseconds;
use dsde_engine::trace::{SequenceTrace, StepTrace, TraceSink};
use dsde_policy::{DraftPosition, ExpertsWoken, PositionSignals};
use serde::Serialize;

use crate::answer::finish_reason;
use crate::failure::{OrUsage as _, Outcome};

/// A trace that is being written.
#[derive(Clone)]
pub(crate) struct TraceFile {
    path: PathBuf,
    writer: Arc<Mutex<Writer>>,
}

struct Writer {
    out: BufWriter<File>,
    /// The first failure ends the trace and nothing else, until [`TraceFile::finish`] tells it.
    written: io::Result<()>,
}

impl TraceFile {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn create(path: &Path) -> Outcome<Self> {
        let file = File::create(path).or_usage_of(format!("--trace {} cannot be written", path.display()))?;
        let writer = Writer { out: BufWriter::with_capacity(1 << 16, file), written: Ok(()) };
        Ok(Self { path: path.to_path_buf(), writer: Arc::new(Mutex::new(writer)) })
    }

    /// What the engine hands its steps to.
    pub(crate) fn sink(&self) -> TraceSink {
        let trace = self.clone();
        Box::new(move |step| trace.writer().write(&Line::Step(Step::of(step))))
    }

    /// Tells that the steps after this one belong to a run of a benchmark.
    pub(crate) fn begin_run(&self, conditions: &Conditions, round: u32) {
        self.writer().write(&Line::Run { conditions, round });
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// If any line could not be written.
    pub(crate) fn finish(&self) -> Outcome {
        let mut writer = self.writer();
        let written = std::mem::replace(&mut writer.written, Ok(()));
        let finished = written.and_then(|()| writer.out.flush());
        let context = || format!("cannot write the trace {}", self.path.display());
        Ok(finished.map_err(|error| anyhow::Error::new(error).context(context()))?)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn write(&mut self, line: &Line<'_>) {
        if self.written.is_ok() {
            let json = serde_json::to_writer(&mut self.out, line).map_err(io::Error::from);
            self.written = json.and_then(|()| self.out.write_all(b"\n"));
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Run {
        #[serde(flatten)]
        conditions: &'a Conditions,
        round: u32,
    },
    Step(Step<'a>),
}

#[derive(Serialize)]
struct Step<'a> {
    step: u64,
    started_ms: f64,
    step_ms: f64,
    draft_ms: f64,
    verify_ms: f64,
    #[serde(skip_serializing_if = "is_zero")]
    blocks_lent: u32,
    target_rows: u32,
    prefill_rows: u32,
    draft_rounds: u32,
    draft_rows: u32,
    context_len_sum: u64,
    /// Mean over layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    experts_woken: Option<f64>,
    preempted: u32,
    planned: u32,
    drafted: u32,
    verified: u32,
    accepted: u32,
    emitted: u32,
    #[serde(skip_serializing_if = "is_zero")]
    ahead: u32,
    #[serde(skip_serializing_if = "is_zero")]
    carried: u32,
    sequences: Vec<Sequence<'a>>,
}

#[derive(Serialize)]
struct Sequence<'a> {
    seq: u64,
    request: u64,
    choice: u32,
    context_len: u32,
    temperature: f32,
    reason: &'static str,
    is_settled: bool,
    limit: u32,
    asked_len: u32,
    #[serde(skip_serializing_if = "is_chain")]
    asked_width: u32,
    planned: u32,
    drafted: u32,
    verified: u32,
    accepted: u32,
    emitted: u32,
    #[serde(skip_serializing_if = "is_zero")]
    ahead: u32,
    #[serde(skip_serializing_if = "is_zero")]
    carried: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    positions: Vec<Position>,
    /// Of a tree only.
    #[serde(skip_serializing_if = "Option::is_none")]
    parents: Option<&'a [Option<u32>]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signals: Vec<Divergence>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    numbers: BTreeMap<&'static str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Position {
    index: u32,
    entropy: f32,
    top_prob: f32,
    path_log_prob: f32,
}

#[derive(Serialize)]
struct Divergence {
    kld: f32,
    rejection: f32,
    draft_entropy: f32,
    target_entropy: f32,
}

fn is_chain(width: &u32) -> bool {
    *width == 1
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl<'a> Step<'a> {
    fn of(trace: &StepTrace<'a>) -> Self {
        let report = trace.report;
        Self {
            step: report.step,
            started_ms: ms(trace.started),
            step_ms: ms(report.step_time),
            draft_ms: ms(report.draft_time),
            verify_ms: ms(report.verify_time),
            blocks_lent: report.blocks_lent,
            target_rows: report.target_rows,
            prefill_rows: report.prefill_rows,
            draft_rounds: report.draft_rounds,
            draft_rows: report.draft_rows,
            context_len_sum: report.context_len_sum,
            experts_woken: report.experts.map(ExpertsWoken::per_layer),
            preempted: report.preempted,
            planned: report.planned,
            drafted: report.drafted,
            verified: report.verified,
            accepted: report.accepted,
            emitted: report.emitted,
            ahead: report.ahead,
            carried: report.carried,
            sequences: trace.sequences.iter().map(Sequence::of).collect(),
        }
    }
}

impl<'a> Sequence<'a> {
    fn of(trace: &SequenceTrace<'a>) -> Self {
        let asked = trace.asked;
        Self {
            seq: trace.seq.0,
            request: trace.request.0,
            choice: trace.choice,
            context_len: trace.context_len,
            temperature: trace.temperature,
            reason: asked.reason,
            is_settled: asked.is_settled,
            limit: trace.limit,
            asked_len: asked.len,
            asked_width: asked.width,
            planned: trace.planned,
            drafted: trace.drafted,
            verified: trace.verified,
            accepted: trace.accepted,
            emitted: trace.emitted,
            ahead: trace.ahead,
            carried: trace.carried,
            positions: positions(trace.positions),
            parents: is_tree(trace.parents).then_some(trace.parents),
            signals: trace.signals.iter().map(Divergence::from).collect(),
            numbers: trace.numbers.iter().copied().collect(),
            finish_reason: trace.finish.map(finish_reason),
        }
    }
}

/// Features of the draft; none where the policy reads none, for they hold no information then.
fn positions(positions: &[DraftPosition]) -> Vec<Position> {
    let is_known = |position: &DraftPosition| position.entropy != 0.0 || position.top_prob != 1.0;
    match positions.iter().any(is_known) {
        true => positions.iter().map(Position::from).collect(),
        false => Vec::new(),
    }
}

/// Whether some node does not hang on the one before it.
fn is_tree(parents: &[Option<u32>]) -> bool {
    (0_u32..).zip(parents).any(|(i, &parent)| parent != i.checked_sub(1))
}

fn ms(time: Duration) -> f64 {
    milliseconds(time)
}

impl From<&DraftPosition> for Position {
    fn from(position: &DraftPosition) -> Self {
        let DraftPosition { index, entropy, top_prob, path_log_prob } = *position;
        Self { index, entropy, top_prob, path_log_prob }
    }
}

impl From<&PositionSignals> for Divergence {
    fn from(signals: &PositionSignals) -> Self {
        let PositionSignals { kld, rejection, draft_entropy, target_entropy } = *signals;
        Self { kld, rejection, draft_entropy, target_entropy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_branches_make_a_tree() {
        assert!(!is_tree(&[]));
        assert!(!is_tree(&[None, Some(0), Some(1)]));
        assert!(is_tree(&[None, None]));
        assert!(is_tree(&[None, Some(0), Some(0)]));
    }

    #[test]
    fn features_that_nobody_asked_for_are_left_out() {
        let unknown = DraftPosition { index: 0, entropy: 0.0, top_prob: 1.0, path_log_prob: 0.0 };
        assert!(positions(&[unknown, unknown]).is_empty());
        let known = DraftPosition { top_prob: 0.5, ..unknown };
        assert_eq!(positions(&[unknown, known]).len(), 2);
    }
}
