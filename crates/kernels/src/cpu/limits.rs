//! What this machine can do at most, to judge kernels against: work without a clock, which benchmarks time.

use dsde_checkpoint::Dtype;

use super::matrix::Matrix;
use super::weights::{Activations, Format};
use super::{Cpu, Isa};

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

/// Multiplies and adds in registers on all threads, with the widest instruction for weights of `dtype`, `n_loops` times per
/// thread; returns the operations.
pub fn multiply(cpu: &Cpu, dtype: Dtype, n_loops: usize) -> usize {
    let format = Format::of(dtype, cpu.isa);
    let is_whole = matches!(format, Format::Grouped(_) | Format::GroupedDot(_)) && cpu.isa >= Isa::Avx2;
    cpu.pool.run(cpu.pool.n_threads(), &|_| {
        if is_whole {
            std::hint::black_box(whole_chains(cpu.isa, format.activations(), n_loops));
        } else {
            std::hint::black_box(chains(cpu, n_loops));
        }
    });
    let per_chain = match (cpu.isa, format.activations()) {
        _ if !is_whole => operations_per_loop(cpu) / CHAINS,
        // As many products as a vector has bytes, and as many sums.
        (Isa::Avx512Vnni | Isa::Avx512Bf16, _) => 128,
        (_, Activations::Shorts) => 32,
        _ => 64,
    };
    cpu.pool.n_threads() * n_loops * CHAINS * per_chain
}

/// What the tiles of groups multiply with.
#[cfg(target_arch = "x86_64")]
fn whole_chains(isa: Isa, activations: Activations, n_loops: usize) -> i32 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn avx512_dot(n_loops: usize) -> i32 {
        let one = std::hint::black_box(_mm512_set1_epi8(1));
        let mut chains = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..n_loops {
            chains.iter_mut().for_each(|chain| *chain = _mm512_dpbusd_epi32(*chain, one, one));
        }
        chains.into_iter().map(|chain| _mm512_reduce_add_epi32(chain)).fold(0, i32::wrapping_add)
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn avx_dot(n_loops: usize) -> i32 {
        let one = std::hint::black_box(_mm256_set1_epi8(1));
        let mut chains = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..n_loops {
            chains.iter_mut().for_each(|chain| *chain = _mm256_dpbusd_avx_epi32(*chain, one, one));
        }
        chains.into_iter().map(|chain| _mm256_extract_epi32::<0>(chain)).fold(0, i32::wrapping_add)
    }

    #[target_feature(enable = "avx2")]
    fn avx2(is_bytes: bool, n_loops: usize) -> i32 {
        let one = std::hint::black_box(_mm256_set1_epi8(1));
        let mut chains = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..n_loops {
            for chain in &mut chains {
                *chain = match is_bytes {
                    true => _mm256_maddubs_epi16(one, *chain),
                    false => _mm256_madd_epi16(one, *chain),
                };
            }
        }
        chains.into_iter().map(|chain| _mm256_extract_epi32::<0>(chain)).fold(0, i32::wrapping_add)
    }
    // SAFETY: `Cpu` checked that the processor has the set, and the caller that it is AVX2 or more.
    unsafe {
        match isa {
            Isa::Avx512Vnni | Isa::Avx512Bf16 => avx512_dot(n_loops),
            Isa::AvxVnni => avx_dot(n_loops),
            _ => avx2(activations == Activations::Bytes, n_loops),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn whole_chains(_isa: Isa, _activations: Activations, _n_loops: usize) -> i32 {
    unreachable!("other processors have no instruction set of their own")
}

/// Independent chains, more than an operation has cycles.
const CHAINS: usize = 12;

/// Numbers per chain without intrinsics.
const WIDTH: usize = 8;

fn operations_per_loop(cpu: &Cpu) -> usize {
    match cpu.isa {
        // 16 lanes of two products and two sums.
        Isa::Avx512Bf16 => CHAINS * 64,
        Isa::Avx512 | Isa::Avx512Vnni => CHAINS * 32,
        Isa::Avx2 | Isa::AvxVnni | Isa::Portable => CHAINS * WIDTH * 2,
    }
}

fn chains(cpu: &Cpu, n_loops: usize) -> f32 {
    match cpu.isa {
        // SAFETY: `Cpu` checked that the processor has the set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { dot_chains(n_loops) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni => unsafe { fused_chains(n_loops) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2_chains(n_loops) },
        _ => plain_chains(n_loops),
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
    use std::arch::x86_64::*;
    let one = std::hint::black_box(_mm256_set1_ps(1.0));
    let mut chains = [_mm256_setzero_ps(); CHAINS];
    for _ in 0..n_loops {
        for chain in &mut chains {
            *chain = _mm256_fmadd_ps(one, one, *chain);
        }
    }
    chains.into_iter().map(|chain| _mm256_cvtss_f32(chain)).sum()
}

fn plain_chains(n_loops: usize) -> f32 {
    let one = std::hint::black_box([1.0_f32; WIDTH]);
    let mut chains = [[0.0_f32; WIDTH]; CHAINS];
    for _ in 0..n_loops {
        for (sum, one) in chains.iter_mut().flat_map(|chain| chain.iter_mut().zip(&one)) {
            *sum += one * one;
        }
    }
    chains.iter().flatten().sum()
}
