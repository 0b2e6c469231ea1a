//! One bound for the whole batch, so that a few long proposals do not keep everyone waiting.
//!
//! Drafting runs round by round until the longest proposal is done; a sequence that drafts far more than the others (a
//! straggler) makes the whole step longer. Any policy that plans per sequence can be wrapped.
//!
//! Yang et al., "DSDE: Dynamic Speculative Decoding with KLD Stability for Real-World Serving" (arXiv:2509.01083).
//!
//! | equation | here |
//! |---|---|
//! | 9-11: the bound with the least mean squared distance to the batch's lengths is their mean | [`mean_len`] |
//! | `min(SL, cap)` | [`cut`] |
//!
//! Choices where the paper is silent:
//! * The mean is that of whole lengths and is rounded up, as in the authors' released code.
//! * Unsettled lengths are neither counted nor cut, also as released: calibration needs to see how far a sequence gets.
//! * The mean is that of the sequences that are about to draft. The released code takes it after a step, over other sequences;
//!   [`Dsde`](crate::Dsde) does so itself in its released variant and is not wrapped.
//! * Sequences planned at 0 are not counted. They do not draft, so nobody waits for them and they wait for nobody; counted,
//!   a batch that is half switched off would halve the lengths of the other half.
//! * Lengths count as planned, before the engine clips them to each sequence's limit.

use crate::registry::{Parameter, Settings, ValueSet};
use crate::{DraftPosition, PlanView, Planned, Policy, Reason, SeqId, Signals, StepFeedback};

/// Word that switches the cap on.
pub const MEAN: &str = "mean";

/// The parameter that every per-sequence policy accepts.
pub static PARAMETER: Parameter = Parameter {
    key: "cap",
    values: ValueSet::Word(&["off", MEAN]),
    default: Some("off"),
    meaning: "bound on all settled lengths of a step: none, or their mean",
};

/// Reason of a length that was cut.
const REASON: Reason = "cap";

/// A policy whose settled lengths are cut to their mean.
pub struct Cap {
    inner: Box<dyn Policy>,
    /// The bound of the last plan, tokens, if it had one.
    cap: Option<u32>,
}

/// Whether the settings of a per-sequence policy ask for a cap.
pub fn is_wanted(settings: &Settings) -> bool {
    settings.word(PARAMETER.key) == MEAN
}

/// The name of a policy with its cap.
pub fn name_with(name: String) -> String {
    let separator = if name.contains(':') { ',' } else { ':' };
    format!("{name}{separator}{}={MEAN}", PARAMETER.key)
}

/// Mean of lengths, tokens, rounded up; `None` if there are none.
///
/// DSDE (arXiv:2509.01083), Eqs. 9-11.
pub fn mean_len(lens: impl IntoIterator<Item = u32>) -> Option<u32> {
    let (mut sum, mut n) = (0u64, 0u64);
    for len in lens {
        sum += u64::from(len);
        n += 1;
    }
    // The mean of u32 values, rounded up, is at most the largest of them.
    (n > 0).then(|| sum.div_ceil(n) as u32)
}

/// Cuts a settled length to the bound.
pub fn cut(planned: &mut Planned, cap: u32) {
    if planned.is_settled && planned.len > cap {
        planned.len = cap;
        planned.reason = REASON;
    }
}

impl Cap {
    /// Wraps a policy that plans per sequence.
    pub fn new(inner: Box<dyn Policy>) -> Self {
        Self { inner, cap: None }
    }

    /// The policy, wrapped if its settings ask for a cap.
    pub fn around(policy: impl Policy + 'static, settings: &Settings) -> Box<dyn Policy> {
        if is_wanted(settings) { Box::new(Self::new(Box::new(policy))) } else { Box::new(policy) }
    }
}

impl Policy for Cap {
    fn name(&self) -> String {
        name_with(self.inner.name())
    }

    fn signals(&self) -> Signals {
        self.inner.signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.inner.plan(view, plan);
        self.cap = mean_len(plan.iter().filter(|p| p.is_settled && p.len > 0).map(|p| p.len));
        if let Some(cap) = self.cap {
            plan.iter_mut().for_each(|planned| cut(planned, cap));
        }
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.inner.keep_drafting(seq, position)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.inner.trim(view, drafted, verify_lens);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.inner.observe(feedback);
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        self.inner.explain(seq, numbers);
        numbers.extend(self.cap.map(|cap| ("cap", f64::from(cap))));
    }

