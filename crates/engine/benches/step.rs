//! What a step costs outside the executor: the bound is 20 µs plus 2 µs per sequence.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use dsde_engine::{
    Config, Drafter, Engine, IdleExecutor, MonotonicClock, Request, Shape, Suffix, Vocabulary,
};
use dsde_policy::registry;
use dsde_sampling::Params;

struct NoText;

impl Vocabulary for NoText {
    fn token_bytes(&self, _token: u32) -> &[u8] {
        b"text"
    }
}

const SHAPE: Shape = Shape {
    vocab_len: 4096,
    context_len_max: 4096,
    block_len: 16,
    n_blocks: 64 * 256,
    draft_context_len: Some(4096),
    draft_reads_target: false,
    window: None,
    n_states: 0,
};

/// An engine with `n_seqs` sequences that are all decoding.
fn decoding_engine(policy: &str, n_seqs: u32) -> Engine {
    let config = Config { drafter: Drafter::Model, rows_max: 1 << 14, ..Config::default() };
    let policy = policy.parse::<registry::Config>().expect("a known policy").build();
    let mut engine =
        Engine::new(config, policy, Arc::new(NoText), Box::new(IdleExecutor(SHAPE)), MonotonicClock::start())
            .expect("the configuration is valid");
    for i in 0..n_seqs {
        let request = Request::new(vec![1 + i; 100], Params::greedy(), 3900);
        engine.submit(request).expect("the request is valid");
    }
    for _ in 0..8 {
        engine.step().expect("nothing fails here");
    }
    engine.drain_events();
    engine
}

fn step(c: &mut Criterion) {
    for policy in ["off", "fixed:k=4", "dsde", "dsde:cap=mean"] {
        let mut group = c.benchmark_group(format!("step/{policy}"));
        for n_seqs in [1, 8, 32, 64] {
            group.bench_function(BenchmarkId::from_parameter(n_seqs), |b| {
                b.iter_batched_ref(
                    || decoding_engine(policy, n_seqs),
                    |engine| {
                        // Enough steps that building the engine does not matter, few enough that nothing ends.
                        for _ in 0..100 {
                            engine.step().expect("nothing fails here");
                            engine.drain_events();
                        }
                    },
                    BatchSize::LargeInput,
                );
            });
        }
        group.finish();
    }
}

/// A text of words of one to eight tokens from a dictionary of 500, as in languages, the more frequent ones shorter.
fn words(n_tokens: usize) -> Vec<u32> {
    let mut state = 1_u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut text = Vec::with_capacity(n_tokens + 8);
    while text.len() < n_tokens {
        let word = random(500).min(random(500)) as u32;
        text.extend((0..1 + word / 64).map(|i| (word * 37 + i * 501) % SHAPE.vocab_len));
    }
    text.truncate(n_tokens);
    text
}

/// An engine with one sequence that is decoding and drafts what repeats.
fn repeating_engine(prompt: Vec<u32>) -> Engine {
    let config =
        Config { drafter: Drafter::Suffix(Suffix::default()), rows_max: 1 << 16, ..Config::default() };
    let context_len_max = prompt.len() as u32 + 4096;
    let shape = Shape { context_len_max, n_blocks: context_len_max / SHAPE.block_len + 1, ..SHAPE };
    let policy = "fixed:k=8".parse::<registry::Config>().expect("a known policy").build();
    let mut engine =
        Engine::new(config, policy, Arc::new(NoText), Box::new(IdleExecutor(shape)), MonotonicClock::start())
            .expect("the configuration is valid");
    engine.submit(Request::new(prompt, Params::greedy(), 4000)).expect("the request is valid");
    for _ in 0..4 {
        engine.step().expect("nothing fails here");
    }
    engine
}

/// Steps of one sequence without a draft model, which reads its text and offers what repeats.
fn suffix(c: &mut Criterion) {
    let mut group = c.benchmark_group("suffix");
    for n_tokens in [1_000, 8_000, 100_000] {
        let texts = [("words", words(n_tokens)), ("one word", vec![7; n_tokens])];
        for (name, prompt) in texts {
            group.bench_function(BenchmarkId::new(name, n_tokens), |b| {
                b.iter_batched_ref(
                    || repeating_engine(prompt.clone()),
                    |engine| {
                        for _ in 0..100 {
                            engine.step().expect("nothing fails here");
                            engine.drain_events();
                        }
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, step, suffix);
criterion_main!(benches);
