//! The output law, proved: every sequence of draws over tiny vocabularies, every rule, exact probabilities.

use dsde_sampling::law::{self, Drafted, Law, Models, Script};
use dsde_sampling::{Params, Proposal, Purpose, Rule, Scratch, Stream, branches, rng};

/// Rows are `f32`, so laws agree to a few times 6e-8 per token.
const TOLERANCE: f64 = 1e-6;

const RULES: [Rule; 2] = [Rule::TokenWise, Rule::Block];

/// A model as a table: a distribution that depends on the whole prefix.
///
/// * `zeros`: share of tokens that are impossible.
fn random_model(seed: u64, vocab_len: u32, zeros: f64) -> impl Fn(&[u32]) -> Vec<f32> {
    let stream = Stream::Own { key: seed, number: 0 };
    move |prefix| {
        let state = prefix.iter().fold(1, |state, token| state * (vocab_len + 1) + token + 1);
        let weight = |token| {
            let is_zero =
                rng::uniform(stream, state, Purpose::Accept, token) < zeros && token != state % vocab_len;
            // Cubes make some tokens rare.
            let weight = rng::uniform(stream, state, Purpose::Draft, token).powi(3) + 1e-3;
            if is_zero { 0.0 } else { weight }
        };
        let weights: Vec<f64> = (0..vocab_len).map(weight).collect();
        let mass: f64 = weights.iter().sum();
        weights.iter().map(|w| (w / mass) as f32).collect()
    }
}

/// Pairs of target and draft rows that do not depend on the prefix.
fn constant_pairs() -> Vec<[Vec<f32>; 2]> {
    vec![
        [vec![1.0 / 3.0, 2.0 / 3.0], vec![2.0 / 3.0, 1.0 / 3.0]],
        [vec![0.7, 0.3], vec![0.5, 0.5]],
        // Equal.
        [vec![0.2, 0.3, 0.5], vec![0.2, 0.3, 0.5]],
        // Disjoint supports.
        [vec![0.5, 0.5, 0.0], vec![0.0, 0.0, 1.0]],
        // The draft knows fewer tokens, and more.
        [vec![0.25, 0.25, 0.5], vec![0.0, 0.5, 0.5]],
        [vec![0.0, 0.5, 0.5], vec![0.25, 0.25, 0.5]],
        // Certain target, certain draft.
        [vec![0.0, 1.0], vec![0.5, 0.5]],
        [vec![0.6, 0.4], vec![1.0, 0.0]],
        [vec![0.1, 0.2, 0.3, 0.4], vec![0.4, 0.3, 0.2, 0.1]],
    ]
}

