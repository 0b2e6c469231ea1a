//! Models, text and engine of a command, ready to serve.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dsde_bench::{Machine, Message, Prompt};
use dsde_checkpoint::config::SamplingDefaults;
use dsde_checkpoint::{Error, gguf_file};
use dsde_engine::{Drafter, Engine, MonotonicClock, Suffix};
use dsde_kernels::Cpu;
use dsde_kernels::cpu::KvType;
use dsde_model::executor::{Checkpoints, CpuExecutor, KvSize, MemoryUse};
use dsde_model::{OnPacked, Translation};
use dsde_policy::{CostProfile, Policy, registry};
use dsde_sampling::Rule;
use dsde_sampling::proposal::NODES_MAX;
use dsde_text::{self as text, ChatTemplate, Tokenizer};

use crate::args::{DefaultsArgs, DraftWeights, GenerationConfig, ModelArgs};
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::opened::{Opened, OpenedDraft, Role};
use crate::speculation::{Draft, Source, is_off};
use crate::stores::{Asked, Bound, Stores};
use crate::today::today;
use crate::{hub, machine, progress};

/// Most sequences that run at once; the bound of the engine.
const SEQUENCES_MAX: u32 = 4096;
/// Rows of known tokens per step at least; see [`dsde_engine::Config::rows_max`].
const ROWS_MAX_DEFAULT: u32 = 256;
/// Time for measuring what steps cost before the first of them: a second is not noticed beside loading a model.
const PROFILE_TIME: Duration = Duration::from_secs(1);
/// Longest that models are packed without a sign.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Which models, on how much of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Models {
    /// The model that decides.
    pub(crate) target: Source,
    /// Who guesses.
    pub(crate) draft: Draft,
    is_draft_named: bool,
    n_threads: u32,
    kv: KvSize,
    draft_weights: DraftWeights,
    kv_type: KvType,
    context: Option<u32>,
    allows_control_tokens: bool,
}

impl Models {
    /// # Errors
    /// If a model does not exist.
    pub(crate) fn new(args: &ModelArgs) -> Outcome<Self> {
        let target = args.model.as_deref().map_or(Source::Demo, Source::parse);
        let draft = Draft::parse(args.draft.as_deref(), &target)?;
        // Whether both are there is known before a large one is fetched.
        let draft = match draft {
            Draft::Model(source) => Draft::Model(found("draft", source)?),
            other => other,
        };
        let target = found("model", target)?;
        Ok(Self {
            target,
            draft,
            is_draft_named: args.draft.is_some(),
            n_threads: n_threads(args.threads),
            kv: args.kv_blocks.map_or(KvSize::Auto, |n_blocks| KvSize::Blocks(n_blocks.get())),
            draft_weights: args.draft_weights,
            kv_type: args.kv_type.into(),
            context: args.context,
            allows_control_tokens: args.allow_control_tokens,
        })
    }

    /// Who drafts under `policy`: a draft model that nobody named is not loaded for a policy that never speculates.
    pub(crate) fn under(self, policy: &registry::Config) -> Self {
        match is_off(policy) && !self.is_draft_named {
            true => self.without_draft(),
            false => self,
        }
    }

    /// Who drafts for the opened target: the head that it brings, if nobody asked for another drafter.
    pub(crate) fn draft_for(&self, target: &Opened) -> Draft {
        if self.is_draft_named || !matches!(self.draft, Draft::Suffix { .. }) {
            return self.draft.clone();
        }
        match target.checkpoint.mtp() {
            Ok(Some(_)) => Draft::Mtp,
            Ok(None) => self.draft.clone(),
            Err(error) => {
                tracing::warn!("the head of this model cannot draft, so what repeats does: {error}");
                self.draft.clone()
            }
        }
    }

    /// The draft as it is to be loaded.
    fn in_memory(&self, draft: OpenedDraft) -> OpenedDraft {
        match self.draft_weights {
            DraftWeights::Rounded => draft.rounded(),
            DraftWeights::Stored => draft,
        }
    }

