//! Auto: speculate exactly as far as it pays, for every sequence and step, and not at all where it does not.
//!
//! One question per step: which draft tokens are worth the time they take? Survival probabilities come from
//! [`crate::acceptance`], times from every step that was measured, and the lengths are those with the highest
//! weighted progress per second. The off switch, the cap on stragglers and the dependence on the batch size are not rules
//! of their own; they follow from the costs. The ideas have many fathers: goodput (TurboSpec, arXiv:2406.14066), ranked
//! survival against a measured cost table (DSpark, arXiv:2607.05147), divergences as memory (DSDE, arXiv:2509.01083).
//!
//! | question | answered by |
//! |---|---|
//! | what may be accepted | [`Acceptance`]: per position, per request, with or without the draft's shape |
//! | what time it takes | `auto/costs.rs`: target pass and draft round over rows, and the machine's pace; `auto/attention.rs`: stored positions; `auto/expert_term.rs`: experts |
//! | what drafts of this step would be worth | `auto/survey.rs` |
//! | what it would take in this step | `auto/pricing.rs` |
//! | which lengths are best | `auto/choice.rs`: every depth and every head of the ranking by survival |
//! | what is planned of these | `auto/speculating.rs` |
//! | when a draft stops, what is verified | `auto/marginal.rs`, the marginal rule: `w a / seconds >= rate` |
//! | whether the draft model drafts or what was foreseen is taken | `auto/pricing.rs`: what each is worth to the sequence at the rate of plain decoding |
//! | whether the draft's shape is worth computing | `auto/insight.rs`: what it tells against what it takes |
//! | whether what is never verified would be accepted after all | `auto/beyond.rs`: a token more than planned, now and then |
//! | whether the model is right | `auto/review.rs`, `auto/guard.rs`: measured against foretold rates |
//! | whether to begin or to end | `auto/switch.rs`: any gain keeps it on, a sure one starts it |
//! | how long a decision to decode plainly stands | `auto/rest.rs` |
//! | whether things changed while it is off | `auto/probe.rs`, `auto/probing.rs`: one sequence, half a percent of the time |
//!
//! Why trimming is lossless: the rate and the price of a row that a position has to beat are fixed before anything is
//! drafted, and its survival depends on the draft's distributions up to that position, so on nothing drawn there or later.
//!
//! What it costs when it does not pay: while speculation is off no signal is requested and all lengths are 0. Once in a
//! while a speculating batch decodes plainly for a few steps, so that the time it is compared with stays measured: a few,
//! because the first ones still pay for the speculation before them (`auto/costs.rs`).

mod attention;
mod beyond;
mod choice;
mod costs;
mod expert_term;
mod guard;
mod insight;
mod marginal;
mod pricing;
mod probe;
mod probing;
mod rest;
mod review;
mod rounds;
mod speculating;
mod step;
mod survey;
mod switch;
#[cfg(test)]
mod tests;

use crate::acceptance::Acceptance;
use crate::registry::{Entry, Parameter, Settings, ValueSet};
use crate::{DraftPosition, PlanView, Planned, Policy, Reason, SeqId, Signals, StepFeedback};
use choice::{DEPTH_MAX, Search};
use costs::Costs;
use guard::Guard;
use insight::Insight;
use probe::Probe;
use rest::Rest;
use step::{Step, Turn};
use switch::Switch;

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "auto",
    summary: "per sequence, as far as it pays by measured cost and learnt acceptance; off where it does not",
    source: "this project",
    parameters: &[
        Parameter {
            key: "k_max",
            values: ValueSet::Count { min: 1, max: DEPTH_MAX as u32 },
            default: Some("16"),
            meaning: "ceiling of the length, tokens",
        },
        Parameter {
            key: "probe",
            values: ValueSet::Number { min: 0.0, max: 0.1 },
            default: Some("0.005"),
            meaning: "share of the time spent on looking again while speculation is off",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Auto::new(settings))),
};

/// Lengths of the first steps, from which first costs are learnt; everyone drafts as much.
const FIRST_LENS: [u32; 20] = [0, 0, 0, 0, 0, 2, 1, 4, 2, 3, 1, 2, 1, 0, 0, 0, 0, 3, 4, 1];

/// Unread tokens that every drafting sequence may have: the last one, and the one before if all drafts were kept.
const LAG_ORDINARY: u32 = 2;

/// Chooses lengths by what they are worth; see the file's head.
#[derive(Clone, Debug)]
pub struct Auto {
    name: String,
    k_max: u32,
    /// Of what the draft model drafts.
    acceptance: Acceptance,
    /// Of what was foreseen.
    foreseen: Acceptance,
    /// Steps since acceptance was settled.
    n_unsettled: u32,
    costs: Costs,
    search: Search,
    guard: Guard,
    insight: Insight,
    probe: Probe,
    /// Steps taken of [`FIRST_LENS`].
    n_first: usize,
    switch: Switch,
    /// Speculating steps since plain decoding was last measured.
    n_since_plain: u32,
    rest: Rest,
    step: Step,
}

