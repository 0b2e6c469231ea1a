//! FASER: every request drafts the length that would emit its tokens fastest if its luck were as good as it may still be.
//!
//! FASER, arXiv:2604.20503. A length per request from the lower confidence bound of its time per token: what is uncertain is
//! tried, what is known to be slow is not. A suffix that will be rejected anyway is dropped before it has cost all of its
//! verification.
//!
//! | rule | here |
//! |---|---|
//! | `s = argmin of mu(s) - beta sigma(s)`, `mu` the time per token at length s in this batch | [`fastest_len`] |
//! | GP-LCB: `mu` and `sigma` of a Gaussian process (`choice=gp`) | [`Process::learn`], [`Process::optimistic`] |
//! | acceptance history of the request | [`Process::learn`]; [`Evidence::learn`], [`Evidence::optimistic`] |
//! | predicted time of a step from batch and lengths | [`StepCost`] |
//! | drop what is believed to be rejected, before the target | [`n_worth_verifying`] |
//! | drop it between two layers of the target, where draft and target disagree on the most probable tokens | [`Prune`], [`Policy::prune`] |
//! | draft frontier j + 1 on one part of the machine while frontier j is verified on another | [`Policy::ahead_len`]; `ahead.rs` of the engine |
//!
//! Deviations and choices:
//! * Kernel and `beta` of the published Gaussian process are not known. `choice=gp` has one per request, over lengths, squared
//!   exponential, with the spread of departures and of single steps in proportion to the length; it fades to what is known of
//!   a new request. It is about tokens, not times: what a step takes is known from its costs, so the bound on the time per
//!   token is the time at the upper bound of the tokens, and a change of the batch spoils nothing that was learnt. Its mean
//!   before anything was seen is what everybody emits. `beta` is 1.
//! * `choice=posterior`, the default, is ours: the tokens of all lengths follow from one number, the acceptance rate, so that
//!   a step at one length tells of the others. Of the rate a request's history leaves a posterior; the bound on the time is
//!   the time at the upper bound of the rate.
//! * A new request begins with the rate of all requests, worth 4 drafts. The past of a request fades with 0.98 per draft tested.
//! * The time at length s is that of a step in which everybody drafts s, as in `turbospec`; so a request counts what its
//!   rows cost the others. Costs come from a start-up profile ([`crate::cost_profile`]) and are refined by every step. Where
//!   nothing was timed, requests draft `k_max`.
//! * Trimming happens once, between drafting and verification: a position stays while its survival, at the same optimism over
//!   the draft's largest probability, buys time worth a row of the target.
//! * Requests in the paper usually draft 5 to 8 tokens: `k_min` 1, `k_max` 8.
//! * Dropping inside the target is for greedy requests: its signal is about the drawn token itself, which for sampled ones would
//!   change the distribution of the output. The paper's layers, number of tokens and threshold are not known. Here the
//!   drafted token is compared with the draft's next 4, at one layer; off unless asked for. A dropped token counts as rejected.
//! * A frontier is the proposal of a step: the one drafted meanwhile is verified in the next step and is `overlap` tokens
//!   long at most, less if a shorter length is planned then. It needs the target's own token behind the first frontier,
//!   which the draft guesses too; so every frontier ends with a bonus token, and a wrong guess of it costs the frontier
//!   behind it. What is trimmed is a frontier that was drafted already. The paper's parts of a GPU are two halves of the
//!   threads, and their sizes do not change. Off unless asked for: two cores mostly lose by it (docs/decisions/0006).
//! * Overlap is for greedy requests too: two samples seldom agree on the token between two frontiers, and the distributions of
//!   sampled drafts would have to be kept from step to step. Lengths are planned as if everything were drafted before it is
//!   verified; what a step costs is learnt as it is.

use std::collections::HashMap;

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::step_cost::StepCost;
use crate::{DraftPosition, Error, PlanView, Planned, Policy, Prune, SeqId, Signals, StepFeedback};

mod process;

