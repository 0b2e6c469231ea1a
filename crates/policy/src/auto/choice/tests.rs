//! Hand-computed lengths, and the search against one that leaves nothing out.

use super::*;
use proptest::prelude::*;

fn candidate(weight: f64, acceptance: f64, len_max: usize) -> Candidate {
    let mut survivals = [0.0; DEPTH_MAX];
    (0..len_max).for_each(|j| survivals[j] = acceptance.powi(j as i32 + 1));
    Candidate { weight, survivals, catch_up: 0.0, row_seconds: 0.0, is_foreseen: false }
}

fn check(candidates: &[Candidate], prices: &Prices, expected: &[u32], rate: f64) {
    let mut lens = Vec::new();
    let best = Search::default().run(candidates, prices, Objective::Rate, &mut lens);
    assert_eq!(lens, expected, "{best:?}");
    assert!((best.value / rate - 1.0).abs() < 1e-9, "expected {rate}, got {best:?}");
}

/// A target pass of 10 s plus `row` per draft row; rounds of 1 s.
fn prices(row: f64) -> Prices {
    Prices {
        target: (0..40).map(|n| 10.0 + row * f64::from(n)).collect(),
        first_round: vec![1.0; 9],
        round: vec![1.0; 9],
    }
}

#[test]
fn lengths_of_hand_computed_rates() {
    // 1.5 / 11, 1.75 / 12, 1.875 / 13: two.
    check(&[candidate(1.0, 0.5, 8)], &prices(0.0), &[2], 1.75 / 12.0);
    // At 5 s per row 1.5 / 16 is below 1 / 10.
    check(&[candidate(1.0, 0.5, 8)], &prices(5.0), &[0], 0.1);
    // One position at most.
    check(&[candidate(1.0, 0.5, 1)], &prices(0.0), &[1], 1.5 / 11.0);
    // 0.9 and 0.2 at 1 s per row: (2 + 0.9 + 0.81 + 0.729 + 0.6561) / (10 + 4 + 4) = 0.283061; a fifth draft lowers it to
    // 5.68559 / 20 = 0.28428, which is more, a sixth to 6.217031 / 22 = 0.28259.
    check(&[candidate(1.0, 0.9, 8), candidate(1.0, 0.2, 8)], &prices(1.0), &[5, 0], 5.68559 / 20.0);
}

#[test]
fn urgency_buys_length() {
    // Of equals, the one with four times the weight gets more.
    let mut lens = Vec::new();
    Search::default().run(
        &[candidate(4.0, 0.5, 8), candidate(1.0, 0.5, 8)],
        &prices(1.0),
        Objective::Rate,
        &mut lens,
    );
    assert!(lens[0] > lens[1], "{lens:?}");
}

#[test]
fn catching_up_has_to_be_paid_for() {
    let behind = Candidate { catch_up: 8.0, ..candidate(1.0, 0.5, 8) };
    check(&[behind], &prices(0.0), &[0], 0.1);
}

#[test]
fn prompts_do_not_make_drafts_cheap() {
    // A step of 110 s, 100 of them for prompts: any token raises its rate, but none is worth 1.5 s at 1 token / s.
    let mixed = Prices {
        target: (0..9).map(|n| 110.0 + 0.5 * f64::from(n)).collect(),
        first_round: vec![1.0; 2],
        round: vec![1.0; 2],
    };
    let one = [candidate(1.0, 0.9, 8)];
    let mut lens = Vec::new();
    Search::default().run(&one, &mixed, Objective::Rate, &mut lens);
    assert_eq!(lens, [8]);
    Search::default().run(&one, &mixed, Objective::Surplus(1.0), &mut lens);
    assert_eq!(lens, [0]);
    // At 0.5 tokens / s 0.9 and 0.81 beat the 0.75 that a draft costs; 0.729 does not.
    Search::default().run(&one, &mixed, Objective::Surplus(0.5), &mut lens);
    assert_eq!(lens, [2]);
}

#[test]
fn a_row_in_a_long_context_has_to_pay_for_it() {
    // Alike but for their contexts: a draft row of the second takes 9 s, nearly a pass, to attend to its own.
    let long = Candidate { row_seconds: 9.0, ..candidate(1.0, 0.8, 8) };
    let mut lens = Vec::new();
    Search::default().run(&[candidate(1.0, 0.8, 8), long], &prices(1.0), Objective::Rate, &mut lens);
    assert!(lens[0] > 0 && lens[1] == 0, "{lens:?}");
}

