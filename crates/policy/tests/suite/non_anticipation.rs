//! Whether a position of a sampled chain is verified may depend on anything known before its token was drawn. The features
//! of later positions are functions of that token, so they must not matter: this is what keeps the output law.
//!
//! Across a batch the same holds whatever the others draft: their draws are independent of the token, so a policy may rank
//! positions of different sequences, and [`REACH`] says which do. It is not enough that each sequence by itself keeps its
//! law. Where A's length depends on what B drafted and B's on what A drafted, their outputs may be correlated although each
//! is right alone. So what was drafted behind the verified part of *all* sequences together must not matter: then the lengths
//! could have been found token by token, none being looked at before it was taken.

use crate::common::Fate;
use dsde_policy::registry::ENTRIES;
use dsde_policy::{Config, DraftPosition, Mixture, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use proptest::prelude::*;

/// Remembers how much of each sequence was verified in the last step.
struct Watched {
    policy: Box<dyn Policy>,
    verified: Vec<u32>,
}

impl Policy for Watched {
    fn name(&self) -> String {
        self.policy.name()
    }

    fn signals(&self) -> Signals {
        self.policy.signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.policy.plan(view, plan);
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.policy.keep_drafting(seq, position)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.policy.trim(view, drafted, verify_lens);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.verified = feedback.outcomes.iter().map(|outcome| outcome.verified).collect();
        self.policy.observe(feedback);
    }

    fn forget(&mut self, seq: SeqId) {
        self.policy.forget(seq);
    }
}

fn build(text: &str) -> Box<dyn Policy> {
    text.parse::<Config>().expect("a valid configuration").build()
}

/// Every policy of [`REACH`].
fn policies() -> Vec<Box<dyn Policy>> {
    REACH.iter().map(|(text, _)| build(text)).collect()
}

/// Every policy for the first and third chain, beside one that trims for the others.
fn mixtures() -> Vec<Box<dyn Policy>> {
    let beside = |main: Box<dyn Policy>| {
        let mut mixture = Mixture::new(main);
        let trimming = if mixture.name() == "tetris" { "dspark" } else { "tetris" };
        let chosen = mixture.choose(&trimming.parse().expect("a valid configuration"), [SeqId(1), SeqId(3)]);
        chosen.expect("there is room");
        Box::new(mixture) as Box<dyn Policy>
    };
    policies().into_iter().map(beside).collect()
}

/// Draft shapes of one chain.
type Shapes = Vec<f32>;

/// Sequences of a batch, the others' practice, and what is drafted in the end.
#[derive(Clone, Debug)]
struct Case {
    /// Steps of practice.
    n_steps: u64,
    /// Divergence that a sequence had in practice, by its number.
    practice: Vec<f32>,
    chains: Vec<Shapes>,
}

impl Case {
    fn new(n_steps: u64, chains: &[Shapes]) -> Self {
        let practice = (0..chains.len()).map(|seq| 0.3 * seq as f32).collect();
        Self { n_steps, practice, chains: chains.to_vec() }
    }

    /// The case with other chains.
    fn with(&self, chains: Vec<Shapes>) -> Self {
        Self { chains, ..self.clone() }
    }
}

/// A batch drafts after some practice; what is verified of each chain?
fn verified(policy: Box<dyn Policy>, case: &Case) -> Vec<u32> {
    let mut watched = Watched { policy, verified: Vec::new() };
    // A draft is the likelier to be accepted the better it agrees.
    let fate = |seq: usize, klds: Shapes| {
        let accepted_max = (3.0 * (1.5 - case.practice[seq])).max(0.0) as u32;
        Fate { seq: SeqId(seq as u64), limit: 64, accepted_max, temperature: 1.0, klds }
    };
    for step in 0..case.n_steps {
        // Batches of all sizes, so that rows have a price.
        let n = 1 + step as usize % case.chains.len();
        let fates: Vec<Fate> = (0..n).map(|seq| fate(seq, vec![0.1, case.practice[seq], 0.2])).collect();
        crate::common::step(&mut watched, step, &fates);
    }
    let fates: Vec<Fate> =
        case.chains.iter().enumerate().map(|(seq, klds)| fate(seq, klds.clone())).collect();
    crate::common::step(&mut watched, case.n_steps, &fates);
    watched.verified
}

/// `chain` up to and including position `last`, and `other` behind it.
fn spliced(chain: &[f32], last: usize, other: &[f32]) -> Shapes {
    [&chain[..=last], &other[last + 1..]].concat()
}

/// Whether position `j` of chain `i` is verified, with these shapes behind it and with others.
fn is_verified(
    policy: impl Fn() -> Box<dyn Policy>,
    case: &Case,
    (i, j): (usize, usize),
    behind: &[f32],
) -> [bool; 2] {
    let mut others = case.chains.clone();
    others[i] = spliced(&others[i], j, behind);
    [case, &case.with(others)].map(|case| verified(policy(), case)[i] > j as u32)
}

fn shapes() -> impl Strategy<Value = Shapes> {
    prop::collection::vec(prop_oneof![Just(0.0f32), 0.0f32..0.4, 0.0f32..3.0], 64)
}

/// How the others of its batch reach what is verified of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Not at all.
    Never,
    /// Through what was learnt or timed in steps before.
    Past,
    /// Through what is drafted in this step as well: positions are ranked, or rounds taken, for all of them together.
    Step,
}

