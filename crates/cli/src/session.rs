//! Models, text and engine of a command, ready to serve.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use dsde_bench::{Machine, Message, Prompt};
use dsde_engine::{Drafter, Engine, MonotonicClock, PromptLookup};
use dsde_model::backend::{Backend as _, Cpu};
use dsde_model::checkpoint::Checkpoint;
use dsde_model::config::ModelConfig;
use dsde_model::embedded;
use dsde_model::executor::{self, Checkpoints, KvSize, MemoryUse, ModelExecutor};
use dsde_model::text::{self, ChatTemplate, Tokenizer};
use dsde_policy::registry;
use dsde_sampling::Rule;
use dsde_sampling::proposal::NODES_MAX;

use crate::args::ModelArgs;
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::machine;
use crate::speculation::{Draft, Source, is_off};
use crate::today::today;

/// Most sequences that run at once; the bound of the engine.
const SEQUENCES_MAX: u32 = 4096;
/// Rows of known tokens per step at least; see [`dsde_engine::Config::rows_max`].
const ROWS_MAX_DEFAULT: u32 = 256;

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
    context: Option<u32>,
}

impl Models {
    /// # Errors
    /// If a model folder does not exist.
    pub(crate) fn new(args: &ModelArgs) -> Outcome<Self> {
        let target = Source::parse(&args.model);
        let draft = Draft::parse(args.draft.as_deref(), &target);
        check_folder("model", &target)?;
        if let Draft::Model(source) = &draft {
            check_folder("draft", source)?;
        }
        Ok(Self {
            target,
            draft,
            is_draft_named: args.draft.is_some(),
            n_threads: args.threads.map_or_else(machine::n_cores, u32::from),
            kv: args.kv_blocks.map_or(KvSize::Auto, |n_blocks| KvSize::Blocks(n_blocks.get())),
            context: args.context.map(u32::from),
        })
    }

    /// Who drafts under `policy`: a draft model that nobody named is not loaded for a policy that never speculates.
    pub(crate) fn under(self, policy: &registry::Config) -> Self {
        match is_off(policy) && !self.is_draft_named {
            true => self.without_draft(),
            false => self,
        }
    }

    /// The target alone.
    pub(crate) fn without_draft(&self) -> Self {
        Self { draft: Draft::None, ..self.clone() }
    }
}

fn check_folder(option: &str, source: &Source) -> Outcome {
    match source {
        Source::Folder(path) if !path.is_dir() => Err(usage(format!(
            "--{option} {}: no such folder; give a model folder or `demo`",
            path.display()
        ))),
        _ => Ok(()),
    }
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
}

/// How text becomes a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a message of a conversation.
    Chat,
    /// As it is.
    Raw,
}

/// A model as opened, before its weights are packed.
pub(crate) struct Opened {
    /// Configuration and weights.
    pub(crate) checkpoint: Checkpoint,
    /// Its text.
    pub(crate) tokenizer: Tokenizer,
}

impl Opened {
    /// # Errors
    /// If files are missing or make no sense.
    pub(crate) fn new(source: &Source, role: Role) -> Outcome<Self> {
        let folder = match source {
            Source::Demo => return Ok(Self::demo(role)),
            Source::Folder(folder) => folder,
        };
        let open = || -> Result<Self, dsde_model::error::Error> {
            let (checkpoint, tokenizer) = (Checkpoint::open(folder)?, Tokenizer::open(folder)?);
            Ok(Self { checkpoint: checkpoint.without_padding(tokenizer.vocab_len())?, tokenizer })
        };
        Ok(open().map_err(|error| anyhow::Error::new(error).context(cannot_load(folder)))?)
    }

    fn demo(role: Role) -> Self {
        let checkpoint = match role {
            Role::Target => embedded::target(),
            Role::Draft => embedded::draft(),
        };
        Self { checkpoint, tokenizer: embedded::tokenizer() }
    }

    /// What the model is.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }
}

/// Which of the embedded pair is meant by `demo`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// The model that decides.
    Target,
    /// The model that guesses.
    Draft,
}

fn cannot_load(folder: &Path) -> String {
    format!("cannot load {}", folder.display())
}

/// The chat template of a model.
///
/// # Errors
/// If it has none or a broken one.
pub(crate) fn chat_template(source: &Source) -> Result<ChatTemplate, dsde_model::error::Error> {
    match source {
        Source::Demo => Ok(embedded::chat_template()),
        Source::Folder(folder) => ChatTemplate::open(folder),
    }
}

/// An engine over loaded models, and their text.
pub(crate) struct Session {
    /// Serves requests.
    pub(crate) engine: Engine<ModelExecutor<Cpu>, MonotonicClock>,
    tokenizer: Arc<Tokenizer>,
    /// `None`: prompts are taken as they are.
    template: Option<ChatTemplate>,
    eos_tokens: Vec<u32>,
}

