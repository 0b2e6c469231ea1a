//! With a seed, sampled text is a function of the request: that of plain decoding by itself, under every policy, drafter and
//! memory size, whoever else runs and whoever has the same seed. Without one, no two sequences share a draw.

use std::collections::BTreeSet;

use crate::common::*;
use dsde_engine::{Config, Request};
use dsde_policy::registry;
use dsde_sampling::Params;

const TOKENS: u32 = 30;

fn sampled(prompt: Vec<u32>, seed: Option<u64>) -> Request {
    Request::new(prompt, Params { temperature: 1.0, seed, ..Params::greedy() }, TOKENS)
}

/// What a request says by itself, without speculation.
fn alone(request: &Request) -> Vec<Vec<u32>> {
    let mut engine = engine(Config::default(), "off", 400);
    engine.submit(request.clone()).unwrap();
    run(&mut engine).into_values().map(|output| output.tokens).collect()
}

/// Pairs that share seed and prompt, seed alone, prompt alone or nothing, and one of two choices.
fn requests() -> Vec<Request> {
    let (one, other) = (prompt(1, 9), prompt(2, 14));
    let cases = [(&one, 42), (&one, 42), (&other, 42), (&other, 7), (&one, 0), (&other, u64::MAX)];
    let mut requests: Vec<Request> =
        cases.into_iter().map(|(prompt, seed)| sampled(prompt.clone(), Some(seed))).collect();
    requests[3].n_choices = 2;
    requests
}

/// * `beside`: whether requests without a seed run, too.
fn check(config: Config, policy: &str, n_blocks: u32, beside: bool) -> u32 {
    let requests = requests();
    let mut engine = engine(config, policy, n_blocks);
    let mut ids = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        ids.push(engine.submit(request.clone()).unwrap());
        if beside {
            engine.submit(sampled(prompt(i as u32, 11), None)).unwrap();
        }
    }
    let outputs = run(&mut engine);
    let mut accepted = 0;
    for (id, request) in ids.iter().zip(&requests) {
        for (choice, expected) in (0..).zip(alone(request)) {
            let output = &outputs[&(*id, choice)];
            assert_eq!(output.tokens, expected, "{policy}, {n_blocks} blocks, {request:?}, choice {choice}");
            accepted += output.finished.as_ref().unwrap().timeline.accepted;
        }
    }
    accepted
}

fn policies() -> Vec<String> {
    let names = registry::ENTRIES.iter().map(|entry| entry.name);
    let mut policies: Vec<String> = names.filter(|name| *name != "fixed").map(str::to_owned).collect();
    let others =
        ["fixed:k=1", "fixed:k=5", "tetris:base_k=1,extra=1", "adaserve:w_max=1", "beams:3x3", "mixed"];
    policies.extend(others.map(str::to_owned));
    policies
}

#[test]
fn a_seed_gives_the_same_text_under_every_policy() {
    for policy in policies() {
        for (n_blocks, beside) in [(400, false), (400, true), (22, true)] {
            let accepted = check(model_config(), &policy, n_blocks, beside);
            assert_eq!(accepted > 0, policy != "off", "{policy} is not vacuous");
        }
    }
}

#[test]
fn a_seed_gives_the_same_text_with_repetitions() {
    for config in suffix_configs() {
        for policy in ["fixed:k=4", "beams:3x3", "auto", "mixed"] {
            assert!(check(config, policy, 400, true) > 0, "{policy} is not vacuous");
        }
    }
}

#[test]
fn a_seed_gives_the_same_text_with_two_drafters() {
    for policy in ["choosy:fixed:k=4", "choosy:beams:3x3", "choosy:mixed", "auto", "dsde"] {
        for n_blocks in [400, 60] {
            assert!(check(either_config(), policy, n_blocks, true) > 0, "{policy} is not vacuous");
        }
    }
}

#[test]
fn answers_that_share_a_seed_differ_by_their_number() {
    // Two prompts of a request with two choices each, as a server numbers them.
    let mut engine = engine(model_config(), "fixed:k=3", 400);
    for first_choice in [0, 2] {
        let request = sampled(prompt(1, 9), Some(42));
        engine.submit(Request { n_choices: 2, first_choice, ..request }).unwrap();
    }
    let texts: BTreeSet<Vec<u32>> = run(&mut engine).into_values().map(|output| output.tokens).collect();
    assert_eq!(texts.len(), 4);
}

#[test]
fn requests_without_a_seed_never_repeat() {
    let mut engine = engine(model_config(), "fixed:k=3", 400);
    for _ in 0..12 {
        engine.submit(Request { n_choices: 2, ..sampled(prompt(1, 9), None) }).unwrap();
    }
    let texts: BTreeSet<Vec<u32>> = run(&mut engine).into_values().map(|output| output.tokens).collect();
    assert_eq!(texts.len(), 24);
    // Another key draws something else; the same one draws the same.
    let of_key = |seed| {
        let mut engine = crate::common::engine(Config { seed, ..model_config() }, "fixed:k=3", 400);
        engine.submit(sampled(prompt(1, 9), None)).unwrap();
        run(&mut engine).into_values().map(|output| output.tokens).collect::<Vec<_>>()
    };
    assert_eq!(of_key(0), of_key(0));
    assert_ne!(of_key(0), of_key(1));
}