pub use process::{Prior, Process};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "faser",
    summary: "per sequence, the length with the lowest optimistic time per token",
    source: "FASER, arXiv:2604.20503",
    parameters: &[
        Parameter {
            key: "k_min",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("1"),
            meaning: "shortest length, tokens",
        },
        Parameter {
            key: "k_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("8"),
            meaning: "longest length, tokens",
        },
        Parameter {
            key: "beta",
            values: ValueSet::Number { min: 0.0, max: 10.0 },
            default: Some("1"),
            meaning: "optimism, standard deviations of what is uncertain",
        },
        Parameter {
            key: "choice",
            values: ValueSet::Word(&["posterior", "gp"]),
            default: Some("posterior"),
            meaning: "what is uncertain: the acceptance rate, or the tokens of every length as a Gaussian process",
        },
        Parameter {
            key: "depth",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("1"),
            meaning: "share of the target's layers after which greedy proposals lose what seems rejected; 1 keeps it",
        },
        Parameter {
            key: "margin",
            values: ValueSet::Number { min: 0.0, max: 100.0 },
            default: Some("0"),
            meaning: "lead of another token above which one seems rejected, logits",
        },
        Parameter {
            key: "overlap",
            values: ValueSet::Count { min: 0, max: LEN_MAX },
            default: Some("0"),
            meaning: "tokens drafted for the next step while the target verifies, greedy requests only; 0 drafts afterwards",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Faser::new(settings)?)),
};

/// Drafts that the rate of all requests is worth for a new one.
const PRIOR_DRAFTS: f64 = 4.0;

/// Tokens of the draft that a drafted one is compared with inside the target.
const N_RIVALS: u32 = 4;

/// Acceptance rate before anything is known.
const RATE_FIRST: f64 = 0.7;

/// Weight that a tested draft keeps when the next one comes.
const MEMORY: f64 = 0.98;

/// Accepted among tested drafts, older ones fading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    accepted: f64,
    tested: f64,
}

impl Evidence {
    /// Takes in one verification: `accepted` drafts, and a rejected one behind them if more were verified.
    pub fn learn(&mut self, accepted: u32, verified: u32) {
        let n_rejected = u32::from(verified > accepted);
        for i in 0..accepted + n_rejected {
            self.accepted = MEMORY * self.accepted + f64::from(u8::from(i < accepted));
            self.tested = MEMORY * self.tested + 1.0;
        }
    }

    /// Mean of the posterior under a prior rate worth 4 drafts.
    pub fn rate(&self, prior: f64) -> f64 {
        (self.accepted + PRIOR_DRAFTS * prior) / (self.tested + PRIOR_DRAFTS)
    }

    /// `beta` standard deviations of the (beta) posterior, `sqrt(rate (1 - rate) / (tested + prior drafts + 1))`.
    pub fn margin(&self, prior: f64, beta: f64) -> f64 {
        let rate = self.rate(prior);
        beta * (rate * (1.0 - rate) / (self.tested + PRIOR_DRAFTS + 1.0)).sqrt()
    }

    /// Upper confidence bound of the rate, at most 1.
    pub fn optimistic(&self, prior: f64, beta: f64) -> f64 {
        (self.rate(prior) + self.margin(prior, beta)).min(1.0)
    }
}

/// Tokens that a step emits by length from 0: `1`, `1 + rate`, `1 + rate + rate^2` and so on.
pub fn expected_tokens(rate: f64) -> impl Iterator<Item = f64> {
    let longer = move |&(tokens, survival): &(f64, f64)| {
        let survival = rate * survival;
        Some((tokens + survival, survival))
    };
    std::iter::successors(Some((1.0, 1.0)), longer).map(|(tokens, _)| tokens)
}

