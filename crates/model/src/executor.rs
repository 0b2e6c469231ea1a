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
mod score;

use std::sync::Arc;

use dsde_engine::{
    BlockCopy, DraftAhead, DraftDraw, Drafted, Executor, ExecutorError, PromptScore, RowBatch, Shape,
    SlotMove, TargetDraw, Verification,
};
use dsde_policy::ExpertsWoken;
use dsde_sampling::{Rule, TokenLogprobs};

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::ModelConfig;
use dsde_kernels::Backend;

use crate::error::Error;
use crate::llama::{Llama, kv_shape};
use crate::translation::Translation;
use crate::weights::OnPacked;
use ahead::Groups;
use draft::Draft;
pub use draft::DraftCheckpoint;
use drafted::{DraftedRows, DraftedStore};
use drafting::Drafting;
use judge::Judge;
pub use lending::DraftSource;
use lending::Lent;
pub use on_cpu::CpuExecutor;
use outputs::OutputPlan;
use parallel::Workers;

/// Bytes of both stores together for a batch of sequences under [`KvSize::Auto`]: 1 GiB, which a small machine can spare.
const KV_BYTES_AUTO: u64 = 1 << 30;

/// Bytes of both stores together for the one sequence of full length that [`KvSize::Auto`] makes room for: 4 GiB, which a
/// machine that serves models with such contexts can spare.
const SEQUENCE_BYTES_AUTO: u64 = 4 << 30;

/// Sequences of full length that [`KvSize::Auto`] makes room for if the bytes allow.
const SEQUENCES_AUTO: u32 = 32;

/// Bytes of snapshots, all together, unless these are fewer than [`SNAPSHOTS_MIN`].
const SNAPSHOT_BYTES: usize = 1 << 30;

/// Least number of snapshots: the beginnings of a few conversations.
const SNAPSHOTS_MIN: usize = 4;

/// How an executor is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How sampled proposals are judged.
    pub rule: Rule,
    /// Longest sequence that will be asked for; what the models and the stores can hold bounds it too.
    pub context_len_max: u32,
    /// Size of the stores.
    pub kv: KvSize,
    /// Sequences that run at once. For each of them a target with delta layers has a state, and room for as many snapshots in at
    /// most 1 GiB, but for 4 at least. The engine's default: 64.
    pub sequences_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { rule: Rule::default(), context_len_max: u32::MAX, kv: KvSize::Auto, sequences_max: 64 }
    }
}

/// How large the key/value stores are; target and draft always have the same number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSize {
    /// Room for 32 sequences of full length in at most 1 GiB, and at least for one as long as that takes at most 4 GiB.
    Auto,
    /// So many blocks in each store.
    Blocks(u32),
    /// As many blocks as fit in so many bytes, both stores together.
    Bytes(u64),
}

/// Where the weights come from; nothing is read from them after construction (see [`DraftSource`] for what is read later).
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints<'a> {
    /// The model that decides.
    pub target: &'a Checkpoint,
    /// What guesses.
    pub draft: Option<DraftCheckpoint<'a>>,
}

impl Checkpoints<'_> {
    /// Bytes of all weights, as [`Checkpoint::weight_bytes`].
    pub fn weight_bytes(self) -> usize {
        self.target.weight_bytes() + self.draft.map_or(0, DraftCheckpoint::weight_bytes)
    }

    /// Bytes of one block in all stores.
    pub fn block_bytes<B: Backend>(self, backend: &B) -> usize {
        block_bytes(backend, self.target.config()) + self.draft.map_or(0, |draft| draft.block_bytes(backend))
    }
}

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
        let (isa, rule) = (self.backend.isa(), self.rule);
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
                *result = isa.run(Judge { draw, rule, rows, kept, scratch });
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

/// Bytes of one block in the store of one model.
pub fn block_bytes<B: Backend>(backend: &B, config: &ModelConfig) -> usize {
    backend.block_bytes(&kv_shape(config, 1))
}

/// Bytes of one state of a model, all delta layers together; 0 without such layers.
pub fn state_bytes<B: Backend>(backend: &B, config: &ModelConfig) -> usize {
    let state_len = config.delta.map_or(0, |shape| backend.state_len(shape));
    config.n_delta_layers() * state_len * size_of::<f32>()
}

/// See [`Config::sequences_max`]; 0 where a state has no bytes.
fn n_states(sequences_max: u32, state_bytes: usize) -> u32 {
    let Some(fitting) = SNAPSHOT_BYTES.checked_div(state_bytes) else { return 0 };
    let n_snapshots = fitting.min(sequences_max as usize).max(SNAPSHOTS_MIN);
    sequences_max.saturating_add(n_snapshots as u32)
}

