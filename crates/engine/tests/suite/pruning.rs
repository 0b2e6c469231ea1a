//! Ends of proposals that are dropped inside the target's pass: who may lose them, and that nobody can tell from the output.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::common::*;
use dsde_engine::{
    BlockCopy, DraftDraw, Drafted, Drafter, Engine, Executor, ExecutorError, PromptScore, Request, RowBatch,
    Script, ScriptedExecutor, Shape, SlotMove, StepReport, Suffix, TargetDraw, Verification,
};
use dsde_sampling::{Params, Rule, TokenLogprobs};

/// Counts who is asked to prune.
struct Watched {
    inner: ScriptedExecutor,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    n_pruned: AtomicU32,
    n_asked: AtomicU32,
}

impl Executor for Watched {
    fn shape(&self) -> Shape {
        self.inner.shape()
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), ExecutorError> {
        self.inner.copy_blocks(copies)
    }

    fn move_slots(&mut self, target: &[SlotMove], draft: &[SlotMove]) -> Result<(), ExecutorError> {
        self.inner.move_slots(target, draft)
    }

    fn draft(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError> {
        for draw in draws {
            let is_chain = draw.beam.is_none();
            assert_eq!(
                draw.n_rivals > 0,
                draw.params.is_greedy() && is_chain,
                "rivals of greedy chains alone"
            );
        }
        self.inner.draft(rows, draws, drafted)
    }

    fn verify(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        for draw in draws {
            let may_prune = draw.params.is_greedy() && draw.drafted_as.is_none() && draw.is_model_drafted;
            assert_eq!(draw.prune.is_some(), may_prune, "what is sampled or branches is never dropped");
            let is_asked = draw.prune.is_some() && !draw.proposal.is_empty();
            self.counts.n_asked.fetch_add(u32::from(is_asked), Relaxed);
        }
        self.inner.verify(rows, draws, verifications)?;
        let n_pruned = verifications.iter().map(|verification| verification.pruned).sum();
        self.counts.n_pruned.fetch_add(n_pruned, Relaxed);
        Ok(())
    }

    fn score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError> {
        self.inner.score(rows, scores, logprobs)
    }
}

fn watched(drafter: Drafter) -> (Engine, Arc<Counts>) {
    let inner = ScriptedExecutor::new(Script::default(), shape(120), Rule::Block);
    let config = dsde_engine::Config { drafter, ..dsde_engine::Config::default() };
    let counts = Arc::<Counts>::default();
    let executor = Watched { inner, counts: counts.clone() };
    (engine_of(config, "pruning", executor), counts)
}

/// Greedy and sampled requests side by side, under plain decoding, chains and trees; every other one greedy.
fn submit(engine: &mut Engine) -> Vec<(dsde_engine::RequestId, Vec<u32>)> {
    let request = |i: u32| {
        let temperature = if i.is_multiple_of(2) { 0.0 } else { 0.8 };
        Request::new(prompt(i, 4 + i), Params { temperature, ..Params::greedy() }, 40)
    };
    let ids = (0..10).map(|i| (engine.submit(request(i)).unwrap(), prompt(i, 4 + i)));
    ids.collect()
}

#[test]
fn greedy_chains_alone_are_pruned_and_nobody_can_tell() {
    let (mut engine, counts) = watched(Drafter::Model);
    let ids = submit(&mut engine);
    let (mut outputs, mut sums) = (Outputs::new(), StepReport::default());
    while !engine.is_idle() {
        let report = engine.step().unwrap();
        sums.drafted += report.drafted;
        sums.verified += report.verified;
        sums.accepted += report.accepted;
        collect(engine.drain_events(), &mut outputs);
    }
    for (id, prompt) in ids.iter().step_by(2) {
        assert_eq!(outputs[&(*id, 0)].tokens, Script::default().greedy_continuation(prompt, 40));
    }
    let (n_pruned, n_asked) = (counts.n_pruned.load(Relaxed), counts.n_asked.load(Relaxed));
    assert!(n_asked > 10 && n_pruned > 10, "{n_pruned} tokens of {n_asked} proposals were dropped");
    assert_eq!(sums.verified, sums.drafted - n_pruned, "what was dropped was not verified");
    assert!(sums.accepted > 0);
}

#[test]
fn repetitions_are_not_pruned() {
    let (mut engine, counts) = watched(Drafter::Suffix(Suffix::default()));
    submit(&mut engine);
    run(&mut engine);
    assert_eq!(counts.n_asked.load(Relaxed), 0);
}
