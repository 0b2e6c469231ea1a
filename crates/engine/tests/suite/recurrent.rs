//! A target with recurrent layers: whatever is rejected, shared, preempted or cancelled, every row is read with the state of its prefix.
//!
//! The scripted executor fails as soon as one is not; what is left to see here is that snapshots are left and found.

use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{Config, Engine, Request, Script, ScriptedExecutor, Shape, StepReport, StepTrace};
use dsde_sampling::{Params, Rule};
use proptest::prelude::*;

const TOKENS: u32 = 40;

const POLICIES: [&str; 14] = [
    "off",
    "fixed:k=1",
    "fixed:k=8",
    "dsde",
    "adaedl",
    "tetris",
    "faser:overlap=4,k_max=3",
    "faser:depth=0.5",
    "adaserve",
    "beams:4x3",
    "reranked:4x3",
    "mixed",
    "pruning",
    "ahead:3:mixed",
];

fn executor(n_blocks: u32, n_states: u32) -> ScriptedExecutor {
    let shape = Shape { context_len_max: 1024, draft_context_len: Some(1024), n_states, ..shape(n_blocks) };
    ScriptedExecutor::new(Script::default(), shape, Rule::default())
}

/// Runs prompts of 1 to 45 tokens with two choices each; returns how many sequences were preempted.
fn check(config: Config, policy: &str, n_blocks: u32, n_states: u32) -> u32 {
    let mut engine = engine_of(config, policy, executor(n_blocks, n_states));
    let prompts: Vec<Vec<u32>> = (0..12).map(|i| prompt(i / 2, 1 + 4 * i)).collect();
    let request = |prompt: &Vec<u32>| Request { n_choices: 2, ..greedy(prompt.clone(), TOKENS) };
    let ids: Vec<_> = prompts.iter().map(|prompt| engine.submit(request(prompt)).unwrap()).collect();
    let outputs = run(&mut engine);
    let mut preemptions = 0;
    for (id, prompt) in ids.iter().zip(&prompts) {
        let expected = Script::default().greedy_continuation(prompt, TOKENS as usize);
        for choice in 0..2 {
            let output = &outputs[&(*id, choice)];
            assert_eq!(output.tokens, expected, "{policy}, {n_blocks} blocks, {config:?}");
            preemptions += output.finished.as_ref().unwrap().timeline.preemptions;
        }
    }
    preemptions
}

#[test]
fn greedy_output_is_right_under_every_policy_however_few_states_there_are() {
    for policy in POLICIES {
        for (sequences_max, n_states) in [(1, 1), (1, 2), (5, 5), (5, 7), (32, 64)] {
            check(Config { sequences_max, ..model_config() }, policy, 400, n_states);
        }
        for (prefix_cache, n_states) in [(false, 7), (false, 20), (true, 7), (true, 9), (true, 20)] {
            let config = Config { rows_max: 7, sequences_max: 7, prefix_cache, ..model_config() };
            assert!(check(config, policy, 24, n_states) > 0, "{policy}: memory was tight");
        }
    }
}

/// What an engine told of its steps.
type Reports = Arc<Mutex<Vec<StepReport>>>;

fn watched(config: Config, n_states: u32) -> (Engine, Reports) {
    let mut engine = engine_of(config, "off", executor(400, n_states));
    let reports = Reports::default();
    let sink = reports.clone();
    engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| sink.lock().unwrap().push(*trace.report))));
    (engine, reports)
}

/// Tokens of a prompt that are found when it is asked next.
fn cached(engine: &mut Engine, prompt: &[u32]) -> u32 {
    let id = engine.submit(greedy(prompt.to_vec(), 9)).unwrap();
    let output = run(engine).remove(&(id, 0)).unwrap();
    assert_eq!(output.tokens, Script::default().greedy_continuation(prompt, 9));
    output.finished.unwrap().timeline.cached_tokens
}

/// The first `n_shared` tokens of one text, then others that differ by `salt`.
fn branch(n_shared: u32, salt: u32, len: u32) -> Vec<u32> {
    let tail = (n_shared..len).map(|i| (salt * 11 + i * 5) % 31);
    prompt(0, n_shared).into_iter().chain(tail).collect()
}

