//! An assistant of Gemma 4: what it guesses against transformers, and nothing that it changes in the target.

mod fit;

use dsde_checkpoint::AssistantCheckpoint;
use dsde_engine::{Config, Executor as _, RowBatch, Slot, SlotMove};
use dsde_kernels::cpu::KvType;
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::ModelExecutor;
use dsde_model::executor::{self, Checkpoints, DraftCheckpoint, KvSize};
use dsde_policy::{Off, registry};
use dsde_sampling::{Params, Proposal, Rule};

use crate::eagle3::policies;
use crate::mtp::{GUESSED_LEN, KNOWN_LENS, golden, guess};
use crate::pair::{Decoder, blocks, fixture, open};
use crate::serve::{mixed_requests, run};

/// Targets and their assistants. That of the second scores tokens in groups; the third has heads as the first has them.
pub(crate) const PAIRS: [[&str; 2]; 3] = [
    ["gemma4", "gemma4_assistant"],
    ["gemma4_shared", "gemma4_shared_assistant"],
    ["gemma4_moe", "gemma4_assistant"],
];
const TOKENS_MAX: u32 = 40;

/// Root mean square error of log-probabilities: sums in another order. With a window of 10 in place of 11, the target's state before
/// its last norm, each guess a position further, or all of them one before, some would be off by more than 0.2.
const TOLERANCE_F32: f64 = 1e-4;
/// As above with activations, keys and values rounded to bf16 in the layers of target and assistant.
const TOLERANCE_BF16: f64 = 0.06;

pub(crate) fn assistant(name: &str) -> AssistantCheckpoint {
    AssistantCheckpoint::find(&fixture(name)).unwrap().unwrap()
}

/// A target and its assistant.
pub(crate) fn assisted<B: Backend>(
    backend: B,
    [target, draft]: [&str; 2],
    rule: Rule,
    n_blocks: u32,
) -> ModelExecutor<B> {
    let (target, draft) = (open(target), assistant(draft));
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Assistant(&draft)) };
    let config = executor::Config { rule, kv: KvSize::Blocks(n_blocks), ..executor::Config::default() };
    ModelExecutor::new(backend, checkpoints, config).unwrap()
}

/// The target reads all but the last of the known tokens, in chunks of at most `chunk`, and is asked what follows.
fn read<B: Backend>(executor: &mut ModelExecutor<B>, decoder: &mut Decoder<'_>, chunk: u32) {
    let n_known = decoder.tokens.len() as u32 - 1;
    while decoder.target_len < n_known {
        let end = n_known.min(decoder.target_len + chunk);
        let (mut rows, start) = (RowBatch::default(), decoder.target_len);
        rows.push(start, &decoder.tokens[start as usize..end as usize], &Proposal::new(), &decoder.table);
        let nothing = Proposal::new();
        let draws = [decoder.target_draw(&nothing, false)];
        let draws = if end == n_known { &draws[..] } else { &[] };
        executor.verify(&rows, draws, &mut Vec::new()).unwrap();
        decoder.target_len = end;
    }
}

/// Root mean square difference where both are finite; they must be so at the same places.
fn error(got: &[f32], expected: &[f32]) -> f64 {
    assert!(got.iter().zip(expected).all(|(a, b)| a.is_finite() == b.is_finite()), "{got:?} {expected:?}");
    let finite = got.iter().zip(expected).filter(|(a, _)| a.is_finite());
    let squares: Vec<f64> = finite.map(|(a, b)| f64::from(a - b).powi(2)).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

fn guesses_agree<B: Backend>(backend: impl Fn() -> B, pair: [&str; 2], tolerance: f64) {
    let (tokens, expected) = golden(pair[0], &fixture(pair[1]).join("guesses.safetensors"));
    let mut expected = expected.chunks_exact(48);
    let params = Params::greedy();
    for (n_known, chunk) in KNOWN_LENS.into_iter().zip([64, 3, 7, 16]) {
        let mut executor = assisted(backend(), pair, Rule::default(), 4);
        let mut decoder = Decoder::new(&params, &tokens[..n_known as usize], blocks(1, 3));
        read(&mut executor, &mut decoder, chunk);
        let mut proposal = Proposal::new();
        for i in 0..GUESSED_LEN {
            let got = guess(&mut executor, &mut decoder, &proposal);
            let error = error(&got, expected.next().unwrap());
            assert!(error < tolerance, "{pair:?}: guess {i} behind {n_known} tokens is off by {error}");
            proposal.push_chain(tokens[n_known as usize + i]);
        }
    }
}

#[test]
fn what_the_assistant_guesses_is_what_transformers_computes() {
    for pair in &PAIRS[..2] {
        guesses_agree(|| Reference, *pair, TOLERANCE_F32);
        guesses_agree(|| Cpu::new(2), *pair, TOLERANCE_BF16);
    }
}

fn known() -> Vec<u32> {
    (0..20).map(|i| (i * i + 7) % 48).collect()
}

/// Further guesses are those of a sequence that was read at once.
fn guesses_are_those_of_a_fresh_sequence<B: Backend>(
    executor: &mut ModelExecutor<B>,
    decoder: &mut Decoder<'_>,
) {
    let (known, mut proposal) = (decoder.tokens.clone(), Proposal::new());
    let mut fresh = Decoder::new(decoder.params, &known, blocks(5, 4));
    read(executor, &mut fresh, 9);
    for _ in 0..4 {
        let [got, expected] = [&mut *decoder, &mut fresh].map(|one| guess(executor, one, &proposal));
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&expected), "behind {} guesses", proposal.len());
        let best = (0..48).max_by(|&a, &b| got[a as usize].total_cmp(&got[b as usize])).unwrap();
        proposal.push_chain(best);
    }
}

