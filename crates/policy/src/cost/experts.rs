//! Distinct experts that a pass wakes, as a function of its rows: what a pass over a mixture of experts reads.
//!
//! If every row asked `k` of `E` experts independently of the others, `n` rows would wake `E (1 - (1 - k/E)^n)` of a layer on
//! average. They do not: some experts are asked more than others, and rows of one text ask the same ones, so a row counts as
//! less than an independent one. How much less is measured, apart for the first rows of sequences and for the drafted ones
//! behind them: the formula holds with `n` = 1 + `own` (sequences - 1) + `drafted` (drafted rows).
//!
//! Solved for `n`, what a pass woke tells as how many independent rows it counted.

use crate::{ExpertsWoken, StepFeedback};

/// Passes that the shares remember, about.
const MEMORY: f64 = 64.0;

/// Share of all experts above which a pass says nothing more about its rows.
const SATURATED: f64 = 0.9;

/// Largest share that is learnt: a few rows may by chance ask more different experts than independent ones would.
const SHARE_MAX: f64 = 1.5;

/// Rows of one kind as a share of independent ones.
#[derive(Clone, Copy, Debug)]
struct Share {
    n: f64,
    value: f64,
}

/// What is known of the experts of a model.
#[derive(Clone, Copy, Debug)]
struct Known {
    n_experts: f64,
    /// Share of the experts that a row asks; below 1.
    asked: f64,
    own: Share,
    drafted: Share,
}

/// Experts woken over rows, learnt from passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpertCurve {
    known: Option<Known>,
}

impl Share {
    /// Independent until something else is measured.
    const INDEPENDENT: Self = Self { n: 0.0, value: 1.0 };

    fn learn(&mut self, value: f64) {
        self.n = (self.n + 1.0).min(MEMORY);
        self.value += (value.clamp(0.0, SHARE_MAX) - self.value) / self.n;
    }
}

impl Known {
    fn rows(&self, n_sequences: f64, n_drafted: f64) -> f64 {
        1.0 + self.own.value * (n_sequences - 1.0).max(0.0) + self.drafted.value * n_drafted
    }

    fn woken(&self, rows: f64) -> f64 {
        self.n_experts * (1.0 - (1.0 - self.asked).powf(rows))
    }

    /// The reverse of [`Known::woken`]; `None` where nearly all are woken.
    fn rows_of(&self, woken: f64) -> Option<f64> {
        let share = woken / self.n_experts;
        (share <= SATURATED).then(|| ((1.0 - share).ln() / (1.0 - self.asked).ln()).max(1.0))
    }
}

/// What a pass woke, if it could have woken more or less.
fn mixture(feedback: &StepFeedback<'_>) -> Option<ExpertsWoken> {
    feedback.experts.filter(|pass| pass.n_layers > 0 && pass.n_chosen < pass.n_experts)
}

impl ExpertCurve {
    /// Takes in one pass; those that read prompts are left out.
    pub fn learn(&mut self, feedback: &StepFeedback<'_>) {
        let Some(pass) = mixture(feedback) else { return };
        let known = self.known.get_or_insert(Known {
            n_experts: f64::from(pass.n_experts),
            asked: f64::from(pass.n_chosen) / f64::from(pass.n_experts),
            own: Share::INDEPENDENT,
            drafted: Share::INDEPENDENT,
        });
        let Some(counted) = known.rows_of(pass.per_layer()).filter(|_| feedback.prefill_rows == 0) else {
            return;
        };
        let n_sequences = feedback.outcomes.len() as f64;
        let n_drafted = (f64::from(feedback.target_rows) - n_sequences).max(0.0);
        if n_drafted > 0.0 {
            let first = known.rows(n_sequences, 0.0);
            known.drafted.learn((counted - first) / n_drafted);
        } else if n_sequences > 1.0 {
            known.own.learn((counted - 1.0) / (n_sequences - 1.0));
        }
    }

    /// Distinct experts that a pass woke in a layer, if it could have woken more or fewer.
    pub fn woken_by(feedback: &StepFeedback<'_>) -> Option<f64> {
        mixture(feedback).map(ExpertsWoken::per_layer)
    }

    /// Whether there are experts.
    pub fn has_experts(&self) -> bool {
        self.known.is_some()
    }

    /// Distinct experts that a pass over so many first and drafted rows is expected to wake in a layer; 0 without experts.
    pub fn woken_of(&self, n_sequences: u32, n_drafted: u32) -> f64 {
        self.known.map_or(0.0, |known| known.woken(known.rows(n_sequences.into(), n_drafted.into())))
    }

