//! Time as a port: the engine never reads the wall clock itself.

use std::cell::Cell;
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

/// A clock that goes on by the same at every reading, for runs that are the same on every machine: policies that learn from
/// times choose alike.
#[derive(Debug)]
pub struct CountingClock {
    step: Duration,
    n_readings: Cell<u32>,
}

impl CountingClock {
    /// * `step`: by which it goes on.
    pub fn new(step: Duration) -> Self {
        Self { step, n_readings: Cell::new(0) }
    }
}

impl Clock for CountingClock {
    fn now(&self) -> Duration {
        self.n_readings.set(self.n_readings.get() + 1);
        self.step * self.n_readings.get()
    }
}
