//! What a step costs, as measured: a table of draft rounds over their rows and one of everything else over the target's.

use crate::StepFeedback;
use crate::cost::curve::CostCurve;

/// The two tables; see [`CostCurve`] for medians, monotony and what lies between sizes.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs {
    round: CostCurve,
    rest: CostCurve,
}

impl Costs {
    /// Takes in one step. Of several rounds the mean counts, catching up included.
    pub(super) fn learn(&mut self, feedback: &StepFeedback<'_>) {
        if feedback.draft_rounds > 0 {
            let seconds = feedback.draft_time.as_secs_f64() / f64::from(feedback.draft_rounds);
            self.round.learn(feedback.draft_rows.div_ceil(feedback.draft_rounds), seconds, 1.0);
            self.round.settle();
        }
        let rest = feedback.step_time.saturating_sub(feedback.draft_time);
        self.rest.learn(feedback.target_rows, rest.as_secs_f64(), 1.0);
        self.rest.settle();
    }

    /// Expected seconds of `n_rounds` draft rounds of `rows` rows each; 0 if none was ever timed.
    pub(super) fn drafting(&self, n_rounds: u32, rows: u32) -> f64 {
        f64::from(n_rounds) * self.round.seconds(rows).unwrap_or(0.0)
    }

    /// Expected seconds of everything else, at `rows` rows of the target pass; 0 if none was ever timed.
    pub(super) fn verifying(&self, rows: u32) -> f64 {
        self.rest.seconds(rows).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::samples::FEEDBACK;

    #[test]
    fn a_jump_between_sizes_is_kept() {
        let mut costs = Costs::default();
        assert_eq!((costs.drafting(3, 2), costs.verifying(8)), (0.0, 0.0));
        // A round takes 1 ms per row. Up to 4 rows the rest takes 8 ms, beyond 16.
        for i in 0..400 {
            let rows = 1 + i % 8;
            let draft_time = Duration::from_millis(u64::from(2 * rows));
            let verify_time = Duration::from_millis(if rows <= 4 { 8 } else { 16 });
            costs.learn(&StepFeedback {
                step: u64::from(i),
                target_rows: rows,
                draft_rounds: 2,
                draft_rows: 2 * rows,
                draft_time,
                verify_time,
                step_time: draft_time + verify_time,
                ..FEEDBACK
            });
        }
        // 3 rounds of 2 rows, 2 ms each.
        assert!((costs.drafting(3, 2) - 0.006).abs() < 0.0002, "{}", costs.drafting(3, 2));
        let at = |rows| 1000.0 * costs.verifying(rows);
        assert!(
            at(2) < 8.8 && at(4) < 9.6 && at(5) > 14.4 && at(7) > 15.2,
            "{} {} {} {}",
            at(2),
            at(4),
            at(5),
            at(7)
        );
    }
}
