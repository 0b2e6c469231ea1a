//! No block is leaked and no output changes, whatever arrives, is cancelled or is preempted in whatever order.

use crate::common::*;
use dsde_engine::{Config, FinishReason, Request, RequestId, Script, ScriptedExecutor, Shape};
use dsde_sampling::{Params, Rule};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Submit {
        salt: u32,
        prompt_len: u32,
        tokens_max: u32,
        n_choices: u32,
        priority: i32,
        is_greedy: bool,
        chosen: Option<usize>,
    },
    Cancel {
        which: usize,
    },
    Step {
        n: u32,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let submit =
        (0..4u32, 1..60u32, 1..30u32, 1..4u32, -1..2i32, any::<bool>(), prop::option::of(0..CHOSEN.len()))
            .prop_map(|(salt, prompt_len, tokens_max, n_choices, priority, is_greedy, chosen)| {
                Action::Submit { salt, prompt_len, tokens_max, n_choices, priority, is_greedy, chosen }
            });
    prop_oneof![3 => submit, 1 => (0..20usize).prop_map(|which| Action::Cancel { which }), 3 => (1..12u32).prop_map(|n| Action::Step { n })]
}

const POLICIES: [&str; 13] = [
    "off",
    "fixed:k=3",
    "fixed:k=8,cap=mean",
    "dsde",
    "dsde:variant=released,cap=mean",
    "beams:3x3",
    "beams:6x2",
    "fickle:4x4",
    "mixed",
    "pruning",
    "faser:overlap=3",
    "ahead:3:mixed",
    "ahead:5:fickle:4x1",
];

/// Policies of single requests.
const CHOSEN: [&str; 4] = ["off", "fixed:k=6", "tetris", "adaserve"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn blocks_balance_and_greedy_output_is_right(
        actions in prop::collection::vec(action(), 1..40),
        policy in 0..POLICIES.len(),
        n_blocks in 24..90u32,
        sequences_max in 1..9u32,
        rows_max in 9..40u32,
        prefix_cache in any::<bool>(),
        draft_reads_target in any::<bool>(),
        n_spare in prop::option::of(0..6u32),
    ) {
        let config = Config { sequences_max, rows_max, prefix_cache, ..model_config() };
        let n_states = n_states(sequences_max, n_spare);
        let shape = Shape { draft_reads_target, n_states, ..shape(n_blocks) };
        let executor = ScriptedExecutor::new(Script::default(), shape, Rule::Block);
        let mut engine = engine_of(config, POLICIES[policy], executor);
        let mut submitted: Vec<(RequestId, Request)> = vec![];
        let mut outputs = Outputs::new();
        for action in actions {
            match action {
                Action::Submit { salt, prompt_len, tokens_max, n_choices, priority, is_greedy, chosen } => {
                    let temperature = if is_greedy { 0.0 } else { 0.9 };
                    let params = Params { temperature, seed: (salt % 2 == 0).then_some(u64::from(salt)), ..Params::greedy() };
                    let policy = chosen.map(|i| CHOSEN[i].parse().unwrap());
                    let request = Request { n_choices, priority, policy, ..Request::new(prompt(salt, prompt_len), params, tokens_max) };
                    let id = engine.submit(request.clone()).unwrap();
                    submitted.push((id, request));
                }
                Action::Cancel { which } => {
                    if let Some((id, _)) = submitted.get(which) {
                        engine.cancel(*id);
                        engine.check_invariants();
                    }
                }
                Action::Step { n } => {
                    for _ in 0..n {
                        engine.step().unwrap();
                    }
                },
            }
            collect(engine.drain_events(), &mut outputs);
        }
        // Debug builds check every invariant after every step; an idle engine owns no block.
        let mut n_steps = 0;
        while !engine.is_idle() {
            engine.step().unwrap();
            collect(engine.drain_events(), &mut outputs);
            n_steps += 1;
            prop_assert!(n_steps < 100_000, "no progress");
        }
        let (free, total) = engine.blocks_free_and_total();
        prop_assert_eq!(free, total);
        for (id, request) in &submitted {
            for choice in 0..request.n_choices {
                let output = &outputs[&(*id, choice)];
                let context = 256.min(n_blocks * BLOCK_LEN) as usize;
                let len = (request.tokens_max as usize).min(context - request.prompt.len());
                if request.params.is_greedy() {
                    let expected = Script::default().greedy_continuation(&request.prompt, len);
                    prop_assert_eq!(&output.tokens[..], &expected[..output.tokens.len()]);
                }
                if output.reason() == FinishReason::Length {
                    prop_assert_eq!(output.tokens.len(), len);
                } else {
                    prop_assert_eq!(output.reason(), FinishReason::Cancelled);
                }
            }
        }
    }

    /// The same requests in the same order give the same tokens: nothing depends on time, addresses or hashing.
    #[test]
    fn a_run_can_be_replayed(seeds in prop::collection::vec(any::<Option<u64>>(), 1..6), policy in 0..POLICIES.len()) {
        let outcome = || {
            let mut engine = engine(model_config(), POLICIES[policy], 40);
            for (i, &seed) in seeds.iter().enumerate() {
                let params = Params { temperature: 1.0, seed, ..Params::greedy() };
                engine.submit(Request::new(prompt(i as u32, 9), params, 25)).unwrap();
            }
            run(&mut engine).into_values().map(|o| (o.tokens, o.finished)).collect::<Vec<_>>()
        };
        prop_assert_eq!(outcome(), outcome());
    }
}
