//! Requests through the engine and an executor, to their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dsde_engine::{
    Config, CountingClock, Drafter, Engine, Event, Executor, Request, StepReport, Suffix, Vocabulary,
};
use dsde_policy::{Fixed, Policy};
use dsde_sampling::{Params, TokenLogprobs};

/// No token has text.
pub(crate) struct NoText;

impl Vocabulary for NoText {
    fn token_bytes(&self, _token: u32) -> &[u8] {
        &[]
    }
}

/// What a run emitted, and the sums of its steps.
#[derive(Default)]
pub(crate) struct Run {
    pub(crate) outputs: BTreeMap<(u64, u32), Vec<u32>>,
    /// Of prompts.
    pub(crate) scored: BTreeMap<u64, Vec<TokenLogprobs>>,
    /// Of tokens drafted, verified, accepted, drafted ahead and carried, and the largest number of lent blocks.
    pub(crate) sums: StepReport,
    pub(crate) preemptions: u32,
    pub(crate) cached_tokens: u32,
}

/// Runs requests to their end under a policy, drafted for by the draft model.
pub(crate) fn run(
    executor: impl Executor + 'static,
    policy: impl Policy + 'static,
    config: Config,
    requests: &[Request],
) -> Run {
    run_as(executor, policy, Config { drafter: Drafter::Model, ..config }, requests)
}

/// The same, drafted for by whom `config` says.
pub(crate) fn run_as(
    executor: impl Executor + 'static,
    policy: impl Policy + 'static,
    config: Config,
    requests: &[Request],
) -> Run {
    // Policies that learn from times are to choose alike however busy the machine is.
    let clock = CountingClock::new(Duration::from_millis(1));
    let mut engine =
        Engine::new(config, Box::new(policy), Arc::new(NoText), Box::new(executor), clock).unwrap();
    for request in requests {
        engine.submit(request.clone()).unwrap();
    }
    let mut run = Run::default();
    while !engine.is_idle() {
        let report = engine.step().unwrap();
        run.sums.drafted += report.drafted;
        run.sums.verified += report.verified;
        run.sums.accepted += report.accepted;
        run.sums.ahead += report.ahead;
        run.sums.carried += report.carried;
        run.sums.blocks_lent = run.sums.blocks_lent.max(report.blocks_lent);
        for event in engine.drain_events() {
            match event {
                Event::Scored(scored) => {
                    run.scored.entry(scored.request.0).or_default().extend(scored.logprobs);
                }
                Event::Emitted(emission) => {
                    let output = run.outputs.entry((emission.request.0, emission.choice)).or_default();
                    output.extend(emission.tokens.iter().map(|emitted| emitted.token));
                }
                Event::Finished(finished) => {
                    run.preemptions += finished.timeline.preemptions;
                    run.cached_tokens += finished.timeline.cached_tokens;
                }
            }
        }
    }
    run
}

/// Tokens of the fixtures' vocabularies, others with another salt.
pub(crate) fn prompt(salt: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (salt + i * i + i) % 48).collect()
}

/// Of several kinds, of `tokens_max` tokens each: the second draws with a seed, the third begins as the first does, the last has two choices.
pub(crate) fn mixed_requests(tokens_max: u32) -> Vec<Request> {
    let prompts = [prompt(0, 38), prompt(5, 7), [prompt(0, 38), prompt(9, 9)].concat(), prompt(7, 21)];
    let mut requests = prompts.map(|prompt| Request::new(prompt, Params::greedy(), tokens_max)).to_vec();
    requests[1].params = Params { temperature: 0.8, seed: Some(7), ..Params::greedy() };
    requests[3].n_choices = 2;
    requests
}

/// Requests give `expected` however few run and however few rows a step has, with prefixes from the cache and guesses of what repeats.
///
/// * `limits`: sequences and rows of a step.
pub(crate) fn chunks_and_cached_prefixes_change_nothing<E: Executor + 'static>(
    executor: impl Fn() -> E,
    requests: &[Request],
    expected: &Run,
    limits: &[(u32, u32)],
) {
    let mut cached_tokens = 0;
    for &(sequences_max, rows_max) in limits {
        let drafter = Drafter::Suffix(Suffix::default());
        let config = Config { sequences_max, rows_max, drafter, ..Config::default() };
        let got = run_as(executor(), Fixed::new(3), config, requests);
        assert_eq!(got.outputs, expected.outputs, "{sequences_max} sequences, {rows_max} rows");
        cached_tokens += got.cached_tokens;
    }
    assert!(cached_tokens > 0, "prefixes are found");
}
