//! `dsde inspect --drafters`: which drafters fit a model, what their guesses cost on this machine, and what they bring.

use std::io::{self, Write as _};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsde_bench::load::{Observer, closed_loop};
use dsde_bench::report::{Table, percent};
use dsde_checkpoint::gguf::is_later_part;
use dsde_checkpoint::gguf_file;
use dsde_engine::{Request, StepReport};
use dsde_policy::Policy;
use dsde_sampling::{Params, Rule};
use serde::Serialize;

use crate::args::ModelArgs;
use crate::failure::{Outcome, usage};
use crate::opened::{Opened, Role, has_own_head};
use crate::samples;
use crate::session::{Form, Models, Session, Wish};
use crate::speculation::{Draft, known_policy};
use crate::stores::bytes;

/// Policy under which acceptance and costs are told: every drafter guesses as much.
const PROBE: &str = "fixed:k=3";
/// Built-in prompts that are answered, two of each kind.
const N_PROMPTS: usize = 6;
/// Tokens of an answer.
const ANSWER_TOKENS: u32 = 48;
/// Times that plain decoding and `auto` are compared, in turns.
const N_ROUNDS: usize = 3;

/// What was found out about one drafter.
#[derive(Serialize)]
struct Drafter {
    /// As for `--draft`.
    draft: String,
    /// Bytes of its weights in memory.
    weight_bytes: usize,
    /// Why it cannot draft for the model.
    misfit: Option<String>,
    measured: Option<Measured>,
}

/// One request at a time, greedy.
#[derive(Serialize)]
struct Measured {
    /// Guesses per step under [`PROBE`].
    drafted_per_step: f64,
    /// Of these, kept.
    accepted_per_step: f64,
    /// Time to draft one token, ms, reading what it has not read included.
    guess_ms: f64,
    /// The same, of a plain step's time.
    guess_share: f64,
    /// Tokens/s under `auto` over those of plain decoding, one per round.
    auto_over_plain: Vec<f64>,
}

/// Prints what there is to know of `suffix`, the model's own head, and all models and heads in `folder`.
///
/// # Errors
/// If `folder` cannot be read, or the model cannot run.
pub(crate) fn run(folder: &Path, args: &ModelArgs, as_json: bool) -> Outcome {
    let models = Models::new(&with_draft(Draft::None.to_string(), args))?;
    let target = Opened::new(&models.target, Role::Target)?;
    let form = if target.chat_template().is_ok() { Form::Chat } else { Form::Raw };
    let mut names = vec![Draft::Suffix { answer_tokens: 0 }.to_string()];
    if has_own_head(&models.target) {
        names.push(Draft::Mtp.to_string());
    }
    for path in found(folder)? {
        let name = path.to_str().ok_or_else(|| usage(format!("{} is no UTF-8", path.display())))?;
        names.push(name.to_owned());
    }
    let mut drafters = Vec::new();
    for name in names {
        // Loading and answering take a while.
        let _ = writeln!(io::stderr(), "{name} ...");
        drafters.push(tried(name, form, args)?);
    }
    let mut out = io::stdout().lock();
    match as_json {
        true => writeln!(out, "{}", serde_json::to_string(&drafters)?)?,
        false => write!(out, "{}", page(&drafters))?,
    }
    Ok(())
}

fn with_draft(draft: String, args: &ModelArgs) -> ModelArgs {
    ModelArgs { draft: Some(draft), ..args.clone() }
}