    /// With stores of so many bytes together; `None` leaves their size as it is.
    pub(crate) fn with_kv_bytes(self, kv_bytes: Option<u64>) -> Self {
        Self { kv: kv_bytes.map_or(self.kv, KvSize::Bytes), ..self }
    }

    fn without_draft(self) -> Self {
        Self { draft: Draft::None, ..self }
    }

    /// The backend that runs them.
    pub(crate) fn backend(&self) -> Cpu {
        Cpu::new(self.n_threads as usize).with_kv_type(self.kv_type)
    }

    /// What was asked about stores and context.
    pub(crate) fn asked(&self, rule: Rule, sequences_max: u32) -> Asked {
        Asked { kv: self.kv, context: self.context, rule, sequences_max }
    }
}

/// The threads that were asked for or one per core; more than cores are taken with a warning.
pub(crate) fn n_threads(asked: Option<NonZeroU32>) -> u32 {
    let n_cores = machine::n_cores();
    let n_threads = asked.map_or(n_cores, u32::from);
    if n_threads > n_cores {
        tracing::warn!(
            "--threads {n_threads} is more than the {n_cores} logical cores; they will wait for each other"
        );
    }
    n_threads
}

/// What was given for an option, which is there then: models of the Hub are fetched unless the cache has them.
///
/// # Errors
/// If there is no such model.
pub(crate) fn found(option: &str, source: Source) -> Outcome<Source> {
    let Source::Path(path) = &source else {
        return Ok(source);
    };
    let name = path.to_str().filter(|_| !path.exists()).and_then(|text| text.parse().ok());
    match name {
        Some(name) => hub::found(option, &name).map(Source::Path),
        None => check_model(option, path).map(|()| source),
    }
}

fn check_model(option: &str, path: &Path) -> Outcome {
    let is_cache = path.join("snapshots").is_dir() && !path.join("config.json").exists();
    let reason = match () {
        () if is_cache => "a repository in a cache of Hugging Face; give a folder inside its `snapshots`",
        () if path.exists() => return Ok(()),
        () => {
            "no such folder or file; give a model folder, a GGUF file, ORG/NAME of the Hugging Face Hub or `demo`"
        }
    };
    Err(usage(format!("--{option} {}: {reason}", path.display())))
}

/// # Errors
/// If what was given for an option is no folder with safetensors files; derived models are made of these alone.
pub(crate) fn found_folder(option: &str, source: Source) -> Outcome<Source> {
    let source = found(option, source)?;
    let Source::Path(path) = &source else {
        return Ok(source);
    };
    let reason = match gguf_file(path) {
        Ok(Some(_)) | Err(Error::SeveralModels { .. }) => "no model is derived from a GGUF file; give",
        _ if path.join("config.json").is_file() => return Ok(source),
        _ => "not a model folder; give",
    };
    let wanted = "a folder that holds config.json and *.safetensors";
    Err(usage(format!("--{option} {}: {reason} {wanted}", path.display())))
}

/// What a command wants of its engine.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Policy to begin with.
    pub(crate) policy: registry::Config,
    /// How sampled proposals are judged.
    pub(crate) rule: Rule,
    /// Whether text goes through the chat template.
    pub(crate) form: Form,
    /// Sequences in flight at most.
    pub(crate) n_sequences: NonZeroU32,
    /// Whether prefixes of earlier prompts are kept.
    pub(crate) prefix_cache: bool,
    /// Key of the draws of requests without a seed.
    pub(crate) draws: u64,
}

impl Wish {
    /// Sequences that run at once.
    fn sequences_max(&self) -> u32 {
        self.n_sequences.get().min(SEQUENCES_MAX)
    }

    /// Rows of known tokens per step.
    pub(crate) fn rows_max(&self) -> u32 {
        self.sequences_max().max(ROWS_MAX_DEFAULT)
    }
}

/// A key of draws that nobody can guess: those of a `RandomState` are random.
pub(crate) fn fresh_draws() -> u64 {
    RandomState::new().hash_one(0)
}

