//! Greedy output is what plain decoding of the target emits, whoever else runs and however far anyone speculates.

use crate::common::*;
use dsde_engine::{Config, Request, Script, ScriptedExecutor};
use dsde_policy::mixture::OTHERS_MAX;
use dsde_policy::registry;
use dsde_sampling::{Params, Rule};

const TOKENS: u32 = 40;

fn policies() -> Vec<String> {
    let fixed = (1..=8).map(|k| format!("fixed:k={k}"));
    let others = ["off", "dsde", "dsde:cap=mean", "dsde:variant=released", "dsde:variant=released,cap=mean"];
    let stopping = ["adaedl", "adaedl:lambda=0.6", "confidence", "confidence:p_min=0.2"];
    let batch_wide = [
        "batch_schedule:table=1-2:6;3-4:1;5-:2",
        "tiered:warmup=0,interval=2",
        "bandit:drafters=2",
        "turbospec",
    ];
    let load_aware = [
        "auto",
        "nightjar",
        "faser",
        "faser:depth=0.5",
        "faser:overlap=1",
        "faser:overlap=4,k_max=3",
        "faser:overlap=2,depth=0.5",
        "tetris",
        "dspark",
        "adaptive_verification",
        "adaserve",
        "ddd",
    ];
    let trees =
        ["beams:1x2", "beams:2x3", "beams:3x4", "beams:4x2", "beams:5x3", "beams:6x2", "fickle:4x3", "mixed"];
    let overlapping = [
        "ahead:1:fixed:k=1",
        "ahead:4:fixed:k=4",
        "ahead:16:fixed:k=2",
        "ahead:3:mixed",
        "ahead:2:dsde",
        "ahead:5:pruning",
    ];
    let rest = others
        .into_iter()
        .chain(stopping)
        .chain(batch_wide)
        .chain(load_aware)
        .chain(trees)
        .chain(overlapping)
        .map(str::to_owned);
    fixed.chain(rest).collect()
}

/// Runs 12 prompts of 1 to 45 tokens and compares each with the script's own continuation.
fn check(config: Config, policy: &str, n_blocks: u32) -> (u32, u32, u32) {
    let mut engine = engine(config, policy, n_blocks);
    let prompts: Vec<Vec<u32>> = (0..12).map(|i| prompt(i, 1 + 4 * i)).collect();
    let ids: Vec<_> = prompts.iter().map(|p| engine.submit(greedy(p.clone(), TOKENS)).unwrap()).collect();
    let outputs = run(&mut engine);
    let mut sums = (0, 0, 0);
    for (id, prompt) in ids.iter().zip(&prompts) {
        let output = &outputs[&(*id, 0)];
        let expected = Script::default().greedy_continuation(prompt, TOKENS as usize);
        assert_eq!(output.tokens, expected, "{policy}, {n_blocks} blocks, {config:?}");
        let timeline = output.finished.as_ref().unwrap().timeline;
        sums = (sums.0 + timeline.drafted, sums.1 + timeline.accepted, sums.2 + timeline.preemptions);
    }
    sums
}

#[test]
fn greedy_output_is_independent_of_policy_and_concurrency() {
    for sequences_max in [1, 3, 8, 32] {
        for policy in policies() {
            let config = Config { sequences_max, ..model_config() };
            let (drafted, accepted, _) = check(config, &policy, 400);
            let is_speculating = policy != "off";
            assert_eq!(
                (drafted > 0, accepted > 0),
                (is_speculating, is_speculating),
                "{policy} is not vacuous"
            );
        }
    }
}

#[test]
fn greedy_output_survives_stopping_and_trimming() {
    for n_blocks in [22, 400] {
        for policy in ["fickle:4x1", "fickle:4x3", "ahead:4:fickle:4x1"] {
            check(model_config(), policy, n_blocks);
        }
    }
}

#[test]
fn greedy_output_survives_preemption() {
    for policy in policies() {
        // 22 blocks of 4: the longest request needs 85 slots, all twelve together ten times that.
        let (_, _, preemptions) = check(model_config(), &policy, 22);
        assert!(preemptions > 0, "{policy}: memory was tight");
    }
}

#[test]
fn greedy_output_is_independent_of_chunking_and_prefix_cache() {
    for rows_max in [4, 7, 64] {
        for prefix_cache in [false, true] {
            let config = Config { rows_max, sequences_max: 4, prefix_cache, ..model_config() };
            for policy in ["dsde", "beams:4x3", "mixed", "ahead:3:mixed"] {
                check(config, policy, 60);
            }
        }
    }
}

#[test]
fn unsure_drafts_end_proposals_early() {
    let drafted = |policy| check(model_config(), policy, 400).0;
    let ceiling = drafted("confidence:n_max=8,p_min=0");
    let first_only = drafted("confidence:n_max=8,p_min=1");
    for policy in ["confidence:n_max=8,p_min=0.2", "adaedl:k_max=8,lambda=0.3"] {
        let got = drafted(policy);
        assert!((first_only + 1..ceiling).contains(&got), "{policy}: {first_only} < {got} < {ceiling}");
    }
}

