//! Everything a request can ask for, one fact at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::*;
use dsde_engine::{
    Config, ConfigError, Constraint, ConstraintError, Drafter, FinishReason, Grammar, Origin, Refused,
    Request, RequestId, Script, Shape, Slo, Stop, Suffix, Vocabulary,
};
use dsde_sampling::Params;

fn text_of(tokens: &[u32]) -> String {
    tokens.iter().map(|&t| (b'a' + t as u8) as char).collect()
}

#[test]
fn a_stop_token_ends_the_sequence_and_adds_no_text() {
    let prompt = prompt(2, 9);
    let expected = Script::default().greedy_continuation(&prompt, 40);
    let stop_token = expected[10];
    let n = expected.iter().position(|&t| t == stop_token).unwrap();
    for policy in ["off", "fixed:k=6", "ahead:4:fixed:k=3", "beams:6x3"] {
        let mut engine = engine(model_config(), policy, 100);
        let mut request = greedy(prompt.clone(), 40);
        request.stop = Stop { tokens: vec![stop_token], strings: vec![] };
        let id = engine.submit(request).unwrap();
        let output = &run(&mut engine)[&(id, 0)];
        assert_eq!((&output.tokens[..], output.reason()), (&expected[..=n], FinishReason::Stop), "{policy}");
        assert_eq!(output.text, text_of(&expected[..n]));
    }
}

#[test]
fn a_stop_string_across_tokens_is_cut_off() {
    let prompt = prompt(3, 5);
    let expected = Script::default().greedy_continuation(&prompt, 40);
    let stop = text_of(&expected[17..20]);
    let text = text_of(&expected);
    let kept = text.find(&stop).unwrap();
    for policy in ["off", "fixed:k=8", "ahead:4:fixed:k=3", "dsde", "beams:6x3"] {
        let mut engine = engine(model_config(), policy, 100);
        let mut request = greedy(prompt.clone(), 40);
        request.stop.strings = vec![stop.clone(), "ZZ".to_owned()];
        let id = engine.submit(request).unwrap();
        let output = &run(&mut engine)[&(id, 0)];
        assert_eq!((output.text.as_str(), output.reason()), (&text[..kept], FinishReason::Stop), "{policy}");
        assert_eq!(output.tokens, expected[..kept + 3]);
    }
}

/// Every token is a space, but for a special one.
struct Spaces {
    special: u32,
}

impl Vocabulary for Spaces {
    fn token_bytes(&self, token: u32) -> &[u8] {
        if token == self.special { b"" } else { b" " }
    }

    fn special_bytes(&self, token: u32) -> &[u8] {
        if token == self.special { b"<x>" } else { b"" }
    }
}

/// Text and tokens of an answer of 40 tokens, of which the first special one has `n` before it.
fn with_special_token(policy: &str, change: impl Fn(&mut Request)) -> (String, usize, usize) {
    let prompt = prompt(3, 5);
    let expected = Script::default().greedy_continuation(&prompt, 40);
    let special = expected[10];
    let n = expected.iter().position(|&token| token == special).unwrap();
    let mut engine = engine_with_words(policy, Spaces { special });
    let mut request = greedy(prompt, 40);
    change(&mut request);
    let id = engine.submit(request).unwrap();
    let output = run(&mut engine).remove(&(id, 0)).unwrap();
    (output.text, output.tokens.len(), n)
}

#[test]
fn a_special_token_can_be_stopped_at_and_is_shown_only_if_asked_for() {
    for policy in ["off", "fixed:k=6", "ahead:4:fixed:k=3", "beams:6x3"] {
        for stop in ["<x>", " <x>"] {
            let (text, n_tokens, n) = with_special_token(policy, |request| {
                request.stop.strings = vec![stop.to_owned()];
            });
            assert_eq!((text.len(), n_tokens), (n - (stop.len() - 3), n + 1), "{policy} {stop}");
        }
        let (hidden, ..) = with_special_token(policy, |_| ());
        assert_eq!(hidden.trim_start(), "", "{policy}");
        let (shown, _, n) = with_special_token(policy, |request| request.shows_special_tokens = true);
        assert_eq!(shown.find("<x>"), Some(n), "{policy}");
        assert_eq!(shown.replace("<x>", ""), hidden, "{policy}");
    }
}

