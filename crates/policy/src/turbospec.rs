//! TurboSpec: the length that promises the most emitted tokens per second, from acceptance and measured cost.
//!
//! Liu et al., "Optimizing Speculative Decoding for Serving Large Language Models Using Goodput" (SmartSpec; later versions:
//! TurboSpec), arXiv:2406.14066. One acceptance rate for everyone and a model of what a step costs say for every length what
//! the batch would emit per second; the best length wins, and plain decoding is one of the choices.
//!
//! | equation | here |
//! |---|---|
//! | `alpha <- 0.85 alpha + 0.15 alpha of the step`, from 0.7 | `TurboSpec::learn_acceptance` |
//! | expected tokens `B (1 - alpha^(k + 1)) / (1 - alpha)` | [`expected_tokens`] |
//! | `t(B, k)`: draft, target and overhead, linear in rows and stored context | `TurboSpec::seconds`, [`CostPlane`] |
//! | feasible if `1.1 B (L + k + 1)` positions fit into all blocks, `L` the mean context | [`feasible_len`] |
//! | `goodput(k) = tokens / t`, that of `k = 0` times 1.1 | `TurboSpec::goodput` |
//! | try `k = 0, 1, ...` up to the first decrease, or to the last feasible; every 20 steps | [`first_peak`], [`TurboSpec::plan`](Policy::plan) |
//!
//! The constants are those of the authors' released class. The advantage of plain decoding there means that speculation
//! has to win by a tenth.
//!
//! Deviations:
//! * The profile made beforehand ([`crate::cost_profile`]) is refined by every step: one plane for a draft round, one for
//!   everything else of a step ([`crate::cost::plane`]). The released class fits three (draft, target, overhead), prefers
//!   polynomials of second degree where they predict better, and looks the context up in buckets; here target and overhead
//!   are one, all is linear, and the context is the batch's own. A proposal of `k` costs `k` rounds of `B` rows. Prompt rows
//!   of the coming steps are not foreseen.
//! * Without a profile the first 20 steps cycle through the lengths 3, 1, 3 and 0. Whenever plain decoding was
//!   chosen five times in a row, one such cycle precedes the next decision: alpha is frozen while nothing is drafted, and
//!   speculation would never come back. The released class does so for drafters without a model only, after 100 steps.
//! * What was never timed counts as free. Free lengths are chosen, and are timed then.
//! * The acceptance of a step counts accepted drafts over those that were put to the test, that is up to and including the
//!   first rejection of each sequence. Over all verified drafts it would depend on the length and be no `alpha` in the formula.
//! * Feasibility counts the blocks in use where the released class multiplies contexts. That is the same where nothing is
//!   shared; a prefix that many sequences share would be counted for each of them and forbid what fits.
//! * `k_max` is 8; every deployment has to configure it.

use crate::cost::experts::ExpertCurve;
use crate::cost::plane::CostPlane;
use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "turbospec",
    summary: "the same length for every sequence, the one with the highest expected tokens per second",
    source: "Liu et al., arXiv:2406.14066",
    parameters: &[
        Parameter {
            key: "k_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("8"),
            meaning: "longest length that is considered, tokens",
        },
        Parameter {
            key: "alpha",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.7"),
            meaning: "acceptance rate before anything is known",
        },
        Parameter {
            key: "past",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.85"),
            meaning: "weight of the past in the acceptance rate",
        },
        Parameter {
            key: "plain",
            values: ValueSet::Number { min: 0.1, max: 10.0 },
            default: Some("1.1"),
            meaning: "factor on the expected tokens per second of plain decoding",
        },
        Parameter {
            key: "interval",
            values: ValueSet::Count { min: 1, max: 10_000 },
            default: Some("20"),
            meaning: "steps between decisions",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(TurboSpec::new(settings))),
};

/// Lengths of the steps that are there to learn what lengths cost: draft and target each see three sizes.
const PROBES: [u32; 4] = [3, 1, 3, 0];

/// Steps that precede the first decision, five cycles of [`PROBES`].
const PROBES_FIRST: u32 = 20;

/// Least time of a step, seconds; keeps the goodput finite where nothing was ever timed.
const SECONDS_MIN: f64 = 1e-9;

/// Decisions for plain decoding in a row after which speculation is tried again.
const PLAIN_DECISIONS_MAX: u32 = 5;

/// Factor by which memory must exceed what a step needs, by the released class.
const SLACK: f64 = 1.1;