/// Candidates, prices and objective of a step.
fn step() -> impl Strategy<Value = (Vec<Candidate>, Prices, Objective)> {
    let candidate = (
        1.0f64..4.0,
        prop_oneof![0.05f64..0.99, Just(0.5)],
        1usize..=DEPTH_MAX,
        0.0f64..0.5,
        0.0f64..0.3,
        any::<bool>(),
    )
        .prop_map(|(weight, acceptance, len, catch_up, row_seconds, is_foreseen)| Candidate {
            catch_up,
            row_seconds,
            is_foreseen,
            ..candidate(weight, acceptance, len)
        });
    let candidates = prop::collection::vec(prop_oneof![candidate, Just(self::candidate(1.0, 0.5, 8))], 1..8);
    // With bumps, or so that many heads are equal.
    let target = prop_oneof![
        prop::collection::vec(5.0f64..12.0, 60),
        Just(prices(0.0).target),
        Just(prices(1.0).target)
    ];
    let rounds = prop::collection::vec(prop_oneof![(0.05f64..2.0, 0.05f64..2.0), Just((1.0, 1.0))], 9);
    let price = prop::option::of(0.0f64..2.0);
    (candidates, target, rounds, price).prop_map(|(candidates, target, rounds, price)| {
        let (first_round, round) = rounds.into_iter().unzip();
        (candidates, Prices { target, first_round, round }, price.map_or(Objective::Rate, Objective::Surplus))
    })
}

/// The search without anything left out: sorts all positions, and for every depth tries every head of those within it.
fn every_head(candidates: &[Candidate], prices: &Prices, objective: Objective, lens: &mut Vec<u32>) -> Best {
    let weight: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let seconds = prices.target[0];
    let net = |&(index, i): &(usize, usize)| {
        let candidate: &Candidate = &candidates[i];
        candidate.weight * candidate.survivals[index] - weight / seconds * candidate.row_seconds
    };
    let alive = |i: usize| (0..candidates[i].len_max() as usize).map(move |index| (index, i));
    let mut ranking: Vec<(usize, usize)> = (0..candidates.len()).flat_map(alive).collect();
    ranking.sort_by(|a, b| net(b).total_cmp(&net(a)).then(a.cmp(b)));
    let within = |depth: usize| ranking.iter().copied().filter(move |&(index, _)| index < depth);
    let mut best =
        Best { value: objective.value(weight, seconds), tokens: weight, seconds, n_drafts: 0, depth: 0 };
    for depth in 1..=DEPTH_MAX {
        let mut per_level = [0; DEPTH_MAX];
        let (mut tokens, mut drafting, mut attending) = (weight, 0.0, 0.0);
        for (n, (index, i)) in (1..prices.target.len()).zip(within(depth)) {
            let candidate = &candidates[i];
            if !candidate.is_foreseen {
                per_level[index] += 1;
                drafting += added(prices, index as u32, per_level[index]);
                drafting += if index == 0 { candidate.catch_up } else { 0.0 };
            }
            tokens += candidate.weight * candidate.survivals[index];
            attending += candidate.row_seconds;
            let seconds = drafting + attending + prices.target[n];
            let value = objective.value(tokens, seconds);
            if value > best.value {
                best = Best { value, tokens, seconds, n_drafts: n, depth };
            }
        }
    }
    *lens = vec![0; candidates.len()];
    within(best.depth).take(best.n_drafts).for_each(|(index, i)| lens[i] = index as u32 + 1);
    best
}

proptest! {
    /// What is left out changes nothing, whatever bumps the costs have and wherever the search before ended.
    #[test]
    fn heads_that_could_be_better_are_tried(steps in prop::collection::vec(step(), 1..4)) {
        let mut search = Search::default();
        for (candidates, prices, objective) in steps {
            let (mut lens, mut expected_lens) = (Vec::new(), Vec::new());
            let best = search.run(&candidates, &prices, objective, &mut lens);
            let expected = every_head(&candidates, &prices, objective, &mut expected_lens);
            prop_assert_eq!((best, lens), (expected, expected_lens));
        }
    }

    /// Against all lengths of three sequences up to three tokens.
    #[test]
    fn equal_weights_get_the_best_of_all_lengths(
        acceptances in prop::collection::vec(0.05f64..0.95, 3),
        row in 0.0f64..4.0,
        round in 0.1f64..4.0,
    ) {
        let candidates: Vec<Candidate> = acceptances.iter().map(|&a| candidate(1.0, a, 3)).collect();
        let prices = Prices { target: (0..10).map(|n| 10.0 + row * f64::from(n)).collect(), first_round: vec![round; 4], round: vec![round; 4] };
        let best = Search::default().run(&candidates, &prices, Objective::Rate, &mut Vec::new());
        for lens in (0..64u32).map(|i| [i % 4, i / 4 % 4, i / 16]) {
            let tokens: f64 = 3.0 + candidates.iter().zip(lens).map(|(c, l)| c.survivals[..l as usize].iter().sum::<f64>()).sum::<f64>();
            let depth = f64::from(lens.into_iter().max().unwrap_or(0));
            let seconds = 10.0 + row * f64::from(lens.iter().sum::<u32>()) + round * depth;
            prop_assert!(best.value >= tokens / seconds * (1.0 - 1e-9), "{lens:?} {best:?}");
        }
    }
}
