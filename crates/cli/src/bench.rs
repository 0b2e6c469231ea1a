//! `dsde bench`: measures policies on workloads.

mod kept;
mod loads;
mod measure;
mod plan;
mod report;

use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dsde_bench::log::LogFile;
use dsde_bench::{Conditions, Heading, Log, Record, Row, Run, Settings, Workload, comparison};
use dsde_engine::RequestTimeline;

use crate::args::{CONCURRENCY_MAX, ModelArgs, Verification, number_in, positive_up_to};
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::samples;
use crate::session::{Form, Models, Session, Wish};
use crate::speculation::{PolicyList, check_drafter, first_repeated};
use crate::trace::TraceFile;
use loads::{Load, read_workloads};
pub(crate) use measure::serve;
use measure::{Coverage, Plan, Sink, measure};
use plan::{Budget, Cell, Traffic};

/// Most requests per run: hours of work, whose records still fit into memory.
const REQUESTS_MAX: i64 = 100_000;
/// Most measured runs per row.
const REPEATS_MAX: u32 = 1000;
/// Longest measurement, minutes: a week.
const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;
/// Longest part of a changing load, seconds: a day.
const EVERY_MAX: f64 = 86_400.0;
/// Shortest part of a changing load, seconds: a few steps.
const EVERY_MIN: f64 = 0.01;

const EXAMPLES: &str = "\
Examples:
  dsde bench
  dsde bench --workload chat.jsonl,code.jsonl --policies off,fixed:k=4,dsde --concurrency 1,4,16
  dsde bench --policies off,dsde:variant=released,cap=mean --repeat 5 --out runs/first
  dsde bench --policies off,fixed:k=1..8,dsde --concurrency 1,2,4,8,16,32 --temperature 0,1 --minutes 60 --log runs.jsonl
  dsde bench --profile 1,16,2,32 --every 20 --log bursts.jsonl
  dsde bench report runs.jsonl bursts.jsonl

Policies and their parameters are both separated by commas: a piece with `=` and without `:` continues the policy before it. \
A value A..B stands for every whole number from A to B, one policy each.

Every row is measured --repeat times after a warm-up; policies take turns, in another order each time, and keep what they have \
learned in the same conditions. Counts and quantiles of a row are over all its repeats, tokens/s has one value per repeat. \
Prefixes are not cached, so repeats do equal work.

A --log can be ended at any time and taken up again by the same command; what is in it is not measured again. Its report \
compares policies repeat by repeat, with `off` and with the fixed length that is best in the same conditions.

With --json, stdout holds one object: machine, model, draft, settings, rows.";

