//! `dsde demo`: shows speculation at work on the embedded pair.

use std::io::{self, IsTerminal as _, Write};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use clap::Args;
use dsde_bench::load::{Choice, Observer, closed_loop};
use dsde_bench::metrics;
use dsde_bench::report::{self, Table};
use dsde_bench::{Conditions, Prompt, Row, Run, Seen};
use dsde_engine::{Emission, Origin, Request, RequestTimeline, StepReport};
use dsde_policy::{Policy, registry};
use dsde_sampling::{Params, Rule};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{ModelArgs, THREADS_MAX, positive_up_to};
use crate::commands::wants_colour;
use crate::failure::Outcome;
use crate::models::Models;
use crate::samples;
use crate::session::{Form, Session, Wish};
use crate::speculation::known_policy;

/// Compared policies; the first one is the reference.
const POLICIES: [&str; 4] = ["off", "auto", "fixed:k=4", "dsde"];
/// Most tokens per prompt.
const TOKENS_MAX: u32 = 64;
/// Measured runs per policy, as far as the time allows.
const REPEATS_MAX: usize = 3;
/// No further repeat begins after this: nobody waits for a demo.
const TIME_MAX: Duration = Duration::from_secs(7);
/// Prompts that are also served one at a time: two of each kind.
const N_ALONE: usize = 6;
/// Prompts whose completions are shown.
const SHOWN: [usize; 2] = [1, 8];

const HINTS: &str = "\
Try next:
  dsde generate --prompt 'Tell me about the sea.'     one answer
  dsde chat                                           a conversation
  dsde bench --concurrency 1,4,16                     the same comparison at several loads
  dsde chat --model FILE.gguf                         a real model; or a folder from Hugging Face
";

/// Show speculation at work; nothing to set up
///
/// Serves 16 built-in prompts on the small pair inside this program, one at a time and all at once, checks that plain and
/// speculative decoding give the same output, and compares their speed on this machine.
#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub(crate) struct DemoArgs {
    /// Threads that compute. Default: all logical cores.
    #[arg(long, value_name = "N", value_parser = positive_up_to(THREADS_MAX))]
    threads: Option<NonZeroU32>,
}

/// Everything that was measured for one policy at one load.
struct Measured {
    policy: registry::Config,
    /// What it learnt at this load, while it does not serve.
    learnt: Option<Box<dyn Policy>>,
    concurrency: NonZeroUsize,
    /// Of the last run.
    choices: Vec<Choice>,
    /// One per run.
    runs: Vec<Vec<RequestTimeline>>,
}

impl Measured {
    /// Serves `requests`.
    fn serve(&mut self, session: &mut Session, requests: &[Request], observer: &mut dyn Observer) -> Outcome {
        let other = self.learnt.take().map(|own| session.engine.set_policy(own));
        let choices = closed_loop(&mut session.engine, requests.iter().cloned(), self.concurrency, observer)?;
        self.choices = choices.into_iter().flatten().collect();
        self.learnt = other.map(|other| session.engine.set_policy(other));
        Ok(())
    }
}

/// Runs the command.
pub(crate) fn run(args: DemoArgs) -> Outcome {
    let models = Models::new(&ModelArgs::demo(args.threads))?;
    let workload = samples::workload();
    let n_prompts = NonZeroU32::try_from(u32::try_from(workload.items.len())?)?;
    let wish = Wish {
        policy: known_policy(POLICIES[0]),
        rule: Rule::default(),
        form: Form::Chat,
        n_sequences: n_prompts,
        prefix_cache: false,
        draws: 0,
    };
    let mut session = Session::open(&models, &wish)?;
    let request = |item: &dsde_bench::Item| {
        let prompt = session.encode(&item.prompt)?;
        let mut request = Request::new(prompt, Params::greedy(), TOKENS_MAX);
        request.stop.tokens = session.eos_tokens().to_vec();
        Ok(request)
    };
    let requests: Vec<Request> = workload.items.iter().map(request).collect::<Outcome<_>>()?;
    let mut out = io::stdout().lock();
    head(&mut out, &session, &requests)?;
    let measured = measure(&mut session, &requests)?;
    check_identical(&measured)?;
    let n_tokens: usize = measured[0].choices.iter().map(|choice| choice.tokens.len()).sum();
    writeln!(
        out,
        "Output check: all {n_tokens} tokens are the same under {}, at both loads.\n",
        POLICIES.join(", ")
    )?;
    write!(out, "{}", table(&measured)?.markdown())?;
    let last = &measured[POLICIES.len() - 1];
    let colour = Colour::detect();
    writeln!(out, "\nTwo of the completions under {}, {}:", last.policy, colour.legend())?;
    for i in SHOWN {
        let Prompt::Text(prompt) = &workload.items[i].prompt else {
            continue;
        };
        writeln!(out, "\n  {}", indented(prompt.trim_end()))?;
        writeln!(out, "  -> {}", indented(&marked(&session, &last.choices[i], colour)))?;
    }
    writeln!(
        out,
        "\nThe pair is a toy in content; that its draft and target agree more on some texts than on others is real."
    )?;
    write!(out, "\n{HINTS}")?;
    Ok(())
}

