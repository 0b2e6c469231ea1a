//! Nightjar: a bandit over lengths for every load, which knows that switching back costs and lends the draft's memory out.
//!
//! Nightjar, arXiv:2512.22420. One length per step for the whole batch, 0 among them. Every range of batch sizes learns the
//! goodput of each length by ADA-BINGREEDY. After plain decoding the draft must first read what it missed, which a
//! length has to win back. While nobody speculates and blocks are scarce, the draft's memory serves the cache.
//!
//! | equation | here |
//! |---|---|
//! | blocks of `2^(j-1)` steps, bins of the root of that, one length per bin, exploring with `1 / b` in bin b | [`Context::next_len`] |
//! | `argmin of 1 / g(B, len) + 1{len before = 0, len > 0} C / len` | [`exploit`] |
//! | `g`: running mean goodput of a length at a load | [`Arm::learn`] |
//! | `C(L_max, B)`: a table over the largest lag and the batch size | [`SwitchTable`] |
//! | length 0 and free blocks below a threshold for 3 steps: give the draft's memory to the cache | [`Residency::update`] |
//! | nobody waits and the cache can spare what it was given: take it back | [`Residency::update`] |
//!
//! Deviations and choices:
//! * Loads are ranges of batch sizes that double, 1, 2 and 3, 4 to 7, as `bandit` has them. The authors' code has pairs up to 24.
//! * Accounts differ between `1 / b` and `1 / sqrt(b)`, and on whether `b` starts again in every block. `1 / b`, which
//!   starts again, as only that finds a change of circumstances.
//! * Exploring plays lengths that were never played first, the shortest of them; the priors and the hard rule against
//!   speculation of the authors' code are left out.
//! * Goodput counts tokens per sequence and second, so that both terms are seconds per token of a sequence. The step of a
//!   switch teaches nothing: its cost is `C`, not the length's. Nor does a step in which memory changed hands.
//! * A step counts for the longest length that the engine let through, which memory or remaining tokens may have shortened.
//! * The table is made offline there. Here it starts with what the profile ([`crate::cost_profile`]) saw of drafts that were
//!   behind, whose largest lag counts as their mean one, and every switch enters what its drafting took beyond the usual
//!   rounds. At a load at which none was measured, `C` is the time of one draft round over all unread rows, less that of a
//!   usual one.
//! * The threshold is a share of all blocks, 10 %, which the paper found best. Its scripts say 2000 of 4112 blocks.
//! * This file only says whether the draft should stay ([`Policy::wants_draft`]). The engine moves blocks and weights between
//!   two steps, as soon as the blocks that are to go find room. The draft is dropped and loaded again from its files, not moved
//!   to a host and back, and while it loads nothing else runs: on a CPU there is no other side. Blocks are counted down, so that
//!   memory never grows; the paper counts up.

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::step_cost::StepCost;
use crate::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

mod planner;
mod residency;
mod switching;

pub use planner::{Arm, Context, bin_len, exploit};
pub use residency::Residency;
pub use switching::SwitchTable;

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "nightjar",
    summary: "the same length for every sequence, learnt per range of batch sizes, minding what switching back costs",
    source: "Nightjar, arXiv:2512.22420",
    parameters: &[
        Parameter {
            key: "k_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("4"),
            meaning: "longest length that is played, tokens",
        },
        Parameter {
            key: "seed",
            values: ValueSet::Count { min: 0, max: u32::MAX },
            default: Some("0"),
            meaning: "of the choices that explore",
        },
        Parameter {
            key: "free_min",
            values: ValueSet::Number { min: 0.0, max: 1.0 },
            default: Some("0.1"),
            meaning: "share of free blocks below which the draft gives its memory back",
        },
        Parameter {
            key: "persist",
            values: ValueSet::Count { min: 1, max: 10_000 },
            default: Some("3"),
            meaning: "steps in a row that blocks must be scarce for that",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Nightjar::new(settings))),
};

/// Ranges of batch sizes that double: 1, 2 and 3, 4 to 7, and so on; the last has no end.
const N_CONTEXTS: usize = 12;

/// Unread tokens that every drafting sequence may have: the last one, and the one before if all drafts were kept.
const LAG_ORDINARY: f64 = 2.0;

/// Range that a batch of this size belongs to; `None` of an empty one.
fn context_of(n_sequences: usize) -> Option<usize> {
    n_sequences.checked_ilog2().map(|log2| (log2 as usize).min(N_CONTEXTS - 1))
}

