//! The draft's memory goes to the target's blocks and comes back, and nobody can tell from the output.

use crate::common::*;
use dsde_engine::{
    Config, Drafter, Engine, FinishReason, Script, ScriptedExecutor, ScriptedLending, Shape, StepReport,
    Suffix,
};
use dsde_policy::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::{Params, Rule};
use proptest::prelude::*;

/// Plans as `inner` does and wants the draft in the first `on` of every `on + off` steps.
struct Moody {
    inner: Box<dyn Policy>,
    on: u64,
    off: u64,
    step: u64,
}

impl Policy for Moody {
    fn name(&self) -> String {
        "moody".to_owned()
    }

    fn signals(&self) -> Signals {
        self.inner.signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.step = view.step;
        self.inner.plan(view, plan);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.inner.observe(feedback);
    }

    fn ahead_len(&self) -> u32 {
        self.inner.ahead_len()
    }

    fn wants_draft(&self) -> bool {
        self.step % (self.on + self.off) < self.on
    }

    fn forget(&mut self, seq: SeqId) {
        self.inner.forget(seq);
    }
}

fn executor(n_blocks: u32, lending: ScriptedLending) -> ScriptedExecutor {
    ScriptedExecutor::new(Script::default(), shape(n_blocks), Rule::Block).lending(lending)
}

fn lending(n_blocks: u32) -> ScriptedLending {
    ScriptedLending { n_blocks, n_failures: 0 }
}

/// Steps to the end; debug builds check the invariants after every step.
fn run_reporting(engine: &mut Engine) -> (Outputs, Vec<StepReport>) {
    let (mut outputs, mut reports) = (Outputs::new(), Vec::new());
    while !engine.is_idle() {
        reports.push(engine.step().unwrap());
        collect(engine.drain_events(), &mut outputs);
        assert!(reports.len() < 100_000, "no progress");
    }
    (outputs, reports)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn greedy_output_is_right_while_the_pool_grows_and_contracts(
        planned in prop::sample::select(vec!["fixed:k=3", "beams:3x3", "mixed", "dsde", "ahead:4:fixed:k=3"]),
        (on, off) in (1..9u64, 1..9u64),
        n_blocks in 22..60u32,
        n_lent in 1..60u32,
        sequences_max in 1..13u32,
        prefix_cache in any::<bool>(),
        n_requests in 1..12u32,
        n_spare in prop::option::of(0..6u32),
    ) {
        let config = Config { sequences_max, prefix_cache, rows_max: 32, ..model_config() };
        let shape = Shape { n_states: n_states(sequences_max, n_spare), ..shape(n_blocks) };
        let executor = ScriptedExecutor::new(Script::default(), shape, Rule::Block).lending(lending(n_lent));
        let mut engine = engine_of(config, "off", executor);
        engine.set_policy(Box::new(Moody { inner: policy(planned), on, off, step: 0 }));
        // The second half of the requests begins like the first, so that blocks are shared.
        let prompt_of = |i: u32| prompt(i % 6, 1 + 5 * (i % 6) + i / 6);
        let submit = |i: u32| {
            let n_choices = 1 + i % 2;
            dsde_engine::Request { n_choices, ..greedy(prompt_of(i), 30) }
        };
        let ids: Vec<_> = (0..n_requests).map(|i| engine.submit(submit(i)).unwrap()).collect();
        let (outputs, reports) = run_reporting(&mut engine);
        for (i, id) in (0..).zip(&ids) {
            for choice in 0..1 + i % 2 {
                let output = &outputs[&(*id, choice)];
                prop_assert_eq!(output.reason(), FinishReason::Length);
                prop_assert_eq!(&output.tokens, &Script::default().greedy_continuation(&prompt_of(i), 30));
            }
        }
        let (free, total) = engine.blocks_free_and_total();
        prop_assert_eq!(free, total);
        prop_assert_eq!(total, n_blocks + reports.last().unwrap().blocks_lent);
        prop_assert!(reports.iter().all(|report| report.blocks_lent == 0 || report.drafted == 0));
    }
}

/// What is kept of proposals for the states of recurrent layers moves with the blocks.
#[test]
fn repetitions_are_right_while_blocks_move() {
    let drafter = Drafter::Either(Suffix { answer_tokens: 1 << 14, ..Suffix::default() });
    let config = Config { sequences_max: 8, drafter, ..Config::default() };
    let mut n_moving = 0;
    for (on, off) in (1..4).flat_map(|on| (2..6).map(move |off| (on, off))) {
        let shape = Shape { n_states: 9, ..shape(36) };
        let executor = ScriptedExecutor::new(Script::default(), shape, Rule::Block).lending(lending(40));
        let mut engine = engine_of(config, "off", executor);
        let mut ask = |engine: &mut Engine| {
            let request = |i: u32| greedy(prompt(i, 10 + i), 15 + 4 * i);
            let ids: Vec<_> = (0..8).map(|i| engine.submit(request(i)).unwrap()).collect();
            let (outputs, reports) = run_reporting(engine);
            for (i, id) in (0..).zip(ids) {
                let expected = Script::default().greedy_continuation(&request(i).prompt, 15 + 4 * i as usize);
                assert_eq!(outputs[&(id, 0)].tokens, expected);
            }
            let comes_back =
                |pair: &&[StepReport]| pair[0].blocks_lent > pair[1].blocks_lent && pair[0].accepted > 0;
            n_moving += reports.windows(2).filter(comes_back).count();
        };
        ask(&mut engine);
        // Everything has been said before, so it is accepted while the draft is away.
        engine.set_policy(Box::new(Moody { inner: policy("fixed:k=3"), on, off, step: 0 }));
        ask(&mut engine);
    }
    assert!(n_moving > 10, "{n_moving} times the draft came back with something to read");
}