#[test]
fn one_leading_space_can_be_dropped() {
    for policy in ["off", "fixed:k=6"] {
        let (whole, ..) = with_special_token(policy, |_| ());
        let (dropped, ..) = with_special_token(policy, |request| request.drops_leading_space = true);
        assert_eq!(dropped.len(), whole.len() - 1, "{policy}");
    }
}

#[test]
fn stop_tokens_are_impossible_before_tokens_min() {
    let prompt = prompt(2, 9);
    let first = Script::default().greedy_continuation(&prompt, 1)[0];
    for policy in ["off", "fixed:k=6", "ahead:4:fixed:k=3", "beams:6x3"] {
        let mut engine = engine(model_config(), policy, 100);
        let mut request = greedy(prompt.clone(), 200);
        request.stop.tokens = (0..31).filter(|&t| t != (first + 1) % 31).collect();
        request.tokens_min = 15;
        let id = engine.submit(request).unwrap();
        let output = &run(&mut engine)[&(id, 0)];
        // 30 of 31 tokens stop: until the minimum only the remaining one is possible, then an end comes soon.
        assert_eq!(output.tokens[..15], [(first + 1) % 31; 15], "{policy}");
        assert_eq!(output.reason(), FinishReason::Stop);
    }
}

#[test]
fn length_ends_at_tokens_max_and_at_the_end_of_the_context() {
    for (prompt_len, tokens_max, expected) in [(5, 1, 1), (5, 17, 17), (250, 100, 6), (255, 100, 1)] {
        for policy in ["off", "fixed:k=8", "ahead:4:fixed:k=3", "beams:8x8"] {
            let mut engine = engine(model_config(), policy, 100);
            let id = engine.submit(greedy(prompt(1, prompt_len), tokens_max)).unwrap();
            let output = &run(&mut engine)[&(id, 0)];
            assert_eq!(
                (output.tokens.len(), output.reason()),
                (expected, FinishReason::Length),
                "{prompt_len} {policy}"
            );
        }
    }
}

#[test]
fn a_prompt_may_fill_the_context_if_nothing_is_asked_for() {
    // The context has 256 tokens, and 64 blocks of 4 slots hold no more.
    for (policy, n_choices) in [("off", 1), ("fixed:k=8", 2), ("ahead:4:fixed:k=3", 1), ("beams:8x8", 2)] {
        let mut engine = engine(model_config(), policy, 64);
        let full = Request { n_choices, scores_prompt: true, ..greedy(prompt(1, 256), 0) };
        let id = engine.submit(full.clone()).unwrap();
        let outputs = run(&mut engine);
        for choice in 0..n_choices {
            let output = &outputs[&(id, choice)];
            assert_eq!((output.tokens.len(), output.reason()), (0, FinishReason::Length), "{policy}");
        }
        let shape = engine.shape();
        let refused = |tokens_max, prompt_len| {
            let request = Request { prompt: prompt(1, prompt_len), tokens_max, ..full.clone() };
            request.check(&shape).unwrap_err().to_string()
        };
        let context = "this model's maximum context length is 256 tokens, and the prompt has";
        assert!(
            refused(1, 256).ends_with(&format!("{context} 256 tokens, at most 255 fit beside an answer"))
        );
        assert!(refused(0, 257).ends_with(&format!("{context} 257 tokens, at most 256 fit")));
    }
}

