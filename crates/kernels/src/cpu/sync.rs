//! What the thread pool stands on: the standard library. In its place `crates/kernels/loom` has what tries every order of threads.

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use std::sync::{Arc, Mutex};
pub(super) use std::thread::{self, JoinHandle};

/// Looks at the door before a worker parks; about 0.2 ms, longer than the serial parts of a model's pass.
pub(super) const WORKER_SPINS: u32 = 10_000;
/// Looks at the door after which a worker lets others have its processor, should they wait for it; about 20 us, longer than the
/// serial parts between two products, shorter than those between two passes.
pub(super) const SPINS_PER_YIELD: u32 = 1_000;
/// Looks at the count before a caller begins to yield its processor to a worker that is still inside.
pub(super) const CALLER_SPINS: u32 = 2_000;

/// A place that threads take turns at, with the methods that loom counts turns by.
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Calls with a pointer that is read while nobody writes.
    pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// Calls with a pointer that is written while nobody else reads or writes.
    pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}
