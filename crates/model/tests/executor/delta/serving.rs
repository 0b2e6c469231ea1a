//! Through the engine: the same bytes whatever is speculated, cached, preempted or read at a time.

use dsde_engine::{Config, Drafter, Suffix};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_policy::{Fixed, Off};

use super::{OWN_HEAD, TARGETS, executor};
use crate::serve::{self, Run, mixed_requests, run, run_as};
use crate::trees::OF_ALL_KINDS;

/// Random weights hardly ever agree with them.
const DRAFTS: [&str; 2] = ["qwen2_window", OWN_HEAD];
const TOKENS_MAX: u32 = 40;

/// With fewer sequences at once than there are.
fn config() -> Config {
    Config { sequences_max: 4, ..Config::default() }
}

fn plain<B: Backend>(backend: B, target: &str) -> Run {
    let config = Config { prefix_cache: false, ..config() };
    run_as(executor(backend, target, None, 40), Off, config, &mixed_requests(TOKENS_MAX))
}

fn check<B: Backend>(backend: impl Fn() -> B, targets: &[&str]) {
    for &target in targets {
        let expected = plain(backend(), target).outputs;
        // All at once, and with so few blocks that sequences are preempted.
        for n_blocks in [40, 12] {
            let mut accepted_of_head = 0;
            for (draft, shape) in DRAFTS.iter().flat_map(|draft| OF_ALL_KINDS.map(|shape| (draft, shape))) {
                let executor = executor(backend(), target, Some(draft), n_blocks);
                let got = run(executor, shape, config(), &mixed_requests(TOKENS_MAX));
                assert_eq!(got.outputs, expected, "{target}, {draft}, {shape:?}, {n_blocks} blocks");
                accepted_of_head += if *draft == OWN_HEAD { got.sums.accepted } else { 0 };
            }
            assert!(accepted_of_head > 0, "{target}: the head is right now and then");
            let config = Config { drafter: Drafter::Suffix(Suffix::default()), ..config() };
            let executor = executor(backend(), target, None, n_blocks);
            let got = run_as(executor, Fixed::new(4), config, &mixed_requests(TOKENS_MAX));
            assert_eq!(got.outputs, expected, "{target}, what repeats, {n_blocks} blocks");
            assert!(got.sums.accepted > 0 && got.sums.verified > got.sums.accepted, "some are rejected");
        }
    }
}

#[test]
fn speculation_changes_nothing_on_the_reference() {
    check(|| Reference, &TARGETS[..1]);
}

#[test]
fn speculation_changes_nothing_on_the_processor() {
    check(|| Cpu::new(2), &TARGETS);
}

#[test]
fn chunks_and_cached_prefixes_change_nothing() {
    for target in TARGETS {
        let expected = plain(Cpu::new(2), target);
        let limits = [(1, 1), (1, 5), (2, 16), (3, 17), (3, 64)];
        let executor = || executor(Cpu::new(2), target, None, 40);
        serve::chunks_and_cached_prefixes_change_nothing(
            executor,
            &mixed_requests(TOKENS_MAX),
            &expected,
            &limits,
        );
    }
}
