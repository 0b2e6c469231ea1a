//! A draft that reads the target's states: what it guessed behind a proposal it forgets, and reads again what was accepted.
//!
//! The scripted executor fails as soon as a known token counts as read that was read with a guess.

use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{Config, Request, Script, ScriptedExecutor, Shape, StepTrace};
use dsde_sampling::{Params, Rule};

const TOKENS: u32 = 40;

const POLICIES: [&str; 16] = [
    "fixed:k=1",
    "fixed:k=8",
    "dsde",
    "adaedl",
    "tetris",
    "faser:overlap=4,k_max=3",
    "faser:depth=0.5",
    "ddd",
    "adaserve",
    "beams:4x3",
    "fickle:4x3",
    "mixed",
    "pruning",
    "ahead:4:fixed:k=4",
    "ahead:3:mixed",
    "auto",
];

fn executor(n_blocks: u32) -> ScriptedExecutor {
    let shape = Shape { draft_reads_target: true, ..shape(n_blocks) };
    ScriptedExecutor::new(Script::default(), shape, Rule::default())
}

/// Runs prompts of 1 to 45 tokens with two choices each; returns how many sequences were preempted.
fn check(config: Config, policy: &str, n_blocks: u32) -> u32 {
    let mut engine = engine_of(config, policy, executor(n_blocks));
    let prompts: Vec<Vec<u32>> = (0..12).map(|i| prompt(i / 2, 1 + 4 * i)).collect();
    let request = |prompt: &Vec<u32>| Request { n_choices: 2, ..greedy(prompt.clone(), TOKENS) };
    let ids: Vec<_> = prompts.iter().map(|prompt| engine.submit(request(prompt)).unwrap()).collect();
    let outputs = run(&mut engine);
    let (mut accepted, mut preemptions) = (0, 0);
    for (id, prompt) in ids.iter().zip(&prompts) {
        let expected = Script::default().greedy_continuation(prompt, TOKENS as usize);
        for choice in 0..2 {
            let output = &outputs[&(*id, choice)];
            assert_eq!(output.tokens, expected, "{policy}, {n_blocks} blocks, {config:?}");
            let timeline = output.finished.as_ref().unwrap().timeline;
            accepted += timeline.accepted;
            preemptions += timeline.preemptions;
        }
    }
    assert!(accepted > 0, "{policy} speculates");
    preemptions
}

#[test]
fn guesses_never_count_as_read() {
    for policy in POLICIES {
        for sequences_max in [1, 5, 32] {
            check(Config { sequences_max, ..model_config() }, policy, 400);
        }
        for prefix_cache in [false, true] {
            let config = Config { rows_max: 7, sequences_max: 7, prefix_cache, ..model_config() };
            assert!(check(config, policy, 24) > 0, "{policy}: memory was tight");
        }
    }
}

/// Of one sequence that drafts 4 tokens per step: how many rows the first round of a step reads.
#[test]
fn accepted_tokens_are_read_again_and_nothing_runs_ahead() {
    let mut engine = engine_of(model_config(), "ahead:4:fixed:k=4", executor(400));
    let steps = Arc::new(Mutex::new(Vec::new()));
    let sink = steps.clone();
    engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| {
        let report = trace.report;
        assert_eq!((report.ahead, report.carried), (0, 0));
        sink.lock().unwrap().push((report.draft_rows, report.draft_rounds, report.accepted));
    })));
    engine.submit(Request::new(prompt(1, 20), Params::greedy(), TOKENS)).unwrap();
    run(&mut engine);
    let steps = steps.lock().unwrap();
    // The first step reads the prompt in the target, the second in the draft.
    for pair in steps[1..].windows(2) {
        let [(.., accepted), (rows, rounds, _)] = [pair[0], pair[1]];
        if rounds > 0 {
            // Accepted tokens and the one behind them in the first round, one token in each other.
            assert_eq!(rows, accepted + 1 + rounds - 1);
        }
    }
    assert!(steps.iter().any(|&(.., accepted)| accepted > 1));
}
