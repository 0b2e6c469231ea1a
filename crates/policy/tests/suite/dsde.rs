//! DSDE at the edges: broken executors, drafters without a distribution, clipped and finished sequences.

use std::time::Duration;

use crate::common::Fate;
use dsde_policy::registry::Settings;
use dsde_policy::{Config, Dsde, Outcome, Planned, Policy, SeqId, StepFeedback, dsde};

fn policy() -> Dsde {
    let settings = Settings::parse(&dsde::ENTRY, None).expect("the defaults");
    Dsde::new(dsde::Config::new(&settings).expect("the defaults"))
}

fn fate(klds: &[f32]) -> Fate {
    Fate { seq: SeqId(1), limit: 64, accepted_max: 4, temperature: 0.0, klds: klds.to_vec() }
}

/// Six steps of five tokens end the calibration: 30 proposed, never all accepted, at most 4.
fn settle(policy: &mut Dsde, klds: &[f32]) {
    for step in 0..6 {
        let plan = crate::common::step(policy, step, &[fate(klds)]);
        assert_eq!((plan[0].len, plan[0].reason), (5, "calibrating"));
    }
}

/// The plan after `fate` has been observed.
fn after(policy: &mut Dsde, fate: Fate) -> Planned {
    crate::common::step(policy, 6, std::slice::from_ref(&fate));
    crate::common::step(policy, 7, &[fate])[0]
}

#[test]
fn a_divergence_that_is_not_a_number_counts_as_the_worst() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut policy = policy();
        settle(&mut policy, &[0.0, 0.1]);
        let planned = after(&mut policy, fate(&[0.0, broken]));
        assert_eq!((planned.len, planned.reason), (2, "floor"), "{broken}");
    }
}

#[test]
fn a_steadily_wrong_draft_falls_to_the_floor() {
    let mut policy = policy();
    settle(&mut policy, &[0.5]);
    // No variance: WVIR saturates at 20, times exp(1) - 1.
    let planned = after(&mut policy, fate(&[0.5]));
    assert_eq!((planned.len, planned.reason), (2, "floor"));
}

#[test]
fn a_steadily_right_draft_stays_at_the_ceiling() {
    let mut policy = policy();
    settle(&mut policy, &[0.0]);
    // SL_max = 4 (1 + 0), scale factor 0.
    let planned = after(&mut policy, fate(&[0.0]));
    assert_eq!((planned.len, planned.reason), (4, "divergence"));
}

#[test]
fn a_drafter_without_distribution_stays_at_what_calibration_found() {
    let mut policy = policy();
    settle(&mut policy, &[]);
    let planned = after(&mut policy, fate(&[]));
    assert_eq!((planned.len, planned.is_settled), (4, true));
}

#[test]
fn a_step_without_proposal_teaches_nothing() {
    let mut policy = policy();
    settle(&mut policy, &[0.1, 0.3]);
    let clipped = Fate { limit: 0, ..fate(&[5.0]) };
    // SL_max = 4 (1 + 0.18 / 0.3) = 6.4, down to 6. Scale factor exp(0.36) - 1 = 0.43 and WVIR about 1: about 2 + 0.57 * 4,
    // up to 5; without divergences it would be 6.
    assert_eq!(after(&mut policy, clipped).len, 5);
}

#[test]
fn planned_sequences_are_remembered_until_they_are_forgotten() {
    let mut policy = policy();
    let fates: Vec<Fate> = (0..3).map(|seq| Fate { seq: SeqId(seq), ..fate(&[0.1]) }).collect();
    crate::common::step(&mut policy, 0, &fates);
    assert_eq!(policy.n_sequences(), 3);
    policy.forget(SeqId(1));
    policy.forget(SeqId(1));
    assert_eq!(policy.n_sequences(), 2);
    policy.forget(SeqId(0));
    policy.forget(SeqId(2));
    assert_eq!(policy.n_sequences(), 0);
}

#[test]
fn settled_lengths_are_explained_by_their_numbers() {
    let explained = |policy: &Dsde| {
        let mut numbers = Vec::new();
        policy.explain(SeqId(1), &mut numbers);
        numbers
    };
    let mut policy = policy();
    crate::common::step(&mut policy, 0, &[fate(&[0.0])]);
    assert_eq!(explained(&policy), [], "calibrating");
    let mut policy = self::policy();
    settle(&mut policy, &[0.0]);
    // Without divergence the scale factor vanishes; without variance WVIR saturates; calibration found 4.
    let expected = [("scale_factor", 0.0), ("wvir", 20.0), ("floor", 2.0), ("ceiling", 4.0)];
    assert_eq!(explained(&policy), expected);
}

/// With `activation=6` and a first length of 6 a sequence settles at once, on the configured bounds. From then on a divergence of
/// 0 plans the ceiling and a large one the floor.
fn released(seq: u64, klds: &[f32]) -> Fate {
    Fate { seq: SeqId(seq), ..fate(klds) }
}

fn released_lens(policy: &mut dyn Policy, step: u64, fates: &[Fate]) -> Vec<u32> {
    crate::common::step(policy, step, fates).iter().map(|planned| planned.len).collect()
}

#[test]
fn the_released_cap_counts_what_was_settled_before_the_step_and_cuts_all_that_is_settled_after_it() {
    let mut policy =
        "dsde:variant=released,k_init=6,activation=6,cap=mean".parse::<Config>().expect("valid").build();
    let (calm, wild) = ([0.0].as_slice(), [5.0, 0.0].as_slice());
    assert_eq!(released_lens(policy.as_mut(), 0, &[released(1, wild), released(2, calm)]), [6, 6]);
    // Both settled in step 0: none was settled before it, so there was no cap. The third settles in step 1.
    let all = [released(1, wild), released(2, calm), released(3, calm)];
    assert_eq!(released_lens(policy.as_mut(), 1, &all), [6, 20, 6]);
    // Sequences 1 and 2 wanted 6 and 20 after step 1: mean 13. It cuts the third, which is not in it and wanted 20.
    policy.forget(SeqId(1));
    // The first has ended and was counted all the same.
    assert_eq!(released_lens(policy.as_mut(), 2, &[released(2, calm), released(3, calm)]), [13, 13]);
    // Both wanted 20 after step 2.
    assert_eq!(released_lens(policy.as_mut(), 3, &[released(2, calm), released(3, calm)]), [20, 20]);
}

#[test]
fn a_late_outcome_does_not_bring_a_sequence_back() {
    let mut policy = policy();
    let outcome = Outcome {
        seq: SeqId(1),
        planned: 2,
        drafted: 2,
        verified: 2,
        accepted: 1,
        temperature: 0.0,
        context_len: 0,
        is_foreseen: false,
        signals: &[],
    };
    policy.observe(&StepFeedback {
        step: 1,
        outcomes: &[outcome],
        target_rows: 3,
        prefill_rows: 0,
        draft_rounds: 0,
        draft_rows: 0,
        experts: None,
        draft_time: Duration::ZERO,
        verify_time: Duration::ZERO,
        step_time: Duration::ZERO,
    });
    assert_eq!(policy.n_sequences(), 0);
}
