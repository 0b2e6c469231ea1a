//! The clock of a simulation: it moves when something that takes time is pretended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dsde_engine::Clock;

/// Time that its owners advance, in nanoseconds up to 584 years; clones show the same time. Begins at zero.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.0.store(nanoseconds(self.now().saturating_add(time)), Ordering::Relaxed);
    }

    /// Jumps to `time`, or stays where it is if that is past.
    pub fn advance_to(&self, time: Duration) {
        self.0.store(nanoseconds(self.now().max(time)), Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// At most what the clock can show.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
