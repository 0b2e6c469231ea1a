//! `simulate`: tables, JSON and a page of a scenario; what is wrong with one.

use std::fs;

use crate::common::dsde;

const SCENARIO: &str = "policies = [\"off\", \"fixed:k=2\"]
[machine]
device = \"h100\"
[pair]
target = \"llama-3.1-8b\"
draft = \"llama-3.2-1b\"
[acceptance]
process = \"independent\"
rate = 0.8
[load]
concurrency = [1, 4]
requests = 8
prompt = 20
output = 30
";

#[test]
fn a_scenario_becomes_a_table_json_and_a_page() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("first.toml"), SCENARIO).expect("a file");
    let run = dsde(&["simulate", &path("first.toml"), "--html", &path("first.html")]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("# first") && run.stdout.contains("| fixed:k=2 "), "{}", run.stdout);
    assert!(run.stderr.contains("times as fast as real time"), "{}", run.stderr);
    let head = run.stdout.lines().find(|line| line.starts_with("| policy")).expect("a table");
    let columns: Vec<&str> = head.split('|').map(str::trim).collect();
    // As `dsde bench` calls them; see `dsde_bench::report`.
    for shared in
        ["tokens/s", "x off", "TTFT p50 ms", "TPOT p50 ms", "TPOT p99 ms", "accepted", "emitted/step"]
    {
        assert!(columns.contains(&shared), "{shared} in {head}");
    }
    assert!(fs::read_to_string(path("first.html")).expect("a page").contains("<svg"));
    let json = dsde(&["simulate", &path("first.toml"), "--json", "--threads", "1"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(json["cells"].as_array().map(Vec::len), Some(4));
}

#[test]
fn a_wrong_key_is_named() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("bad.toml");
    fs::write(&path, SCENARIO.replace("rate = 0.8", "rate = 8")).expect("a file");
    let run = dsde(&["simulate", &path.display().to_string()]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr.contains("bad.toml: `acceptance.rate` must be a number in 0..=1, got 8"),
        "{}",
        run.stderr
    );
}

#[test]
fn episodes_of_faults_run_and_can_be_shown() {
    let run = dsde(&["simulate", "faults", "--seeds", "20"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("seeds 0 to 19: every invariant held"), "{}", run.stdout);
    let shown = dsde(&["simulate", "faults", "--first", "7", "--show"]).stdout;
    assert!(shown.contains("[faults]") && shown.contains("seed = 7"), "{shown}");
}
