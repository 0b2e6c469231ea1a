//! Drafting while the target verifies: what is drafted ahead, what becomes of it, and that nobody can tell from the output.

use crate::common::*;
use dsde_engine::{Engine, FinishReason, Request, Script, ScriptedExecutor, StepReport};
use dsde_policy::{DraftPosition, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::{Params, Rule};

/// An engine whose draft has the target's own logits after `agreement` of all prefixes.
fn engine_with(agreement: f64, policy: &str, n_blocks: u32) -> Engine {
    let script = Script { agreement, ..Script::default() };
    engine_of(model_config(), policy, ScriptedExecutor::new(script, shape(n_blocks), Rule::Block))
}

/// Steps to the end.
fn reports(engine: &mut Engine) -> (Vec<StepReport>, Outputs) {
    let (mut reports, mut outputs) = (Vec::new(), Outputs::new());
    while !engine.is_idle() {
        reports.push(engine.step().unwrap());
        collect(engine.drain_events(), &mut outputs);
    }
    (reports, outputs)
}

/// What one greedy request does under a draft that is always right: drafted, carried, ahead and passes of the draft before the
/// target's, step by step.
#[track_caller]
fn check(policy: &str, tokens_max: u32, expected: &[[u32; 4]]) {
    check_steps(&mut engine_with(1.0, policy, 100), tokens_max, expected);
}

#[track_caller]
fn check_steps(engine: &mut Engine, tokens_max: u32, expected: &[[u32; 4]]) {
    engine.submit(greedy(prompt(1, 5), tokens_max)).unwrap();
    let (reports, _) = reports(engine);
    let got: Vec<_> = reports.iter().map(|r| [r.drafted, r.carried, r.ahead, r.draft_rounds]).collect();
    assert_eq!(got, expected);
}

#[test]
fn what_was_drafted_ahead_is_the_next_proposal() {
    // Emitted after each step: 1, 4, 7, 10, 12. Of the two tokens left at last only one can be a draft.
    let expected = [[0, 0, 0, 0], [2, 0, 2, 2], [2, 2, 2, 0], [2, 2, 1, 0], [1, 1, 0, 0]];
    check("ahead:2:fixed:k=2", 12, &expected);
}

#[test]
fn a_carried_proposal_is_cut_to_the_plan() {
    // Emitted after each step: 1, 3, 5, 6. Behind the first proposal there is room for two, and one is planned.
    check("ahead:3:fixed:k=1", 6, &[[0, 0, 0, 0], [1, 0, 2, 1], [1, 1, 0, 0], [0, 0, 0, 0]]);
}

#[test]
fn a_carried_proposal_is_not_drafted_on() {
    // Emitted after each step: 1, 5, 7, 9, 10: one token ahead is the proposal of a plan of three.
    let expected = [[0, 0, 0, 0], [3, 0, 1, 3], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]];
    check("ahead:1:fixed:k=3", 10, &expected);
}

/// Plans four tokens and verifies one of them.
struct Trimming;

