//! The scenarios that come with the project can be run.

use std::fs;
use std::path::Path;

use dsde_simulate::{Scenario, report, run};

/// Requests of a run here; the examples ask for more.
const REQUESTS_MAX: usize = 16;

#[test]
fn every_example_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let scenarios: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(scenarios.len() >= 4, "the examples were found");
    for path in scenarios {
        let mut scenario =
            Scenario::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        scenario.load.n_requests = scenario.load.n_requests.min(REQUESTS_MAX);
        scenario.points.truncate(2);
        scenario.repeats = 1;
        // A profile takes more steps than these requests.
        scenario.profiles &= path.ends_with("first.toml");
        let results = run(&scenario, 2, &|_, _| {}).unwrap();
        assert!(results.cells.iter().all(|cell| cell.tokens_per_s.mean > 0.0), "{}", path.display());
        let page = report::page(&results).html();
        assert!(report::markdown(&results).contains("tokens/s") && page.contains("</html>"));
        assert!(!page.contains("NaN") && !page.contains("://"), "{}", path.display());
    }
}
