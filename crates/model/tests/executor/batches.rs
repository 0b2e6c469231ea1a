//! What a sequence draws does not depend on the batch or on threads.

use dsde_engine::{DraftDraw, Drafted, Executor, RowBatch, TargetDraw, Verification};
use dsde_kernels::Cpu;
use dsde_model::executor::ModelExecutor;
use dsde_policy::Signals;
use dsde_sampling::{Params, Proposal, Rule};

use crate::pair::{Decoder, blocks, tiny_pair};

/// Enough for several groups of logits and for work in parallel.
const N_SEQS: u32 = 150;

/// Greedy, sampled and truncated requests with different seeds and penalties.
fn params(i: u32) -> Params {
    Params {
        temperature: [0.0, 0.8, 1.1][i as usize % 3],
        top_k: [0, 10][i as usize / 3 % 2],
        frequency_penalty: [0.0, 0.5][i as usize / 6 % 2],
        logprobs: i.is_multiple_of(7).then_some(2),
        seed: i.is_multiple_of(2).then_some(u64::from(i)),
        ..Params::greedy()
    }
}

fn prompt(i: u32) -> Vec<u32> {
    (0..3 + i % 5).map(|j| (i * 31 + j * 17) % 128).collect()
}

fn decoders(params: &[Params]) -> Vec<Decoder<'_>> {
    let signals = Signals { divergence: true, draft_shape: true };
    (0..N_SEQS)
        .zip(params)
        .map(|(i, params)| Decoder { signals, ..Decoder::new(params, &prompt(i), blocks(i, 1)) })
        .collect()
}

/// One drafted token and its verification, each sequence by itself.
fn alone(executor: &mut ModelExecutor<Cpu>, params: &[Params]) -> Vec<(Drafted, Verification)> {
    let step = |mut decoder: Decoder<'_>| {
        let (proposal, drafted) = decoder.draft(executor, 1);
        (drafted[0], decoder.verify(executor, &proposal, true))
    };
    decoders(params).into_iter().map(step).collect()
}

/// The same, all sequences together.
fn together(executor: &mut ModelExecutor<Cpu>, params: &[Params]) -> Vec<(Drafted, Verification)> {
    let decoders = decoders(params);
    let rows_with = |proposals: &[Proposal]| {
        let mut rows = RowBatch::default();
        for (decoder, proposal) in decoders.iter().zip(proposals) {
            rows.push(0, &decoder.tokens, proposal, &decoder.table);
        }
        rows
    };
    let (mut drafted, mut verifications) = (Vec::new(), Vec::new());
    let mut proposals = vec![Proposal::new(); decoders.len()];
    let draws = decoders.iter().zip(&proposals).enumerate();
    let draws: Vec<_> = draws.map(|(seq_idx, (d, p))| DraftDraw { seq_idx, ..d.draft_draw(p) }).collect();
    executor.draft(&rows_with(&proposals), &draws, &mut drafted).unwrap();
    for (proposal, drafted) in proposals.iter_mut().zip(&drafted) {
        proposal.push_chain(drafted.token);
    }
    let draws = decoders.iter().zip(&proposals).enumerate();
    let draws: Vec<_> =
        draws.map(|(seq_idx, (d, p))| TargetDraw { seq_idx, ..d.target_draw(p, true) }).collect();
    executor.verify(&rows_with(&proposals), &draws, &mut verifications).unwrap();
    drafted.into_iter().zip(verifications).collect()
}

#[test]
fn a_sequence_draws_the_same_alone_and_in_a_batch() {
    let params: Vec<Params> = (0..N_SEQS).map(params).collect();
    let expected = alone(&mut tiny_pair(Cpu::new(1), Rule::Block, N_SEQS), &params);
    for n_threads in [1, 2, 3] {
        let mut executor = tiny_pair(Cpu::new(n_threads), Rule::Block, N_SEQS);
        assert_eq!(together(&mut executor, &params), expected, "{n_threads} threads");
    }
    let n_accepted: u32 = expected.iter().map(|(_, verification)| verification.verdict.accepted()).sum();
    assert!(0 < n_accepted && n_accepted < N_SEQS, "both verdicts occur, {n_accepted} accepted");
}