/// Measure policies on workloads
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true, args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: Option<Command>,

    /// Workloads: files of JSON lines with `prompt` or `messages`; `demo` for 16 built-in prompts; `mix` for the lines of
    /// all given files taking turns.
    #[arg(long, value_name = "FILE[,FILE...]", value_delimiter = ',', default_value = samples::NAME)]
    workload: Vec<String>,

    /// Policies to compare; `dsde policies` lists what there is.
    #[arg(long, value_name = "POLICY[,POLICY...]", default_value = "off,fixed:k=4,dsde,auto")]
    policies: PolicyList,

    /// Requests kept in flight, one measurement each. Tokens/s are counted while that many are.
    #[arg(long, value_name = "C[,C...]", value_delimiter = ',', default_value = "1,4,16",
          value_parser = positive_up_to(CONCURRENCY_MAX))]
    concurrency: Vec<NonZeroU32>,

    /// Instead of --concurrency: requests in flight change, each number holding for --every seconds. Where the number falls,
    /// running requests go on to their ends and no new ones start.
    #[arg(long, value_name = "C,C[,C...]", value_delimiter = ',', conflicts_with_all = ["concurrency", "requests"],
          value_parser = positive_up_to(CONCURRENCY_MAX))]
    profile: Option<Vec<NonZeroU32>>,

    /// Seconds that each number of --profile holds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, requires = "profile",
          value_parser = number_in(EVERY_MIN..=EVERY_MAX))]
    every: f64,

    /// Requests per run, taken from the workload in order and from its beginning again if it is shorter. Default: two per
    /// request in flight, at least 16.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=REQUESTS_MAX))]
    requests: Option<u32>,

    /// Tokens per request; fewer only at the end of the context.
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive_up_to(u32::MAX))]
    max_tokens: NonZeroU32,

    /// 0 is greedy.
    #[arg(long, value_name = "T[,T...]", value_delimiter = ',', default_value = "0")]
    temperature: Vec<f32>,

    /// Measured runs per row. On a machine that is not quiet, many short ones say more than a few long ones.
    #[arg(long, value_name = "R", default_value = "3", value_parser = positive_up_to(REPEATS_MAX))]
    repeat: NonZeroU32,

    /// Request i (from 0) of every run uses the seed S + i.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// End requests at the end of text; otherwise all run to --max-tokens and do equal work.
    #[arg(long)]
    stop_at_eos: bool,

    /// Take prompts as they are, without chat template.
    #[arg(long)]
    raw: bool,

    /// How sampled proposals are judged.
    #[arg(long, value_enum, default_value_t)]
    verification: Verification,

    /// Begin no run after this time.
    #[arg(long, value_name = "M", value_parser = number_in(0.0..=MINUTES_MAX))]
    minutes: Option<f64>,

    /// Write every run to this file as it ends, leave out those that it has already, and report on all of them.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["out", "json"])]
    log: Option<PathBuf>,

    /// Write every measured step to this file, one JSON object per line; an existing file is replaced.
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,

    /// Folder for record.json, summary.md, command.txt and machine.json.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    Report(report::ReportArgs),
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> Outcome {
    if let Some(Command::Report(args)) = args.command {
        return report::run(args);
    }
    let models = Models::new(&args.model)?;
    let policies = &args.policies.0;
    for policy in policies {
        check_drafter(policy, &models.draft)?;
    }
    check_temperatures(&args.temperature)?;
    let traffics = Traffic::asked(&args)?;
    let workloads = read_workloads(&args.workload)?;
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).or_usage_of(format!("--out {} cannot be created", folder.display()))?;
    }
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let n_sequences = traffics.iter().map(Traffic::concurrency_max).max();
    let wish = Wish {
        policy: policies[0].clone(),
        rule: args.verification.into(),
        form: if args.raw { Form::Raw } else { Form::Chat },
        n_sequences: n_sequences.ok_or_else(|| usage("--concurrency is empty"))?,
        prefix_cache: false,
    };
    let mut session = Session::open(&models, &wish)?;
    let loads = Loads::new(&args, &session, workloads, traffics)?;
    let plan = Plan {
        cells: loads.cells(),
        policies,
        rounds: args.repeat.get(),
        budget: Budget::new(args.minutes),
        trace: trace.as_ref(),
    };
    let heading = Heading {
        machine: session.machine(),
        model: models.target.to_string(),
        draft: models.draft.to_string(),
        settings: settings(&args),
    };
    match &args.log {
        Some(path) => log_runs(path, heading, &plan, &mut session)?,
        None => record_rows(&args, heading, &plan, &mut session)?,
    }
    trace.map_or(Ok(()), |trace| trace.finish())
}

/// Measures into a log that may have runs already, and prints what all of it says.
fn log_runs(path: &Path, heading: Heading, plan: &Plan<'_>, session: &mut Session) -> Outcome {
    let mut log = LogFile::open(path, heading).or_usage()?;
    let coverage = measure(plan, session, &mut log)?;
    tell(coverage);
    write!(io::stdout().lock(), "{}", comparison::page(&log.log))?;
    Ok(())
}

/// Measures anew and prints a record.
fn record_rows(args: &BenchArgs, heading: Heading, plan: &Plan<'_>, session: &mut Session) -> Outcome {
    let mut rows = Rows::default();
    let coverage = measure(plan, session, &mut rows)?;
    tell(coverage);
    let Heading { machine, model, draft, settings } = heading;
    let record = Record { machine, model, draft, settings, rows: rows.finish() };
    if let Some(folder) = &args.out {
        save(folder, &record)?;
    }
    print(args, &record)
}

/// Says what the time did not suffice for.
fn tell(Coverage { measured, planned }: Coverage) {
    if measured < planned {
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(io::stderr(), "--minutes ended the measurement after {measured} of {planned} runs");
    }
}

