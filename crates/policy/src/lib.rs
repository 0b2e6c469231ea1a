//! How far to speculate: for every running sequence and every step, how many tokens the draft should guess.
//!
//! A policy is a pure state machine behind the four moments of [`Policy`]: it plans lengths before anything is drafted, may
//! stop a sequence while it drafts, may trim what was drafted before it is verified, and learns from the outcome. It sees
//! numbers only, never token ids, and reads no clock: the same views and feedback give the same plans.
//!
//! The one rule that keeps every policy lossless (*non-anticipation*): whether position `j` is verified may depend on
//! anything known before its token was drawn, and never on the token itself. The views are built so that the rule holds by
//! construction for lengths planned up front; stop and trim rules see features of the draft's *distribution* only.
//!
//! Across a batch a rule may look at what others have drafted, which is independent of the token: positions may be ranked for all
//! sequences together. But it must come to its lengths token by token, looking at none behind what it takes of anybody; otherwise
//! two outputs could be correlated although each follows its law. `tests/suite/non_anticipation.rs` holds every policy to both, and
//! lists those that look at others.
//!
//! One file per published system, each opening with its citation, a table equation -> function, and its deviations. Users
//! choose by name: `"dsde:cap=mean".parse::<Config>()?.build()`; [`registry`] says how, and how a policy is added. A
//! [`Mixture`] lets sequences of one batch have different ones.

pub mod acceptance;
pub mod adaedl;
pub mod adaptive_verification;
pub mod adaserve;
pub mod auto;
pub mod bandit;
pub mod batch_schedule;
pub mod cap;
pub mod confidence;
pub mod cost;
pub mod cost_profile;
pub mod ddd;
pub mod dsde;
pub mod dspark;
pub mod error;
pub mod faser;
pub mod feedback;
pub mod fixed;
pub mod guard;
pub mod mixture;
pub mod nightjar;
pub mod off;
pub mod parameter;

pub mod ranking;
pub mod registry;
pub mod step_cost;
pub mod table;
pub mod tetris;
pub mod tiered;
pub mod turbospec;
pub mod view;
pub mod window;

#[cfg(test)]
mod samples;
mod seq_map;

pub use adaedl::AdaEdl;
pub use adaptive_verification::AdaptiveVerification;
pub use adaserve::AdaServe;
pub use auto::Auto;
pub use bandit::Bandit;
pub use batch_schedule::BatchSchedule;
pub use cap::Cap;
pub use confidence::Confidence;
pub use cost_profile::CostProfile;
pub use ddd::Ddd;
pub use dsde::Dsde;
pub use dspark::DSpark;
pub use error::Error;
pub use faser::Faser;
pub use feedback::{ExpertsWoken, Outcome, PositionSignals, StepFeedback};
pub use fixed::Fixed;
pub use guard::PolicyFailure;
pub use mixture::Mixture;
pub use nightjar::Nightjar;
pub use off::Off;
pub use registry::Config;
pub use tetris::Tetris;
pub use tiered::Tiered;
pub use turbospec::TurboSpec;
pub use view::{DraftPosition, PlanView, Planned, Prune, Reason, SeqId, SequenceView, Signals};

/// Chooses speculation lengths; see the crate head for the rule every implementation obeys.
///
/// The engine calls the moments in this order, every step: `plan` once, `keep_drafting` after each drafted token, `trim`
/// once, `observe` once; and `forget` when a sequence ends.
pub trait Policy: Send {
    /// Name as typed on the command line, with every parameter that differs from its default.
    fn name(&self) -> String;

    /// Which signals the policy reads; the executor skips the arithmetic of the others.
    fn signals(&self) -> Signals;

    /// Plans one length per sequence of `view`, in its order. `plan` arrives filled with [`Planned::none`].
    ///
    /// Lengths above a sequence's `limit` are clipped by the engine, so a policy need not read it.
    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]);

    /// Whether the sequence goes on drafting after the position just drafted (which itself stays in the proposal).
    ///
    /// Called only while the planned length is not reached; for a tree, once per level. `position` holds features of the
    /// draft's distribution, which is a function of the prefix, so stopping *after* a token is lossless.
    fn keep_drafting(&mut self, _seq: SeqId, _position: &DraftPosition) -> bool {
        true
    }

    /// Whether a sequence that can choose drafts what was foreseen; else the draft model drafts for it. Asked once per step, behind
    /// `plan`. The choice is made before anything is drafted, so it is lossless.
    fn takes_foreseen(&self, _seq: SeqId) -> bool {
        false
    }

    /// Whether a tree of this sequence is chosen, once it is drafted, among all nodes that were ever offered: the beams, and as
    /// leaves the children that no beam kept. The most probable of them, as many as were planned for, are the tree then; else
    /// the beams are. A tree is a function of the emitted tokens alone, so this is lossless for sampled requests too.
    fn reranks(&self, _seq: SeqId) -> bool {
        false
    }

    /// Cuts drafted lengths to what is worth verifying. `verify_lens[i]` arrives as the drafted length of sequence `i` of
    /// `view` and may only be lowered. `drafted[i]` holds the features of its positions, root first. The nodes of a tree are
    /// ordered by falling path probability, a parent before its children, so that any prefix is a tree.
    fn trim(&mut self, _view: &PlanView<'_>, _drafted: &[&[DraftPosition]], _verify_lens: &mut [u32]) {}

    /// Whether ends of proposals that the target seems to reject are dropped inside its pass. A wish: where the executor cannot,
    /// they are verified to the end. Greedy chains of a draft model only.
    fn prune(&self) -> Option<Prune> {
        None
    }

    /// Tokens to draft while the target verifies a proposal, behind it and as if all of it were accepted; they are the
    /// proposal of the next step if it is. Where a proposal is trimmed, what was trimmed takes their place. A wish, and for
    /// greedy chains of a draft model only; 0 drafts when the proposal has been verified, and drops what was trimmed.
    fn ahead_len(&self) -> u32 {
        0
    }

    /// Learns what the step achieved and what it cost.
    fn observe(&mut self, feedback: &StepFeedback<'_>);

    /// Learns what a step of a [`CostProfile`] cost. Its sequences were made up and drafted what they were told to, so times and
    /// rows are all there is to learn. Policies that know no costs ignore it.
    fn learn_costs(&mut self, _feedback: &StepFeedback<'_>) {}

    /// Appends the named numbers behind the last plan of a sequence (divergence, survival, cap, costs), for step traces.
    fn explain(&self, _seq: SeqId, _numbers: &mut Vec<(&'static str, f64)>) {}

    /// Whether the draft model should stay resident. A wish: between two steps the engine lends the draft's memory to the blocks
    /// of the target or takes it back, where the executor can and the blocks allow. Nothing is drafted meanwhile.
    fn wants_draft(&self) -> bool {
        true
    }

    /// Drops whatever is remembered of a sequence that has ended.
    fn forget(&mut self, seq: SeqId);
}
