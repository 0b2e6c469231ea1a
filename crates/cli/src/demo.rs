//! `dsde demo`: shows speculation at work on the embedded pair.

mod live;
mod marks;

use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, Instant};

use clap::Args;
use dsde_bench::load::{Choice, Observer, closed_loop};
use dsde_bench::report::{self, Table};
use dsde_bench::{Conditions, Prompt, Row, Run, Seen};
use dsde_engine::{Request, RequestTimeline};
use dsde_policy::{Policy, registry};
use dsde_sampling::{Params, Rule};

use crate::args::{ModelArgs, THREADS_MAX, positive_up_to};
use crate::failure::Outcome;
use crate::models::Models;
use crate::samples;
use crate::session::{Form, Session, Wish};
use crate::speculation::known_policy;
use live::Live;
use marks::{Colour, marked};

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
/// Serves 16 built-in prompts on the small pair inside this program, all at once and then six of them one at a time, checks that plain
/// and speculative decoding give the same output, and compares their speed on this machine.
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
    live.end();
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
            report::deviation(row.tokens_per_s, 0),
            row.tokens_per_s.n.to_string(),
            report::ratio(report::ratio_to_off(&rows, row)),
            report::percent(row.acceptance_rate),
            format!("{:.2}", row.emitted_per_step.unwrap_or(0.0)),
        ]);
    }
    Ok(table)
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n     ")
}
