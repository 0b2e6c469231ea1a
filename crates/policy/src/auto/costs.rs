//! What a step takes: the target pass over its rows, with an expert term where it has experts (`auto/expert_term.rs`), a draft
//! round over its rows, and the pace of the machine. What passes and rounds take longer in long contexts are prices of their own
//! (`auto/attention.rs`), and the curves have the rest.
//!
//! A plain step among its like is a size of its own, not a pass with no draft rows: the draft pushes the target out of the
//! nearer caches, so a pass behind drafting takes longer than one behind a pass. The first steps behind a change of mode
//! take longer than their like, and would flatter the other mode: they count only where nothing else is known. A step that
//! also reads prompts is another thing again: its rows are cheaper than verified ones, by the output layer.

#[cfg(test)]
pub(super) mod tests;

use std::time::Duration;

use super::attention::Attention;
use super::expert_term::ExpertTerm;
use super::rounds::{Round, Rounds};
use crate::cost::curve::{Attended, CostCurve};
use crate::{Outcome, StepFeedback};

/// Gain of the pace per step, in logarithms; several times that of a single size's time, so that a machine that slows down
/// slows everything down, also what is not being measured just now.
const PACE_GAIN: f64 = 1.0 / 8.0;

/// Share of the target's time that a draft round is thought to take before one was timed.
const ROUND_UNSEEN: f64 = 0.2;

/// Share of the price of draft rows that an unmeasured size is credited with, so that lengths that may be best are tried.
const BENEFIT_OF_DOUBT: f64 = 0.25;

/// Steps after which every step's times count at once no longer: laying the curves out anew takes microseconds, and what one
/// step adds to them is little by then.
const YOUNG_STEPS: u32 = 64;

/// Steps whose times are then taken in together.
const STEPS_PER_LAYOUT: u32 = 8;

/// Steps behind a change between plain and speculating ones that still pay for it.
pub(super) const STEPS_TO_WARM: u32 = 2;

/// Weight of a plain step that interrupts speculation to be measured, against one among many: few stand for much.
const MEASURING_WEIGHT: f64 = 4.0;

/// Plain steps in a row that are few.
const FEW_STEPS: u32 = 8;

/// Least that a token is thought to take against the mean.
const WORK_MIN: f64 = 0.05;

/// Costs of steps, learnt from all of them.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    /// A plain step behind others, over its rows; at pace 1.
    plain: CostCurve,
    /// Everything but drafting of a step that speculates, over the rows of the target pass; at pace 1.
    target: CostCurve,
    /// Everything but drafting of a step that also reads prompts, over all rows; at pace 1.
    mixed: CostCurve,
    /// One pass of the draft, over its rows; at pace 1.
    round: CostCurve,
    /// On top of the first three.
    attention: Attention,
    /// On top of the last.
    draft_attention: Attention,
    /// Positions stored by the sequences of the step under way.
    stored: f64,
    /// Those sequences, at least one.
    n_sequences: u32,
    /// Of target passes behind drafting; at pace 1.
    experts: ExpertTerm,
    /// Seconds now per second at pace 1.
    pace: f64,
    /// Steps since the last change between plain and speculating ones, and whether they are plain.
    n_alike: u32,
    is_plain: bool,
    n_steps: u32,
    /// Steps learnt since the curves were laid out.
    n_new: u32,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            plain: CostCurve::default(),
            target: CostCurve::default(),
            mixed: CostCurve::default(),
            round: CostCurve::default(),
            attention: Attention::default(),
            draft_attention: Attention::default(),
            stored: 0.0,
            n_sequences: 1,
            experts: ExpertTerm::default(),
            pace: 1.0,
            n_alike: 0,
            is_plain: true,
            n_steps: 0,
            n_new: 0,
        }
    }
}

