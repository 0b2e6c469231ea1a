//! Policies that plan one length for the whole batch, over written-out histories.

use std::time::Duration;

use crate::common::{Cost, Fate};
use dsde_policy::{Config, Policy, SeqId};

/// A batch in which every sequence accepts the same.
fn batch(n_sequences: u64, limit: u32, accepted_max: u32) -> Vec<Fate> {
    let fate = |seq| Fate { seq: SeqId(seq), limit, accepted_max, temperature: 0.0, klds: Vec::new() };
    (0..n_sequences).map(fate).collect()
}

fn build(text: &str) -> Box<dyn Policy> {
    text.parse::<Config>().expect("a valid configuration").build()
}

/// Lengths of `n_steps` steps with the same batch.
fn lens(policy: &mut dyn Policy, n_steps: u64, batch: &[Fate]) -> Vec<u32> {
    (0..n_steps).map(|step| crate::common::step(policy, step, batch)[0].len).collect()
}

#[test]
fn tiered_climbs_and_descends_with_the_accepted_drafts() {
    let mut policy = build("tiered");
    // The average E starts at 3 - 1 = 2 and keeps 0.8^5 = 0.32768 of its distance per interval; the first decision comes
    // after 10 + 5 steps.
    // All 3 accepted for 15 steps: E = 3 - 0.8^15 = 2.965 > 2.5, up.
    assert_eq!(lens(policy.as_mut(), 15, &batch(1, 16, 16)), [3; 15]);
    // All 5 accepted: E = 5 - 2.035 * 0.328 = 4.333, not above 4.5; then 5 - 0.667 * 0.328 = 4.781, up.
    assert_eq!(lens(policy.as_mut(), 10, &batch(1, 16, 16)), [5; 10]);
    // 2 of 7 accepted: E = 2 + 2.781 * 0.328 = 2.911, at most 5 - 0.75 and not at most 3 - 0.75, down by one.
    assert_eq!(lens(policy.as_mut(), 5, &batch(1, 16, 2)), [7; 5]);
    // E = 2 + 0.911 * 0.328 = 2.299, above 2.25; then 2 + 0.299 * 0.328 = 2.098, down.
    assert_eq!(lens(policy.as_mut(), 10, &batch(1, 16, 2)), [5; 10]);
    // Nothing accepted: E = 2.098 * 0.328 = 0.687, above 0.25; then 0.225, down.
    assert_eq!(lens(policy.as_mut(), 10, &batch(1, 16, 0)), [3; 10]);
    assert_eq!(lens(policy.as_mut(), 1, &batch(1, 16, 0)), [1]);
}

#[test]
fn tiers_learn_separately() {
    let mut policy = build("tiered");
    lens(policy.as_mut(), 15, &batch(7, 16, 16));
    assert_eq!(lens(policy.as_mut(), 1, &batch(7, 16, 16)), [5]);
    assert_eq!(lens(policy.as_mut(), 1, &batch(8, 16, 16)), [3]);
    assert_eq!(lens(policy.as_mut(), 1, &batch(32, 16, 16)), [1]);
    assert_eq!(lens(policy.as_mut(), 1, &batch(64, 16, 16)), [0]);
    assert_eq!(lens(policy.as_mut(), 1, &batch(1, 16, 16)), [5]);
}

#[test]
fn tiered_probes_again_after_every_interval_at_zero() {
    let mut policy = build("tiered:warmup=0");
    // Nothing accepted from 32 on: E starts at 0, down to 0 after five steps and back for five every five steps.
    let expected: Vec<u32> = [1, 0, 1, 0].into_iter().flat_map(|len| [len; 5]).collect();
    assert_eq!(lens(policy.as_mut(), 20, &batch(40, 16, 0)), expected);
}

/// Plain steps take 10 ms; the first draft adds 2.5 ms, the second 3.5 ms.
fn cost(rounds: u32, _target_rows: u32) -> Cost {
    let draft = Duration::from_micros([0, 2500, 6000][rounds as usize]);
    Cost { draft, verify: Duration::from_millis(10) }
}

#[test]
fn bandit_follows_the_trace() {
    let mut policy = build("bandit:k_max=2");
    // One draft is accepted: rewards are 1 / 10 ms = 100, 2 / 12.5 ms = 160 and 2 / 16 ms = 125 tokens/s, in shares of the
    // best 0.625, 1 and 0.78125. After one play each, with plays (n0, n1, n2) and bonus sqrt(2 ln t / n):
    // t = 3 (1, 1, 1): equal bonuses, 1
    // t = 4 (1, 2, 1): 0.625 + 1.665, 1 + 1.177, 0.781 + 1.665: 2
    // t = 5 (1, 2, 2): 0.625 + 1.794, 1 + 1.269, 0.781 + 1.269: 0
    // t = 6 (2, 2, 2): equal bonuses, 1
    // t = 7 (2, 3, 2): 0.625 + 1.395, 1 + 1.139, 0.781 + 1.395: 2
    // t = 8 (2, 3, 3): 0.625 + 1.442, 1 + 1.177, 0.781 + 1.177: 1
    // t = 9 (2, 4, 3): 0.625 + 1.482, 1 + 1.048, 0.781 + 1.210: 0
    let fates = batch(1, 16, 1);
    let lens: Vec<u32> =
        (0..10).map(|step| crate::common::step_at(policy.as_mut(), step, &fates, cost)[0].len).collect();
    assert_eq!(lens, [0, 1, 2, 1, 2, 0, 1, 2, 1, 0]);
}

