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
//! | what it would take in this step | `auto/pricing.rs` |
//! | which lengths are best | `auto/choice.rs`: every depth and every head of the ranking by survival |
//! | when a draft stops, what is verified | `auto/marginal.rs`, the marginal rule: `w a / seconds >= rate` |
//! | whether the draft model drafts or what was foreseen is taken | `auto/pricing.rs`: what each is worth to the sequence at the rate of plain decoding |
//! | whether the draft's shape is worth computing | `auto/insight.rs`: what it tells against what it takes |
//! | whether what is never verified would be accepted after all | `auto/beyond.rs`: a token more than planned, now and then |
//! | whether the model is right | `auto/guard.rs`: measured against foretold rates |
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
mod rounds;
mod step;
mod switch;

use std::time::Duration;

use crate::acceptance::Acceptance;
use crate::registry::{Entry, Parameter, Settings, ValueSet};
use crate::{DraftPosition, PlanView, Planned, Policy, Reason, SeqId, SequenceView, Signals, StepFeedback};
use choice::{Candidate, DEPTH_MAX, Search};
use costs::Costs;
use guard::{Guard, Progress};
use insight::Insight;
use pricing::{Rates, weight};
use probe::Probe;
use rest::Rest;
use step::{Drafting, Step, Turn};
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

/// Steps within which catching up must have paid for itself, if the request does not end before.
const HORIZON_STEPS: f64 = 64.0;

/// Unread tokens that every drafting sequence may have: the last one, and the one before if all drafts were kept.
const LAG_ORDINARY: u32 = 2;

/// Nats per label from which the shape may lengthen a draft beyond its plan.
const INSIGHT_TO_GO_ON: f64 = 0.01;

/// Steps without a draft after which what is known of acceptance fades.
const SILENT_STEPS: u32 = 64;

/// Steps after which divergences are looked at again once acceptance is known: comparing two distributions takes time, and
/// says little that accepted and rejected drafts have not said by then.
const DIVERGENCE_STEPS: u64 = 8;

