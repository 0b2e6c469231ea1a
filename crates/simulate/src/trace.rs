//! Reads what `--trace` writes: steps that a machine took, and what became of their drafts.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;

use dsde_sampling::proposal::NODES_MAX;
use serde::Deserialize;

use crate::error::Error;

/// One line.
#[derive(Deserialize)]
struct Line {
    run: Option<RunLine>,
    step: Option<Step>,
}

/// What the steps behind it belong to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct RunLine {
    /// Policy with its parameters.
    pub policy: String,
    /// Name of the workload.
    pub workload: String,
    /// 0 is greedy.
    pub temperature: f64,
    /// Requests in flight.
    pub concurrency: u32,
}

/// One step; fields are those of `docs/trace.md`.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(missing_docs, reason = "docs/trace.md describes every field")]
pub struct Step {
    pub step_ms: f64,
    pub draft_ms: f64,
    pub verify_ms: f64,
    pub target_rows: u32,
    pub prefill_rows: u32,
    pub draft_rounds: u32,
    pub draft_rows: u32,
    pub context_len_sum: u64,
    pub drafted: u32,
    pub verified: u32,
    pub emitted: u32,
    pub sequences: Vec<Sequence>,
}

/// A sequence's part of a step.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(missing_docs, reason = "docs/trace.md describes every field")]
pub struct Sequence {
    pub request: u64,
    #[serde(default)]
    pub choice: u32,
    pub context_len: u32,
    pub temperature: f64,
    pub drafted: u32,
    pub verified: u32,
    pub accepted: u32,
    pub emitted: u32,
    #[serde(default)]
    pub positions: Vec<Position>,
    #[serde(default)]
    pub parents: Option<Vec<Option<u32>>>,
    #[serde(default)]
    pub signals: Vec<Signals>,
}

/// The draft's certainty at a drafted position.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[expect(missing_docs, reason = "docs/trace.md describes every field")]
pub struct Position {
    pub entropy: Option<f32>,
    pub top_prob: Option<f32>,
}

/// How draft and target compared at a verified position.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[expect(missing_docs, reason = "docs/trace.md describes every field")]
pub struct Signals {
    pub kld: Option<f32>,
    pub rejection: Option<f32>,
    pub draft_entropy: Option<f32>,
    pub target_entropy: Option<f32>,
}

/// Steps that belong together.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Under which conditions; of `serve` and `generate` nothing is known.
    pub conditions: RunLine,
    /// In order.
    pub steps: Vec<Step>,
}

/// Longest context, tokens: that of the longest model that is read.
const CONTEXT_LEN_MAX: u32 = 1 << 24;
/// Times of a step, ms: from what a clock can tell to an hour; 0 is none.
const TIMES_MS: RangeInclusive<f64> = 1e-6..=3.6e6;

/// Reads a trace, run by run.
///
/// # Errors
/// If the file cannot be read, or a line is none of a trace or tells of a step that there cannot be.
pub fn read(path: &Path) -> Result<Vec<Run>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_path_buf(), source };
    let lines = BufReader::new(File::open(path).map_err(unreadable)?).lines();
    let mut runs: Vec<Run> = Vec::new();
    for (number, line) in (1..).zip(lines) {
        let line = line.map_err(unreadable)?;
        let bad = |what: String| Error::TraceLine { path: path.to_path_buf(), number, what };
        let line: Line = serde_json::from_str(&line).map_err(|error| bad(error.to_string()))?;
        match (line.run, line.step) {
            (Some(conditions), None) => runs.push(Run { conditions, steps: Vec::new() }),
            (None, Some(step)) => {
                step.check().map_err(bad)?;
                if runs.is_empty() {
                    runs.push(Run::default());
                }
                runs.last_mut().expect("there is one").steps.push(step);
            }
            _ => return Err(bad("expected an object with `run` or `step`".to_owned())),
        }
    }
    Ok(runs)
}

