//! Faults: whatever a seed chooses, every invariant holds behind every step. `dsde simulate faults` runs more of them.

use std::panic::catch_unwind;

use dsde_simulate::episode;

/// A share of what was run once (docs/simulation.md): a second or two.
const SEEDS: u64 = 2_000;

#[test]
fn invariants_hold_under_faults() {
    let mut ended = 0;
    for seed in 0..SEEDS {
        let served = catch_unwind(|| episode::run(seed));
        let served =
            served.unwrap_or_else(|_| panic!("seed {seed}: dsde simulate faults --seeds 1 --first {seed}"));
        ended += served.unwrap_or_else(|error| panic!("seed {seed}: {error}")).ended.len();
    }
    assert!(ended > 400, "{ended} requests ended");
}
