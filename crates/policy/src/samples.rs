//! A step in which nothing is special, for tests to change: `PlanView { sequences: &mine, ..VIEW }`.

use std::time::Duration;

use crate::{Outcome, PlanView, SeqId, SequenceView, StepFeedback};

/// A greedy sequence with room for a few drafts, whose draft has read all but the last token.
pub(crate) const SEQUENCE: SequenceView = SequenceView {
    seq: SeqId(1),
    limit: 8,
    remaining: 100,
    context_len: 100,
    draft_lag: 1,
    temperature: 0.0,
    emitted: 1,
    decode_time: Duration::ZERO,
    tpot_max: None,
    priority: 0,
    foreseen: (0, 0),
    can_choose: false,
};

/// A step for nobody.
pub(crate) const VIEW: PlanView<'static> = PlanView {
    step: 0,
    sequences: &[],
    foreseen: &[],
    prefill_rows: 0,
    n_waiting: 0,
    blocks_free: 10,
    blocks_total: 10,
    block_len: 16,
    now: Duration::ZERO,
};

/// Plain decoding of a greedy sequence.
pub(crate) const OUTCOME: Outcome<'static> = Outcome {
    seq: SeqId(1),
    planned: 0,
    drafted: 0,
    verified: 0,
    accepted: 0,
    temperature: 0.0,
    context_len: 0,
    is_foreseen: false,
    signals: &[],
};

/// A step of nobody that took no time.
pub(crate) const FEEDBACK: StepFeedback<'static> = StepFeedback {
    step: 0,
    outcomes: &[],
    target_rows: 0,
    prefill_rows: 0,
    draft_rounds: 0,
    draft_rows: 0,
    experts: None,
    draft_time: Duration::ZERO,
    verify_time: Duration::ZERO,
    step_time: Duration::ZERO,
};
