//! Scenarios of simulations.

use dsde_simulate::Scenario;

use crate::input::{files, head_and_body, sections};
use crate::trace::assert_ends;

/// Files that a scenario may name.
const NAMES: [&str; 2] = ["trace.jsonl", "arrivals.csv"];
/// Runs, requests and tokens of requests up to which a scenario is run.
const RUNS_MAX: usize = 8;
const REQUESTS_MAX: usize = 32;
const TOKENS_MAX: u32 = 256;

/// A scenario that can be read and is small can be run.
///
/// Input: the scenario, and behind lines of dashes files that it names, the first line of each its name.
pub fn scenario(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sections = sections(&text);
    let scenario = sections.next().unwrap_or_default();
    let given = sections.map(head_and_body).filter(|(name, _)| NAMES.contains(name));
    let folder = files(&given.map(|(name, text)| (name, text.as_bytes())).collect::<Vec<_>>());
    let Ok(scenario) = Scenario::parse(scenario, "fuzz", folder.path()) else { return };
    let n_cells = scenario.policies.len() * scenario.temperatures.len() * scenario.points.len();
    let is_small = n_cells * scenario.repeats as usize <= RUNS_MAX
        && scenario.load.n_requests <= REQUESTS_MAX
        && scenario.load.longest() <= TOKENS_MAX;
    if is_small {
        assert_ends(&scenario);
    }
}