/// Uncertainty of acceptance from which every divergence is welcome, log-odds.
const UNCERTAINTY_TO_COMPARE: f64 = 0.2;

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

    /// Notes who takes part and what their drafts would be worth.
    fn survey(&mut self, view: &PlanView<'_>) {
        let step = &mut self.step;
        step.begin();
        step.wants_shape = self.insight.is_wanted(view.step, self.acceptance.insight());
        let is_sampled = |sequence: &SequenceView| sequence.temperature > 0.0;
        let is_unknown = || self.acceptance.uncertainty(1.0) > UNCERTAINTY_TO_COMPARE;
        step.wants_divergence = view.sequences.iter().all(is_sampled)
            && (view.step.is_multiple_of(DIVERGENCE_STEPS) || is_unknown());
        let stored = view.sequences.iter().map(|sequence| u64::from(sequence.context_len)).sum();
        self.costs.begin(view.sequences.len() as u32, stored);
        let rates = Rates::of(view, &self.costs);
        for sequence in view.sequences {
            let (candidate, is_foreseen) = match view.foreseen_of(sequence) {
                [] => (self.guessed(sequence), false),
                foreseen if sequence.can_choose => {
                    let (guessed, foreseen) = (self.guessed(sequence), self.repeated(sequence, foreseen));
                    let is_better = rates.surplus(&foreseen) >= rates.surplus(&guessed);
                    if is_better { (foreseen, true) } else { (guessed, false) }
                }
                foreseen => (self.repeated(sequence, foreseen), true),
            };
            let weight = candidate.weight;
            let offset = self.acceptance_of(is_foreseen).offset(sequence.seq);
            let step = &mut self.step;
            step.candidates.push(candidate);
            step.drafting.push(Drafting {
                seq: sequence.seq,
                temperature: sequence.temperature,
                is_foreseen,
                can_choose: sequence.can_choose,
                weight,
                offset,
                planned_survival: 1.0,
                survival: 1.0,
                depth: 0,
                drafts: false,
                goes_beyond: false,
                survivals: [0.0; DEPTH_MAX],
                features: (0, 0),
            });
        }
    }

    /// What drafts of the draft model would be worth to a sequence.
    fn guessed(&self, sequence: &SequenceView) -> Candidate {
        let mut survivals = [0.0; DEPTH_MAX];
        let planned = &mut survivals[..sequence.limit.min(self.k_max) as usize];
        let offset = self.acceptance.offset(sequence.seq);
        self.acceptance.survivals(sequence.temperature, offset, planned);
        let is_behind = sequence.draft_lag > LAG_ORDINARY;
        let read = if is_behind { self.costs.round(sequence.draft_lag) - self.costs.round(1) } else { 0.0 };
        let steps_left = f64::from(sequence.remaining.max(1)) / (1.0 + survivals[0]);
        let catch_up = read.max(0.0) / steps_left.clamp(1.0, HORIZON_STEPS);
        let (attending, drafting) =
            (self.costs.attending(sequence.context_len), self.costs.drafting(sequence.context_len));
        Candidate {
            weight: weight(&self.costs, sequence),
            survivals,
            catch_up,
            row_seconds: attending + drafting,
            is_foreseen: false,
        }
    }

    /// What the chain that was foreseen would be worth to a sequence.
    fn repeated(&self, sequence: &SequenceView, foreseen: &[DraftPosition]) -> Candidate {
        let mut survivals = [0.0; DEPTH_MAX];
        let len = foreseen.len().min(self.k_max as usize);
        let offset = self.foreseen.offset(sequence.seq);
        self.foreseen.foreseen(sequence.temperature, offset, foreseen, &mut survivals[..len]);
        let row_seconds = self.costs.attending(sequence.context_len);
        Candidate {
            weight: weight(&self.costs, sequence),
            survivals,
            catch_up: 0.0,
            row_seconds,
            is_foreseen: true,
        }
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

    fn plan_speculation(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if self.must_measure_plain(view) {
            self.measure_plain(view, plan);
            return;
        }
        self.n_since_plain += 1;
        self.step.turn = Turn::Speculating;
        self.step.foretell(self.step.best.tokens, self.step.best.seconds);
        self.step.rounds_decided = 0;
        let has_room =
            self.step.wants_shape && self.acceptance.insight().is_some_and(|nats| nats > INSIGHT_TO_GO_ON);
        let step = &mut self.step;
        for (i, (planned, &len)) in plan.iter_mut().zip(&step.lens).enumerate() {
            let (sequence, is_foreseen) = (&view.sequences[i], step.drafting[i].is_foreseen);
            let len_max = if is_foreseen { view.foreseen_of(sequence).len() as u32 } else { sequence.limit };
            let has_more = || beyond::has_more(sequence, is_foreseen, len, len_max.min(self.k_max));
            if beyond::is_drawn(view.step, i) && has_more() {
                step.drafting[i].goes_beyond = true;
                step.drafting[i].drafts = !is_foreseen;
                *planned = Planned { len: len + 1, width: 1, is_settled: false, reason: "looking beyond" };
                continue;
            }
            if len == 0 {
                *planned = plain("does not pay");
                continue;
            }
            step.drafting[i].drafts = !step.drafting[i].is_foreseen;
            step.drafting[i].planned_survival = step.candidates[i].survivals[len as usize - 1];
            // Room to go on where the draft turns out to be sure; the marginal rule ends it. What was foreseen is sure already.
            let len = if has_room && step.drafting[i].drafts { (2 * len + 2).min(self.k_max) } else { len };
            *planned = Planned { len, width: 1, is_settled: true, reason: "pays" };
        }
    }

    /// Compares what a step in which everyone may have drafted brought with what was foretold.
    fn check(&mut self, feedback: &StepFeedback<'_>) {
        let step = &mut self.step;
        let Some(foretold) = step.foretold.filter(|_| feedback.prefill_rows == 0) else { return };
        if feedback.step_time == Duration::ZERO {
            return;
        }
        let mut tokens = 0.0;
        for outcome in feedback.outcomes {
            tokens += step.find(outcome.seq).map_or(0.0, |i| step.drafting[i].weight)
                * f64::from(outcome.emitted());
        }
        let measured = Progress {
            tokens: tokens / step.weight,
            seconds: feedback.step_time.as_secs_f64() / step.plain_seconds,
        };
        if step.turn == Turn::Speculating {
            self.switch.note(measured);
        }
        // With catching up: who drafts in one step and not in the next reads again and again what was priced once.
        if self.costs.is_warm() {
            self.guard.note(feedback.outcomes.len(), foretold, measured);
        }
    }

    fn learn_acceptance(&mut self, feedback: &StepFeedback<'_>) {
        self.n_unsettled += 1;
        if feedback.is_plain() && self.n_unsettled < SILENT_STEPS {
            return;
        }
        // Everyone in turn comes first: in a large batch the last ones are heard less.
        let first = feedback.step as usize % feedback.outcomes.len().max(1);
        let (before, after) = feedback.outcomes.split_at(first);
        for outcome in after.iter().chain(before).filter(|outcome| outcome.drafted > 0) {
            let found = self.step.find(outcome.seq).map(|i| &self.step.drafting[i]);
            let (start, len) = found.map_or((0, 0), |drafting| drafting.features);
            let acceptance = if outcome.is_foreseen { &mut self.foreseen } else { &mut self.acceptance };
            acceptance.learn(outcome, &self.step.features[start..start + len]);
        }
        let n_steps = std::mem::take(&mut self.n_unsettled);
        self.acceptance.settle(n_steps);
        self.foreseen.settle(n_steps);
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

#[cfg(test)]
mod tests {
    use super::costs::tests::{feedback, outcome};
    use super::*;

    fn auto() -> Auto {
        Auto::new(&Settings::parse(&ENTRY, None).unwrap())
    }

    fn sequences(n: u64) -> Vec<SequenceView> {
        let sequence = |seq| SequenceView {
            seq: SeqId(seq),
            limit: 8,
            remaining: 100,
            context_len: 100,
            draft_lag: 1,
            temperature: 0.0,
            emitted: 10,
            decode_time: Duration::ZERO,
            tpot_max: None,
            priority: 0,
            foreseen: (0, 0),
            can_choose: false,
        };
        (0..n).map(sequence).collect()
    }

    fn view<'a>(step: u64, sequences: &'a [SequenceView], foreseen: &'a [DraftPosition]) -> PlanView<'a> {
        PlanView {
            step,
            sequences,
            foreseen,
            prefill_rows: 0,
            n_waiting: 0,
            blocks_free: 10,
            blocks_total: 10,
            block_len: 16,
            now: Duration::ZERO,
        }
    }

    /// A step of one sequence in which every row of the target takes 10 ms, and a draft round as long.
    fn learn_step(auto: &mut Auto, drafted: u32) {
        let outcomes = [outcome(drafted)];
        let [draft_ms, rest_ms] = [drafted, 1 + drafted].map(|rows| 10 * u64::from(rows));
        auto.learn_costs(&feedback(&outcomes, drafted, draft_ms, rest_ms));
    }

    #[test]
    fn a_decision_to_decode_plainly_stands_while_the_batch_stays() {
        let mut auto = auto();
        for len in [0, 2] {
            (0..FIRST_LENS.len()).for_each(|_| learn_step(&mut auto, len));
        }
        let mut decides = |n_sequences: u64, prefill_rows: u32| {
            let sequences = sequences(n_sequences);
            let view = PlanView { prefill_rows, ..view(1, &sequences, &[]) };
            let mut plan = vec![Planned::none(); sequences.len()];
            let decides = !auto.rest.stands(&view);
            auto.plan(&view, &mut plan);
            assert!(plan.iter().all(|planned| planned.len == 0), "{plan:?}");
            decides
        };
        let pattern: Vec<bool> = (0..33).map(|_| decides(4, 0)).collect();
        let expected: Vec<bool> = (0..33).map(|i| i % 32 == 0).collect();
        assert_eq!(pattern, expected);
        assert!(!decides(4, 5) && !decides(3, 5), "beside prompts");
        assert!(decides(3, 0) && !decides(3, 0), "another batch");
    }

    #[test]
    fn now_and_then_a_draft_goes_beyond_what_pays() {
        let mut auto = auto();
        // Two rows take a quarter of what an empty pass does, a round next to nothing.
        for len in 0..=12 {
            for _ in 0..FIRST_LENS.len() {
                let outcomes = [outcome(len), outcome(0)];
                let rest_ms = 20_000 + 2_500 * u64::from(2 + len);
                auto.learn_costs(&feedback(&outcomes, len, u64::from(len), rest_ms));
            }
        }
        let sequences = sequences(2);
        let (mut n_beyond, mut n_speculating) = (0, 0);
        for step in 0..8192 {
            let view = view(step, &sequences, &[]);
            let mut plan = vec![Planned::none(); 2];
            auto.plan(&view, &mut plan);
            n_speculating += usize::from(auto.step.turn == Turn::Speculating);
            for (i, planned) in plan.iter().enumerate().filter(|(_, p)| p.reason == "looking beyond") {
                n_beyond += 1;
                let position = DraftPosition { index: 0, entropy: 9.0, top_prob: 0.001, path_log_prob: -7.0 };
                assert_eq!(planned.len, auto.step.lens[i] + 1);
                assert!(auto.keep_drafting(sequences[i].seq, &position), "its shape does not end it");
            }
        }
        // Two of 512.
        assert!(n_speculating > 6000 && (16..=64).contains(&n_beyond), "{n_beyond} of {n_speculating}");
    }

    #[test]
    fn foreseen_drafts_are_planned_by_what_they_promise_in_every_step() {
        let mut auto = auto();
        // Two rows take a quarter of what an empty pass does, a round next to nothing. Every size is known.
        for len in 0..=12 {
            let rest_ms = 20_000 + 2_500 * u64::from(2 + len);
            for _ in 0..FIRST_LENS.len() {
                let outcomes = [outcome(len), outcome(0)];
                auto.learn_costs(&feedback(&outcomes, len, u64::from(len), rest_ms));
            }
        }
        let foreseen = |top_prob: f32, len: u32| {
            (0..len).map(move |index| DraftPosition { index, entropy: 0.1, top_prob, path_log_prob: 0.0 })
        };
        let mut plan_of = |step: u64, probabilities: [f32; 2]| {
            let mut sequences = sequences(2);
            let positions: Vec<DraftPosition> =
                probabilities.iter().flat_map(|&top_prob| foreseen(top_prob, 6)).collect();
            (0..).zip(&mut sequences).for_each(|(i, sequence)| {
                (sequence.limit, sequence.foreseen) = (6, (6 * i, 6));
            });
            let view = view(step, &sequences, &positions);
            let mut plan = vec![Planned::none(); 2];
            // Plain decoding is measured now and then.
            for _ in 0..10 {
                auto.plan(&view, &mut plan);
                if plan[0].reason != "measuring" {
                    break;
                }
            }
            [plan[0].len, plan[1].len]
        };
        let [long, none] = plan_of(1, [0.99, 0.02]);
        assert!(long >= 4 && none == 0, "{long} {none}");
        assert_eq!(plan_of(2, [0.02, 0.02]), [0, 0]);
        // Nobody rests on that.
        assert_eq!(plan_of(3, [0.02, 0.99]), [0, long]);
    }
}
