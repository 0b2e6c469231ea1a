//! `--url`: the program asks itself, and servers that do what they should not.

#[path = "common/server.rs"]
mod server;

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::common::{Run, dsde, dsde_with_stdin};
use serde_json::Value;
use server::{Reply, Serving, chunk, events, json, stub, whole_answer};

const CONVERSATION: &str = "Tell me about the sea.\nAnd the sky?\n";

#[test]
fn a_server_chats_as_the_model_here_does() {
    let options = ["chat", "--max-tokens", "24", "--system", "Be kind."];
    let here = dsde_with_stdin(&[&options[..], &["--policy", "off"]].concat(), CONVERSATION);
    let server = Serving::start(&["--policy", "fixed:k=3"]);
    for url in [server.url.clone(), format!("{}/v1/", server.url)] {
        let there = dsde_with_stdin(&[&options[..], &["--url", &url]].concat(), CONVERSATION);
        assert_eq!((there.code, &there.stdout), (Some(0), &here.stdout), "{}", there.stderr);
        assert_eq!(there.stderr.matches("of drafts accepted").count(), 2, "{}", there.stderr);
    }
}

#[test]
fn old_turns_are_forgotten_when_the_servers_context_is_full() {
    let server = Serving::start(&["--context", "160"]);
    let line = "Please tell me one more long story about the sea and the sky and all the ships.\n";
    let options = ["chat", "--max-tokens", "24", "--url", &server.url];
    let run = dsde_with_stdin(&options, line.repeat(6));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("old turns forgotten"), "{}", run.stderr);
    assert_eq!(run.stderr.matches("tokens/s").count(), 6, "{}", run.stderr);
    let run = dsde_with_stdin(&options, line.replace('\n', " ").repeat(40));
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("400 Bad Request: ") && run.stderr.contains("at most 159 fit"),
        "{}",
        run.stderr
    );
}

#[test]
fn keys_are_sent_and_never_shown() {
    let server = Serving::start(&["--api-key", "secret-17"]);
    let ask = ["chat", "--max-tokens", "4", "--url", &server.url];
    let refused = dsde_with_stdin(&ask, "Hello.\n");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("401 Unauthorized: a valid API key is needed"), "{}", refused.stderr);
    let answered = dsde_with_stdin(&[&ask[..], &["--api-key", "secret-17"]].concat(), "Hello.\n");
    assert_eq!(answered.code, Some(0), "{}", answered.stderr);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let out = folder.path().display().to_string();
    let bench = small_bench(&server.url, &["--api-key=secret-17", "--out", &out]);
    assert_eq!(bench.code, Some(0), "{}", bench.stderr);
    let files = fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut shown: Vec<String> = files.map(|file| fs::read_to_string(file).expect("a text")).collect();
    assert_eq!(shown.len(), 4);
    shown.extend([answered.stderr, refused.stderr, bench.stderr, bench.stdout]);
    assert!(shown.iter().all(|text| !text.contains("secret")), "{shown:?}");
    assert!(shown.iter().any(|text| text.contains("--api-key=KEY")), "{shown:?}");
}

/// `bench --url` with few and short requests, and `more`.
fn small_bench(url: &str, more: &[&str]) -> Run {
    let fixed = ["bench", "--max-tokens", "6", "--requests", "4", "--repeat", "2", "--concurrency", "2"];
    dsde(&[&fixed[..], &["--url", url], more].concat())
}