/// The longest length up to `len_max` for which memory suffices; 0 if it does for none.
///
/// arXiv:2406.14066, released class: `1.1 B (L + k + 1) <= block_len n_blocks`, with the positions in use for `B L`.
pub fn feasible_len(view: &PlanView<'_>, len_max: u32) -> u32 {
    let slots = |blocks: u32| f64::from(blocks) * f64::from(view.block_len);
    let in_use = slots(view.blocks_total.saturating_sub(view.blocks_free));
    let rows_max = slots(view.blocks_total) / SLACK - in_use;
    // The cast saturates: too little memory is a length of 0.
    let len = (rows_max / view.sequences.len().max(1) as f64 - 1.0).floor() as u32;
    len.min(len_max)
}

/// Tokens that a sequence emits per step on average, `1 + alpha + ... + alpha^k`.
///
/// arXiv:2406.14066: `(1 - alpha^(k + 1)) / (1 - alpha)`, as the sum, which also holds at 1.
pub fn expected_tokens(alpha: f64, len: u32) -> f64 {
    (0..len).fold(1.0, |tokens, _| 1.0 + alpha * tokens)
}

/// The last length from 0 to `len_max` before `goodput` first decreases.
pub fn first_peak(len_max: u32, goodput: impl Fn(u32) -> f64) -> u32 {
    let mut best = goodput(0);
    for len in 1..=len_max {
        let next = goodput(len);
        if next < best {
            return len - 1;
        }
        best = next;
    }
    len_max
}

/// What a batch costs by: its sequences, and the positions that they have stored together.
#[derive(Clone, Copy, Debug)]
struct Batch {
    size: f64,
    context: f64,
}

impl Batch {
    fn of(view: &PlanView<'_>) -> Self {
        let context: u64 = view.sequences.iter().map(|sequence| u64::from(sequence.context_len)).sum();
        Self { size: view.sequences.len() as f64, context: context as f64 }
    }
}

/// Plans the length with the best expected goodput for the whole batch.
#[derive(Clone, Debug)]
pub struct TurboSpec {
    name: String,
    k_max: u32,
    past: f64,
    plain: f64,
    interval: u32,
    /// Probability that a draft is accepted if all before it were.
    alpha: f64,
    /// One draft round, over its rows and the stored context.
    round: CostPlane,
    /// Everything but drafting, over the rows of the target pass and the stored context.
    rest: CostPlane,
    /// What rows are to a mixture of experts.
    experts: ExpertCurve,
    /// The length in force.
    len: u32,
    /// Steps left until the next decision.
    n_held: u32,
    /// Steps left to probe; the decision waits for them.
    n_probes: u32,
    /// Decisions for plain decoding in a row.
    n_plain: u32,
}

impl TurboSpec {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            name: settings.name(),
            k_max: settings.count("k_max"),
            past: settings.number("past"),
            plain: settings.number("plain"),
            interval: settings.count("interval"),
            alpha: settings.number("alpha"),
            round: CostPlane::default(),
            rest: CostPlane::default(),
            experts: ExpertCurve::default(),
            len: 0,
            n_held: 0,
            n_probes: PROBES_FIRST,
            n_plain: 0,
        }
    }

    /// Expected seconds of a step in which everybody drafts `len` tokens.
    fn seconds(&self, batch: Batch, len: u32) -> f64 {
        let Batch { size, context } = batch;
        let round = self.round.seconds(size, context).unwrap_or(0.0);
        let rows = self.experts.size(size as u32, size as u32 * len);
        let rest = self.rest.seconds(rows, context).unwrap_or(0.0);
        (f64::from(len) * round + rest).max(SECONDS_MIN)
    }

    /// Expected tokens per second at this length, plain decoding with its advantage.
    fn goodput(&self, batch: Batch, len: u32) -> f64 {
        let advantage = if len == 0 { self.plain } else { 1.0 };
        advantage * batch.size * expected_tokens(self.alpha, len) / self.seconds(batch, len)
    }

    /// Decides for the coming interval, or to probe first.
    ///
    /// * `len_max`: longest feasible length.
    fn decide(&mut self, batch: Batch, len_max: u32) {
        if self.n_plain == PLAIN_DECISIONS_MAX {
            self.n_plain = 0;
            self.n_probes = PROBES.len() as u32;
            return;
        }
        self.len = first_peak(len_max, |len| self.goodput(batch, len));
        self.n_plain = if self.len == 0 { self.n_plain + 1 } else { 0 };
        self.n_held = self.interval;
    }

    fn next_probe(&mut self, len_max: u32) -> Planned {
        let turn = (PROBES_FIRST - self.n_probes) as usize % PROBES.len();
        self.n_probes -= 1;
        Planned { len: PROBES[turn].min(len_max), width: 1, is_settled: false, reason: "probe" }
    }

    fn learn_acceptance(&mut self, feedback: &StepFeedback<'_>) {
        let (mut accepted, mut tested) = (0u64, 0u64);
        for outcome in feedback.outcomes {
            accepted += u64::from(outcome.accepted);
            tested += u64::from(outcome.verified.min(outcome.accepted + 1));
        }
        if tested > 0 {
            self.alpha = self.past * self.alpha + (1.0 - self.past) * accepted as f64 / tested as f64;
        }
    }

    fn learn_cost(&mut self, feedback: &StepFeedback<'_>) {
        let context = feedback.context_len_sum() as f64;
        let n_rounds = feedback.outcomes.iter().map(|outcome| outcome.drafted).max().unwrap_or(0);
        if n_rounds > 0 {
            let n_drafted: u32 = feedback.outcomes.iter().map(|outcome| outcome.drafted).sum();
            let (rows, n_rounds) = (f64::from(n_drafted) / f64::from(n_rounds), f64::from(n_rounds));
            self.round.learn(rows, context, feedback.draft_time.as_secs_f64() / n_rounds);
        }
        let rest = feedback.step_time.saturating_sub(feedback.draft_time);
        self.experts.learn(feedback);
        self.rest.learn(ExpertCurve::size_of(feedback), context, rest.as_secs_f64());
    }
}

