//! The program `dsde-dynamo`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use dsde_cli::Failure;
use dsde_dynamo::Args;
use dsde_server::Trial;

fn main() -> ExitCode {
    if let Some(code) = dsde_server::tried_form() {
        return code;
    }
    let (mut worker, config) = match Args::parse().worker() {
        Ok(worker) => worker,
        Err(failure) => return failure.report(),
    };
    match Trial::by_this_program() {
        Ok(trial) => worker.set_trial(Some(trial)),
        Err(error) => return Failure::Run(error.into()).report(),
    }
    match dynamo_backend_common::run(Arc::new(worker), config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::Run(error).report(),
    }
}