impl Auto {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            name: settings.name(),
            k_max: settings.count("k_max"),
            acceptance: Acceptance::default(),
            foreseen: Acceptance::default(),
            n_unsettled: 0,
            costs: Costs::default(),
            search: Search::default(),
            guard: Guard::default(),
            insight: Insight::default(),
            probe: Probe::new(settings.number("probe")),
            n_first: 0,
            switch: Switch::default(),
            n_since_plain: 0,
            rest: Rest::default(),
            step: Step::default(),
        }
    }

    /// Measured over foretold rate of speculation; 1 if it brings what was foretold.
    pub fn guard_factor(&self) -> f64 {
        self.guard.factor()
    }

    /// Acceptance of what was foreseen, or of what the draft model drafts.
    fn acceptance_of(&self, is_foreseen: bool) -> &Acceptance {
        if is_foreseen { &self.foreseen } else { &self.acceptance }
    }

    /// Expected rate of the best lengths over that of plain decoding, as far as the past bears it out.
    fn gain(&self) -> f64 {
        self.step.best.value * self.step.plain_seconds / self.step.weight * self.guard.factor()
    }

    fn plan_first(&mut self, len: u32, plan: &mut [Planned]) {
        self.n_first += 1;
        if len > 0 {
            self.step.learn();
        }
        let len = len.min(self.k_max);
        plan.fill(Planned { len, width: 1, is_settled: false, reason: "learning" });
    }
}

impl Policy for Auto {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// Nothing while decoding plainly. The draft's shape while it tells accepted drafts from rejected ones. Divergences only
    /// where all sequences are sampled, whose verification computes both distributions anyway, and not in every step.
    fn signals(&self) -> Signals {
        let drafts = self.step.turn != Turn::Plain;
        Signals {
            divergence: drafts && self.step.wants_divergence,
            draft_shape: drafts && self.step.wants_shape,
        }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if self.rest.stands(view) {
            self.go_on_resting(plan);
            return;
        }
        self.rest = Rest::default();
        self.costs.settle();
        self.survey(view);
        let can_draft = view.sequences.iter().any(|sequence| sequence.limit > 0);
        if !can_draft {
            plan.fill(plain("no room"));
            return;
        }
        if let Some(&len) = FIRST_LENS.get(self.n_first) {
            self.plan_first(len, plan);
            return;
        }
        let Some(best) = self.search(view) else {
            plan.fill(plain("measuring"));
            return;
        };
        self.switch.turn(best.n_drafts > 0, self.gain());
        if self.switch.is_on() {
            self.probe.stop();
            if view.prefill_rows > 0 && self.search_beside_prompts(view).is_none() {
                self.step.lens.fill(0);
            }
            self.plan_speculation(view, plan);
        } else {
            self.plan_plain(view, plan);
        }
    }

    fn takes_foreseen(&self, seq: SeqId) -> bool {
        self.step.is_foreseen(seq)
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.goes_on(seq, position)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.cut(view, drafted, verify_lens);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.check(feedback);
        self.learn_acceptance(feedback);
        if let Some(missed) = self.costs.learn(feedback) {
            let share = feedback.draft_time.as_secs_f64() / feedback.step_time.as_secs_f64();
            self.insight.note(self.step.wants_shape, missed, share);
        }
    }

    /// A profiled step stands for one of the first steps.
    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.n_first += 1;
        self.costs.learn(feedback);
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        let step = &self.step;
        let mut pairs = step.drafting.iter().zip(&step.candidates);
        let Some((drafting, candidate)) = pairs.find(|(drafting, _)| drafting.seq == seq) else { return };
        numbers.extend([
            ("survival", drafting.planned_survival),
            ("weight", drafting.weight),
            ("rate", step.best.value),
            ("plain_rate", if step.plain_seconds > 0.0 { step.weight / step.plain_seconds } else { 0.0 }),
            ("round_seconds", step.prices.round.last().copied().unwrap_or(0.0)),
            ("row_seconds", step.row_seconds),
            ("attending_seconds", candidate.row_seconds),
            ("guard", self.guard.factor()),
            ("foreseen", f64::from(u8::from(drafting.is_foreseen))),
        ]);
        numbers.extend(self.acceptance.insight().map(|nats| ("shape_insight", nats)));
        let calibration_errors = [
            ("calibration_error", self.acceptance.calibration_error()),
            ("calibration_error_foreseen", self.foreseen.calibration_error()),
        ];
        numbers.extend(calibration_errors.into_iter().filter_map(|(name, error)| Some((name, error?))));
    }

    fn forget(&mut self, seq: SeqId) {
        self.acceptance.forget(seq);
        self.foreseen.forget(seq);
    }
}

const fn plain(reason: Reason) -> Planned {
    Planned { reason, ..Planned::none() }
}