#[test]
fn choices_share_the_prompt_and_differ_in_their_draws() {
    for policy in ["off", "fixed:k=4", "beams:4x3"] {
        let mut engine = engine(model_config(), policy, 200);
        let params = Params { temperature: 1.0, seed: Some(5), ..Params::greedy() };
        let mut request = Request::new(prompt(4, 22), params.clone(), 30);
        request.n_choices = 4;
        let id = engine.submit(request).unwrap();
        let outputs = run(&mut engine);
        let texts: std::collections::BTreeSet<_> = (0..4).map(|c| outputs[&(id, c)].tokens.clone()).collect();
        assert_eq!(texts.len(), 4, "four different continuations");
        for choice in 1..4 {
            let timeline = outputs[&(id, choice)].finished.as_ref().unwrap().timeline;
            assert_eq!(timeline.cached_tokens, 21, "all but the last prompt token is shared");
        }
        // The first choice is the request with n = 1.
        let mut alone = crate::common::engine(model_config(), policy, 200);
        let id_alone = alone.submit(Request::new(prompt(4, 22), params, 30)).unwrap();
        assert_eq!(run(&mut alone)[&(id_alone, 0)].tokens, outputs[&(id, 0)].tokens, "{policy}");
    }
}

#[test]
fn greedy_choices_are_equal_and_right_in_tight_memory() {
    // A prompt of 22 tokens ends inside a block: every choice copies it before writing.
    for (n_blocks, policy) in [12, 16, 40].into_iter().flat_map(|n| [(n, "fixed:k=3"), (n, "beams:3x3")]) {
        let mut engine = engine(model_config(), policy, n_blocks);
        let mut request = greedy(prompt(4, 22), 20);
        request.n_choices = 5;
        let id = engine.submit(request).unwrap();
        let outputs = run(&mut engine);
        let expected = Script::default().greedy_continuation(&prompt(4, 22), 20);
        for choice in 0..5 {
            assert_eq!(
                outputs[&(id, choice)].tokens,
                expected,
                "choice {choice}, {policy}, {n_blocks} blocks"
            );
        }
    }
}

#[test]
fn a_repeated_prompt_comes_from_the_prefix_cache_for_target_and_draft() {
    check_prefix_cache("fixed:k=3");
    check_prefix_cache("beams:3x3");
}

fn check_prefix_cache(policy: &str) {
    let mut engine = engine(model_config(), policy, 100);
    let request = greedy(prompt(6, 33), 10);
    let first = engine.submit(request.clone()).unwrap();
    let before = run(&mut engine);
    let second = engine.submit(request).unwrap();
    let report = engine.step().unwrap();
    // 8 full blocks of 4 are shared; the 33rd token is computed, and the draft reads no more than that.
    assert_eq!(report.target_rows, 1 + report.verified);
    assert!(report.drafted > 0);
    let mut after = Outputs::new();
    collect(engine.drain_events(), &mut after);
    for (key, output) in run(&mut engine) {
        let so_far = after.entry(key).or_default();
        so_far.tokens.extend(output.tokens);
        so_far.finished = output.finished;
    }
    assert_eq!(before[&(first, 0)].tokens, after[&(second, 0)].tokens);
    assert_eq!(after[&(second, 0)].finished.as_ref().unwrap().timeline.cached_tokens, 32);
    engine.clear_prefix_cache();
    engine.check_invariants();
}

#[test]
fn requests_of_different_salts_share_no_blocks() {
    let mut engine = engine(model_config(), "fixed:k=2", 100);
    let mut cached = |salt: &str| {
        let request = Request { salt: salt.to_owned(), ..greedy(prompt(6, 33), 10) };
        let id = engine.submit(request).unwrap();
        let output = run(&mut engine).remove(&(id, 0)).unwrap();
        (output.finished.unwrap().timeline.cached_tokens, output.tokens)
    };
    let (first, tokens) = cached("");
    assert_eq!(first, 0);
    // Salts that look like the tokens of a prompt are not taken for them.
    for salt in ["a", "b", "ab", "\u{0}"] {
        assert_eq!(cached(salt), (0, tokens.clone()), "{salt:?} for the first time");
        assert_eq!(cached(salt), (32, tokens.clone()), "{salt:?} again");
    }
    assert_eq!(cached(""), (32, tokens));
}

