//! `bench` and `demo` on the embedded pair.

mod common;

use std::fs;

use common::dsde;
use serde_json::Value;

#[test]
fn a_record_has_one_row_per_workload_concurrency_and_policy() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [workload, out] = ["tiny.jsonl", "out"].map(|name| folder.path().join(name).display().to_string());
    fs::write(&workload, "{\"prompt\": \"Hello.\"}\n{\"prompt\": \"What is 3 plus 4?\"}\n").expect("a file");
    let record = dsde(&[
        "bench",
        "--workload",
        &format!("{workload},demo"),
        "--policies",
        "off,dsde:variant=released,cap=mean,fixed:k=2",
        "--concurrency",
        "1,3",
        "--requests",
        "3",
        "--max-tokens",
        "6",
        "--repeat",
        "2",
        "--json",
        "--out",
        &out,
    ])
    .json_lines()
    .remove(0);
    assert!(record["machine"]["cores"].as_u64() >= Some(1));
    assert_eq!((&record["model"], &record["draft"]), (&"demo".into(), &"demo".into()));
    let rows = record["rows"].as_array().expect("rows");
    let key = |row: &Value| {
        let text = |name: &str| row[name].as_str().expect("a text").to_owned();
        (text("workload"), row["concurrency"].as_u64().expect("a number"), text("policy"))
    };
    let mut keys: Vec<_> = rows.iter().map(key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 2 * 2 * 3);
    for row in rows {
        check_row(row);
    }
    let saved = fs::read_to_string(format!("{out}/record.json")).expect("a record");
    assert_eq!(serde_json::from_str::<Value>(&saved).expect("JSON"), record);
    let summary = fs::read_to_string(format!("{out}/summary.md")).expect("a summary");
    assert!(summary.contains("### tiny") && summary.contains("### demo"), "{summary}");
    assert!(fs::read_to_string(format!("{out}/command.txt")).expect("a command").contains(" bench "));
    assert!(fs::exists(format!("{out}/machine.json")).expect("a folder"));
}

/// Two runs of three requests of six tokens each.
fn check_row(row: &Value) {
    assert_eq!((row["requests"].as_u64(), row["output_tokens"].as_u64()), (Some(6), Some(36)), "{row}");
    assert_eq!(row["tokens_per_s"]["n"], 2);
    for name in ["mean", "sd", "min", "max"] {
        assert!(row["tokens_per_s"][name].as_f64().is_some_and(|value| value >= 0.0), "{row}");
    }
    for (name, quantile) in [("ttft_ms", "p50"), ("tpot_ms", "p90"), ("e2e_ms", "p99")] {
        assert!(row[name][quantile].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
    }
    let n = |name: &str| row[name].as_u64().expect("a count");
    assert!(n("accepted") <= n("verified") && n("verified") <= n("drafted") && n("steps") > 0);
    if row["policy"] == "off" {
        assert_eq!((n("drafted"), n("steps")), (0, 36));
        assert_eq!((&row["acceptance_rate"], &row["emitted_per_step"]), (&Value::Null, &1.0.into()));
    } else {
        assert!(n("drafted") > 0);
        let expected = n("accepted") as f64 / n("verified") as f64;
        let rate = row["acceptance_rate"].as_f64().expect("a share");
        assert!((rate - expected).abs() < 1e-12, "{row}");
    }
}

#[test]
fn tables_are_printed_without_json() {
    let run = dsde(&[
        "bench",
        "--policies",
        "off,fixed:k=2",
        "--concurrency",
        "2",
        "--requests",
        "2",
        "--max-tokens",
        "4",
        "--repeat",
        "1",
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("| fixed:k=2 |"), "{}", run.stdout);
}

#[test]
fn the_demo_needs_nothing_and_checks_its_output() {
    let run = dsde(&["demo"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("are the same under off, fixed:k=4, dsde"), "{}", run.stdout);
    assert!(run.stdout.contains("| dsde "), "{}", run.stdout);
}
