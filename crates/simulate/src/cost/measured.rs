//! Costs as a machine showed them: linear models fitted to the steps of a trace.
//!
//! ```text
//! target = curve(rows without prompts) + behind * (something was drafted) + verdict * verified
//!        + divergence * compared + prompt * rows of prompts + seen * positions that rows see
//! draft  = sum over rounds of (curve(rows) + seen * positions that rows see)
//! rest   = step + sequence * sequences + judged * verified
//! ```
//!
//! A curve is straight between knots at powers of two, and beyond its last knot goes on as between the last two.

use std::path::Path;

use crate::cost::least_squares::{Bend, Sample, fit, predicted};
use crate::error::Error;
use crate::pass::Pass;
use crate::trace::{Run, Step};

/// Steps below which no coefficient means anything.
const STEPS_MIN: usize = 50;

/// Seconds of passes and steps of one pair on one machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    target: Line,
    draft: Line,
    rest: Line,
}

/// A curve over rows, and coefficients of what else counts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Line {
    knots: Vec<f64>,
    coefficients: Vec<f64>,
}

impl Line {
    fn seconds(&self, rows: f64, others: &[f64]) -> f64 {
        let mut features = vec![0.0; self.knots.len()];
        add_hats(&self.knots, rows, &mut features);
        features.extend_from_slice(others);
        predicted(&self.coefficients, &features).max(0.0)
    }

    /// * `samples`: features of the curve first, then `n_others`.
    fn of(knots: Vec<f64>, samples: &[Sample], n_others: usize) -> Self {
        let places = knots.windows(3).enumerate();
        let bends: Vec<Bend> =
            places.map(|(first, places)| Bend { first, places: [places[0], places[1], places[2]] }).collect();
        let coefficients = fit(samples, &bends, knots.len() + n_others);
        Self { knots, coefficients }
    }
}

impl Measured {
    /// Fits the steps of a trace.
    ///
    /// * `path`: for messages.
    ///
    /// # Errors
    /// If there are too few steps.
    pub fn fit(runs: &[Run], path: &Path) -> Result<Self, Error> {
        // The first steps of a run touch what nobody has touched.
        let steps: Vec<&Step> = runs.iter().flat_map(|run| run.steps.iter().skip(1)).collect();
        let usable = steps.iter().filter(|step| step.verify_ms > 0.0 && !step.sequences.is_empty()).count();
        if usable < STEPS_MIN {
            let what = format!("costs need at least {STEPS_MIN} steps that emit, got {usable}");
            return Err(Error::Trace { path: path.to_path_buf(), what });
        }
        Ok(Self { target: target_line(&steps), draft: draft_line(&steps), rest: rest_line(&steps) })
    }

    /// Seconds of a target pass.
    pub fn target(&self, pass: &Pass, is_behind_drafting: bool) -> f64 {
        let rows = pass.rows - pass.prompt_rows;
        let seen = pass.positions[0] / pass.seqs.max(1.0) * rows;
        let behind = f64::from(u8::from(is_behind_drafting));
        let others = [behind, pass.verified, pass.compared, pass.prompt_rows, seen];
        self.target.seconds(rows, &others)
    }

    /// Seconds of a draft pass.
    pub fn draft(&self, pass: &Pass) -> f64 {
        self.draft.seconds(pass.rows, &[pass.seen[0]])
    }

    /// Seconds of a step beside its passes.
    pub fn step(&self, pass: &Pass) -> f64 {
        self.rest.seconds(0.0, &[1.0, pass.seqs, pass.verified])
    }
}

fn target_line(steps: &[&Step]) -> Line {
    let rows = |step: &Step| f64::from(step.target_rows - step.prefill_rows.min(step.target_rows));
    let knots = knots(steps.iter().map(|step| rows(step)));
    let samples = steps.iter().filter(|step| step.verify_ms > 0.0).map(|step| {
        let mut features = vec![0.0; knots.len()];
        add_hats(&knots, rows(step), &mut features);
        let n_seqs = step.sequences.len().max(1) as f64;
        features.extend([
            f64::from(u8::from(step.drafted > 0)),
            f64::from(step.verified),
            step.sequences.iter().map(|seq| seq.signals.len()).sum::<usize>() as f64,
            f64::from(step.prefill_rows),
            step.context_len_sum as f64 / n_seqs * rows(step),
        ]);
        Sample { features, seconds: step.verify_ms / 1e3 }
    });
    let samples: Vec<Sample> = samples.collect();
    Line::of(knots, &samples, 5)
}

fn draft_line(steps: &[&Step]) -> Line {
    let rounds: Vec<(&Step, Vec<f64>)> =
        steps.iter().filter_map(|step| Some((*step, rows_of_rounds(step)?))).collect();
    let knots = knots(rounds.iter().flat_map(|(_, rows)| rows.iter().copied()));
    let samples = rounds.iter().map(|(step, rounds)| {
        let mut features = vec![0.0; knots.len()];
        rounds.iter().for_each(|&rows| add_hats(&knots, rows, &mut features));
        let mean = step.context_len_sum as f64 / step.sequences.len().max(1) as f64;
        features.push(mean * rounds.iter().sum::<f64>());
        Sample { features, seconds: step.draft_ms / 1e3 }
    });
    let samples: Vec<Sample> = samples.collect();
    Line::of(knots, &samples, 1)
}

