//! `dsde simulate`: the engine on a virtual clock, for machines that are not here.

use std::fs;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use dsde_simulate::{Error, Plan, Scenario, episode, plan, report};

use crate::answer;
use crate::args::whole_number_in;
use crate::failure::{Failure, OrUsage as _, Outcome};
use crate::machine::n_cores;
use crate::progress;

const EXAMPLES: &str = "\
Examples:
  dsde simulate scenarios/first.toml
  dsde simulate scenarios/first.toml --html first.html
  dsde simulate scenarios/first.toml --json > first.json
  dsde simulate plan scenarios/plans/fleet.toml
  dsde simulate faults --seeds 1000

A scenario names policies, a machine, a pair, where drafts are accepted, and a load. Those above are files of \
the repository; its page docs/simulation.md describes every key. Engine, scheduler and policies are the real ones; passes take the time \
that a model of their costs says, on a clock of their own. The same scenario gives the same figures on every machine.";

const PLAN_EXAMPLES: &str = "\
Examples:
  dsde simulate plan scenarios/plans/fleet.toml
  dsde simulate plan scenarios/plans/fleet.toml --json > fleet.json";

const FAULTS_EXAMPLES: &str = "\
Examples:
  dsde simulate faults
  dsde simulate faults --first 17 --seeds 1           one seed again
  dsde simulate faults --first 17 --show > 17.toml    what it runs, for dsde simulate 17.toml";

/// Simulate policies on machines that are not here
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct SimulateArgs {
    #[command(subcommand)]
    command: Option<Command>,

    /// Scenario, in TOML.
    #[arg(value_name = "SCENARIO", required = true)]
    scenario: Option<PathBuf>,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,

    /// Also write a report that a browser shows, as one file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Threads; the result does not depend on them. Default: one per core.
    #[arg(long, value_name = "N", value_parser = whole_number_in(1..=1024))]
    threads: Option<u32>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Plan(PlanArgs),
    Faults(FaultsArgs),
}

/// Say how many machines of which kind a load needs, and under which policy they are cheapest
///
/// The section `plan` of the scenario has the requests per second of the whole fleet, the share that must meet their latency targets, and
/// the machines to choose from. What one replica can serve is searched for by simulation, for every machine and policy.
#[derive(Args, Debug)]
#[command(after_help = PLAN_EXAMPLES)]
struct PlanArgs {
    /// Scenario with a section `plan`, in TOML.
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    /// Threads; the result does not depend on them. Default: one per core.
    #[arg(long, value_name = "N", value_parser = whole_number_in(1..=1024))]
    threads: Option<u32>,
}

/// Run small engines under faults, one per seed, and check every invariant behind every step
#[derive(Args, Debug)]
#[command(after_help = FAULTS_EXAMPLES)]
struct FaultsArgs {
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole_number_in(1..=100_000_000))]
    seeds: u32,

    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first: u32,

    /// Print the scenario of the first seed and run nothing.
    #[arg(long)]
    show: bool,
}

/// Runs the command.
pub(crate) fn run(args: SimulateArgs) -> Outcome {
    match args.command {
        Some(Command::Faults(args)) => return faults(&args),
        Some(Command::Plan(args)) => return plan_fleet(&args),
        None => {}
    }
    let path = args.scenario.expect("required");
    let scenario = Scenario::read(&path).or_usage_of(path.display())?;
    let n_threads = args.threads.unwrap_or_else(n_cores) as usize;
    let started = Instant::now();
    let bar = progress::bar(1, "{pos}/{len} conditions, {eta} left");
    let results = dsde_simulate::run(&scenario, n_threads, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let results = results.map_err(|error| blame(error, &path))?;
    if let Some(html) = &args.html {
        let page = report::page(&results).html();
        fs::write(html, page).or_usage_of(format!("--html {} cannot be written", html.display()))?;
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&results)?)?,
        false => write!(out, "{}", report::markdown(&results))?,
    }
    let virtual_s: f64 = results.cells.iter().map(|cell| cell.seconds.mean * cell.seconds.n as f64).sum();
    let (simulated, real) = (Duration::from_secs_f64(virtual_s), started.elapsed());
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(
        io::stderr(),
        "simulated {} in {}, {:.1} times as fast as real time",
        answer::time(simulated),
        answer::time(real),
        virtual_s / real.as_secs_f64()
    );
    Ok(())
}

fn plan_fleet(args: &PlanArgs) -> Outcome {
    let plan = Plan::read(&args.scenario).or_usage_of(args.scenario.display())?;
    let n_threads = args.threads.unwrap_or_else(n_cores) as usize;
    let bar = progress::bar(1, "{pos}/{len} fleets, {eta} left");
    let planned = plan.run(n_threads, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let planned = planned.map_err(|error| blame(error, &args.scenario))?;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&planned)?)?,
        false => write!(out, "{}", plan::markdown(&planned))?,
    }
    Ok(())
}

/// What a scenario asks for and the engine refuses is a mistake in the scenario.
fn blame(error: Error, path: &std::path::Path) -> Failure {
    Failure::Usage(anyhow::Error::new(error).context(path.display().to_string()))
}

fn faults(args: &FaultsArgs) -> Outcome {
    let mut out = io::stdout().lock();
    if args.show {
        write!(out, "{}", episode::scenario(args.first.into()))?;
        return Ok(());
    }
    let [mut ended, mut failed_steps, mut preempted, mut refused] = [0_u64; 4];
    let seeds = u64::from(args.first)..u64::from(args.first) + u64::from(args.seeds);
    for seed in seeds.clone() {
        let served = panic::catch_unwind(AssertUnwindSafe(|| episode::run(seed)));
        let served = served.map_err(|_| anyhow::anyhow!("an invariant does not hold under seed {seed}"))?;
        let served = served.map_err(|error| anyhow::Error::new(error).context(format!("seed {seed}")))?;
        ended += served.ended.len() as u64;
        failed_steps += served.failed_steps;
        preempted += served.preempted;
        refused += served.refused;
    }
    writeln!(
        out,
        "seeds {} to {}: every invariant held; {ended} requests ended and {refused} were refused, {failed_steps} steps failed, \
         {preempted} sequences lost their blocks",
        seeds.start,
        seeds.end - 1
    )?;
    Ok(())
}
