//! Recorded arrivals: when requests came, and how long they were.

use dsde_simulate::Scenario;

use crate::input::files;

/// Slower and faster than recorded by as much as can be asked for.
const SCENARIO: &str = r#"policies = ["off"]
[machine]
device = "h100"
[pair]
target = "llama-3.1-8b"
[acceptance]
process = "independent"
rate = 0.7
[load]
arrivals = "recorded"
file = "arrivals.csv"
speed = [1e-6, 1.0, 1e6]
requests = 100
shared_prefix = 16777216
"#;

/// Requests of a file come one behind the other, and fit into the context.
pub fn arrivals(bytes: &[u8]) {
    let folder = files(&[("arrivals.csv", bytes)]);
    let Ok(scenario) = Scenario::parse(SCENARIO, "arrivals", folder.path()) else { return };
    let context_len_max = scenario.load.context_len_max;
    for point in &scenario.points {
        let demands = scenario.load.demands(&point.traffic, &scenario.faults, 1);
        assert!(demands.is_sorted_by(|a, b| a.arrival <= b.arrival));
        for demand in demands {
            assert!(demand.prompt_len > 0 && demand.output_len > 0);
            assert!(demand.prompt_len + demand.output_len <= context_len_max);
        }
    }
}
