//! A draft that reads less than the target: sequences are drafted for as far as it can read, and go on without it.

use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{Config, Request, Script, ScriptedExecutor, Shape};
use dsde_policy::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::{Params, Rule};

/// What the draft reads; the target reads 256.
const DRAFT_CONTEXT: u32 = 24;
const TOKENS: u32 = 40;

fn executor(n_blocks: u32) -> ScriptedExecutor {
    let shape = Shape { draft_context_len: Some(DRAFT_CONTEXT), ..shape(n_blocks) };
    ScriptedExecutor::new(Script::default(), shape, Rule::default())
}

/// Runs prompts shorter and longer than the draft's context and compares each with the script's own continuation.
fn check(config: Config, policy: &str, n_blocks: u32) -> u32 {
    let mut engine = engine_of(config, policy, executor(n_blocks));
    let prompts: Vec<Vec<u32>> = (0..12).map(|i| prompt(i, 1 + 4 * i)).collect();
    let ids: Vec<_> = prompts.iter().map(|p| engine.submit(greedy(p.clone(), TOKENS)).unwrap()).collect();
    let outputs = run(&mut engine);
    let mut preemptions = 0;
    for (id, prompt) in ids.iter().zip(&prompts) {
        let output = &outputs[&(*id, 0)];
        let expected = Script::default().greedy_continuation(prompt, TOKENS as usize);
        assert_eq!(output.tokens, expected, "{policy}, {n_blocks} blocks, prompt of {}", prompt.len());
        let timeline = output.finished.as_ref().unwrap().timeline;
        // A prompt of 24 and its first answer token are more than the draft reads.
        let is_readable = (prompt.len() as u32) < DRAFT_CONTEXT;
        assert!(is_readable || timeline.drafted == 0, "{policy}: drafted behind {} tokens", prompt.len());
        let has_memory = n_blocks > 100;
        let always_drafts = has_memory && (policy.starts_with("fixed") || policy.starts_with("beams"));
        assert!(!(is_readable && always_drafts) || timeline.drafted > 0, "{policy}: {} tokens", prompt.len());
        preemptions += timeline.preemptions;
    }
    preemptions
}

const POLICIES: [&str; 12] = [
    "off",
    "fixed:k=1",
    "fixed:k=8",
    "dsde",
    "adaedl",
    "tetris",
    "beams:4x3",
    "fickle:4x3",
    "ahead:4:fixed:k=4",
    "ahead:16:fixed:k=2",
    "mixed",
    "pruning",
];

#[test]
fn greedy_output_is_the_same_across_the_end_of_the_drafts_context() {
    for policy in POLICIES {
        for sequences_max in [1, 4, 32] {
            check(Config { sequences_max, ..model_config() }, policy, 400);
        }
    }
}

#[test]
fn it_is_so_with_chunks_a_prefix_cache_and_preemption() {
    for policy in POLICIES {
        for prefix_cache in [false, true] {
            let config = Config { rows_max: 7, sequences_max: 7, prefix_cache, ..model_config() };
            // 22 blocks of 4: the longest request needs 85 slots, all twelve together ten times that.
            assert!(check(config, policy, 22) > 0, "{policy}: memory was tight");
        }
    }
}

#[test]
fn policies_that_measure_go_on() {
    for policy in ["auto", "nightjar", "turbospec", "bandit", "faser:overlap=4,k_max=3"] {
        let mut engine = engine_of(model_config(), policy, executor(400));
        let prompts: Vec<Vec<u32>> = (0..6).map(|i| prompt(i, 3 + 7 * i)).collect();
        let ids: Vec<_> = prompts.iter().map(|p| engine.submit(greedy(p.clone(), 100)).unwrap()).collect();
        let outputs = run(&mut engine);
        for (id, prompt) in ids.iter().zip(&prompts) {
            let expected = Script::default().greedy_continuation(prompt, 100);
            assert_eq!(outputs[&(*id, 0)].tokens, expected, "{policy}");
        }
    }
}

/// Asks for 8 tokens and notes `(known tokens, limit, lag)` of every view.
struct Watcher(Arc<Mutex<Vec<(u32, u32, u32)>>>);

impl Policy for Watcher {
    fn name(&self) -> String {
        "watcher".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: false }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        let seen = view.sequences.iter().map(|seq| (seq.context_len + 1, seq.limit, seq.draft_lag));
        self.0.lock().unwrap().extend(seen);
        plan.fill(Planned { len: 8, reason: "watch", ..Planned::none() });
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[test]
fn policies_see_the_limit_shrink_to_0_and_no_lag_behind_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut engine = engine_of(model_config(), "off", executor(400));
    engine.set_policy(Box::new(Watcher(seen.clone())));
    engine.submit(Request::new(prompt(1, 20), Params::greedy(), 60)).unwrap();
    run(&mut engine);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|&(len, ..)| len <= DRAFT_CONTEXT));
    assert!(seen.iter().any(|&(len, ..)| len > DRAFT_CONTEXT + 8));
    for &(len, limit, lag) in seen.iter() {
        // The draft reads every known token, and every guess but the last.
        assert!(limit <= (DRAFT_CONTEXT + 1).saturating_sub(len), "limit {limit} behind {len} tokens");
        assert!(len <= DRAFT_CONTEXT || (limit, lag) == (0, 1), "{len} tokens: {limit}, {lag}");
    }
}
