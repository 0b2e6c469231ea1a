//! Architectures with windows, caps and layers of their own kinds through the engine: the same bytes with speculation and without.

use dsde_engine::{Config, Drafter, Request, Suffix};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::executor::{self, Checkpoints, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_policy::{Fixed, Off};
use dsde_sampling::Params;

use crate::pair::open;
use crate::serve::{run, run_as};
use crate::trees::Shape;

/// Each with something that the others lack; all over the same 48 tokens.
const TARGETS: [&str; 6] = ["mistral_window", "gemma2", "gemma3", "phi3", "smollm3", "glm4"];
/// Sequences reach far beyond the longest window, 30.
const TOKENS_MAX: u32 = 40;

fn pair<B: Backend>(backend: B, target: &str, draft: &str, n_blocks: u32) -> ModelExecutor<B> {
    let (target, draft) = (open(target), open(draft));
    let config = executor::Config { kv: KvSize::Blocks(n_blocks), ..executor::Config::default() };
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) };
    ModelExecutor::new(backend, checkpoints, config).unwrap()
}

fn alone<B: Backend>(backend: B, target: &str, n_blocks: u32) -> ModelExecutor<B> {
    let target = open(target);
    let config = executor::Config { kv: KvSize::Blocks(n_blocks), ..executor::Config::default() };
    ModelExecutor::new(backend, Checkpoints { target: &target, draft: None }, config).unwrap()
}

fn prompt(salt: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (salt + i * i + i) % 48).collect()
}

/// The last one begins as the first does.
fn requests() -> Vec<Request> {
    let prompts = [prompt(0, 38), prompt(5, 7), [prompt(0, 38), prompt(9, 9)].concat()];
    prompts.map(|prompt| Request::new(prompt, Params::greedy(), TOKENS_MAX)).to_vec()
}

fn speculation_changes_nothing<B: Backend>(backend: impl Fn() -> B, targets: &[&str]) {
    for &target in targets {
        // One that guesses right and one that guesses wrong.
        for draft in [target, "qwen2_window"] {
            // All at once, and with so few blocks that sequences are preempted.
            for n_blocks in [40, 12] {
                let executor = || pair(backend(), target, draft, n_blocks);
                let plain = run(executor(), Shape::Off, Config::default(), &requests()).outputs;
                for shape in
                    [Shape::Tree { len: 3, width: 1 }, Shape::Tree { len: 3, width: 3 }, Shape::Mixed]
                {
                    let speculated = run(executor(), shape, Config::default(), &requests());
                    assert_eq!(speculated.outputs, plain, "{target} with {draft}, {shape:?}");
                    assert!(
                        speculated.sums.verified > 0 && (target != draft || speculated.sums.accepted > 0)
                    );
                }
            }
        }
    }
}

#[test]
fn speculation_does_not_change_what_models_with_windows_emit() {
    speculation_changes_nothing(|| Cpu::new(2), &TARGETS);
    speculation_changes_nothing(|| Reference, &TARGETS[..3]);
}

/// 4 blocks of 16 slots for a window of 12 and sequences of up to 87.
#[test]
fn sequences_longer_than_all_blocks_are_those_of_large_stores() {
    for n_sequences in [1, 3] {
        let config = Config { sequences_max: n_sequences, ..Config::default() };
        let large = run_as(alone(Cpu::new(2), "mistral_window", 40), Off, config, &requests());
        let suffix = Config { drafter: Drafter::Suffix(Suffix::default()), ..config };
        for config in [config, suffix, Config { prefix_cache: false, ..config }] {
            let executor = alone(Cpu::new(2), "mistral_window", 4);
            let small = run_as(executor, Fixed::new(3), config, &requests());
            assert_eq!(small.outputs, large.outputs, "{config:?}");
        }
    }
}
