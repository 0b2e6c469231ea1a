//! `dsde inspect`: what a model is, what it costs, and whether a draft fits it.

mod head;
mod parameters;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use dsde_checkpoint::config::{KvHeads, ModelConfig, SamplingDefaults};
use dsde_kernels::{Backend as _, Cpu};
use dsde_model::executor::{Checkpoints, block_bytes, state_bytes};
use dsde_sampling::Rule;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::blur::{self, BlurArgs};
use crate::drafters;
use crate::failure::Outcome;
use crate::inflate::{self, InflateArgs};
use crate::machine;
use crate::opened::{Dtypes, Opened, OpenedDraft, Role};
use crate::perplexity::{self, PerplexityArgs};
use crate::sampling::shortest;
use crate::session::Models;
use crate::speculation::{Draft, Source};
use crate::stores::{Stores, bytes};
use head::Head;
use parameters::n_parameters;

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
struct Model {
    source: String,
    architecture: &'static str,
    /// Tensors of every element type, as stored.
    dtypes: Dtypes,
    parameters: u64,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    /// Of a model that has them.
    experts: Option<Experts>,
    /// Layers with a state in place of keys and values.
    delta_layers: usize,
    /// Layers with other key/value heads than the others.
    other_heads: Option<OtherHeads>,
    /// Layers that read the keys and values of others.
    sharing_layers: usize,
    /// Rows of the embedding.
    vocab_len: usize,
    /// Rows of the embedding table, padding included.
    n_embeddings: usize,
    context_len_max: u32,
    eos_tokens: Vec<u32>,
    bos_token: Option<u32>,
    /// What the authors recommend; `null` where they recommend nothing.
    sampling: Sampling,
    tied_embeddings: bool,
    chat_template: bool,
    /// In memory, less the padding of packed matrices.
    weight_bytes: usize,
    kv_bytes_per_token: usize,
    /// Of one sequence.
    state_bytes: usize,
}

#[derive(Clone, Copy, Serialize)]
struct Experts {
    experts: usize,
    /// How many of them a row asks.
    chosen: usize,
    intermediate: usize,
    /// Layers that have them.
    layers: usize,
}

