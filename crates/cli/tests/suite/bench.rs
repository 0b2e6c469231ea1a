//! `bench` and `demo` on the embedded pair.

use std::fs;

use crate::common::dsde;
use serde_json::{Value, json};

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

/// `bench` with few and short requests, and `more`.
fn small_bench(more: &[&str]) -> crate::common::Run {
    let fixed = ["bench", "--max-tokens", "6", "--requests", "3", "--repeat", "2"];
    dsde(&[&fixed[..], more].concat())
}

/// The lines of a file.
fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn a_log_is_taken_up_where_it_ended() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let log = folder.path().join("runs.jsonl").display().to_string();
    let common = ["--concurrency", "1,2", "--temperature", "0,1", "--log", &log];
    let none = small_bench(&[&common[..], &["--policies", "off,fixed:k=1..2", "--minutes", "0"]].concat());
    assert_eq!(none.code, Some(0), "{}", none.stderr);
    assert!(none.stderr.contains("after 0 of 24 runs"), "{}", none.stderr);

    let run = small_bench(&[&common[..], &["--policies", "off,fixed:k=1..2"]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let first = lines(&log);
    // A heading, then 2 concurrencies, 2 temperatures, 3 policies, 2 rounds.
    assert_eq!(first.len(), 1 + 24);
    assert_eq!(first[0]["heading"]["model"], "demo");
    for line in &first[1..] {
        let run = &line["run"];
        assert_eq!((run["requests"].as_u64(), run["output_tokens"].as_u64()), (Some(3), Some(18)), "{run}");
        assert_eq!(run["digest"].is_string(), run["temperature"] == 0.0, "{run}");
        assert!(run["tokens_per_s"].as_f64() > Some(0.0), "{run}");
    }
    let policy = |line: &Value| line["run"]["policy"].clone();
    assert_eq!([1, 2, 3].map(|i| policy(&first[i])), ["off", "fixed:k=1", "fixed:k=2"]);
    // The second round begins with another policy.
    assert_eq!([13, 14, 15].map(|i| policy(&first[i])), ["fixed:k=1", "fixed:k=2", "off"]);
    for expected in ["| fixed:k=1 |", "best fixed", "is the same under all policies in all 2 conditions"] {
        assert!(run.stdout.contains(expected), "{expected} in {}", run.stdout);
    }

    // Another policy is added, the others are not measured again.
    let run = small_bench(&[&common[..], &["--policies", "off,fixed:k=1..2,dsde"]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let second = lines(&log);
    assert_eq!((second.len(), &second[..25]), (1 + 32, &first[..]));
    let report = dsde(&["bench", "report", &log]);
    assert_eq!((report.code, &report.stdout), (Some(0), &run.stdout));

    let other = small_bench(&[&common[..], &["--seed", "1"]].concat());
    assert_eq!(other.code, Some(2));
    assert!(other.stderr.contains("holds runs with --seed 0, not 1"), "{}", other.stderr);
}

#[test]
fn a_changing_load_is_told_as_a_whole_and_in_parts() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let log = folder.path().join("runs.jsonl").display().to_string();
    let run = dsde(&[
        "bench",
        "--profile",
        "1,3",
        "--every",
        "0.1",
        "--policies",
        "off,fixed:k=2",
        "--max-tokens",
        "8",
        "--repeat",
        "1",
        "--log",
        &log,
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let runs: Vec<Value> = lines(&log).into_iter().skip(1).map(|mut line| line["run"].take()).collect();
    // The whole comes after its parts. On a slow machine one step may use up a part, which then is not told.
    let of_policies: Vec<&[Value]> = runs.split_inclusive(|run| run["segment"] == 0).collect();
    assert_eq!(of_policies.len(), 2, "{runs:?}");
    for runs in of_policies {
        let (whole, parts) = runs.split_last().expect("not empty");
        let number = |run: &Value, key: &str| run[key].as_u64().expect("a count");
        assert_eq!(number(whole, "concurrency"), 3);
        assert!(!parts.is_empty() && parts.is_sorted_by_key(|part| number(part, "segment")), "{parts:?}");
        for part in parts {
            assert_eq!(number(part, "concurrency"), 2 * number(part, "segment") - 1);
        }
        let emitted = parts.iter().map(|part| number(part, "output_tokens")).sum::<u64>();
        assert!(emitted > 0 && emitted <= number(whole, "output_tokens"), "{runs:?}");
    }
    assert!(run.stdout.contains("1-3@0.1s"), "{}", run.stdout);
}

#[test]
fn latency_classes_take_turns_and_are_judged_by_themselves() {
    let classes = ["--slo-classes", "tight:0.001,medium:50000,loose:100000"];
    let options = ["--policies", "adaserve", "--concurrency", "2", "--json"];
    let record = small_bench(&[&classes[..], &options].concat()).json_lines().remove(0);
    // 2 repeats of 3 requests.
    let of = |class: &str, attained: u64| json!({"class": class, "requests": 2, "attained": attained});
    assert_eq!(record["rows"][0]["attained"], json!([of("tight", 0), of("medium", 2), of("loose", 2)]));
    assert_eq!(record["settings"]["slo_classes"][0], json!({"name": "tight", "tpot_ms_max": 0.001}));
    let page = small_bench(&[&classes[..], &options[..4]].concat()).stdout;
    assert!(page.contains("tight: TPOT of at most 0.001 ms; medium:"), "{page}");
    assert!(page.contains("| met tight |") && page.contains("|     0.0 % |"), "{page}");
}

#[test]
fn a_trace_has_every_step_of_the_measured_runs() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let trace = folder.path().join("trace.jsonl").display().to_string();
    let options = ["--policies", "off,dsde", "--concurrency", "2", "--json", "--trace", &trace];
    let record = small_bench(&options).json_lines().remove(0);
    let lines = lines(&trace);
    let runs = lines.iter().filter_map(|line| line.get("run")).map(|run| (&run["policy"], &run["round"]));
    let order = [("off", 0), ("dsde", 0), ("dsde", 1), ("off", 1)].map(|(name, n)| (name.into(), n.into()));
    assert!(runs.eq(order.iter().map(|(name, n): &(Value, Value)| (name, n))));
    let steps: Vec<&Value> = lines.iter().filter_map(|line| line.get("step")).collect();
    let sum = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(|value| value.as_u64().expect("a count")).sum::<u64>()
    };
    for key in ["drafted", "verified", "accepted"] {
        let of_rows = sum(&mut record["rows"].as_array().expect("rows").iter().map(|row| &row[key]));
        assert!(of_rows > 0);
        assert_eq!(sum(&mut steps.iter().map(|step| &step[key])), of_rows, "{key}");
        let sequences = steps.iter().flat_map(|step| step["sequences"].as_array().expect("sequences"));
        assert_eq!(sum(&mut sequences.map(|sequence| &sequence[key])), of_rows, "{key}");
    }
    // 2 policies, 2 repeats, 3 requests of 6 tokens.
    assert_eq!(sum(&mut steps.iter().map(|step| &step["emitted"])), 72);
}

#[test]
fn logs_and_records_do_not_mix_and_must_be_readable() {
    let refused = |args: &[&str], part: &str| {
        let run = dsde(&[&["bench"], args].concat());
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{args:?}: {}", run.stderr);
    };
    refused(&["--log", "a.jsonl", "--json"], "--json");
    refused(&["--profile", "1,2", "--concurrency", "1"], "--concurrency");
    refused(&["--every", "2"], "--profile");
    refused(&["--profile", "1,2", "--every", "0"], "expected a number in 0.01..=86400");
    refused(&["--minutes", "-1"], "expected a number in 0..=10080");
    refused(&["--temperature", "0,0"], "--temperature: 0 is listed twice");
    refused(&["--slo-classes", "tight"], "expected NAME:MS");
    refused(&["--slo-classes", "a:1,b:2,a:3"], "--slo-classes: a is listed twice");
    refused(&["--slo-classes", "a:1", "--slo-tpot-ms", "1"], "cannot be used with");
    refused(&["report"], "<FILE>");
    refused(&["report", "/nowhere/runs.jsonl"], "cannot use /nowhere/runs.jsonl");
    refused(&["--trace", "/nowhere/trace.jsonl"], "--trace /nowhere/trace.jsonl cannot be written");
}

#[test]
fn the_demo_needs_nothing_and_checks_its_output() {
    let run = dsde(&["demo"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("are the same under off, auto, fixed:k=4, dsde"), "{}", run.stdout);
    assert!(run.stdout.contains("| dsde "), "{}", run.stdout);
}

/// The rounds of `log`, with tokens/s times `factor` and the output as it is.
fn scaled(log: &str, factor: f64) -> String {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("a line of a log");
        if let Some(rate) = line["run"]["tokens_per_s"].as_f64() {
            line["run"]["tokens_per_s"] = json!(rate * factor);
        }
        line.to_string() + "\n"
    };
    log.lines().map(line).collect()
}

#[test]
fn a_log_is_compared_with_another_one() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [first, second, other] = ["first", "second", "other"]
        .map(|name| folder.path().join(format!("{name}.jsonl")).display().to_string());
    let load = ["--policies", "off,fixed:k=2", "--concurrency", "2", "--requests", "3", "--max-tokens", "4"];
    let measured = |more: &[&str]| {
        let run = dsde(&[&["bench"], more, &load[..]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    };
    measured(&["--repeat", "8", "--log", &first]);
    let log = fs::read_to_string(&first).expect("a log");
    fs::write(&second, scaled(&log, 0.9)).expect("a file");
    let compared = |more: &[&str]| dsde(&[&["bench", "compare", &first], more].concat());
    let strict = compared(&[&second, "--paired", "--fail-if-slower", "5"]);
    let page = &strict.stdout;
    assert!(page.contains("0 faster, 2 slower, 0 even") && page.contains("SLOWER"), "{page}");
    assert!(page.contains("same") && !page.contains("DIFFERS"), "{page}");
    assert_eq!(strict.code, Some(1));
    assert!(strict.stderr.contains("2 conditions are slower by more than 5 %"), "{}", strict.stderr);
    assert_eq!(compared(&[&second, "--paired", "--fail-if-slower", "15"]).code, Some(0));
    measured(&["--repeat", "1", "--temperature", "1", "--log", &other]);
    let nothing = compared(&[&other]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("no conditions in common"), "{}", nothing.stderr);
}
