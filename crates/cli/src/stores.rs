//! How large the key/value stores are and what bounds the context: from what was asked, the models, and the machine.

use dsde_engine::Shape;
use dsde_kernels::Cpu;
use dsde_model::executor::{self, Checkpoints, KvSize};
use dsde_sampling::Rule;

use crate::failure::{Outcome, usage};

/// Stores whose size nobody chose take at most this part of the memory that the weights leave: one in so many.
const FREE_SHARE: u64 = 2;

/// What was asked about stores and context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Size of the stores.
    pub(crate) kv: KvSize,
    /// Longest sequence, tokens.
    pub(crate) context: Option<u32>,
    /// How sampled proposals are judged.
    pub(crate) rule: Rule,
    /// Sequences that run at once.
    pub(crate) sequences_max: u32,
}

/// What ends a sequence that nothing else has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The context of the target.
    Model,
    /// `--context`.
    Asked,
    /// The size of the stores.
    Stores,
}

/// Sizes of an executor before anything is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stores {
    /// How to set up the executor.
    pub(crate) config: executor::Config,
    /// What it will be able to hold.
    pub(crate) shape: Shape,
    /// What bounds the context.
    pub(crate) bound: Bound,
    /// One block of target and draft together, bytes.
    pub(crate) block_bytes: usize,
    /// Both models, as stored.
    weight_bytes: usize,
    /// States of the target.
    state_bytes: usize,
}

impl Stores {
    /// Plans the stores; warns if they make the context shorter than the target's or `--context`, and if the draft's is.
    ///
    /// * `memory_bytes`: what weights and stores may take together, where this is known.
    ///
    /// # Errors
    /// If the context that was asked for is longer than the model's, or the draft does not fit the target.
    pub(crate) fn plan(
        asked: Asked,
        backend: &Cpu,
        checkpoints: Checkpoints<'_>,
        memory_bytes: Option<u64>,
    ) -> Outcome<Self> {
        let target = checkpoints.target.config();
        if let Some(context) = asked.context.filter(|&context| context > target.context_len_max) {
            let max = target.context_len_max;
            return Err(usage(format!("--context must be at most {max} for this model, got {context}")));
        }
        let context_len_max = asked.context.unwrap_or(target.context_len_max);
        let mut config = executor::Config {
            rule: asked.rule,
            context_len_max,
            kv: asked.kv,
            sequences_max: asked.sequences_max,
        };
        let mut shape = executor::shape(backend, checkpoints, config)?;
        let (weight_bytes, block_bytes) = (checkpoints.weight_bytes(), checkpoints.block_bytes(backend));
        let state_bytes = executor::state_bytes(backend, target) * shape.n_states as usize;
        if let (KvSize::Auto, Some(memory_bytes)) = (asked.kv, memory_bytes) {
            let spare = memory_bytes.saturating_sub((weight_bytes + state_bytes) as u64) / FREE_SHARE;
            if kv_bytes(shape, block_bytes) > spare {
                config.kv = KvSize::Bytes(spare);
                shape = executor::shape(backend, checkpoints, config)?;
            }
        }
        let bound = match () {
            () if shape.context_len_max < context_len_max => Bound::Stores,
            () if context_len_max < target.context_len_max => Bound::Asked,
            () => Bound::Model,
        };
        let stores = Self { config, shape, bound, block_bytes, weight_bytes, state_bytes };
        stores.warn(context_len_max);
        Ok(stores)
    }

    /// * `wanted_len`: context that the target has, or that was asked for.
    fn warn(&self, wanted_len: u32) {
        let Shape { context_len_max, block_len, draft_context_len, .. } = self.shape;
        if self.bound == Bound::Stores {
            let n_blocks = wanted_len.div_ceil(block_len);
            let needed = bytes(n_blocks as usize * self.block_bytes);
            tracing::warn!(
                "the key/value stores bound the context to {context_len_max} tokens instead of {wanted_len}; \
                 --kv-blocks {n_blocks} ({needed}) holds one sequence of full length"
            );
        }
        if let Some(draft_len) = draft_context_len.filter(|&len| len < context_len_max) {
            tracing::warn!(
                "the draft reads {draft_len} tokens, sequences may have {context_len_max}; longer ones go on without it"
            );
        }
    }

    /// Bytes of both stores.
    pub(crate) fn kv_bytes(&self) -> u64 {
        kv_bytes(self.shape, self.block_bytes)
    }