#[test]
fn a_prompt_is_found_up_to_its_last_full_block() {
    let (mut engine, reports) = watched(Config { sequences_max: 1, ..Config::default() }, 8);
    let found = [45, 45, 44, 49, 60].map(|len| cached(&mut engine, &prompt(0, len)));
    // The last token is always left to read, so 44 tokens end before the only snapshot.
    assert_eq!(found, [0, 44, 0, 44, 44]);
    // The first prompt is read in two passes, since the snapshot is left between them.
    let rows = |i: usize| reports.lock().unwrap()[i].target_rows;
    assert_eq!((rows(0), rows(1), rows(2)), (44, 1, 1));
}

#[test]
fn without_a_state_to_spare_nothing_is_kept() {
    let mut engine = engine_of(Config { sequences_max: 1, ..Config::default() }, "off", executor(100, 1));
    assert_eq!([45, 45, 60].map(|len| cached(&mut engine, &prompt(0, len))), [0; 3]);
}

/// Nobody knows what a prompt shares with later ones until the second one comes.
#[test]
fn what_two_prompts_share_the_third_finds() {
    let (mut engine, _) = watched(Config { sequences_max: 2, ..Config::default() }, 8);
    let found = [1, 2, 3, 4].map(|salt| cached(&mut engine, &branch(41, salt, 70)));
    assert_eq!(found, [0, 0, 40, 40]);
}

#[test]
fn long_prompts_leave_snapshots_on_the_way() {
    let (mut engine, _) = watched(Config { rows_max: 100, ..Config::default() }, 70);
    // 64 blocks of 4 are 256 tokens.
    assert_eq!(cached(&mut engine, &prompt(0, 700)), 0);
    assert_eq!(cached(&mut engine, &branch(600, 1, 660)), 512);
    assert_eq!(cached(&mut engine, &branch(300, 2, 310)), 256);
}

#[test]
fn the_least_recently_used_snapshot_is_given_up() {
    let (mut engine, _) = watched(Config { sequences_max: 1, ..Config::default() }, 3);
    let ask = |engine: &mut Engine, salt: u32| cached(engine, &prompt(salt, 30));
    assert_eq!([1, 2, 1, 3].map(|salt| ask(&mut engine, salt)), [0, 0, 28, 0]);
    assert_eq!([1, 2].map(|salt| ask(&mut engine, salt)), [28, 0]);
}

#[test]
fn a_snapshot_goes_with_its_block() {
    // 18 blocks of 4; the second request needs most of them, the ends of what was kept first.
    let config = Config { sequences_max: 1, ..Config::default() };
    let mut engine = engine_of(config, "off", executor(18, 5));
    assert_eq!(cached(&mut engine, &prompt(0, 40)), 0);
    assert_eq!(cached(&mut engine, &prompt(0, 40)), 36);
    assert_eq!(cached(&mut engine, &prompt(1, 50)), 0);
    assert_eq!(cached(&mut engine, &prompt(0, 40)), 0);
    engine.clear_prefix_cache();
    assert_eq!(engine.states_free_and_total(), (5, 5));
}

#[test]
fn choices_start_from_the_snapshot_of_the_first() {
    for prefix_cache in [false, true] {
        let config = Config { sequences_max: 5, prefix_cache, ..Config::default() };
        for (prompt_len, shared) in [(61, 60), (11, 8), (3, 0)] {
            let (mut engine, reports) = watched(config, 6);
            let prompt = prompt(0, prompt_len);
            let id = engine.submit(Request { n_choices: 5, ..greedy(prompt.clone(), 7) }).unwrap();
            let outputs = run(&mut engine);
            for choice in 0..5 {
                let output = &outputs[&(id, choice)];
                assert_eq!(output.tokens, Script::default().greedy_continuation(&prompt, 7));
                let expected = if choice == 0 { 0 } else { shared };
                assert_eq!(output.finished.as_ref().unwrap().timeline.cached_tokens, expected);
            }
            let n_rows: u32 = reports.lock().unwrap().iter().map(|report| report.target_rows).sum();
            // Of every choice, one row more for each token behind the first.
            assert_eq!(
                n_rows,
                prompt_len + 4 * (prompt_len - shared) + 5 * 6,
                "{prompt_len}, {prefix_cache}"
            );
        }
    }
}

