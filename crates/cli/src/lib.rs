//! `dsde`: serves large language models with dynamic speculative decoding.
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
mod failure;
mod generate;
mod hub;
mod inflate;
mod inspect;
mod interrupt;
mod machine;
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

fn main() -> ExitCode {
    let program = commands::Program::parse();
    commands::log_to_stderr();
    match program.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
