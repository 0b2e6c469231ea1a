//! Kernels beside the machine's limits, measured in turns so that a change of the machine's mood hits both: one table.
//!
//! `cargo bench -p dsde-kernels --bench limits [-- rounds] [type] [set]`, with a type as files name it: BF16 (the default), Q8_0, Q4_K, ...,
//! and an instruction set, in place of the best: portable, AVX2, AVX-VNNI, ...

use std::time::Instant;

use dsde_checkpoint::{Dense, Dtype};
use dsde_kernels::cpu::{Cpu, Isa, Matrix, limits};
use dsde_kernels::{Backend, Epilogue, Input, Stacking};

/// `n_in`, `n_out` of the products.
const SHAPES: [(usize, usize); 4] = [(768, 2048), (2048, 2048), (2048, 5632), (256, 768)];
const ROW_COUNTS: [usize; 9] = [1, 2, 4, 8, 12, 16, 32, 64, 128];
/// Copies of a matrix together exceed the last-level cache several times.
const ROTATED_BYTES: usize = 256 << 20;
/// Time that one measurement aims at.
const AIM_SECONDS: f64 = 0.02;

/// Times of one thing over the rounds, in seconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn sorted(&self) -> Vec<f64> {
        let mut times = self.0.clone();
        times.sort_by(f64::total_cmp);
        times
    }

    fn median(&self) -> f64 {
        self.sorted()[self.0.len() / 2]
    }

    fn min(&self) -> f64 {
        self.sorted()[0]
    }

    fn max(&self) -> f64 {
        self.sorted()[self.0.len() - 1]
    }
}

/// Mean seconds of `work` over enough calls to fill the aim; `guess` is its expected time.
fn seconds(guess: f64, mut work: impl FnMut(usize)) -> f64 {
    let n_calls = (AIM_SECONDS / guess).ceil().max(1.0) as usize;
    let start = Instant::now();
    (0..n_calls).for_each(&mut work);
    start.elapsed().as_secs_f64() / n_calls as f64
}

/// Matrices of one shape and the times of their products.
struct Bench {
    shape: (usize, usize),
    matrices: Vec<Matrix>,
    times: Vec<Times>,
}

fn bench_of(cpu: &Cpu, dtype: Dtype, shape: (usize, usize)) -> Bench {
    let (n_in, n_out) = shape;
    // Every pair of bytes is a small number, as f16 and bf16, so that scales are, too.
    let pairs = 0..n_out * dtype.row_bytes(n_in).div_ceil(2);
    let bytes: Vec<u8> =
        pairs.flat_map(|i| [(i % 251) as u8, 0x3c]).take(n_out * dtype.row_bytes(n_in)).collect();
    let dense = Dense::new(dtype, n_out, n_in, &bytes);
    let n_copies = ROTATED_BYTES.div_ceil(bytes.len());
    let matrices = (0..n_copies).map(|_| cpu.pack(&[dense], Stacking::Concat, None)).collect();
    Bench { shape, matrices, times: ROW_COUNTS.map(|_| Times::default()).into() }
}

fn main() {
    let n_rounds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(5);
    let named = |arg: String| Dtype::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(&arg));
    let dtype = std::env::args().filter_map(named).next().unwrap_or(Dtype::Bf16);
    let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let isa = std::env::args()
        .find_map(|arg| Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(&arg)));
    let cpu = Cpu::with_isa(n_threads, isa.unwrap_or(Isa::detect())).expect("the processor has the set");
    println!("{}, {}, {n_rounds} rounds, medians (min .. max)", dtype.name(), cpu.describe());
    let mut benches = SHAPES.map(|shape| bench_of(&cpu, dtype, shape));
    let (mut reads, mut peaks, mut regions) = (Times::default(), Times::default(), Times::default());
    for round in 0..=n_rounds {
        for bench in &mut benches {
            let read = seconds(0.002, |i| {
                limits::read(&cpu, &bench.matrices[i % bench.matrices.len()]);
            }) / cpu.matrix_bytes(&bench.matrices[0]) as f64;
            const N_LOOPS: usize = 100_000;
            let peak = seconds(0.005, |_| {
                limits::multiply(&cpu, dtype, N_LOOPS);
            }) / limits::multiply(&cpu, dtype, N_LOOPS) as f64;
            let region = seconds(2e-6, |_| cpu.for_each(2, &|_| ()));
            let products: Vec<f64> = ROW_COUNTS.iter().map(|&n_rows| product(&cpu, bench, n_rows)).collect();
            // The first round warms up.
            if round > 0 {
                reads.0.push(read);
                peaks.0.push(peak);
                regions.0.push(region);
                bench.times.iter_mut().zip(products).for_each(|(times, time)| times.0.push(time));
            }
        }
    }
    report(&cpu, &benches, &reads, &peaks, &regions);
}

fn product(cpu: &Cpu, bench: &Bench, n_rows: usize) -> f64 {
    let (n_in, n_out) = bench.shape;
    let x: Vec<f32> = (0..n_rows * n_in).map(|i| (i % 17) as f32 - 8.0).collect();
    let mut out = vec![0.0; n_rows * n_out];
    let guess = (n_in * n_out) as f64 * (2.0 / 35e9 + 2.0 * n_rows as f64 / 400e9);
    let input = Input { x: &x, norm: None };
    seconds(guess, |i| {
        let matrix = &bench.matrices[i % bench.matrices.len()];
        cpu.linear(input, n_rows, matrix, Epilogue::Store, &mut out);
    })
}

fn report(cpu: &Cpu, benches: &[Bench], reads: &Times, peaks: &Times, regions: &Times) {
    let rate = |seconds: f64| 1e-9 / seconds;
    println!(
        "read   {:7.1} GB/s ({:.1} .. {:.1})",
        rate(reads.median()),
        rate(reads.max()),
        rate(reads.min())
    );
    println!(
        "peak   {:7.1} GOP/s ({:.1} .. {:.1})",
        rate(peaks.median()),
        rate(peaks.max()),
        rate(peaks.min())
    );
    println!(
        "region {:7.2} us ({:.2} .. {:.2})",
        regions.median() * 1e6,
        regions.min() * 1e6,
        regions.max() * 1e6
    );
    println!("n_in x n_out | rows | us (min .. max) | GB/s (% of read) | GOP/s (% of peak) | times one row");
    for bench in benches {
        let (n_in, n_out) = bench.shape;
        for (&n_rows, times) in ROW_COUNTS.iter().zip(&bench.times) {
            let seconds = times.median();
            let bytes = cpu.matrix_bytes(&bench.matrices[0]) as f64;
            let operations = 2.0 * (n_in * n_out * n_rows) as f64;
            println!(
                "{n_in} x {n_out} | {n_rows} | {:.1} ({:.1} .. {:.1}) | {:.1} ({:.0} %) | {:.0} ({:.0} %) | {:.2}",
                seconds * 1e6,
                times.min() * 1e6,
                times.max() * 1e6,
                rate(seconds / bytes),
                100.0 * bytes * reads.median() / seconds,
                rate(seconds / operations),
                100.0 * operations * peaks.median() / seconds,
                seconds / bench.times[0].median(),
            );
        }
    }
}
