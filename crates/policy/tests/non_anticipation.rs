//! Whether a position of a sampled chain is verified may depend on anything known before its token was drawn. The features
//! of later positions are functions of that token, so they must not matter: this is what keeps the output law.

mod common;

use common::Fate;
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

/// Every policy of the registry; those that draft trees, with chains.
fn policies() -> Vec<Box<dyn Policy>> {
    let text = |name| match name {
        "fixed" => "fixed:k=4",
        "ddd" => "ddd:width=1",
        "adaserve" => "adaserve:w_max=1",
        name => name,
    };
    let config = |name| text(name).parse::<Config>().expect("a valid configuration");
    ENTRIES.iter().map(|entry| config(entry.name).build()).collect()
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

/// A batch drafts after `n_steps` steps of practice; what is verified of each chain?
fn verified(policy: Box<dyn Policy>, n_steps: u64, chains: &[Shapes]) -> Vec<u32> {
    let mut watched = Watched { policy, verified: Vec::new() };
    let fate = |seq: usize, klds: Shapes| {
        let accepted_max = seq as u32;
        Fate { seq: SeqId(seq as u64), limit: 64, accepted_max, temperature: 1.0, klds }
    };
    for step in 0..n_steps {
        // Batches of all sizes, so that rows have a price.
        let n = 1 + step as usize % chains.len();
        let fates: Vec<Fate> = (0..n).map(|seq| fate(seq, vec![0.1, 0.3 * seq as f32, 0.2])).collect();
        common::step(&mut watched, step, &fates);
    }
    let fates: Vec<Fate> = chains.iter().enumerate().map(|(seq, klds)| fate(seq, klds.clone())).collect();
    common::step(&mut watched, n_steps, &fates);
    watched.verified
}

/// Whether position `j` of the first chain is verified, with these shapes behind it and with others.
fn is_verified(
    policy: impl Fn() -> Box<dyn Policy>,
    n_steps: u64,
    chains: &[Shapes],
    j: usize,
    behind: &[f32],
) -> [bool; 2] {
    let mut others = chains.to_vec();
    others[0][j + 1..].iter_mut().zip(behind).for_each(|(shape, &other)| *shape = other);
    [chains, &others].map(|chains| verified(policy(), n_steps, chains)[0] > j as u32)
}

fn shapes() -> impl Strategy<Value = Shapes> {
    prop::collection::vec(prop_oneof![Just(0.0f32), 0.0f32..0.4, 0.0f32..3.0], 64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn later_positions_decide_nothing_about_earlier_ones(
        chains in prop::collection::vec(shapes(), 2..6),
        behind in shapes(),
        n_steps in 0u64..60,
        j in 0usize..8,
    ) {
        for (i, entry) in ENTRIES.iter().enumerate() {
            let [before, after] = is_verified(|| policies().swap_remove(i), n_steps, &chains, j, &behind);
            prop_assert_eq!(before, after, "{}, position {}", entry.name, j);
            let [before, after] = is_verified(|| mixtures().swap_remove(i), n_steps, &chains, j, &behind);
            prop_assert_eq!(before, after, "{} beside another, position {}", entry.name, j);
        }
    }
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
    let chains = vec![vec![0.1; 64], vec![0.1; 64]];
    assert_eq!(is_verified(|| Box::new(LooksAhead), 3, &chains, 1, &[2.0; 64]), [true, false]);
}
