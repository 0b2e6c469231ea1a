//! Elastic memory: while the policy does without the draft, its memory holds blocks of the target's store.
//!
//! Nightjar, arXiv:2512.22420: the pool of blocks grows by what fits into the draft's weights, keys and values. Before the draft
//! comes back the pool contracts: what the last blocks hold moves to free ones below, tables and prefix cache follow. The draft
//! then reads every context again before it guesses, as after any pause.

use dsde_policy::Policy as _;

use crate::engine::Engine;
use crate::passes::ExecutorError;

/// Steps after which a draft that could not be loaded is tried again.
const RETRY_STEPS: u64 = 1024;

/// Where the draft is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lending {
    /// In its place, or there never was one.
    Loaded,
    /// Its memory holds the last blocks of the pool.
    Lent { n_blocks: u32 },
    /// Its memory is free again, but it could not be loaded.
    Missing { retry_at: u64 },
}

impl Lending {
    /// Whether the draft can draft, if there is one.
    pub(crate) fn is_loaded(self) -> bool {
        self == Self::Loaded
    }

    /// Blocks in the draft's memory.
    pub(crate) fn n_blocks(self) -> u32 {
        match self {
            Self::Lent { n_blocks } => n_blocks,
            Self::Loaded | Self::Missing { .. } => 0,
        }
    }
}

impl Engine {
    /// Follows the policy's wish between two steps, as far as that is possible now; what is not is tried again before the next.
    ///
    /// # Errors
    /// If copying blocks failed.
    pub(crate) fn update_lending(&mut self) -> Result<(), ExecutorError> {
        if !self.config.drafter.has_model() {
            return Ok(());
        }
        match (self.lending, self.policy.wants_draft()) {
            (Lending::Loaded, false) => self.lend_draft(),
            (Lending::Lent { n_blocks }, true) => self.contract(n_blocks)?,
            (Lending::Missing { retry_at }, true) if retry_at <= self.n_steps => self.reclaim_draft(),
            (Lending::Loaded, true) | (Lending::Lent { .. }, false) | (Lending::Missing { .. }, _) => {}
        }
        Ok(())
    }

    fn lend_draft(&mut self) {
        if let Some(n_blocks) = self.executor.lend_draft() {
            self.scheduler.pool.grow(n_blocks);
            self.scheduler.forget_draft();
            self.lending = Lending::Lent { n_blocks };
        }
    }

    /// Empties the blocks in the draft's memory and loads the draft; does nothing while too many blocks are owned.
    fn contract(&mut self, n_blocks: u32) -> Result<(), ExecutorError> {
        let n_own = self.scheduler.pool.n_total() - n_blocks;
        if self.scheduler.contract(n_own) {
            self.lending = Lending::Missing { retry_at: self.n_steps };
            self.copy_blocks()?;
            self.reclaim_draft();
        }
        Ok(())
    }

    /// Speculation waits for a draft that cannot be loaded; nothing else does, so that is no failure of a step.
    fn reclaim_draft(&mut self) {
        self.lending = match self.executor.reclaim_draft() {
            Ok(()) => Lending::Loaded,
            Err(_) => Lending::Missing { retry_at: self.n_steps + RETRY_STEPS },
        };
    }
}
