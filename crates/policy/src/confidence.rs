//! Stop drafting once the draft is unsure: the rule that llama.cpp and Hugging Face transformers ship.
//!
//! llama.cpp, speculative decoding with `n_max` and `p_min` (ggml-org/llama.cpp); transformers, assisted generation with
//! `num_assistant_tokens` 20 and `assistant_confidence_threshold` 0.4 (huggingface/transformers, since 4.45). No paper.
//!
//! | rule | here |
//! |---|---|
//! | at most `n_max` tokens | [`Confidence::plan`](Policy::plan) |
//! | end once the draft's probability is below `p_min` | [`Confidence::keep_drafting`](Policy::keep_drafting) |
//!
//! The defaults are those of transformers; llama.cpp has been reported with a threshold of 0, which never stops.
//!
//! Deviations:
//! * The token at which the draft is unsure is still verified; llama.cpp drops it. Its drafts are greedy, where dropping is
//!   harmless. Ours may be sampled, and dropping an unlikely token that was drawn would make likely ones too frequent.
//! * What counts is the largest probability of the distribution. transformers reads that of the drawn token, which differs
//!   only for sampled drafts; policies here never see a token.
//! * The threshold stays as configured; transformers re-fits it after every step if scikit-learn is installed.
//! * llama.cpp's `n_min`, which discards a proposal that came out short, is left out: it too drops drawn tokens.

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{Cap, DraftPosition, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "confidence",
    summary: "per sequence, stops drafting once the draft's largest probability is below a threshold",
    source: "llama.cpp (p_min); Hugging Face transformers (assistant_confidence_threshold)",
    parameters: &[
        Parameter {
            key: "n_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("20"),
            meaning: "ceiling of the length, tokens",
        },
        Parameter {
            key: "p_min",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.4"),
            meaning: "largest probability of the draft below which drafting ends",
        },
    ],
    presets: &[],
    is_per_sequence: true,
    build: |settings| Ok(Cap::around(Confidence::new(settings), settings)),
};

/// Plans `n_max` for every sequence and stops each where its draft is unsure.
#[derive(Clone, Debug)]
pub struct Confidence {
    name: String,
    n_max: u32,
    p_min: f64,
}

impl Confidence {
    /// Reads the settings of [`ENTRY`].
    pub fn new(settings: &Settings) -> Self {
        Self { name: settings.name(), n_max: settings.count("n_max"), p_min: settings.number("p_min") }
    }
}

impl Policy for Confidence {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: self.n_max, width: 1, is_settled: true, reason: "ceiling" });
    }

    fn keep_drafting(&mut self, _seq: SeqId, position: &DraftPosition) -> bool {
        // A probability that is not a number, which only a broken executor can deliver, compares false and ends drafting.
        f64::from(position.top_prob) >= self.p_min
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parameters: Option<&str>, top_prob: f32, goes_on: bool) {
        let mut policy = Confidence::new(&Settings::parse(&ENTRY, parameters).unwrap());
        let position = DraftPosition { index: 0, entropy: 0.5, top_prob, path_log_prob: 0.0 };
        assert_eq!(policy.keep_drafting(SeqId(1), &position), goes_on, "{parameters:?}, {top_prob}");
    }

    #[test]
    fn drafting_ends_after_an_unsure_token() {
        check(None, 0.41, true);
        check(None, 0.39, false);
        check(None, 1.0, true);
        // 0.75 is the same number in both precisions: not below is sure enough.
        check(Some("p_min=0.75"), 0.75, true);
        check(Some("p_min=0"), 0.0, true);
        check(Some("p_min=1"), 0.999, false);
        check(Some("p_min=1"), 1.0, true);
    }

    #[test]
    fn a_probability_that_is_not_a_number_ends_drafting() {
        check(None, f32::NAN, false);
        check(Some("p_min=0"), f32::NAN, false);
    }
}