impl Costs {
    /// Prices the passes of a step of so many sequences, which have stored so many positions together.
    pub(super) fn begin(&mut self, n_sequences: u32, stored: u64) {
        (self.n_sequences, self.stored) = (n_sequences.max(1), stored as f64);
    }

    /// What plain decoding takes for a token of a sequence that stores this many positions, against the mean of the step under
    /// way: an even share of what the rows take, and its own attending.
    pub(super) fn work(&self, context_len: u32) -> f64 {
        let n = f64::from(self.n_sequences);
        let Some(plain) = self.plain(self.n_sequences) else { return 1.0 };
        let more = self.attention.seconds([f64::from(context_len) - self.stored / n, 0.0]);
        (1.0 + more / (plain / n)).max(WORK_MIN)
    }

    /// Seconds that a draft row takes for attending to this many positions, beyond what a row takes.
    pub(super) fn attending(&self, context_len: u32) -> f64 {
        self.attention.seconds([0.0, f64::from(context_len)])
    }

    /// Seconds that a round takes for a sequence that has stored this many positions, beyond what a row takes.
    pub(super) fn drafting(&self, context_len: u32) -> f64 {
        self.draft_attention.seconds([f64::from(context_len), 0.0])
    }

    /// Seconds that the first rows of the step under way take for attending.
    fn attending_first(&self) -> f64 {
        self.attention.seconds([self.stored, 0.0])
    }

    /// Expected seconds of a plain step without prompts among its like; `None` before the first step.
    pub(super) fn plain(&self, rows: u32) -> Option<f64> {
        let is_known = self.plain.rows_max() > 0.0;
        let curve = if is_known { &self.plain } else { &self.target };
        Some(curve.seconds(rows)? * self.pace + self.attending_first())
    }

    /// Expected seconds of a target pass behind drafting, without what draft rows [attend](Self::attending) to; `None` before the
    /// first step.
    pub(super) fn target(&self, n_sequences: u32, n_drafts: u32) -> Option<f64> {
        let seconds = self.passes().seconds(n_sequences + n_drafts)?;
        let experts = self.experts.seconds(n_sequences, n_drafts);
        Some((seconds + experts) * self.pace + self.attending_first())
    }

    /// As [`target`](Self::target) for `0..=n_max` draft rows, into `seconds`, but `plain_seconds` for none and never less for
    /// any; their price is up to a quarter lower while a size was measured rarely. `None` before the first step.
    pub(super) fn targets_with(
        &self,
        n_sequences: u32,
        n_max: u32,
        plain_seconds: f64,
        seconds: &mut Vec<f64>,
    ) -> Option<()> {
        let passes = self.passes();
        passes.seconds(n_sequences)?;
        seconds.clear();
        seconds.push(plain_seconds);
        let attending = self.attending_first();
        let plain = (plain_seconds - attending) / self.pace;
        let mut known = (f64::NAN, 0.0);
        let passes_from_one = passes.seconds_from(n_sequences + 1).take(n_max as usize);
        seconds.extend((1..).zip(passes_from_one).map(|(n_drafts, own)| {
            let evidence = passes.evidence(n_sequences + n_drafts);
            if evidence != known.0 {
                known = (evidence, 1.0 - BENEFIT_OF_DOUBT / (1.0 + evidence).sqrt());
            }
            let own = own + self.experts.seconds(n_sequences, n_drafts);
            (plain + (own - plain).max(0.0) * known.1) * self.pace + attending
        }));
        Some(())
    }

