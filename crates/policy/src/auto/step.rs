//! The step under way: what is planned for whom, at which prices, and how far drafting has come.

use crate::auto::choice::{Best, Candidate, DEPTH_MAX, Prices};
use crate::auto::guard::Progress;
use crate::{DraftPosition, SeqId, SequenceView};

/// Bound on the weight of a sequence that falls behind its target.
const WEIGHT_MAX: f64 = 16.0;

/// What a step does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Turn {
    /// Decodes plainly.
    #[default]
    Plain,
    /// Drafts given lengths to learn from them.
    Learning,
    /// Drafts what pays.
    Speculating,
}

/// A sequence in the current step, in the engine's order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drafting {
    /// Whose drafting this is.
    pub(super) seq: SeqId,
    /// Sampling temperature; 0 means greedy.
    pub(super) temperature: f32,
    /// Whether its draft is the one that was foreseen.
    pub(super) is_foreseen: bool,
    /// Whether the draft model could draft instead.
    pub(super) can_choose: bool,
    /// Of its progress, see [`urgency`].
    pub(super) weight: f64,
    /// Log-odds by which it is accepted more often than others.
    pub(super) offset: f64,
    /// Probability that everything planned is accepted, before drafting.
    pub(super) planned_survival: f64,
    /// Probability that all positions drafted so far are accepted.
    pub(super) survival: f64,
    /// Positions that `survival` covers.
    pub(super) depth: u32,
    /// `survival` after each of them.
    pub(super) survivals: [f64; DEPTH_MAX],
    /// Whether anything is planned for it.
    pub(super) drafts: bool,
    /// Whether a token more than planned is verified, whatever the draft's shape says (`auto/beyond.rs`).
    pub(super) goes_beyond: bool,
    /// Where the features of its drafted positions start, and how many there are.
    pub(super) features: (usize, usize),
}

/// The current step, and buffers kept between steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    /// What was planned.
    pub(super) turn: Turn,
    /// The best lengths without prompts.
    pub(super) best: Best,
    /// What the step should bring, where that is to be checked.
    pub(super) foretold: Option<Progress>,
    /// Seconds of the step if it decoded plainly.
    pub(super) plain_seconds: f64,
    /// Sum of the weights.
    pub(super) weight: f64,
    /// Seconds that one more verified row takes.
    pub(super) row_seconds: f64,
    /// Whether divergences are asked for.
    pub(super) wants_divergence: bool,
    /// Whether speculation does not seem to pay, but may: of what is accepted too little is known.
    pub(super) is_open: bool,
    /// Whether the draft's shape is asked for.
    pub(super) wants_shape: bool,
    /// Seconds of passes, by their size.
    pub(super) prices: Prices,
    /// One per sequence, for the search.
    pub(super) candidates: Vec<Candidate>,
    /// Lengths found, one per sequence.
    pub(super) lens: Vec<u32>,
    /// One per sequence.
    pub(super) drafting: Vec<Drafting>,
    /// Where the last sequence was found; the engine asks in order.
    cursor: usize,
    /// Draft rounds that were decided on, the first not counted.
    pub(super) rounds_decided: u32,
    /// Whether the round decided last is taken.
    pub(super) is_round_taken: bool,
    /// Weighted survival above which a sequence joins that round.
    pub(super) entry_price: f64,
    /// Of all drafted positions, sequence by sequence.
    pub(super) features: Vec<DraftPosition>,
}

impl Step {
    /// Drops what the last step left.
    pub(super) fn begin(&mut self) {
        self.candidates.clear();
        self.drafting.clear();
        self.features.clear();
        self.cursor = 0;
        self.turn = Turn::Plain;
        self.best = Best::default();
        self.foretold = None;
    }

    /// Drafts given lengths, of the draft model wherever it can draft: what was foreseen need not be tried to be known.
    pub(super) fn learn(&mut self) {
        self.turn = Turn::Learning;
        for drafting in self.drafting.iter_mut().filter(|drafting| drafting.can_choose) {
            drafting.is_foreseen = false;
        }
    }

    /// Whether a sequence's draft is the one that was foreseen.
    pub(super) fn is_foreseen(&self, seq: SeqId) -> bool {
        self.drafting.iter().any(|drafting| drafting.seq == seq && drafting.is_foreseen)
    }

    /// Has the step checked against this many weighted tokens in so many seconds.
    pub(super) fn foretell(&mut self, tokens: f64, seconds: f64) {
        let is_known = self.weight > 0.0 && self.plain_seconds > 0.0;
        self.foretold = is_known
            .then(|| Progress { tokens: tokens / self.weight, seconds: seconds / self.plain_seconds });
    }

    /// Index of a sequence of the step; asked in the engine's order, it is found at once.
    pub(super) fn find(&mut self, seq: SeqId) -> Option<usize> {
        let n = self.drafting.len();
        let idx = (self.cursor..n).chain(0..self.cursor.min(n)).find(|&i| self.drafting[i].seq == seq)?;
        self.cursor = idx;
        Some(idx)
    }
}

/// Weight of a sequence's progress: the square of its time per token over the bound it asked for, at least 1.
pub(super) fn urgency(sequence: &SequenceView) -> f64 {
    let Some(bound) = sequence.tpot_max.filter(|bound| !bound.is_zero()) else { return 1.0 };
    let n_gaps = sequence.emitted.saturating_sub(1).max(1);
    let ratio = sequence.decode_time.as_secs_f64() / f64::from(n_gaps) / bound.as_secs_f64();
    ratio.powi(2).clamp(1.0, WEIGHT_MAX)
}
