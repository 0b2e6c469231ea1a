//! What the head guesses, over many steps, against the plain implementation.

use dsde_engine::{Beam, BlockId, DraftDraw, Drafted, Executor, RowBatch, Slot, SlotMove};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::ModelExecutor;
use dsde_sampling::{Params, Proposal};

use super::Pair;
use super::files::{HIDDEN, Kind, PLAIN, VOCAB, guessed};
use super::plain::Plain;
use crate::pair::{Decoder, blocks};

/// Root mean square error of log-probabilities between 0 and -10: sums in another order.
const TOLERANCE_F32: f64 = 1e-4;
/// As above with activations, keys and values rounded to bf16 in seven layers; what the head would guess with a wrong feature is
/// off by more than 1.
const TOLERANCE_BF16: f64 = 0.25;

/// Drafted tokens of a step, and how many of them are those of the target; 0 drafted is plain decoding.
const STEPS: [(usize, usize); 12] =
    [(3, 3), (2, 0), (0, 0), (0, 0), (4, 1), (1, 1), (0, 0), (3, 2), (5, 5), (1, 0), (2, 1), (4, 4)];

const PROMPT: [u32; 13] = [3, 17, 12, 5, 5, 23, 0, 14, 8, 1, 19, 2, 7];

/// All that the head guesses, most probable first.
fn everything() -> Option<Beam> {
    Some(Beam { n_rows: 1, width: guessed(VOCAB).len() as u32 })
}

fn check_guesses(drafted: &[Drafted], expected: &[(u32, f64)], tolerance: f64, context: &str) {
    assert_eq!(drafted.len(), expected.len());
    let mut got: Vec<(u32, f64)> =
        drafted.iter().map(|one| (one.token, f64::from(one.position.path_log_prob))).collect();
    got.sort_unstable_by_key(|&(token, _)| token);
    let tokens = |guesses: &[(u32, f64)]| guesses.iter().map(|&(token, _)| token).collect::<Vec<_>>();
    assert_eq!(tokens(&got), tokens(expected), "{context}: tokens that the head guesses");
    let squares = got.iter().zip(expected).map(|((_, got), (_, expected))| (got - expected).powi(2));
    let error = (squares.sum::<f64>() / got.len() as f64).sqrt();
    assert!(error < tolerance, "{context}: off by {error}");
}

/// What the target emits behind `PROMPT`.
fn continuation<B: Backend>(executor: &mut ModelExecutor<B>, n_tokens: usize) -> Vec<u32> {
    let params = Params::greedy();
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 6));
    while decoder.output().len() < n_tokens {
        decoder.verify(executor, &Proposal::new(), false);
    }
    decoder.tokens
}

fn steps_agree<B: Backend>(backend: B, kind: Kind, tolerance: f64) {
    let Pair { mut executor, target, head } = Pair::new(backend, kind, 6);
    let plain = Plain { target: &target.tensors, head: &head.tensors, kind };
    let right = continuation(&mut executor, 64);
    let params = Params::greedy();
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 6));
    // The target reads the prompt and emits a token.
    decoder.verify(&mut executor, &Proposal::new(), false);
    for (step, (n_drafted, n_right)) in STEPS.into_iter().enumerate() {
        let known = decoder.tokens.clone();
        assert_eq!(known, right[..known.len()]);
        let (mut proposal, mut rows, mut drafted) = (Proposal::new(), RowBatch::default(), Vec::new());
        for i in 0..n_drafted {
            rows.clear();
            let unread = match proposal.tokens().last() {
                None => known[decoder.draft_len as usize..].to_vec(),
                Some(&token) => vec![token],
            };
            rows.push(decoder.draft_len, &unread, &Proposal::new(), &decoder.table);
            let draw = DraftDraw { beam: everything(), ..decoder.draft_draw(&proposal) };
            executor.draft(&rows, &[draw], &mut drafted).unwrap();
            decoder.draft_len = (known.len() + i) as u32;
            let expected = plain.log_probs(&known, proposal.tokens());
            check_guesses(&drafted, &expected, tolerance, &format!("step {step}, token {i}, {kind:?}"));
            let next = right[known.len() + i];
            proposal.push_chain(if i < n_right { next } else { (next + 1) % VOCAB as u32 });
        }
        let verdict = decoder.verify(&mut executor, &proposal, n_drafted > 0).verdict;
        assert_eq!(verdict.accepted() as usize, n_right);
        // What it read of the proposal it reads again.
        decoder.draft_len = decoder.draft_len.min(known.len() as u32);
    }
    assert!(decoder.tokens.len() > 32, "the steps cross blocks");
}

#[test]
fn every_step_guesses_what_a_plain_implementation_does() {
    let taps = Some(&[1, 4, 5][..]);
    for kind in [
        PLAIN,
        Kind { norm_before_residual: true, ..PLAIN },
        Kind { has_embeddings: true, layer: "layers.0", ..PLAIN },
        Kind { hidden: HIDDEN / 2, has_embeddings: true, taps, ..PLAIN },
        Kind { n_state_norms: 1, hidden: HIDDEN / 2, has_embeddings: true, ..PLAIN },
        Kind { n_state_norms: 3, norm_output: true, ..PLAIN },
        Kind { n_state_norms: 5, taps: Some(&[1, 2, 3, 4, 5]), ..PLAIN },
        Kind { is_qwen3: true, norm_before_residual: true, layer: "layers.0", taps, ..PLAIN },
    ] {
        steps_agree(Reference, kind, TOLERANCE_F32);
        steps_agree(Cpu::new(2), kind, TOLERANCE_BF16);
    }
}

