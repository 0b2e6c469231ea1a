//! Step traces, and the simulations that replay them or take their costs.

use dsde_simulate::{Scenario, report, run};

use crate::input::files;

/// What both scenarios share: a pair, and a load of a few short requests.
const PAIR: &str = r#"policies = ["off", "fixed:k=2", "dsde"]
[pair]
target = "llama-3.1-8b"
draft = "llama-3.2-1b"
[engine]
context = 64
kv_blocks = 64
[load]
concurrency = 2
requests = 4
output = { min = 4, max = 12 }
"#;
/// Drafts are accepted as in the trace.
const REPLAYED: &str = r#"[machine]
device = "h100"
[acceptance]
process = "trace"
files = "trace.jsonl"
"#;
/// Passes cost what they cost in the trace.
const PRICED: &str = r#"prompt = 8
[machine]
trace = "trace.jsonl"
[acceptance]
process = "independent"
rate = 0.7
"#;
/// Lines that costs need, and some more.
const LINES_MIN: usize = 64;

/// A trace that can be used makes a simulation that ends.
pub fn trace(bytes: &[u8]) {
    simulate(REPLAYED, bytes);
    let n_lines = bytes.iter().filter(|&&byte| byte == b'\n').count().max(1);
    simulate(PRICED, &bytes.repeat(LINES_MIN.div_ceil(n_lines)));
}

fn simulate(scenario: &str, trace: &[u8]) {
    let folder = files(&[("trace.jsonl", trace)]);
    if let Ok(scenario) = Scenario::parse(&format!("{PAIR}{scenario}"), "trace", folder.path()) {
        assert_ends(&scenario);
    }
}

/// A scenario is run and told of, if its limits agree with each other.
pub(crate) fn assert_ends(scenario: &Scenario) {
    if let Ok(results) = run(scenario, 1, &|_, _| {}) {
        assert!(!report::markdown(&results).is_empty());
        assert!(!report::page(&results).html().is_empty());
    }
}