/// The length with the least time per token, and that time; the shorter among equals.
///
/// * `seconds`: of a step by length from 0, at least `k_min + 1` entries.
/// * `tokens`: emitted by length from 0.
pub fn fastest_len(seconds: &[f64], k_min: u32, tokens: impl Iterator<Item = f64>) -> (u32, f64) {
    let mut best = (k_min, f64::INFINITY);
    for (len, (seconds, tokens)) in (0..).zip(seconds.iter().zip(tokens)) {
        let seconds_per_token = seconds / tokens;
        if len >= k_min && seconds_per_token < best.1 {
            best = (len, seconds_per_token);
        }
    }
    best
}

/// Positions up to the first whose survival no longer buys the time of its row.
///
/// * `margin`: added to the draft's largest probability, whose product is the survival.
/// * `seconds_per_token`: what a token is worth.
/// * `row_seconds`: what a row of the target costs.
pub fn n_worth_verifying(
    positions: &[DraftPosition],
    margin: f64,
    seconds_per_token: f64,
    row_seconds: f64,
) -> usize {
    let survivals = positions.iter().scan(1.0, |survival, position| {
        *survival *= (f64::from(position.top_prob) + margin).min(1.0);
        Some(*survival)
    });
    survivals.take_while(|survival| survival * seconds_per_token >= row_seconds).count()
}

/// What is remembered of one sequence.
#[derive(Clone, Debug, Default)]
struct Memory {
    evidence: Evidence,
    /// With `choice=gp`, once a draft was verified.
    process: Option<Process>,
    /// Optimistic time per token of the last plan.
    seconds_per_token: f64,
    /// Length of the step under way that was left to verify.
    verify_len: u32,
}

/// What the processes of all sequences have in common.
#[derive(Clone, Debug)]
struct Processes {
    prior: Prior,
    /// Of a sequence that nothing was seen of.
    new: Process,
    /// Tokens that everybody emits, by length from 0, as of the last plan.
    everyone: Vec<f64>,
}

/// Plans the fastest length for every sequence.
#[derive(Clone, Debug)]
pub struct Faser {
    name: String,
    k_min: u32,
    k_max: u32,
    beta: f64,
    prune: Option<Prune>,
    /// Tokens drafted while the target verifies.
    overlap: u32,
    sequences: HashMap<SeqId, Memory>,
    /// Acceptance of all sequences.
    everyone: Evidence,
    /// With `choice=gp`.
    processes: Option<Processes>,
    cost: StepCost,
    /// Of a step in which everybody drafts as many tokens as the index.
    seconds: Vec<f64>,
}

impl Faser {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    ///
    /// # Errors
    /// [`Error::Order`] if `k_min > k_max`.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let (k_min, k_max) = (settings.count("k_min"), settings.count("k_max"));
        settings.check_order(("k_min", k_min), ("k_max", k_max))?;
        let (depth, margin) = (settings.number("depth") as f32, settings.number("margin") as f32);
        Ok(Self {
            name: settings.name(),
            k_min,
            k_max,
            beta: settings.number("beta"),
            prune: (depth < 1.0).then_some(Prune { depth, n_rivals: N_RIVALS, margin }),
            overlap: settings.count("overlap"),
            sequences: HashMap::new(),
            everyone: Evidence::default(),
            processes: (settings.word("choice") == "gp").then(|| Processes::new(k_max)),
            cost: StepCost::default(),
            seconds: Vec::new(),
        })
    }

    /// The rate that a new sequence is expected to have.
    fn prior(&self) -> f64 {
        self.everyone.rate(RATE_FIRST)
    }

    fn predict_seconds(&mut self, view: &PlanView<'_>) {
        let n = view.sequences.len() as f64;
        self.seconds.clear();
        self.seconds.extend((0..=self.k_max).map(f64::from).map(|len| {
            let rows = n * (len + 1.0) + f64::from(view.prefill_rows);
            self.cost.drafting(len, n) + self.cost.verifying(rows)
        }));
    }
}

impl Processes {
    fn new(k_max: u32) -> Self {
        let prior = Prior::new(k_max);
        Self { new: Process::new(&prior), prior, everyone: vec![1.0; k_max as usize + 1] }
    }

