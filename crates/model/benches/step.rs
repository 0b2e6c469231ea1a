//! Passes of the embedded pair through the executor: what a step costs beside the products measured in `limits` and `gemm`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dsde_engine::{BlockId, DraftDraw, Executor, RowBatch, SeqId, TargetDraw};
use dsde_kernels::Cpu;
use dsde_model::embedded;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_policy::Signals;
use dsde_sampling::{Params, Proposal, Rule, Stream};

/// Stored positions of every sequence.
const CONTEXT_LEN: usize = 255;
/// Blocks of a sequence.
const TABLE_LEN: u32 = 20;
/// Most sequences of a batch.
const N_SEQS: u32 = 16;

/// Sequences of one shape in one batch.
struct Batch {
    rows: RowBatch,
    history: Vec<u32>,
    proposal: Proposal,
    params: Params,
    signals: Signals,
    n_seqs: usize,
}

impl Batch {
    /// `n_seqs` sequences with one known row each and `len` drafted ones.
    fn new(n_seqs: usize, len: u32, temperature: f32, signals: Signals) -> Self {
        let history: Vec<u32> = (0..=CONTEXT_LEN as u32).map(|i| 100 + i * 7 % 3000).collect();
        let mut proposal = Proposal::new();
        (0..len).for_each(|i| proposal.push_chain(500 + i));
        let mut rows = RowBatch::default();
        for seq in 0..n_seqs as u32 {
            rows.push(CONTEXT_LEN as u32, &history[CONTEXT_LEN..], &proposal, &table(seq));
        }
        let params = Params { temperature, ..Params::greedy() };
        Self { rows, history, proposal, params, signals, n_seqs }
    }

    fn target_draws(&self, is_model_drafted: bool) -> Vec<TargetDraw<'_>> {
        let draw = |seq_idx| TargetDraw {
            seq_idx,
            seq: SeqId(seq_idx as u64),
            params: &self.params,
            stream: Stream::Own { key: 0, number: seq_idx as u64 },
            history: &self.history,
            prompt_len: 10,
            proposal: &self.proposal,
            is_model_drafted,
            drafted_as: None,
            prune: None,
            banned: &[],
            signals: self.signals,
        };
        (0..self.n_seqs).map(draw).collect()
    }

    fn draft_draws<'a>(&'a self, proposal: &'a Proposal) -> Vec<DraftDraw<'a>> {
        let draw = |seq_idx| DraftDraw {
            seq_idx,
            seq: SeqId(seq_idx as u64),
            params: &self.params,
            stream: Stream::Own { key: 0, number: seq_idx as u64 },
            history: &self.history,
            prompt_len: 10,
            proposal,
            beam: None,
            n_rivals: 0,
            banned: &[],
            signals: self.signals,
            is_ahead: false,
        };
        (0..self.n_seqs).map(draw).collect()
    }
}

fn table(seq: u32) -> Vec<BlockId> {
    (seq * TABLE_LEN..(seq + 1) * TABLE_LEN).map(BlockId).collect()
}

fn executor() -> ModelExecutor<Cpu> {
    let (target, draft) = (embedded::target(), embedded::draft());
    let config = Config { rule: Rule::Block, kv: KvSize::Blocks(N_SEQS * TABLE_LEN), ..Config::default() };
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) };
    let mut executor = ModelExecutor::new(Cpu::new(2), checkpoints, config).expect("the embedded pair loads");
    let batch = Batch::new(0, 0, 0.0, Signals::default());
    let mut rows = RowBatch::default();
    for seq in 0..N_SEQS {
        rows.push(0, &batch.history[..CONTEXT_LEN], &Proposal::new(), &table(seq));
    }
    executor.draft(&rows, &[], &mut Vec::new()).expect("there is a draft");
    executor.verify(&rows, &[], &mut Vec::new()).expect("the pass runs");
    executor
}

fn steps(criterion: &mut Criterion) {
    let mut executor = executor();
    let all = Signals { divergence: true, draft_shape: true };
    let off = Signals::default();
    let mut group = criterion.benchmark_group("step");
    for (name, n_seqs, len, temperature) in [
        ("target 1x1 greedy", 1, 0, 0.0),
        ("target 1x1 sampled", 1, 0, 0.8),
        ("target 1x5 greedy", 1, 4, 0.0),
        ("target 8x1 greedy", 8, 0, 0.0),
        ("target 8x5 greedy", 8, 4, 0.0),
        ("target 8x5 one-hot sampled", 8, 4, 0.8),
    ] {
        let batch = Batch::new(n_seqs, len, temperature, off);
        let draws = batch.target_draws(false);
        let mut verifications = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                executor.verify(black_box(&batch.rows), &draws, &mut verifications).expect("the pass runs");
            });
        });
    }
    for (name, n_seqs, temperature, signals) in [
        ("draft 1x1 greedy", 1, 0.0, off),
        ("draft 1x1 sampled", 1, 0.8, off),
        ("draft 8x1 greedy", 8, 0.0, off),
        ("draft 8x1 sampled with signals", 8, 0.8, all),
    ] {
        let batch = Batch::new(n_seqs, 0, temperature, signals);
        let empty = Proposal::new();
        let draws = batch.draft_draws(&empty);
        let mut drafted = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                executor.draft(black_box(&batch.rows), &draws, &mut drafted).expect("the pass runs");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
