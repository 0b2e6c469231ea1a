//! Data for the differential tests: seeded numbers, stored matrices, ragged batches.

use dsde_engine::{BlockId, RowBatch};
use dsde_sampling::Proposal;

use dsde_checkpoint::{Dense, Dtype};
use dsde_kernels::RopeTable;
use dsde_kernels::cpu::{Cpu, Isa, KvType};

/// A small generator (xorshift, Marsaglia 2003), so that failures replay.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in `-1..1`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn units(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }
}

/// Stored bytes of numbers as they would lie in a checkpoint.
pub(crate) fn stored(dtype: Dtype, numbers: &[f32]) -> Vec<u8> {
    let bytes = |x: &f32| match dtype {
        Dtype::F32 => x.to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f32(*x).to_le_bytes().to_vec(),
        Dtype::Bf16 => half::bf16::from_f32(*x).to_le_bytes().to_vec(),
        _ => unreachable!("blocks are not made of single numbers"),
    };
    numbers.iter().flat_map(bytes).collect()
}

/// Bytes of `n_elements` of a quantised type: any codes, scales that are small numbers.
pub(crate) fn blocks(dtype: Dtype, n_elements: usize, numbers: &mut Numbers) -> Vec<u8> {
    let scales_at: &[usize] = match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::Mxfp4 => &[],
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4K | Dtype::Q5K => &[0, 2],
        Dtype::Q2K => &[80, 82],
        Dtype::Q3K => &[108],
        Dtype::Q6K => &[208],
        Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Iq4Nl | Dtype::Iq4Xs => &[0],
    };
    let mut bytes: Vec<u8> = (0..dtype.row_bytes(n_elements)).map(|_| (numbers.next() >> 32) as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in scales_at {
            let scale = half::f16::from_f32(0.02 * numbers.unit());
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        if dtype == Dtype::Mxfp4 {
            block[0] = 120 + block[0] % 8;
        }
    }
    bytes
}

/// Activations as whole numbers of at most 127 times a scale per 32 of a row.
pub(crate) fn rounded(x: &[f32]) -> Vec<f32> {
    let group = |group: &[f32]| {
        let max = group.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        let scale = max / 127.0;
        let inverse = if max == 0.0 { 0.0 } else { 127.0 / max };
        group.iter().map(|x| (x * inverse).round_ties_even() * scale).collect::<Vec<f32>>()
    };
    x.chunks(32).flat_map(group).collect()
}

pub(crate) fn dense(dtype: Dtype, n_out: usize, n_in: usize, bytes: &[u8]) -> Dense<'_> {
    Dense::new(dtype, n_out, n_in, bytes)
}

/// Every instruction set that this machine can run, on one and on two threads.
pub(crate) fn cpus() -> Vec<Cpu> {
    let supported = Isa::ALL.into_iter().filter(|isa| isa.is_supported());
    supported
        .flat_map(|isa| [1, 2].map(|n_threads| Cpu::with_isa(n_threads, isa).expect("it is supported")))
        .collect()
}

/// The same, with keys and values of every type.
pub(crate) fn cpus_of_all_kv_types() -> Vec<Cpu> {
    let types = [KvType::Bf16, KvType::F16, KvType::Int8];
    types
        .into_iter()
        .flat_map(|kv_type| cpus().into_iter().map(move |cpu| cpu.with_kv_type(kv_type)))
        .collect()
}

pub(crate) fn rope(n_positions: usize, rotary_dim: usize) -> RopeTable {
    let half = rotary_dim / 2;
    let angle = |i: usize| (i / half) as f32 * 10_000_f32.powf(-((i % half) as f32) / half as f32);
    RopeTable {
        n_pairs: half,
        distance: half,
        cos: (0..n_positions * half).map(|i| angle(i).cos()).collect(),
        sin: (0..n_positions * half).map(|i| angle(i).sin()).collect(),
    }
}

/// Appends a sequence of rows that continue `context_len` stored ones, as a chain.
pub(crate) fn push_chain(rows: &mut RowBatch, context_len: u32, n_rows: u32, table: &[BlockId]) {
    rows.push(context_len, &vec![0; n_rows as usize], &Proposal::new(), table);
}

/// Appends a sequence of one known row and a tree below it; `parents[i] < i`, or nothing for a root.
pub(crate) fn push_tree(rows: &mut RowBatch, context_len: u32, parents: &[Option<usize>], table: &[BlockId]) {
    let mut proposal = Proposal::new();
    for parent in parents {
        proposal.push(0, parent.map(|parent| parent as u32));
    }
    rows.push(context_len, &[0], &proposal, table);
}

/// Largest difference over the largest expected magnitude.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    got.iter().zip(expected).map(|(got, expected)| (got - expected).abs() / scale).fold(0.0, f32::max)
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