#[test]
fn the_draft_leaves_under_pressure_and_comes_back_when_it_is_over() {
    let executor = executor(40, lending(24));
    let mut engine = engine_of(model_config(), "nightjar:persist=1,free_min=0.5", executor);
    let submit = |engine: &mut Engine, i| engine.submit(greedy(prompt(i, 20), 40)).unwrap();
    let ids: Vec<_> = (0..12).map(|i| submit(&mut engine, i)).collect();
    let (outputs, reports) = run_reporting(&mut engine);
    let lent = reports.iter().position(|report| report.blocks_lent == 24).expect("the draft was lent");
    let n_seqs = |reports: &[StepReport]| reports.iter().map(|report| report.n_seqs).max().unwrap();
    assert!(n_seqs(&reports[lent..]) > n_seqs(&reports[..lent]), "more sequences run at once");
    let is_fair = |report: &StepReport| report.blocks_lent == 0 || report.drafted == 0;
    assert!(reports.iter().all(is_fair), "nobody drafts meanwhile");
    for (i, id) in (0..).zip(&ids) {
        let expected = Script::default().greedy_continuation(&prompt(i, 20), 40);
        assert_eq!(outputs[&(*id, 0)].tokens, expected);
    }
    // One request leaves more blocks free than were lent and half of the rest.
    let id = submit(&mut engine, 12);
    let (outputs, reports) = run_reporting(&mut engine);
    let back = reports.iter().position(|report| report.blocks_lent == 0).expect("it came back");
    assert!(reports[back..].iter().all(|report| report.blocks_lent == 0));
    assert!(reports[back..].iter().any(|report| report.accepted > 0), "speculation goes on");
    assert_eq!(outputs[&(id, 0)].tokens, Script::default().greedy_continuation(&prompt(12, 20), 40));
}

#[test]
fn a_draft_that_cannot_be_loaded_costs_speculation_and_nothing_else() {
    let mut engine =
        engine_of(model_config(), "off", executor(40, ScriptedLending { n_blocks: 8, n_failures: 1 }));
    engine.set_policy(Box::new(Moody { inner: policy("fixed:k=3"), on: 2, off: 1, step: 0 }));
    let id = engine.submit(greedy(prompt(1, 9), 60)).unwrap();
    let (outputs, reports) = run_reporting(&mut engine);
    assert_eq!(outputs[&(id, 0)].tokens, Script::default().greedy_continuation(&prompt(1, 9), 60));
    let lent = reports.iter().position(|report| report.blocks_lent > 0).unwrap();
    assert!(reports[lent + 2..].iter().all(|report| report.blocks_lent == 0 && report.drafted == 0));
    assert_eq!(engine.blocks_free_and_total(), (40, 40));
    // It is tried again after a while.
    for _ in 0..1100 {
        engine.step().unwrap();
    }
    engine.set_policy(policy("fixed:k=3"));
    engine.submit(greedy(prompt(2, 9), 30)).unwrap();
    let (_, reports) = run_reporting(&mut engine);
    assert!(reports.iter().any(|report| report.accepted > 0));
}

#[test]
fn blocks_that_are_owned_stay_until_they_find_room() {
    // 30 blocks of 4 and 30 lent ones; sequences of 59 slots.
    let mut engine = engine_of(model_config(), "off", executor(30, lending(30)));
    engine.set_policy(Box::new(Moody { inner: policy("off"), on: 1, off: 1_000_000, step: 1 }));
    for i in 0..4 {
        engine.submit(greedy(prompt(i, 20), 40)).unwrap();
    }
    let mut outputs = Outputs::new();
    let mut owned = |engine: &mut Engine| {
        let report = engine.step().unwrap();
        collect(engine.drain_events(), &mut outputs);
        let (free, total) = engine.blocks_free_and_total();
        (total - free, report.blocks_lent)
    };
    while owned(&mut engine).0 <= 30 {}
    engine.set_policy(policy("fixed:k=2"));
    loop {
        let (free, total) = engine.blocks_free_and_total();
        let expected = if total - free > 30 { 30 } else { 0 };
        assert_eq!(owned(&mut engine).1, expected, "{} blocks are owned", total - free);
        if expected == 0 {
            return;
        }
    }
}

#[test]
fn an_idle_engine_takes_the_draft_back_with_the_policy_that_wants_it() {
    let mut engine = engine_of(model_config(), "off", executor(40, lending(9)));
    engine.set_policy(Box::new(Moody { inner: policy("fixed:k=3"), on: 1, off: 1_000_000, step: 1 }));
    engine.submit(greedy(prompt(1, 30), 20)).unwrap();
    run_reporting(&mut engine);
    assert_eq!(engine.blocks_free_and_total(), (49, 49));
    engine.set_policy(policy("fixed:k=3"));
    assert_eq!(engine.blocks_free_and_total(), (40, 40));
    let params = Params { temperature: 0.8, ..Params::greedy() };
    engine.submit(dsde_engine::Request::new(prompt(1, 30), params, 20)).unwrap();
    let (_, reports) = run_reporting(&mut engine);
    assert!(reports.iter().any(|report| report.drafted > 0));
}

#[test]
fn an_executor_that_cannot_lend_keeps_its_draft() {
    let mut engine = engine(model_config(), "off", 40);
    engine.set_policy(Box::new(Moody { inner: policy("fixed:k=3"), on: 1, off: 1_000_000, step: 1 }));
    engine.submit(greedy(prompt(1, 30), 20)).unwrap();
    let (_, reports) = run_reporting(&mut engine);
    assert!(reports.iter().all(|report| report.blocks_lent == 0));
    assert!(reports.iter().any(|report| report.drafted > 0));
}