/// How text becomes a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a message of a conversation.
    Chat,
    /// As it is.
    Raw,
}

/// An engine over loaded models, and their text.
pub(crate) struct Session {
    /// Serves requests.
    pub(crate) engine: Engine,
    /// Who drafts.
    pub(crate) draft: Draft,
    /// Text to tokens and back.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// `None`: prompts are taken as they are.
    pub(crate) template: Option<ChatTemplate>,
    /// Tokens that end a text.
    pub(crate) eos_tokens: Vec<u32>,
    /// How the model's authors recommend to sample.
    recommended: SamplingDefaults,
    /// Memory of weights and stores as they were loaded.
    pub(crate) memory: MemoryUse,
    /// What runs and with how many threads, for people.
    kernels: String,
    bound: Bound,
    cost_profile: CostProfile,
}

impl Session {
    /// Loads the models and makes an idle engine.
    ///
    /// # Errors
    /// If files are missing or make no sense, the draft does not fit the target, or a bound is out of range.
    pub(crate) fn open(models: &Models, wish: &Wish) -> Outcome<Self> {
        let target = Opened::new(&models.target, Role::Target)?;
        let drafter = models.draft_for(&target);
        let draft = OpenedDraft::new(&drafter, &target)?.map(|draft| models.in_memory(draft));
        let translation = draft.as_ref().map(|draft| translation(&target, draft)).transpose()?.flatten();
        let template = match wish.form {
            Form::Raw => None,
            Form::Chat => {
                let template = target.chat_template().or_usage()?;
                Some(match models.allows_control_tokens {
                    true => template,
                    false => template.for_tokenizer(&target.tokenizer).or_usage()?,
                })
            }
        };
        if let Some(Err(error)) = template.as_ref().map(ChatTemplate::try_out) {
            tracing::warn!("the chat template fails on a first question, so chats may be refused: {error}");
        }
        let eos_tokens = target.eos_tokens(template.as_ref());
        let backend = models.backend();
        let checkpoints = Checkpoints {
            target: &target.checkpoint,
            draft: draft.as_ref().map(|draft| draft.checkpoint(translation.as_ref())),
        };
        let memory_bytes = machine::memory_bytes_usable();
        let stores =
            Stores::plan(models.asked(wish.rule, wish.sequences_max()), &backend, checkpoints, memory_bytes)?;
        stores.check_memory(memory_bytes)?;
        let draft_source = draft.as_ref().and_then(|draft| draft.reopen(&drafter));
        let CpuExecutor { executor, memory, description } = packed(|on_packed| {
            CpuExecutor::new(backend, checkpoints, draft_source, stores.config, on_packed)
        })?;
        let tokenizer = Arc::new(target.tokenizer);
        let recommended = target.checkpoint.config().sampling;
        let mut engine = Engine::new(
            engine_config(&drafter, wish),
            wish.policy.build(),
            tokenizer.clone(),
            executor,
            MonotonicClock::start(),
        )
        .or_usage()?;
        let cost_profile = engine.profile_costs(PROFILE_TIME)?;
        let mut session = Self {
            engine,
            draft: drafter,
            tokenizer,
            template,
            eos_tokens,
            recommended,
            memory,
            kernels: description,
            bound: stores.bound,
            cost_profile,
        };
        session.engine.set_policy(session.policy(&wish.policy));
        Ok(session)
    }

    /// A policy that knows what steps cost on this machine, and nothing else yet.
    pub(crate) fn policy(&self, config: &registry::Config) -> Box<dyn Policy> {
        let mut policy = config.build();
        self.cost_profile.teach(&mut *policy);
        policy
    }