#[test]
fn a_server_is_measured_like_an_engine() {
    let server = Serving::start(&["--policy", "fixed:k=2"]);
    let slo = ["--slo-ttft-ms", "0.001", "--slo-tpot-ms", "100000", "--json"];
    let record = small_bench(&server.url, &slo).json_lines().remove(0);
    assert_eq!((&record["model"], &record["settings"]["url"]), (&"demo".into(), &server.url.clone().into()));
    let row = &record["rows"][0];
    assert_eq!(row["policy"], "server");
    let n = |name: &str| row[name].as_u64().expect("a count");
    // Two rounds of four requests of six tokens; the first one starts half-way.
    assert_eq!((n("requests"), n("output_tokens")), (8, 42));
    assert!(n("verified") > 0 && n("accepted") <= n("verified"), "{row}");
    let per_step = row["emitted_per_step"].as_f64().expect("a mean");
    assert!((per_step - 42.0 / n("steps") as f64).abs() < 1e-9 && per_step > 1.0, "{row}");
    for name in ["ttft_ms", "e2e_ms"] {
        assert!(row[name]["p50"].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
    }
    // A client that was put aside may find a whole answer at once.
    assert!(row["tpot_ms"]["p50"].as_f64().is_some_and(|ms| ms >= 0.0), "{row}");
    // Nobody answers within a microsecond.
    assert_eq!((&row["goodput"]["max"], &row["failures"]), (&0.0.into(), &Value::Null));
    assert_eq!(row["attained"], serde_json::json!([{"class": "all", "requests": 8, "attained": 0}]));
}

#[test]
fn every_request_of_a_server_has_the_targets_of_its_class() {
    let server = Serving::start(&["--policy", "off"]);
    let classes = ["--slo-classes", "tight:0.001,loose:100000", "--json"];
    let record = small_bench(&server.url, &classes).json_lines().remove(0);
    let attained = |class: usize| {
        let of_class = &record["rows"][0]["attained"][class];
        (of_class["class"].as_str(), of_class["requests"].as_u64(), of_class["attained"].as_u64())
    };
    assert_eq!(attained(1), (Some("loose"), Some(4), Some(4)));
    // A client that was put aside may find a whole answer at once.
    assert_eq!((attained(0).0, attained(0).1), (Some("tight"), Some(4)));
}

#[test]
fn a_servers_log_is_taken_up_and_has_all_parts_of_a_load() {
    let server = Serving::start(&["--policy", "off"]);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let log = folder.path().join("runs.jsonl").display().to_string();
    let options = ["--log", &log, "--raw", "--temperature", "0,1"];
    let first = small_bench(&server.url, &[&options[..], &["--minutes", "0"]].concat());
    assert!(first.stderr.contains("after 0 of 4 runs"), "{}", first.stderr);
    let run = small_bench(&server.url, &options);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains(&format!("* Server: {}; model: demo", server.url)), "{}", run.stdout);
    let lines: Vec<Value> = lines(&log);
    assert_eq!(lines.len(), 1 + 4);
    let digests: Vec<&Value> = lines[1..].iter().map(|line| &line["run"]["digest"]).collect();
    assert!(digests[0].is_string() && digests[0] == digests[2] && digests[1].is_null(), "{digests:?}");
    // Not speculating is known from the counters.
    assert_eq!((&lines[1]["run"]["verified"], &lines[1]["run"]["steps"]), (&0.into(), &21.into()));

    let load = folder.path().join("load.jsonl").display().to_string();
    let profile =
        ["--profile", "1,3", "--every", "0.2", "--repeat", "1", "--max-tokens", "8", "--log", &load];
    let run = dsde(&[&["bench", "--url", &server.url], &profile[..]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let runs: Vec<Value> =
        self::lines(&load).into_iter().skip(1).map(|mut line| line["run"].take()).collect();
    let parts: Vec<_> =
        runs.iter().map(|run| (run["segment"].as_u64(), run["concurrency"].as_u64())).collect();
    assert_eq!(parts.last(), Some(&(Some(0), Some(3))), "the whole comes last");
    assert!(parts.starts_with(&[(Some(1), Some(1))]) && parts.len() <= 3, "{parts:?}");
    let emitted: Vec<u64> = runs.iter().map(|run| run["output_tokens"].as_u64().expect("a count")).collect();
    // A slow machine may emit nothing in a part.
    let (whole, parts) = emitted.split_last().expect("not empty");
    assert!(*whole > 0 && *whole == parts.iter().sum::<u64>(), "{emitted:?}");
}

fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn busy_servers_are_asked_again_and_lost_requests_are_told() {
    let busy = || json("429 Too Many Requests", r#"{"error": {"message": "queue full"}}"#);
    let url = stub(move |i, _| match i {
        // The warm-up: four requests.
        0..4 => Reply::Close(events(&whole_answer())),
        4 | 5 => Reply::Close(busy()),
        6 => Reply::Close(json("500 Internal Server Error", r#"{"detail": "oops"}"#)),
        7 => Reply::Close(events(&chunk("half"))),
        _ => Reply::Close(events(&whole_answer())),
    });
    let url = format!("http://{url}");
    let options =
        ["bench", "--requests", "4", "--repeat", "1", "--concurrency", "1", "--json", "--url", &url];
    let run = dsde(&options);
    let stderr = run.stderr.clone();
    let record = run.json_lines().remove(0);
    let row = &record["rows"][0];
    assert_eq!((&row["requests"], &row["output_tokens"]), (&2.into(), &10.into()), "{row}");
    let failures = serde_json::json!({"refused": 0, "failed": 1, "lost": 1, "retries": 2});
    assert_eq!(row["failures"], failures);
    assert!(stderr.contains("1 failed, 1 lost, 2 retries of 4 requests"), "{stderr}");
    assert!(stderr.contains("the server answered 500 Internal Server Error: oops"), "{stderr}");
    // The server says nothing about speculation.
    assert_eq!((&row["steps"], &row["acceptance_rate"]), (&0.into(), &Value::Null));
}

#[test]
fn requests_hold_what_was_asked_for_and_nothing_else() {
    let expected = serde_json::json!({
        "model": "stub",
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}],
        "max_tokens": 9,
        "temperature": 0.7,
        "top_k": 5,
        "stop": ["x"],
        "seed": 3,
        "policy": "fixed:k=2",
    });
    let url = stub(move |_, body| match *body == expected {
        true => Reply::Close(events(&whole_answer())),
        false => Reply::Close(json("400 Bad Request", &body.to_string())),
    });
    let url = format!("http://{url}");
    let sampling =
        ["--max-tokens", "9", "--temperature", "0.7", "--top-k", "5", "--stop", "x", "--seed", "3"];
    let options = ["chat", "--url", &url, "--system", "Be kind.", "--policy", "fixed:k=2"];
    let run = dsde_with_stdin(&[&options[..], &sampling[..]].concat(), "Hello.\n");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "one two\n"), "{}", run.stderr);

    let policies = ["off", "fixed:k=2"];
    let url = stub(move |_, body| {
        let is_asked = body["policy"].as_str().is_some_and(|policy| policies.contains(&policy));
        match is_asked && body["ignore_eos"] == true && body.get("seed").is_none() {
            true => Reply::Close(events(&whole_answer())),
            false => Reply::Close(json("400 Bad Request", &body.to_string())),
        }
    });
    let more = ["--policies", "off,fixed:k=2", "--json"];
    let record = small_bench(&format!("http://{url}"), &more).json_lines().remove(0);
    let rows = record["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| &row["policy"]).collect::<Vec<_>>(), policies);
}

/// Asks a stub that always answers with `reply` and expects a failure that says `part`.
#[track_caller]
fn check_fails(command: &str, reply: fn() -> Reply, part: &str) {
    let url = format!("http://{}", stub(move |_, _| reply()));
    let options = match command {
        "chat" => vec!["chat", "--timeout", "0.4", "--url", &url],
        _ => vec!["bench", "--timeout", "0.4", "--requests", "2", "--concurrency", "1", "--url", &url],
    };
    let run = dsde_with_stdin(&options, "Hello.\n");
    assert_eq!(run.code, Some(1), "{part}: {}", run.stderr);
    assert!(run.stderr.contains(part) && !run.stderr.contains("panicked"), "{part}: {}", run.stderr);
}

#[test]
fn servers_that_fail_are_told_from_each_other() {
    for command in ["chat", "bench"] {
        check_fails(command, || Reply::Close(String::new()), "cannot reach http://127.0.0.1");
        check_fails(command, || Reply::Hold(String::new()), "nothing came from the server for 0.4 s");
        check_fails(command, || Reply::Hold(events(": wait\n\n")), "nothing came from the server for 0.4 s");
        let endless = || Reply::Repeat("HTTP/1.1 200 OK\r\n".to_owned(), "x-more: headers\r\n");
        check_fails(command, endless, "cannot reach");
        check_fails(command, || Reply::Close(events("data: {\"choi\n\n")), "expected a chunk of an answer");
        check_fails(command, || Reply::Close(events("<html>")), "the connection ended before the answer did");
        check_fails(command, || Reply::Close(json("200 OK", "{}")), "got \"application/json\"");
        check_fails(command, || Reply::Close(json("301 Moved Permanently", "")), "301 Moved Permanently");
        let error =
            || Reply::Close(events("data: {\"error\": {\"message\": \"out of \\u001b[2J memory\"}}\n\n"));
        check_fails(command, error, "broke off the answer: out of  [2J memory");
    }
    check_fails(
        "chat",
        || Reply::Close(events(&chunk("half"))),
        "the connection ended before the answer did",
    );
    check_fails("chat", || Reply::Repeat(String::new(), "no status line\n"), "cannot reach");
    let nobody = dsde(&["bench", "--url", "http://127.0.0.1:9"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("cannot reach http://127.0.0.1:9: "), "{}", nobody.stderr);
}

#[test]
fn comments_do_not_keep_a_client_waiting_for_ever() {
    let url = format!("http://{}", stub(|_, _| Reply::Repeat(events(""), ": still here\n\n")));
    let run = dsde_with_stdin(&["chat", "--timeout", "0.4", "--url", &url], "Hello.\n");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("for 0.4 s"), "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let url = stub(|i, _| match i {
        0 => Reply::Hold(events(&chunk("endless"))),
        _ => Reply::Close(events(&whole_answer())),
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_dsde"))
        .args(["chat", "--url", &format!("http://{url}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(b"Hello.\n").expect("it reads");
    let mut begun = [0; 7];
    let stdout = child.stdout.as_mut().expect("stdout is piped");
    stdout.read_exact(&mut begun).expect("an answer begins");
    assert_eq!(&begun, b"endless");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("there is a kill").success());
    stdin.write_all(b"Go on.\n").expect("it reads on");
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\none two\n");
    assert!(stderr.contains("(stopped)"), "{stderr}");
}

#[test]
fn what_cannot_be_combined_is_refused() {
    let url = "http://127.0.0.1:9";
    for (args, part) in [
        (&["chat", "--url", url, "--draft", "none"] as &[&str], "--draft"),
        (&["chat", "--url", url, "--threads", "1"], "--threads"),
        (&["bench", "--url", url, "--verification", "token"], "--verification"),
        (&["bench", "--url", url, "--trace", "t.jsonl"], "--trace"),
        (&["chat", "--api-key", "k"], "--url"),
        (&["chat", "--url", "127.0.0.1:9"], "expected http://HOST[:PORT]"),
        (&["chat", "--url", "http://u:p@h"], "--api-key takes a key"),
        (&["bench", "--url", url, "--timeout", "0"], "expected a number in 0.01..=86400"),
        (&["bench", "--slo-ttft-ms", "-1"], "expected a number in 0.001..=86400000"),
    ] {
        let run = dsde(args);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{args:?}: {}", run.stderr);
    }
}
