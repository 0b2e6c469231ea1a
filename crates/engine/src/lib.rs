//! Placeholder head.

pub mod clock;
pub mod executor;
pub mod rows;

pub use clock::{Clock, MonotonicClock};
pub use dsde_policy::SeqId;
pub use executor::{DraftDraw, Drafted, Executor, ExecutorError, Shape, TargetDraw, Verification};
pub use rows::{BlockCopy, BlockId, RowBatch};
