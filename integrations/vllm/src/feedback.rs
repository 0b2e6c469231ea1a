//! What a policy learns after a step.

use std::time::Duration;

use dsde_policy::{Outcome, PositionSignals, SeqId, StepFeedback};
use pyo3::prelude::*;

use crate::columns::{self, AMOUNT, Given, PROBABILITY_OR_NAN, counts, duration, numbers, value_error};

/// The attributes of the Python dataclass `Feedback`, unchecked.
#[derive(FromPyObject)]
pub struct Columns<'py> {
    seqs: Bound<'py, PyAny>,
    planned: Given<'py>,
    drafted: Given<'py>,
    verified: Given<'py>,
    accepted: Given<'py>,
    temperatures: Given<'py>,
    signal_lens: Given<'py>,
    klds: Given<'py>,
    rejections: Given<'py>,
    draft_entropies: Given<'py>,
    target_entropies: Given<'py>,
    target_rows: Option<u32>,
    prefill_rows: u32,
    draft_rounds: Option<u32>,
    draft_rows: Option<u32>,
    context_lens: Given<'py>,
    is_foreseen: Option<Vec<bool>>,
    draft_time: f64,
    verify_time: f64,
    step_time: Option<f64>,
}

/// A checked `Feedback`.
pub struct Feedback {
    /// Without their signals, which follow one another in `signals`.
    outcomes: Vec<Outcome<'static>>,
    signals: Vec<PositionSignals>,
    signal_lens: Vec<u32>,
    target_rows: u32,
    prefill_rows: u32,
    draft_rounds: u32,
    draft_rows: u32,
    draft_time: Duration,
    verify_time: Duration,
    step_time: Duration,
}

impl Feedback {
    /// Checks every column, and that lengths fall from planned to accepted.
    ///
    /// # Errors
    /// `ValueError` or `TypeError` with the name of the column, what was expected and what came.
    pub fn new(columns: &Columns<'_>) -> PyResult<Self> {
        let seqs = columns::seqs("seqs", &columns.seqs)?;
        let n = seqs.len();
        let verified = counts("verified", &columns.verified, n, |_| 0)?;
        let accepted = counts("accepted", &columns.accepted, n, |_| 0)?;
        let drafted = counts("drafted", &columns.drafted, n, |i| verified[i])?;
        let planned = counts("planned", &columns.planned, n, |i| drafted[i])?;
        let context_lens = counts("context_lens", &columns.context_lens, n, |_| 0)?;
        let is_foreseen = columns.is_foreseen.clone().unwrap_or_else(|| vec![false; n]);
        columns::check_len("is_foreseen", is_foreseen.len(), n)?;
        let temperatures = numbers("temperatures", &columns.temperatures, n, 0.0, AMOUNT)?;
        check_funnel(("accepted", &accepted), ("verified", &verified))?;
        check_funnel(("verified", &verified), ("drafted", &drafted))?;
        check_funnel(("drafted", &drafted), ("planned", &planned))?;
        let (n_verified, n_drafted) =
            (columns::total_len(&verified)? as u32, columns::total_len(&drafted)? as u32);
        let has_signals = columns.klds.is_some();
        let signal_lens =
            counts("signal_lens", &columns.signal_lens, n, |i| if has_signals { verified[i] } else { 0 })?;
        let outcomes = (0..n).map(|i| Outcome {
            seq: SeqId(seqs[i]),
            planned: planned[i],
            drafted: drafted[i],
            verified: verified[i],
            accepted: accepted[i],
            temperature: temperatures[i] as f32,
            context_len: context_lens[i],
            is_foreseen: is_foreseen[i],
            signals: &[],
        });
        let (draft_time, verify_time) =
            (duration("draft_time", columns.draft_time)?, duration("verify_time", columns.verify_time)?);
        let step_time = columns.step_time.unwrap_or(columns.draft_time + columns.verify_time);
        Ok(Self {
            outcomes: outcomes.collect(),
            signals: signals(columns, columns::total_len(&signal_lens)?)?,
            target_rows: columns.target_rows.unwrap_or(n as u32 + n_verified),
            prefill_rows: columns.prefill_rows,
            draft_rounds: columns.draft_rounds.unwrap_or(drafted.iter().copied().max().unwrap_or(0)),
            draft_rows: columns.draft_rows.unwrap_or(n_drafted),
            draft_time,
            verify_time,
            step_time: duration("step_time", step_time)?,
            signal_lens,
        })
    }

    /// Shows a policy the feedback of a step.
    pub fn show(&self, step: u64, learn: impl FnOnce(&StepFeedback<'_>)) {
        let mut rest = &self.signals[..];
        let outcomes: Vec<Outcome<'_>> = self
            .outcomes
            .iter()
            .zip(&self.signal_lens)
            .map(|(outcome, &len)| {
                let (signals, others) = rest.split_at(len as usize);
                rest = others;
                Outcome { signals, ..*outcome }
            })
            .collect();
        learn(&StepFeedback {
            step,
            outcomes: &outcomes,
            target_rows: self.target_rows,
            prefill_rows: self.prefill_rows,
            draft_rounds: self.draft_rounds,
            draft_rows: self.draft_rows,
            experts: None,
            draft_time: self.draft_time,
            verify_time: self.verify_time,
            step_time: self.step_time,
        });
    }
}

/// Signals of all sequences, one behind the other.
fn signals(columns: &Columns<'_>, n: usize) -> PyResult<Vec<PositionSignals>> {
    let klds = numbers("klds", &columns.klds, n, 0.0, AMOUNT)?;
    let rejections = numbers("rejections", &columns.rejections, n, f64::NAN, PROBABILITY_OR_NAN)?;
    let draft_entropies = numbers("draft_entropies", &columns.draft_entropies, n, 0.0, AMOUNT)?;
    let target_entropies = numbers("target_entropies", &columns.target_entropies, n, 0.0, AMOUNT)?;
    let position = |i: usize| PositionSignals {
        kld: klds[i] as f32,
        rejection: rejections[i] as f32,
        draft_entropy: draft_entropies[i] as f32,
        target_entropy: target_entropies[i] as f32,
    };
    Ok((0..n).map(position).collect())
}

fn check_funnel((low_name, low): (&str, &[u32]), (high_name, high): (&str, &[u32])) -> PyResult<()> {
    match low.iter().zip(high).find(|(low, high)| low > high) {
        None => Ok(()),
        Some((low, high)) => {
            Err(value_error(low_name, &format!("at most {high_name}, which is {high}"), low))
        }
    }
}
