//! Greedy output is the same with and without speculation.

use dsde_engine::Executor;
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_sampling::{Params, Proposal, Rule};

use crate::pair::{Decoder, blocks, embedded_pair};

const N_TOKENS: usize = 64;

const TEXT: &str = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";

fn prompt() -> Vec<u32> {
    embedded::tokenizer().encode(TEXT).unwrap()
}

/// Tokens emitted with `len` drafted tokens per step, and how many of those were accepted.
struct Run {
    output: Vec<u32>,
    n_accepted: u32,
}

fn run(executor: &mut impl Executor, params: &Params, len: u32) -> Run {
    let mut decoder = Decoder::new(params, &prompt(), blocks(0, 12));
    let mut n_accepted = 0;
    while decoder.output().len() < N_TOKENS {
        let (proposal, _) = decoder.draft(executor, len);
        n_accepted += decoder.verify(executor, &proposal, len > 0).verdict.accepted();
    }
    Run { output: decoder.output()[..N_TOKENS].to_vec(), n_accepted }
}

fn check<B: Backend>(backend: B, params: &Params) {
    let mut executor = embedded_pair(backend, Rule::Block, 12);
    let plain = run(&mut executor, params, 0);
    assert_eq!(plain.n_accepted, 0);
    for len in [1, 3, 6] {
        let speculative = run(&mut executor, params, len);
        assert_eq!(speculative.output, plain.output, "{len} drafted per step");
        assert!(speculative.n_accepted > 0, "{len} drafted per step and none accepted");
    }
}

#[test]
fn speculation_does_not_change_greedy_output() {
    check(Reference, &Params::greedy());
    check(Cpu::new(2), &Params::greedy());
}

#[test]
fn speculation_does_not_change_penalised_greedy_output() {
    let params =
        Params { repetition_penalty: 1.3, frequency_penalty: 0.2, presence_penalty: 0.1, ..Params::greedy() };
    check(Cpu::new(2), &params);
}

#[test]
fn a_branching_proposal_follows_the_target() {
    let params = Params::greedy();
    let mut executor = embedded_pair(Reference, Rule::Block, 12);
    let plain = run(&mut executor, &params, 0).output;
    // A wrong root, then the right one with a wrong and a right child.
    let mut tree = Proposal::new();
    tree.push(plain[0] ^ 1, None);
    let root = tree.push(plain[0], None);
    tree.push(plain[1] ^ 1, Some(root));
    tree.push(plain[1], Some(root));
    let mut decoder = Decoder::new(&params, &prompt(), blocks(0, 12));
    let verdict = decoder.verify(&mut executor, &tree, false).verdict;
    assert_eq!(verdict.path, [1, 3]);
    assert_eq!(decoder.output(), &plain[..3]);
}
