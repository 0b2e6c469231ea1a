//! The thread pool of the kernels over loom's threads, atomics and cells.

mod affinity {
    pub(super) fn pin_to_nth_processor(_n: usize) {}
}

/// In the place of what `dsde-kernels` has under this name.
mod sync {
    pub(super) use loom::cell::UnsafeCell;
    pub(super) use loom::hint::spin_loop;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    pub(super) use loom::sync::{Arc, Mutex};
    pub(super) use loom::thread::{self, JoinHandle};

    /// A worker that finds nothing parks at once, a caller yields: looking again is no other order of events.
    pub(super) const WORKER_SPINS: u32 = 0;
    pub(super) const SPINS_PER_YIELD: u32 = 1;
    pub(super) const CALLER_SPINS: u32 = 0;
}

#[path = "../../src/cpu/pool.rs"]
mod pool;

pub use pool::Pool;
