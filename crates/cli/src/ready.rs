//! `dsde ready`: whether a server takes requests, for health checks in places that have no other client.

use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::Builder;

use crate::args::number_in;
use crate::failure::Outcome;
use crate::remote::{Client, ServerUrl};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  dsde ready                            a server on this machine, at once
  dsde ready --wait 60                  after starting one, until its model is loaded
  dsde ready --url http://10.0.0.7:8080

A server that was told to end is no longer ready, though it still answers what it has. No key is needed.";

/// Ask whether a server takes requests
///
/// Ends with code 0 if it does, and with 1 and the reason if it does not.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReadyArgs {
    /// Address of the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: ServerUrl,

    /// How long to ask again and again until it does, seconds.
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = number_in(0.0..=86_400.0))]
    wait: f64,
}

/// Runs the command.
pub(crate) fn run(args: &ReadyArgs) -> Outcome {
    let client = Client::new(args.url.clone(), None, ANSWER_TIMEOUT)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + Duration::from_secs_f64(args.wait);
    loop {
        match runtime.block_on(client.ready()) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() + PAUSE > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