fn head(out: &mut impl Write, session: &Session, requests: &[Request]) -> io::Result<()> {
    let machine = session.machine();
    writeln!(
        out,
        "{} prompts at once, and {N_ALONE} of them one at a time; at most {TOKENS_MAX} tokens each, greedy, on the embedded \
         pair.\nEvery policy warms up and keeps what it learnt.",
        requests.len()
    )?;
    writeln!(out, "{}, {} logical cores; {}\n", machine.cpu, machine.cores, machine.backend)?;
    out.flush()
}

/// All requests at once, then some of them one at a time.
fn measure(session: &mut Session, requests: &[Request]) -> Outcome<Vec<Measured>> {
    let at_once = NonZeroUsize::new(requests.len()).unwrap_or(NonZeroUsize::MIN);
    let alone = &requests[..N_ALONE.min(requests.len())];
    let mut live = Live::new();
    let mut measured = measure_at(session, requests, at_once, &mut live)?;
    measured.extend(measure_at(session, alone, NonZeroUsize::MIN, &mut live)?);
    live.bar.finish_and_clear();
    Ok(measured)
}

/// One warm-up per policy, then repeats in rotating order. Policies keep what they learnt, as they do in a server.
fn measure_at(
    session: &mut Session,
    requests: &[Request],
    concurrency: NonZeroUsize,
    live: &mut Live,
) -> Outcome<Vec<Measured>> {
    let start = Instant::now();
    let mut measured = Vec::new();
    for policy in POLICIES.map(known_policy) {
        let learnt = Some(session.policy(&policy));
        let mut warmed_up = Measured { policy, learnt, concurrency, choices: Vec::new(), runs: Vec::new() };
        live.begin(&warmed_up.policy, &format!("{concurrency} in flight, warm-up"));
        warmed_up.serve(session, requests, live)?;
        measured.push(warmed_up);
    }
    for repeat in 0..REPEATS_MAX {
        for turn in 0..POLICIES.len() {
            let measured = &mut measured[(repeat + turn) % POLICIES.len()];
            live.begin(&measured.policy, &format!("{concurrency} in flight, run {}", repeat + 1));
            measured.serve(session, requests, live)?;
            measured.runs.push(measured.choices.iter().map(|choice| choice.timeline).collect());
        }
        if start.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(measured)
}

/// Fails unless every policy emitted the same tokens.
fn check_identical(measured: &[Measured]) -> Outcome {
    let tokens = |measured: &Measured| -> Vec<Vec<u32>> {
        let tokens = |choice: &Choice| choice.tokens.iter().map(|emitted| emitted.token).collect();
        measured.choices.iter().map(tokens).collect()
    };
    let reference = tokens(&measured[0]);
    for other in &measured[1..] {
        if let Some(i) = tokens(other).iter().zip(&reference).position(|(got, expected)| got != expected) {
            let (off, policy) = (&measured[0].policy, &other.policy);
            return Err(anyhow::anyhow!("prompt {i} has different output under {off} and {policy}").into());
        }
    }
    Ok(())
}

fn table(measured: &[Measured]) -> Outcome<Table> {
    let row = |measured: &Measured| {
        let conditions = Conditions {
            policy: measured.policy.to_string(),
            workload: samples::NAME.to_owned(),
            concurrency: u32::try_from(measured.concurrency.get())?,
            temperature: 0.0,
            segment: None,
        };
        let repeat = |timelines: &Vec<RequestTimeline>| {
            let seen = Seen { timelines: timelines.clone(), ..Seen::default() };
            Some((Run::closed(conditions.clone(), 0, &seen)?, seen))
        };
        let repeats: Vec<(Run, Seen)> = measured.runs.iter().filter_map(repeat).collect();
        Ok(Row::new(&repeats).ok_or_else(|| anyhow::anyhow!("the runs took no measurable time"))?)
    };
    let rows: Vec<Row> = measured.iter().map(row).collect::<Outcome<_>>()?;
    let mut table = Table::new(&[
        "policy",
        "in flight",
        "tokens/s",
        "sd",
        "runs",
        "x off",
        "drafts accepted",
        "emitted/step",
    ]);
    for row in &rows {
        table.push(vec![
            row.conditions.policy.clone(),
            row.conditions.concurrency.to_string(),
            format!("{:.0}", row.tokens_per_s.mean),
            format!("{:.0}", row.tokens_per_s.sd),
            row.tokens_per_s.n.to_string(),
            report::ratio(report::ratio_to_off(&rows, row)),
            report::percent(row.acceptance_rate),
            format!("{:.2}", row.emitted_per_step.unwrap_or(0.0)),
        ]);
    }
    Ok(table)
}

/// How accepted tokens stand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Green,
    Brackets,
}