#[test]
fn after_a_failure_nothing_is_held() {
    for (pass, panics) in (0..12).flat_map(|pass| [(pass, false), (pass, true)]) {
        let executor = executor(60, 5);
        let executor = if panics { executor.panic_at(pass) } else { executor.fail_at(pass) };
        let mut engine = engine_of(Config { sequences_max: 3, ..model_config() }, "fixed:k=2", executor);
        for i in 0..5 {
            engine.submit(Request { n_choices: 2, ..greedy(prompt(i / 2, 30), 12) }).unwrap();
        }
        let mut n_failures = 0;
        while !engine.is_idle() {
            let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.step().is_err()));
            let failed = step.unwrap_or_else(|_| {
                engine.recover();
                true
            });
            if failed {
                assert_eq!(engine.states_free_and_total(), (5, 5));
            }
            n_failures += u32::from(failed);
            engine.check_invariants();
        }
        assert_eq!(n_failures, 1);
    }
}

#[derive(Clone, Debug)]
enum Action {
    Submit {
        n_shared: u32,
        salt: u32,
        len: u32,
        tokens_max: u32,
        n_choices: u32,
        priority: i32,
        temperature: f32,
        scores_prompt: bool,
    },
    Cancel(usize),
    Step(u32),
    ClearCache,
}

fn action() -> impl Strategy<Value = Action> {
    let submit = (
        prop::sample::select(vec![0, 5, 16, 33, 50]),
        0..4u32,
        1..70u32,
        0..30u32,
        prop::sample::select(vec![1, 1, 2, 4]),
        -1..2i32,
        prop::sample::select(vec![0.0, 0.0, 0.9f32]),
        prop::bool::weighted(0.1),
    );
    let submit = submit.prop_map(
        |(n_shared, salt, len, tokens_max, n_choices, priority, temperature, scores_prompt)| {
            let n_shared = u32::min(n_shared, len);
            Action::Submit {
                n_shared,
                salt,
                len,
                tokens_max,
                n_choices,
                priority,
                temperature,
                scores_prompt,
            }
        },
    );
    prop_oneof![
        6 => submit,
        1 => (0..20usize).prop_map(Action::Cancel),
        6 => (1..12u32).prop_map(Action::Step),
        1 => Just(Action::ClearCache),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Prompts branch from one text; blocks and states are few.
    #[test]
    fn states_are_right_whatever_happens(
        actions in prop::collection::vec(action(), 1..40),
        policy in prop::sample::select(POLICIES.to_vec()),
        n_blocks in 26..90u32,
        sequences_max in 1..9u32,
        n_spare in 0..6u32,
        rows_max in 9..60u32,
        prefix_cache in prop::bool::weighted(0.8),
        drafter in 0..3usize,
    ) {
        let drafting = [model_config(), suffix_configs()[1], either_config()][drafter];
        let config = Config { sequences_max, rows_max, prefix_cache, ..drafting };
        let mut engine = engine_of(config, policy, executor(n_blocks, sequences_max + n_spare));
        let mut submitted = Vec::new();
        let mut outputs = Outputs::new();
        for action in actions {
            match action {
                Action::Submit { n_shared, salt, len, tokens_max, n_choices, priority, temperature, scores_prompt } => {
                    let params = Params { temperature, ..Params::greedy() };
                    let request = Request::new(branch(n_shared, salt, len), params, tokens_max);
                    let request = Request { n_choices, priority, scores_prompt, ..request };
                    submitted.push((engine.submit(request.clone()).unwrap(), request));
                }
                Action::Cancel(which) => {
                    submitted.get(which).map(|(id, _)| engine.cancel(*id));
                    engine.check_invariants();
                }
                Action::Step(n) => {
                    for _ in 0..n {
                        engine.step().unwrap();
                    }
                }
                Action::ClearCache => {
                    engine.clear_prefix_cache();
                    engine.check_invariants();
                }
            }
            collect(engine.drain_events(), &mut outputs);
        }
        for _ in 0..100_000 {
            if engine.is_idle() {
                break;
            }
            engine.step().unwrap();
            collect(engine.drain_events(), &mut outputs);
        }
        prop_assert!(engine.is_idle(), "no progress");
        let (free, total) = engine.states_free_and_total();
        prop_assert_eq!((free, total), (total, sequences_max + n_spare));
        for (id, request) in submitted.iter().filter(|(_, request)| request.params.is_greedy()) {
            for choice in 0..request.n_choices {
                let tokens = &outputs[&(*id, choice)].tokens;
                let expected = Script::default().greedy_continuation(&request.prompt, tokens.len());
                prop_assert_eq!(tokens, &expected);
            }
        }
    }
}
