//! What a policy learns after a step.

use std::time::Duration;

use crate::view::SeqId;

/// How draft `q` and target `p` compared at one verified position.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PositionSignals {
    /// KL(target || draft) over the full vocabulary, nats, both clamped below at 1e-8.
    pub kld: f32,
    /// Probability that a sampled draft is rejected, in `0..=1`: the total variation distance, `1 - sum(min(p, q))`. Of requests
    /// with a seed, whose drafts must be what the target draws, a bound a little above it.
    pub rejection: f32,
    /// Entropy of the draft, nats.
    pub draft_entropy: f32,
    /// Entropy of the target, nats.
    pub target_entropy: f32,
}

/// One sequence's part of a step. `accepted <= verified <= drafted <= planned`.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// Whose outcome this is.
    pub seq: SeqId,
    /// Length the policy asked for, after clipping to the limit and to the free slots. This and the counts below are tokens:
    /// of a tree, nodes, of which `accepted` form a path.
    pub planned: u32,
    /// Tokens that were drafted.
    pub drafted: u32,
    /// Drafted tokens that were verified.
    pub verified: u32,
    /// Verified tokens that were kept.
    pub accepted: u32,
    /// Sampling temperature; 0 means greedy.
    pub temperature: f32,
    /// Positions stored before the step's first row of it: what that row attends to beside itself.
    pub context_len: u32,
    /// Whether its drafts were on offer before the step ([`PlanView::foreseen`](crate::PlanView::foreseen)), so that no draft round
    /// was taken for them.
    pub is_foreseen: bool,
    /// One entry per verified position, root first (of a tree: per node, in its order), rejected ones included; empty unless
    /// [`Signals::divergence`](crate::Signals::divergence) was requested or when the drafter has no distribution.
    pub signals: &'a [PositionSignals],
}

impl Outcome<'_> {
    /// Tokens that the verdict emits, before stop conditions: the accepted ones and one recovered or bonus token.
    pub fn emitted(&self) -> u32 {
        self.accepted + 1
    }
}

/// Experts that a target pass asked, of a model that has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertsWoken {
    /// Distinct experts that any row asked, summed over layers.
    pub n_woken: u32,
    /// Layers with experts that rows passed.
    pub n_layers: u32,
    /// Experts of a layer.
    pub n_experts: u32,
    /// Experts that a row asks in each layer.
    pub n_chosen: u32,
}

impl ExpertsWoken {
    /// Mean over layers; 0 if no row passed any.
    pub fn per_layer(self) -> f64 {
        f64::from(self.n_woken) / f64::from(self.n_layers.max(1))
    }
}

/// A whole step: who achieved what, and what it cost.
#[derive(Clone, Copy, Debug)]
pub struct StepFeedback<'a> {
    /// The step the outcomes belong to.
    pub step: u64,
    /// Every sequence that emitted in this step, speculating or not.
    pub outcomes: &'a [Outcome<'a>],
    /// Rows of the target pass, prompt chunks included.
    pub target_rows: u32,
    /// Rows of prompt chunks among them.
    pub prefill_rows: u32,
    /// Passes of the draft model before the target's, catching up included. Those beside it
    /// ([`Policy::ahead_len`](crate::Policy::ahead_len)) are not counted.
    pub draft_rounds: u32,
    /// Rows of all those passes together.
    pub draft_rows: u32,
    /// Of the target pass; `None` where the target has no experts.
    pub experts: Option<ExpertsWoken>,
    /// Time spent drafting before the target pass.
    pub draft_time: Duration,
    /// Time of the target pass and the verdicts, and of what was drafted beside them.
    pub verify_time: Duration,
    /// Time of the whole step.
    pub step_time: Duration,
}

impl StepFeedback<'_> {
    /// Positions stored by the outcomes' sequences together.
    pub fn context_len_sum(&self) -> u64 {
        self.outcomes.iter().map(|outcome| u64::from(outcome.context_len)).sum()
    }

    /// Whether nobody drafted.
    pub fn is_plain(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.drafted == 0)
    }
}