/// What was drafted, accepted or not, leaves no trace in later guesses.
#[test]
fn guesses_depend_on_known_tokens_alone() {
    let params = Params::greedy();
    for pair in PAIRS {
        let mut executor = assisted(Cpu::new(2), pair, Rule::default(), 10);
        let mut decoder = Decoder::new(&params, &known(), blocks(0, 4));
        read(&mut executor, &mut decoder, 64);
        for len in [3, 1, 5, 2, 4] {
            let (proposal, _) = decoder.draft(&mut executor, len);
            decoder.verify(&mut executor, &proposal, true);
        }
        guesses_are_those_of_a_fresh_sequence(&mut executor, &mut decoder);
    }
}

/// What it reads of the target moves with the branch of a tree that was accepted.
#[test]
fn guesses_go_on_from_an_accepted_branch() {
    let params = Params::greedy();
    for pair in PAIRS {
        let mut executor = assisted(Cpu::new(2), pair, Rule::default(), 10);
        let mut plain = Decoder::new(&params, &known(), blocks(5, 4));
        (0..2).for_each(|_| drop(plain.verify(&mut executor, &Proposal::new(), false)));
        let [first, second] = plain.output()[..] else { panic!("two tokens") };
        let mut tree = Proposal::new();
        for (token, parent) in [(first + 1, None), (first, None), (second + 1, Some(1)), (second, Some(1))] {
            tree.push(token % 48, parent);
        }
        let mut decoder = Decoder::new(&params, &known(), blocks(0, 4));
        read(&mut executor, &mut decoder, 64);
        let verification = decoder.verify(&mut executor, &tree, false);
        assert_eq!(verification.verdict.path, [1, 3], "{pair:?}");
        // Nodes lie in slots from 20 on.
        let slot = |slot: u32| Slot { block: decoder.table[slot as usize / 16], offset: slot % 16 };
        let moves = [(21, 20), (23, 21)].map(|(from, to)| SlotMove { from: slot(from), to: slot(to) });
        executor.move_slots(&moves, &[]).unwrap();
        guesses_are_those_of_a_fresh_sequence(&mut executor, &mut decoder);
    }
}

fn output_is_that_of_plain_decoding<B: Backend>(
    backend: impl Fn() -> B,
    pair: [&str; 2],
    config: Config,
    policies: &[String],
) {
    let executor = |n_blocks| assisted(backend(), pair, Rule::default(), n_blocks);
    let requests = mixed_requests(TOKENS_MAX);
    let plain = run(executor(60), Off, config, &requests).outputs;
    let (mut drafted, mut accepted, mut cached, mut preemptions) = (0, 0, 0, 0);
    // All at once, and with so few blocks that sequences are preempted.
    for (policy, n_blocks) in policies.iter().flat_map(|policy| [(policy, 60), (policy, 8)]) {
        let mut requests = requests.clone();
        requests.iter_mut().for_each(|one| one.policy = Some(policy.parse::<registry::Config>().unwrap()));
        let got = run(executor(n_blocks), Off, config, &requests);
        assert_eq!(got.outputs, plain, "{pair:?}, {policy}, {n_blocks} blocks");
        assert_eq!(
            (got.sums.ahead, got.sums.carried),
            (0, 0),
            "an assistant does not run ahead of its target"
        );
        drafted += got.sums.drafted;
        accepted += got.sums.accepted;
        cached += got.cached_tokens;
        preemptions += got.preemptions;
    }
    assert!(accepted > 0 && drafted > accepted, "{pair:?}: {accepted} of {drafted}");
    assert!(preemptions > 0 && cached > 0, "{pair:?}: {preemptions} are preempted, {cached} tokens found");
}

#[test]
fn every_policy_emits_what_plain_decoding_emits() {
    for pair in PAIRS {
        output_is_that_of_plain_decoding(|| Cpu::new(2), pair, Config::default(), &policies());
    }
}

#[test]
fn output_is_that_of_plain_decoding_on_the_reference_and_in_small_batches() {
    let policies = ["fixed:k=5", "adaserve:w_max=4", "ddd:width=4"].map(str::to_owned);
    output_is_that_of_plain_decoding(|| Reference, PAIRS[1], Config::default(), &policies);
    let small = Config { sequences_max: 2, rows_max: 16, ..Config::default() };
    output_is_that_of_plain_decoding(|| Cpu::new(2), PAIRS[0], small, &policies);
    for kv_type in [KvType::F16, KvType::Int8] {
        let backend = || Cpu::new(2).with_kv_type(kv_type);
        output_is_that_of_plain_decoding(backend, PAIRS[1], Config::default(), &policies);
    }
}
