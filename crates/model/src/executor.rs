//! The real executor: a target of the Llama family, and optionally a draft model or a head, over stores with the same
//! blocks.
//!
//! A pass runs the model over all rows once and then walks over the sequences that want a token. Logits exist for a bounded
//! number of rows at a time (`LOGIT_ROWS_MAX`): the walk takes as many sequences as fit, projects their rows on the
//! vocabulary, works on them in parallel, and goes on. What a sequence gets depends on its own rows and its own random numbers
//! alone, so neither the grouping nor the number of threads can be seen in the output.
//!
//! Between the passes of a step the executor keeps what drafted tokens were drawn from (`DraftedRows`); the
//! verification needs it, and afterwards it is gone.

mod ahead;
mod draft;
mod drafted;
mod drafting;
mod draw;
mod judge;
mod lending;
mod on_cpu;
mod outputs;
mod parallel;
mod path;
mod prune;
mod row_pool;
mod score;
mod shape;

use std::sync::Arc;

use dsde_engine::{
    BlockCopy, DraftAhead, DraftDraw, Drafted, Executor, ExecutorError, PromptScore, RowBatch, Shape,
    SlotMove, TargetDraw, Verification,
};
use dsde_policy::ExpertsWoken;
use dsde_sampling::{Rule, TokenLogprobs};

use dsde_checkpoint::Checkpoint;
use dsde_kernels::Backend;

use crate::error::Error;
use crate::llama::{Llama, kv_shape};
use crate::translation::Translation;
use crate::weights::OnPacked;
use ahead::Groups;
use draft::Draft;
pub use draft::DraftCheckpoint;
use drafted::{DraftedRows, DraftedStore, Keeper};
use drafting::Drafting;
use judge::Judge;
pub use lending::DraftSource;
use lending::Lent;
pub use on_cpu::CpuExecutor;
use outputs::OutputPlan;
use parallel::Workers;
pub use shape::{Checkpoints, Config, KvSize, block_bytes, shape, state_bytes};

/// Memory that an executor holds, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Weights of the target, as packed.
    pub target_weight_bytes: usize,
    /// Weights of the draft; 0 without one, and while its memory is lent to the target's store.
    pub draft_weight_bytes: usize,
    /// One block in both stores, or in the target's alone while the draft's memory is lent.
    pub block_bytes: usize,
    /// Both stores, lent blocks included.
    pub kv_bytes: usize,
    /// States of the target's delta layers; inputs of proposals, some tens of KiB per token and layer, come on top.
    pub state_bytes: usize,
}

/// Runs a target and an optional draft on one backend.
pub struct ModelExecutor<B: Backend> {
    backend: B,
    target: Model<B>,
    draft: Option<Draft<B>>,
    /// From which the draft is loaded again after its memory was lent.
    draft_source: Option<DraftSource>,
    lent: Option<Lent>,
    rule: Rule,
    shape: Shape,
    drafted: DraftedStore,
    workers: Workers,
    plan: OutputPlan,
    /// Made when somebody drafts ahead for the first time.
    groups: Option<Groups<B>>,
}

/// A model and its keys and values.
struct Model<B: Backend> {
    llama: Llama<B>,
    kv: B::KvStore,
}

impl<B: Backend> ModelExecutor<B> {
    /// Packs the weights and makes the stores.
    ///
    /// # Errors
    /// As [`DraftCheckpoint::check_fit`], or why the weights of one cannot be used.
    pub fn new(backend: B, checkpoints: Checkpoints<'_>, config: Config) -> Result<Self, Error> {
        Self::new_with(backend, checkpoints, config, &mut |_, _| {})
    }

