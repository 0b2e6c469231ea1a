//! `dsde bench`: measures policies on workloads.

mod classes;
mod command_line;
mod compare;
mod digest;
mod loads;
mod local;
mod measure;
mod plan;
mod record;
mod report;
mod served;
mod traffic;

use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dsde_bench::log::LogFile;
use dsde_bench::{Heading, LatencyClass, Log, Run, Seen, Settings, comparison};

use crate::args::{
    CONCURRENCY_MAX, ModelArgs, Verification, number_in, positive_up_to, seed, whole_number_in,
};
use crate::failure::{OrUsage as _, Outcome};
use crate::machine;
use crate::models::Models;
use crate::remote::{RemoteArgs, ServerUrl};
use crate::samples;
use crate::speculation::{PolicyList, check_drafter, known_policy};
use crate::trace::TraceFile;
use classes::{SLO_MS_MAX, SLO_MS_MIN, latency_class};
use command_line::command_line;
use loads::{Loads, Wanted};
use local::Local;
use measure::{Coverage, Plan, Sink, Subject, measure};
use plan::Budget;
use record::record_rows;
use served::Served;

/// Policies of an engine in this program, unless others are asked for.
const POLICIES_DEFAULT: [&str; 4] = ["off", "fixed:k=4", "dsde", "auto"];
/// Stands for what a server alone knows: its policy, its draft.
const OF_SERVER: &str = "server";
/// Most requests per run: hours of work, whose records still fit into memory.
const REQUESTS_MAX: u32 = 100_000;
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
  dsde bench --policies off,fixed:k=1..8,dsde --concurrency 1,2,4,8,16,32 --temperature 0,1 \\
      --minutes 60 --log runs.jsonl
  dsde bench --profile 1,16,2,32 --every 20 --log bursts.jsonl
  dsde bench --url http://127.0.0.1:8000 --concurrency 1,8,32 --log server.jsonl
  dsde bench report runs.jsonl bursts.jsonl --plot figures
  dsde bench compare before.jsonl after.jsonl

Policies and their parameters are both separated by commas: a piece with `=` and without `:` continues the policy before it. \
A value A..B stands for every whole number from A to B, one policy each.

Every row is measured --repeat times after a warm-up; policies take turns, in another order each time, and keep what they have \
learned in the same conditions. Counts and quantiles of a row are over all its repeats, tokens/s has one value per repeat. \
Prefixes are not cached, so repeats do equal work.

A --log can be ended at any time and taken up again by the same command; what is in it is not measured again. Its report \
compares policies repeat by repeat, with `off` and with the fixed length that is best in the same conditions.

With --url, a server in the OpenAI API is asked instead: dsde, vLLM, SGLang, llama.cpp or a hosted one. Requests ask for streams \
and, unless --stop-at-eos is given, have the field `ignore_eos`, which hosted servers may refuse. Latencies are those that the \
client sees. Answers with status 429 or 503 are asked for again up to five times, after the time that the server names or 0.25, \
0.5, 1, ... seconds, and their latency counts from the first attempt; requests without an answer are counted and told. What \
speculation did is read from the answers, or else from the server's /metrics, which must serve nobody else meanwhile.

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

    /// Policies to compare; `dsde policies` lists what there is. Default: off,fixed:k=4,dsde,auto; of a server, the one it
    /// has. Names given with --url go into the field `policy` of the requests, which `dsde serve` alone knows.
    #[arg(long, value_name = "POLICY[,POLICY...]")]
    policies: Option<PolicyList>,

    /// Requests kept in flight, one measurement each. Tokens/s are counted from the first end of a request until fewer are.
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

    /// Requests per run, taken from the workload in order and from its beginning again if it is shorter. Default: three
    /// per request in flight, at least 16.
    #[arg(long, value_name = "N", value_parser = whole_number_in(1..=REQUESTS_MAX))]
    requests: Option<u32>,

    /// Tokens per request; fewer at the end of the context. The first requests of a run get fewer, too, so that not all end at once.
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive_up_to(u32::MAX))]
    max_tokens: NonZeroU32,

    /// 0 is greedy.
    #[arg(long, value_name = "T[,T...]", value_delimiter = ',', default_value = "0")]
    temperature: Vec<f32>,

    /// Measured runs per row. On a machine that is not quiet, many short ones say more than a few long ones.
    #[arg(long, value_name = "R", default_value = "3", value_parser = positive_up_to(REPEATS_MAX))]
    repeat: NonZeroU32,

    /// Of the random draws; another one draws other text. A server (--url) draws as it likes.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = seed)]
    seed: u64,

    /// End requests at the end of text; otherwise all run to --max-tokens and do equal work.
    #[arg(long)]
    stop_at_eos: bool,

    /// Take prompts as they are, without chat template.
    #[arg(long)]
    raw: bool,

    /// Latency target of every request, ms from its arrival to its first token; the report then has goodput, the requests
    /// per second that meet their targets.
    #[arg(long, value_name = "MS", value_parser = number_in(SLO_MS_MIN..=SLO_MS_MAX))]
    slo_ttft_ms: Option<f64>,

    /// Latency target of every request, mean ms per token after the first.
    #[arg(long, value_name = "MS", value_parser = number_in(SLO_MS_MIN..=SLO_MS_MAX))]
    slo_tpot_ms: Option<f64>,

    /// Latency classes that requests take in turns: names, each with a target of mean ms per token after the first, as in
    /// `tight:0.5,medium:1,loose:3`. The report then has the share of each class that met it.
    #[arg(long, value_name = "NAME:MS[,NAME:MS...]", value_delimiter = ',', conflicts_with = "slo_tpot_ms",
          value_parser = latency_class)]
    slo_classes: Vec<LatencyClass>,

    /// How sampled proposals are judged.
    #[arg(long, value_enum, default_value_t)]
    verification: Verification,

    /// Begin no run after this time, minutes. Default: no bound.
    #[arg(long, value_name = "M", value_parser = number_in(0.0..=MINUTES_MAX))]
    minutes: Option<f64>,

    /// Write every run to this file as it ends, leave out those that it has already, and report on all of them. Not with --out
    /// or --json.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["out", "json"])]
    log: Option<PathBuf>,

    /// Write every measured step to this file, one JSON object per line; an existing file is replaced.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "url")]
    trace: Option<PathBuf>,

    /// Folder for record.json, summary.md, command.txt and machine.json; existing ones are replaced. Not with --log, which keeps
    /// every run.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    Report(report::ReportArgs),
    Compare(compare::CompareArgs),
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> Outcome {
    match args.command {
        Some(Command::Report(args)) => return report::run(args),
        Some(Command::Compare(args)) => return compare::run(&args),
        None => {}
    }
    let wanted = Wanted::of(&args)?;
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).or_usage_of(format!("--out {} cannot be created", folder.display()))?;
    }
    match &args.remote.url {
        Some(url) => ask_server(&args, url, wanted),
        None => run_models(&args, wanted),
    }
}