fn check_temperatures(temperatures: &[f32]) -> Outcome {
    match first_repeated(temperatures) {
        Some(temperature) => Err(usage(format!("--temperature: {temperature} is listed twice"))),
        None => Ok(()),
    }
}

/// Keeps what makes the rows of a record.
#[derive(Default)]
struct Rows {
    /// One entry per cell and policy, in the order of appearance; one list of timelines per run.
    runs: Vec<(Conditions, Vec<Vec<RequestTimeline>>)>,
}

impl Sink for Rows {
    fn log(&self) -> Option<&Log> {
        None
    }

    fn take(&mut self, run: Run, timelines: Vec<RequestTimeline>) -> Outcome {
        match self.runs.iter_mut().find(|(conditions, _)| *conditions == run.conditions) {
            Some((_, runs)) => runs.push(timelines),
            None => self.runs.push((run.conditions, vec![timelines])),
        }
        Ok(())
    }
}

impl Rows {
    fn finish(self) -> Vec<Row> {
        self.runs.into_iter().filter_map(|(conditions, runs)| Row::new(conditions, &runs)).collect()
    }
}

impl Sink for LogFile {
    fn log(&self) -> Option<&Log> {
        Some(&self.log)
    }

    fn take(&mut self, run: Run, _timelines: Vec<RequestTimeline>) -> Outcome {
        Ok(self.push(run)?)
    }
}

/// The loads and traffics of a command, from which its cells are made.
struct Loads {
    loads: Vec<Load>,
    traffics: Vec<Traffic>,
    n_requests: Option<u32>,
}

impl Loads {
    fn new(
        args: &BenchArgs,
        session: &Session,
        workloads: Vec<Workload>,
        traffics: Vec<Traffic>,
    ) -> Outcome<Self> {
        let n_requests = traffics.iter().map(|traffic| traffic.n_requests(args.requests)).max().unwrap_or(0);
        let mut loads = Vec::new();
        for workload in workloads {
            for &temperature in &args.temperature {
                loads.push(Load::new(args, session, workload.clone(), temperature, n_requests)?);
            }
        }
        Ok(Self { loads, traffics, n_requests: args.requests })
    }

    fn cells(&self) -> Vec<Cell<'_>> {
        let pairs =
            self.loads.iter().flat_map(|load| self.traffics.iter().map(move |traffic| (load, traffic)));
        let cell = |(load, traffic)| Cell {
            load,
            traffic,
            n_requests: Traffic::n_requests(traffic, self.n_requests),
        };
        pairs.map(cell).collect()
    }
}

fn settings(args: &BenchArgs) -> Settings {
    Settings {
        command: command_line(std::env::args()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_tokens: args.max_tokens.get(),
        ignore_eos: !args.stop_at_eos,
        seed: args.seed,
        requests: args.requests,
        repeats: args.repeat.get(),
        verification: args.verification.to_string(),
    }
}

/// Arguments as they can be pasted into a shell.
fn command_line(args: impl Iterator<Item = String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = |arg: String| match !arg.is_empty() && arg.chars().all(is_plain) {
        true => arg,
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    };
    args.map(quoted).collect::<Vec<_>>().join(" ")
}

fn save(folder: &Path, record: &Record) -> Outcome {
    let files = [
        ("record.json", serde_json::to_string_pretty(record)? + "\n"),
        ("summary.md", dsde_bench::report::summary(record)),
        ("command.txt", format!("{}\n", record.settings.command)),
        ("machine.json", serde_json::to_string_pretty(&record.machine)? + "\n"),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        let context = format!("cannot write {}", path.display());
        fs::write(&path, text).map_err(|error| anyhow::Error::new(error).context(context))?;
    }
    Ok(())
}

fn print(args: &BenchArgs, record: &Record) -> Outcome {
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(record)?)?,
        false => write!(out, "{}", dsde_bench::report::summary(record))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let args = ["dsde", "bench", "--policies", "off,fixed:k=4", "a b", "it's", ""];
        let line = command_line(args.into_iter().map(str::to_owned));
        assert_eq!(line, r"dsde bench --policies off,fixed:k=4 'a b' 'it'\''s' ''");
    }
}