    /// The same, told how far the target is as it goes on.
    ///
    /// # Errors
    /// As [`ModelExecutor::new`].
    pub fn new_with(
        backend: B,
        checkpoints: Checkpoints<'_>,
        config: Config,
        on_packed: &mut OnPacked<'_>,
    ) -> Result<Self, Error> {
        let shape = shape(&backend, checkpoints, config)?;
        let mut target = Model::load(&backend, checkpoints.target, None, shape, on_packed)?;
        let load = |draft| Draft::load(&backend, draft, checkpoints.target, &mut target.llama, shape);
        let draft = checkpoints.draft.map(load).transpose()?;
        Ok(Self {
            backend,
            target,
            draft,
            draft_source: None,
            lent: None,
            rule: config.rule,
            shape,
            drafted: DraftedStore::default(),
            workers: Workers::default(),
            plan: OutputPlan::default(),
            groups: None,
        })
    }

    /// Memory held now.
    pub fn memory(&self) -> MemoryUse {
        let target_block_bytes = block_bytes(&self.backend, self.target.llama.config());
        let draft = self.draft.as_ref();
        let draft_block_bytes = draft.map_or(0, |draft| draft.block_bytes(&self.backend));
        let block_bytes = target_block_bytes + draft_block_bytes;
        let n_blocks_lent = self.lent.as_ref().map_or(0, |lent| lent.n_blocks);
        MemoryUse {
            target_weight_bytes: self.target.llama.weight_bytes(&self.backend),
            draft_weight_bytes: draft.map_or(0, |draft| draft.weight_bytes(&self.backend)),
            block_bytes,
            kv_bytes: block_bytes * self.shape.n_blocks as usize + target_block_bytes * n_blocks_lent,
            state_bytes: state_bytes(&self.backend, self.target.llama.config())
                * self.shape.n_states as usize,
        }
    }

    /// Runs the target's layers from `first_layer` on and judges the proposals.
    ///
    /// * `verifications`: one per draw.
    fn judge(
        &mut self,
        first_layer: usize,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut [Verification],
    ) {
        let groups = self.plan.of(rows, draws.iter().map(|draw| (draw.seq_idx, 1 + draw.proposal.len())));
        let Model { llama, kv } = &mut self.target;
        let layers = first_layer..llama.config().n_layers;
        llama.run_layers(&self.backend, layers, rows, &self.plan.outputs, kv);
        if let Some(draft) = &mut self.draft {
            draft.read_target(&self.backend, llama, rows, &self.plan.outputs);
        }
        let (isa, rule, pool) = (self.backend.isa(), self.rule, self.drafted.pool());
        for group in groups {
            let mut logits = llama.logits(&self.backend, group.rows);
            let n_logits = logits.len();
            let results = &mut verifications[group.draws.clone()];
            let jobs = draws[group.draws].iter().zip(results).map(|(draw, result)| {
                let len = (1 + draw.proposal.len() as usize) * self.shape.vocab_len as usize;
                let rows = logits.split_off_mut(..len).expect("a group has the rows of its draws");
                let kept = draw.is_model_drafted.then(|| self.drafted.get(draw.seq, n_rows_read(draw)));
                (draw, rows, kept.flatten(), result)
            });
            self.workers.run(&self.backend, n_logits, jobs, |(draw, rows, kept, result), scratch| {
                *result = isa.run(Judge { draw, rule, rows, kept, pool, scratch });
            });
        }
    }
}

impl<B: Backend> Model<B> {
    fn load(
        backend: &B,
        checkpoint: &Checkpoint,
        translation: Option<Arc<Translation>>,
        shape: Shape,
        on_packed: &mut OnPacked<'_>,
    ) -> Result<Self, Error> {
        let context_len = shape.context_len_max.min(checkpoint.config().context_len_max);
        let llama = Llama::load_with(backend, checkpoint, context_len, translation, on_packed)?;
        let llama = llama.with_states(backend, shape.n_states as usize);
        let kv = backend.kv_store(&kv_shape(llama.config(), shape.n_blocks as usize));
        Ok(Self { llama, kv })
    }
}

