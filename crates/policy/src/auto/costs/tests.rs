//! Costs learnt from given steps, and the steps that other tests of the policy learn from, too.

use super::*;
use crate::samples::{FEEDBACK, OUTCOME};

pub(crate) fn outcome(drafted: u32) -> Outcome<'static> {
    Outcome { planned: drafted, drafted, verified: drafted, ..OUTCOME }
}

/// A step without prompts that takes `draft_ms` and `rest_ms`.
pub(crate) fn feedback<'a>(
    outcomes: &'a [Outcome<'a>],
    draft_rows: u32,
    draft_ms: u64,
    rest_ms: u64,
) -> StepFeedback<'a> {
    let [draft_time, verify_time] = [draft_ms, rest_ms].map(Duration::from_millis);
    StepFeedback {
        outcomes,
        target_rows: outcomes.iter().map(|outcome| outcome.verified + 1).sum(),
        draft_rounds: outcomes.iter().map(|outcome| outcome.drafted).max().unwrap_or(0),
        draft_rows,
        draft_time,
        verify_time,
        step_time: draft_time + verify_time,
        ..FEEDBACK
    }
}

/// Has `costs` learn `n_steps` equal steps; drafts cost 2 ms each.
fn learn(costs: &mut Costs, n_steps: u32, drafted: u32, rest_ms: u64) {
    for _ in 0..n_steps {
        costs.learn(&feedback(&[outcome(drafted)], drafted, 2 * u64::from(drafted), rest_ms));
        costs.settle();
    }
}

#[test]
fn a_slower_machine_is_slower_at_every_size() {
    let mut costs = Costs::default();
    learn(&mut costs, 80, 0, 10);
    learn(&mut costs, 80, 3, 12);
    // Everything takes twice as long, but only one size is seen.
    for _ in 0..100 {
        costs.learn(&feedback(&[outcome(3)], 3, 12, 24));
        costs.settle();
    }
    let (plain, speculating) = (costs.plain(1).unwrap(), costs.target(1, 3).unwrap());
    assert!((speculating / 0.024 - 1.0).abs() < 0.01, "{speculating}");
    assert!((plain / 0.020 - 1.0).abs() < 0.1, "{plain}");
    assert!((costs.round(1) / 0.004 - 1.0).abs() < 0.05, "{}", costs.round(1));
}

#[test]
fn a_round_is_dearer_in_a_long_context() {
    let mut costs = Costs::default();
    learn(&mut costs, 8, 0, 10);
    // 2 ms, and 1 ms per thousand positions.
    for i in 0..400 {
        let outcomes = [Outcome { context_len: 1000 * (i % 5), ..outcome(3) }];
        let draft_ms = 3 * (2 + u64::from(i % 5));
        costs.learn(&feedback(&outcomes, 3, draft_ms, 12));
        costs.settle();
    }
    let (row, attending) = (costs.round(1), costs.drafting(4000));
    assert!((row / 0.002 - 1.0).abs() < 0.1 && (attending / 0.004 - 1.0).abs() < 0.1, "{row} {attending}");
}

#[test]
fn a_plain_step_counts_among_its_like_only() {
    let mut costs = Costs::default();
    assert_eq!((costs.plain(1), costs.target(1, 0)), (None, None));
    for _ in 0..20 {
        learn(&mut costs, 4, 1, 12);
        // The first two behind speculation take longer.
        learn(&mut costs, 1, 0, 17);
        learn(&mut costs, 1, 0, 14);
        learn(&mut costs, 3, 0, 10);
    }
    let (plain, target) = (costs.plain(1).unwrap(), costs.target(1, 1).unwrap());
    assert!((plain / 0.010 - 1.0).abs() < 0.01, "{plain}");
    assert!((target / 0.012 - 1.0).abs() < 0.01, "{target}");
    assert!(costs.plain_evidence(1) >= 60.0);
}

#[test]
fn times_are_taken_in_together_once_there_are_many() {
    let mut costs = Costs::default();
    for n_steps in 1..=YOUNG_STEPS {
        learn(&mut costs, 1, 0, 10);
        assert_eq!(costs.n_new, u32::from(n_steps == YOUNG_STEPS), "step {n_steps}");
    }
    let before = costs.plain(1).unwrap() / costs.pace;
    let n_left = STEPS_PER_LAYOUT - costs.n_new;
    for n in 1..=n_left {
        assert_eq!(costs.plain(1).unwrap() / costs.pace, before, "step {n}");
        learn(&mut costs, 1, 0, 14);
    }
    assert!(costs.n_new == 0 && costs.plain(1).unwrap() / costs.pace > before);
}

#[test]
fn unmeasured_sizes_get_the_benefit_of_the_doubt() {
    let mut costs = Costs::default();
    learn(&mut costs, 8, 0, 10);
    learn(&mut costs, 8, 3, 16);
    let plain = costs.plain(1).unwrap();
    let mut seconds = Vec::new();
    costs.targets_with(1, 3, plain, &mut seconds).unwrap();
    for (n, got) in (1..).zip(&seconds[1..]) {
        let doubt = BENEFIT_OF_DOUBT / (1.0 + costs.target.evidence(1 + n)).sqrt();
        let expected = plain + (costs.target(1, n).unwrap() - plain) * (1.0 - doubt);
        assert!((got / expected - 1.0).abs() < 1e-12, "{n}: {expected}, {got}");
    }
    assert!((seconds[0] / plain - 1.0).abs() < 1e-12);
    assert_eq!(seconds.len(), 4);
}

#[test]
fn a_row_beside_prompts_costs_at_least_what_it_costs_without() {
    let mut costs = Costs::default();
    // Alone 1 ms a row from 10 on; beside prompts nothing, as it seems.
    for (drafted, ms) in [(1, 11), (3, 13), (7, 17)] {
        learn(&mut costs, 20, drafted, ms);
    }
    for _ in 0..20 {
        for drafted in [0, 4] {
            let outcomes = [outcome(drafted)];
            let step = feedback(&outcomes, drafted, 2 * u64::from(drafted), 30);
            costs.learn(&StepFeedback { target_rows: 20 + drafted, prefill_rows: 19, ..step });
        }
        costs.settle();
    }
    let mut seconds = Vec::new();
    costs.targets_beside_prompts(20, 2, &mut seconds).unwrap();
    assert!((seconds[0] / 0.030 - 1.0).abs() < 0.01, "{seconds:?}");
    assert!(((seconds[2] - seconds[0]) / 0.002 - 1.0).abs() < 0.01, "{seconds:?}");
}

#[test]
fn catching_up_is_not_taken_for_a_slow_round() {
    let mut costs = Costs::default();
    for _ in 0..10 {
        costs.learn(&feedback(&[outcome(2)], 2, 4, 10));
        costs.settle();
    }
    costs.learn(&feedback(&[outcome(2)], 101, 22, 10));
    costs.settle();
    assert!((costs.round(1) - 0.002).abs() < 1e-4, "{}", costs.round(1));
    assert!((costs.round(100) - 0.020).abs() < 1e-3, "{}", costs.round(100));
}