    /// Takes in a step of a sequence that emitted `emitted` tokens.
    fn learn(&self, process: &mut Option<Process>, verified: u32, emitted: u32) {
        if let Some(everyone) = self.everyone.get(verified as usize).filter(|_| verified > 0) {
            let process = process.get_or_insert_with(|| self.new.clone());
            process.learn(&self.prior, verified, f64::from(emitted) - everyone);
        }
    }
}

impl Policy for Faser {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.predict_seconds(view);
        let prior = self.prior();
        let is_timed = self.seconds.iter().all(|&seconds| seconds > 0.0);
        if let Some(processes) = &mut self.processes {
            processes.everyone.iter_mut().zip(expected_tokens(prior)).for_each(|(old, new)| *old = new);
        }
        for (sequence, planned) in view.sequences.iter().zip(plan) {
            let memory = self.sequences.entry(sequence.seq).or_default();
            let (len, reason) = if is_timed {
                let (len, seconds_per_token) = match &self.processes {
                    Some(processes) => {
                        let process = memory.process.as_ref().unwrap_or(&processes.new);
                        let tokens = process.optimistic(&processes.everyone, self.beta);
                        fastest_len(&self.seconds, self.k_min, tokens)
                    }
                    None => {
                        let rate = memory.evidence.optimistic(prior, self.beta);
                        fastest_len(&self.seconds, self.k_min, expected_tokens(rate))
                    }
                };
                memory.seconds_per_token = seconds_per_token;
                (len, "confidence bound")
            } else {
                memory.seconds_per_token = 0.0;
                (self.k_max, "untimed")
            };
            *planned = Planned { len, width: 1, is_settled: is_timed, reason };
        }
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        let rows: u32 = view.sequences.len() as u32 + view.prefill_rows;
        let row_seconds = self.cost.verifying(f64::from(rows) + 1.0) - self.cost.verifying(f64::from(rows));
        let prior = self.prior();
        for ((sequence, positions), verify_len) in view.sequences.iter().zip(drafted).zip(verify_lens) {
            let memory = self.sequences.entry(sequence.seq).or_default();
            if memory.seconds_per_token > 0.0 {
                let margin = memory.evidence.margin(prior, self.beta);
                let n = n_worth_verifying(positions, margin, memory.seconds_per_token, row_seconds);
                *verify_len = (*verify_len).min(n as u32);
            }
            memory.verify_len = *verify_len;
        }
    }

    fn prune(&self) -> Option<Prune> {
        self.prune
    }

    fn ahead_len(&self) -> u32 {
        self.overlap
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.cost.learn(feedback);
        for outcome in feedback.outcomes.iter().filter(|outcome| outcome.drafted > 0) {
            let memory = self.sequences.entry(outcome.seq).or_default();
            // What was dropped inside the target counts as verified: it seemed rejected.
            let verified = outcome.verified.max(memory.verify_len);
            self.everyone.learn(outcome.accepted, verified);
            memory.evidence.learn(outcome.accepted, verified);
            if let Some(processes) = &self.processes {
                processes.learn(&mut memory.process, verified, outcome.emitted());
            }
        }
    }

    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.cost.learn(feedback);
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        if let Some(memory) = self.sequences.get(&seq) {
            numbers.push(("acceptance", memory.evidence.rate(self.prior())));
            numbers.push(("seconds_per_token", memory.seconds_per_token));
        }
    }

    fn forget(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::samples::{FEEDBACK, OUTCOME};

    fn check_near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-4, "expected {expected}, got {got}");
    }

    #[test]
    fn evidence_counts_up_to_the_first_rejection_and_fades() {
        let mut evidence = Evidence::default();
        // 1; 1.98; 1.9404 of 2.9404.
        evidence.learn(2, 5);
        check_near(evidence.accepted, 1.9404);
        check_near(evidence.tested, 2.9404);
        evidence.learn(0, 0);
        check_near(evidence.tested, 2.9404);
        // (1.9404 + 4 * 0.5) / 6.9404.
        check_near(evidence.rate(0.5), 0.56775);
        // sqrt(0.56775 * 0.43225 / 7.9404) = 0.17580.
        check_near(evidence.margin(0.5, 2.0), 0.35161);
        check_near(evidence.optimistic(0.5, 2.0), 0.91935);
        assert_eq!(evidence.optimistic(0.5, 9.0), 1.0);
        let mut sure = Evidence::default();
        (0..1000).for_each(|_| sure.learn(1, 1));
        assert!(sure.margin(0.5, 1.0) < 0.04 && sure.tested < 50.1);
    }

    #[test]
    fn the_fastest_length_of_hand_computed_costs() {
        // 10 ms and 2 ms per draft.
        let seconds: Vec<f64> = (0..=4).map(|len| 0.010 + 0.002 * f64::from(len)).collect();
        let check = |k_min, rate, len, seconds_per_token| {
            let got = fastest_len(&seconds, k_min, expected_tokens(rate));
            assert_eq!(got.0, len, "rate {rate}");
            check_near(got.1, seconds_per_token);
        };
        // 10; 12 / 1.5 = 8; 14 / 1.75 = 8; 16 / 1.875 = 8.53 ms.
        check(1, 0.5, 1, 0.008);
        // 12 / 1.8 = 6.67; 14 / 2.44 = 5.74; 16 / 2.952 = 5.42; 18 / 3.3616 = 5.355.
        check(1, 0.8, 4, 0.005355);
        // 10 against 12 / 1.1: plain decoding only if it is allowed.
        check(0, 0.1, 0, 0.010);
        check(1, 0.1, 1, 0.010909);
    }

    #[test]
    fn positions_are_verified_while_they_buy_their_row() {
        let positions =
            [0.9, 0.8, 0.5, 0.9].map(|top_prob| DraftPosition { top_prob, ..DraftPosition::default() });
        let check = |margin, row_seconds, expected| {
            assert_eq!(n_worth_verifying(&positions, margin, 0.010, row_seconds), expected, "{row_seconds}");
        };
        // Survivals 0.9, 0.72, 0.36, 0.324 at 10 ms per token.
        check(0.0, 0.0095, 0);
        check(0.0, 0.0080, 1);
        check(0.0, 0.0040, 2);
        check(0.0, 0.0034, 3);
        check(0.0, 0.0, 4);
        // With 0.1 on top 1, 0.9, 0.54, 0.54.
        check(0.1, 0.0050, 4);
        check(0.1, 0.0060, 2);
    }

    #[test]
    fn what_was_dropped_inside_the_target_counts_as_rejected() {
        let mut policy = Faser::new(&Settings::parse(&ENTRY, Some("depth=0.5,margin=2")).unwrap()).unwrap();
        assert_eq!(policy.prune(), Some(Prune { depth: 0.5, n_rivals: 4, margin: 2.0 }));
        policy.sequences.insert(SeqId(1), Memory { verify_len: 5, ..Memory::default() });
        let outcome =
            Outcome { planned: 6, drafted: 6, verified: 2, accepted: 2, context_len: 100, ..OUTCOME };
        policy.observe(&StepFeedback {
            outcomes: &[outcome],
            target_rows: 6,
            draft_rounds: 6,
            draft_rows: 6,
            ..FEEDBACK
        });
        let mut expected = Evidence::default();
        expected.learn(2, 3);
        assert_eq!(policy.sequences[&SeqId(1)].evidence, expected);
        assert_eq!(policy.everyone, expected);
        let default = Faser::new(&Settings::parse(&ENTRY, None).unwrap()).unwrap();
        assert_eq!(default.prune(), None);
    }

    #[test]
    fn nothing_is_drafted_ahead_unless_asked_for() {
        let ahead_len = |text| Faser::new(&Settings::parse(&ENTRY, text).unwrap()).unwrap().ahead_len();
        assert_eq!((ahead_len(None), ahead_len(Some("overlap=3"))), (0, 3));
    }
}