#[test]
fn cancellation_frees_everything_at_once_wherever_the_request_is() {
    for steps in 0..12 {
        let mut engine = engine(Config { rows_max: 8, sequences_max: 2, ..model_config() }, "fixed:k=3", 60);
        let mut request = greedy(prompt(1, 30), 50);
        request.n_choices = 3;
        let doomed = engine.submit(request).unwrap();
        let other = engine.submit(greedy(prompt(2, 10), 20)).unwrap();
        for _ in 0..steps {
            engine.step().unwrap();
        }
        let mut outputs = Outputs::new();
        assert!(engine.cancel(doomed));
        assert!(!engine.cancel(doomed), "nothing is left of it");
        engine.check_invariants();
        collect(engine.drain_events(), &mut outputs);
        for choice in 0..3 {
            assert_eq!(outputs[&(doomed, choice)].reason(), FinishReason::Cancelled, "after {steps} steps");
        }
        for (key, output) in run(&mut engine) {
            let so_far = outputs.entry(key).or_default();
            so_far.tokens.extend(output.tokens);
        }
        assert_eq!(outputs[&(other, 0)].tokens, Script::default().greedy_continuation(&prompt(2, 10), 20));
    }
}

#[test]
fn a_cut_request_ends_by_its_length_with_all_of_its_text() {
    for steps in 0..12 {
        let mut engine = engine(Config { rows_max: 8, sequences_max: 2, ..model_config() }, "fixed:k=3", 60);
        let whole = Script::default().greedy_continuation(&prompt(1, 10), 50);
        let mut request = greedy(prompt(1, 10), 50);
        request.n_choices = 3;
        // The text itself and one letter more: all of it is held back until the end.
        request.stop.strings = vec![text_of(&whole) + "!"];
        let id = engine.submit(request).unwrap();
        let mut outputs = Outputs::new();
        for _ in 0..steps {
            engine.step().unwrap();
            collect(engine.drain_events(), &mut outputs);
        }
        assert!(outputs.values().all(|output| output.text.is_empty()));
        assert!(engine.cut(id));
        assert!(!engine.cut(id), "nothing is left of it");
        engine.check_invariants();
        collect(engine.drain_events(), &mut outputs);
        for choice in 0..3 {
            let output = &outputs[&(id, choice)];
            assert_eq!(output.reason(), FinishReason::Length, "after {steps} steps");
            assert_eq!(output.tokens, whole[..output.tokens.len()]);
            assert_eq!(output.text, text_of(&output.tokens), "after {steps} steps");
        }
    }
}

#[test]
fn better_priority_runs_first_and_preempts() {
    let mut engine = engine(Config { sequences_max: 1, ..model_config() }, "off", 60);
    let slow = engine.submit(greedy(prompt(1, 10), 30)).unwrap();
    for _ in 0..5 {
        engine.step().unwrap();
    }
    let mut urgent_request = greedy(prompt(2, 10), 5);
    urgent_request.priority = -1;
    let urgent = engine.submit(urgent_request).unwrap();
    let mut equal = greedy(prompt(3, 10), 5);
    equal.priority = 0;
    let later = engine.submit(equal).unwrap();
    let outputs = run(&mut engine);
    let finished = |id| outputs[&(id, 0)].finished.as_ref().unwrap().timeline;
    assert!(finished(urgent).finished < finished(slow).finished);
    assert!(finished(slow).finished < finished(later).finished, "equal priorities keep their order");
    assert_eq!(finished(slow).preemptions, 1);
}

#[test]
fn origins_tell_how_tokens_came_to_be() {
    let mut engine = engine(model_config(), "fixed:k=4", 60);
    let id = engine.submit(greedy(prompt(1, 10), 60)).unwrap();
    let outputs = run(&mut engine);
    let output = &outputs[&(id, 0)];
    let timeline = output.finished.as_ref().unwrap().timeline;
    let count = |origin| output.origins.iter().filter(|&&o| o == origin).count() as u32;
    assert_eq!(count(Origin::Accepted), timeline.accepted);
    assert!(count(Origin::Recovered) > 0 && count(Origin::Bonus) > 0);
    assert_eq!(output.tokens.len() as u32, timeline.emitted);
    assert!(timeline.arrival < timeline.admitted.unwrap());
    assert!(timeline.admitted.unwrap() < timeline.first_token.unwrap());
    assert!(timeline.first_token.unwrap() < timeline.finished);
}

