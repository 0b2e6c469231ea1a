//! What goes wrong in a simulation.

use std::time::Duration;

use crate::random::Random;

/// Faults of passes and of their users. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Share of passes that fail.
    pub failures: f64,
    /// Share of passes that take [`Faults::straggler_factor`] times as long.
    pub stragglers: f64,
    /// How much longer these take.
    pub straggler_factor: f64,
    /// Share of passes behind which the clock jumps, as where a machine was suspended.
    pub jumps: f64,
    /// How far it jumps.
    pub jump: Duration,
    /// Share of requests that are cancelled, at a time between their arrival and about [`Faults::patience`] later.
    pub cancels: f64,
    /// Mean time after which a request is cancelled, if it is.
    pub patience: Duration,
}

impl Faults {
    pub(crate) fn fails(&self, random: &mut Random) -> bool {
        self.failures > 0.0 && random.uniform() < self.failures
    }

    /// Factor on the time of a pass.
    pub(crate) fn slowdown(&self, random: &mut Random) -> f64 {
        let is_straggler = self.stragglers > 0.0 && random.uniform() < self.stragglers;
        if is_straggler { self.straggler_factor } else { 1.0 }
    }

    pub(crate) fn jump(&self, random: &mut Random) -> Duration {
        let jumps = self.jumps > 0.0 && random.uniform() < self.jumps;
        if jumps { self.jump } else { Duration::ZERO }
    }

    /// When after its arrival a request is cancelled, if it is.
    pub(crate) fn cancellation(&self, random: &mut Random) -> Option<Duration> {
        let is_cancelled = self.cancels > 0.0 && random.uniform() < self.cancels;
        is_cancelled.then(|| self.patience.mul_f64(random.exponential()))
    }
}
