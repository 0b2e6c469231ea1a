//! Time as a port: the engine never reads the wall clock itself.

use std::time::{Duration, Instant};

/// Tells how much time has passed since an arbitrary start; never goes backwards.
pub trait Clock: Send {
    /// Time since the start of the clock.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