    /// Refuses what this machine could never hold.
    ///
    /// # Errors
    /// If weights and stores together take more than `memory_bytes`.
    pub(crate) fn check_memory(&self, memory_bytes: Option<u64>) -> Outcome {
        let Some(memory_bytes) = memory_bytes else {
            return Ok(());
        };
        let fixed_bytes = (self.weight_bytes + self.state_bytes) as u64;
        let fixed = if self.state_bytes > 0 { "weights and states" } else { "weights" };
        let fitting = memory_bytes.saturating_sub(fixed_bytes) / self.block_bytes as u64;
        if fitting == 0 {
            let [taken, memory] = [fixed_bytes, memory_bytes].map(|n| bytes(n as usize));
            return Err(usage(format!("the {fixed} take {taken}, the memory of this machine is {memory}")));
        }
        let n_blocks = self.shape.n_blocks;
        if u64::from(n_blocks) > fitting {
            return Err(usage(format!(
                "--kv-blocks must be at most {fitting} to fit the memory of this machine ({} each beside {} of {fixed}), \
                 got {n_blocks}",
                bytes(self.block_bytes),
                bytes(fixed_bytes as usize)
            )));
        }
        Ok(())
    }
}

impl Bound {
    /// What to do for longer sequences.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Model => "the model has no longer one",
            Self::Asked => "raise --context",
            Self::Stores => "raise --kv-blocks",
        }
    }
}

fn kv_bytes(shape: Shape, block_bytes: usize) -> u64 {
    u64::from(shape.n_blocks).saturating_mul(block_bytes as u64)
}

/// Bytes for people.
pub(crate) fn bytes(n: usize) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} bytes"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use dsde_model::embedded;

    use super::*;

    const MIB: u64 = 1 << 20;
    const ASKED: Asked = Asked { kv: KvSize::Auto, context: None, rule: Rule::Block, sequences_max: 8 };

    /// Stores for the embedded target, context 2048.
    fn plan(asked: Asked, memory_bytes: Option<u64>) -> Stores {
        let target = embedded::target();
        let checkpoints = Checkpoints { target: &target, draft: None };
        Stores::plan(asked, &Cpu::new(1), checkpoints, memory_bytes).ok().unwrap()
    }

    #[track_caller]
    fn check(asked: Asked, memory_bytes: Option<u64>, context_len_max: u32, bound: Bound) {
        let stores = plan(asked, memory_bytes);
        assert_eq!((stores.shape.context_len_max, stores.bound), (context_len_max, bound));
    }

    #[test]
    fn the_context_is_bounded_by_model_option_or_stores() {
        check(ASKED, None, 2048, Bound::Model);
        check(Asked { context: Some(2048), ..ASKED }, None, 2048, Bound::Model);
        check(Asked { context: Some(100), ..ASKED }, None, 100, Bound::Asked);
        // Four blocks of 16.
        check(Asked { kv: KvSize::Blocks(4), ..ASKED }, None, 64, Bound::Stores);
        check(Asked { kv: KvSize::Blocks(4), context: Some(50), ..ASKED }, None, 50, Bound::Asked);
    }

    #[test]
    fn stores_that_nobody_chose_leave_half_of_the_free_memory() {
        let free = plan(ASKED, None);
        let block_bytes = free.block_bytes as u64;
        let memory_bytes = free.weight_bytes as u64 + 2 * 10 * block_bytes;
        let small = plan(ASKED, Some(memory_bytes));
        assert_eq!((small.shape.n_blocks, small.shape.context_len_max), (10, 160));
        assert_eq!(small.bound, Bound::Stores);
        assert!(small.check_memory(Some(memory_bytes)).is_ok());
        assert_eq!(plan(ASKED, Some(64 << 30)).shape, free.shape);
    }

    #[test]
    fn weights_and_stores_together_must_fit_the_memory() {
        let stores = plan(Asked { kv: KvSize::Blocks(10), ..ASKED }, None);
        let exact = stores.weight_bytes as u64 + stores.kv_bytes();
        assert!(stores.check_memory(None).is_ok() && stores.check_memory(Some(exact)).is_ok());
        assert!(stores.check_memory(Some(exact - 1)).is_err());
        // The embedded target has 11 MB of weights.
        assert!(stores.check_memory(Some(MIB)).is_err());
    }

    #[test]
    fn bytes_are_read_in_the_largest_unit_that_keeps_them_above_one() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(5 << 40), "5120.0 GiB");
    }
}