impl Step {
    /// Refuses what no engine does: what is made of a trace takes as much memory as its numbers say.
    fn check(&self) -> Result<(), String> {
        for (name, ms) in
            [("step_ms", self.step_ms), ("draft_ms", self.draft_ms), ("verify_ms", self.verify_ms)]
        {
            if ms != 0.0 && !TIMES_MS.contains(&ms) {
                return Err(format!("`{name}` must be 0 or in {TIMES_MS:?}, got {ms}"));
            }
        }
        self.sequences.iter().try_for_each(Sequence::check)
    }
}

impl Sequence {
    fn check(&self) -> Result<(), String> {
        let Self { accepted, verified, drafted, emitted, context_len, .. } = *self;
        let funnel = [accepted, verified, drafted, NODES_MAX];
        if !funnel.is_sorted() {
            return Err(format!(
                "a sequence must have `accepted` <= `verified` <= `drafted` <= {NODES_MAX}, got {accepted}, {verified} and {drafted}"
            ));
        }
        if emitted > accepted + 1 {
            return Err(format!("`emitted` must be at most `accepted` + 1, got {emitted} and {accepted}"));
        }
        if context_len > CONTEXT_LEN_MAX {
            return Err(format!("`context_len` must be at most {CONTEXT_LEN_MAX}, got {context_len}"));
        }
        let probabilities = self.signals.iter().map(|signals| signals.rejection);
        let probabilities = probabilities.chain(self.positions.iter().map(|position| position.top_prob));
        if let Some(got) = probabilities.flatten().find(|got| !(0.0..=1.0).contains(got)) {
            return Err(format!("a probability must be in 0..=1, got {got}"));
        }
        let of_signals = |signals: &Signals| [signals.kld, signals.draft_entropy, signals.target_entropy];
        let nats = self.signals.iter().flat_map(of_signals);
        let nats = nats.chain(self.positions.iter().map(|position| position.entropy));
        match nats.flatten().find(|got| !got.is_finite() || *got < 0.0) {
            Some(got) => Err(format!("a divergence or entropy must be a finite number from 0 on, got {got}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What is said of a step whose one sequence has these fields, too.
    fn message(fields: &str) -> String {
        let sequence = format!(
            r#"{{"request": 0, "context_len": 9, "temperature": 0, "drafted": 2, "verified": 2, "accepted": 1, "emitted": 2, {fields}}}"#
        );
        let step = format!(
            r#"{{"step_ms": 2, "draft_ms": 0.5, "verify_ms": 1, "target_rows": 3, "prefill_rows": 0, "draft_rounds": 2, "draft_rows": 2, "context_len_sum": 9, "drafted": 2, "verified": 2, "emitted": 2, "sequences": [{sequence}]}}"#
        );
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, r#"{{"step": {step}}}"#).unwrap();
        read(file.path()).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn steps_that_no_engine_takes_are_refused_with_their_line() {
        assert_eq!(message(r#""signals": [{"kld": 0.5, "rejection": 1}]"#), "");
        let cases = [
            (r#""signals": [{"kld": 1e300}]"#, "number out of range"),
            (r#""signals": [{"kld": -0.5}]"#, "from 0 on, got -0.5"),
            (r#""signals": [{"rejection": -0.5}]"#, "in 0..=1, got -0.5"),
            (r#""positions": [{"top_prob": 2}]"#, "in 0..=1, got 2"),
        ];
        for (fields, expected) in cases {
            let message = message(fields);
            assert!(message.starts_with("line 1 of ") && message.contains(expected), "{message}");
        }
        let step = |verify_ms, sequence| Step { verify_ms, sequences: vec![sequence], ..Step::default() };
        let sequence = Sequence { drafted: 3, verified: 2, accepted: 1, emitted: 2, ..Sequence::default() };
        assert_eq!(step(1.0, sequence.clone()).check(), Ok(()));
        let refused = [
            step(1e300, sequence.clone()),
            step(-1.0, sequence.clone()),
            step(1.0, Sequence { emitted: u32::MAX, ..sequence.clone() }),
            step(1.0, Sequence { accepted: 3, ..sequence.clone() }),
            step(1.0, Sequence { drafted: 65, ..sequence.clone() }),
            step(1.0, Sequence { context_len: u32::MAX, ..sequence }),
        ];
        refused.iter().for_each(|step| assert!(step.check().is_err(), "{step:?}"));
    }
}