    fn wants_draft(&self) -> bool {
        self.inner.wants_draft()
    }

    fn forget(&mut self, seq: SeqId) {
        self.inner.forget(seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::VIEW;

    const fn settled(len: u32) -> Planned {
        Planned { len, width: 1, is_settled: true, reason: "divergence" }
    }

    const fn unsettled(len: u32) -> Planned {
        Planned { len, width: 1, is_settled: false, reason: "calibrating" }
    }

    const fn cut(len: u32) -> Planned {
        Planned { len, width: 1, is_settled: true, reason: "cap" }
    }

    /// Plans what it is told, stops at every position and trims everything.
    struct Scripted(Vec<Planned>);

    impl Policy for Scripted {
        fn name(&self) -> String {
            "scripted".to_owned()
        }

        fn signals(&self) -> Signals {
            Signals { divergence: false, draft_shape: true }
        }

        fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
            plan.copy_from_slice(&self.0);
        }

        fn keep_drafting(&mut self, _seq: SeqId, _position: &DraftPosition) -> bool {
            false
        }

        fn trim(&mut self, _view: &PlanView<'_>, _drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
            verify_lens.fill(0);
        }

        fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

        fn forget(&mut self, _seq: SeqId) {}
    }

    fn check(planned: &[Planned], expected: &[Planned]) {
        let mut plan = vec![Planned::none(); planned.len()];
        Cap::new(Box::new(Scripted(planned.to_vec()))).plan(&VIEW, &mut plan);
        assert_eq!(plan, expected, "planned {planned:?}");
    }

    #[test]
    fn settled_lengths_are_cut_to_their_rounded_up_mean() {
        // (2 + 4 + 12) / 3 = 6
        check(&[settled(2), settled(4), settled(12)], &[settled(2), settled(4), cut(6)]);
        // (2 + 3 + 8) / 3 = 4.33, up to 5
        check(&[settled(2), settled(3), settled(8)], &[settled(2), settled(3), cut(5)]);
        check(&[settled(7)], &[settled(7)]);
        check(&[settled(4), settled(4)], &[settled(4), settled(4)]);
        check(&[], &[]);
    }

    #[test]
    fn unsettled_lengths_are_neither_counted_nor_cut() {
        // (2 + 6) / 2 = 4; with the 20 it would be 9.33.
        check(&[unsettled(20), settled(2), settled(6)], &[unsettled(20), settled(2), cut(4)]);
        check(&[unsettled(20), unsettled(2)], &[unsettled(20), unsettled(2)]);
    }

    #[test]
    fn sequences_that_do_not_speculate_are_not_counted() {
        // (6 + 2) / 2 = 4; with the two zeros it would be 2.
        check(
            &[settled(0), settled(6), settled(0), settled(2)],
            &[settled(0), cut(4), settled(0), settled(2)],
        );
        check(&[settled(0)], &[settled(0)]);
    }

    #[test]
    fn the_bound_explains_the_plan() {
        for (planned, expected) in [(settled(4), vec![("cap", 4.0)]), (unsettled(4), vec![])] {
            let mut cap = Cap::new(Box::new(Scripted(vec![planned])));
            cap.plan(&VIEW, &mut [Planned::none()]);
            let mut numbers = Vec::new();
            cap.explain(SeqId(1), &mut numbers);
            assert_eq!(numbers, expected, "{planned:?}");
        }
    }

    #[test]
    fn the_name_gains_one_parameter() {
        let plain = Cap::new(Box::new(Scripted(Vec::new())));
        assert_eq!(plain.name(), "scripted:cap=mean");
        assert_eq!(Cap::new(Box::new(crate::Fixed::new(3))).name(), "fixed:k=3,cap=mean");
    }

    #[test]
    fn the_wrapped_policy_still_stops_and_trims() {
        let mut cap = Cap::new(Box::new(Scripted(Vec::new())));
        assert!(cap.signals().draft_shape);
        assert!(!cap.keep_drafting(SeqId(1), &DraftPosition::default()));
        let mut verify_lens = [3, 2];
        cap.trim(&VIEW, &[], &mut verify_lens);
        assert_eq!(verify_lens, [0, 0]);
    }
}