#[test]
fn bandit_finds_the_best_length_of_every_load() {
    // Alone, rows are free and everything is accepted: the longest pays. In a batch of 16 a draft round costs as much as a
    // step and nothing is accepted: none pays.
    let mut policy = build("bandit:explore=0.1,k_max=2");
    let busy = |rounds: u32, _: u32| Cost { draft: Duration::from_millis(10) * rounds, ..cost(0, 0) };
    let (mut alone, mut batched) = ([0; 3], [0; 3]);
    for step in 0..200 {
        let len = crate::common::step_at(policy.as_mut(), step, &batch(1, 16, 16), cost)[0].len;
        alone[len as usize] += 1;
        let len = crate::common::step_at(policy.as_mut(), step, &batch(16, 16, 0), busy)[0].len;
        batched[len as usize] += 1;
    }
    assert!(alone[2] > 150 && batched[0] > 150, "plays alone {alone:?}, in a batch {batched:?}");
}

#[test]
fn bandit_plays_only_what_a_limit_lets_through() {
    let mut policy = build("bandit");
    assert_eq!(lens(policy.as_mut(), 6, &batch(1, 1, 1))[..2], [0, 1]);
    assert!(lens(policy.as_mut(), 50, &batch(1, 1, 1)).iter().all(|&len| len <= 1));
    assert_eq!(lens(build("bandit:k_min=2").as_mut(), 4, &batch(1, 1, 1)), [0; 4]);
}

/// Nobody has anything to offer here, so arms of what repeats are not played, not even to try them.
#[test]
fn bandit_leaves_a_drafter_without_offers_alone() {
    let with_drafters: Vec<u32> = lens(build("bandit:drafters=2").as_mut(), 60, &batch(2, 16, 1));
    assert_eq!(with_drafters, lens(build("bandit").as_mut(), 60, &batch(2, 16, 1)));
}

#[test]
fn turbospec_probes_decides_gives_up_and_tries_again() {
    let mut policy = build("turbospec");
    // A draft round takes 2 ms, the rest of a step 10 ms. Plain decoding: 1.1 / 10 ms = 110.
    let cost = |rounds: u32, _: u32| Cost {
        draft: Duration::from_millis(2) * rounds,
        verify: Duration::from_millis(10),
    };
    // Everything is accepted for 40 steps, nothing for 120, then everything.
    let accepted_max = |step| if (40..160).contains(&step) { 0 } else { 16 };
    let plans: Vec<_> = (0..190)
        .map(|step| crate::common::step_at(policy.as_mut(), step, &batch(1, 16, accepted_max(step)), cost)[0])
        .collect();
    let lens: Vec<u32> = plans.iter().map(|planned| planned.len).collect();
    assert_eq!(lens[..20], [[3, 1, 3, 0]; 5].concat());
    // 15 speculating steps: alpha = 1 - 0.3 * 0.85^15 = 0.974, and goodput rises up to 8.1 / 26 ms = 312 at length 8.
    assert_eq!(lens[20..60], [8; 40]);
    // 20 rejections: alpha = 0.85^20 = 0.039; 1.039 / 12 ms = 87. Five decisions for plain decoding.
    assert_eq!(lens[60..160], [0; 100]);
    assert_eq!(lens[160..164], [3, 1, 3, 0]);
    // Three successes: alpha = 1 - 0.961 * 0.85^3 = 0.41; 1.41 / 12 ms = 117 and 1.58 / 14 ms = 113.
    assert_eq!(lens[164..184], [1; 20]);
    // Twenty more: alpha = 0.977.
    assert_eq!(lens[184..], [8; 6]);
    let is_probe = |step: usize| step < 20 || (160..164).contains(&step);
    for (step, planned) in plans.iter().enumerate() {
        assert_eq!(planned.reason, if is_probe(step) { "probe" } else { "goodput" }, "step {step}");
    }
}

#[test]
fn turbospec_stops_speculating_where_rows_are_expensive() {
    // The first draft of a sequence is accepted, no other. Up to 8 rows are free; each further one takes 1 ms.
    let mut policy = build("turbospec");
    let cost = |rounds: u32, rows: u32| Cost {
        draft: Duration::from_micros(500) * rounds,
        verify: Duration::from_micros(10_000 + 1_000 * u64::from(rows.saturating_sub(8))),
    };
    let mut settled = |n_sequences| {
        (0..200)
            .map(|step| {
                crate::common::step_at(policy.as_mut(), step, &batch(n_sequences, 16, 1), cost)[0].len
            })
            .last()
    };
    assert!(settled(1).is_some_and(|len| len > 0));
    assert_eq!(settled(32), Some(0));
    assert!(settled(1).is_some_and(|len| len > 0));
}