/// Model folders and GGUF files in a folder, in the order of their names.
fn found(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let unreadable = |error| usage(format!("--drafters {}: {error}", folder.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_part = path.file_name().is_some_and(|name| is_later_part(&name.to_string_lossy()));
        if path.join("config.json").is_file() || (!is_part && matches!(gguf_file(&path), Ok(Some(_)))) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Loads a drafter beside the model and lets it draft, if it fits.
///
/// # Errors
/// If the model itself cannot run, or a pass fails.
fn tried(name: String, form: Form, args: &ModelArgs) -> Outcome<Drafter> {
    let models = Models::new(&with_draft(name.clone(), args))?;
    let wish = Wish {
        policy: known_policy(PROBE),
        rule: Rule::default(),
        form,
        n_sequences: NonZeroU32::MIN,
        prefix_cache: false,
        draws: 0,
    };
    match Session::open(&models, &wish) {
        Ok(mut session) => {
            let weight_bytes = session.memory.draft_weight_bytes;
            Ok(Drafter { draft: name, weight_bytes, misfit: None, measured: Some(measured(&mut session)?) })
        }
        // Without a model to load, what fails is the target.
        Err(failure) if matches!(models.draft, Draft::Model(_)) => {
            Ok(Drafter { draft: name, weight_bytes: 0, misfit: Some(failure.line()), measured: None })
        }
        Err(failure) => Err(failure),
    }
}

fn measured(session: &mut Session) -> Outcome<Measured> {
    let requests = requests(session)?;
    let [probe, mut off, auto] = [PROBE, "off", "auto"].map(|name| session.policy(&known_policy(name)));
    let (probe, _) = served(session, &requests, probe)?;
    // What `auto` learns it keeps, as in a server.
    let (_, mut auto) = served(session, &requests, auto)?;
    let (mut plain, mut auto_over_plain) = (Sums::default(), Vec::new());
    for _ in 0..N_ROUNDS {
        let (without, with);
        (without, off) = served(session, &requests, off)?;
        (with, auto) = served(session, &requests, auto)?;
        auto_over_plain.push(with.tokens_per_s() / without.tokens_per_s());
        plain.add(&without);
    }
    let guess = probe.draft_time.div_f64(f64::from(probe.drafted.max(1)));
    Ok(Measured {
        drafted_per_step: f64::from(probe.drafted) / f64::from(probe.steps.max(1)),
        accepted_per_step: f64::from(probe.accepted) / f64::from(probe.steps.max(1)),
        guess_ms: guess.as_secs_f64() * 1e3,
        guess_share: guess.as_secs_f64() / plain.time.div_f64(f64::from(plain.steps.max(1))).as_secs_f64(),
        auto_over_plain,
    })
}

/// Serves the requests under a policy, which is given back with what it learnt.
fn served(
    session: &mut Session,
    requests: &[Request],
    policy: Box<dyn Policy>,
) -> Outcome<(Sums, Box<dyn Policy>)> {
    let mut sums = Sums::default();
    let other = session.engine.set_policy(policy);
    closed_loop(&mut session.engine, requests.iter().cloned(), NonZeroUsize::MIN, &mut sums)?;
    Ok((sums, session.engine.set_policy(other)))
}

fn requests(session: &Session) -> Outcome<Vec<Request>> {
    let workload = samples::workload();
    let request = |item: &dsde_bench::Item| {
        let prompt = session.encode(&item.prompt)?;
        Ok(Request::new(prompt, Params::greedy(), ANSWER_TOKENS))
    };
    workload.items.iter().take(N_PROMPTS).map(request).collect()
}

/// Sums over the steps that read no prompt.
#[derive(Default)]
struct Sums {
    steps: u32,
    drafted: u32,
    accepted: u32,
    emitted: u32,
    draft_time: Duration,
    time: Duration,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.emitted += other.emitted;
        self.draft_time += other.draft_time;
        self.time += other.time;
    }

    fn tokens_per_s(&self) -> f64 {
        f64::from(self.emitted) / self.time.as_secs_f64()
    }
}

impl Observer for Sums {
    fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
        if report.prefill_rows == 0 {
            self.add(&Self {
                steps: 1,
                drafted: report.drafted,
                accepted: report.accepted,
                emitted: report.emitted,
                draft_time: report.draft_time,
                time: report.step_time,
            });
        }
        ControlFlow::Continue(())
    }
}

fn page(drafters: &[Drafter]) -> String {
    let mut table = Table::new(&[
        "--draft",
        "weights",
        "drafted/step",
        "accepted/step",
        "ms/guess",
        "of a plain step",
        "auto x plain",
        "range",
    ]);
    for Drafter { draft, weight_bytes, measured, .. } in drafters {
        let Some(measured) = measured else { continue };
        let rounds = &measured.auto_over_plain;
        let bound = |fold: fn(f64, f64) -> f64| rounds.iter().copied().reduce(fold).unwrap_or(f64::NAN);
        table.push(vec![
            draft.clone(),
            if *weight_bytes == 0 { "none".to_owned() } else { bytes(*weight_bytes) },
            format!("{:.2}", measured.drafted_per_step),
            format!("{:.2}", measured.accepted_per_step),
            format!("{:.2}", measured.guess_ms),
            percent(Some(measured.guess_share)),
            format!("{:.2}", rounds.iter().sum::<f64>() / rounds.len() as f64),
            format!("{:.2} to {:.2}", bound(f64::min), bound(f64::max)),
        ]);
    }
    let mut page = format!(
        "{N_PROMPTS} built-in prompts, one at a time, greedy, {ANSWER_TOKENS} tokens each. Guesses under {PROBE}; `auto` against plain \
         decoding in {N_ROUNDS} rounds.\n\n{}",
        table.markdown()
    );
    for Drafter { draft, misfit, .. } in drafters {
        if let Some(misfit) = misfit {
            page += &format!("\n{draft}: {misfit}\n");
        }
    }
    page
}
