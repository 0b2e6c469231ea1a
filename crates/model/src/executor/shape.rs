//! What models, configuration and memory allow together: contexts, blocks and states.

use dsde_engine::Shape;
use dsde_sampling::Rule;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::ModelConfig;
use dsde_kernels::Backend;

use super::draft::DraftCheckpoint;
use crate::error::Error;
use crate::llama::kv_shape;

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

/// Where the weights come from; nothing is read from them after construction (see [`DraftSource`](super::DraftSource) for what is
/// read later).
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
