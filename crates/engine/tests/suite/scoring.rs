//! Prompts whose tokens get log-probabilities: what is told equals a plain computation, however the prompt is read.

use crate::common::*;
use dsde_engine::{Config, FinishReason, Request, Script, ScriptedExecutor, Shape};
use dsde_sampling::{Params, Rule, TokenLogprobs};
use proptest::prelude::*;

const TOP_LEN: u32 = 3;

fn scored(prompt: Vec<u32>, tokens_max: u32) -> Request {
    let params = Params { logprobs: Some(TOP_LEN), ..Params::greedy() };
    Request { scores_prompt: true, ..Request::new(prompt, params, tokens_max) }
}

/// One prefix after the other.
fn expected(prompt: &[u32]) -> Vec<TokenLogprobs> {
    let score = |end: usize| {
        let row = Script::default().target_logits(prompt[..end].iter().copied());
        TokenLogprobs::of_logits(&row, prompt[end], TOP_LEN)
    };
    (1..prompt.len()).map(score).collect()
}

#[test]
fn every_token_but_the_first_is_scored() {
    for len in [1, 2, 3, 40] {
        let mut engine = crate::common::engine(model_config(), "fixed:k=3", 100);
        let id = engine.submit(scored(prompt(1, len), 5)).unwrap();
        let outputs = run(&mut engine);
        assert_eq!(outputs[&(id, 0)].scored, expected(&prompt(1, len)), "{len} tokens");
        assert_eq!(outputs[&(id, 0)].tokens, Script::default().greedy_continuation(&prompt(1, len), 5));
    }
}

#[test]
fn cached_prefixes_are_read_again_for_their_scores() {
    let mut engine = crate::common::engine(model_config(), "off", 100);
    for request in [greedy(prompt(1, 70), 4), scored(prompt(1, 70), 4), greedy(prompt(1, 70), 4)] {
        let is_scored = request.scores_prompt;
        let id = engine.submit(request).unwrap();
        let outputs = run(&mut engine);
        let got = &outputs[&(id, 0)];
        assert_eq!(got.tokens, Script::default().greedy_continuation(&prompt(1, 70), 4));
        assert_eq!(got.scored, if is_scored { expected(&prompt(1, 70)) } else { Vec::new() });
        let cached = got.finished.as_ref().unwrap().timeline.cached_tokens;
        assert_eq!(cached > 0, id.0 == 2, "the first finds nothing, the second must not use it");
    }
}

#[test]
fn a_prompt_is_scored_once_for_all_its_choices() {
    let mut engine = crate::common::engine(model_config(), "fixed:k=2", 100);
    let id = engine.submit(Request { n_choices: 3, ..scored(prompt(2, 33), 6) }).unwrap();
    let outputs = run(&mut engine);
    assert_eq!(outputs[&(id, 0)].scored, expected(&prompt(2, 33)));
    for choice in 0..3 {
        assert_eq!(outputs[&(id, choice)].tokens, Script::default().greedy_continuation(&prompt(2, 33), 6));
    }
}

#[test]
fn nothing_may_be_asked_for_behind_a_prompt() {
    for (len, scores_prompt) in [(1, true), (1, false), (20, true), (20, false)] {
        let mut engine = crate::common::engine(model_config(), "fixed:k=4", 100);
        let id = engine.submit(Request { scores_prompt, ..scored(prompt(3, len), 0) }).unwrap();
        let outputs = run(&mut engine);
        let got = &outputs[&(id, 0)];
        assert_eq!((got.reason(), &got.tokens[..], got.text.as_str()), (FinishReason::Length, &[][..], ""));
        assert_eq!(got.scored, if scores_prompt { expected(&prompt(3, len)) } else { Vec::new() });
        assert_eq!(got.finished.as_ref().unwrap().timeline.emitted, 0);
    }
}

#[test]
fn a_failed_pass_ends_those_that_were_being_scored() {
    let executor = ScriptedExecutor::new(Script::default(), shape(100), Rule::Block).fail_at(0);
    let mut engine = engine_of(model_config(), "off", executor);
    let id = engine.submit(scored(prompt(1, 20), 5)).unwrap();
    assert!(engine.step().is_err());
    let mut outputs = Outputs::new();
    collect(engine.drain_events(), &mut outputs);
    assert_eq!(outputs[&(id, 0)].reason(), FinishReason::Failed);
    assert!(engine.is_idle());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// In any company, with any chunks, and when blocks run out so that prompts are read again.
    #[test]
    fn scores_do_not_depend_on_how_prompts_are_read(
        lens in prop::collection::vec((1..90u32, 0..12u32, any::<bool>()), 1..6),
        rows_max in 4..40u32,
        n_blocks in 26..60u32,
        prefix_cache: bool,
        n_spare in prop::option::of(0..4u32),
    ) {
        let config = Config { rows_max, sequences_max: 4, prefix_cache, ..model_config() };
        let shape = Shape { n_states: n_states(4, n_spare), ..shape(n_blocks) };
        let executor = ScriptedExecutor::new(Script::default(), shape, Rule::Block);
        let mut engine = engine_of(config, "fixed:k=2", executor);
        let mut asked = Vec::new();
        for (i, &(len, tokens_max, scores_prompt)) in lens.iter().enumerate() {
            let prompt = prompt(i as u32 % 2, len);
            let request = Request { scores_prompt, ..scored(prompt.clone(), tokens_max) };
            asked.push((engine.submit(request).unwrap(), prompt, tokens_max, scores_prompt));
        }
        let outputs = run(&mut engine);
        for (id, prompt, tokens_max, scores_prompt) in asked {
            let got = &outputs[&(id, 0)];
            prop_assert_eq!(&got.scored, &if scores_prompt { expected(&prompt) } else { Vec::new() });
            prop_assert_eq!(&got.tokens, &Script::default().greedy_continuation(&prompt, tokens_max as usize));
        }
    }
}
