//! Attention over paged keys and values of one layer: plain decoding, verification and prefill.

use criterion::{BenchmarkId, Criterion};
use dsde_engine::{BlockId, RowBatch};
use dsde_kernels::cpu::Cpu;
use dsde_kernels::{AttentionRule, AttentionShape, Backend, KvShape};
use dsde_sampling::Proposal;

const HEADS: [AttentionShape; 2] = [
    AttentionShape { n_heads: 32, n_kv_heads: 4, head_dim: 64, first_slot: 0 },
    AttentionShape { n_heads: 4, n_kv_heads: 2, head_dim: 64, first_slot: 0 },
];

/// Sequences, rows of each, and stored positions before them.
const LOADS: [[u32; 3]; 6] = [[1, 1, 512], [1, 5, 512], [8, 1, 512], [8, 4, 512], [32, 1, 512], [1, 256, 0]];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let cpu = Cpu::new(std::thread::available_parallelism().map_or(1, |n| n.get()));
    for attention in HEADS {
        let AttentionShape { n_heads, n_kv_heads, head_dim, .. } = attention;
        let mut group = criterion.benchmark_group(format!("attention/{n_heads}:{n_kv_heads}x{head_dim}"));
        group.sample_size(20);
        for [n_seqs, n_rows, context_len] in LOADS {
            let blocks_per_seq = (context_len + n_rows).div_ceil(16);
            let mut rows = RowBatch::default();
            for seq in 0..n_seqs {
                let table: Vec<BlockId> = (0..blocks_per_seq).map(|i| BlockId(seq + i * n_seqs)).collect();
                rows.push(context_len, &vec![0; n_rows as usize], &Proposal::default(), &table);
            }
            let n_blocks = (n_seqs * blocks_per_seq) as usize;
            let kv = cpu.kv_store(&KvShape::uniform(1, n_blocks, attention));
            let qkv = vec![0.5; rows.n_rows() * (n_heads + 2 * n_kv_heads) * head_dim];
            let mut out = vec![0.0; rows.n_rows() * n_heads * head_dim];
            let id = BenchmarkId::from_parameter(format!("{n_seqs} x {n_rows} rows after {context_len}"));
            let rule = AttentionRule::plain(head_dim);
            group.bench_function(id, |bencher| {
                bencher.iter(|| cpu.attention(0, rule, &qkv, &rows, &kv, &mut out));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