/// Measures an engine in this program.
fn run_models(args: &BenchArgs, wanted: Wanted) -> Outcome {
    let models = Models::new(&args.model)?;
    let policies = match &args.policies {
        Some(PolicyList(policies)) => policies.clone(),
        None => POLICIES_DEFAULT.map(known_policy).to_vec(),
    };
    for policy in &policies {
        check_drafter(policy, &models.draft)?;
    }
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let subject = Local::new(args, &models, &policies, &wanted.traffics, trace.as_ref())?;
    let heading = Heading {
        machine: subject.machine(),
        model: models.target.to_string(),
        draft: subject.draft(),
        settings: settings(args, &args.verification.to_string()),
    };
    let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
    measure_all(args, subject, &names, wanted, heading)?;
    trace.map_or(Ok(()), |trace| trace.finish())
}

/// Measures a server.
fn ask_server(args: &BenchArgs, url: &ServerUrl, wanted: Wanted) -> Outcome {
    let policies: Option<Vec<String>> =
        args.policies.as_ref().map(|PolicyList(policies)| policies.iter().map(ToString::to_string).collect());
    let subject = Served::new(args, url, policies.is_some())?;
    let heading = Heading {
        machine: machine::describe(OF_SERVER.to_owned()),
        model: subject.model().to_owned(),
        draft: OF_SERVER.to_owned(),
        settings: Settings { url: Some(url.to_string()), ..settings(args, OF_SERVER) },
    };
    let names = policies.unwrap_or_else(|| vec![OF_SERVER.to_owned()]);
    measure_all(args, subject, &names, wanted, heading)
}

fn measure_all<S: Subject>(
    args: &BenchArgs,
    mut subject: S,
    policies: &[String],
    wanted: Wanted,
    heading: Heading,
) -> Outcome {
    let loads = Loads::new(args, wanted, |ask, temperature| subject.request(ask, temperature))?;
    let budget = Budget::new(args.minutes);
    let plan = Plan { cells: loads.cells(), policies, rounds: args.repeat.get(), budget };
    match &args.log {
        Some(path) => log_runs(path, heading, &plan, &mut subject),
        None => record_rows(args, heading, &plan, &mut subject),
    }
}

/// Measures into a log that may have runs already, and prints what all of it says.
fn log_runs<S: Subject>(
    path: &Path,
    heading: Heading,
    plan: &Plan<'_, S::Request>,
    subject: &mut S,
) -> Outcome {
    let mut log = LogFile::open(path, heading).or_usage()?;
    let coverage = measure(plan, subject, &mut log)?;
    tell(coverage);
    write!(io::stdout().lock(), "{}", comparison::page(&log.log))?;
    Ok(())
}

impl Sink for LogFile {
    fn log(&self) -> Option<&Log> {
        Some(&self.log)
    }

    fn take(&mut self, run: Run, _seen: Seen) -> Outcome {
        Ok(self.push(run)?)
    }
}

/// Says what the time did not suffice for.
fn tell(Coverage { measured, planned }: Coverage) {
    if measured < planned {
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(io::stderr(), "--minutes ended the measurement after {measured} of {planned} runs");
    }
}

fn settings(args: &BenchArgs, verification: &str) -> Settings {
    Settings {
        command: command_line(std::env::args()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_tokens: args.max_tokens.get(),
        ignore_eos: !args.stop_at_eos,
        seed: args.seed,
        requests: args.requests,
        repeats: args.repeat.get(),
        verification: verification.to_owned(),
        url: None,
        slo_ttft_ms: args.slo_ttft_ms,
        slo_tpot_ms: args.slo_tpot_ms,
        slo_classes: args.slo_classes.clone(),
    }
}
