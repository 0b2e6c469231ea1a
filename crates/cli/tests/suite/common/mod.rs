//! Runs the built program.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a run left behind.
pub struct Run {
    /// Exit code.
    pub code: Option<i32>,
    /// Results.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Run {
    /// What `output` is.
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The JSON values on stdout, one per line, after a success.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let parse = |line| serde_json::from_str(line).expect("a line of JSON");
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs `dsde` with nothing on stdin.
pub fn dsde(args: &[&str]) -> Run {
    dsde_with_stdin(args, "")
}

/// Runs `dsde` with `stdin` piped in.
pub fn dsde_with_stdin(args: &[&str], stdin: impl AsRef<[u8]>) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dsde"))
        .args(args)
        .env_remove("RUST_LOG")
        .env_remove("DSDE_API_KEY")
        .env_remove("OPENAI_API_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut pipe = child.stdin.take().expect("stdin is piped");
    // A program that refuses its arguments does not read.
    let _ = pipe.write_all(stdin.as_ref());
    drop(pipe);
    Run::of(child.wait_with_output().expect("the program ends"))
}