/// What models, configuration and memory allow together; the shape of an executor that is made of them.
///
/// The stores bound the context: it is shorter than target and `config` allow where a whole sequence does not fit. A draft
/// with a shorter context drafts as far as it can read, and bounds nothing.
///
/// # Errors
/// As [`DraftCheckpoint::check_fit`].
pub fn shape<B: Backend>(backend: &B, checkpoints: Checkpoints<'_>, config: Config) -> Result<Shape, Error> {
    let (target, draft) = (checkpoints.target.config(), checkpoints.draft);
    if let Some(draft) = draft {
        draft.check_fit(target)?;
    }
    let context_len = config.context_len_max.min(target.context_len_max);
    let block_len = backend.block_len() as u32;
    let block_bytes = checkpoints.block_bytes(backend);
    let n_blocks = n_blocks(config.kv, context_len.div_ceil(block_len), block_bytes);
    let shape = Shape {
        vocab_len: target.vocab_len as u32,
        context_len_max: context_len,
        block_len,
        n_blocks,
        draft_context_len: None,
        draft_reads_target: draft.is_some_and(DraftCheckpoint::reads_target),
        // A draft may lag behind, so what the target has passed is not passed for it.
        window: if draft.is_none() { window(target) } else { None },
        n_states: n_states(config.sequences_max, state_bytes(backend, target)),
    };
    let context_len_max = context_len.min(shape.storable_len());
    Ok(Shape {
        context_len_max,
        draft_context_len: draft.map(|draft| draft.context_len_max().min(context_len_max)),
        ..shape
    })
}

/// The longest window of a model in which every layer has one.
fn window(config: &ModelConfig) -> Option<u32> {
    config.layers.iter().map(|layer| layer.window).max_by_key(|window| window.unwrap_or(u32::MAX)).flatten()
}

/// Blocks of each store, at least one.
///
/// * `table_len`: blocks of a sequence of full length.
/// * `block_bytes`: one block in both stores.
fn n_blocks(size: KvSize, table_len: u32, block_bytes: usize) -> u32 {
    let fitting = |bytes: u64| u32::try_from(bytes / block_bytes as u64).unwrap_or(u32::MAX);
    let n_blocks = match size {
        KvSize::Auto => {
            let batch = table_len.saturating_mul(SEQUENCES_AUTO).min(fitting(KV_BYTES_AUTO));
            batch.max(table_len.min(fitting(SEQUENCE_BYTES_AUTO)))
        }
        KvSize::Blocks(n_blocks) => n_blocks,
        KvSize::Bytes(bytes) => fitting(bytes),
    };
    n_blocks.max(1)
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
        let draft = self.draft.as_mut().ok_or_else(no_draft)?.reader(&self.target);
        let kept = draws.iter().map(|draw| match draw.is_ahead {
            true => DraftedRows::default(),
            false => self.drafted.take(draw.seq, n_rows_before(draw)),
        });
        let mut kept: Vec<DraftedRows> = kept.collect();
        let Self { backend, workers, plan, .. } = self;
        Drafting { backend, draft, workers, plan }.pass(rows, draws, &mut kept, drafted);
        for (draw, kept) in draws.iter().zip(kept).filter(|(draw, _)| !draw.is_ahead) {
            self.drafted.put(draw.seq, kept);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_auto(table_len: u32, block_bytes: usize, expected: u32) {
        assert_eq!(n_blocks(KvSize::Auto, table_len, block_bytes), expected);
    }

    #[test]
    fn automatic_stores_hold_a_batch_in_1_gib_or_one_long_sequence_in_4() {
        const MIB: usize = 1 << 20;
        // 128 blocks per sequence, 64 KiB each: 32 sequences take 256 MiB.
        check_auto(128, MIB / 16, 32 * 128);
        // 512 blocks of 1 MiB: 32 sequences would take 16 GiB, 2 of them fit 1 GiB.
        check_auto(512, MIB, 1024);
        // One sequence of 8192 blocks of 1 MiB takes 8 GiB; half of it fits 4 GiB.
        check_auto(8192, MIB, 4096);
        // One sequence takes 2 GiB: more than a batch may, less than a sequence may.
        check_auto(2048, MIB, 2048);
        // Not even one block fits.
        check_auto(1, 8 << 30, 1);
    }
}
