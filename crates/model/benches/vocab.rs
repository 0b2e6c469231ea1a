//! Passes over a large vocabulary, portable and with the vectors of this machine.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use dsde_kernels::cpu::{Isa, Kernel};
use dsde_sampling::{Divergence, Params, Scratch, argmax, softmax};

/// Tokens, as in Llama 3.
const VOCAB_LEN: usize = 128_256;

struct Softmax<'a> {
    row: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let params = Params { temperature: 0.8, ..Params::greedy() };
        softmax(self.row, &params, self.scratch);
    }
}

struct Compare<'a>(&'a [f32], &'a [f32]);

impl Kernel for Compare<'_> {
    type Output = Divergence;

    #[inline(always)]
    fn run(self) -> Divergence {
        Divergence::of_probabilities(self.0, self.1)
    }
}

struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        argmax(self.0)
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let logits: Vec<f32> = (0..VOCAB_LEN).map(|i| ((i * 7919) % 1000) as f32 / 50.0).collect();
    for isa in [Isa::Portable, Isa::detect()] {
        let mut group = criterion.benchmark_group(format!("vocabulary/{isa:?}"));
        group.throughput(Throughput::Elements(VOCAB_LEN as u64)).sample_size(20);
        let mut scratch = Scratch::default();
        group.bench_function("softmax", |bencher| {
            let pass = |row: &mut Vec<f32>| isa.run(Softmax { row, scratch: &mut scratch });
            bencher.iter_batched_ref(|| logits.clone(), pass, BatchSize::LargeInput);
        });
        let mut p = logits.clone();
        isa.run(Softmax { row: &mut p, scratch: &mut scratch });
        let q: Vec<f32> = p.iter().rev().copied().collect();
        group.bench_function("divergence", |bencher| {
            bencher.iter(|| isa.run(Compare(black_box(&p), black_box(&q))));
        });
        group.bench_function("argmax", |bencher| bencher.iter(|| isa.run(Largest(black_box(&logits)))));
        group.finish();
    }
    criterion.final_summary();
}
