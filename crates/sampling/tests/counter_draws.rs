//! The production draws, tested as statistics: the whole way from logits to emitted tokens at temperature 0.8.
//!
//! Every test is Pearson's chi-square of N = 20 000 runs against the exact law of the target. Cells with fewer than five
//! expected runs are pooled. The bound is the Wilson-Hilferty approximation at four sigma: a correct sampler exceeds it with
//! probability 3e-5. Seeds are `0..N`, so a result never changes from run to run.

use std::collections::BTreeMap;

use dsde_sampling::law::{self, Drafted, Model, Models};
use dsde_sampling::{
    CounterDraws, Draws, Params, Proposal, Purpose, Rule, Scratch, Stream, Weights, rng, softmax,
};

const N: u32 = 20_000;
const SIGMAS: f64 = 4.0;

/// A model whose processed distributions depend on the last token, as a table.
fn model(seed: u64, vocab_len: u32, temperature: f32) -> impl Fn(&[u32]) -> Vec<f32> {
    let params = Params { temperature, top_p: 0.98, ..Params::greedy() };
    let row = |last| {
        let logit = |token| 4.0 * rng::uniform(own(seed), last, Purpose::Draft, token) as f32;
        let mut row: Vec<f32> = (0..vocab_len).map(logit).collect();
        softmax(&mut row, &params, &mut Scratch::default());
        row
    };
    let rows: Vec<Vec<f32>> = (0..=vocab_len).map(row).collect();
    move |prefix| rows[prefix.last().map_or(0, |token| *token as usize + 1)].clone()
}

/// A value of chi-square and what it should not exceed.
#[derive(Debug)]
struct Statistic {
    chi_square: f64,
    bound: f64,
}

/// Compares what `emit(seed)` yields with the law of the first `len` tokens of `target`.
fn statistic(target: Model<'_>, len: usize, emit: impl Fn(u64) -> Vec<u32>) -> Statistic {
    let mut counts = BTreeMap::new();
    for seed in 0..N {
        let mut tokens = emit(u64::from(seed));
        tokens.truncate(len);
        *counts.entry(tokens).or_insert(0_u32) += 1;
    }
    let mut pooled = (0.0, 0.0);
    let mut cells = Vec::new();
    for (tokens, probability) in law::of_target(target, len) {
        let expected = probability * f64::from(N);
        let got = f64::from(counts.remove(&tokens).unwrap_or(0));
        if expected < 5.0 {
            pooled = (pooled.0 + expected, pooled.1 + got);
        } else {
            cells.push((expected, got));
        }
    }
    assert!(counts.is_empty(), "impossible tokens: {counts:?}");
    cells.extend((pooled.0 >= 5.0).then_some(pooled));
    let share = |(expected, got): &(f64, f64)| (got - expected).powi(2) / expected;
    Statistic { chi_square: cells.iter().map(share).sum(), bound: chi_square_bound(cells.len() as f64 - 1.0) }
}

fn check(name: &str, target: Model<'_>, len: usize, emit: impl Fn(u64) -> Vec<u32>) {
    let statistic = statistic(target, len, emit);
    assert!(statistic.chi_square < statistic.bound, "{name}: {statistic:?}");
}

/// Wilson and Hilferty (1931): the cube root of chi-square over its degrees of freedom is nearly normal.
fn chi_square_bound(degrees: f64) -> f64 {
    let variance = 2.0 / (9.0 * degrees);
    degrees * (1.0 - variance + SIGMAS * variance.sqrt()).powi(3)
}

/// Emits at least `len` tokens in steps of up to `draft_len` drafted ones; `draws` answers a step that begins at a position.
fn generated<D: Draws>(
    models: Models<'_>,
    rule: Rule,
    draft_len: u32,
    len: usize,
    draws: impl Fn(u32) -> D,
) -> Vec<u32> {
    let mut tokens = Vec::new();
    while tokens.len() < len {
        let mut draws = draws(tokens.len() as u32);
        let drafted = models.drafted(&tokens, &mut draws, |_, drafted| drafted < draft_len);
        tokens.extend(models.emitted(&tokens, &drafted, rule, &mut draws));
    }
    tokens
}

/// The stream of sequence `number`.
fn own(number: u64) -> Stream {
    Stream::Own { key: 0, number }
}

/// Production draws of sequence `number`.
fn production(number: u64) -> impl Fn(u32) -> CounterDraws {
    move |position| CounterDraws { stream: own(number), position }
}

/// Production draws of a request with a seed.
fn seeded(seed: u64) -> impl Fn(u32) -> CounterDraws {
    move |position| CounterDraws { stream: Stream::Seeded { seed, choice: 0 }, position }
}

