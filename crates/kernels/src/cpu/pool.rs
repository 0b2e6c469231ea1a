//! Threads for regions of a few microseconds: they spin between regions, park when nothing comes, and never hold up a region
//! they did not enter.
//!
//! A region is opened by its caller, who works on it too. A worker enters by counting itself in; once the caller finds no index
//! left it closes the region and waits only for those inside. A worker that the operating system has put aside therefore costs
//! its help, not a stall of milliseconds, which barrier pools suffer on a shared machine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;

use super::sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, CALLER_SPINS, JoinHandle, Mutex, Ordering, SPINS_PER_YIELD,
    UnsafeCell, WORKER_SPINS, spin_loop, thread,
};

/// Bit of [`Shared::door`] that is set while a region may be entered.
const OPEN: u64 = 1 << 31;
/// Workers inside the region, in the low bits of [`Shared::door`]; the region's number stands in the high half.
const INSIDE: u64 = OPEN - 1;
/// Adds one to the region's number.
const NEXT_REGION: u64 = 1 << 32;

/// What a region does with each index.
type Work = dyn Fn(usize) + Sync;

/// A fixed set of threads, the caller included; dropped workers are joined.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Region number, [`OPEN`] and the count of workers inside.
    door: AtomicU64,
    /// The open region; written only by the caller that holds `busy`, and only while the door is closed and nobody is inside.
    region: UnsafeCell<Option<Region>>,
    /// Next index of the region to hand out.
    next: AtomicUsize,
    /// Held by the caller of the running region.
    busy: AtomicBool,
    /// Workers that are parked or about to park.
    n_parked: AtomicUsize,
    is_stopping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is the only part that is not `Sync` by itself; the protocol described at the field orders its accesses.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `region` refers to a `Sync` closure and is used only while that closure is borrowed by `run`.
unsafe impl Send for Shared {}

#[derive(Clone, Copy)]
struct Region {
    n: usize,
    work: *const Work,
}

impl Pool {
    /// A pool of `n_threads` threads, of which the caller is one; at least one.
    pub fn new(n_threads: usize) -> Pool {
        Pool::behind(0, n_threads)
    }

    /// The same, beside a pool that has the first `n_taken` processors.
    pub(super) fn behind(n_taken: usize, n_threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            door: AtomicU64::new(0),
            region: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            n_parked: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..n_threads.max(1))
            .filter_map(|worker_idx| {
                let shared = Arc::clone(&shared);
                let work = move || {
                    super::affinity::pin_to_nth_processor(n_taken + worker_idx);
                    shared.serve();
                };
                // A system that refuses a thread leaves a smaller pool, which computes the same.
                thread::Builder::new().name(format!("kernel-{worker_idx}")).spawn(work).ok()
            })
            .collect();
        Pool { shared, workers }
    }

    /// Threads that take part, the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Workers that are parked or about to park.
    pub fn n_parked(&self) -> usize {
        self.shared.n_parked.load(Ordering::SeqCst)
    }

    /// Runs `work(i)` once for every `i in 0..n`; indices are handed out one at a time, in order.
    ///
    /// A region inside a region, or beside one of another caller, runs on its caller's thread alone.
    ///
    /// # Panics
    /// With the first panic of `work`, after everyone has left the region; indices not yet handed out are then skipped.
    pub fn run(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        if n <= 1 || self.workers.is_empty() || self.shared.busy.swap(true, Ordering::Acquire) {
            (0..n).for_each(work);
            return;
        }
        self.open(Region { n, work: erase_lifetime(work) });
        self.shared.help();
        self.close();
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn open(&self, region: Region) {
        let shared = &*self.shared;
        // SAFETY: this thread holds `busy`, and `close` of the region before left the door closed with nobody inside.
        shared.region.with_mut(|place| unsafe { *place = Some(region) });
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.door.load(Ordering::Relaxed) & !(OPEN | INSIDE);
        shared.door.store(number.wrapping_add(NEXT_REGION) | OPEN, Ordering::SeqCst);
        if shared.n_parked.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
    }

    fn close(&self) {
        let mut spins = 0;
        let mut door = self.shared.door.fetch_and(!OPEN, Ordering::AcqRel);
        while door & INSIDE != 0 {
            pause(&mut spins, CALLER_SPINS);
            door = self.shared.door.load(Ordering::Acquire);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Work's panics are caught and handed to callers, so a worker ends normally.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn serve(&self) {
        let mut last_region = 0;
        let mut spins = 0;
        while !self.is_stopping.load(Ordering::SeqCst) {
            let door = self.door.load(Ordering::Acquire);
            if door & OPEN != 0 && door / NEXT_REGION != last_region {
                if self.door.compare_exchange(door, door + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    self.help();
                    self.door.fetch_sub(1, Ordering::AcqRel);
                    last_region = door / NEXT_REGION;
                    spins = 0;
                }
            } else if spins < WORKER_SPINS {
                spins += 1;
                if spins % SPINS_PER_YIELD == 0 { thread::yield_now() } else { spin_loop() }
            } else {
                self.park(last_region);
                spins = 0;
            }
        }
    }

    /// Sleeps until a region opens or the pool is dropped; an `unpark` that comes first makes `park` return at once.
    fn park(&self, last_region: u64) {
        self.n_parked.fetch_add(1, Ordering::SeqCst);
        let door = self.door.load(Ordering::SeqCst);
        let is_idle = door & OPEN == 0 || door / NEXT_REGION == last_region;
        if is_idle && !self.is_stopping.load(Ordering::SeqCst) {
            thread::park();
        }
        self.n_parked.fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes indices of the open region until none is left.
    fn help(&self) {
        // SAFETY: the caller of the region wrote it before opening the door and changes it only after everyone has left.
        let Some(Region { n, work }) = self.region.with(|place| unsafe { *place }) else {
            return;
        };
        // SAFETY: `run` borrows the closure until `close` has seen everyone leave.
        let work = unsafe { &*work };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    break;
                }
                work(i);
            }
        }));
        if let Err(panic) = outcome {
            self.next.store(n, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }
}

/// Forgets how long the closure lives; `Pool::run` returns only after its last use.
fn erase_lifetime<'a>(work: &'a (dyn Fn(usize) + Sync + 'a)) -> *const Work {
    // SAFETY: only the lifetime bound of the trait object changes, not its representation.
    unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + 'a), *const Work>(work) }
}

fn pause(spins: &mut u32, spins_max: u32) {
    if *spins < spins_max {
        *spins += 1;
        spin_loop();
    } else {
        thread::yield_now();
    }
}
