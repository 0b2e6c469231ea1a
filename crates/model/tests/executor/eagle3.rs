//! EAGLE-3 heads: against a plain implementation, and through engine and executor.

mod files;
mod fit;
mod forward;
mod plain;
mod serving;

use dsde_kernels::Backend;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_sampling::Rule;

use crate::pair::open;
use files::{Files, Kind, head, target};
pub(crate) use serving::policies;

/// The small target and a head for it, with the tensors that they were made of.
struct Pair<B: Backend> {
    executor: ModelExecutor<B>,
    target: Files,
    head: Files,
}

impl<B: Backend> Pair<B> {
    fn new(backend: B, kind: Kind, n_blocks: u32) -> Self {
        let (target, target_checkpoint) = target();
        let (head, head_checkpoint) = head(kind, files::VOCAB, files::HIDDEN);
        let checkpoints = Checkpoints {
            target: &target_checkpoint,
            draft: Some(DraftCheckpoint::Eagle3(&head_checkpoint)),
        };
        let config = Config { kv: KvSize::Blocks(n_blocks), ..Config::default() };
        Self { executor: ModelExecutor::new(backend, checkpoints, config).unwrap(), target, head }
    }
}

/// A random head on the random target of [`tiny_pair`](crate::pair::tiny_pair), which has two layers.
pub(crate) fn tiny_head<B: Backend>(backend: B, rule: Rule, n_blocks: u32) -> ModelExecutor<B> {
    let target = open("llama3");
    let kind = Kind { taps: Some(&[1; 3]), hidden: 64, ..files::PLAIN };
    let (_files, head) = head(kind, target.config().vocab_len, target.config().hidden);
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Eagle3(&head)) };
    let config = Config { rule, kv: KvSize::Blocks(n_blocks), ..Config::default() };
    ModelExecutor::new(backend, checkpoints, config).unwrap()
}
