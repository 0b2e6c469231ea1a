//! Drafting while the target verifies, on halves of the threads, gives the bits of one after the other.

use dsde_engine::{
    Config, DraftAhead, DraftDraw, Drafted, Executor, Request, RowBatch, TargetDraw, Verification,
};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_policy::registry::Settings;
use dsde_policy::{Faser, Off, Signals, faser};
use dsde_sampling::{Params, Rule};

use crate::pair::{Decoder, blocks, embedded_pair};
use crate::serve::run;

const TEXT: &str = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";

/// Tokens drafted ahead by sequence.
const AHEAD_LENS: [u32; 3] = [1, 4, 6];

/// What one step gave: features of the draft and log-probabilities of the target included.
type Step = (Vec<Verification>, Vec<Vec<Drafted>>);

/// Three steps of a batch of three, each of which drafts ahead beside its verification.
fn steps<B: Backend>(backend: B) -> Vec<Step> {
    let params = Params { repetition_penalty: 1.2, logprobs: Some(3), ..Params::greedy() };
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    let mut executor = embedded_pair(backend, Rule::Block, 36);
    let signals = Signals { divergence: true, draft_shape: true };
    let decoder =
        |i: u32| Decoder { signals, ..Decoder::new(&params, &prompt[i as usize..], blocks(12 * i, 12)) };
    let mut decoders: Vec<Decoder<'_>> = (0..3).map(decoder).collect();
    (0..3).map(|_| step(&mut executor, &mut decoders)).collect()
}

fn step(executor: &mut impl Executor, decoders: &mut [Decoder<'_>]) -> Step {
    let proposals: Vec<_> = decoders.iter_mut().map(|decoder| decoder.draft(executor, 3).0).collect();
    let (mut rows, mut ahead, mut draws) = (RowBatch::default(), DraftAhead::default(), Vec::new());
    for (seq_idx, (decoder, proposal)) in decoders.iter().zip(&proposals).enumerate() {
        let Decoder { tokens, target_len, table, .. } = decoder;
        rows.push(*target_len, &tokens[*target_len as usize..], proposal, table);
        draws.push(TargetDraw { seq_idx, ..decoder.target_draw(proposal, true) });
        let draw = DraftDraw { is_ahead: true, ..decoder.draft_draw(proposal) };
        ahead.push(draw, AHEAD_LENS[seq_idx], decoder.draft_len, table);
    }
    let mut verifications = Vec::new();
    executor.verify_ahead(&rows, &draws, &mut ahead, &mut verifications).unwrap();
    let drafted = ahead.into_drafted().map(|(_, drafted)| drafted).collect();
    for ((decoder, proposal), verification) in decoders.iter_mut().zip(&proposals).zip(&verifications) {
        decoder.commit(proposal, &verification.verdict);
    }
    (verifications, drafted)
}

#[test]
fn halves_of_the_threads_give_the_bits_of_one() {
    let expected = steps(Cpu::new(1));
    for n_threads in [2, 3, 5] {
        assert_eq!(steps(Cpu::new(n_threads)), expected, "{n_threads} threads");
    }
    let lens = |(_, drafted): &Step| drafted.iter().map(|drafted| drafted.len() as u32).collect::<Vec<_>>();
    assert!(expected.iter().all(|step| lens(step) == AHEAD_LENS));
}

/// Greedy and sampled requests and two choices of one, side by side.
fn requests() -> Vec<Request> {
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    let params = |i: u32| Params { temperature: if i % 4 == 3 { 0.9 } else { 0.0 }, ..Params::greedy() };
    let prompt = |i: u32| prompt[..prompt.len() - i as usize % 3].to_vec();
    let request = |i| Request { n_choices: 1 + i % 2, ..Request::new(prompt(i), params(i), 32) };
    (0..6).map(request).collect()
}

fn check<B: Backend>(backend: impl Fn() -> B, n_blocks: u32) {
    let requests = requests();
    let policy = || {
        let settings = Settings::parse(&faser::ENTRY, Some("k_min=2,k_max=3,overlap=3"));
        Faser::new(&settings.unwrap()).unwrap()
    };
    let plain = run(embedded_pair(backend(), Rule::Block, 64), Off, Config::default(), &requests);
    let got = run(embedded_pair(backend(), Rule::Block, n_blocks), policy(), Config::default(), &requests);
    let is_greedy = |&(request, _): &(u64, u32)| requests[request as usize].params.is_greedy();
    for key in plain.outputs.keys().filter(|key| is_greedy(key)) {
        assert_eq!(got.outputs[key], plain.outputs[key], "{key:?}");
    }
    assert!(0 < got.sums.carried && got.sums.carried < got.sums.ahead, "some of it was right");
}

#[test]
fn drafting_ahead_does_not_change_greedy_output() {
    for n_blocks in [64, 12] {
        check(|| Cpu::new(2), n_blocks);
        check(|| Cpu::new(1), n_blocks);
    }
    check(|| Reference, 64);
}
