//! What a step of this engine costs: one line for a draft round, one for everything else ([`crate::cost`]).

use crate::StepFeedback;
use crate::cost::CostLine;

/// The two lines, over the rows of a draft round and over those of the target pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepCost {
    /// Seconds of one draft round over its rows.
    pub round: CostLine,
    /// Seconds of a step without its drafting over the rows of the target pass.
    pub rest: CostLine,
}

impl StepCost {
    /// Takes in one step. Of several rounds the mean counts, catching up included.
    pub fn learn(&mut self, feedback: &StepFeedback<'_>) {
        if feedback.draft_rounds > 0 {
            let n_rounds = f64::from(feedback.draft_rounds);
            let rows = f64::from(feedback.draft_rows) / n_rounds;
            self.round.learn(rows, feedback.draft_time.as_secs_f64() / n_rounds);
        }
        let rest = feedback.step_time.saturating_sub(feedback.draft_time);
        self.rest.learn(f64::from(feedback.target_rows), rest.as_secs_f64());
    }

    /// Expected seconds of `n_rounds` draft rounds of `rows` rows each; 0 if none was ever timed.
    pub fn drafting(&self, n_rounds: f64, rows: f64) -> f64 {
        n_rounds * self.round.seconds(rows).unwrap_or(0.0)
    }

    /// Expected seconds of everything else, at `rows` rows of the target pass; 0 if none was ever timed.
    pub fn verifying(&self, rows: f64) -> f64 {
        self.rest.seconds(rows).unwrap_or(0.0)
    }
}

/// Rows at which a pass takes twice what it takes without any: up to there the time goes into reading weights, beyond it
/// into the rows. `None` before the first observation; infinite where rows are free.
pub fn knee(line: &CostLine) -> Option<f64> {
    let (none, one) = (line.seconds(0.0)?, line.seconds(1.0)?);
    Some(if one > none { none / (one - none) } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn feedback(draft_rounds: u32, draft_rows: u32, target_rows: u32) -> StepFeedback<'static> {
        // A round takes 1 ms and 0.5 ms per row, the rest 8 ms and 2 ms per row.
        let draft_time = Duration::from_micros(u64::from(1000 * draft_rounds + 500 * draft_rows));
        let verify_time = Duration::from_micros(u64::from(8000 + 2000 * target_rows));
        StepFeedback {
            step: 0,
            outcomes: &[],
            target_rows,
            prefill_rows: 0,
            draft_rounds,
            draft_rows,
            draft_time,
            verify_time,
            step_time: draft_time + verify_time,
        }
    }

    #[test]
    fn both_lines_are_found() {
        let mut cost = StepCost::default();
        assert_eq!((cost.drafting(3.0, 2.0), cost.verifying(8.0)), (0.0, 0.0));
        assert_eq!(knee(&cost.rest), None);
        for i in 0..64 {
            let n = 1 + i % 4;
            cost.learn(&feedback(2, 2 * n, 3 * n));
        }
        cost.learn(&feedback(0, 0, 4));
        // 3 rounds of 2 rows, 3 * 2 ms; 8 + 2 * 8 ms.
        assert!((cost.drafting(3.0, 2.0) - 0.006).abs() < 0.0001);
        assert!((cost.verifying(8.0) - 0.024).abs() < 0.0003);
        // 1 / 0.5 and 8 / 2.
        assert!((knee(&cost.round).unwrap() - 2.0).abs() < 0.05);
        assert!((knee(&cost.rest).unwrap() - 4.0).abs() < 0.05);
    }

    #[test]
    fn free_rows_have_no_knee() {
        let mut line = CostLine::default();
        line.learn(4.0, 0.01);
        assert_eq!(knee(&line), Some(f64::INFINITY));
    }
}