impl Session {
    /// Loads the models and makes an idle engine.
    ///
    /// # Errors
    /// If files are missing or make no sense, draft and target do not share a vocabulary, or a bound is out of range.
    pub(crate) fn open(models: &Models, wish: &Wish) -> Outcome<Self> {
        let target = Opened::new(&models.target, Role::Target)?;
        let draft = match &models.draft {
            Draft::Model(source) => Some(Opened::new(source, Role::Draft)?),
            Draft::Ngram | Draft::None => None,
        };
        if let Some(draft) = &draft {
            target
                .tokenizer
                .same_vocabulary(&draft.tokenizer)
                .or_usage_of("this draft does not fit the model")?;
        }
        let template = match wish.form {
            Form::Raw => None,
            Form::Chat => Some(chat_template(&models.target).or_usage()?),
        };
        let backend = Cpu::new(models.n_threads as usize);
        check_context(models, &target, draft.as_ref())?;
        check_memory(models, &backend, &target, draft.as_ref())?;
        let config = executor::Config {
            rule: wish.rule,
            context_len_max: models.context.unwrap_or(u32::MAX),
            kv: models.kv,
        };
        let checkpoints =
            Checkpoints { target: &target.checkpoint, draft: draft.as_ref().map(|draft| &draft.checkpoint) };
        let executor = ModelExecutor::new(backend, checkpoints, config)?;
        let tokenizer = Arc::new(target.tokenizer);
        let eos_tokens = target.checkpoint.config().eos_tokens.clone();
        let engine = Engine::new(
            engine_config(models, wish),
            wish.policy.build(),
            tokenizer.clone(),
            executor,
            MonotonicClock::start(),
        )
        .or_usage()?;
        Ok(Self { engine, tokenizer, template, eos_tokens })
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
        let template = self.template.as_ref().ok_or(dsde_model::error::Error::NoChatTemplate)?;
        let message = |message: &Message| text::Message {
            role: message.role.clone(),
            content: message.content.clone(),
        };
        let messages: Vec<text::Message> = messages.iter().map(message).collect();
        let prompt = template.prompt(&messages, today())?;
        Ok(self.tokenizer.encode(&prompt)?)
    }

    /// Bytes that a token adds to the text.
    pub(crate) fn token_bytes(&self, token: u32) -> &[u8] {
        dsde_engine::Vocabulary::token_bytes(&*self.tokenizer, token)
    }

    /// Tokens that end a text.
    pub(crate) fn eos_tokens(&self) -> &[u32] {
        &self.eos_tokens
    }

    /// Memory of weights and stores.
    pub(crate) fn memory(&self) -> MemoryUse {
        self.engine.executor().memory()
    }

    /// This machine and the kernels in use.
    pub(crate) fn machine(&self) -> Machine {
        machine::describe(self.engine.executor().backend().describe())
    }
}

/// Refuses a context that the models do not have, and tells if the draft shortens it.
fn check_context(models: &Models, target: &Opened, draft: Option<&Opened>) -> Outcome {
    let model_max = target.config().context_len_max;
    if let Some(context) = models.context.filter(|&context| context > model_max) {
        return Err(usage(format!("--context must be at most {model_max} for this model, got {context}")));
    }
    let wanted = models.context.unwrap_or(model_max);
    if let Some(draft_max) = draft.map(|draft| draft.config().context_len_max).filter(|&max| max < wanted) {
        tracing::warn!("the draft bounds the context to {draft_max} tokens instead of {wanted}");
    }
    Ok(())
}

/// Refuses stores that this machine could never hold.
fn check_memory(models: &Models, backend: &Cpu, target: &Opened, draft: Option<&Opened>) -> Outcome {
    let KvSize::Blocks(n_blocks) = models.kv else {
        return Ok(());
    };
    let configs = [Some(target), draft].into_iter().flatten().map(Opened::config);
    let block_bytes: usize = configs.map(|config| executor::block_bytes(backend, config)).sum();
    let fitting = machine::memory_bytes().map(|memory_bytes| memory_bytes / block_bytes as u64);
    match fitting.filter(|&fitting| u64::from(n_blocks) > fitting) {
        None => Ok(()),
        Some(fitting) => Err(usage(format!(
            "--kv-blocks must be at most {fitting} to fit the memory of this machine ({block_bytes} bytes each), got {n_blocks}"
        ))),
    }
}

fn engine_config(models: &Models, wish: &Wish) -> dsde_engine::Config {
    let sequences_max = wish.n_sequences.get().min(SEQUENCES_MAX);
    dsde_engine::Config {
        sequences_max,
        rows_max: sequences_max.max(ROWS_MAX_DEFAULT),
        waiting_max: wish.n_sequences.get(),
        // The policy's own parameters bound its lengths.
        sl_limit: NODES_MAX - 1,
        drafter: match models.draft {
            Draft::Model(_) => Drafter::Model,
            Draft::Ngram => Drafter::PromptLookup(PromptLookup::default()),
            Draft::None => Drafter::None,
        },
        prefix_cache: wish.prefix_cache,
    }
}
