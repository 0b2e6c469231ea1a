//! Where every layer sees a window, blocks before it are given back and nothing changes what is emitted.

use crate::common::*;
use dsde_engine::{Config, Engine, Request, Script, ScriptedExecutor, Shape};
use dsde_sampling::Rule;
use proptest::prelude::*;

const POLICIES: [&str; 4] = ["off", "fixed:k=3", "dsde", "beams:3x3"];

fn script(window: u32) -> Script {
    Script { window: Some(window), ..Script::default() }
}

fn executor(window: u32, n_blocks: u32) -> ScriptedExecutor {
    executor_with_states(window, n_blocks, 0)
}

fn executor_with_states(window: u32, n_blocks: u32, n_states: u32) -> ScriptedExecutor {
    let shape = Shape { draft_context_len: None, n_states, ..shape(n_blocks) };
    ScriptedExecutor::new(script(window), shape, Rule::Block)
}

/// Blocks that are owned at most while requests run to their end.
fn most_owned(engine: &mut Engine, outputs: &mut Outputs) -> u32 {
    let mut most = 0;
    while !engine.is_idle() {
        engine.step().unwrap();
        collect(engine.drain_events(), outputs);
        let (free, total) = engine.blocks_free_and_total();
        most = most.max(total - free);
    }
    most
}

#[test]
fn a_long_sequence_needs_the_blocks_of_its_window() {
    // At most 8 slots before the next row, 8 rows at a time, 17 with a proposal: 8 + 17 slots touch 8 blocks of 4.
    let window = 8;
    for config in [Config::default(), suffix_configs()[0]] {
        let mut engine = engine_of(config, "fixed:k=16", executor(window, 12));
        let prompt = prompt(3, 150);
        let id = engine.submit(greedy(prompt.clone(), 100)).unwrap();
        let mut outputs = Outputs::new();
        let most = most_owned(&mut engine, &mut outputs);
        assert!(most <= 8, "{most} blocks for {} slots", 12 * BLOCK_LEN);
        assert_eq!(outputs[&(id, 0)].tokens, script(window).greedy_continuation(&prompt, 100));
    }
}

#[test]
fn stores_too_small_for_a_window_bound_the_context() {
    let context = |window, n_blocks| {
        let engine = engine_of(Config::default(), "off", executor(window, n_blocks));
        engine.shape().context_len_max
    };
    // Twice 20 + 4 slots are 12 blocks of 4.
    assert_eq!((context(20, 12), context(20, 11)), (256, 44));
    assert_eq!((context(1, 4), context(1, 3)), (256, 12));
}

#[test]
fn a_prompt_that_was_passed_is_found_again() {
    let mut engine = engine_of(Config::default(), "off", executor(8, 60));
    let prompt = prompt(3, 120);
    for expected in [0, 116] {
        engine.submit(greedy(prompt.clone(), 5)).unwrap();
        let outputs = run(&mut engine);
        let output = outputs.into_values().next().unwrap();
        assert_eq!(output.tokens, script(8).greedy_continuation(&prompt, 5));
        assert_eq!(output.finished.unwrap().timeline.cached_tokens, expected);
    }
}

#[test]
fn blocks_that_were_passed_may_go_to_a_neighbour_and_hold_nothing() {
    // The second choice copies a block that is half written, into one that the long sequence has passed.
    let config = Config { sequences_max: 3, rows_max: 17, prefix_cache: false, ..Config::default() };
    let mut engine = engine_of(config, "off", executor(9, 16));
    let (long, short) = (prompt(1, 26), prompt(0, 6));
    let long_id = engine.submit(greedy(long.clone(), 20)).unwrap();
    let mut outputs = Outputs::new();
    engine.step().unwrap();
    collect(engine.drain_events(), &mut outputs);
    let short_id = engine.submit(Request { n_choices: 2, ..greedy(short.clone(), 2) }).unwrap();
    for (key, output) in run(&mut engine) {
        outputs.entry(key).or_default().tokens.extend(output.tokens);
    }
    assert_eq!(outputs[&(long_id, 0)].tokens, script(9).greedy_continuation(&long, 20));
    for choice in 0..2 {
        assert_eq!(outputs[&(short_id, choice)].tokens, script(9).greedy_continuation(&short, 2), "{choice}");
    }
}