#[derive(Clone, Copy, Serialize)]
struct OtherHeads {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

#[derive(Serialize)]
struct Sampling {
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    #[serde(skip)]
    text: String,
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

impl Model {
    fn new(source: &Source, opened: &Opened, backend: &Cpu) -> Self {
        let config = opened.config();
        let template = opened.chat_template();
        Self {
            source: source.to_string(),
            architecture: config.family.architecture(),
            dtypes: opened.dtypes(),
            parameters: n_parameters(config),
            layers: config.n_layers,
            hidden: config.hidden,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            intermediate: config.intermediate,
            experts: Experts::of(config),
            delta_layers: config.n_delta_layers(),
            other_heads: OtherHeads::of(config),
            sharing_layers: config.layers.iter().filter(|layer| !layer.is_delta && !layer.stores()).count(),
            state_bytes: state_bytes(backend, config),
            vocab_len: config.vocab_len,
            n_embeddings: config.n_embeddings,
            context_len_max: config.context_len_max,
            eos_tokens: opened.eos_tokens(template.as_ref().ok()),
            bos_token: config.bos_token,
            sampling: Sampling::new(&config.sampling),
            tied_embeddings: config.tie_embeddings,
            chat_template: template.is_ok(),
            weight_bytes: opened.checkpoint.weight_bytes(),
            kv_bytes_per_token: block_bytes(backend, config) / backend.block_len(),
        }
    }
}

impl OtherHeads {
    fn of(config: &ModelConfig) -> Option<Self> {
        let layers = config.layers.iter().filter(|layer| layer.kv_heads.is_some()).count();
        let KvHeads { n_kv_heads, head_dim } = config.layers.iter().find_map(|layer| layer.kv_heads)?;
        Some(Self { layers, kv_heads: n_kv_heads, head_dim })
    }
}

impl Experts {
    fn of(config: &ModelConfig) -> Option<Self> {
        let experts = config.experts.as_ref()?;
        let layers = (0..config.n_layers).filter(|&layer| !experts.is_dense(layer)).count();
        let (chosen, intermediate) = (experts.n_chosen, experts.intermediate);
        Some(Self { experts: experts.n_experts, chosen, intermediate, layers })
    }
}

impl Sampling {
    fn new(defaults: &SamplingDefaults) -> Self {
        Self {
            temperature: defaults.temperature.map(shortest),
            top_p: defaults.top_p.map(shortest),
            top_k: defaults.top_k,
            min_p: defaults.min_p.map(shortest),
            repetition_penalty: defaults.repetition_penalty.map(shortest),
            text: defaults.to_string(),
        }
    }
}

fn print(out: &mut impl Write, inspection: &Inspection) -> io::Result<()> {
    let Inspection { model, draft, kv, backend } = inspection;
    writeln!(out, "model {}", model.source)?;
    print_model(out, model)?;
    writeln!(out, "\ndraft {}", draft.source)?;
    if let Some(model) = &draft.model {
        print_model(out, model)?;
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

fn print_model(out: &mut impl Write, model: &Model) -> io::Result<()> {
    let Model { architecture, dtypes, layers, hidden, heads, kv_heads, head_dim, intermediate, .. } = model;
    writeln!(out, "  {architecture}, {:.1} million parameters, {dtypes}", model.parameters as f64 / 1e6)?;
    writeln!(
        out,
        "  {layers} layers, hidden {hidden}, {heads} heads ({kv_heads} key/value) of {head_dim}, feed-forward {intermediate}"
    )?;
    if let Some(OtherHeads { layers, kv_heads, head_dim }) = model.other_heads {
        writeln!(out, "  {layers} of the layers have heads of {head_dim} ({kv_heads} key/value)")?;
    }
    if model.sharing_layers > 0 {
        writeln!(out, "  {} of the layers read keys and values of others", model.sharing_layers)?;
    }
    if let Some(Experts { experts, chosen, intermediate, layers }) = model.experts {
        writeln!(
            out,
            "  {experts} experts of {intermediate} in {layers} layers, {chosen} of them per token"
        )?;
    }
    if model.delta_layers > 0 {
        writeln!(
            out,
            "  {} of the layers have a state, {} for each sequence",
            model.delta_layers,
            bytes(model.state_bytes)
        )?;
    }
    writeln!(
        out,
        "  vocabulary {}, {} rows of {} embeddings",
        model.vocab_len,
        model.n_embeddings,
        if model.tied_embeddings { "tied" } else { "separate" }
    )?;
    writeln!(
        out,
        "  context {} tokens, end of text {:?}, {}",
        model.context_len_max,
        model.eos_tokens,
        if model.chat_template { "chat template" } else { "no chat template" }
    )?;
    if !model.sampling.text.is_empty() {
        writeln!(out, "  sampling unless asked otherwise: {}", model.sampling.text)?;
    }
    writeln!(
        out,
        "  {} of weights, {} of keys and values per token",
        bytes(model.weight_bytes),
        bytes(model.kv_bytes_per_token)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_embedded_pair_are_those_of_its_files() {
        // bf16 files of 11 547 040 and 1 838 440 bytes: two bytes per weight and a header of a few kilobytes.
        for (role, file_bytes) in [(Role::Target, 11_547_040), (Role::Draft, 1_838_440)] {
            let opened = Opened::new(&Source::Demo, role).ok().unwrap();
            let header_bytes = file_bytes - 2 * n_parameters(opened.config());
            assert!((1_000..20_000).contains(&header_bytes), "{header_bytes}");
        }
    }

    #[test]
    fn parameters_of_models_with_delta_layers_are_those_of_their_files() {
        let configs: [&[u8]; 2] = [
            include_bytes!("../../../tests/fixtures/qwen3_5/config.json"),
            include_bytes!("../../../tests/fixtures/qwen3_5_moe/config.json"),
        ];
        let counts = configs.map(|config| n_parameters(&ModelConfig::parse(config, None).ok().unwrap()));
        assert_eq!(counts, [52872, 79056]);
    }

    #[test]
    fn parameters_of_models_with_layers_of_several_shapes_are_those_of_their_files() {
        let configs: [&[u8]; 3] = [
            include_bytes!("../../../tests/fixtures/gemma4/config.json"),
            include_bytes!("../../../tests/fixtures/gemma4_shared/config.json"),
            include_bytes!("../../../tests/fixtures/gemma4_moe/config.json"),
        ];
        let counts = configs.map(|config| n_parameters(&ModelConfig::parse(config, None).ok().unwrap()));
        // Less what nobody uses.
        assert_eq!(counts, [13428, 26974, 20741]);
    }
}
