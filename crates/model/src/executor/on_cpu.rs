//! An executor on the CPU, as who serves a model needs it.

use dsde_engine::Executor;
use dsde_kernels::{Backend, Cpu};

use super::{Checkpoints, Config, DraftSource, MemoryUse, ModelExecutor};
use crate::error::Error;
use crate::weights::OnPacked;

/// A [`ModelExecutor`] on the CPU behind the engine's port, and what was to be known of it before.
///
/// Nothing here is generic: kernels and executor are compiled with this crate, and nobody who serves a model compiles them again.
pub struct CpuExecutor {
    /// For an engine.
    pub executor: Box<dyn Executor>,
    /// Memory it holds.
    pub memory: MemoryUse,
    /// What runs and with how many threads, for people.
    pub description: String,
}

impl CpuExecutor {
    /// Packs the weights and makes the stores.
    ///
    /// * `draft_source`: see [`ModelExecutor::with_draft_source`].
    /// * `on_packed`: told how far the target is.
    ///
    /// # Errors
    /// As [`ModelExecutor::new`].
    pub fn new(
        backend: Cpu,
        checkpoints: Checkpoints<'_>,
        draft_source: Option<DraftSource>,
        config: Config,
        on_packed: &mut OnPacked<'_>,
    ) -> Result<Self, Error> {
        let description = backend.describe();
        let executor = ModelExecutor::new_with(backend, checkpoints, config, on_packed)?;
        let memory = executor.memory();
        let executor = match draft_source {
            Some(source) => executor.with_draft_source(source),
            None => executor,
        };
        Ok(Self { executor: Box::new(executor), memory, description })
    }
}