#[test]
fn rejected_drafts_are_told_beside_the_tokens_that_came_instead() {
    for policy in ["fixed:k=4", "beams:4x3", "off"] {
        for params in [Params::greedy(), Params { temperature: 1.0, ..Params::greedy() }] {
            check_rejected(policy, &params);
        }
    }
}

fn check_rejected(policy: &str, params: &Params) {
    let output_of = |tells_rejected| {
        let mut engine = engine(model_config(), policy, 200);
        let request = Request { tells_rejected, ..Request::new(prompt(1, 10), params.clone(), 60) };
        let id = engine.submit(request).unwrap();
        run(&mut engine).remove(&(id, 0)).unwrap()
    };
    let (silent, output) = (output_of(false), output_of(true));
    assert_eq!((&silent.tokens, silent.finished), (&output.tokens, output.finished.clone()), "{policy}");
    assert!(silent.rejected.iter().all(Vec::is_empty), "only who asks is told");
    for ((branches, &token), &origin) in output.rejected.iter().zip(&output.tokens).zip(&output.origins) {
        assert!(branches.iter().all(|branch| !branch.is_empty() && branch[0] != token), "{policy}");
        if policy.starts_with("fixed") {
            assert_eq!(branches.len(), usize::from(origin == Origin::Recovered));
        }
    }
    let timeline = output.finished.unwrap().timeline;
    let n_rejected = output.rejected.iter().flatten().flatten().count() as u32;
    match policy.starts_with("beams") {
        // Branches may share their first tokens.
        true => assert!(n_rejected >= timeline.verified - timeline.accepted),
        false => assert_eq!(n_rejected, timeline.verified - timeline.accepted, "{policy}"),
    }
}

/// Ends an answer after some tokens, or loses its way there.
#[derive(Clone, Debug)]
struct Ending {
    n_left: usize,
    is_lost: bool,
}