    /// Tokens of a prompt.
    ///
    /// # Errors
    /// If the chat template refuses it, it holds messages but is to be taken as it is, or it is too long to tokenise.
    pub(crate) fn encode(&self, prompt: &Prompt) -> anyhow::Result<Vec<u32>> {
        let tokens = match (&self.template, prompt) {
            (Some(_), Prompt::Text(text)) => return self.encode_chat(&[Message::user(text)]),
            (Some(_), Prompt::Messages(messages)) => return self.encode_chat(messages),
            (None, Prompt::Text(text)) => self.tokenizer.encode_plain(text)?,
            (None, Prompt::Messages(_)) => anyhow::bail!("messages need the chat template; leave out --raw"),
        };
        Ok(tokens)
    }

    /// Tokens of a conversation that the model is to continue.
    ///
    /// # Errors
    /// If there is no chat template or it refuses the conversation.
    pub(crate) fn encode_chat(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        let template = self.template.as_ref().ok_or(dsde_text::Error::NoChatTemplate)?;
        let message = |message: &Message| text::Message::new(&message.role, &message.content);
        let messages: Vec<text::Message> = messages.iter().map(message).collect();
        let prompt = template.prompt(&messages, today())?;
        Ok(self.tokenizer.encode_prompt(&prompt)?)
    }

    /// Bytes that a token adds to the text.
    pub(crate) fn token_bytes(&self, token: u32) -> &[u8] {
        dsde_engine::Vocabulary::token_bytes(&*self.tokenizer, token)
    }

    /// Whether answers begin with a space that is no part of them: those to a conversation, with some tokenizers.
    pub(crate) fn drops_leading_space(&self) -> bool {
        self.template.is_some() && self.tokenizer.has_leading_space()
    }

    /// Tokens that end a text.
    pub(crate) fn eos_tokens(&self) -> &[u32] {
        &self.eos_tokens
    }

    /// Values for what nobody asks for.
    pub(crate) fn sampling(&self, args: DefaultsArgs) -> SamplingDefaults {
        match args.generation_config {
            GenerationConfig::Model => self.recommended,
            GenerationConfig::None => SamplingDefaults::default(),
        }
    }

    /// What bounds the context.
    pub(crate) fn bound(&self) -> Bound {
        self.bound
    }

    /// This machine and the kernels in use.
    pub(crate) fn machine(&self) -> Machine {
        machine::describe(self.kernels.clone())
    }
}

/// Packs a model, with a bar on a terminal if that takes longer than people like to wait without a sign.
fn packed<T>(pack: impl FnOnce(&mut OnPacked<'_>) -> T) -> T {
    let start = Instant::now();
    let mut bar = None;
    let packed = pack(&mut |done, of| {
        if start.elapsed() > SILENT_MAX {
            let bar =
                bar.get_or_insert_with(|| progress::bar(of as u64, "{pos}/{len} parts of the target packed"));
            bar.set_position(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    packed
}

/// By which the draft drafts if it has another vocabulary, which is told.
///
/// # Errors
/// If it does not fit the target.
fn translation(target: &Opened, draft: &OpenedDraft) -> Outcome<Option<Arc<Translation>>> {
    let translation = target.fit(draft).or_usage_of("this draft does not fit the model")?;
    if let Some(translation) = &translation {
        let (n_shared, vocab_len) = (translation.n_shared(), translation.vocab_len());
        tracing::warn!(
            "the draft has another vocabulary; it guesses the {n_shared} of {vocab_len} tokens that both have"
        );
    }
    Ok(translation)
}

fn engine_config(draft: &Draft, wish: &Wish) -> dsde_engine::Config {
    let sequences_max = wish.sequences_max();
    dsde_engine::Config {
        sequences_max,
        rows_max: wish.rows_max(),
        // What waits is bounded by who submits.
        waiting_max: SEQUENCES_MAX,
        // The policy's own parameters bound its lengths.
        sl_limit: NODES_MAX,
        drafter: match *draft {
            Draft::Model(_) | Draft::Mtp => Drafter::Either(Suffix::default()),
            Draft::Suffix { answer_tokens } => Drafter::Suffix(Suffix { answer_tokens, ..Suffix::default() }),
            Draft::None => Drafter::None,
        },
        prefix_cache: wish.prefix_cache,
        seed: wish.draws,
        ..dsde_engine::Config::default()
    }
}
