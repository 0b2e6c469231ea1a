//! Reads what `--trace` writes: steps that a machine took, and what became of their drafts.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

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

/// Reads a trace, run by run.
///
/// # Errors
/// If the file cannot be read or a line is none of a trace.
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
