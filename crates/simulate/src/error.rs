//! What can be wrong with a scenario, and what can go wrong with a simulation.

use std::path::PathBuf;

use dsde_engine::{ConfigError, Refused};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is no TOML.
    #[error("the scenario is no TOML")]
    Toml(#[from] toml::de::Error),
    /// A value that cannot be used.
    #[error("`{key}` must be {expected}, got {got}")]
    Value {
        /// Path of the key.
        key: String,
        /// What is possible.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A value that has to be there.
    #[error("`{key}` is missing; it must be {expected}")]
    Missing {
        /// Path of the key.
        key: String,
        /// What is possible.
        expected: String,
    },
    /// A key that means nothing.
    #[error("`{key}` is no key of a scenario; expected one of: {expected}")]
    Unknown {
        /// Path of the key.
        key: String,
        /// Keys that stand beside it.
        expected: String,
    },
    /// Weights and stores that do not fit.
    #[error(
        "`machine`: the weights take {weights_gib:.1} GiB of {memory_gib:.1} GiB on each device, which leaves room for {n_blocks} \
         blocks of {block_len} positions; at least {n_blocks_min} are needed"
    )]
    Memory {
        /// Weights of target and draft on a device.
        weights_gib: f64,
        /// What of a device may be used.
        memory_gib: f64,
        /// Blocks that fit beside them.
        n_blocks: u32,
        /// Positions of a block.
        block_len: u32,
        /// Blocks that the longest request needs.
        n_blocks_min: u32,
    },
    /// A line of a trace.
    #[error("line {number} of {}: {what}", path.display())]
    TraceLine {
        /// Of which file.
        path: PathBuf,
        /// From 1.
        number: usize,
        /// What is wrong.
        what: String,
    },
    /// A trace that lacks what is asked of it.
    #[error("{} holds too little: {what}", path.display())]
    Trace {
        /// Which.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// A line of a file of arrivals or lengths.
    #[error("line {number} of {}: expected {expected}, got {got}", path.display())]
    Line {
        /// Of which file.
        path: PathBuf,
        /// From 1.
        number: usize,
        /// What is possible.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// Limits of the engine that contradict each other.
    #[error("`engine`")]
    Config(#[from] ConfigError),
    /// A request that the engine does not take.
    #[error("request {request_idx} of the load was refused")]
    Refused {
        /// From 0.
        request_idx: usize,
        /// Why.
        #[source]
        source: Refused,
    },
}
