//! Requests through the engine: the same tokens with a head as without.

use std::sync::Arc;

use dsde_engine::{Config, Constraint, ConstraintError, Grammar, Request};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::ModelExecutor;
use dsde_policy::{Off, registry};
use dsde_sampling::Params;

use super::Pair;
use super::files::{PLAIN, VOCAB};
use crate::serve::{Run, run};

const TOKENS: u32 = 60;

/// Chains, trees, pruned and overlapped ones, and every policy that needs no parameters.
pub(crate) fn policies() -> Vec<String> {
    let special = [
        "fixed:k=1",
        "fixed:k=5",
        "faser:depth=0.5",
        "faser:overlap=4",
        "ddd:width=4",
        "adaserve:w_max=4",
        "batch_schedule:table=1-2:6;3-4:1;5-:2",
    ];
    let entries = registry::ENTRIES.iter().map(|entry| entry.name);
    let complete = entries.filter(|name| name.parse::<registry::Config>().is_ok());
    special.into_iter().chain(complete).map(str::to_owned).collect()
}

fn executor<B: Backend>(backend: B, n_blocks: u32) -> ModelExecutor<B> {
    Pair::new(backend, PLAIN, n_blocks).executor
}

/// Greedy and seeded requests; some share a prefix, have several choices, or change the distribution.
fn requests(policy: &str) -> Vec<Request> {
    let shared: Vec<u32> = (0..20).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    let prompt = |i: u32| -> Vec<u32> {
        match i % 3 {
            0 => shared.clone(),
            1 => shared.iter().copied().take(18).chain([i % 20, 5]).collect(),
            // One token and 19.
            _ => (0..1 + 6 * (i - 2)).map(|j| (i * 5 + j * 11) % VOCAB as u32).collect(),
        }
    };
    let request = |i: u32| {
        let params = Params {
            temperature: if i % 4 == 3 { 0.8 } else { 0.0 },
            seed: (i % 4 == 3).then_some(u64::from(i)),
            repetition_penalty: if i % 5 == 1 { 1.3 } else { 1.0 },
            frequency_penalty: if i % 5 == 2 { 0.3 } else { 0.0 },
            logit_bias: if i % 5 == 3 { vec![(2, 4.0), (4, -100.0)] } else { Vec::new() },
            ..Params::greedy()
        };
        let mut request = Request::new(prompt(i), params, TOKENS);
        request.policy = Some(policy.parse::<registry::Config>().unwrap());
        request.n_choices = 1 + i % 2;
        if i == 4 {
            request.stop.tokens = vec![1];
            request.tokens_min = 9;
        }
        request
    };
    (0..8).map(request).collect()
}

/// Sums of what was drafted and accepted over all policies.
#[derive(Default)]
struct Sums {
    drafted: u32,
    accepted: u32,
    preemptions: u32,
    cached: u32,
}

fn output_is_that_of_plain_decoding<B: Backend>(
    backend: impl Fn() -> B,
    config: Config,
    n_blocks: u32,
    policies: &[String],
) -> Sums {
    let plain = run(executor(backend(), 96), Off, config, &requests("off")).outputs;
    let mut total = Sums::default();
    for policy in policies {
        let got: Run = run(executor(backend(), n_blocks), Off, config, &requests(policy));
        assert_eq!(got.outputs, plain, "{policy}, {n_blocks} blocks");
        assert_eq!((got.sums.ahead, got.sums.carried), (0, 0), "a head does not run ahead of its target");
        total.drafted += got.sums.drafted;
        total.accepted += got.sums.accepted;
        total.preemptions += got.preemptions;
        total.cached += got.cached_tokens;
    }
    assert!(total.accepted > 0 && total.drafted > total.accepted);
    total
}

#[test]
fn every_policy_emits_what_plain_decoding_emits() {
    let policies = policies();
    let sums = output_is_that_of_plain_decoding(|| Cpu::new(2), Config::default(), 96, &policies);
    assert!(sums.cached > 0, "prefixes are shared");
    let few = &policies[..6];
    output_is_that_of_plain_decoding(|| Reference, Config::default(), 96, &few[1..2]);
    let small = Config { sequences_max: 1, rows_max: 16, ..Config::default() };
    output_is_that_of_plain_decoding(|| Cpu::new(2), small, 96, few);
    let uncached = Config { prefix_cache: false, ..Config::default() };
    output_is_that_of_plain_decoding(|| Cpu::new(2), uncached, 96, few);
}

#[test]
fn preempted_sequences_emit_what_plain_decoding_emits() {
    let policies = policies();
    let sums = output_is_that_of_plain_decoding(|| Cpu::new(2), Config::default(), 14, &policies[..6]);
    assert!(sums.preemptions > 0, "memory is tight");
}

/// Tokens whose remainder by 3 is that of their place in the answer: a third of all at each place, of which the head guesses
/// none where the remainder is 1.
#[derive(Clone, Debug)]
struct Remainders {
    n_emitted: u32,
}

impl Grammar for Remainders {
    fn begin(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

impl Constraint for Remainders {
    fn allow(&mut self, path: &[u32], mask: &mut [u32]) -> Result<bool, ConstraintError> {
        let places = self.n_emitted..;
        if places.zip(path).any(|(place, token)| token % 3 != place % 3) {
            return Ok(false);
        }
        let place = self.n_emitted + path.len() as u32;
        for token in (0..VOCAB as u32).filter(|token| token % 3 == place % 3) {
            mask[token as usize / 32] |= 1 << (token % 32);
        }
        Ok(true)
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<bool, ConstraintError> {
        assert!((self.n_emitted..).zip(tokens).all(|(place, token)| token % 3 == place % 3));
        self.n_emitted += tokens.len() as u32;
        Ok(false)
    }
}

#[test]
fn forms_of_tokens_that_the_head_cannot_guess_are_kept() {
    let with_form = |policy: &str| -> Vec<Request> {
        let form: Arc<dyn Grammar> = Arc::new(Remainders { n_emitted: 0 });
        let mut requests = requests(policy);
        for request in &mut requests {
            (request.tokens_min, request.stop.tokens) = (0, Vec::new());
            request.grammar = Some(form.clone());
        }
        requests
    };
    let plain = run(executor(Cpu::new(2), 96), Off, Config::default(), &with_form("off")).outputs;
    assert!(plain.values().all(|output| output.len() > 5));
    for policy in policies() {
        let got = run(executor(Cpu::new(2), 96), Off, Config::default(), &with_form(&policy));
        assert_eq!(got.outputs, plain, "{policy}");
    }
}

/// Every token that the head guesses is made impossible.
#[test]
fn a_head_that_can_guess_nothing_does_no_harm() {
    let biased = |policy: &str| -> Vec<Request> {
        let mut requests = requests(policy);
        for request in &mut requests {
            let bias = super::files::guessed(VOCAB).into_iter().map(|token| (token, -100.0));
            request.params.logit_bias = bias.collect();
            request.stop.tokens = super::files::guessed(VOCAB);
            request.tokens_min = 30;
        }
        requests
    };
    let plain = run(executor(Cpu::new(2), 96), Off, Config::default(), &biased("off")).outputs;
    for policy in policies() {
        let got = run(executor(Cpu::new(2), 96), Off, Config::default(), &biased(&policy));
        assert_eq!(got.outputs, plain, "{policy}");
    }
}
