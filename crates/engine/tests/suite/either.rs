//! A draft model and repetitions side by side: who drafts is the policy's choice, and the other one's state stays right.

use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{Config, Request, Script, ScriptedExecutor, ScriptedLending, StepReport, StepTrace};
use dsde_sampling::Rule;

/// Steps in which drafts were verified, with and without a round of the draft model.
fn steps(config: Config, policy: &str) -> (u32, u32) {
    let mut engine = engine(config, policy, 400);
    let reports: Arc<Mutex<Vec<StepReport>>> = Arc::default();
    let sink = reports.clone();
    engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| sink.lock().unwrap().push(*trace.report))));
    for i in 0..6 {
        engine.submit(greedy(prompt(i, 20), 60)).unwrap();
        run(&mut engine);
    }
    let reports = reports.lock().unwrap();
    let count = |has_rounds: bool| {
        let drafted = reports.iter().filter(|report| report.verified > 0);
        drafted.filter(|report| (report.draft_rounds > 0) == has_rounds).count() as u32
    };
    (count(true), count(false))
}

#[test]
fn both_draft_where_the_policy_chooses_and_the_model_where_it_does_not() {
    let (guessed, repeated) = steps(either_config(), "choosy:fixed:k=3");
    assert!(guessed > 20 && repeated > 20, "{guessed} {repeated}");
    let (guessed, repeated) = steps(either_config(), "fixed:k=3");
    assert!(guessed > 20 && repeated == 0, "{guessed} {repeated}");
    let (guessed, repeated) = steps(either_config(), "bandit:drafters=2");
    assert!(guessed > 20 && repeated > 20, "{guessed} {repeated}");
    let (guessed, repeated) = steps(either_config(), "bandit");
    assert!(guessed > 20 && repeated == 0, "{guessed} {repeated}");
}

#[test]
fn what_repeats_is_drafted_where_the_draft_cannot_read() {
    let short = dsde_engine::Shape { draft_context_len: Some(30), ..shape(400) };
    let executor = ScriptedExecutor::new(Script::default(), short, Rule::Block);
    let mut engine = engine_of(either_config(), "fixed:k=3", executor);
    let id = engine.submit(greedy(prompt(1, 60), 80)).unwrap();
    let outputs = run(&mut engine);
    let output = &outputs[&(id, 0)];
    assert_eq!(output.tokens, Script::default().greedy_continuation(&prompt(1, 60), 80));
    assert!(output.finished.as_ref().unwrap().timeline.drafted > 0);
}

#[test]
fn what_repeats_is_drafted_while_the_draft_is_away() {
    let lending = ScriptedLending { n_blocks: 40, n_failures: 1 };
    let executor = ScriptedExecutor::new(Script::default(), shape(40), Rule::Block).lending(lending);
    let mut engine = engine_of(either_config(), "choosy:mixed", executor);
    engine.set_policy(policy("nightjar"));
    let requests: Vec<Request> = (0..10).map(|i| greedy(prompt(i, 20), 60)).collect();
    let ids: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    let outputs = run(&mut engine);
    for (id, request) in ids.iter().zip(&requests) {
        let expected = Script::default().greedy_continuation(&request.prompt, 60);
        assert_eq!(outputs[&(*id, 0)].tokens, expected);
    }
}
