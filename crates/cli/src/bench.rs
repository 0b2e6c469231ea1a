//! `dsde bench`: measures policies on workloads.

use std::fs;
use std::io::{self, Write as _};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use clap::Args;
use dsde_bench::load::{Choice, Observer, closed_loop};
use dsde_bench::{Conditions, Record, Row, Settings, Workload, report};
use dsde_engine::{Request, RequestTimeline};
use dsde_policy::registry;
use dsde_sampling::Params;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{CONCURRENCY_MAX, ModelArgs, Verification, positive_up_to};
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::prompts::{Ask, asks_of, warn_of_suspect};
use crate::samples;
use crate::session::{Form, Models, Session, Wish};
use crate::speculation::{PolicyList, check_drafter, first_repeated};

/// Requests per run where nobody says otherwise.
const REQUESTS_DEFAULT: u32 = 32;
/// Most requests per run: hours of work, whose records still fit into memory.
const REQUESTS_MAX: i64 = 100_000;
/// Most measured runs per row.
const REPEATS_MAX: u32 = 1000;
/// Workload of the lines of all others.
const MIX: &str = "mix";

const EXAMPLES: &str = "\
Examples:
  dsde bench
  dsde bench --workload chat.jsonl,code.jsonl --policies off,fixed:k=4,dsde --concurrency 1,4,16
  dsde bench --policies off,dsde:variant=released,cap=mean --repeat 5 --out runs/first

Policies and their parameters are both separated by commas: a piece with `=` and without `:` continues the policy before it.

Every row is measured --repeat times after a warm-up; policies take turns, in another order each time. Counts and quantiles \
of a row are over all its repeats, tokens/s has one value per repeat. Prefixes are not cached, so repeats do equal work.

With --json, stdout holds one object: machine, model, draft, settings, rows.";

/// Measure policies on workloads, a constant number of requests in flight
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct BenchArgs {
    /// Workloads: files of JSON lines with `prompt` or `messages`; `demo` for 16 built-in prompts; `mix` for the lines of
    /// all given files taking turns.
    #[arg(long, value_name = "FILE[,FILE...]", value_delimiter = ',', default_value = samples::NAME)]
    workload: Vec<String>,

    /// Policies to compare; `dsde policies` lists what there is.
    #[arg(long, value_name = "POLICY[,POLICY...]", default_value = "off,fixed:k=4,dsde")]
    policies: PolicyList,

    /// Requests kept in flight, one measurement each.
    #[arg(long, value_name = "C[,C...]", value_delimiter = ',', default_value = "1,4,16",
          value_parser = positive_up_to(CONCURRENCY_MAX))]
    concurrency: Vec<NonZeroU32>,

    /// Requests per run, taken from the workload in order and from its beginning again if it is shorter.
    #[arg(long, value_name = "N", default_value_t = REQUESTS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=REQUESTS_MAX))]
    requests: u32,

    /// Tokens per request; fewer only at the end of the context.
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive_up_to(u32::MAX))]
    max_tokens: NonZeroU32,

    /// 0 is greedy.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,

    /// Measured runs per row.
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

    /// Folder for record.json, summary.md, command.txt and machine.json.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> Outcome {
    let models = Models::new(&args.model)?;
    let policies = &args.policies.0;
    for policy in policies {
        check_drafter(policy, &models.draft)?;
    }
    if let Some(concurrency) = first_repeated(&args.concurrency) {
        return Err(usage(format!("--concurrency: {concurrency} is listed twice")));
    }
    let workloads = read_workloads(&args.workload)?;
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).or_usage_of(format!("--out {} cannot be created", folder.display()))?;
    }
    let n_sequences = args.concurrency.iter().copied().max();
    let wish = Wish {
        policy: policies[0].clone(),
        rule: args.verification.into(),
        form: if args.raw { Form::Raw } else { Form::Chat },
        n_sequences: n_sequences.ok_or_else(|| usage("--concurrency is empty"))?,
        prefix_cache: false,
    };
    let mut session = Session::open(&models, &wish)?;
    let load = |workload| Load::new(&args, &session, workload);
    let loads: Vec<Load> = workloads.into_iter().map(load).collect::<Outcome<_>>()?;
    let rows = measure(&args, &mut session, &loads)?;
    let record = Record {
        machine: session.machine(),
        model: models.target.to_string(),
        draft: models.draft.to_string(),
        settings: settings(&args),
        rows,
    };
    if let Some(folder) = &args.out {
        save(folder, &record)?;
    }
    print(&args, &record)
}

