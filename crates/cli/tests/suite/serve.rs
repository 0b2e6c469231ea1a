//! `dsde serve` as a program: what it answers under load is what `dsde generate` prints, and it ends when told to.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::common::dsde;
use serde_json::{Value, json};

const PROMPTS: [&str; 6] = [
    "Tell me a story about a dog.",
    "What is 3 + 4?",
    "Tell me about the sea.",
    "Hello.",
    "Write a function that adds two numbers.",
    "Why is the sky blue?",
];
const POLICIES: [Option<&str>; 4] = [None, Some("off"), Some("fixed:k=4"), Some("dsde")];
const TOKENS: &str = "40";

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(options: &[&str]) -> Server {
    start_on("0", options)
}

fn start_on(port: &str, options: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dsde"));
    command.args(["serve", "--port", port]).args(options).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.find_map(|line| line.unwrap().strip_prefix("ready: http://").map(str::to_owned));
    let address = ready.expect("the server says when it is ready");
    // Nobody may stop reading: a full pipe would stop the server.
    thread::spawn(move || lines.for_each(drop));
    Server { child, address }
}

/// The answer to a POST with a JSON body.
fn post(address: &str, path: &str, body: &Value) -> Value {
    try_post(address, path, body).unwrap()
}

/// An error if there is nobody, or the answer breaks off.
fn try_post(address: &str, path: &str, body: &Value) -> io::Result<Value> {
    let mut socket = TcpStream::connect(address)?;
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(serde_json::from_str(body)?)
}

fn generated(prompt: &str) -> String {
    let answers =
        crate::common::dsde(&["generate", "--prompt", prompt, "--max-tokens", TOKENS, "--json"]).json_lines();
    answers[0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn answers_under_load_are_those_of_generate() {
    let server = start(&["--max-concurrency", "8"]);
    let expected: Vec<String> = PROMPTS.iter().map(|prompt| generated(prompt)).collect();
    thread::scope(|scope| {
        for client in 0..12 {
            let (address, expected) = (&server.address, &expected);
            scope.spawn(move || {
                for i in 0..PROMPTS.len() {
                    let i = (i + client) % PROMPTS.len();
                    let body = json!({
                        "messages": [{"role": "user", "content": PROMPTS[i]}],
                        "temperature": 0,
                        "max_tokens": TOKENS.parse::<u32>().unwrap(),
                        "policy": POLICIES[(i + client) % POLICIES.len()],
                    });
                    let answer = post(address, "/v1/chat/completions", &body);
                    assert_eq!(answer["choices"][0]["message"]["content"], expected[i], "client {client}");
                }
            });
        }
    });
}

#[test]
fn a_server_is_ready_until_it_is_told_to_end() {
    let mut server = start(&["--drain-delay", "20"]);
    let ready = |wait: &str| {
        let url = format!("http://{}", server.address);
        Command::new(env!("CARGO_BIN_EXE_dsde"))
            .args(["ready", "--url", &url, "--wait", wait])
            .output()
            .unwrap()
    };
    assert!(ready("10").status.success());
    let told = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let output = (0..100).map(|_| ready("0")).find(|output| !output.status.success()).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("503"), "{message}");
    server.child.kill().unwrap();
    let nobody = ready("0.3");
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

#[test]
fn clients_that_ask_again_do_not_notice_a_killed_server() {
    let mut server = start(&[]);
    let address = server.address.clone();
    let expected: Vec<String> = PROMPTS.iter().map(|prompt| generated(prompt)).collect();
    let (answered, n_answered) = mpsc::channel();
    thread::scope(|scope| {
        for client in 0..6 {
            let (address, expected, answered) = (&address, &expected, answered.clone());
            scope.spawn(move || {
                for i in (0..PROMPTS.len()).map(|i| (i + client) % PROMPTS.len()) {
                    let body = json!({
                        "messages": [{"role": "user", "content": PROMPTS[i]}],
                        "temperature": 0,
                        "max_tokens": TOKENS.parse::<u32>().unwrap(),
                    });
                    let answer = iter::repeat_with(|| try_post(address, "/v1/chat/completions", &body))
                        .inspect(|answer| {
                            thread::sleep(Duration::from_millis(20 * u64::from(answer.is_err())))
                        })
                        .find_map(Result::ok)
                        .unwrap();
                    assert_eq!(answer["choices"][0]["message"]["content"], expected[i], "client {client}");
                    answered.send(()).unwrap();
                }
            });
        }
        // In the middle of it, whatever it does just then.
        n_answered.iter().take(6).for_each(drop);
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        let port = address.split_once(':').unwrap().1;
        server = start_on(port, &[]);
    });
    drop(answered);
    assert_eq!(n_answered.iter().count(), 6 * PROMPTS.len() - 6);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_trace_and_not_the_server() {
    let mut server = start(&["--drain-delay", "0", "--trace", "/dev/full"]);
    let body = json!({"prompt": "Once upon a time", "max_tokens": 400, "temperature": 0, "ignore_eos": true});
    for _ in 0..3 {
        assert_eq!(post(&server.address, "/v1/completions", &body)["usage"]["completion_tokens"], 400);
    }
    let told = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert_eq!(server.child.wait().unwrap().code(), Some(1), "the end tells that the trace is not whole");
}

#[test]
fn a_trace_of_the_server_has_a_line_per_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps.jsonl");
    let mut server = start(&["--drain-delay", "0", "--trace", path.to_str().unwrap()]);
    let body = json!({"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0, "ignore_eos": true});
    post(&server.address, "/v1/completions", &body);
    let told = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(server.child.wait().unwrap().success(), "a server that is told to end ends well");
    let trace = std::fs::read_to_string(&path).unwrap();
    let steps: Vec<Value> = trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let emitted: u64 = steps.iter().map(|line| line["step"]["emitted"].as_u64().unwrap()).sum();
    assert_eq!(emitted, 30);
}

#[test]
fn a_variable_that_makes_no_sense_is_blamed() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_dsde")).arg("serve").env("DSDE_PORT", "no port").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.starts_with(
            "error: DSDE_PORT: invalid value 'no port' for '--port <N>': expected a whole number"
        ),
        "{message}"
    );
}

#[test]
fn an_address_that_is_taken_is_refused_before_a_model_is_looked_for() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = dsde(&["serve", "--port", &port, "--model", "no/such/model"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", refused.stderr);
}
