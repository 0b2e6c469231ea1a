//! Fault episodes: a seed chooses a small engine, a policy, a load and what goes wrong, and whatever happens every invariant has to hold.

use std::path::Path;

use dsde_policy::registry::ENTRIES;

use crate::error::Error;
use crate::random::Random;
use crate::run::Simulation;
use crate::scenario::Scenario;
use crate::serving::{Asked, Served, serve};

/// Keeps the numbers of episodes apart from those that their scenarios draw.
const EPISODES: u64 = 0xFA17;

/// The scenario of a seed, in TOML, so that it can be read, changed and run again.
pub fn scenario(seed: u64) -> String {
    let mut random = Random::new(&[seed, EPISODES]);
    let entry = ENTRIES[random.below(ENTRIES.len() as u64) as usize];
    let policy = if entry.name == "fixed" { "fixed:k=3" } else { entry.name };
    let mut pick = |values: &[f64]| values[random.below(values.len() as u64) as usize];
    let shares = [0.0, 0.0, 0.02, 0.1];
    let [failures, stragglers, jumps] = [(); 3].map(|()| pick(&shares));
    let cancels = pick(&[0.0, 0.0, 0.3, 1.0]);
    let jump_s = pick(&[0.001, 10.0, 86_400.0]);
    let patience_s = pick(&[0.001, 0.05, 1.0]);
    let block_len = pick(&[1.0, 3.0, 4.0, 16.0]);
    let window = pick(&[0.0, 0.0, 5.0, 20.0]);
    // From barely one request, of which a window leaves less, to more than ever run.
    let slots_min = if window > 0.0 { 2.0 * (block_len + block_len.max(window)) } else { 80.0 };
    let kv_blocks = (slots_min / block_len).ceil() + (pick(&[0.0, 10.0, 60.0, 400.0]) / block_len).ceil();
    let sequences_max = pick(&[1.0, 2.0, 5.0, 16.0]);
    let rows_max = pick(&[16.0, 24.0, 64.0]);
    let waiting_max = pick(&[1.0, 4.0, 64.0]);
    let drafted_max = pick(&[0.0, 7.0, 512.0]);
    let sl_limit = pick(&[0.0, 3.0, 16.0, 64.0]);
    let rate = pick(&[0.0, 0.5, 0.8, 1.0]);
    let temperature = pick(&[0.0, 1.0]);
    let shared_prefix = pick(&[0.0, 0.0, 17.0]);
    let per_second = pick(&[20.0, 500.0, 20_000.0]);
    let cv = pick(&[0.0, 1.0, 4.0]);
    let requests = pick(&[3.0, 12.0, 30.0]);
    let spare_states = pick(&[-1.0, -1.0, 0.0, 3.0]);
    let window = if window > 0.0 { format!("window = {window}\n") } else { String::new() };
    let states = if spare_states < 0.0 { 0.0 } else { sequences_max + spare_states };
    format!(
        "seed = {}\npolicies = [\"{policy}\"]\ntemperature = {temperature:?}\n\
         [machine]\ndevice = \"h100\"\nprofile = false\nnoise = 0.3\n\
         [pair]\ntarget = \"embedded-target\"\ndraft = \"embedded-draft\"\n\
         [engine]\nblock_len = {block_len}\nkv_blocks = {kv_blocks}\nsequences_max = {sequences_max}\n\
         rows_max = {rows_max}\nwaiting_max = {waiting_max}\ndrafted_max = {drafted_max}\nsl_limit = {sl_limit}\n\
         {window}states = {states}\n\
         [acceptance]\nprocess = \"regimes\"\nrate = {rate:?}\n\
         [load]\narrivals = \"gamma\"\nrate = {per_second:?}\ncv = {cv:?}\nrequests = {requests}\n\
         shared_prefix = {shared_prefix}\nprompt = {{ min = 1, max = 40 }}\noutput = {{ min = 1, max = 23 }}\n\
         [faults]\nfailures = {failures:?}\nstragglers = {stragglers:?}\nstraggler_factor = 50.0\njumps = {jumps:?}\n\
         jump_s = {jump_s:?}\ncancels = {cancels:?}\npatience_s = {patience_s:?}\n",
        seed as u32,
    )
}

/// Runs the scenario of a seed, checking everything behind every step.
///
/// # Errors
/// If the scenario cannot be run, which is a bug.
///
/// # Panics
/// If an invariant does not hold, which is a bug.
pub fn run(seed: u64) -> Result<Served, Error> {
    let scenario = Scenario::parse(&scenario(seed), "episode", Path::new(""))?;
    let point = &scenario.points[0];
    let (policy, temperature) = (&scenario.policies[0], scenario.temperatures[0]);
    let Simulation { mut engine, clock, texts } = Simulation::new(&scenario, policy, temperature, seed)?;
    let demands = scenario.load.demands(&point.traffic, &scenario.faults, seed);
    let asked = Asked {
        demands: &demands,
        traffic: &point.traffic,
        classes: &scenario.load.classes,
        temperature,
        shared_prefix: scenario.load.shared_prefix,
        checks: true,
    };
    let served = serve(&mut engine, &clock, &texts, &asked, &mut ())?;
    assert!(engine.is_idle(), "everybody has gone");
    let (free, total) = engine.blocks_free_and_total();
    assert_eq!(free, total, "an idle engine owns no block");
    let (free, total) = engine.states_free_and_total();
    assert_eq!(free, total, "an idle engine holds no state");
    Ok(served)
}