impl Policy for TurboSpec {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if view.sequences.is_empty() {
            return;
        }
        let len_max = feasible_len(view, self.k_max);
        if self.n_probes == 0 && self.n_held == 0 {
            self.decide(Batch::of(view), len_max);
        }
        let planned = if self.n_probes > 0 {
            self.next_probe(len_max)
        } else {
            self.n_held -= 1;
            Planned { len: self.len, width: 1, is_settled: true, reason: "goodput" }
        };
        plan.fill(planned);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.learn_acceptance(feedback);
        self.learn_cost(feedback);
    }

    /// A profiled step stands for one of the first probes.
    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.n_probes = self.n_probes.saturating_sub(1);
        self.learn_cost(feedback);
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::samples::{FEEDBACK, OUTCOME, SEQUENCE, VIEW};
    use crate::{Outcome, SequenceView};

    fn policy(parameters: &str) -> TurboSpec {
        TurboSpec::new(&Settings::parse(&ENTRY, Some(parameters)).unwrap())
    }

    #[test]
    fn expected_tokens_of_hand_computed_rates() {
        // 1 + 0.5 + 0.25 + 0.125; 1 + 0.8 + 0.64.
        for (alpha, len, expected) in
            [(0.5, 0, 1.0), (0.5, 3, 1.875), (0.8, 2, 2.44), (1.0, 4, 5.0), (0.0, 9, 1.0)]
        {
            let got = expected_tokens(alpha, len);
            assert!((got - expected).abs() < 1e-12, "{alpha}, {len}: expected {expected}, got {got}");
        }
    }

    #[test]
    fn the_search_ends_at_the_first_decrease() {
        let cases: [(&[f64], u32); 5] = [
            (&[1.0, 2.0, 3.0, 2.0], 2),
            (&[2.0, 1.0, 9.0, 9.0], 0),
            (&[1.0, 2.0, 3.0, 4.0], 3),
            (&[1.0, 1.0, 0.5, 9.0], 1),
            (&[1.0], 0),
        ];
        for (goodput, expected) in cases {
            assert_eq!(
                first_peak(goodput.len() as u32 - 1, |len| goodput[len as usize]),
                expected,
                "{goodput:?}"
            );
        }
    }

    /// A draft round takes 2 ms and everything else 10 ms, whatever the rows.
    fn check(parameters: &str, goodput: &[f64], expected: u32) {
        let mut policy = policy(parameters);
        policy.round.learn(1.0, 100.0, 0.002);
        policy.rest.learn(1.0, 100.0, 0.010);
        let batch = Batch { size: 1.0, context: 100.0 };
        for (len, &goodput) in goodput.iter().enumerate() {
            let got = policy.goodput(batch, len as u32);
            assert!((got - goodput).abs() < 0.01, "{parameters}, {len}: expected {goodput}, got {got}");
        }
        policy.decide(batch, policy.k_max);
        assert_eq!(policy.len, expected, "{parameters}");
    }

    #[test]
    fn the_best_goodput_wins() {
        // 1.1 / 10 ms, 1.6 / 12 ms, 1.96 / 14 ms, 2.176 / 16 ms.
        check("alpha=0.6", &[110.0, 133.33, 140.0, 136.0], 2);
        // 1.2 / 12 ms has to beat 110.
        check("alpha=0.2", &[110.0, 100.0], 0);
        // Without the advantage: 1.25 / 12 ms = 104.17 against 100, then 1.3125 / 14 ms.
        check("alpha=0.25,plain=1", &[100.0, 104.17, 93.75], 1);
        check("alpha=1,k_max=5", &[110.0, 166.67, 214.29, 250.0, 277.78, 300.0], 5);
    }

    #[test]
    fn long_contexts_make_drafting_dearer() {
        // A round takes 1 ms and 2 us per stored position, everything else 10 ms and 2 us.
        let mut policy = policy("alpha=0.6");
        for context in (0..64).map(|i| 100.0 * f64::from(i % 8)) {
            policy.round.learn(1.0, context, 0.001 + 2e-6 * context);
            policy.rest.learn(1.0, context, 0.010 + 2e-6 * context);
        }
        let mut decided = |context, expected, seconds: [f64; 2]| {
            let batch = Batch { size: 1.0, context };
            for (len, seconds) in [(0, seconds[0]), (2, seconds[1])] {
                let got = policy.seconds(batch, len);
                assert!(
                    (got / seconds - 1.0).abs() < 0.01,
                    "{context}, {len}: expected {seconds}, got {got}"
                );
            }
            policy.decide(batch, 8);
            assert_eq!(policy.len, expected, "{context}");
        };
        // Rounds of 1 ms, the rest 10 ms: 1.96 / 12, 2.176 / 13 = 0.1674, 2.3056 / 14 = 0.1647.
        decided(0.0, 3, [0.010, 0.012]);
        // Rounds of 5 ms, the rest 14 ms: 1.1 / 14 = 0.0786, 1.6 / 19 = 0.0842, 1.96 / 24 = 0.0817.
        decided(2000.0, 1, [0.014, 0.024]);
        // Rounds of 21 ms, the rest 30 ms: 1.1 / 30 = 0.0367 against 1.6 / 51 = 0.0314.
        decided(10_000.0, 0, [0.030, 0.072]);
    }

    #[test]
    fn lengths_that_memory_cannot_hold_are_no_choice() {
        let sequence = SequenceView { limit: 64, remaining: 1000, ..SEQUENCE };
        let check = |n_sequences, blocks_free, expected| {
            let sequences = vec![sequence; n_sequences];
            let view = PlanView { sequences: &sequences, blocks_free, blocks_total: 111, ..VIEW };
            assert_eq!(
                feasible_len(&view, 8),
                expected,
                "{n_sequences} sequences, {blocks_free} free blocks"
            );
        };
        // 111 * 16 / 1.1 = 1614.5 positions, less 91 * 16 in use: 158.5 are left.
        check(1, 111, 8);
        check(16, 20, 8);
        check(20, 20, 6);
        check(32, 20, 3);
        check(79, 20, 1);
        check(80, 20, 0);
        check(1000, 20, 0);
        check(1, 0, 0);
    }

    #[test]
    fn acceptance_counts_only_what_was_tested() {
        let outcome =
            |verified, accepted| Outcome { planned: 3, drafted: verified, verified, accepted, ..OUTCOME };
        // Tested: the accepted draft and the rejected one; all three; none. 4 of 5 accepted.
        let outcomes = [outcome(3, 1), outcome(3, 3), outcome(0, 0)];
        let mut policy = policy("k_max=8");
        policy.observe(&StepFeedback {
            outcomes: &outcomes,
            target_rows: 9,
            draft_time: Duration::from_millis(6),
            verify_time: Duration::from_millis(10),
            step_time: Duration::from_millis(18),
            ..FEEDBACK
        });
        // 0.85 * 0.7 + 0.15 * 0.8
        assert!((policy.alpha - 0.715).abs() < 1e-12);
        // Three rounds in 6 ms; the other 12 ms are the rest.
        assert!((policy.round.seconds(2.0, 0.0).unwrap() - 0.002).abs() < 1e-12);
        assert!((policy.rest.seconds(9.0, 0.0).unwrap() - 0.012).abs() < 1e-12);
    }
}