#[test]
fn the_first_token_follows_the_target() {
    let (target, draft) = (model(1, 50, 0.8), model(2, 50, 0.8));
    let models = Models { target: &target, draft: &draft };
    for rule in [Rule::TokenWise, Rule::Block] {
        for draft_len in [0, 1, 4] {
            check(&format!("{rule:?}, {draft_len}"), &target, 1, |seed| {
                generated(models, rule, draft_len, 1, production(seed))
            });
        }
    }
}

#[test]
fn tokens_of_later_steps_follow_the_target() {
    // Three tokens of a vocabulary of six: 216 cells. Draws of different steps must be independent for this to hold, in
    // particular under the block rule, whose verdict depends on draws behind the last accepted token.
    let (target, draft) = (model(3, 6, 0.8), model(4, 6, 0.8));
    let models = Models { target: &target, draft: &draft };
    for rule in [Rule::TokenWise, Rule::Block] {
        check(&format!("{rule:?}"), &target, 3, |seed| generated(models, rule, 3, 3, production(seed)));
    }
}

#[test]
fn guesses_that_were_not_sampled_change_nothing() {
    let target = model(5, 50, 0.8);
    let models = Models { target: &target, draft: &target };
    let plain = |seed| generated(models, Rule::Block, 0, 4, production(seed));
    let guessed = |seed| {
        let mut tokens = Vec::new();
        while tokens.len() < 4 {
            let mut draws = production(seed)(tokens.len() as u32);
            let mut proposal = Proposal::new();
            let likeliest = dsde_sampling::argmax(&target(&tokens));
            [likeliest, 7, 8].into_iter().for_each(|token| proposal.push_chain(token));
            let drafted = Drafted { proposal, rows: None };
            tokens.extend(models.emitted(&tokens, &drafted, Rule::Block, &mut draws));
        }
        tokens.truncate(4);
        tokens
    };
    check("guessed", &target, 1, guessed);
    for seed in 0..500 {
        assert_eq!(guessed(seed), plain(seed), "seed {seed}");
    }
}

/// What a seed draws with `draft_len` guesses per step, and how many of them were right.
fn seeded_run(models: Models<'_>, draft_len: u32, len: usize, seed: u64) -> (Vec<u32>, usize) {
    let (mut tokens, mut n_accepted) = (Vec::new(), 0);
    while tokens.len() < len {
        let mut draws = seeded(seed)(tokens.len() as u32);
        let drafted = models.drafted(&tokens, &mut draws, |_, drafted| drafted < draft_len);
        let guessed = Drafted { rows: None, ..drafted };
        let emitted = models.emitted(&tokens, &guessed, Rule::Block, &mut draws);
        n_accepted += emitted.len() - 1;
        tokens.extend(emitted);
    }
    tokens.truncate(len);
    (tokens, n_accepted)
}

#[test]
fn with_a_seed_guesses_change_nothing_and_the_law_holds() {
    let (target, draft) = (model(3, 6, 0.8), model(4, 6, 0.8));
    let models = Models { target: &target, draft: &draft };
    check("seeded", &target, 3, |seed| seeded_run(models, 2, 3, seed).0);
    for seed in 0..500 {
        let plain = seeded_run(models, 0, 12, seed).0;
        assert!((1..5).all(|draft_len| seeded_run(models, draft_len, 12, seed).0 == plain), "seed {seed}");
    }
    // A draft that is the target always guesses right.
    let perfect = Models { target: &target, draft: &target };
    assert_eq!(seeded_run(perfect, 3, 12, 1).1, 9);
}

/// Draws keyed by absolute position and purpose alone, which looks natural and is wrong.
struct Positional(CounterDraws);

impl Draws for Positional {
    fn accept(&mut self, index: u32, probability: f64) -> bool {
        rng::uniform(self.0.stream, self.0.position + index, Purpose::Accept, 0) < probability
    }

    fn token(&mut self, purpose: Purpose, index: u32, weights: Weights<'_>) -> u32 {
        weights.pick(rng::uniform(self.0.stream, self.0.position + index, purpose, 0))
    }
}

#[test]
fn keys_that_ignore_the_step_are_caught() {
    let (target, draft) = (|_: &[u32]| vec![1.0 / 3.0, 2.0 / 3.0], |_: &[u32]| vec![2.0 / 3.0, 1.0 / 3.0]);
    let models = Models { target: &target, draft: &draft };
    let statistic = statistic(&target, 3, |seed| {
        generated(models, Rule::Block, 3, 3, |position| Positional(production(seed)(position)))
    });
    assert!(statistic.chi_square > statistic.bound, "{statistic:?}");
}

#[test]
fn a_slightly_wrong_target_is_caught() {
    let (target, other) = (model(1, 50, 0.8), model(1, 50, 0.77));
    let models = Models { target: &other, draft: &other };
    let statistic = statistic(&target, 1, |seed| generated(models, Rule::Block, 1, 1, production(seed)));
    assert!(statistic.chi_square > statistic.bound, "{statistic:?}");
}