    /// A number of experts, but no more than there are.
    pub fn at_most_all(&self, n: f64) -> f64 {
        self.known.map_or(n, |known| n.min(known.n_experts))
    }

    /// Rows of a pass as something that its time is linear in: the rows themselves, or of a mixture of experts what they wake
    /// over what one row asks.
    pub fn size(&self, n_sequences: u32, n_drafted: u32) -> f64 {
        let rows = f64::from(n_sequences) + f64::from(n_drafted);
        self.known
            .map_or(rows, |known| self.woken_of(n_sequences, n_drafted) / (known.n_experts * known.asked))
    }

    /// [`ExpertCurve::size`] of a pass that was taken.
    pub fn size_of(feedback: &StepFeedback<'_>) -> f64 {
        mixture(feedback)
            .map_or(feedback.target_rows.into(), |pass| pass.per_layer() / f64::from(pass.n_chosen))
    }

    /// Distinct experts that a pass of so many rows is expected to wake in a layer; 0 without experts.
    ///
    /// * `rows`: of any kind, drafted ones and the first ones of sequences; half of each is assumed, one at least of the latter.
    pub fn woken(&self, rows: f64) -> f64 {
        self.known.map_or(0.0, |known| {
            let n_sequences = (0.5 * rows).max(1.0);
            known.woken(known.rows(n_sequences, (rows - n_sequences).max(0.0)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::samples::{FEEDBACK, OUTCOME};

    /// A pass over so many rows in one of four layers each of 64 experts, 8 of them per row.
    fn pass<'a>(outcomes: &'a [Outcome<'static>], target_rows: u32, per_layer: u32) -> StepFeedback<'a> {
        StepFeedback {
            outcomes,
            target_rows,
            experts: Some(ExpertsWoken { n_woken: 4 * per_layer, n_layers: 4, n_experts: 64, n_chosen: 8 }),
            ..FEEDBACK
        }
    }

    fn check(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "expected {expected}, got {got}");
    }

    #[test]
    fn without_experts_nothing_is_woken_and_every_row_counts() {
        let mut curve = ExpertCurve::default();
        let dense = StepFeedback { experts: None, ..pass(&[OUTCOME; 3], 8, 0) };
        curve.learn(&dense);
        // All experts for every row, which is one large network.
        let all = ExpertsWoken { n_woken: 4, n_layers: 1, n_experts: 4, n_chosen: 4 };
        curve.learn(&StepFeedback { experts: Some(all), ..dense });
        assert!(!curve.has_experts());
        check(curve.woken_of(3, 5), 0.0);
        check(curve.woken(8.0), 0.0);
        check(curve.size(3, 5), 8.0);
        check(ExpertCurve::size_of(&dense), 8.0);
    }

    #[test]
    fn rows_are_independent_until_something_else_is_measured() {
        let mut curve = ExpertCurve::default();
        // One row asks 8 of 64.
        let one = pass(&[OUTCOME], 1, 8);
        curve.learn(&one);
        check(curve.woken_of(1, 0), 8.0);
        // 64 (1 - (7/8)^2) = 15.
        check(curve.woken_of(1, 1), 15.0);
        check(curve.woken_of(2, 0), 15.0);
        check(curve.woken(2.0), 15.0);
        check(curve.size(2, 0), 15.0 / 8.0);
        check(ExpertCurve::size_of(&one), 1.0);
    }

    #[test]
    fn rows_of_one_text_that_ask_the_same_experts_count_less() {
        let mut curve = ExpertCurve::default();
        // One sequence and four drafted rows woke what two independent rows would, so each drafted row counts a quarter.
        curve.learn(&pass(&[OUTCOME], 5, 15));
        check(curve.woken_of(1, 4), 15.0);
        check(curve.woken_of(1, 8), 64.0 * (1.0 - 0.875f64.powi(3)));
        // Three plain sequences that woke as much: each beyond the first counts a half.
        curve.learn(&pass(&[OUTCOME; 3], 3, 15));
        check(curve.woken_of(3, 4), 64.0 * (1.0 - 0.875f64.powi(3)));
        // Nearly everything would be woken by more rows too, so that teaches nothing; and prompts are another text.
        curve.learn(&pass(&[OUTCOME; 3], 7, 63));
        curve.learn(&StepFeedback { prefill_rows: 4, ..pass(&[OUTCOME], 5, 31) });
        check(curve.woken_of(3, 4), 64.0 * (1.0 - 0.875f64.powi(3)));
    }
}
