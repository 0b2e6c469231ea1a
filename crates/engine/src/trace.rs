//! A step in full, for people who ask why: one [`StepTrace`] per step, handed to a sink.
//!
//! Nothing is collected unless a sink is set ([`Engine::set_trace`](crate::Engine::set_trace)). The types borrow from the
//! engine and know no file format; who wants to keep a trace writes it in the sink.

use std::time::Duration;

use dsde_policy::{DraftPosition, Planned, Policy as _, PositionSignals, SeqId};

use crate::engine::Engine;
use crate::passes::Verification;
use crate::report::{FinishReason, RequestTimeline, StepReport};
use crate::request::RequestId;
use crate::sequence::Sequence;

/// Receives every step as it ends, failed ones excepted.
pub type TraceSink = Box<dyn FnMut(&StepTrace<'_>) + Send>;

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct StepTrace<'a> {
    /// Engine clock when the step began.
    pub started: Duration,
    /// Rows, sums of the funnel and times of the whole batch.
    pub report: &'a StepReport,
    /// Every sequence that emitted, in the order of the batch.
    pub sequences: &'a [SequenceTrace<'a>],
}

/// One sequence's part of a step. `emitted <= accepted + 1`, less where a stop condition cut the verdict.
#[derive(Clone, Copy, Debug)]
pub struct SequenceTrace<'a> {
    /// Whose part this is.
    pub seq: SeqId,
    /// Its request.
    pub request: RequestId,
    /// Which continuation of the request, from 0.
    pub choice: u32,
    /// Positions stored before the step, tokens.
    pub context_len: u32,
    /// Sampling temperature; 0 means greedy.
    pub temperature: f32,
    /// Largest useful length, levels: what the policy was told.
    pub limit: u32,
    /// What the policy asked for, before anything was clipped: length, width, reason, whether settled.
    pub asked: Planned,
    /// Tokens that slots were reserved for; of a tree, nodes.
    pub planned: u32,
    /// Tokens drafted.
    pub drafted: u32,
    /// Drafted tokens verified.
    pub verified: u32,
    /// Verified tokens kept.
    pub accepted: u32,
    /// Tokens emitted.
    pub emitted: u32,
    /// Tokens that might be carried: see [`StepReport::ahead`].
    pub ahead: u32,
    /// Of `drafted`, what was carried from the step before: all or nothing.
    pub carried: u32,
    /// Features of the drafted positions, `[drafted]`, in the order of the proposal.
    pub positions: &'a [DraftPosition],
    /// Parent of each verified node, `[verified]`; `None` stands directly after the last known token.
    pub parents: &'a [Option<u32>],
    /// How draft and target compared, `[verified]`; empty unless the policy reads divergences.
    pub signals: &'a [PositionSignals],
    /// The policy's own numbers behind its plan ([`Policy::explain`](dsde_policy::Policy::explain)).
    pub numbers: &'a [(&'static str, f64)],
    /// Its life up to and including this step; `finished` is not set yet.
    pub timeline: &'a RequestTimeline,
    /// Why it ended, if it ended in this step.
    pub finish: Option<FinishReason>,
}

impl Engine {
    /// Hands the step just committed to the sink, if there is one.
    pub(crate) fn trace_step(&mut self, started: Duration, report: &StepReport) {
        let Some(sink) = &mut self.trace else {
            return;
        };
        let mut numbers: Vec<(&'static str, f64)> = Vec::new();
        let ends = self.scratch.drawing.iter().map(|&i| {
            self.policy.explain(self.scheduler.running[i].id, &mut numbers);
            numbers.len()
        });
        let ends: Vec<usize> = ends.collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let parts = self.scratch.drawing.iter().zip(&self.scratch.verifications);
        let sequences: Vec<SequenceTrace<'_>> = parts
            .zip(starts.zip(&ends))
            .map(|((&i, verification), (start, &end))| {
                let asked = self.scratch.asked(i);
                trace(&self.scheduler.running[i], asked, verification, &numbers[start..end])
            })
            .collect();
        sink(&StepTrace { started, report, sequences: &sequences });
    }
}

fn trace<'a>(
    seq: &'a Sequence,
    asked: Option<(u32, Planned)>,
    verification: &'a Verification,
    numbers: &'a [(&'static str, f64)],
) -> SequenceTrace<'a> {
    let turn = &seq.turn;
    let (limit, asked) = asked.unwrap_or((0, Planned::none()));
    SequenceTrace {
        seq: seq.id,
        request: seq.request,
        choice: seq.choice,
        context_len: seq.len() - turn.emitted - turn.n_known,
        temperature: seq.params.temperature,
        limit,
        asked,
        planned: turn.planned,
        drafted: turn.drafted,
        verified: turn.proposal.len(),
        accepted: verification.verdict.accepted(),
        emitted: turn.emitted,
        ahead: turn.ahead_len(),
        carried: turn.carried,
        positions: &turn.positions,
        parents: turn.proposal.parents(),
        signals: &verification.signals,
        numbers,
        timeline: &seq.timeline,
        finish: turn.finish,
    }
}