/// Every policy of the registry, and choices that decide differently; those that draft trees, with chains.
const REACH: &[(&str, Reach)] = &[
    ("auto", Reach::Step),
    ("off", Reach::Never),
    ("fixed:k=4", Reach::Never),
    ("dsde", Reach::Never),
    ("dsde:cap=mean", Reach::Past),
    ("adaedl", Reach::Never),
    ("confidence", Reach::Never),
    ("batch_schedule", Reach::Never),
    ("tiered", Reach::Past),
    ("bandit", Reach::Past),
    ("turbospec", Reach::Past),
    ("nightjar", Reach::Past),
    ("faser", Reach::Past),
    ("faser:choice=gp", Reach::Past),
    ("tetris", Reach::Step),
    ("dspark", Reach::Step),
    ("adaptive_verification", Reach::Step),
    ("adaserve:w_max=1", Reach::Step),
    ("ddd:width=1", Reach::Never),
];

/// Shapes without a pattern.
fn noise(seed: u64) -> Shapes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..64).map(|_| if next() < 0.5 { 0.2 * next() } else { 1.5 * next() }).collect()
}

/// The least reach that explains what the others did to the first sequence over many cases.
fn reach_of(policy: impl Fn() -> Box<dyn Policy>) -> Reach {
    let mut reach = Reach::Never;
    for seed in 0..64 {
        let chains: Vec<Shapes> = (0..3).map(|seq| noise(4 * seed + seq)).collect();
        let case = Case::new(seed, &chains);
        let drafts = case.with([&chains[..1], &[noise(seed + 1000), noise(seed + 2000)]].concat());
        let past = Case { practice: vec![0.0, 1.4, 1.2], ..case.clone() };
        let verified = |case: &Case| verified(policy(), case)[0];
        if verified(&drafts) != verified(&case) {
            return Reach::Step;
        }
        if verified(&past) != verified(&case) {
            reach = Reach::Past;
        }
    }
    reach
}

#[test]
fn others_of_the_batch_reach_a_sequence_only_where_that_is_known() {
    let mut names: Vec<String> = policies().iter().map(|policy| policy.name()).collect();
    names.iter_mut().for_each(|name| name.truncate(name.find(':').unwrap_or(name.len())));
    names.dedup();
    assert_eq!(names, ENTRIES.iter().map(|entry| entry.name).collect::<Vec<_>>());
    for &(text, expected) in REACH {
        assert_eq!(reach_of(|| build(text)), expected, "{text}");
    }
}

