//! Policies that weigh acceptance against measured cost, over histories with a known answer.

use std::time::Duration;

use crate::common::{Cost, Fate};
use dsde_policy::{Config, Planned, Policy, SeqId};

fn build(text: &str) -> Box<dyn Policy> {
    text.parse::<Config>().expect("a valid configuration").build()
}

/// A sequence whose draft has this divergence everywhere: its top probability is the exponential of minus that.
fn fate(seq: u64, accepted_max: u32, kld: f32) -> Fate {
    Fate { seq: SeqId(seq), limit: 64, accepted_max, temperature: 0.0, klds: vec![kld] }
}

fn batch(n_sequences: u64, accepted_max: u32, kld: f32) -> Vec<Fate> {
    (0..n_sequences).map(|seq| fate(seq, accepted_max, kld)).collect()
}

/// Milliseconds of a step: 10, half of one per draft round, and so many per row of the target.
fn row_cost(row: f64) -> impl Fn(u32, u32) -> Cost + Copy {
    move |rounds, rows| Cost {
        draft: Duration::from_micros(500) * rounds,
        verify: Duration::from_secs_f64(0.010 + 0.001 * row * f64::from(rows)),
    }
}

/// Plans of the steps `from..to` with the same batch, and the rows of the target in each.
fn run(
    policy: &mut dyn Policy,
    steps: std::ops::Range<u64>,
    fates: &[Fate],
    cost: impl Fn(u32, u32) -> Cost,
) -> Vec<(Vec<Planned>, u32)> {
    let rows = std::cell::Cell::new(0);
    let watched = |rounds, target_rows| {
        rows.set(target_rows);
        cost(rounds, target_rows)
    };
    steps.map(|step| (crate::common::step_at(policy, step, fates, watched), rows.get())).collect()
}

#[test]
fn nightjar_finds_the_best_length_of_every_load() {
    // Alone, everything is accepted and drafts are almost free; in a batch of 16 nothing is accepted and rows cost.
    let mut policy = build("nightjar:k_max=2");
    let (mut alone, mut batched) = ([0; 3], [0; 3]);
    for step in 0..400 {
        let len = run(policy.as_mut(), step..step + 1, &batch(1, 16, 0.1), row_cost(0.0))[0].0[0].len;
        alone[len as usize] += 1;
        let len = run(policy.as_mut(), step..step + 1, &batch(16, 0, 0.1), row_cost(1.0))[0].0[0].len;
        batched[len as usize] += 1;
    }
    assert!(alone[2] > 280 && batched[0] > 280, "plays alone {alone:?}, in a batch {batched:?}");
}

#[test]
fn nightjar_repeats_itself_and_listens_to_its_seed() {
    let lens = |text| -> Vec<u32> {
        let plans = run(build(text).as_mut(), 0..200, &batch(1, 1, 0.1), row_cost(0.1));
        plans.iter().map(|(plan, _)| plan[0].len).collect()
    };
    assert_eq!(lens("nightjar"), lens("nightjar"));
    assert_ne!(lens("nightjar"), lens("nightjar:seed=1"));
}

#[test]
fn faser_drafts_long_for_the_lucky_and_short_for_the_unlucky() {
    for text in ["faser", "faser:choice=gp"] {
        check_luck(text);
    }
}

fn check_luck(text: &str) {
    let mut policy = build(text);
    // One batch; the first sequence accepts everything, the second nothing. Rows cost a twentieth of a step.
    let fates = [fate(0, 64, 0.0), fate(1, 0, 0.0)];
    // A longer and a shorter batch teach what rows cost.
    for step in 0..40 {
        run(policy.as_mut(), step..step + 1, &batch(1 + step % 4, 1, 0.0), row_cost(0.5));
    }
    (0..4).for_each(|seq| policy.forget(SeqId(seq)));
    let plans = run(policy.as_mut(), 40..140, &fates, row_cost(0.5));
    let last = &plans[99].0;
    assert_eq!((last[0].len, last[0].reason), (8, "confidence bound"), "{text}");
    assert_eq!((last[1].len, last[1].reason), (1, "confidence bound"), "{text}");
    // A forgotten sequence begins between them.
    policy.forget(SeqId(1));
    let again = run(policy.as_mut(), 140..141, &fates, row_cost(0.5))[0].0[1].len;
    assert!(again > 1, "{text}: {again}");
}

#[test]
fn faser_trims_what_the_draft_doubts() {
    // The drafts' top probability is exp(-2) = 0.14; rows cost 2 ms each, a step of one row 12.
    let mut policy = build("faser:k_min=4,beta=0");
    for step in 0..40 {
        run(policy.as_mut(), step..step + 1, &batch(1 + step % 4, 1, 0.0), row_cost(2.0));
    }
    // 9 seconds per thousand tokens buy 4.5 rows: 0.14 of them are not one.
    let (plan, rows) = &run(policy.as_mut(), 40..41, &batch(1, 1, 2.0), row_cost(2.0))[0];
    assert_eq!((plan[0].len, *rows), (4, 1));
    let (plan, rows) = &run(policy.as_mut(), 41..42, &batch(1, 1, 0.0), row_cost(2.0))[0];
    assert_eq!((plan[0].len, *rows), (4, 5));
}

