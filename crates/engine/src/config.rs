//! What an engine needs to know; constant after construction.

use dsde_sampling::proposal::NODES_MAX;

use crate::executor::Shape;
use crate::suffix::Suffix;

/// Where drafted tokens come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafter {
    /// Nobody drafts: plain decoding whatever the policy says.
    #[default]
    None,
    /// The executor's draft model.
    Model,
    /// Repetitions: the text goes on as it did where the same tokens stood before.
    Suffix(Suffix),
    /// Either, for every sequence and step: the policy says where it takes what repeats, and elsewhere the draft model drafts.
    Either(Suffix),
}

impl Drafter {
    /// Whether the draft model may draft.
    pub fn has_model(self) -> bool {
        matches!(self, Self::Model | Self::Either(_))
    }

    /// How repetitions are continued, if they are.
    pub fn suffix(self) -> Option<Suffix> {
        match self {
            Self::None | Self::Model => None,
            Self::Suffix(suffix) | Self::Either(suffix) => Some(suffix),
        }
    }
}

/// Limits of the serving loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sequences that run at once; more wait. 64: beyond it a CPU gains nothing from batching.
    pub sequences_max: u32,
    /// Rows of known tokens per step (decodes first, then prompt chunks); speculation comes on top. 256: a chunk long
    /// enough for full arithmetic speed, short enough not to stall running sequences.
    pub rows_max: u32,
    /// Sequences that may wait; more are refused. 1024.
    pub waiting_max: u32,
    /// Drafted tokens (nodes of trees) per step over all sequences; later ranked sequences get what earlier ones left. 512:
    /// bounds the rows whose distributions are held until the verdict.
    pub drafted_max: u32,
    /// Hard bound on the speculation length, of a tree on its levels. 16: no published policy profits from more.
    pub sl_limit: u32,
    /// Who drafts.
    pub drafter: Drafter,
    /// Whether full blocks are kept for later requests with the same prefix.
    pub prefix_cache: bool,
    /// Key of the draws of requests without a seed. 0: the same requests in the same order draw the same; a server takes a
    /// number that nobody can guess.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sequences_max: 64,
            rows_max: 256,
            waiting_max: 1024,
            drafted_max: 512,
            sl_limit: 16,
            drafter: Drafter::None,
            prefix_cache: true,
            seed: 0,
        }
    }
}

/// A configuration that contradicts itself or the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A bound outside its range.
    #[error("{name} must be in {min}..={max}, got {got}")]
    OutOfRange {
        /// Field name.
        name: &'static str,
        /// What was given.
        got: u32,
        /// Smallest accepted value.
        min: u32,
        /// Largest accepted value.
        max: u32,
    },
    /// Drafting by a model that is not there.
    #[error("the drafter is a model, but the executor has no draft model")]
    NoDraftModel,
    /// More sequences at once than states of the target's recurrent layers.
    #[error(
        "the target keeps a state for every running sequence: sequences_max must be at most the {n_states} states of the \
         executor, got {sequences_max}"
    )]
    TooFewStates {
        /// What was configured.
        sequences_max: u32,
        /// What the executor holds.
        n_states: u32,
    },
}

impl Config {
    /// Checks all bounds against each other and against the executor.
    ///
    /// # Errors
    /// The first bound that does not hold.
    pub fn check(&self, shape: &Shape) -> Result<(), ConfigError> {
        let bounds = [
            ("sequences_max", self.sequences_max, 1, 4096),
            ("rows_max", self.rows_max, self.sequences_max, 1 << 16),
            ("waiting_max", self.waiting_max, 1, 1 << 20),
            ("drafted_max", self.drafted_max, 0, 1 << 16),
            ("sl_limit", self.sl_limit, 0, NODES_MAX),
        ];
        for (name, got, min, max) in bounds {
            if got < min || got > max {
                return Err(ConfigError::OutOfRange { name, got, min, max });
            }
        }
        if self.drafter.has_model() && shape.draft_context_len.is_none() {
            return Err(ConfigError::NoDraftModel);
        }
        let Self { sequences_max, .. } = *self;
        if (1..sequences_max).contains(&shape.n_states) {
            return Err(ConfigError::TooFewStates { sequences_max, n_states: shape.n_states });
        }
        if let Some(suffix) = self.drafter.suffix() {
            suffix.check()?;
        }
        Ok(())
    }
}
