//! The clock of a simulation: it moves when something that takes time is pretended.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use dsde_engine::Clock;

/// Time that its owners advance; clones show the same time. Begins at zero.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Rc<Cell<Duration>>);

impl VirtualClock {
    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.0.set(self.0.get() + time);
    }

    /// Jumps to `time`, or stays where it is if that is past.
    pub fn advance_to(&self, time: Duration) {
        self.0.set(self.0.get().max(time));
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}
