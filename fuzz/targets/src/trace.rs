//! Step traces, the simulations that replay them or take their costs, and the answers that may stand beside them.

use dsde_simulate::{Scenario, report, run};

use crate::input::{files, sections};

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
/// And the requests say what they said.
const ANSWERED: &str = "answers = \"answers.jsonl\"\n";
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

/// A trace that can be used makes a simulation that ends; so do the answers in a second section.
pub fn trace(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sections = sections(&text);
    let trace = sections.next().unwrap_or_default();
    if let Some(answers) = sections.next() {
        return simulate(&format!("{REPLAYED}{ANSWERED}"), trace, answers);
    }
    simulate(REPLAYED, trace, "");
    simulate(PRICED, &trace.repeat(LINES_MIN.div_ceil(trace.lines().count().max(1))), "");
}

fn simulate(scenario: &str, trace: &str, answers: &str) {
    let folder = files(&[("trace.jsonl", trace.as_bytes()), ("answers.jsonl", answers.as_bytes())]);
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
