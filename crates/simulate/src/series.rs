//! What happened over time, in a bounded number of parts whatever the length of a run.

use std::time::Duration;

use dsde_engine::StepReport;
use serde::{Deserialize, Serialize};

/// Parts of a series at most; two neighbours become one where there would be more.
const PARTS_MAX: usize = 128;

/// Sums over the steps of a part. Means of lengths and counts are per step, weighted by nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// When it ends, seconds since the first request.
    pub end_s: f64,
    /// Steps.
    pub steps: u64,
    /// Tokens emitted.
    pub emitted: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were verified.
    pub verified: u64,
    /// Verified tokens that were kept.
    pub accepted: u64,
    /// Sequences that took part, summed over steps.
    pub sequences: u64,
    /// Requests that waited behind each step, summed.
    pub waiting: u64,
}

impl Part {
    fn add(&mut self, other: &Self) {
        self.end_s = other.end_s;
        self.steps += other.steps;
        self.emitted += other.emitted;
        self.drafted += other.drafted;
        self.verified += other.verified;
        self.accepted += other.accepted;
        self.sequences += other.sequences;
        self.waiting += other.waiting;
    }

    /// Tokens drafted per sequence and step.
    pub fn drafted_len(&self) -> Option<f64> {
        share(self.drafted, self.sequences)
    }

    /// Accepted over verified tokens.
    pub fn acceptance_rate(&self) -> Option<f64> {
        share(self.accepted, self.verified)
    }

    /// Sequences per step.
    pub fn running(&self) -> Option<f64> {
        share(self.sequences, self.steps)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Parts of equal time.
#[derive(Clone, Debug)]
pub struct Series {
    start: Duration,
    /// Time of a part, seconds.
    width: f64,
    parts: Vec<Part>,
}

impl Series {
    /// A series that begins at `start`.
    pub fn new(start: Duration) -> Self {
        Self { start, width: 0.01, parts: Vec::new() }
    }

    /// Adds a step that ended at `now`.
    pub fn push(&mut self, now: Duration, waiting: u32, report: &StepReport) {
        let at = (now - self.start).as_secs_f64();
        while at >= self.width * PARTS_MAX as f64 {
            self.halve();
        }
        let i = (at / self.width) as usize;
        while self.parts.len() <= i {
            let end_s = self.width * (self.parts.len() + 1) as f64;
            self.parts.push(Part { end_s, ..Part::default() });
        }
        let part = &mut self.parts[i];
        part.add(&Part {
            end_s: part.end_s,
            steps: 1,
            emitted: report.emitted.into(),
            drafted: report.drafted.into(),
            verified: report.verified.into(),
            accepted: report.accepted.into(),
            sequences: report.n_seqs.into(),
            waiting: waiting.into(),
        });
    }

    fn halve(&mut self) {
        self.width *= 2.0;
        let pairs = self.parts.chunks(2).enumerate().map(|(i, pair)| {
            let mut sum = pair[0];
            pair[1..].iter().for_each(|part| sum.add(part));
            sum.end_s = self.width * (i + 1) as f64;
            sum
        });
        self.parts = pairs.collect();
    }

    /// The parts in order.
    pub fn into_parts(self) -> Vec<Part> {
        self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_and_lose_nothing() {
        let mut series = Series::new(Duration::from_secs(5));
        for i in 0..10_000 {
            let report = StepReport { emitted: 2, n_seqs: 1, ..StepReport::default() };
            series.push(Duration::from_secs(5) + Duration::from_millis(37 * i), 3, &report);
        }
        let parts = series.into_parts();
        assert!(parts.len() <= PARTS_MAX && parts.len() > PARTS_MAX / 2, "{}", parts.len());
        let sum = |of: fn(&Part) -> u64| parts.iter().map(of).sum::<u64>();
        assert_eq!((sum(|part| part.emitted), sum(|part| part.waiting)), (20_000, 30_000));
        assert!(parts.windows(2).all(|pair| pair[0].end_s < pair[1].end_s));
    }
}
