//! `dsde bench compare`: a log over another one, with what noise alone would do.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use dsde_bench::Log;
use dsde_bench::versus::{self, Pairing, Verdict};

use crate::args::number_in;
use crate::failure::{Failure, OrUsage as _, Outcome, usage};

const EXAMPLES: &str = "\
Examples:
  dsde bench --log before.jsonl --repeat 10        (then with the other version: --log after.jsonl)
  dsde bench compare before.jsonl after.jsonl
  dsde bench compare before.jsonl after.jsonl --fail-if-slower 2

On a machine that others use, measure in turns, a round of each at a time, and compare with --paired:
  for i in 1 2 3 4 5 6; do
      old/dsde bench --log before.jsonl --repeat $i
      new/dsde bench --log after.jsonl --repeat $i
  done
  dsde bench compare before.jsonl after.jsonl --paired";

/// Compare two logs, condition by condition
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// A log of `dsde bench --log`, or a record of --out or --json.
    #[arg(value_name = "FIRST")]
    first: PathBuf,

    /// Another, of the same conditions.
    #[arg(value_name = "SECOND")]
    second: PathBuf,

    /// Rounds of the same number were measured soon after each other, in turns.
    #[arg(long)]
    paired: bool,

    /// End with code 1 if the second log is slower than noise explains anywhere, by more than this.
    #[arg(long, value_name = "PERCENT", value_parser = number_in(0.0..=100.0))]
    fail_if_slower: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &CompareArgs) -> Outcome {
    let [first, second] = [&args.first, &args.second].map(|path| Log::read(path).or_usage());
    let (first, second) = (first?, second?);
    let pairing = if args.paired { Pairing::Rounds } else { Pairing::None };
    let differences = versus::differences(&first, &second, pairing);
    if differences.is_empty() {
        return Err(usage(
            "the logs have no conditions in common: same policy, workload, load and temperature, and with --paired the same rounds",
        ));
    }
    let names = [&args.first, &args.second].map(|path| path.display().to_string());
    let page = versus::page([&names[0], &names[1]], [&first, &second], pairing, &differences);
    write!(io::stdout().lock(), "{page}")?;
    let Some(percent) = args.fail_if_slower else { return Ok(()) };
    let is_worse = |difference: &&versus::Difference<'_>| {
        difference.verdict() == Verdict::Slower && difference.ratio.mean < 1.0 - percent / 100.0
    };
    match differences.iter().filter(is_worse).count() {
        0 => Ok(()),
        n => Err(Failure::Run(anyhow!("{n} conditions are slower by more than {percent} %"))),
    }
}
