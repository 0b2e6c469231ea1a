//! The expert term: what a target pass takes beyond passes over as many rows, because it wakes more experts than they did.
//!
//! How long passes over so many rows take is measured, and so is how many experts they woke. A pass of another composition,
//! over more texts or fewer drafts each, wakes others: the expectation of [`ExpertCurve`]. What an expert more takes follows
//! from how passes over equally many rows differ among themselves, by least squares. So the term is nothing without experts,
//! and as long as passes are composed as they always were.

use crate::StepFeedback;
use crate::cost::curve::CostCurve;
use crate::cost::experts::ExpertCurve;

/// Passes that the slope remembers, about.
const MEMORY: f64 = 256.0;

/// Squared experts per layer that are added to the variance of what passes wake: while they hardly differ, the slope is 0.
const RIDGE: f64 = 0.25;

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub(super) struct ExpertTerm {
    experts: ExpertCurve,
    /// Experts woken by target passes behind drafting, over their rows.
    usual: CostCurve,
    n: f64,
    /// Variance of the experts beyond the usual ones, and their covariance with the seconds beyond the expected ones.
    spread: f64,
    joint: f64,
}

impl ExpertTerm {
    /// Takes in what a pass woke.
    pub(super) fn learn(&mut self, feedback: &StepFeedback<'_>) {
        self.experts.learn(feedback);
    }

    /// Takes in a pass behind drafting, without prompts.
    ///
    /// * `missed`: seconds by which it missed what was expected of its rows, where that is known.
    pub(super) fn learn_seconds(&mut self, feedback: &StepFeedback<'_>, missed: Option<f64>) {
        let Some(woken) = ExpertCurve::woken_by(feedback) else { return };
        let rows = feedback.target_rows;
        if let Some((missed, usual)) = missed.zip(self.usual.seconds(rows)) {
            let beyond = woken - usual;
            self.n = (self.n + 1.0).min(MEMORY);
            self.spread += (beyond * beyond - self.spread) / self.n;
            self.joint += (beyond * missed - self.joint) / self.n;
        }
        self.usual.learn(rows, woken, 1.0);
    }

    /// Has what was learnt count.
    pub(super) fn settle(&mut self) {
        self.usual.settle();
    }

    /// Seconds beyond those of the passes over as many rows; 0 without experts, possibly negative.
    pub(super) fn seconds(&self, n_sequences: u32, n_drafts: u32) -> f64 {
        let Some(usual) = self.usual.seconds(n_sequences + n_drafts) else { return 0.0 };
        let expected = self.experts.woken_of(n_sequences, n_drafts);
        self.per_expert() * (expected - self.experts.at_most_all(usual))
    }

    /// Seconds of one expert more, at least 0.
    fn per_expert(&self) -> f64 {
        (self.joint / (self.spread + RIDGE)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::costs::tests::{feedback, outcome};
    use super::*;
    use crate::ExpertsWoken;

    /// A pass of `n` sequences with `len` drafts each that woke so many of 64 experts.
    fn learn(term: &mut ExpertTerm, n: usize, len: u32, n_woken: u32, missed: Option<f64>) {
        let outcomes = vec![outcome(len); n];
        let experts = Some(ExpertsWoken { n_woken, n_layers: 1, n_experts: 64, n_chosen: 8 });
        let pass = StepFeedback { experts, step_time: Duration::ZERO, ..feedback(&outcomes, 0, 0, 0) };
        term.learn(&pass);
        term.learn_seconds(&pass, missed);
        term.settle();
    }

    #[test]
    fn nothing_is_added_without_experts() {
        let mut term = ExpertTerm::default();
        let outcomes = [outcome(3)];
        term.learn(&feedback(&outcomes, 0, 1, 1));
        term.learn_seconds(&feedback(&outcomes, 0, 1, 1), Some(0.01));
        term.settle();
        assert_eq!(term.seconds(4, 8), 0.0);
    }

    #[test]
    fn passes_of_another_composition_are_priced_by_what_they_wake() {
        let mut term = ExpertTerm::default();
        // One sequence and four drafts woke 15 experts, give or take two, each of which took 1 ms.
        for beyond in [0i32, 2, -2].repeat(100) {
            learn(&mut term, 1, 4, (15 + beyond) as u32, Some(0.001 * f64::from(beyond)));
        }
        let alike = term.seconds(1, 4);
        assert!(alike.abs() < 0.0005, "{alike}");
        // Five plain sequences, rows independent: 64 (1 - (7/8)^5) = 31.2, 16 experts more.
        let more = term.seconds(5, 0);
        assert!((0.013..0.017).contains(&more), "{more}");
    }
}