#[test]
fn dspark_verifies_what_pays_for_its_row() {
    // Everything the draft proposes has probability 0.8 and is accepted to the fourth position.
    let rows_of = |row: f64| {
        let mut policy = build("dspark");
        let steps = run(policy.as_mut(), 0..30, &batch(1, 4, 0.223), row_cost(row));
        assert!(steps[..16].iter().all(|(plan, _)| plan[0].reason == "probe"));
        assert!(steps[16..].iter().all(|(plan, _)| plan[0].len == 7 && plan[0].reason == "block"));
        steps[29].1
    };
    // Free rows: the whole block and the row that is always there.
    assert_eq!(rows_of(0.0), 8);
    // Drafting takes 3.5 ms, 10 + 5 ms go to the first row, so 18.5 ms; each row another 5 ms. Expected tokens per second:
    // 1 / 18.5 = 54; 1.8 / 23.5 = 77; 2.44 / 28.5 = 86; 2.95 / 33.5 = 88; 3.36 / 38.5 = 87.
    assert_eq!(rows_of(5.0), 4);
    // 1 / 113.5 = 8.8; 1.8 / 213.5 = 8.4.
    assert_eq!(rows_of(100.0), 1);
}

#[test]
fn dspark_learns_that_its_draft_boasts() {
    // Probability 0.9 by the draft; two of three sequences accept one draft and none accepts a second. 10 + 3 * 3.5 ms for the
    // three rows that are always there and the drafting, 3 ms for each further row.
    let mut policy = build("dspark");
    let fates = [fate(0, 1, 0.10536), fate(1, 1, 0.10536), fate(2, 0, 0.10536)];
    let rows: Vec<u32> =
        run(policy.as_mut(), 0..120, &fates, row_cost(3.0)).iter().map(|(_, rows)| *rows).collect();
    // 3 / 22.5; with 2.7, 2.43, 2.19 and 1.97 more 5.7 / 31.5, 8.13 / 40.5, 10.3 / 49.5 and 12.3 / 58.5 = 0.210; then 14.06
    // / 67.5 = 0.208. Four of each.
    assert_eq!(rows[20..100], [15; 80]);
    // After 100 steps the first position is worth 0.66 and the second at most 0.54, together 0.36: 5.0 / 31.5 = 0.158, then 5.3 /
    // 34.5 = 0.154. One of each.
    assert_eq!(rows[100..], [6; 20]);
}

#[test]
fn adaptive_verification_buys_as_many_rows_as_last_steps_survivals_pay_for() {
    // Probability 0.8 by the draft, at first worth sigma(0.5 ln 4 - 0.2) = 0.621; survivals 0.621, 0.385, 0.239, 0.149, ...
    let rows_of = |row: f64| {
        let mut policy = build("adaptive_verification");
        let steps = run(policy.as_mut(), 0..30, &batch(1, 4, 0.22314), row_cost(row));
        assert!(steps[..16].iter().all(|(plan, _)| plan[0].reason == "probe"));
        assert!(steps[16..].iter().all(|(plan, _)| plan[0].len == 7 && plan[0].reason == "block"));
        steps[29].1
    };
    assert_eq!(rows_of(0.0), 8);
    // 3.5 ms for drafting, 10 + 5 for the first row, 5 for each other: 1 / 18.5 = 0.054; 1.62 / 23.5 = 0.069; 2.01 / 28.5 =
    // 0.0704; 2.25 / 33.5 = 0.067.
    assert_eq!(rows_of(5.0), 3);
    // 1 / 113.5 = 0.0088; 1.62 / 213.5 = 0.0076.
    assert_eq!(rows_of(100.0), 1);
}

#[test]
fn adaptive_verification_learns_what_its_draft_is_worth() {
    let rows_with = |accepted_max| -> Vec<u32> {
        let mut policy = build("adaptive_verification");
        let steps = run(policy.as_mut(), 0..1000, &batch(1, accepted_max, 0.22314), row_cost(5.0));
        steps.iter().map(|(_, rows)| *rows).collect()
    };
    // All are accepted: 8 tokens for 53.5 ms are 0.15 per ms, 3 for 28.5 are 0.105.
    assert_eq!(rows_with(64)[900..], [8; 100]);
    // None is: after a fit or two nothing is verified but the whole block once in a while.
    let unlucky = rows_with(0);
    assert_eq!(unlucky[20..100], [3; 80]);
    let n_tests = unlucky[500..].iter().filter(|&&rows| rows == 8).count();
    assert!((4..=5).contains(&n_tests), "{n_tests}");
    assert_eq!(unlucky[500..].iter().filter(|&&rows| rows == 1).count(), 500 - n_tests);
}

#[test]
fn tetris_drafts_its_surplus_only_in_company() {
    let lens = |n| run(build("tetris").as_mut(), 0..1, &batch(n, 4, 0.1), row_cost(0.0))[0].0[0].len;
    assert_eq!([1, 2, 30].map(lens), [3, 5, 5]);
    // 3 rows each, of which the sure sequence takes its whole 5.
    let fates = [fate(0, 9, 0.01), fate(1, 9, 0.9)];
    let rows = run(build("tetris").as_mut(), 0..1, &fates, row_cost(0.0))[0].1;
    assert_eq!(rows, 2 + 6);
}

#[test]
fn adaserve_narrows_its_trees_with_the_load() {
    // 10 ms and 0.25 ms per row: 40 rows at full efficiency. A draft round costs the same at all sizes.
    let mut policy = build("adaserve");
    let mut plan_at = |n| {
        let (plan, rows) = run(policy.as_mut(), 0..300, &batch(n, 2, 0.3), row_cost(0.25)).remove(299);
        (plan[0].len, plan[0].width, rows)
    };
    plan_at(2);
    // 40 / 20 - 1 = 1 level of 4 nodes; a budget of 40 rows, as far as the fit tells.
    let (len, width, rows) = plan_at(20);
    assert_eq!((len, width), (1, 4));
    assert!((36..=46).contains(&rows), "{rows}");
    // 40 / 4 - 1 = 9, clipped to 8 levels.
    let (len, width, rows) = plan_at(4);
    assert_eq!((len, width), (8, 4));
    assert!((36..=46).contains(&rows), "{rows}");
}
