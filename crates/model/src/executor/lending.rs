//! The draft's memory as blocks of the target's store, and the draft loaded anew.

use std::fmt;
use std::sync::Arc;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::ModelConfig;
use dsde_kernels::Backend;

use super::draft::Draft;
use super::{Model, ModelExecutor, block_bytes};
use crate::error::Error;
use crate::translation::Translation;

/// Opens the draft's checkpoint, as often as it is asked.
///
/// The files are opened anew each time and not kept open, so that they may be replaced while a server runs: a draft with
/// other weights is as lossless as the one before, and one of another shape is refused.
pub struct DraftSource(Box<dyn Fn() -> Result<Checkpoint, Error> + Send>);

impl DraftSource {
    /// A source that calls `open`.
    pub fn new(open: impl Fn() -> Result<Checkpoint, Error> + Send + 'static) -> Self {
        Self(Box::new(open))
    }

    /// # Errors
    /// Why the checkpoint cannot be opened, or [`Error::DraftChanged`] unless it has the configuration `expected`.
    fn open(&self, expected: &ModelConfig) -> Result<Checkpoint, Error> {
        let checkpoint = (self.0)()?;
        match checkpoint.config() == expected {
            true => Ok(checkpoint),
            false => Err(Error::DraftChanged),
        }
    }
}

/// A draft whose memory the target's store has, or had.
#[derive(Debug)]
pub(super) struct Lent {
    config: ModelConfig,
    translation: Option<Arc<Translation>>,
    /// Blocks in its memory.
    pub(super) n_blocks: usize,
}

impl fmt::Debug for DraftSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DraftSource").finish_non_exhaustive()
    }
}

impl<B: Backend> ModelExecutor<B> {
    /// Lets the engine lend the draft's memory to the target's store; without a source the draft stays for good.
    #[must_use]
    pub fn with_draft_source(self, source: DraftSource) -> Self {
        Self { draft_source: Some(source), ..self }
    }

    /// See [`Executor::lend_draft`](dsde_engine::Executor::lend_draft).
    ///
    /// Blocks are counted down: the executor never holds more memory than before.
    pub(super) fn lend(&mut self) -> Option<u32> {
        // A head is small, and what it reads of the target is stored with the target's passes.
        let Some(Draft::Model(Model { llama, .. })) =
            self.draft.as_ref().filter(|_| self.draft_source.is_some())
        else {
            return None;
        };
        let (config, translation) = (llama.config().clone(), llama.translation().cloned());
        let kv_bytes = block_bytes(&self.backend, &config) * self.shape.n_blocks as usize;
        // How tokens are translated is kept.
        let kept_bytes = translation.as_ref().map_or(0, |translation| translation.bytes());
        let bytes = llama.weight_bytes(&self.backend) - kept_bytes + kv_bytes;
        let n_blocks = bytes / block_bytes(&self.backend, self.target.llama.config());
        let n_lent = u32::try_from(n_blocks).ok().filter(|&n| n > 0)?;
        self.draft = None;
        self.backend.append_blocks(&mut self.target.kv, n_blocks);
        self.lent = Some(Lent { config, translation, n_blocks });
        Some(n_lent)
    }

    /// See [`Executor::reclaim_draft`](dsde_engine::Executor::reclaim_draft).
    pub(super) fn reclaim(&mut self) -> Result<(), Error> {
        let (Some(source), Some(lent)) = (&self.draft_source, &mut self.lent) else {
            return Ok(());
        };
        self.backend.append_blocks(&mut self.target.kv, 0);
        lent.n_blocks = 0;
        let checkpoint = source.open(&lent.config)?;
        let translation = lent.translation.clone();
        let model = Model::load(&self.backend, &checkpoint, translation, self.shape, &mut |_, _| {})?;
        self.draft = Some(Draft::Model(model));
        self.lent = None;
        Ok(())
    }
}
