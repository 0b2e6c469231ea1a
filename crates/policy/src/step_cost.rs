//! What a step of this engine costs: one line for a draft round, and for everything else a plane over the rows and, of a
//! mixture of experts, the experts that they wake ([`crate::cost`]).

use crate::cost::CostLine;
use crate::cost::experts::ExpertCurve;
use crate::cost::plane::CostPlane;
use crate::{ExpertsWoken, StepFeedback};

/// The two, over the rows of a draft round and over those of the target pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepCost {
    /// Seconds of one draft round over its rows.
    pub round: CostLine,
    /// Seconds of a step without its drafting over the rows of the target pass and the experts that these wake; without experts
    /// a line.
    pub rest: CostPlane,
    experts: ExpertCurve,
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
        self.experts.learn(feedback);
        let woken = feedback.experts.map_or(0.0, ExpertsWoken::per_layer);
        self.rest.learn(f64::from(feedback.target_rows), woken, rest.as_secs_f64());
    }

    /// Expected seconds of `n_rounds` draft rounds of `rows` rows each; 0 if none was ever timed.
    pub fn drafting(&self, n_rounds: f64, rows: f64) -> f64 {
        n_rounds * self.round.seconds(rows).unwrap_or(0.0)
    }

    /// Expected seconds of everything else, at `rows` rows of the target pass; 0 if none was ever timed.
    pub fn verifying(&self, rows: f64) -> f64 {
        self.rest.seconds(rows, self.experts.woken(rows)).unwrap_or(0.0)
    }

    /// [`knee`] of the target pass; of a mixture of experts the rows at which it takes twice what it takes for the experts of
    /// one row alone.
    pub fn knee(&self) -> Option<f64> {
        let none = self.rest.seconds(0.0, self.experts.woken(1.0))?;
        if !self.experts.has_experts() {
            return Some(knee_of(none, self.rest.seconds(1.0, 0.0)?));
        }
        // Seconds never fall with rows.
        let (mut below, mut above) = (0, 2 * KNEE_MAX);
        while above - below > 1 {
            let rows = u32::midpoint(below, above);
            if self.verifying(f64::from(rows)) < 2.0 * none { below = rows } else { above = rows }
        }
        Some(if above > KNEE_MAX { f64::INFINITY } else { f64::from(above) })
    }
}

/// Rows of the largest knee of a mixture of experts that is told from infinity.
const KNEE_MAX: u32 = 4096;

/// Rows at which a pass takes twice what it takes without any: up to there the time goes into reading weights, beyond it
/// into the rows. `None` before the first observation; infinite where rows are free.
pub fn knee(line: &CostLine) -> Option<f64> {
    Some(knee_of(line.seconds(0.0)?, line.seconds(1.0)?))
}

fn knee_of(none: f64, one: f64) -> f64 {
    if one > none { none / (one - none) } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Outcome;
    use crate::samples::{FEEDBACK, OUTCOME};

    const DRAFTED: Outcome<'static> = Outcome { planned: 1, drafted: 1, verified: 1, ..OUTCOME };

    fn feedback(draft_rounds: u32, draft_rows: u32, target_rows: u32) -> StepFeedback<'static> {
        // A round takes 1 ms and 0.5 ms per row, the rest 8 ms and 2 ms per row.
        let draft_time = Duration::from_micros(u64::from(1000 * draft_rounds + 500 * draft_rows));
        let verify_time = Duration::from_micros(u64::from(8000 + 2000 * target_rows));
        StepFeedback {
            target_rows,
            draft_rounds,
            draft_rows,
            draft_time,
            verify_time,
            step_time: draft_time + verify_time,
            ..FEEDBACK
        }
    }

    #[test]
    fn both_lines_are_found() {
        let mut cost = StepCost::default();
        assert_eq!((cost.drafting(3.0, 2.0), cost.verifying(8.0)), (0.0, 0.0));
        assert_eq!(cost.knee(), None);
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
        assert!((cost.knee().unwrap() - 4.0).abs() < 0.05);
    }

    #[test]
    fn rows_cost_what_the_experts_take_that_they_wake() {
        // A pass takes 2 ms, 0.1 ms per row and 1 ms per expert woken; rows are independent.
        let experts = |rows: u32| 16.0 * (1.0 - 0.75f64.powi(rows as i32));
        let seconds = |rows: u32| 0.002 + 0.0001 * f64::from(rows) + 0.001 * experts(rows);
        let mut cost = StepCost::default();
        for i in 0..256u32 {
            let rows = 1 + i * 7 % 12;
            let outcomes = vec![DRAFTED; rows.div_ceil(2) as usize];
            let n_woken = (1000.0 * experts(rows)) as u32;
            let woken = ExpertsWoken { n_woken, n_layers: 1000, n_experts: 16, n_chosen: 4 };
            let step_time = Duration::from_secs_f64(seconds(rows));
            let plain = feedback(0, 0, rows);
            cost.learn(&StepFeedback { outcomes: &outcomes, experts: Some(woken), step_time, ..plain });
        }
        for rows in [1, 2, 4, 8, 12, 24] {
            let got = cost.verifying(f64::from(rows));
            assert!((got / seconds(rows) - 1.0).abs() < 0.03, "{rows} rows: {} and {got}", seconds(rows));
        }
        // 2 ms and 4 experts of one row, twice: 12 ms = 2 + 0.4 + 10.9 ms at 4 rows, 2 + 0.3 + 9.25 at 3.
        assert_eq!(cost.knee(), Some(4.0));
    }

    #[test]
    fn free_rows_have_no_knee() {
        let mut line = CostLine::default();
        line.learn(4.0, 0.01);
        assert_eq!(knee(&line), Some(f64::INFINITY));
    }
}