fn read_workloads(names: &[String]) -> Outcome<Vec<Workload>> {
    if let Some(name) = first_repeated(names) {
        return Err(usage(format!("--workload: {name} is listed twice")));
    }
    let files = names.iter().filter(|name| *name != MIX);
    let read = |name: &String| match name.as_str() {
        "" => Err(usage("--workload: a name is empty; give files, `demo` or `mix`")),
        samples::NAME => Ok(samples::workload()),
        path => {
            let workload = Workload::read(Path::new(path)).or_usage()?;
            warn_of_suspect(&workload, path);
            Ok(workload)
        }
    };
    let mut workloads: Vec<Workload> = files.map(read).collect::<Outcome<_>>()?;
    if workloads.is_empty() {
        return Err(usage("--workload mix needs files to mix"));
    }
    if workloads.len() < names.len() {
        workloads.push(Workload::mix(MIX, &workloads));
    }
    let shown: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
    match first_repeated(&shown) {
        Some(name) => Err(usage(format!("--workload: two of them are called {name}; rename a file"))),
        None => Ok(workloads),
    }
}

/// The requests of a run.
struct Load {
    /// Name of the workload.
    name: String,
    /// One per line that is used; the others repeat them.
    distinct: Vec<Request>,
    n_requests: u32,
    /// Of the first request.
    seed: u64,
}

impl Load {
    fn new(args: &BenchArgs, session: &Session, workload: Workload) -> Outcome<Self> {
        let params = Params { temperature: args.temperature, ..Params::greedy() };
        params.check(session.engine.shape().vocab_len).or_usage()?;
        let name = workload.name.clone();
        let asks = asks_of(workload, &name);
        let request = |ask: &Ask| {
            let prompt = session.encode(&ask.prompt).map_err(|error| ask.blame(error))?;
            let mut request = Request::new(prompt, params.clone(), args.max_tokens.get());
            if args.stop_at_eos {
                request.stop.tokens = session.eos_tokens().to_vec();
            }
            request.check(&session.engine.shape()).map_err(|error| ask.blame(error))?;
            Ok(request)
        };
        let distinct = asks.iter().take(args.requests as usize).map(request).collect::<Outcome<_>>()?;
        Ok(Self { name, distinct, n_requests: args.requests, seed: args.seed })
    }

    /// The requests in order, each made when it is asked for.
    fn requests(&self) -> impl Iterator<Item = Request> {
        let seeds = (0..self.n_requests).map(|i| self.seed.wrapping_add(i.into()));
        self.distinct.iter().cycle().zip(seeds).map(|(request, seed)| {
            let mut request = request.clone();
            request.params.seed = seed;
            request
        })
    }
}

/// One line of the plan: a workload at a concurrency.
struct Cell<'a> {
    load: &'a Load,
    concurrency: NonZeroUsize,
}

fn measure(args: &BenchArgs, session: &mut Session, loads: &[Load]) -> Outcome<Vec<Row>> {
    let policies = &args.policies.0;
    let n_runs = loads.len() * args.concurrency.len() * policies.len() * args.repeat.get() as usize;
    let progress = Progress::new(n_runs as u64 * u64::from(args.requests));
    let mut rows = Vec::new();
    for load in loads {
        for &concurrency in &args.concurrency {
            let cell = Cell { load, concurrency: concurrency.try_into()? };
            rows.extend(measure_cell(args, session, &cell, &progress)?);
        }
    }
    progress.bar.finish_and_clear();
    Ok(rows)
}