#[test]
fn sequences_of_another_policy_reach_nobody_within_a_step() {
    // The first sequence has its policy to itself; the others have another.
    for (text, _) in REACH {
        let alone = || {
            let (main, own) = if *text == "tetris" { ("dspark", "tetris") } else { ("tetris", *text) };
            let mut mixture = Mixture::new(build(main));
            mixture.choose(&own.parse().expect("a valid configuration"), [SeqId(0)]).expect("there is room");
            Box::new(mixture) as Box<dyn Policy>
        };
        assert_ne!(reach_of(alone), Reach::Step, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// For any fixed drafts of the others.
    #[test]
    fn later_positions_decide_nothing_about_earlier_ones(
        chains in prop::collection::vec(shapes(), 2..6),
        others in prop::collection::vec(shapes(), 6),
        behind in shapes(),
        n_steps in 0u64..60,
        i in 0usize..2,
        j in 0usize..8,
    ) {
        let case = Case::new(n_steps, &chains);
        let mut redrafted = others[..chains.len()].to_vec();
        redrafted[i] = chains[i].clone();
        for case in [&case, &case.with(redrafted)] {
            for (of, (text, _)) in REACH.iter().enumerate() {
                let [before, after] = is_verified(|| policies().swap_remove(of), case, (i, j), &behind);
                prop_assert_eq!(before, after, "{}, position {}", text, j);
                let [before, after] = is_verified(|| mixtures().swap_remove(of), case, (i, j), &behind);
                prop_assert_eq!(before, after, "{} beside another, position {}", text, j);
            }
        }
    }

    /// The shape at the first position that is not verified was known before its token; everything behind it was not.
    #[test]
    fn what_is_behind_the_verified_part_of_all_decides_nothing(
        chains in prop::collection::vec(shapes(), 2..6),
        others in prop::collection::vec(shapes(), 6),
        n_steps in 0u64..60,
    ) {
        let case = Case::new(n_steps, &chains);
        for of in 0..REACH.len() {
            for make in [policies as fn() -> Vec<_>, mixtures] {
                let [before, after] = with_other_ends(|| make().swap_remove(of), &case, &others);
                prop_assert_eq!(before, after, "{}", make()[of].name());
            }
        }
    }
}

/// What is verified, and what is if all that was drafted behind it is replaced.
fn with_other_ends(policy: impl Fn() -> Box<dyn Policy>, case: &Case, others: &[Shapes]) -> [Vec<u32>; 2] {
    let lens = verified(policy(), case);
    let splice = |((chain, &len), other): ((&Shapes, &u32), &Shapes)| {
        spliced(chain, (len as usize).min(chain.len() - 1), other)
    };
    let chains = case.chains.iter().zip(&lens).zip(others).map(splice).collect();
    let after = verified(policy(), &case.with(chains));
    [lens, after]
}

/// Verifies everything or nothing, by the draft's confidence at the last position.
struct LooksAhead;

impl Policy for LooksAhead {
    fn name(&self) -> String {
        "looks_ahead".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: 4, width: 1, is_settled: true, reason: "test" });
    }

    fn trim(&mut self, _view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        for (positions, len) in drafted.iter().zip(verify_lens) {
            if positions.last().is_some_and(|last| last.top_prob < 0.5) {
                *len = 0;
            }
        }
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[test]
fn the_check_finds_a_policy_that_looks_ahead() {
    let case = Case::new(3, &[vec![0.1; 64], vec![0.1; 64]]);
    assert_eq!(is_verified(|| Box::new(LooksAhead), &case, (0, 1), &[2.0; 64]), [true, false]);
}

/// Verifies two positions of a sequence if the other one's last position was sure, else one.
struct Crosswise;

impl Policy for Crosswise {
    fn name(&self) -> String {
        "crosswise".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: 3, width: 1, is_settled: true, reason: "test" });
    }

    fn trim(&mut self, _view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        for (seq, len) in verify_lens.iter_mut().enumerate() {
            let other = drafted[(seq + 1) % drafted.len()];
            *len = if other.last().is_some_and(|last| last.top_prob > 0.5) { 2 } else { 1 };
        }
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[test]
fn the_check_finds_lengths_that_hang_on_each_other() {
    // Each sequence by itself is right: its own later positions never matter.
    let case = Case::new(0, &[vec![2.0; 64], vec![2.0; 64]]);
    for i in [0, 1] {
        let [before, after] = is_verified(|| Box::new(Crosswise), &case, (i, 0), &[0.1; 64]);
        assert_eq!(before, after);
    }
    // Together they are not: one position of each was verified, and what lies behind turns it into two.
    let others = vec![vec![0.1; 64]; 2];
    assert_eq!(with_other_ends(|| Box::new(Crosswise), &case, &others), [vec![1, 1], vec![2, 2]]);
}
