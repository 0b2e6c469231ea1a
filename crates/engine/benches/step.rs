//! What a step costs outside the executor: the bound is 20 µs plus 2 µs per sequence.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use dsde_engine::{Config, Drafter, Engine, IdleExecutor, MonotonicClock, Request, Shape, Vocabulary};
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
};

/// An engine with `n_seqs` sequences that are all decoding.
fn decoding_engine(policy: &str, n_seqs: u32) -> Engine<IdleExecutor, MonotonicClock> {
    let config = Config { drafter: Drafter::Model, rows_max: 1 << 14, ..Config::default() };
    let policy = policy.parse::<registry::Config>().expect("a known policy").build();
    let mut engine =
        Engine::new(config, policy, Arc::new(NoText), IdleExecutor(SHAPE), MonotonicClock::start())
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

criterion_group!(benches, step);
criterion_main!(benches);
