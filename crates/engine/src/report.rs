//! What an engine tells: tokens as they come, how requests ended, what each step did.

use std::time::Duration;

use dsde_policy::ExpertsWoken;
use dsde_sampling::TokenLogprobs;

use crate::request::RequestId;

/// How a token came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A drafted token that was kept.
    Accepted,
    /// Drawn by the target after a drafted token was rejected.
    Recovered,
    /// Drawn by the target after all drafted tokens were kept.
    Bonus,
    /// Drawn by the target without speculation.
    Plain,
}

/// One emitted token.
#[derive(Clone, Debug, PartialEq)]
pub struct EmittedToken {
    /// Its id.
    pub token: u32,
    /// How it came to be.
    pub origin: Origin,
    /// Log-probabilities, if asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// What had been drafted from this position on and was rejected, one list per branch, at most one if the proposal was a
    /// chain; empty unless [`Request::tells_rejected`](crate::Request::tells_rejected).
    pub rejected: Vec<Vec<u32>>,
}

/// Tokens of one choice from one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Emission {
    /// Whose tokens.
    pub request: RequestId,
    /// Which continuation, from 0.
    pub choice: u32,
    /// At least one token, except where the end of a request that was [cut](crate::Engine::cut) releases text.
    pub tokens: Vec<EmittedToken>,
    /// Text that became certain: may lag behind the tokens while a stop string could begin. Not cut at UTF-8 boundaries.
    pub text: Vec<u8>,
}

/// What the target thought of tokens of a prompt while it read them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Whose prompt.
    pub request: RequestId,
    /// Log-probabilities of its next tokens in order; before the first token there is nothing to tell it from, so they begin
    /// with the second.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token or stop string.
    Stop,
    /// The token bound or the end of the context, or its owner [cut](crate::Engine::cut) it.
    Length,
    /// Cancelled by the user.
    Cancelled,
    /// The executor failed.
    Failed,
    /// The form of its answer could not be followed any further.
    FormLost,
}

/// The end of one choice; always its last event.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Which request.
    pub request: RequestId,
    /// Which continuation, from 0.
    pub choice: u32,
    /// Why it ended.
    pub reason: FinishReason,
    /// When things happened, and the sums of the funnel.
    pub timeline: RequestTimeline,
}

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A part of a prompt was read.
    Scored(Scored),
    /// Tokens were emitted.
    Emitted(Emission),
    /// A choice ended.
    Finished(Finished),
}

/// Times (engine clock) and counts of one choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTimeline {
    /// When it was submitted.
    pub arrival: Duration,
    /// When it first ran.
    pub admitted: Option<Duration>,
    /// When its first token was emitted.
    pub first_token: Option<Duration>,
    /// When it ended.
    pub finished: Duration,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens found in the prefix cache at first admission.
    pub cached_tokens: u32,
    /// Tokens emitted.
    pub emitted: u32,
    /// Target passes that emitted for it.
    pub steps: u32,
    /// Tokens drafted.
    pub drafted: u32,
    /// Drafted tokens verified.
    pub verified: u32,
    /// Verified tokens kept, before stop conditions.
    pub accepted: u32,
    /// Times its blocks were taken away and computed again.
    pub preemptions: u32,
}

/// One step in numbers. `accepted <= verified <= drafted <= planned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Number of the step, from 0.
    pub step: u64,
    /// Sequences in the target pass.
    pub n_seqs: u32,
    /// Rows of the target pass.
    pub target_rows: u32,
    /// Rows of prompt chunks among them.
    pub prefill_rows: u32,
    /// Passes of the draft model before the target's, catching up included; those beside it are not counted.
    pub draft_rounds: u32,
    /// Rows of all those passes together.
    pub draft_rows: u32,
    /// Positions the drawing sequences had stored before the pass, together.
    pub context_len_sum: u64,
    /// Experts that the target pass asked; `None` where the target has none.
    pub experts: Option<ExpertsWoken>,
    /// Sum of planned lengths.
    pub planned: u32,
    /// Sum of drafted lengths.
    pub drafted: u32,
    /// Sum of verified lengths.
    pub verified: u32,
    /// Sum of accepted lengths.
    pub accepted: u32,
    /// Tokens emitted after stop conditions.
    pub emitted: u32,
    /// Tokens that might be carried, behind guesses of what the target draws itself: drafted while it verified, or trimmed
    /// where the policy drafts ahead.
    pub ahead: u32,
    /// Of `drafted`, what was left from the step before.
    pub carried: u32,
    /// Sequences preempted before the pass.
    pub preempted: u32,
    /// Blocks that hold keys and values of the target in the draft's memory.
    pub blocks_lent: u32,
    /// Time spent on lending that memory or reclaiming it.
    pub lending_time: Duration,
    /// Time in draft passes before the target's.
    pub draft_time: Duration,
    /// Time in the target pass and its verdicts, and in what was drafted beside them.
    pub verify_time: Duration,
    /// Time of the whole step.
    pub step_time: Duration,
}