impl Grammar for Ending {
    fn begin(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

impl Constraint for Ending {
    fn allow(&mut self, path: &[u32], mask: &mut [u32]) -> Result<bool, ConstraintError> {
        mask.fill(u32::MAX);
        match self.is_lost && path.len() >= self.n_left {
            true => Err(ConstraintError("too much".to_owned())),
            false => Ok(true),
        }
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<bool, ConstraintError> {
        self.n_left = self.n_left.saturating_sub(tokens.len());
        Ok(self.n_left == 0)
    }
}

#[test]
fn a_complete_form_ends_the_answer_and_a_lost_one_fails_it_alone() {
    let mut engine = engine(model_config(), "fixed:k=3", 200);
    let with_form = |salt, is_lost| {
        let grammar: Arc<dyn Grammar> = Arc::new(Ending { n_left: 10, is_lost });
        Request { grammar: Some(grammar), ..greedy(prompt(salt, 9), 60) }
    };
    let complete = engine.submit(with_form(1, false)).unwrap();
    let lost = engine.submit(with_form(2, true)).unwrap();
    let free = engine.submit(greedy(prompt(3, 9), 60)).unwrap();
    let outputs = run(&mut engine);
    let output = |id| &outputs[&(id, 0)];
    assert_eq!(output(complete).reason(), FinishReason::Stop);
    assert!(
        (10..14).contains(&output(complete).tokens.len()),
        "the step in which it is complete is the last"
    );
    assert_eq!(output(lost).reason(), FinishReason::FormLost);
    assert_eq!((output(free).reason(), output(free).tokens.len()), (FinishReason::Length, 60));
}

/// Counts the answers that have begun.
#[derive(Debug, Default)]
struct Counted(AtomicUsize);

impl Grammar for Counted {
    fn begin(&self) -> Box<dyn Constraint> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::new(Ending { n_left: usize::MAX, is_lost: false })
    }
}

#[test]
fn answers_that_wait_have_begun_no_form() {
    let mut engine = engine(Config { sequences_max: 2, ..model_config() }, "fixed:k=3", 200);
    let grammar = Arc::new(Counted::default());
    for salt in 0..5 {
        let form: Arc<dyn Grammar> = grammar.clone();
        engine.submit(Request { grammar: Some(form), ..greedy(prompt(salt, 9), 12) }).unwrap();
    }
    let n_begun = || grammar.0.load(Ordering::Relaxed);
    assert_eq!(n_begun(), 0);
    engine.step().unwrap();
    assert!(n_begun() <= 2, "{} of two that run", n_begun());
    run(&mut engine);
    assert_eq!(n_begun(), 5, "each once");
}

#[test]
fn bad_requests_are_refused_with_what_was_expected() {
    let mut engine = engine(Config { waiting_max: 2, ..model_config() }, "off", 100);
    let good = || greedy(prompt(1, 4), 4);
    let cases: Vec<(Request, &str)> = vec![
        (greedy(vec![], 4), "the prompt is empty; at least one token is needed"),
        (
            greedy(vec![1; 256], 4),
            "the prompt is too long: this model's maximum context length is 256 tokens, and the prompt has 256 tokens, \
             at most 255 fit beside an answer",
        ),
        (greedy(vec![31], 4), "token 31 is outside the vocabulary of 31 tokens"),
        (Request { tokens_min: 5, ..good() }, "tokens_min must be in 0..=4, got 5"),
        (Request { n_choices: 0, ..good() }, "n_choices must be in 1..=128, got 0"),
        (Request { n_choices: 129, ..good() }, "n_choices must be in 1..=128, got 129"),
        (
            Request { n_choices: 3, ..good() },
            "0 sequences are waiting already, at most 2 may; try again later",
        ),
        (
            Request { stop: Stop { strings: vec![String::new()], tokens: vec![] }, ..good() },
            "bytes of a stop string must be in 1..=1024, got 0",
        ),
        (
            Request { stop: Stop { strings: vec!["x".into(); 17], tokens: vec![] }, ..good() },
            "number of stop strings must be in 0..=16, got 17",
        ),
        (Request { salt: "x".repeat(257), ..good() }, "bytes of the salt must be in 0..=256, got 257"),
        (
            Request { slo: Slo { ttft_ms_max: Some(f64::NAN), tpot_ms_max: None }, ..good() },
            "ttft_ms_max must be a positive number of milliseconds, got NaN",
        ),
    ];
    for (request, expected) in cases {
        let refused = engine.submit(request).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    let params = Params { temperature: f32::NAN, ..Params::greedy() };
    let refused = engine.submit(Request::new(vec![1], params, 1)).unwrap_err();
    assert!(matches!(refused, Refused::Sampling(_)));
    assert!(engine.is_idle());
}

#[test]
fn contradictory_configurations_are_refused() {
    let plain = Shape { draft_context_len: None, ..shape(100) };
    let check = |config: Config, expected: ConfigError| assert_eq!(config.check(&plain), Err(expected));
    check(model_config(), ConfigError::NoDraftModel);
    let rows = ConfigError::OutOfRange { name: "rows_max", got: 8, min: 64, max: 65536 };
    check(Config { rows_max: 8, ..Config::default() }, rows);
    let suffix = |suffix, name, got, min, max| {
        let config = Config { drafter: Drafter::Suffix(suffix), ..Config::default() };
        check(config, ConfigError::OutOfRange { name, got, min, max });
    };
    suffix(Suffix { match_min: 65, ..Suffix::default() }, "match_min", 65, 1, 64);
    suffix(Suffix { reach: 0, ..Suffix::default() }, "reach", 0, 1, 64);
    suffix(Suffix { answer_tokens: 100, ..Suffix::default() }, "answer_tokens", 100, 4096, 1 << 26);
    let states = |n_states| Config::default().check(&Shape { n_states, ..plain });
    assert_eq!(states(63), Err(ConfigError::TooFewStates { sequences_max: 64, n_states: 63 }));
    assert_eq!((states(0), states(64)), (Ok(()), Ok(())));
}

#[test]
fn choices_that_wait_for_their_prompt_preempt_nobody() {
    // Four of low priority fill all places; eight choices of high priority share a prompt that takes many steps to read.
    let config = Config { sequences_max: 4, rows_max: 4, prefix_cache: false, ..model_config() };
    let mut engine = engine(config, "off", 400);
    let low: Vec<_> = (0..4)
        .map(|i| engine.submit(Request { priority: 1, ..greedy(prompt(i, 12), 30) }).unwrap())
        .collect();
    for _ in 0..14 {
        engine.step().unwrap();
    }
    engine.submit(Request { n_choices: 8, ..greedy(prompt(9, 60), 5) }).unwrap();
    let mut outputs = Outputs::new();
    let mut preempted = 0;
    while !engine.is_idle() {
        preempted += engine.step().unwrap().preempted;
        collect(engine.drain_events(), &mut outputs);
    }
    let preemptions: Vec<u32> =
        low.iter().map(|id| outputs[&(*id, 0)].finished.as_ref().unwrap().timeline.preemptions).collect();
    assert!(preemptions.iter().all(|&n| n <= 1), "{preemptions:?}");
    assert_eq!(preempted, preemptions.iter().sum::<u32>(), "steps report every preemption");
}

#[test]
fn followers_start_alone_when_their_leader_is_gone() {
    // One place: the first choice runs to its end before the second starts, from the prefix cache instead of a fork.
    let mut engine = engine(Config { sequences_max: 1, ..model_config() }, "fixed:k=3", 100);
    let id = engine.submit(Request { n_choices: 3, ..greedy(prompt(4, 22), 12) }).unwrap();
    let outputs = run(&mut engine);
    for choice in 0..3 {
        assert_eq!(outputs[&(id, choice)].tokens, Script::default().greedy_continuation(&prompt(4, 22), 12));
    }
}

#[test]
fn the_batch_drafts_no_more_than_its_bound() {
    let mut engine = engine(Config { drafted_max: 7, ..model_config() }, "fixed:k=4", 400);
    for i in 0..6 {
        engine.submit(greedy(prompt(i, 5), 40)).unwrap();
    }
    let mut most = 0;
    while !engine.is_idle() {
        most = most.max(engine.step().unwrap().drafted);
    }
    assert_eq!(most, 7);
}

#[test]
fn a_profile_costs_steps_and_leaves_no_trace() {
    let prompt = prompt(5, 11);
    let expected = Script::default().greedy_continuation(&prompt, 20);
    let mut engine = engine(model_config(), "fixed:k=3", 200);
    let profile = engine.profile_costs(Duration::from_secs(1000)).unwrap();
    // 1, 2, 4 … sequences, up to 15 steps each, less the first three.
    assert!(profile.len() > 15, "{}", profile.len());
    assert!(engine.is_idle() && engine.drain_events().is_empty());
    let (free, total) = engine.blocks_free_and_total();
    assert_eq!(free, total);
    let id = engine.submit(greedy(prompt, 20)).unwrap();
    assert_eq!(id, RequestId(0));
    let output = &run(&mut engine)[&(id, 0)];
    assert_eq!(output.tokens, expected);
    assert_eq!(output.finished.as_ref().unwrap().timeline.cached_tokens, 0);
    assert!(output.finished.as_ref().unwrap().timeline.drafted > 0, "the policy is back");
}

#[test]
fn a_profile_ends_in_time_and_needs_an_idle_engine_with_a_draft() {
    let profile_len = |config: Config, n_requests: u32, ms| {
        let mut engine = engine(config, "off", 200);
        for i in 0..n_requests {
            engine.submit(greedy(prompt(i, 4), 4)).unwrap();
        }
        engine.profile_costs(Duration::from_millis(ms)).unwrap().len()
    };
    let whole = profile_len(model_config(), 0, 1_000_000);
    let short = profile_len(model_config(), 0, 60);
    assert!((1..whole / 4).contains(&short), "{short} of {whole}");
    assert_eq!(profile_len(model_config(), 1, 1000), 0);
    assert_eq!(profile_len(Config { drafter: Drafter::None, ..model_config() }, 0, 1000), 0);
}

#[test]
fn a_profile_fits_into_small_stores() {
    let mut engine = engine(model_config(), "off", 12);
    assert!(!engine.profile_costs(Duration::from_secs(1000)).unwrap().is_empty());
    engine.check_invariants();
}
