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
use dsde_model::executor::MemoryUse;
use dsde_policy::Policy;
use dsde_sampling::{Params, Rule};
use serde::Serialize;

use crate::args::ModelArgs;
use crate::failure::{Outcome, usage};
use crate::models::Models;
use crate::opened::{Opened, Role};
use crate::samples;
use crate::session::{Form, Session, Wish};
use crate::speculation::{Draft, Source, known_policy};
use crate::stores::bytes;

/// Policy under which acceptance and costs are told: every drafter guesses as much.
const PROBE: &str = "fixed:k=3";
/// As for `--draft`.
const REPETITIONS: &str = "suffix";
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
    /// Bytes of its weights in memory, where it was measured.
    weight_bytes: Option<usize>,
    /// Why it cannot draft for the model.
    misfit: Option<String>,
    measured: Option<Measured>,
}

impl Drafter {
    /// The gain, or what is wrong.
    fn in_short(&self) -> String {
        match (&self.measured, &self.misfit) {
            (Some(measured), _) => format!("{:.2} times plain decoding", measured.mean()),
            (None, Some(misfit)) => misfit.clone(),
            (None, None) => unreachable!("a drafter is measured or does not fit"),
        }
    }
}

/// One request at a time, greedy.
#[derive(Serialize)]
struct Measured {
    /// Guesses per step under [`PROBE`].
    drafted_per_step: f64,
    /// Of these, kept.
    accepted_per_step: f64,
    /// Time to draft one token, ms, reading accepted ones included; without the first step of an answer, in which a draft reads the
    /// prompt.
    guess_ms: f64,
    /// The same, of a plain step's time.
    guess_share: f64,
    /// Tokens/s under `auto` over those of plain decoding, one per round.
    auto_over_plain: [f64; N_ROUNDS],
}

impl Measured {
    /// Tokens/s under `auto` over those of plain decoding.
    fn mean(&self) -> f64 {
        self.auto_over_plain.iter().sum::<f64>() / N_ROUNDS as f64
    }
}