/// Reads some of the prompt only once the target has gone on: catching up in two parts.
#[test]
fn catching_up_in_parts_is_reading_at_once() {
    let Pair { mut executor, target, head } = Pair::new(Reference, PLAIN, 6);
    let plain = Plain { target: &target.tensors, head: &head.tensors, kind: PLAIN };
    let params = Params::greedy();
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 6));
    for _ in 0..20 {
        decoder.verify(&mut executor, &Proposal::new(), false);
    }
    let (mut rows, mut drafted, empty) = (RowBatch::default(), Vec::new(), Proposal::new());
    rows.push(0, &decoder.tokens[..18], &empty, &decoder.table);
    executor.draft(&rows, &[], &mut drafted).unwrap();
    rows.clear();
    rows.push(18, &decoder.tokens[18..], &empty, &decoder.table);
    let draw = DraftDraw { beam: everything(), ..decoder.draft_draw(&empty) };
    executor.draft(&rows, &[draw], &mut drafted).unwrap();
    check_guesses(&drafted, &plain.log_probs(&decoder.tokens, &[]), TOLERANCE_F32, "in parts");
}

/// A prompt of one token has no feature before it; what is guessed is a distribution all the same.
#[test]
fn a_single_token_is_guessed_behind() {
    for _ in 0..2 {
        let mut executor = Pair::new(Reference, PLAIN, 2).executor;
        let params = Params::greedy();
        let mut decoder = Decoder::new(&params, &[3], blocks(0, 2));
        let (proposal, drafted) = decoder.draft(&mut executor, 4);
        assert!(drafted.iter().all(|one| guessed(VOCAB).contains(&one.token)));
        decoder.verify(&mut executor, &proposal, true);
    }
}

/// Three nodes below the last known token, then a child of the first and of the third.
fn tree() -> Proposal {
    let mut tree = Proposal::new();
    for (token, parent) in [(9, None), (15, None), (20, None), (6, Some(0)), (11, Some(2))] {
        tree.push(token, parent);
    }
    tree
}

fn trees_agree<B: Backend>(backend: B, tolerance: f64) {
    let Pair { mut executor, target, head } = Pair::new(backend, PLAIN, 6);
    let plain = Plain { target: &target.tensors, head: &head.tensors, kind: PLAIN };
    let params = Params::greedy();
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 6));
    decoder.verify(&mut executor, &Proposal::new(), false);
    let known = decoder.tokens.clone();
    let whole = tree();
    let (mut rows, mut drafted) = (RowBatch::default(), Vec::new());
    rows.push(0, &known, &Proposal::new(), &decoder.table);
    let width = guessed(VOCAB).len() as u32;
    for (n_drafted, nodes) in [(0, 0..0), (3, 0..3), (5, 3..5)] {
        let mut drafted_so_far = whole.clone();
        drafted_so_far.truncate(n_drafted);
        if n_drafted > 0 {
            rows.next_round();
            rows.keep_nodes(0, known.len() as u32, &whole, nodes.clone());
        }
        let n_rows = (nodes.len() as u32).max(1);
        let beam = Some(Beam { n_rows, width });
        let draw = DraftDraw { beam, ..decoder.draft_draw(&drafted_so_far) };
        executor.draft(&rows, &[draw], &mut drafted).unwrap();
        for (row, guesses) in drafted.chunks_exact(width as usize).enumerate() {
            let path = nodes.clone().nth(row).map_or_else(Vec::new, |node| whole.path(node));
            check_guesses(guesses, &plain.log_probs(&known, &path), tolerance, &format!("behind {path:?}"));
        }
    }
}

#[test]
fn every_node_of_a_tree_guesses_what_follows_its_path() {
    trees_agree(Reference, TOLERANCE_F32);
    trees_agree(Cpu::new(2), TOLERANCE_BF16);
}

/// The accepted path of a tree moves to consecutive slots, and what the head reads of it moves with it; so it does with a
/// block that is copied.
#[test]
fn what_the_head_reads_follows_moves_and_copies() {
    let Pair { mut executor, target, head } = Pair::new(Reference, PLAIN, 6);
    let plain = Plain { target: &target.tensors, head: &head.tensors, kind: PLAIN };
    let right = continuation(&mut executor, 8);
    let params = Params::greedy();
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 6));
    decoder.verify(&mut executor, &Proposal::new(), false);
    let base = decoder.tokens.len() as u32;
    // The right tokens are nodes 1 and 3.
    let [first, second] = [right[base as usize], right[base as usize + 1]];
    let mut proposal = Proposal::new();
    for (token, parent) in [(first ^ 1, None), (first, None), (second ^ 1, Some(1)), (second, Some(1))] {
        proposal.push(token, parent);
    }
    let verdict = decoder.verify(&mut executor, &proposal, false).verdict;
    assert_eq!(verdict.path, [1, 3]);
    let slot = |slot: u32| Slot { block: decoder.table[slot as usize / 16], offset: slot % 16 };
    let moves = [(1, 0), (3, 1)].map(|(from, to)| SlotMove { from: slot(base + from), to: slot(base + to) });
    executor.move_slots(&moves, &[]).unwrap();
    let copies = [0, 1].map(|i| dsde_engine::BlockCopy { from: decoder.table[i], to: BlockId(4 + i as u32) });
    executor.copy_blocks(&copies).unwrap();
    decoder.table = blocks(4, 2);
    let (mut rows, mut drafted, empty) = (RowBatch::default(), Vec::new(), Proposal::new());
    rows.push(0, &decoder.tokens, &empty, &decoder.table);
    let draw = DraftDraw { beam: everything(), ..decoder.draft_draw(&empty) };
    executor.draft(&rows, &[draw], &mut drafted).unwrap();
    check_guesses(&drafted, &plain.log_probs(&decoder.tokens, &[]), TOLERANCE_F32, "moved");
}