    /// Expected seconds of a target pass that also reads prompts, for `0..=n_max` draft rows on top of `rows`, into
    /// `seconds`. `None` before the first step.
    ///
    /// A draft row costs what rows cost beside prompts or what they cost without, whichever is more: where few draft and
    /// many read, the first is the price of a row without output; where many rows were never verified at once, the second
    /// is a guess.
    pub(super) fn targets_beside_prompts(&self, rows: u32, n_max: u32, seconds: &mut Vec<f64>) -> Option<()> {
        let passes = self.passes();
        let mixed = if self.mixed.rows_max() > 0.0 { &self.mixed } else { passes };
        let (alone, beside) = (passes.seconds(rows)?, mixed.seconds(rows)?);
        let both = passes.seconds_from(rows).zip(mixed.seconds_from(rows)).take(n_max as usize + 1);
        seconds.clear();
        seconds.extend(both.map(|(pass, mix)| (beside + (pass - alone).max(mix - beside)) * self.pace));
        Some(())
    }

    /// The curve of passes behind drafting; until there is one, that of plain steps.
    fn passes(&self) -> &CostCurve {
        if self.target.rows_max() > 0.0 { &self.target } else { &self.plain }
    }

    /// Expected seconds of a draft round, without what its rows [attend](Self::drafting) to; a share of the target's time before the
    /// first.
    pub(super) fn round(&self, rows: u32) -> f64 {
        let seconds = self.round.seconds(rows).or_else(|| Some(ROUND_UNSEEN * self.passes().seconds(1)?));
        seconds.unwrap_or(0.0) * self.pace
    }

    /// Whether plain steps of this size, or of sizes around it, were measured often enough to compare with.
    pub(super) fn is_plain_sound(&self, rows: u32) -> bool {
        self.plain.is_sound_between(rows)
    }

    /// Plain steps of this size that were measured among their like.
    pub(super) fn plain_evidence(&self, rows: u32) -> f64 {
        self.plain.evidence(rows)
    }

    /// Whether target passes of this size behind drafting were measured often enough to judge by.
    pub(super) fn is_sound(&self, rows: u32) -> bool {
        self.target.is_sound(rows)
    }

    /// Most rows of a target pass whose time can be judged: twice the most that were measured.
    pub(super) fn rows_trusted(&self) -> u32 {
        let curves = [&self.plain, &self.target, &self.mixed];
        (2.0 * curves.map(CostCurve::rows_max).into_iter().fold(0.0, f64::max)) as u32
    }

    /// Has what was learnt count, if it is enough to be worth it.
    pub(super) fn settle(&mut self) {
        if self.n_new >= STEPS_PER_LAYOUT || self.n_steps < YOUNG_STEPS {
            self.n_new = 0;
            let prices = self.attention.prices().map(|price| price / self.pace);
            for curve in [&mut self.plain, &mut self.target, &mut self.mixed] {
                curve.price(prices);
                curve.settle();
            }
            self.round.price(self.draft_attention.prices().map(|price| price / self.pace));
            self.round.settle();
            self.experts.settle();
        }
    }

    /// Takes in the times of a step; they count from the next [`settle`](Self::settle) on.
    ///
    /// Returns the logarithm by which drafting missed what it was expected to take; `None` if nobody drafted, or somebody caught
    /// up.
    pub(super) fn learn(&mut self, feedback: &StepFeedback<'_>) -> Option<f64> {
        let is_plain = feedback.is_plain();
        self.n_alike = if is_plain == self.is_plain { self.n_alike.saturating_add(1) } else { 1 };
        self.is_plain = is_plain;
        let drafting_missed = if is_plain { None } else { self.learn_rounds(feedback) };
        let measured = feedback.step_time.saturating_sub(feedback.draft_time).as_secs_f64();
        let attended = attended(feedback);
        let seconds = measured / self.pace;
        let rows = feedback.target_rows;
        self.experts.learn(feedback);
        let has_prompts = feedback.prefill_rows > 0;
        let is_warm = self.n_alike > STEPS_TO_WARM;
        let is_few = is_warm && self.n_alike <= FEW_STEPS && self.n_steps > YOUNG_STEPS;
        let (curve, weight) = match (has_prompts, is_plain) {
            (true, _) => (&mut self.mixed, 1.0),
            (false, true) => (&mut self.plain, if is_few { MEASURING_WEIGHT } else { 1.0 }),
            (false, false) => (&mut self.target, 1.0),
        };
        let counts = has_prompts || is_warm || !curve.is_sound(rows);
        if counts && !has_prompts && !is_plain {
            let expected = curve.seconds(rows).filter(|_| curve.is_sound(rows));
            let own = seconds - self.attention.seconds(attended) / self.pace;
            self.experts.learn_seconds(feedback, expected.map(|expected| own - expected));
        }
        let missed = if counts { curve.learn_attending(rows, attended, seconds, weight) } else { None };
        if counts && !has_prompts {
            self.attention.learn(is_plain, rows, attended, measured);
        }
        self.n_steps = self.n_steps.saturating_add(1);
        self.n_new += 1;
        if let Some(missed) = missed.filter(|_| !has_prompts) {
            self.pace = (self.pace * (PACE_GAIN * missed).exp()).clamp(1e-6, 1e6);
        }
        drafting_missed
    }

