//! The gated delta rule of one layer: plain decoding, verification and prefill.

use criterion::{BenchmarkId, Criterion};
use dsde_checkpoint::config::DeltaShape;
use dsde_kernels::cpu::Cpu;
use dsde_kernels::{Backend, DeltaRows, DeltaRun, DeltaWeights};

/// That of published models of 0.8 and of 27 billion weights.
const HEADS: [[usize; 2]; 2] = [[16, 16], [16, 48]];

/// Sequences, known and proposed rows of each.
const LOADS: [[usize; 3]; 5] = [[1, 1, 0], [1, 1, 4], [8, 1, 0], [8, 1, 4], [1, 256, 0]];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let cpu = Cpu::new(std::thread::available_parallelism().map_or(1, |n| n.get()));
    for [n_key_heads, n_value_heads] in HEADS {
        let (key_dim, value_dim, conv_len) = (128, 128, 4);
        let shape = DeltaShape { n_key_heads, n_value_heads, key_dim, value_dim, conv_len, is_tiled: false };
        let convolution = vec![0.1; conv_len * shape.conv_width()];
        let (rates, biases) = (vec![-0.5; n_value_heads], vec![0.0; n_value_heads]);
        let weights = DeltaWeights { convolution: &convolution, rates: &rates, biases: &biases };
        let mut group = criterion.benchmark_group(format!("delta/{n_value_heads}:{n_key_heads}x128"));
        group.sample_size(20);
        for [n_seqs, n_known, n_proposed] in LOADS {
            let n_each = n_known + n_proposed;
            let run = |seq: usize| DeltaRun {
                state: seq,
                replayed: 0..0,
                rows: seq * n_each..(seq + 1) * n_each,
                n_known,
            };
            let runs: Vec<DeltaRun> = (0..n_seqs).map(run).collect();
            let n_rows = n_seqs * n_each;
            let parents: Vec<u32> = (0..n_rows as u32).map(|row| row.saturating_sub(1)).collect();
            let rows = DeltaRows { runs: &runs, parents: &parents };
            let inputs = vec![0.5; n_rows * shape.input_len()];
            let mut states = vec![0.0; n_seqs * cpu.state_len(shape)];
            let mut out = vec![0.0; n_rows * shape.values_width()];
            let id =
                BenchmarkId::from_parameter(format!("{n_seqs} x {n_known} known + {n_proposed} proposed"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| cpu.delta(shape, weights, &inputs, rows, &mut states, &mut out));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