/// Calls `visit` with many pairs of models and their vocabulary.
fn for_each_pair(mut visit: impl FnMut(&str, Models<'_>, u32)) {
    for [p, q] in constant_pairs() {
        let (target, draft) = (|_: &[u32]| p.clone(), |_: &[u32]| q.clone());
        let models = Models { target: &target, draft: &draft };
        visit(&format!("target {p:?}, draft {q:?}"), models, p.len() as u32);
    }
    for seed in 0..24 {
        let vocab_len = 2 + (seed % 3) as u32;
        let zeros = [0.0, 0.4][(seed / 3 % 2) as usize];
        let target = random_model(seed, vocab_len, zeros);
        let draft = random_model(seed + 1000, vocab_len, zeros);
        let models = Models { target: &target, draft: &draft };
        visit(&format!("seed {seed}"), models, vocab_len);
    }
}

/// Longest chain that is enumerated.
const LEN_MAX: u32 = 3;

fn check(context: &str, models: Models<'_>, len: u32, step: impl FnMut(&mut Script) -> Vec<u32>) {
    let got = law::of_emission(models.target, len as usize + 1, step);
    let distance = law::distance(&got, &law::of_target(models.target, len as usize + 1));
    assert!(distance < TOLERANCE, "{context}: off by {distance}");
}

#[test]
fn sampled_chains_follow_the_target() {
    for_each_pair(|name, models, _| {
        for rule in RULES {
            for len in 0..=LEN_MAX {
                check(&format!("{rule:?}, {len} drafted, {name}"), models, len, |script| {
                    let drafted = models.drafted(&[], script, |_, drafted| drafted < len);
                    models.emitted(&[], &drafted, rule, script)
                });
            }
        }
    });
}

#[test]
fn several_steps_follow_the_target() {
    let (target, draft) = (random_model(1, 2, 0.0), random_model(2, 2, 0.0));
    let models = Models { target: &target, draft: &draft };
    for rule in RULES {
        check(&format!("{rule:?}"), models, 3, |script| {
            let mut emitted = Vec::new();
            while emitted.len() < 4 {
                let drafted = models.drafted(&emitted, script, |_, len| len < 2);
                emitted.extend(models.emitted(&emitted, &drafted, rule, script));
            }
            emitted
        });
    }
}

#[test]
fn stopping_by_the_drafts_distribution_follows_the_target() {
    for_each_pair(|name, models, _| {
        for rule in RULES {
            check(&format!("{rule:?}, {name}"), models, LEN_MAX, |script| {
                let drafted = models.drafted(&[], script, |row, len| {
                    let top = row.iter().copied().fold(0.0, f32::max);
                    len < LEN_MAX && (len == 0 || top > 0.55)
                });
                models.emitted(&[], &drafted, rule, script)
            });
        }
    });
}

/// Every tree below: nodes that were not sampled.
fn fixed_proposals(vocab_len: u32) -> Vec<Proposal> {
    let chain = |tokens: &[u32]| {
        let mut proposal = Proposal::new();
        tokens.iter().for_each(|&token| proposal.push_chain(token));
        proposal
    };
    let mut tree = Proposal::new();
    for (token, parent) in [(0, None), (1, None), (vocab_len - 1, Some(0)), (0, Some(1)), (0, Some(0))] {
        tree.push(token, parent);
    }
    vec![chain(&[]), chain(&[1]), chain(&[0, 1, 0]), tree]
}

#[test]
fn guesses_that_were_not_sampled_follow_the_target() {
    for_each_pair(|name, models, vocab_len| {
        for proposal in fixed_proposals(vocab_len) {
            let drafted = Drafted { proposal, rows: None };
            check(&format!("{drafted:?}, {name}"), models, 3, |script| {
                models.emitted(&[], &drafted, Rule::Block, script)
            });
        }
    });
}

#[test]
fn sampled_trees_follow_the_target() {
    for_each_pair(|name, models, _| {
        check(name, models, 2, |script| {
            // Two independent guesses side by side, one of them continued.
            let first = models.drafted(&[], script, |_, len| len < 2);
            let second = models.drafted(&[], script, |_, len| len < 1);
            let mut proposal = first.proposal;
            proposal.push(second.proposal.tokens()[0], None);
            let rows = Some([first.rows.unwrap(), second.rows.unwrap()].concat());
            models.emitted(&[], &Drafted { proposal, rows }, Rule::Block, script)
        });
    });
}

/// Grows a tree of at most `len` levels by beam search over the draft's path probability.
///
/// * `keep_drafting`: asked after each level with the probability of its paths, best first.
fn beam_tree(models: Models<'_>, len: u32, width: usize, keep_drafting: impl Fn(&[f32]) -> bool) -> Proposal {
    let params = Params { temperature: 1.0, ..Params::greedy() };
    let mut tree = Proposal::new();
    let mut level = vec![(None, 0.0)];
    for _ in 0..len {
        let mut paths: Vec<(Option<u32>, u32, f32)> = Vec::new();
        for &(parent, before) in &level {
            let prefix = parent.map_or_else(Vec::new, |node| tree.path(node));
            let mut row: Vec<f32> = (models.draft)(&prefix).iter().map(|p| p.ln()).collect();
            let tokens = branches(&mut row, &params, width as u32, &mut Scratch::default());
            paths.extend(tokens.into_iter().map(|(token, log_prob)| (parent, token, before + log_prob)));
        }
        paths.retain(|path| path.2 > f32::NEG_INFINITY);
        paths.sort_by(|a, b| b.2.total_cmp(&a.2));
        paths.truncate(width);
        level = paths.iter().map(|&(parent, token, path)| (Some(tree.push(token, parent)), path)).collect();
        let probabilities: Vec<f32> = level.iter().map(|(_, path)| path.exp()).collect();
        if !keep_drafting(&probabilities) {
            break;
        }
    }
    tree
}

#[test]
fn beam_trees_follow_the_target() {
    for_each_pair(|name, models, _| {
        for (len, width) in [(1, 2), (2, 2), (3, 2), (2, 3), (3, 4)] {
            let proposal = beam_tree(models, len, width, |_| true);
            let drafted = Drafted { proposal, rows: None };
            check(&format!("{len} x {width}, {name}"), models, len, |script| {
                models.emitted(&[], &drafted, Rule::Block, script)
            });
        }
    });
}

#[test]
fn stopping_and_trimming_a_tree_by_all_that_is_in_it_follows_the_target() {
    for_each_pair(|name, models, vocab_len| {
        // Both rules would be wrong in a sampled chain: they read the probabilities and even the tokens of what they cut.
        let mut proposal = beam_tree(models, 3, 3, |level| level.iter().sum::<f32>() > 0.4);
        let is_last = |&token: &u32| token + 1 == vocab_len;
        let len = proposal.tokens().iter().position(is_last).unwrap_or(proposal.len() as usize);
        proposal.truncate(len as u32);
        let drafted = Drafted { proposal, rows: None };
        check(name, models, 3, |script| models.emitted(&[], &drafted, Rule::Block, script));
    });
}

#[test]
fn a_level_of_the_whole_vocabulary_is_always_accepted() {
    for_each_pair(|name, models, vocab_len| {
        let proposal = beam_tree(models, 1, vocab_len as usize, |_| true);
        // A token that the draft finds impossible is no node.
        let n_possible = (models.draft)(&[]).iter().filter(|p| **p > 0.0).count();
        assert_eq!(proposal.len() as usize, n_possible, "{name}");
        let covered: f64 =
            proposal.tokens().iter().map(|&t| f64::from((models.target)(&[])[t as usize])).sum();
        let drafted = Drafted { proposal, rows: None };
        let mut mean = 0.0;
        law::for_each_outcome(
            |script| models.verdict(&[], &drafted, Rule::Block, script).accepted(),
            |accepted, probability| mean += f64::from(accepted) * probability,
        );
        assert!((mean - covered).abs() < TOLERANCE, "{name}: {mean} of {covered}");
    });
}

#[test]
fn greedy_output_is_the_targets_whatever_was_guessed() {
    let target = random_model(5, 3, 0.0);
    let best = |prefix: &[u32]| dsde_sampling::argmax(&target(prefix));
    let plain: Vec<u32> = (0..4).fold(Vec::new(), |mut tokens, _| {
        tokens.push(best(&tokens));
        tokens
    });
    // All chains of three tokens of a vocabulary of three: 27.
    for code in 0..27 {
        let mut proposal = Proposal::new();
        [code / 9, code / 3 % 3, code % 3].into_iter().for_each(|token| proposal.push_chain(token));
        let rows: Vec<f32> = (0..=3).flat_map(|len| target(&proposal.tokens()[..len])).collect();
        let evidence = dsde_sampling::Evidence {
            proposal: &proposal,
            target: dsde_sampling::Rows::new(&rows, 3),
            draft: None,
        };
        let mut draws =
            dsde_sampling::CounterDraws { stream: Stream::Own { key: 0, number: 0 }, position: 0 };
        let verdict = dsde_sampling::verify(&Params::greedy(), Rule::Block, &evidence, &mut draws);
        let emitted = verdict.emitted(&proposal);
        let n_right = proposal.tokens().iter().zip(&plain).take_while(|(a, b)| a == b).count();
        assert_eq!(emitted, plain[..=n_right], "{proposal:?}");
        assert_eq!(verdict.is_bonus, n_right == 3);
    }
}

/// Mean number of accepted tokens when `len` are drafted.
fn mean_accepted(models: Models<'_>, len: u32, rule: Rule) -> f64 {
    let mut mean = 0.0;
    law::for_each_outcome(
        |script| {
            let drafted = models.drafted(&[], script, |_, drafted| drafted < len);
            models.verdict(&[], &drafted, rule, script).accepted()
        },
        |accepted, probability| mean += f64::from(accepted) * probability,
    );
    mean
}

#[test]
fn block_verification_accepts_at_least_as_much() {
    for_each_pair(|name, models, _| {
        for len in 1..=LEN_MAX {
            let [token, block] = RULES.map(|rule| mean_accepted(models, len, rule));
            assert!(block > token - TOLERANCE, "{name}: {block} after {token}");
            if len == 1 {
                assert!((block - token).abs() < TOLERANCE, "{name}: {block} is not {token}");
            }
        }
    });
}

#[test]
fn two_opposed_coins_accept_ten_and_eleven_ninths() {
    // Each position accepts 1 - TV = 2/3. Token by token: 2/3 + (2/3)^2 = 10/9.
    // As a block, by drafted pair (probability, accepted): 00 (4/9, 2/4), 01 (2/9, 2), 10 (2/9, 1 + 1/2), 11 (1/9, 2):
    // (2 + 4 + 3 + 2) / 9 = 11/9.
    let (target, draft) = (|_: &[u32]| vec![1.0 / 3.0, 2.0 / 3.0], |_: &[u32]| vec![2.0 / 3.0, 1.0 / 3.0]);
    let models = Models { target: &target, draft: &draft };
    for (rule, expected) in [(Rule::TokenWise, 10.0 / 9.0), (Rule::Block, 11.0 / 9.0)] {
        let got = mean_accepted(models, 2, rule);
        assert!((got - expected).abs() < TOLERANCE, "{rule:?}: {got}");
    }
}

/// Target (0.7, 0.3), draft (0.5, 0.5), one token drafted; `step` decides what becomes of it.
fn biased_coin(mut step: impl FnMut(Models<'_>, Drafted, &mut Script) -> Vec<u32>) -> Law {
    let (target, draft) = (|_: &[u32]| vec![0.7, 0.3], |_: &[u32]| vec![0.5, 0.5]);
    let models = Models { target: &target, draft: &draft };
    law::of_emission(&target, 1, |script| {
        let drafted = models.drafted(&[], script, |_, len| len < 1);
        step(models, drafted, script)
    })
}

#[test]
fn trimming_by_the_drawn_token_is_caught() {
    // Token 0 is verified and always accepted (0.7 > 0.5), token 1 is dropped before verification and the target draws:
    // 1/2 + 1/2 * 0.7 = 0.85 instead of 0.7.
    let trimmed = biased_coin(|models, mut drafted, script| {
        if drafted.proposal.tokens() == [1] {
            drafted.proposal.clear();
        }
        models.emitted(&[], &drafted, Rule::TokenWise, script)
    });
    assert!((trimmed[&vec![0]] - 0.85).abs() < TOLERANCE, "{trimmed:?}");
    let fair = biased_coin(|models, drafted, script| models.emitted(&[], &drafted, Rule::TokenWise, script));
    assert!((fair[&vec![0]] - 0.7).abs() < TOLERANCE, "{fair:?}");
    assert!((law::distance(&trimmed, &fair) - 0.15).abs() < TOLERANCE);
}

#[test]
fn trimming_by_a_row_behind_the_token_is_caught() {
    // The row behind token 0 is certain and the row behind token 1 is not: a rule that keeps a token for the row *behind*
    // it looks at the token after all.
    let draft = |prefix: &[u32]| {
        if prefix == [0] { vec![1.0, 0.0] } else { vec![0.5, 0.5] }
    };
    let trimmed = biased_coin(|models, mut drafted, script| {
        let row_behind = draft(drafted.proposal.tokens());
        if row_behind[0] < 0.9 {
            drafted.proposal.clear();
        }
        models.emitted(&[], &drafted, Rule::TokenWise, script)
    });
    assert!((trimmed[&vec![0]] - 0.85).abs() < TOLERANCE, "{trimmed:?}");
}

#[test]
fn a_wrong_draft_distribution_is_caught() {
    // Claimed (0.7, 0.3), drawn from (0.5, 0.5): everything is accepted, so token 0 comes out half the time.
    let claimed = biased_coin(|models, mut drafted, script| {
        drafted.rows = Some(vec![vec![0.7, 0.3]]);
        models.emitted(&[], &drafted, Rule::Block, script)
    });
    assert!((claimed[&vec![0]] - 0.5).abs() < TOLERANCE, "{claimed:?}");
}
