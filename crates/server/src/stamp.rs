//! When the oldest token that a connection still has to send was emitted.
//!
//! The answer being written sets it and the socket takes it, so that the time in between is what the server adds to a token:
//! waking the connection, writing JSON, and handing bytes to the system.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The mark of one connection.
#[derive(Debug, Default)]
pub(crate) struct Stamp(Mutex<Option<Instant>>);

impl Stamp {
    /// Marks an emission on its way, unless an older one is.
    pub(crate) fn set(&self, emitted: Instant) {
        self.mark().get_or_insert(emitted);
    }

    /// Age of the oldest emission on its way; it is then no longer.
    pub(crate) fn take(&self) -> Option<Duration> {
        self.mark().take().map(|emitted| emitted.elapsed())
    }

    fn mark(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
