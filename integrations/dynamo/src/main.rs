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
    let trial = Trial::by_this_program().map_err(Failure::from);
    let (worker, config) = match trial.and_then(|trial| Args::parse().worker(Some(trial))) {
        Ok(worker) => worker,
        Err(failure) => return failure.report(),
    };
    match dynamo_backend_common::run(Arc::new(worker), config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::Run(error).report(),
    }
}