fn rest_line(steps: &[&Step]) -> Line {
    let samples = steps.iter().filter_map(|step| {
        let seconds = (step.step_ms - step.draft_ms - step.verify_ms) / 1e3;
        let features = vec![1.0, step.sequences.len() as f64, f64::from(step.verified)];
        (seconds > 0.0).then_some(Sample { features, seconds })
    });
    Line::of(Vec::new(), &samples.collect::<Vec<_>>(), 3)
}

/// Rows of each draft round: behind the first, one of every sequence that still drafts. `None` where nothing was drafted, or
/// reading what was missed took rounds of its own.
fn rows_of_rounds(step: &Step) -> Option<Vec<f64>> {
    let rows = |round: u32| step.sequences.iter().filter(|seq| seq.drafted >= round).count() as u32;
    let is_tree = step.sequences.iter().any(|seq| seq.parents.is_some());
    let longest = step.sequences.iter().map(|seq| seq.drafted).max()?;
    if is_tree || longest == 0 || longest != step.draft_rounds || step.draft_ms <= 0.0 {
        return None;
    }
    let later: Vec<u32> = (2..=longest).map(rows).collect();
    let first = step.draft_rows.checked_sub(later.iter().sum())?;
    Some(std::iter::once(first).chain(later).map(f64::from).collect())
}

/// Powers of two up to the largest number of rows, at least two of them.
fn knots(rows: impl Iterator<Item = f64>) -> Vec<f64> {
    let max = rows.fold(2.0, f64::max);
    let powers = std::iter::successors(Some(1.0), |&knot| (knot < max).then_some(2.0 * knot));
    powers.collect()
}

/// Adds the shares of the two knots around `rows`; beyond the last knot the last two go on.
fn add_hats(knots: &[f64], rows: f64, features: &mut [f64]) {
    let Some(last) = knots.len().checked_sub(2) else { return };
    let i = knots[1..=last].iter().take_while(|&&knot| knot <= rows).count();
    let share = (rows - knots[i]) / (knots[i + 1] - knots[i]);
    features[i] += 1.0 - share;
    features[i + 1] += share;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Sequence, Signals};

    /// A step of `n` sequences that draft `len` each on a machine with known costs, ms.
    fn step(n: u32, len: u32, prefill_rows: u32, is_compared: bool) -> Step {
        let signals = vec![Signals::default(); if is_compared { len as usize } else { 0 }];
        let compared = n * signals.len() as u32;
        let sequence =
            |_| Sequence { drafted: len, verified: len, signals: signals.clone(), ..Sequence::default() };
        let rows = n * (1 + len);
        let draft_ms: f64 = f64::from(len) * (1.0 + 0.05 * f64::from(n));
        let verified = n * len;
        let verify_ms = 10.0
            + 0.2 * f64::from(rows)
            + 0.3 * f64::from(prefill_rows)
            + 0.05 * f64::from(verified)
            + 0.1 * f64::from(compared)
            + if len > 0 { 1.0 } else { 0.0 };
        Step {
            step_ms: draft_ms + verify_ms + 0.5 + 0.01 * f64::from(n),
            draft_ms,
            verify_ms,
            target_rows: rows + prefill_rows,
            prefill_rows,
            draft_rounds: len,
            draft_rows: n * len,
            drafted: verified,
            verified,
            sequences: (0..n).map(sequence).collect(),
            ..Step::default()
        }
    }

    #[test]
    fn costs_come_back() {
        let sizes = [1, 2, 4, 7, 16].into_iter().flat_map(|n| [0, 1, 2, 4, 5].map(|len| (n, len)));
        let kinds = [(0, false), (0, true), (0, false), (40, false)];
        let steps = sizes.flat_map(|(n, len)| kinds.map(|(prompt, signals)| step(n, len, prompt, signals)));
        let run = Run { steps: steps.collect(), ..Run::default() };
        let costs = Measured::fit(&[run], Path::new("trace.jsonl")).unwrap();
        let pass = |n: f64, len: f64, prompt_rows: f64| Pass {
            seqs: n,
            rows: n * (1.0 + len) + prompt_rows,
            prompt_rows,
            verified: n * len,
            ..Pass::default()
        };
        let compared = Pass { compared: 30.0, ..pass(10.0, 3.0, 20.0) };
        // 10 + 0.2 * 12 = 12.4; 10 + 0.2 * 40 + 0.05 * 30 + 1 + 0.3 * 20 = 26.5, and 0.1 * 30; 1 + 0.05 * 8 = 1.4; 0.5 + 0.08.
        let cases = [
            ("plain", costs.target(&pass(12.0, 0.0, 0.0), false), 12.4e-3),
            ("verifying", costs.target(&pass(10.0, 3.0, 20.0), true), 26.5e-3),
            ("comparing", costs.target(&compared, true), 29.5e-3),
            ("draft", costs.draft(&Pass { rows: 8.0, ..Pass::default() }), 1.4e-3),
            ("rest", costs.step(&pass(8.0, 1.0, 0.0)), 0.58e-3),
        ];
        for (name, got, expected) in cases {
            assert!((got / expected - 1.0).abs() < 0.02, "{name}: {got} for {expected}");
        }
    }

    #[test]
    fn a_few_steps_say_nothing() {
        let run = Run { steps: vec![step(1, 2, 0, false); 20], ..Run::default() };
        let error = Measured::fit(&[run], Path::new("t")).unwrap_err().to_string();
        assert_eq!(error, "t holds too little: costs need at least 50 steps that emit, got 19");
    }
}