/// Prints what there is to know of `suffix`, the model's own head or the embedded draft, and all models and heads in `folder`.
///
/// # Errors
/// If `folder` cannot be read or has no models, or the model cannot run.
pub(crate) fn run(folder: &Path, args: &ModelArgs, as_json: bool) -> Outcome {
    let models = Models::new(&with_draft(Draft::None.to_string(), args))?;
    let target = Opened::new(&models.target, Role::Target)?;
    let form = if target.chat_template().is_ok() { Form::Chat } else { Form::Raw };
    let mut drafters = Vec::new();
    for name in candidates(folder, &models.target, &target)? {
        // Loading and answering take a while, and what is known is not lost if they are ended. Whole lines, as there may be warnings.
        let _ = writeln!(io::stderr(), "{name} ...");
        let drafter = tried(name, form, args);
        let _ = writeln!(io::stderr(), "{}: {}", drafter.draft, drafter.in_short());
        if let (REPETITIONS, Some(why)) = (drafter.draft.as_str(), &drafter.misfit) {
            return Err(anyhow::anyhow!("the model cannot run: {why}").into());
        }
        drafters.push(drafter);
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

/// What is tried, as for `--draft`.
///
/// # Errors
/// If the folder cannot be read, holds nothing that could draft, or a name in it is no UTF-8.
fn candidates(folder: &Path, source: &Source, target: &Opened) -> Outcome<Vec<String>> {
    let mut names = vec![REPETITIONS.to_owned()];
    match source {
        Source::Demo => names.push(Source::Demo.to_string()),
        Source::Path(_) if target.checkpoint.has_mtp() => names.push(Draft::Mtp.to_string()),
        Source::Path(_) => {}
    }
    let own = match source {
        Source::Demo => None,
        Source::Path(path) => path.canonicalize().ok(),
    };
    let found = found(folder)?;
    if found.is_empty() {
        let why = "has no model folders and GGUF files; give the folder that they are in";
        return Err(usage(format!("--drafters {}: {why}", folder.display())));
    }
    for path in found.into_iter().filter(|path| own.is_none() || path.canonicalize().ok() != own) {
        let name = path.to_str().ok_or_else(|| usage(format!("{} is no UTF-8", path.display())))?;
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Model folders and GGUF files in a folder, in the order of their names.
fn found(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let unreadable = |error| usage(format!("--drafters {}: {error}", folder.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_part = path.file_name().is_some_and(|name| is_later_part(&name.to_string_lossy()));
        // A folder of several files is told of when it is opened.
        let is_model = || path.join("config.json").is_file() || !matches!(gguf_file(&path), Ok(None));
        if !is_part && is_model() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Loads a drafter beside the model and lets it draft, if it fits.
fn tried(name: String, form: Form, args: &ModelArgs) -> Drafter {
    let open = || {
        let models = Models::new(&with_draft(name.clone(), args))?;
        let wish = Wish {
            policy: known_policy(PROBE),
            rule: Rule::default(),
            form,
            n_sequences: NonZeroU32::MIN,
            prefix_cache: false,
            draws: 0,
        };
        let mut session = Session::open(&models, &wish)?;
        let MemoryUse { draft_weight_bytes, target_weight_bytes, .. } = session.memory;
        if draft_weight_bytes > target_weight_bytes {
            let [draft, target] = [draft_weight_bytes, target_weight_bytes].map(bytes);
            return Err(usage(format!(
                "its weights take {draft}, those of the model {target}: it would only slow it down"
            )));
        }
        Ok((draft_weight_bytes, measured(&mut session)?))
    };
    match open() {
        Ok((weight_bytes, measured)) => {
            Drafter { draft: name, weight_bytes: Some(weight_bytes), misfit: None, measured: Some(measured) }
        }
        Err(failure) => {
            Drafter { draft: name, weight_bytes: None, misfit: Some(failure.line()), measured: None }
        }
    }
}

fn measured(session: &mut Session) -> Outcome<Measured> {
    let requests = requests(session)?;
    let [probe, mut off, auto] = [PROBE, "off", "auto"].map(|name| session.policy(&known_policy(name)));
    let (probe, _) = served(session, &requests, probe)?;
    // What `auto` learns it keeps, as in a server.
    let (_, mut auto) = served(session, &requests, auto)?;
    let (mut plain, mut auto_over_plain) = (Sums::default(), [0.0; N_ROUNDS]);
    for round in &mut auto_over_plain {
        let (without, with);
        (without, off) = served(session, &requests, off)?;
        (with, auto) = served(session, &requests, auto)?;
        *round = with.tokens_per_s() / without.tokens_per_s();
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

/// Sums over the steps behind the first two of every answer, which read its prompt: the target in one, a draft in the other.
#[derive(Default)]
struct Sums {
    is_first: bool,
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
        if report.prefill_rows > 0 {
            self.is_first = true;
        } else if !std::mem::take(&mut self.is_first) {
            self.add(&Self {
                is_first: false,
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
        let (Some(weight_bytes), Some(measured)) = (weight_bytes, measured) else { continue };
        let rounds = &measured.auto_over_plain;
        let bound = |fold: fn(f64, f64) -> f64| rounds.iter().copied().fold(rounds[0], fold);
        table.push(vec![
            draft.clone(),
            if *weight_bytes == 0 { "none".to_owned() } else { bytes(*weight_bytes) },
            format!("{:.2}", measured.drafted_per_step),
            format!("{:.2}", measured.accepted_per_step),
            format!("{:.2}", measured.guess_ms),
            percent(Some(measured.guess_share)),
            format!("{:.2}", measured.mean()),
            format!("{:.2} to {:.2}", bound(f64::min), bound(f64::max)),
        ]);
    }
    let mut page = format!(
        "{N_PROMPTS} built-in prompts, one at a time, greedy, {ANSWER_TOKENS} tokens each. Guesses under {PROBE}; `auto` against plain \
         decoding in {N_ROUNDS} rounds, which continues what repeats too, whoever drafts: a draft is worth what it adds to `suffix`.\n\n{}",
        table.markdown()
    );
    for Drafter { draft, misfit, .. } in drafters {
        if let Some(misfit) = misfit {
            page += &format!("\n{draft}: {misfit}\n");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_row_for_what_was_measured_and_a_line_for_what_does_not_fit() {
        let measured = Measured {
            drafted_per_step: 2.5,
            accepted_per_step: 1.25,
            guess_ms: 0.5,
            guess_share: 0.05,
            auto_over_plain: [1.2, 1.3, 1.4],
        };
        let fits = Drafter {
            draft: "head".to_owned(),
            weight_bytes: Some(1 << 20),
            misfit: None,
            measured: Some(measured),
        };
        let misfit = Some("it has states".to_owned());
        let other = Drafter { draft: "hybrid".to_owned(), weight_bytes: None, misfit, measured: None };
        assert_eq!(
            (fits.in_short().as_str(), other.in_short().as_str()),
            ("1.30 times plain decoding", "it has states")
        );
        let page = page(&[fits, other]);
        let row = page.lines().find(|line| line.contains("head")).expect("a row");
        let cells: Vec<&str> = row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["head", "1.0 MiB", "2.50", "1.25", "0.50", "5.0 %", "1.30", "1.20 to 1.40"]);
        assert!(page.ends_with("\nhybrid: it has states\n"), "{page}");
    }
}