#[test]
fn greedy_output_survives_repetitions_under_every_policy() {
    for config in suffix_configs() {
        for policy in policies() {
            for n_blocks in [400, 22] {
                let (drafted, ..) = check(config, &policy, n_blocks);
                assert_eq!(drafted > 0, policy != "off", "{policy} is not vacuous");
            }
        }
    }
}

#[test]
fn greedy_output_survives_two_drafters_under_every_policy() {
    for policy in policies() {
        for n_blocks in [400, 22] {
            for policy in [&policy, &format!("choosy:{policy}")] {
                let (drafted, ..) = check(either_config(), policy, n_blocks);
                assert_eq!(drafted > 0, !policy.ends_with("off"), "{policy} is not vacuous");
            }
        }
    }
}

#[test]
fn without_a_drafter_every_policy_decodes_plainly() {
    let (drafted, _, _) = check(Config::default(), "fixed:k=5", 400);
    assert_eq!(drafted, 0);
}

#[test]
fn greedy_output_survives_policies_side_by_side() {
    for (main, n_blocks) in [("auto", 400), ("dsde", 22), ("beams:3x3", 400), ("off", 400)] {
        let mut engine = engine(model_config(), main, n_blocks);
        let mut ids = Vec::new();
        for (i, entry) in (0..).zip(registry::ENTRIES) {
            let text = if entry.name == "fixed" { "fixed:k=4" } else { entry.name };
            for (salt, policy) in [(i, Some(text.parse().unwrap())), (i + 20, None)] {
                let prompt = prompt(salt, 1 + 2 * i);
                let request = Request { policy, ..greedy(prompt.clone(), TOKENS) };
                // A registry of 17 and a main policy of its own: one is too many while all others are in use.
                match engine.submit(request) {
                    Ok(id) => ids.push((id, prompt, text)),
                    Err(refused) => assert!(i as usize >= OTHERS_MAX, "{refused}"),
                }
            }
        }
        let outputs = run(&mut engine);
        let mut accepted = 0;
        for (id, prompt, text) in ids {
            let output = &outputs[&(id, 0)];
            let expected = Script::default().greedy_continuation(&prompt, TOKENS as usize);
            assert_eq!(output.tokens, expected, "{text} beside {main}");
            accepted += output.finished.as_ref().unwrap().timeline.accepted;
        }
        assert!(accepted > 0, "{main} is not vacuous");
    }
}

#[test]
fn a_request_that_chooses_off_is_never_drafted_for() {
    let mut engine = engine(model_config(), "fixed:k=4", 400);
    let off = Some("off".parse().unwrap());
    let plain = engine.submit(Request { policy: off, n_choices: 2, ..greedy(prompt(1, 9), TOKENS) }).unwrap();
    let drafted = engine.submit(greedy(prompt(2, 9), TOKENS)).unwrap();
    let outputs = run(&mut engine);
    let of = |id, choice| outputs[&(id, choice)].finished.as_ref().unwrap().timeline.drafted;
    assert_eq!((of(plain, 0), of(plain, 1)), (0, 0));
    assert!(of(drafted, 0) > 0);
}

#[test]
fn a_changed_policy_resumes_from_a_lagging_draft() {
    let mut engine = engine(model_config(), "off", 400);
    let first = prompt(1, 30);
    let id = engine.submit(greedy(first.clone(), 160)).unwrap();
    let mut outputs = Outputs::new();
    let changes = [
        "off",
        "fixed:k=4",
        "beams:3x3",
        "ahead:3:fixed:k=3",
        "off",
        "ahead:5:fixed:k=4",
        "beams:2x2",
        "fixed:k=2",
    ];
    for policy_text in changes {
        engine.set_policy(policy(policy_text));
        for _ in 0..6 {
            engine.step().unwrap();
        }
        collect(engine.drain_events(), &mut outputs);
    }
    while !engine.is_idle() {
        engine.step().unwrap();
        collect(engine.drain_events(), &mut outputs);
    }
    let output = &outputs[&(id, 0)];
    assert_eq!(output.tokens, Script::default().greedy_continuation(&first, 160));
    assert!(output.finished.as_ref().unwrap().timeline.accepted > 0);
}

/// With a draft that always agrees, everything drafted is accepted: the draft never reads stale slots.
#[test]
fn a_perfect_draft_is_always_accepted() {
    for temperature in [0.0, 0.8] {
        let script = Script { agreement: 1.0, ..Script::default() };
        let executor = ScriptedExecutor::new(script, shape(200), Rule::TokenWise);
        let mut engine = engine_of(model_config(), "fixed:k=5", executor);
        for i in 0..6 {
            let params = Params { temperature, ..Params::greedy() };
            engine.submit(dsde_engine::Request::new(prompt(i, 3 + i), params, 41)).unwrap();
        }
        for output in run(&mut engine).values() {
            let timeline = output.finished.as_ref().unwrap().timeline;
            assert_eq!(timeline.accepted, timeline.drafted, "T={temperature}");
            assert!(timeline.drafted > 0);
        }
    }
}
