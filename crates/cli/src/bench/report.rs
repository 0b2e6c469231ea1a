//! `dsde bench report`: what logs of runs say.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use dsde_bench::{Log, comparison};

use crate::failure::{OrUsage as _, Outcome};

/// Print what logs of runs say, in Markdown
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Logs that `dsde bench --log` wrote; each is a page of its own.
    #[arg(value_name = "FILE.jsonl", required = true)]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: ReportArgs) -> Outcome {
    let read = |file: &PathBuf| Log::read(file).or_usage();
    let logs: Vec<Log> = args.files.iter().map(read).collect::<Outcome<_>>()?;
    let mut out = io::stdout().lock();
    for log in &logs {
        write!(out, "{}", comparison::page(log))?;
    }
    Ok(())
}