#[test]
fn a_prompt_found_again_leaves_room_for_the_rest() {
    // 19 blocks of the 20 are remembered; only those of the window stay taken.
    let config = Config { sequences_max: 1, rows_max: 9, ..Config::default() };
    let mut engine = engine_of(config, "off", executor(9, 20));
    for prompt_len in [76, 85] {
        let prompt = prompt(3, prompt_len);
        let id = engine.submit(greedy(prompt.clone(), 1)).unwrap();
        let expected = script(9).greedy_continuation(&prompt, 1);
        assert_eq!(run(&mut engine)[&(id, 0)].tokens, expected, "{prompt_len}");
    }
}

#[test]
fn choices_share_a_prompt_of_which_the_beginning_was_given_back() {
    let mut engine = engine_of(Config { sequences_max: 2, ..Config::default() }, "off", executor(8, 40));
    let prompt = prompt(3, 60);
    let id = engine.submit(Request { n_choices: 4, ..greedy(prompt.clone(), 9) }).unwrap();
    let outputs = run(&mut engine);
    for choice in 0..4 {
        assert_eq!(outputs[&(id, choice)].tokens, script(8).greedy_continuation(&prompt, 9), "{choice}");
    }
}

/// As many may be accepted in a step as a window holds, and more.
#[test]
fn what_a_state_has_to_read_stays_though_the_window_has_passed_it() {
    for (window, n_blocks, prefix_cache) in
        (1..6).flat_map(|w| [(w, 34, false), (w, 40, true), (w, 50, false)])
    {
        let config = Config { sequences_max: 6, prefix_cache, ..suffix_configs()[1] };
        let mut engine = engine_of(config, "fixed:k=16", executor_with_states(window, n_blocks, 8));
        // The second time everything has been said before.
        for is_repeated in [false, true] {
            let ids = [0, 1, 2, 3, 4, 5].map(|salt| engine.submit(greedy(prompt(salt, 20), 60)).unwrap());
            let outputs = run(&mut engine);
            for (salt, id) in (0..).zip(ids) {
                let output = &outputs[&(id, 0)];
                assert_eq!(output.tokens, script(window).greedy_continuation(&prompt(salt, 20), 60));
                let accepted = output.finished.as_ref().unwrap().timeline.accepted;
                assert!(!is_repeated || accepted > 20, "{accepted} tokens were accepted");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn output_is_right_whatever_the_window_and_the_room(
        requests in prop::collection::vec((0..4u32, 1..90u32, 1..40u32, 1..4u32, -1..2i32), 1..12),
        policy in 0..POLICIES.len(),
        window in 1..24u32,
        n_blocks in 16..60u32,
        sequences_max in 1..6u32,
        rows_max in 9..40u32,
        prefix_cache in any::<bool>(),
        drafts in any::<bool>(),
        n_spare in prop::option::of(0..6u32),
    ) {
        let config = if drafts { suffix_configs()[1] } else { Config::default() };
        let config = Config { sequences_max, rows_max, prefix_cache, ..config };
        let executor = executor_with_states(window, n_blocks, n_states(sequences_max, n_spare));
        let mut engine = engine_of(config, POLICIES[policy], executor);
        let mut submitted = Vec::new();
        let mut outputs = Outputs::new();
        for (salt, prompt_len, tokens_max, n_choices, priority) in requests {
            let request = Request { n_choices, priority, ..greedy(prompt(salt, prompt_len), tokens_max) };
            let Ok(id) = engine.submit(request.clone()) else { continue };
            submitted.push((id, request));
            for _ in 0..salt {
                engine.step().unwrap();
                collect(engine.drain_events(), &mut outputs);
            }
        }
        for (key, output) in run(&mut engine) {
            outputs.entry(key).or_default().tokens.extend(output.tokens);
        }
        for (id, request) in submitted {
            for choice in 0..request.n_choices {
                let len = request.tokens_max.min(engine.shape().context_len_max - request.prompt.len() as u32);
                let expected = script(window).greedy_continuation(&request.prompt, len as usize);
                prop_assert_eq!(&outputs[&(id, choice)].tokens, &expected);
            }
        }
    }
}
