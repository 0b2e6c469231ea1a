//! The thread pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use dsde_kernels::cpu::internals::Pool;

fn check_once_each(pool: &Pool, n: usize) {
    let counts: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
    pool.run(n, &|i| {
        counts[i].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "n = {n}");
}

#[test]
fn every_index_runs_exactly_once() {
    for n_threads in [1, 2, 3, 8] {
        let pool = Pool::new(n_threads);
        assert_eq!(pool.n_threads(), n_threads);
        for n in [0, 1, 2, 3, 7, 64, 1000] {
            check_once_each(&pool, n);
        }
    }
}

#[test]
fn a_pool_serves_ten_thousand_regions() {
    let pool = Pool::new(3);
    let sum = AtomicUsize::new(0);
    for _ in 0..10_000 {
        pool.run(5, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
    }
    // 0 + 1 + 2 + 3 + 4 = 10 per region.
    assert_eq!(sum.into_inner(), 100_000);
}

#[test]
fn parked_workers_wake_for_the_next_region() {
    let pool = Pool::new(2);
    while pool.n_parked() == 0 {
        thread::yield_now();
    }
    check_once_each(&pool, 100);
}

#[test]
fn a_region_inside_a_region_runs_on_its_own_thread() {
    let pool = Pool::new(2);
    let sum = AtomicUsize::new(0);
    pool.run(4, &|_| {
        let thread_id = thread::current().id();
        pool.run(3, &|i| {
            assert_eq!(thread::current().id(), thread_id);
            sum.fetch_add(i, Ordering::Relaxed);
        });
    });
    // Four times 0 + 1 + 2.
    assert_eq!(sum.into_inner(), 12);
}

#[test]
fn callers_on_two_threads_share_a_pool() {
    let pool = Pool::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..500).for_each(|_| check_once_each(&pool, 9)));
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
    let pool = Pool::new(2);
    for bad in 0..8 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|i| assert_ne!(i, bad, "index {i} is bad"));
        }));
        let message = *outcome.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains(&format!("index {bad} is bad")), "{message}");
        check_once_each(&pool, 20);
    }
}
