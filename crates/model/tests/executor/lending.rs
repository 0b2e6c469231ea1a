//! The real draft's memory as blocks of the real target's store, and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dsde_engine::{Config, Executor, Request};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::executor::{DraftSource, MemoryUse, ModelExecutor};
use dsde_model::{Error, embedded};
use dsde_policy::{Off, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::{Params, Rule};

use crate::pair::{embedded_pair, open, tiny_pair};
use crate::serve::run;

/// Chains and trees while the draft is there, which it is in `on` of every `on + off` steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moody {
    pub(crate) on: u64,
    pub(crate) off: u64,
    pub(crate) step: u64,
}

impl Policy for Moody {
    fn name(&self) -> String {
        "moody".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.step = view.step;
        let width = 1 + (view.step / 3 % 3) as u32;
        plan.fill(Planned { len: 3, width, is_settled: true, reason: "moody" });
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn wants_draft(&self) -> bool {
        self.step % (self.on + self.off) < self.on
    }

    fn forget(&mut self, _seq: SeqId) {}
}

fn lending_tiny<B: Backend>(backend: B, n_blocks: u32) -> ModelExecutor<B> {
    tiny_pair(backend, Rule::Block, n_blocks).with_draft_source(DraftSource::new(|| Ok(open("qwen2"))))
}

fn requests() -> Vec<Request> {
    let prompt = |i: u32| (0..5 + 6 * (i % 5)).map(|j| (i % 5 * 31 + j * 17) % 128).collect();
    (0..10)
        .map(|i| Request { n_choices: 1 + i % 2, ..Request::new(prompt(i), Params::greedy(), 40) })
        .collect()
}

fn greedy_is_identical<B: Backend>(backend: impl Fn() -> B, n_blocks: &[u32]) {
    let plain = run(tiny_pair(backend(), Rule::Block, 200), Off, Config::default(), &requests()).outputs;
    for &n_blocks in n_blocks {
        for (on, off) in [(1, 1), (3, 2), (2, 5)] {
            let moody = Moody { on, off, step: 0 };
            let got = run(lending_tiny(backend(), n_blocks), moody, Config::default(), &requests());
            assert_eq!(got.outputs, plain, "{n_blocks} blocks, {on} steps on and {off} off");
            assert!(got.sums.blocks_lent > 0 && got.sums.drafted > 0, "both happened");
        }
    }
}

#[test]
fn greedy_output_is_the_same_while_the_store_grows_and_contracts() {
    greedy_is_identical(|| Cpu::new(2), &[8, 12, 60]);
    greedy_is_identical(|| Reference, &[9]);
}

#[test]
fn blocks_are_counted_by_the_memory_of_the_draft() {
    let mut executor = lending_tiny(Reference, 5);
    let before = executor.memory();
    let n_lent = executor.lend_draft().unwrap();
    let MemoryUse { draft_weight_bytes, block_bytes, kv_bytes, .. } = executor.memory();
    // A block of either store has 8192 bytes.
    assert_eq!(n_lent as usize, (before.draft_weight_bytes + 5 * 8192) / 8192);
    assert_eq!((draft_weight_bytes, block_bytes, kv_bytes), (0, 8192, 8192 * (5 + n_lent as usize)));
    let total = |memory: MemoryUse| memory.target_weight_bytes + memory.draft_weight_bytes + memory.kv_bytes;
    assert!(total(executor.memory()) <= total(before), "memory never grows");
    assert_eq!(executor.lend_draft(), None, "it is lent already");
    executor.reclaim_draft().unwrap();
    assert_eq!(executor.memory(), before);
}

#[test]
fn the_embedded_draft_is_worth_many_blocks() {
    let source = DraftSource::new(|| Ok(embedded::draft()));
    let mut executor = embedded_pair(Cpu::new(1), Rule::Block, 96).with_draft_source(source);
    let n_lent = executor.lend_draft().unwrap();
    // 96 blocks of 8 KiB and about 2.1 MB of weights, tied embeddings held once, in blocks of 48 KiB.
    assert!((50..70).contains(&n_lent), "{n_lent}");
}

#[test]
fn without_a_source_the_draft_stays() {
    let mut executor = tiny_pair(Reference, Rule::Block, 5);
    let before = executor.memory();
    assert_eq!(executor.lend_draft(), None);
    executor.reclaim_draft().unwrap();
    assert_eq!(executor.memory(), before);
}

#[test]
fn a_draft_that_became_another_model_is_refused_until_it_is_back() {
    let is_changed = Arc::new(AtomicBool::new(true));
    let source = {
        let is_changed = Arc::clone(&is_changed);
        DraftSource::new(move || Ok(open(if is_changed.load(Ordering::Relaxed) { "qwen3" } else { "qwen2" })))
    };
    let mut executor = tiny_pair(Reference, Rule::Block, 5).with_draft_source(source);
    let before = executor.memory();
    executor.lend_draft().unwrap();
    let error = executor.reclaim_draft().unwrap_err();
    assert!(matches!(error.source.downcast_ref(), Some(Error::DraftChanged)), "{error}");
    assert_eq!(executor.memory().kv_bytes, 5 * 8192, "the blocks are gone all the same");
    is_changed.store(false, Ordering::Relaxed);
    executor.reclaim_draft().unwrap();
    assert_eq!(executor.memory(), before);
}