impl<B: Backend> Executor for ModelExecutor<B> {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), ExecutorError> {
        self.backend.copy_blocks(&mut self.target.kv, copies);
        self.target.llama.copy_blocks(copies);
        if let Some(draft) = &mut self.draft {
            draft.copy_blocks(&self.backend, copies);
        }
        Ok(())
    }

    fn move_slots(&mut self, target: &[SlotMove], draft: &[SlotMove]) -> Result<(), ExecutorError> {
        self.backend.move_slots(&mut self.target.kv, target);
        self.target.llama.move_slots(target);
        if let Some(model) = &mut self.draft {
            model.move_slots(&self.backend, target, draft);
        }
        Ok(())
    }

    fn draft(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError> {
        let Self { backend, target, draft, drafted: store, workers, plan, .. } = self;
        let draft = draft.as_mut().ok_or_else(no_draft)?.reader(target);
        let before = draws.iter().map(|draw| match draw.is_ahead {
            true => None,
            false => Some(store.take(draw.seq, n_rows_before(draw))),
        });
        let before: Vec<Option<DraftedRows>> = before.collect();
        let keeper = |rows: Option<DraftedRows>| match rows {
            None => Keeper::of_nothing(),
            Some(rows) => Keeper::after(rows, store.pool()),
        };
        let mut kept: Vec<Keeper<'_>> = before.into_iter().map(keeper).collect();
        Drafting { backend, draft, workers, plan }.pass(rows, draws, &mut kept, drafted);
        let kept: Vec<Option<DraftedRows>> = kept.into_iter().map(Keeper::into_rows).collect();
        for (draw, rows) in draws.iter().zip(kept) {
            if let Some(rows) = rows {
                store.put(draw.seq, rows);
            }
        }
        Ok(())
    }

    fn verify(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        verifications.clear();
        verifications.resize(draws.len(), Verification::default());
        self.target.llama.begin(&self.backend, rows);
        match self.cut(rows, draws) {
            None => self.judge(0, rows, draws, verifications),
            Some(cut) => {
                self.judge(cut.n_layers, &cut.rows, &cut.draws(draws), verifications);
                let lens = draws.iter().map(|draw| draw.proposal.len());
                for ((verification, len), left) in verifications.iter_mut().zip(lens).zip(&cut.proposals) {
                    verification.pruned = len - left.len();
                }
            }
        }
        self.drafted.clear();
        Ok(())
    }

    fn score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError> {
        self.read_and_score(rows, scores, logprobs);
        Ok(())
    }

    fn verify_ahead(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        ahead: &mut DraftAhead<'_>,
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        self.verify_beside(rows, draws, ahead, verifications)
    }

    fn take_experts_woken(&mut self) -> Option<ExpertsWoken> {
        self.target.llama.take_experts_woken()
    }

    fn lend_draft(&mut self) -> Option<u32> {
        self.lend()
    }

    fn reclaim_draft(&mut self) -> Result<(), ExecutorError> {
        self.reclaim().map_err(|error| {
            tracing::warn!("the draft cannot be loaded again, nothing is drafted until it can: {error}");
            ExecutorError { pass: "loading", source: error.into() }
        })
    }
}

fn no_draft() -> ExecutorError {
    ExecutorError { pass: "draft", source: "no draft model is loaded".into() }
}

/// Rows that the draft has drafted after in this step before `draw`: one per node that is no leaf, and that of the last known
/// token.
fn n_rows_before(draw: &DraftDraw<'_>) -> u32 {
    match draw.proposal.len() {
        0 => 0,
        n_nodes => 1 + n_nodes - draw.n_rows(),
    }
}

/// Rows of the draft that stand behind the proposal.
fn n_rows_read(draw: &TargetDraw<'_>) -> u32 {
    let rows = draw.proposal.parents().iter().map(|&parent| 1 + draw.draft_row(parent) as u32);
    rows.max().unwrap_or(0)
}
