//! `dsde inspect`: what a model is, what it costs, and whether a draft fits it.

mod head;
mod model;
mod parameters;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use dsde_kernels::Backend as _;
use dsde_model::executor::Checkpoints;
use dsde_sampling::Rule;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::blur::{self, BlurArgs};
use crate::drafters;
use crate::failure::Outcome;
use crate::inflate::{self, InflateArgs};
use crate::machine;
use crate::models::Models;
use crate::opened::{Opened, OpenedDraft, Role};
use crate::perplexity::{self, PerplexityArgs};
use crate::speculation::Draft;
use crate::stores::{Stores, bytes};
use head::Head;
use model::Model;

const EXAMPLES: &str = "\
Examples:
  dsde inspect
  dsde inspect --model ./Qwen3-1.7B --draft ./Qwen3-0.6B
  dsde inspect --model ./Qwen3-1.7B-Q4_K_M.gguf --json
  dsde inspect --model ./Qwen3-1.7B-Q4_K_M.gguf --drafters ./models
  dsde inspect perplexity --model ./Qwen3-1.7B-Q4_K_M.gguf text.txt";

/// Tell what a model is, what memory it takes and whether a draft fits it
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true, args_conflicts_with_subcommands = true)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    command: Option<Command>,

    /// Try every drafter there is for the model: `suffix`, its own head, and the models and heads in this folder. Tells which
    /// fit, how many guesses are kept, what a guess costs on this machine, and how fast `auto` is with it beside plain decoding.
    /// Each takes the time of loading the model and of some two thousand tokens; nothing else should run meanwhile.
    #[arg(long, value_name = "DIR", conflicts_with = "draft")]
    drafters: Option<PathBuf>,

    /// Print one JSON object; with --drafters, a list.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    Perplexity(PerplexityArgs),
    Inflate(InflateArgs),
    Blur(BlurArgs),
}

#[derive(Serialize)]
struct Inspection {
    model: Model,
    draft: DraftFit,
    kv: Kv,
    /// Kernels and threads.
    backend: String,
}

#[derive(Serialize)]
struct DraftFit {
    source: String,
    /// Absent for heads, `suffix` and `none`.
    model: Option<Model>,
    /// Of a head.
    head: Option<Head>,
    /// Of a model with another vocabulary that shares some of the model's tokens.
    shared_tokens: Option<usize>,
    compatible: bool,
    /// Why it does not fit.
    reason: Option<String>,
}

/// Stores of target and draft together.
#[derive(Serialize)]
struct Kv {
    block_len: u32,
    blocks: u32,
    block_bytes: usize,
    bytes: u64,
    /// Longest sequence served.
    context_len_max: u32,
}

/// Runs the command.
pub(crate) fn run(args: InspectArgs) -> Outcome {
    match args.command {
        Some(Command::Perplexity(args)) => return perplexity::run(&args),
        Some(Command::Inflate(args)) => return inflate::run(args),
        Some(Command::Blur(args)) => return blur::run(&args),
        None => {}
    }
    if let Some(folder) = &args.drafters {
        return drafters::run(folder, &args.model, args.json);
    }
    let models = Models::new(&args.model)?;
    let inspection = inspect(&models)?;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&inspection)?)?,
        false => print(&mut out, &inspection)?,
    }
    Ok(())
}

fn inspect(models: &Models) -> Outcome<Inspection> {
    let target = Opened::new(&models.target, Role::Target)?;
    let drafter = models.draft_for(&target);
    let draft = OpenedDraft::new(&drafter, &target)?;
    let fit = draft.as_ref().map(|draft| target.fit(draft)).transpose();
    let translation = fit.as_ref().ok().and_then(|fit| fit.as_ref()?.as_ref());
    let backend = models.backend();
    let fitting = draft.as_ref().filter(|_| fit.is_ok());
    let checkpoints =
        Checkpoints { target: &target.checkpoint, draft: fitting.map(|draft| draft.checkpoint(translation)) };
    let memory_bytes = machine::memory_bytes_usable();
    let stores = Stores::plan(
        models.asked(Rule::default(), dsde_engine::Config::default().sequences_max),
        &backend,
        checkpoints,
        memory_bytes,
    )?;
    let (mut draft_model, mut head) = (None, None);
    match (&drafter, &draft) {
        (Draft::Model(source), Some(OpenedDraft::Model(draft))) => {
            draft_model = Some(Model::new(source, draft, &backend));
        }
        (_, Some(OpenedDraft::Eagle3(draft))) => head = Some(Head::of_eagle3(draft, &target, &backend)),
        (_, Some(OpenedDraft::Mtp(draft))) => head = Some(Head::of_mtp(draft, &target, &backend)),
        (_, Some(OpenedDraft::Assistant(draft))) => head = Some(Head::of_assistant(draft, &target, &backend)),
        _ => {}
    }
    Ok(Inspection {
        model: Model::new(&models.target, &target, &backend),
        draft: DraftFit {
            source: drafter.to_string(),
            model: draft_model,
            head,
            shared_tokens: translation.map(|translation| translation.n_shared()),
            compatible: fit.is_ok(),
            reason: fit.as_ref().err().map(|error| error.to_string()),
        },
        kv: Kv {
            block_len: stores.shape.block_len,
            blocks: stores.shape.n_blocks,
            block_bytes: stores.block_bytes,
            bytes: stores.kv_bytes(),
            context_len_max: stores.shape.context_len_max,
        },
        backend: backend.describe(),
    })
}

fn print(out: &mut impl Write, inspection: &Inspection) -> io::Result<()> {
    let Inspection { model, draft, kv, backend } = inspection;
    writeln!(out, "model {}", model.source)?;
    model.print(out)?;
    writeln!(out, "\ndraft {}", draft.source)?;
    if let Some(model) = &draft.model {
        model.print(out)?;
    }
    if let Some(head) = &draft.head {
        head.print(out)?;
    }
    if let (Some(n_shared), Some(own)) = (draft.shared_tokens, &draft.model) {
        let share = |of: usize| 100.0 * n_shared as f64 / of as f64;
        writeln!(
            out,
            "  another vocabulary, with {n_shared} of the model's tokens: {:.0} % of them, {:.0} % of its own",
            share(model.vocab_len),
            share(own.vocab_len)
        )?;
    }
    match &draft.reason {
        None => writeln!(out, "  fits the model")?,
        Some(reason) => writeln!(out, "  does not fit the model: {reason}")?,
    }
    writeln!(out, "\nkey/value stores")?;
    writeln!(
        out,
        "  {} blocks of {} tokens, {} each, {} in all",
        kv.blocks,
        kv.block_len,
        bytes(kv.block_bytes),
        bytes(kv.bytes as usize)
    )?;
    writeln!(out, "  sequences of at most {} tokens", kv.context_len_max)?;
    writeln!(out, "\nkernels\n  {backend}")
}
