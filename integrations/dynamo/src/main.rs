//! The program `dsde-dynamo`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use dsde_cli::Failure;
use dsde_dynamo::Args;

fn main() -> ExitCode {
    let (worker, config) = match Args::parse().worker() {
        Ok(worker) => worker,
        Err(failure) => return failure.report(),
    };
    match dynamo_backend_common::run(Arc::new(worker), config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::Run(error).report(),
    }
}
