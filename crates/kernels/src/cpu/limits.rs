//! What this machine can do at most, to judge kernels against: work without a clock, which benchmarks time.

use super::Cpu;
use super::matrix::Matrix;

/// Bytes that one thread reads at a time, in order.
const RUN_BYTES: usize = 1 << 20;

/// Reads the packed weights of a matrix once on all threads, doing nothing else; returns the bytes read.
pub fn read(cpu: &Cpu, matrix: &Matrix) -> usize {
    let runs: Vec<&[u64]> =
        matrix.words().flat_map(|words| words.chunks(RUN_BYTES / size_of::<u64>())).collect();
    cpu.pool.run(runs.len(), &|i| {
        std::hint::black_box(fold(cpu.isa, runs[i]));
    });
    runs.into_iter().map(size_of_val).sum()
}

super::isa::dispatch! {
    /// Exclusive or of all words, in as many chains as a core has loads in flight.
    fn fold(words: &[u64]) -> u64 {
        let mut parts = [0; 64];
        for chunk in words.as_chunks::<64>().0 {
            for (part, word) in parts.iter_mut().zip(chunk) {
                *part ^= word;
            }
        }
        parts.iter().fold(0, |all, part| all ^ part)
    }
}

/// Multiplies and adds in registers on all threads, with the widest instruction for bf16 weights, `n_loops` times per
/// thread; returns the floating-point operations.
pub fn multiply(cpu: &Cpu, n_loops: usize) -> usize {
    cpu.pool.run(cpu.pool.n_threads(), &|_| {
        std::hint::black_box(chains(cpu, n_loops));
    });
    cpu.pool.n_threads() * n_loops * operations_per_loop(cpu)
}

/// Independent chains, more than an operation has cycles.
const CHAINS: usize = 12;

/// Numbers per chain without intrinsics.
const WIDTH: usize = 8;

fn operations_per_loop(cpu: &Cpu) -> usize {
    match cpu.isa {
        // 16 lanes of two products and two sums.
        super::Isa::Avx512Bf16 => CHAINS * 64,
        super::Isa::Avx512 => CHAINS * 32,
        super::Isa::Avx2 | super::Isa::Portable => CHAINS * WIDTH * 2,
    }
}

fn chains(cpu: &Cpu, n_loops: usize) -> f32 {
    match cpu.isa {
        // SAFETY: `Cpu` checked that the processor has the set.
        #[cfg(target_arch = "x86_64")]
        super::Isa::Avx512Bf16 => unsafe { dot_chains(n_loops) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        super::Isa::Avx512 => unsafe { fused_chains(n_loops) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        super::Isa::Avx2 => unsafe { avx2_chains(n_loops) },
        _ => plain_chains::<false>(n_loops),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_chains(n_loops: usize) -> f32 {
    use std::arch::x86_64::*;
    let one = std::hint::black_box(_mm512_cvtne2ps_pbh(_mm512_setzero_ps(), _mm512_setzero_ps()));
    let mut chains = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..n_loops {
        for chain in &mut chains {
            *chain = _mm512_dpbf16_ps(*chain, one, one);
        }
    }
    chains.into_iter().map(|chain| _mm512_reduce_add_ps(chain)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fused_chains(n_loops: usize) -> f32 {
    use std::arch::x86_64::*;
    let one = std::hint::black_box(_mm512_set1_ps(1.0));
    let mut chains = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..n_loops {
        for chain in &mut chains {
            *chain = _mm512_fmadd_ps(one, one, *chain);
        }
    }
    chains.into_iter().map(|chain| _mm512_reduce_add_ps(chain)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_chains(n_loops: usize) -> f32 {
    plain_chains::<true>(n_loops)
}

#[inline(always)]
fn plain_chains<const FUSED: bool>(n_loops: usize) -> f32 {
    let one = std::hint::black_box([1.0_f32; WIDTH]);
    let mut chains = [[0.0_f32; WIDTH]; CHAINS];
    for _ in 0..n_loops {
        for (sum, one) in chains.iter_mut().flat_map(|chain| chain.iter_mut().zip(&one)) {
            *sum = if FUSED { one.mul_add(*one, *sum) } else { one * one + *sum };
        }
    }
    chains.iter().flatten().sum()
}
