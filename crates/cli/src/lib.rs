//! The commands of `dsde`, which serves large language models with dynamic speculative decoding; and, for programs that serve the
//! same models in another way, what `dsde serve` makes of its options ([`EngineArgs`]).
//!
//! One file per command; each turns what was typed (`args`) into what is needed (`speculation`, `sampling`, `session`) and
//! leaves the work to the crates below. Results go to stdout, everything else to stderr.

mod answer;
mod args;
mod bench;
mod blur;
mod chat;
mod commands;
mod demo;
mod derived;
mod drafters;
mod engine_args;
mod failure;
mod generate;
mod hub;
mod inflate;
mod inspect;
mod interrupt;
mod machine;
mod models;
mod opened;
mod perplexity;
mod policies;
mod progress;
mod prompts;
mod pull;
mod quantize;
mod ready;
mod remote;
mod samples;
mod sampling;
mod serve;
mod session;
mod simulate;
mod speculation;
mod stores;
mod today;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;

pub use engine_args::{EngineArgs, EnginePlan, Served};
pub use failure::{Failure, Outcome};

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    if let Some(code) = dsde_server::tried_form() {
        return code;
    }
    let program = commands::Program::parse();
    commands::log_to_stderr();
    match program.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