/// All policies on one workload at one concurrency: a warm-up of one batch each, then repeats in rotating order.
fn measure_cell(
    args: &BenchArgs,
    session: &mut Session,
    cell: &Cell<'_>,
    progress: &Progress,
) -> Outcome<Vec<Row>> {
    let policies = &args.policies.0;
    for policy in policies {
        progress.describe(cell, policy, "warm-up");
        let requests = cell.load.requests().take(cell.concurrency.get());
        serve(session, policy, requests, cell.concurrency, &mut ())?;
    }
    let mut runs: Vec<Vec<Vec<RequestTimeline>>> = vec![Vec::new(); policies.len()];
    for repeat in 0..args.repeat.get() as usize {
        for turn in 0..policies.len() {
            let i = (repeat + turn) % policies.len();
            progress.describe(cell, &policies[i], &format!("run {} of {}", repeat + 1, args.repeat));
            let mut observer = progress;
            let choices =
                serve(session, &policies[i], cell.load.requests(), cell.concurrency, &mut observer)?;
            runs[i].push(choices.iter().map(|choice| choice.timeline).collect());
        }
    }
    let row = |(policy, runs): (&registry::Config, &Vec<_>)| {
        let conditions = Conditions {
            policy: policy.to_string(),
            workload: cell.load.name.clone(),
            concurrency: u32::try_from(cell.concurrency.get())?,
            temperature: shortest(args.temperature),
        };
        Ok(Row::new(conditions, runs).ok_or_else(|| anyhow::anyhow!("the runs took no measurable time"))?)
    };
    policies.iter().zip(&runs).map(row).collect()
}

/// Serves `requests` under a fresh policy.
pub(crate) fn serve(
    session: &mut Session,
    policy: &registry::Config,
    requests: impl IntoIterator<Item = Request>,
    concurrency: NonZeroUsize,
    observer: &mut dyn Observer,
) -> Outcome<Vec<Choice>> {
    session.engine.set_policy(policy.build());
    let choices = closed_loop(&mut session.engine, requests, concurrency, observer)?;
    Ok(choices.into_iter().flatten().collect())
}

/// The number that was typed: `0.7` as f32 is not the f64 closest to 0.7.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// A bar on stderr; nothing where stderr is not a terminal.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(n_requests: u64) -> Self {
        let bar = ProgressBar::new(n_requests);
        let template = "{elapsed_precise} [{bar:30}] {pos}/{len} requests, {eta} left: {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    fn describe(&self, cell: &Cell<'_>, policy: &registry::Config, what: &str) {
        let Cell { load: Load { name, .. }, concurrency } = cell;
        self.bar.set_message(format!("{name}, C={concurrency}, {policy}, {what}"));
    }
}

impl Observer for &Progress {
    fn answered(&mut self, _request_idx: usize, _choices: &[Choice]) {
        self.bar.inc(1);
    }
}

fn settings(args: &BenchArgs) -> Settings {
    Settings {
        command: command_line(std::env::args()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_tokens: args.max_tokens.get(),
        ignore_eos: !args.stop_at_eos,
        seed: args.seed,
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
        ("summary.md", report::summary(record)),
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
        false => write!(out, "{}", report::summary(record))?,
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

    #[test]
    fn temperatures_are_recorded_as_typed() {
        assert_eq!(shortest(0.7), 0.7);
        assert_eq!(shortest(0.0), 0.0);
    }

    #[test]
    fn a_mix_needs_files() {
        assert!(read_workloads(&["mix".to_owned()]).is_err());
        let workloads = read_workloads(&["demo".to_owned(), "mix".to_owned()]).ok().unwrap();
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(names, ["demo", "mix"]);
    }

    #[test]
    fn a_load_repeats_its_lines_with_further_seeds() {
        let distinct = [7, 8].map(|token| Request::new(vec![token], Params::greedy(), 1)).to_vec();
        let load = Load { name: "two".to_owned(), distinct, n_requests: 3, seed: 5 };
        let requests: Vec<_> =
            load.requests().map(|request| (request.prompt[0], request.params.seed)).collect();
        assert_eq!(requests, [(7, 5), (8, 6), (7, 7)]);
    }
}
