//! Products with packed matrices that stream from memory: copies are rotated so that they exceed the last-level cache.
//!
//! For percentages of the machine's limits see the `limits` benchmark, which measures both in turns.

use criterion::{BenchmarkId, Criterion, Throughput};
use dsde_checkpoint::{Dense, Dtype};
use dsde_kernels::cpu::{Cpu, Matrix};
use dsde_kernels::{Backend, Epilogue, Input, Stacking};

/// `n_in`, `n_out`.
const SHAPES: [(usize, usize); 3] = [(768, 2048), (2048, 2048), (2048, 5632)];
const ROW_COUNTS: [usize; 4] = [1, 8, 32, 128];
/// Copies of a matrix together exceed the last-level cache several times.
const ROTATED_BYTES: usize = 128 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let cpu = Cpu::new(std::thread::available_parallelism().map_or(1, |n| n.get()));
    for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        for (n_in, n_out) in SHAPES {
            let bytes: Vec<u8> = (0..n_out * dtype.row_bytes(n_in)).map(|i| [0, 0x3c][i % 2]).collect();
            let dense = Dense::new(dtype, n_out, n_in, &bytes);
            let copies = 0..ROTATED_BYTES.div_ceil(bytes.len());
            let matrices: Vec<Matrix> = copies.map(|_| cpu.pack(&[dense], Stacking::Concat, None)).collect();
            let mut group = criterion.benchmark_group(format!("linear/{dtype:?}/{n_in}x{n_out}"));
            group.sample_size(10);
            for n_rows in ROW_COUNTS {
                let x = vec![0.5; n_rows * n_in];
                let mut out = vec![0.0; n_rows * n_out];
                let mut rotation = matrices.iter().cycle();
                group.throughput(Throughput::Elements((2 * n_rows * n_in * n_out) as u64));
                group.bench_function(BenchmarkId::from_parameter(n_rows), |bencher| {
                    bencher.iter(|| {
                        let Some(matrix) = rotation.next() else { return };
                        let input = Input { x: &x, norm: None };
                        cpu.linear(input, n_rows, matrix, Epilogue::Store, &mut out);
                    });
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