impl Colour {
    /// Green on a terminal where colour is wanted, else brackets.
    fn detect() -> Self {
        match io::stdout().is_terminal() && wants_colour() {
            true => Self::Green,
            false => Self::Brackets,
        }
    }

    fn legend(self) -> &'static str {
        match self {
            Self::Green => "accepted drafts in green",
            Self::Brackets => "accepted drafts in [brackets]",
        }
    }

    fn mark(self, text: &str) -> String {
        match self {
            Self::Green => format!("\x1b[32m{text}\x1b[0m"),
            Self::Brackets => format!("[{text}]"),
        }
    }
}

/// The text of a choice, runs of accepted drafts marked.
fn marked(session: &Session, choice: &Choice, colour: Colour) -> String {
    let runs = choice.tokens.chunk_by(|a, b| is_draft(a.origin) == is_draft(b.origin));
    let mut text = String::new();
    for run in runs {
        let bytes: Vec<u8> =
            run.iter().flat_map(|emitted| session.token_bytes(emitted.token)).copied().collect();
        let part = String::from_utf8_lossy(&bytes);
        match is_draft(run[0].origin) && !part.is_empty() {
            true => text += &colour.mark(&part),
            false => text += &part,
        }
    }
    text
}

fn is_draft(origin: Origin) -> bool {
    origin == Origin::Accepted
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n     ")
}

/// A line on stderr that tells what runs; nothing where stderr is not a terminal.
struct Live {
    bar: ProgressBar,
    title: String,
    n_tokens: usize,
    start: Instant,
    /// When the line was last written.
    described: Instant,
    /// Text of the first prompt so far.
    text: Vec<u8>,
}

impl Live {
    /// Characters of text shown.
    const TEXT_WIDTH: usize = 48;
    /// Time between two descriptions.
    const PERIOD: Duration = Duration::from_millis(50);

    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            title: String::new(),
            n_tokens: 0,
            start: Instant::now(),
            described: Instant::now(),
            text: Vec::new(),
        }
    }

    fn begin(&mut self, policy: &registry::Config, what: &str) {
        self.title = format!("{policy}, {what}");
        self.n_tokens = 0;
        self.start = Instant::now();
        self.text.clear();
    }

    fn text_tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.text).replace(char::is_control, " ");
        let n_chars = text.chars().count();
        text.chars().skip(n_chars.saturating_sub(Self::TEXT_WIDTH)).collect()
    }
}

impl Observer for Live {
    fn emitted(&mut self, request_idx: usize, emission: &Emission) {
        self.n_tokens += emission.tokens.len();
        if request_idx == 0 {
            self.text.extend_from_slice(&emission.text);
        }
    }

    fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
        // Describing every step would be part of what is measured.
        if self.bar.is_hidden() || self.described.elapsed() < Self::PERIOD {
            return ControlFlow::Continue(());
        }
        self.described = Instant::now();
        let seconds = metrics::milliseconds(self.start.elapsed()) / 1e3;
        let rate = self.n_tokens as f64 / seconds.max(1e-3);
        self.bar.set_message(format!(
            "{}: {} running, {rate:.0} tokens/s | {}",
            self.title,
            report.n_seqs,
            self.text_tail()
        ));
        self.bar.tick();
        ControlFlow::Continue(())
    }
}