impl Policy for Trimming {
    fn name(&self) -> String {
        "trimming".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: 4, width: 1, is_settled: true, reason: "trimming" });
    }

    fn trim(&mut self, _view: &PlanView<'_>, _drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        verify_lens.iter_mut().for_each(|len| *len = 1.min(*len));
    }

    fn ahead_len(&self) -> u32 {
        4
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[test]
fn what_was_trimmed_is_not_drafted_again() {
    // Emitted after each step: 1, 3, 5, 7, 9. Of four tokens one is verified, one is what the target draws, and two are left; of
    // these one is verified, one drawn, none left.
    let expected = [[0, 0, 0, 0], [4, 0, 2, 4], [2, 2, 0, 0], [3, 0, 1, 3], [1, 1, 0, 0]];
    let mut engine = engine_with(1.0, "off", 100);
    engine.set_policy(Box::new(Trimming));
    check_steps(&mut engine, 9, &expected);
}

#[test]
fn a_carried_proposal_is_dropped_where_none_or_a_tree_is_planned() {
    // `mixed` plans as many tokens as the step modulo 7; carried is what step 6 drafted ahead for step 7, which plans none.
    let mut engine = engine_with(1.0, "ahead:4:mixed", 100);
    engine.submit(greedy(prompt(1, 5), 60)).unwrap();
    let (reports, _) = reports(&mut engine);
    let drafted_by = |step: usize| (reports[step].planned, reports[step].carried, reports[step].ahead);
    assert_eq!(drafted_by(6), (6, 4, 4));
    assert_eq!(drafted_by(7), (0, 0, 0));
    // From step 7 on trees of two nodes per level are planned, which are drafted anew.
    assert!(reports[8..].iter().take(6).all(|report| report.carried == 0 && report.ahead == 0));
}

#[test]
fn nothing_is_carried_behind_a_wrong_guess() {
    let mut engine = engine_with(0.0, "ahead:3:fixed:k=2", 100);
    let ids: Vec<_> = (0..4).map(|i| engine.submit(greedy(prompt(i, 5), 30)).unwrap()).collect();
    let (reports, outputs) = reports(&mut engine);
    assert!(reports.iter().any(|report| report.ahead > 0));
    // Unrelated logits agree by chance at times, seldom three times in a row.
    assert!(reports.iter().filter(|report| report.carried > 0).count() <= 2);
    for (i, id) in (0..).zip(&ids) {
        assert_eq!(outputs[&(*id, 0)].tokens, Script::default().greedy_continuation(&prompt(i, 5), 30));
    }
}

/// Stale keys and values in the draft's store would make it guess something else.
#[test]
fn a_draft_that_is_always_right_loses_nothing() {
    let cases = [
        ("ahead:5:fixed:k=5", 400),
        ("ahead:9:fixed:k=2", 400),
        ("ahead:5:fixed:k=5", 24),
        ("ahead:5:fickle:8x1", 400),
        ("ahead:5:fickle:8x1", 24),
    ];
    for (policy, n_blocks) in cases {
        let mut engine = engine_with(1.0, policy, n_blocks);
        for i in 0..9 {
            engine.submit(greedy(prompt(i, 3 + i), 50)).unwrap();
        }
        let (reports, outputs) = reports(&mut engine);
        let sum = |count: fn(&StepReport) -> u32| reports.iter().map(count).sum::<u32>();
        assert!(sum(|r| r.carried) > 50, "{policy}");
        if (policy, n_blocks) == cases[0] {
            assert_eq!(sum(|r| r.carried), sum(|r| r.ahead), "{policy}");
        }
        for output in outputs.values() {
            let timeline = output.finished.as_ref().unwrap().timeline;
            assert_eq!(timeline.accepted, timeline.verified, "{policy}");
        }
    }
}

#[test]
fn sampled_requests_draft_nothing_ahead() {
    let mut engine = engine_with(1.0, "ahead:3:fixed:k=3", 100);
    let params = Params { temperature: 0.8, ..Params::greedy() };
    engine.submit(Request::new(prompt(1, 5), params, 30)).unwrap();
    let (reports, _) = reports(&mut engine);
    assert!(
        reports.iter().all(|report| report.ahead == 0) && reports.iter().any(|report| report.drafted > 0)
    );
}

#[test]
fn a_request_with_another_policy_stops_it() {
    let mut engine = engine_with(1.0, "faser:overlap=3", 100);
    engine.submit(greedy(prompt(1, 5), 60)).unwrap();
    let ahead = |engine: &mut Engine| (0..5).map(|_| engine.step().unwrap().ahead).sum::<u32>();
    assert!(ahead(&mut engine) > 0);
    let policy = Some("dsde".parse().unwrap());
    engine.submit(Request { policy, ..greedy(prompt(2, 5), 30) }).unwrap();
    assert_eq!(ahead(&mut engine), 0);
    run(&mut engine);
}

#[test]
fn a_pass_ahead_that_fails_ends_the_requests_of_its_step() {
    let script = Script { agreement: 1.0, ..Script::default() };
    // The prompt, two rounds and their verification are passes 0 to 3; three rounds ahead follow.
    let executor = ScriptedExecutor::new(script, shape(100), Rule::Block).fail_at(5);
    let mut engine = engine_of(model_config(), "ahead:2:fixed:k=2", executor);
    let id = engine.submit(greedy(prompt(1, 5), 20)).unwrap();
    engine.step().unwrap();
    assert_eq!(engine.step().unwrap_err().pass, "draft");
    let mut outputs = Outputs::new();
    collect(engine.drain_events(), &mut outputs);
    assert_eq!(outputs[&(id, 0)].reason(), FinishReason::Failed);
    let again = engine.submit(greedy(prompt(1, 5), 20)).unwrap();
    assert_eq!(run(&mut engine)[&(again, 0)].tokens, script.greedy_continuation(&prompt(1, 5), 20));
}
