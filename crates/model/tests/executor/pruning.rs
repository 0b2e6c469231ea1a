//! Rows that are dropped between two layers of the target change nothing for those that stay.

use dsde_engine::{Config, Request, TargetDraw};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_policy::{Off, PlanView, Planned, Policy, Prune, SeqId, Signals, StepFeedback};
use dsde_sampling::{Params, Proposal, Rule};

use crate::pair::{Decoder, blocks, embedded_pair, tiny_pair};
use crate::serve::run;

const PRUNE: Prune = Prune { depth: 0.5, n_rivals: 4, margin: 0.0 };

const TEXT: &str = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";

/// Long chains and trees beside plain decoding, pruned.
struct Pruning;

impl Policy for Pruning {
    fn name(&self) -> String {
        "pruning".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: true, draft_shape: false }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        for (sequence, planned) in view.sequences.iter().zip(plan) {
            let turn = view.step + sequence.seq.0;
            let (len, width) = [(6, 1), (4, 1), (0, 1), (2, 3), (8, 1)][(turn % 5) as usize];
            *planned = Planned { len, width, is_settled: true, reason: "pruning" };
        }
    }

    fn prune(&self) -> Option<Prune> {
        Some(PRUNE)
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        for outcome in feedback.outcomes {
            assert_eq!(
                outcome.signals.len(),
                outcome.verified as usize,
                "a divergence for every verified node"
            );
        }
    }

    fn forget(&mut self, _seq: SeqId) {}
}

/// Verifies proposals of a decoder, pruned, and again what was left, not pruned; everything must have the same bits.
fn kept_rows_have_the_same_bits<B: Backend>(backend: impl Fn() -> B) {
    let params = Params { logprobs: Some(3), ..Params::greedy() };
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    let signals = Signals { divergence: true, draft_shape: false };
    let decoder = || Decoder { signals, ..Decoder::new(&params, &prompt, blocks(0, 12)) };
    let [mut pruning, mut plain] = [(), ()].map(|()| embedded_pair(backend(), Rule::Block, 12));
    let (mut pruned, mut expected) = (decoder(), decoder());
    let mut n_pruned = 0;
    for _ in 0..12 {
        let (proposal, _) = pruned.draft_with(&mut pruning, 5, PRUNE.n_rivals);
        let got =
            pruned.verify_with(&mut pruning, &proposal, |draw| TargetDraw { prune: Some(PRUNE), ..draw });
        let (same, _) = expected.draft(&mut plain, 5);
        assert_eq!(same.tokens(), proposal.tokens());
        let mut left = proposal.clone();
        left.truncate(proposal.len() - got.pruned);
        let mut full = expected.verify(&mut plain, &left, true);
        full.pruned = got.pruned;
        assert_eq!(got, full);
        n_pruned += got.pruned;
    }
    assert!(n_pruned > 0, "something was dropped");
}

#[test]
fn what_is_kept_is_bit_identical() {
    kept_rows_have_the_same_bits(|| Reference);
    kept_rows_have_the_same_bits(|| Cpu::new(2));
}

/// Greedy and sampled requests and two choices of one, side by side.
fn requests(n_tokens: u32, prompt: impl Fn(u32) -> Vec<u32>) -> Vec<Request> {
    let temperature = |i: u32| if i % 4 == 3 { 0.9 } else { 0.0 };
    let params = |i| Params { temperature: temperature(i), ..Params::greedy() };
    let request = |i| Request { n_choices: 1 + i % 2, ..Request::new(prompt(i), params(i), n_tokens) };
    (0..6).map(request).collect()
}

#[test]
fn pruning_does_not_change_greedy_output() {
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    let embedded_requests = requests(32, |i| prompt[..prompt.len() - i as usize % 3].to_vec());
    let embedded = |n_blocks| embedded_pair(Cpu::new(2), Rule::Block, n_blocks);
    check(embedded(64), embedded(64), &embedded_requests);
    check(embedded(64), embedded(12), &embedded_requests);
}

fn check<B: Backend>(
    plain: dsde_model::ModelExecutor<B>,
    pruning: dsde_model::ModelExecutor<B>,
    requests: &[Request],
) {
    let is_greedy = |&(request, _): &(u64, u32)| requests[request as usize].params.is_greedy();
    let plain = run(plain, Off, Config::default(), requests);
    let got = run(pruning, Pruning, Config::default(), requests);
    for key in plain.outputs.keys().filter(|key| is_greedy(key)) {
        assert_eq!(got.outputs[key], plain.outputs[key], "{key:?}");
    }
    assert!(got.sums.accepted > 0 && got.sums.verified < got.sums.drafted, "something was dropped");
}

/// The output projection of `llama3` is not its table of embeddings.
#[test]
fn models_whose_output_projection_is_packed_are_not_pruned() {
    let params = Params::greedy();
    let mut executor = tiny_pair(Reference, Rule::Block, 12);
    let mut decoder = Decoder::new(&params, &[3, 77, 12, 5], blocks(0, 4));
    let mut proposal = Proposal::new();
    for _ in 0..3 {
        (proposal, _) = decoder.draft_with(&mut executor, 5, PRUNE.n_rivals);
        let got =
            decoder.verify_with(&mut executor, &proposal, |draw| TargetDraw { prune: Some(PRUNE), ..draw });
        assert_eq!(got.pruned, 0);
    }
    assert_eq!(proposal.len(), 5);
}
