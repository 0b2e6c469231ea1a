//! Regions under every order of a caller and its workers, up to a number of times that one is interrupted where it could go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dsde_kernels_loom::Pool;
use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::thread;

/// Tries the orders with at most so many interruptions, and tells how many there are.
fn check(interruptions_max: usize, run: impl Fn() + Sync + Send + 'static) {
    let n_orders = Arc::new(AtomicUsize::new(0));
    let count = n_orders.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions_max);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{} orders", n_orders.load(Ordering::Relaxed));
}

/// What a region writes, a place per index: loom fails if two threads are at one without an order between them.
struct Places(Vec<UnsafeCell<u32>>);

// SAFETY: what is to be shown, and loom sees every access.
unsafe impl Sync for Places {}

impl Places {
    fn new(n: usize) -> Self {
        Self((0..n).map(|_| UnsafeCell::new(0)).collect())
    }

    fn count(&self, i: usize) {
        // SAFETY: nobody else has this index.
        self.0[i].with_mut(|place| unsafe { *place += 1 });
    }

    /// Called by whoever ran the regions.
    fn assert_all(&self, expected: u32) {
        for place in &self.0 {
            // SAFETY: the regions are over.
            assert_eq!(place.with(|place| unsafe { *place }), expected);
        }
    }
}

fn run_regions(pool: &Pool, n: usize, n_regions: u32) {
    let places = Places::new(n);
    for _ in 0..n_regions {
        pool.run(n, &|i| places.count(i));
    }
    places.assert_all(n_regions);
}

#[test]
fn regions_of_one_worker_follow_each_other() {
    check(4, || run_regions(&Pool::new(2), 2, 2));
}

#[test]
fn two_workers_share_a_region() {
    check(3, || run_regions(&Pool::new(3), 3, 1));
}

#[test]
fn a_second_caller_runs_its_region_alone() {
    check(3, || {
        let pool = loom::sync::Arc::new(Pool::new(2));
        let other = pool.clone();
        let caller = thread::spawn(move || run_regions(&other, 2, 1));
        run_regions(&pool, 2, 1);
        caller.join().unwrap();
    });
}

#[test]
fn a_panic_is_told_when_everybody_has_left() {
    check(3, || {
        let pool = Pool::new(2);
        let places = Places::new(2);
        let region = || {
            pool.run(2, &|i| {
                places.count(i);
                assert_ne!(i, 0, "told");
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(region)).is_err());
        places.count(0);
        run_regions(&pool, 2, 1);
    });
}

#[test]
fn an_idle_pool_ends() {
    check(5, || drop(Pool::new(3)));
}
