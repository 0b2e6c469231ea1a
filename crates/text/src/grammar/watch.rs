//! Nobody waits for one form: the calls of an answer into the library are watched, and the answer is stopped where they take too long.
//!
//! The library counts the work of a mask, but not everywhere: there are grammars that never end, and every request waits for the step
//! that asks for their masks. It can be told to stop, from another thread. That thread counts the times that it has woken, not the
//! clock: a process that is stopped for a while goes on where it was. What many calls take together is counted behind each of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use llguidance::CancellationHandle;

/// Time between two looks at who is followed.
const PERIOD: Duration = Duration::from_millis(100);
/// Looks at the same call after which it is stopped: two seconds, a hundred times what the library's own bounds let a mask take.
const LOOKS_MAX: u32 = 20;

/// What an answer may take at once, beside what each call may; the first ones make most of the states.
const SPENT_MAX: Duration = Duration::from_secs(1);
/// What each step may take in the mean, with all that is looked up for it; usual are some tens of microseconds a mask.
const STEP_MAX: Duration = Duration::from_millis(5);

/// Most expressions that an answer may have the library make, in its own measure: fifty times what it makes for one mask at most. Forms that
/// people write stay below a hundredth of that; one that reaches it in every mask takes some ten KiB of memory for each token.
const COST_MAX: u64 = 10_000_000;

/// The calls of one answer into the library.
#[derive(Debug)]
pub(super) struct Watched {
    shared: Arc<Shared>,
    /// Of a processor.
    spent: Duration,
    allowed: Duration,
    /// Of all masks.
    cost: u64,
}

/// What the thread that watches sees of them.
#[derive(Debug)]
struct Shared {
    /// Calls that have begun, and those that have ended; so it is odd during one.
    n_edges: AtomicU64,
    /// Stops the answer for ever.
    handle: CancellationHandle,
}

impl Watched {
    /// Watches the calls of an answer from now on.
    pub(super) fn new(handle: CancellationHandle) -> Self {
        let shared = Arc::new(Shared { n_edges: AtomicU64::new(0), handle });
        if let Some(watch) = watch() {
            watch.add(&shared);
        }
        Self { shared, spent: Duration::ZERO, allowed: SPENT_MAX, cost: 0 }
    }

    /// Makes a call; if it or the ones before took too long, all later ones fail.
    pub(super) fn call<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = thread_time();
        self.shared.n_edges.fetch_add(1, Ordering::Relaxed);
        let result = work();
        self.shared.n_edges.fetch_add(1, Ordering::Relaxed);
        self.spent += thread_time().saturating_sub(began);
        if self.spent > self.allowed {
            self.shared.handle.cancel();
        }
        result
    }

    /// The answer has come a step further.
    pub(super) fn allow_more(&mut self) {
        self.allowed += STEP_MAX;
    }

    /// Counts what a mask made, as the library does, which begins anew for each.
    pub(super) fn charge(&mut self, cost: u64) {
        self.cost += cost;
        if self.cost > COST_MAX {
            self.shared.handle.cancel();
        }
    }
}

/// What this thread has had of a processor: other programs do not count, and neither does a machine that sleeps.
#[cfg(unix)]
fn thread_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The time that passes; what a thread has had of a processor is not to be had here.
#[cfg(not(unix))]
fn thread_time() -> Duration {
    static BEGAN: OnceLock<std::time::Instant> = OnceLock::new();
    BEGAN.get_or_init(std::time::Instant::now).elapsed()
}

/// All who are watched, by one thread that sleeps while there is nobody.
#[derive(Debug)]
struct Watch {
    seats: Mutex<Vec<Seat>>,
    is_taken: Condvar,
}

/// One who is watched.
#[derive(Debug)]
struct Seat {
    shared: Weak<Shared>,
    n_edges: u64,
    n_looks: u32,
}

/// `None` if its thread cannot be started.
fn watch() -> Option<&'static Watch> {
    static WATCH: Watch = Watch { seats: Mutex::new(Vec::new()), is_taken: Condvar::new() };
    static IS_STARTED: OnceLock<bool> = OnceLock::new();
    let start = || match thread::Builder::new().name("watch".to_owned()).spawn(|| WATCH.run()) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!("nobody stops forms that never end: {error}");
            false
        }
    };
    IS_STARTED.get_or_init(start).then_some(&WATCH)
}

impl Watch {
    fn add(&self, shared: &Arc<Shared>) {
        let seat = Seat { shared: Arc::downgrade(shared), n_edges: 0, n_looks: 0 };
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).push(seat);
        self.is_taken.notify_one();
    }

    fn run(&self) {
        loop {
            let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            let seats = self.is_taken.wait_while(seats, |seats| seats.is_empty());
            seats.unwrap_or_else(PoisonError::into_inner).retain_mut(Seat::look);
            thread::sleep(PERIOD);
        }
    }
}

impl Seat {
    /// Looks once more; whether there is still somebody.
    fn look(&mut self) -> bool {
        let Some(shared) = self.shared.upgrade() else {
            return false;
        };
        let n_edges = shared.n_edges.load(Ordering::Relaxed);
        let is_same_call = n_edges % 2 == 1 && n_edges == self.n_edges;
        self.n_looks = if is_same_call { self.n_looks + 1 } else { 0 };
        self.n_edges = n_edges;
        if self.n_looks >= LOOKS_MAX {
            shared.handle.cancel();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> (Watched, Seat) {
        let shared = Arc::new(Shared { n_edges: AtomicU64::new(0), handle: CancellationHandle::default() });
        let seat = Seat { shared: Arc::downgrade(&shared), n_edges: 0, n_looks: 0 };
        (Watched { shared, spent: Duration::ZERO, allowed: SPENT_MAX, cost: 0 }, seat)
    }

    #[test]
    fn only_one_call_that_does_not_end_is_stopped() {
        let (mut watched, mut seat) = watched();
        let handle = watched.shared.handle.clone();
        for _ in 0..3 * LOOKS_MAX {
            assert!(seat.look());
            watched.call(|| assert!(seat.look()));
        }
        assert!(!handle.is_cancelled());
        watched.call(|| {
            // The first look sees that a call has begun.
            (0..LOOKS_MAX).for_each(|_| assert!(seat.look() && !handle.is_cancelled()));
            seat.look();
        });
        assert!(handle.is_cancelled());
        drop(watched);
        assert!(!seat.look());
    }

    #[test]
    fn calls_that_took_too_long_together_are_the_last_ones() {
        let (mut watched, _seat) = watched();
        watched.call(|| {});
        assert!(!watched.shared.handle.is_cancelled());
        watched.spent += SPENT_MAX + STEP_MAX;
        watched.allow_more();
        watched.allow_more();
        watched.call(|| {});
        assert!(!watched.shared.handle.is_cancelled());
        watched.spent += STEP_MAX;
        watched.call(|| {});
        assert!(watched.shared.handle.is_cancelled());
        let (mut watched, _seat) = self::watched();
        watched.charge(COST_MAX);
        assert!(!watched.shared.handle.is_cancelled());
        watched.charge(1);
        assert!(watched.shared.handle.is_cancelled());
    }
}
