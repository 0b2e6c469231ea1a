//! The commands and what `dsde --help` says.

use std::io::{self, IsTerminal as _};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::failure::Outcome;
use crate::{bench, chat, demo, generate, inspect, policies, pull, quantize, ready, serve, simulate};

const EPILOGUE: &str = "\
Start here:
  dsde demo                                  see speculation work, nothing to set up
  dsde generate --prompt 'Tell me a story.'  one answer from the embedded model
  dsde chat --model FILE.gguf                talk to a real model; or a folder from Hugging Face
  dsde chat --model Qwen/Qwen3-0.6B          talk to a model of the Hugging Face Hub
  dsde serve                                 answer over HTTP in the OpenAI API
  dsde bench --workload prompts.jsonl        compare policies with plain decoding
  dsde simulate scenarios/first.toml         compare them on machines that are not here

Exit codes: 0 done; 1 failed on the way, for example a broken model; 2 an option, prompt or policy cannot be used.
Logs go to stderr; RUST_LOG sets their level: error, warn, info, debug or trace; default warn.";

/// Serves large language models with dynamic speculative decoding
///
/// A small draft model guesses the next tokens and the target model verifies them in one pass; how many are guessed is chosen
/// for every sequence in every step. The output is that of the target model alone.
#[derive(Parser, Debug)]
#[command(name = "dsde", version, after_help = EPILOGUE, propagate_version = true)]
pub(crate) struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(demo::DemoArgs),
    Generate(Box<generate::GenerateArgs>),
    Chat(Box<chat::ChatArgs>),
    Serve(Box<serve::ServeArgs>),
    Ready(ready::ReadyArgs),
    Bench(Box<bench::BenchArgs>),
    Simulate(simulate::SimulateArgs),
    Pull(pull::PullArgs),
    Inspect(inspect::InspectArgs),
    Policies(policies::PoliciesArgs),
    Quantize(quantize::QuantizeArgs),
}

impl Program {
    /// Runs the chosen command.
    pub(crate) fn run(self) -> Outcome {
        match self.command {
            Command::Demo(args) => demo::run(args),
            Command::Generate(args) => generate::run(*args),
            Command::Chat(args) => chat::run(*args),
            // It reads its options again, together with those of other places.
            Command::Serve(_) => serve::run(),
            Command::Ready(args) => ready::run(&args),
            Command::Bench(args) => bench::run(*args),
            Command::Simulate(args) => simulate::run(args),
            Command::Pull(args) => pull::run(&args),
            Command::Inspect(args) => inspect::run(args),
            Command::Policies(args) => policies::run(args),
            Command::Quantize(args) => quantize::run(&args),
        }
    }
}

/// Whether whoever runs the program lets it use colour (<https://no-color.org>).
pub(crate) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What is told unless `RUST_LOG` says otherwise: warnings, and that a server begins to end.
const LOGGED: &str = "warn,dsde_server::run=info";

/// Sends log events to stderr, in colour on a terminal.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let has_colour = io::stderr().is_terminal() && wants_colour();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(has_colour).with_writer(io::stderr).init();
}
