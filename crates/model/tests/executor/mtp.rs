//! The head that a model brings with it: what it guesses against transformers, and nothing that it changes in the target.

use std::path::Path;

use dsde_engine::{Beam, DraftDraw, Drafted, Executor, RowBatch, StateSlot, StateUse};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::ModelExecutor;
use dsde_sampling::{Params, Proposal};
use safetensors::SafeTensors;

use crate::delta::{OWN_HEAD, executor};
use crate::pair::{Decoder, blocks, fixture};

const VOCAB: u32 = 48;
/// Tokens that are known when the head guesses, and how many it guesses one after the other.
pub(crate) const KNOWN_LENS: [u32; 4] = [2, 9, 20, 33];
pub(crate) const GUESSED_LEN: usize = 3;

/// Root mean square error of log-probabilities: sums in another order. With the target's state before its final norm, the head's before
/// its own, or the embedding behind the state it would be above 0.3.
const TOLERANCE_F32: f64 = 1e-4;
/// As above with activations, keys and values rounded to bf16 in the layers of target and head.
const TOLERANCE_BF16: f64 = 0.05;

/// The text of a target, and the log-probabilities `[n_known, n_guessed, vocab]` of what is guessed behind its beginnings.
///
/// * `guesses`: the file with the latter.
pub(crate) fn golden(target: &str, guesses: &Path) -> (Vec<u32>, Vec<f32>) {
    let words = |file: &Path, name: &str| {
        let bytes = std::fs::read(file).unwrap();
        SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data().as_chunks::<4>().0.to_vec()
    };
    let tokens = words(&fixture(target).join("logits.safetensors"), "tokens");
    let log_probs = words(guesses, "log_probs").into_iter().map(f32::from_le_bytes).collect();
    (tokens.into_iter().map(u32::from_le_bytes).collect(), log_probs)
}

/// The same of the head of a target.
fn golden_of_head(target: &str) -> (Vec<u32>, Vec<f32>) {
    golden(target, &fixture(target).join("mtp.safetensors"))
}

/// The target reads all but the last of the known tokens, in chunks of at most `chunk`.
fn read<B: Backend>(executor: &mut ModelExecutor<B>, decoder: &mut Decoder<'_>, chunk: u32) {
    let n_known = decoder.tokens.len() as u32 - 1;
    while decoder.target_len < n_known {
        let end = n_known.min(decoder.target_len + chunk);
        let (mut rows, start) = (RowBatch::default(), decoder.target_len);
        let tokens = &decoder.tokens[start as usize..end as usize];
        rows.push(start, tokens, &Proposal::new(), &decoder.table);
        rows.states.push(StateUse { slot: StateSlot(0), n_known: end - start, from: None, to: None });
        executor.verify(&rows, &[], &mut Vec::new()).unwrap();
        decoder.target_len = end;
    }
}

/// Log-probabilities of every token behind a proposal, and the head reads what it has not read.
pub(crate) fn guess<B: Backend>(
    executor: &mut ModelExecutor<B>,
    decoder: &mut Decoder<'_>,
    proposal: &Proposal,
) -> Vec<f32> {
    let mut rows = RowBatch::default();
    let unread = match proposal.tokens().last() {
        None => decoder.tokens[decoder.draft_len as usize..].to_vec(),
        Some(&token) => vec![token],
    };
    rows.push(decoder.draft_len, &unread, &Proposal::new(), &decoder.table);
    let beam = Some(Beam { n_rows: 1, width: VOCAB });
    let draw = DraftDraw { beam, ..decoder.draft_draw(proposal) };
    let mut drafted: Vec<Drafted> = Vec::new();
    executor.draft(&rows, &[draw], &mut drafted).unwrap();
    decoder.draft_len = decoder.tokens.len() as u32 + proposal.len();
    let mut log_probs = vec![f32::NAN; VOCAB as usize];
    drafted.iter().for_each(|one| log_probs[one.token as usize] = one.position.path_log_prob);
    log_probs
}

fn guesses_agree<B: Backend>(backend: impl Fn() -> B, target: &str, tolerance: f64) {
    let (tokens, expected) = golden_of_head(target);
    let mut expected = expected.chunks_exact(VOCAB as usize);
    let params = Params::greedy();
    for (n_known, chunk) in KNOWN_LENS.into_iter().zip([64, 3, 7, 16]) {
        let mut executor = executor(backend(), target, Some(OWN_HEAD), 4);
        let mut decoder = Decoder::new(&params, &tokens[..n_known as usize], blocks(1, 3));
        read(&mut executor, &mut decoder, chunk);
        let mut proposal = Proposal::new();
        for i in 0..GUESSED_LEN {
            let got = guess(&mut executor, &mut decoder, &proposal);
            let squares = got.iter().zip(expected.next().unwrap()).map(|(a, b)| f64::from(a - b).powi(2));
            let error = (squares.sum::<f64>() / f64::from(VOCAB)).sqrt();
            assert!(error < tolerance, "{target}: guess {i} behind {n_known} tokens is off by {error}");
            proposal.push_chain(tokens[n_known as usize + i]);
        }
    }
}

#[test]
fn what_the_head_guesses_is_what_transformers_computes() {
    for target in ["qwen3_5", "qwen3_5_moe", "qwen3_next"] {
        guesses_agree(|| Reference, target, TOLERANCE_F32);
        guesses_agree(|| Cpu::new(2), target, TOLERANCE_BF16);
    }
}

/// The state of a token that was drafted comes from the target once that has read it.
#[test]
fn accepted_tokens_are_read_with_the_states_of_the_target() {
    let (tokens, expected) = golden_of_head("qwen3_5");
    let params = Params::greedy();
    let (from, to) = (KNOWN_LENS[1], KNOWN_LENS[2]);
    let mut executor = executor(Reference, "qwen3_5", Some(OWN_HEAD), 4);
    let mut decoder = Decoder::new(&params, &tokens[..from as usize], blocks(1, 3));
    read(&mut executor, &mut decoder, 64);
    let mut proposal = Proposal::new();
    for i in 0..GUESSED_LEN {
        guess(&mut executor, &mut decoder, &proposal);
        proposal.push_chain(tokens[from as usize + i]);
    }
    // All is right, and more than was drafted is known by now.
    decoder.tokens = tokens[..to as usize].to_vec();
    decoder.draft_len = from;
    read(&mut executor, &mut decoder, 5);
    let got = guess(&mut executor, &mut decoder, &Proposal::new());
    let expected = &expected[2 * GUESSED_LEN * VOCAB as usize..][..VOCAB as usize];
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-3, "{got} instead of {expected}");
    }
}