    /// Whether a step that speculates now is among its like.
    pub(super) fn is_warm(&self) -> bool {
        !self.is_plain && self.n_alike >= STEPS_TO_WARM
    }

    /// Splits the draft's time over its rounds in proportion to what they were expected to take.
    fn learn_rounds(&mut self, feedback: &StepFeedback<'_>) -> Option<f64> {
        let Rounds { rounds, catches_up } = Rounds::of(feedback);
        let seconds = feedback.draft_time.as_secs_f64() / self.pace;
        if rounds.is_empty() || feedback.draft_time == Duration::ZERO {
            return None;
        }
        let expected: Vec<f64> = rounds.iter().map(|&round| self.expected(round)).collect();
        let sum: f64 = expected.iter().sum();
        if self.round.rows_max() == 0.0 || sum <= 0.0 {
            let share = seconds / rounds.len() as f64;
            rounds.iter().for_each(|&round| self.learn_round(round, share));
            return None;
        }
        if catches_up {
            // Only the first round is new; it gets what the others leave, and at least a quarter of its expectation.
            let first = (seconds - (sum - expected[0])).max(0.25 * expected[0]);
            self.learn_round(rounds[0], first);
            return None;
        }
        if self.n_alike <= STEPS_TO_WARM {
            return None;
        }
        for (&round, expected) in rounds.iter().zip(&expected) {
            self.learn_round(round, seconds * expected / sum);
        }
        self.learn_draft_attention(&rounds, feedback.draft_time.as_secs_f64());
        Some((seconds / sum).ln())
    }

    /// Expected seconds of a round at pace 1, what it attends to included.
    fn expected(&self, Round { rows, stored }: Round) -> f64 {
        (self.round(rows) + self.draft_attention.seconds([stored, 0.0])) / self.pace
    }

    /// * `seconds`: at pace 1.
    fn learn_round(&mut self, Round { rows, stored }: Round, seconds: f64) {
        self.round.learn_attending(rows, [stored, 0.0], seconds, 1.0);
    }

    /// Takes in the mean round of a step; those of a step differ in their rows, and the price is of what they have in common.
    fn learn_draft_attention(&mut self, rounds: &[Round], seconds: f64) {
        let n_rounds = rounds.len() as f64;
        let rows = f64::from(rounds.iter().map(|round| round.rows).sum::<u32>()) / n_rounds;
        let stored = rounds.iter().map(|round| round.stored).sum::<f64>() / n_rounds;
        self.draft_attention.learn(true, rows.round() as u32, [stored, 0.0], seconds / n_rounds);
    }
}

/// Positions that the rows of decoding sequences attended to.
fn attended(feedback: &StepFeedback<'_>) -> Attended {
    let by_drafts = |outcome: &Outcome<'_>| f64::from(outcome.verified) * f64::from(outcome.context_len);
    [feedback.context_len_sum() as f64, feedback.outcomes.iter().map(by_drafts).sum()]
}