/// Tokens by which the draft is behind where it is furthest behind.
fn lag_max(view: &PlanView<'_>) -> u32 {
    view.sequences.iter().map(|sequence| sequence.draft_lag).max().unwrap_or(0)
}

/// Mean lag of those who drafted: of their draft rows one belongs to every drafted token, save the first, and the others were unread.
fn mean_lag(feedback: &StepFeedback<'_>) -> Option<f64> {
    let drafted = feedback.outcomes.iter().map(|outcome| outcome.drafted).filter(|&drafted| drafted > 0);
    let (n, n_drafted) = drafted.fold((0, 0), |(n, sum), drafted| (n + 1, sum + drafted));
    (n > 0).then(|| f64::from((feedback.draft_rows + n).saturating_sub(n_drafted)) / f64::from(n))
}

/// Number `i` of a stream of uniform numbers in `[0, 1)` (SplitMix64; Steele, Lea, Flood, OOPSLA 2014).
fn uniform(seed: u32, i: u64) -> f64 {
    let mut z = (u64::from(seed) << 32).wrapping_add(i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Plans what the bin of the load is locked to.
#[derive(Clone, Debug)]
pub struct Nightjar {
    name: String,
    seed: u32,
    n_draws: u64,
    contexts: Vec<Context>,
    residency: Residency,
    cost: StepCost,
    switches: SwitchTable,
    /// Length of the step before.
    len: u32,
    /// All blocks in the step before; 0 before the first.
    blocks_total: u32,
    /// Load of the step under way; `None` if it teaches nothing.
    context_idx: Option<usize>,
    /// Load and largest lag of the step under way if speculation is taken up again in it.
    switch: Option<(usize, u32)>,
}

impl Nightjar {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    pub fn new(settings: &Settings) -> Self {
        let n_arms = settings.count("k_max") as usize + 1;
        Self {
            name: settings.name(),
            seed: settings.count("seed"),
            n_draws: 0,
            contexts: vec![Context::new(n_arms); N_CONTEXTS],
            residency: Residency::new(settings.number("free_min"), settings.count("persist")),
            cost: StepCost::default(),
            switches: SwitchTable::new(N_CONTEXTS),
            len: settings.count("k_max"),
            blocks_total: 0,
            context_idx: None,
            switch: None,
        }
    }

    /// What it costs the draft to come back: by the table, or as a round over all that it has missed.
    fn switch_seconds(&self, context_idx: usize, view: &PlanView<'_>) -> f64 {
        self.switches.seconds(context_idx, f64::from(lag_max(view))).unwrap_or_else(|| {
            let lag: u64 = view.sequences.iter().map(|sequence| u64::from(sequence.draft_lag)).sum();
            let usual = self.cost.drafting(1.0, view.sequences.len() as f64);
            (self.cost.drafting(1.0, lag as f64) - usual).max(0.0)
        })
    }

    /// Enters a switch: what its drafting took beyond the usual rounds of that many sequences.
    fn learn_switch(&mut self, context_idx: usize, lag: f64, feedback: &StepFeedback<'_>) {
        let n_rounds = feedback.outcomes.iter().map(|outcome| outcome.drafted).max().unwrap_or(0);
        let n_drafting = feedback.outcomes.iter().filter(|outcome| outcome.drafted > 0).count();
        let usual = self.cost.drafting(f64::from(n_rounds), n_drafting as f64);
        if n_rounds > 0 && usual > 0.0 {
            self.switches.learn(context_idx, lag, feedback.draft_time.as_secs_f64() - usual);
        }
    }

    fn next_len(&mut self, context_idx: usize, view: &PlanView<'_>) -> u32 {
        let mut n_draws = self.n_draws;
        let draw = || {
            n_draws += 1;
            uniform(self.seed, n_draws)
        };
        let switch_seconds = if self.len == 0 { self.switch_seconds(context_idx, view) } else { 0.0 };
        let len = self.contexts[context_idx].next_len(draw, switch_seconds) as u32;
        self.n_draws = n_draws;
        len
    }
}

impl Policy for Nightjar {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        (self.context_idx, self.switch) = (None, None);
        let Some(context_idx) = context_of(view.sequences.len()) else {
            return;
        };
        let (len, reason) = if self.residency.is_resident() {
            (self.next_len(context_idx, view), "bin")
        } else {
            (0, "draft lent out")
        };
        let is_switching = self.len == 0 && len > 0;
        let has_moved = ![0, view.blocks_total].contains(&self.blocks_total);
        self.context_idx = Some(context_idx).filter(|_| !is_switching && !has_moved);
        self.switch = is_switching.then(|| (context_idx, lag_max(view)));
        (self.len, self.blocks_total) = (len, view.blocks_total);
        self.residency.update(view, len);
        plan.fill(Planned { len, width: 1, is_settled: true, reason });
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        if let Some((context_idx, lag)) = self.switch.take() {
            self.learn_switch(context_idx, f64::from(lag), feedback);
        }
        self.cost.learn(feedback);
        let Some(context_idx) = self.context_idx.take() else {
            return;
        };
        let seconds = feedback.step_time.as_secs_f64();
        let len = feedback.outcomes.iter().map(|outcome| outcome.planned).max();
        let arm = len.and_then(|len| self.contexts[context_idx].arms.get_mut(len as usize));
        if let Some(arm) = arm.filter(|_| seconds > 0.0) {
            let emitted: u32 = feedback.outcomes.iter().map(|outcome| outcome.emitted()).sum();
            arm.learn(f64::from(emitted) / feedback.outcomes.len() as f64 / seconds);
        }
    }

    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        let lag = mean_lag(feedback).filter(|&lag| lag > LAG_ORDINARY);
        if let Some((context_idx, lag)) = context_of(feedback.outcomes.len()).zip(lag) {
            self.learn_switch(context_idx, lag, feedback);
        }
        self.cost.learn(feedback);
    }

    fn wants_draft(&self) -> bool {
        self.residency.is_resident()
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::samples::{FEEDBACK, OUTCOME, SEQUENCE, VIEW};
    use crate::{Outcome, SequenceView};

    fn view(sequences: &[SequenceView], n_waiting: u32, blocks_free: u32, blocks_total: u32) -> PlanView<'_> {
        PlanView { sequences, n_waiting, blocks_free, blocks_total, ..VIEW }
    }

    fn sequence(draft_lag: u32) -> SequenceView {
        SequenceView { limit: 64, remaining: 1000, draft_lag, ..SEQUENCE }
    }

    fn policy(parameters: &str) -> Nightjar {
        Nightjar::new(&Settings::parse(&ENTRY, Some(parameters)).unwrap())
    }

    #[test]
    fn draws_are_uniform_and_depend_on_the_seed() {
        // Mean 0.5, standard error 0.29 / 100: six of them.
        let mean = |seed| (1..=10_000).map(|i| uniform(seed, i)).sum::<f64>() / 1e4;
        assert!((mean(0) - 0.5).abs() < 0.018 && (mean(1) - 0.5).abs() < 0.018);
        assert!(uniform(0, 1) != uniform(1, 1) && uniform(0, 1) != uniform(0, 2));
        assert!((0..1000).all(|i| (0.0..1.0).contains(&uniform(7, i))));
    }

    #[test]
    fn while_the_draft_is_away_nothing_is_planned() {
        let mut policy = policy("persist=1");
        let sequences = [sequence(1)];
        let plan_of = |policy: &mut Nightjar, n_waiting, blocks_free| {
            let mut plan = [Planned::none()];
            policy.plan(&view(&sequences, n_waiting, blocks_free, 100), &mut plan);
            plan[0]
        };
        // The first bin explores the shortest length.
        assert_eq!((plan_of(&mut policy, 1, 5).len, policy.wants_draft()), (0, false));
        for _ in 0..100 {
            let planned = plan_of(&mut policy, 1, 50);
            assert_eq!((planned.len, planned.reason, policy.wants_draft()), (0, "draft lent out", false));
        }
        plan_of(&mut policy, 0, 50);
        assert!(policy.wants_draft());
        assert_eq!(plan_of(&mut policy, 0, 50).reason, "bin");
    }

    #[test]
    fn a_step_in_which_memory_changed_hands_teaches_nothing() {
        let mut policy = policy("k_max=4");
        let sequences = [sequence(1)];
        let mut check = |blocks_total, expected| {
            policy.len = 1;
            policy.plan(&view(&sequences, 0, 9, blocks_total), &mut [Planned::none()]);
            assert_eq!(policy.context_idx.is_some(), expected, "{blocks_total} blocks");
        };
        for (blocks_total, expected) in [(9, true), (9, true), (12, false), (12, true), (9, false)] {
            check(blocks_total, expected);
        }
    }

    /// A draft round takes 1 ms and 0.1 ms per row.
    fn timed(mut policy: Nightjar) -> Nightjar {
        for rows in (0..64).map(|i| f64::from(1 + i % 8)) {
            policy.cost.round.learn(rows, 0.001 + 0.0001 * rows);
        }
        policy
    }

    /// `n` sequences draft two tokens each in two rounds, with `draft_rows` rows altogether.
    fn drafting<R>(n: u64, draft_rows: u32, draft_ms: u64, with: impl FnOnce(&StepFeedback<'_>) -> R) -> R {
        let outcome = |seq| Outcome {
            seq: SeqId(seq),
            planned: 2,
            drafted: 2,
            verified: 2,
            context_len: 100,
            ..OUTCOME
        };
        let outcomes: Vec<Outcome<'_>> = (0..n).map(outcome).collect();
        let draft_time = Duration::from_millis(draft_ms);
        with(&StepFeedback {
            outcomes: &outcomes,
            target_rows: 3 * n as u32,
            draft_rounds: 2,
            draft_rows,
            draft_time,
            verify_time: Duration::from_millis(10),
            step_time: draft_time + Duration::from_millis(10),
            ..FEEDBACK
        })
    }

    #[test]
    fn switching_costs_what_the_draft_must_read_until_it_was_measured() {
        let sequences = [sequence(101), sequence(1)];
        let view = view(&sequences, 0, 9, 9);
        assert_eq!(policy("k_max=2").switch_seconds(1, &view), 0.0);
        let mut policy = timed(policy("k_max=2"));
        let got = policy.switch_seconds(1, &view);
        assert!((got - 0.010).abs() < 0.0002, "{got}");
        // The step of a switch: 30 ms of drafting, of which two rounds of two rows take 2.4 ms.
        policy.switch = Some((1, lag_max(&view)));
        drafting(2, 104, 30, |feedback| policy.observe(feedback));
        let got = policy.switch_seconds(1, &view);
        assert!((got - 0.0276).abs() < 0.0002, "{got}");
        assert_eq!(policy.switches.seconds(0, 101.0), None, "another load");
        // Only switches count.
        drafting(2, 104, 90, |feedback| policy.observe(feedback));
        assert_eq!(policy.switch_seconds(1, &view), got);
    }

    #[test]
    fn a_profile_enters_drafts_that_were_behind() {
        let mut policy = timed(policy("k_max=2"));
        // 4 sequences read 26 tokens each and then one: 4 * 26 + 4 rows; 2 rounds of 4 rows take 2.8 ms.
        drafting(4, 108, 13, |feedback| {
            assert_eq!(mean_lag(feedback), Some(26.0));
            policy.learn_costs(feedback);
        });
        let got = policy.switches.seconds(2, 26.0).unwrap();
        assert!((got - 0.0102).abs() < 0.0002, "{got}");
        // Nobody was behind: one row per drafted token.
        drafting(1, 2, 13, |feedback| policy.learn_costs(feedback));
        assert_eq!(policy.switches.seconds(0, 1.0), None);
    }

    #[test]
    fn the_step_of_a_switch_teaches_nothing() {
        let mut policy = policy("k_max=1");
        let sequences = [sequence(1)];
        let mut n_learnt = Vec::new();
        for step in 0..3 {
            let mut plan = [Planned::none()];
            policy.plan(&view(&sequences, 0, 9, 9), &mut plan);
            let outcome = Outcome {
                planned: plan[0].len,
                drafted: plan[0].len,
                verified: plan[0].len,
                accepted: plan[0].len,
                context_len: 100,
                ..OUTCOME
            };
            let ms = Duration::from_millis(10);
            policy.observe(&StepFeedback {
                step,
                outcomes: &[outcome],
                target_rows: 2,
                verify_time: ms,
                step_time: ms,
                ..FEEDBACK
            });
            let arms = &policy.contexts[0].arms;
            n_learnt.push((plan[0].len, arms[0].n, arms[1].n, arms[1].goodput));
        }
        // Block 1 explores 0; block 2 explores 1, a switch; its second bin explores or exploits by the seed's third draw.
        assert_eq!(n_learnt[..2], [(0, 1, 0, 0.0), (1, 1, 0, 0.0)]);
        // Once it stays at 1, two tokens in 10 ms count.
        assert!(n_learnt[2] == (1, 1, 1, 200.0) || n_learnt[2] == (0, 2, 0, 0.0), "{:?}", n_learnt[2]);
    }
}
