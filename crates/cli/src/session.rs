//! Engine and text of a command over its models, ready to serve.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dsde_bench::{Machine, Message, Prompt};
use dsde_checkpoint::config::SamplingDefaults;
use dsde_engine::{Drafter, Engine, MonotonicClock, Suffix};
use dsde_model::executor::{Checkpoints, CpuExecutor, MemoryUse};
use dsde_model::{OnPacked, Translation};
use dsde_policy::{CostProfile, Policy, registry};
use dsde_sampling::Rule;
use dsde_sampling::proposal::NODES_MAX;
use dsde_text::{self as text, ChatTemplate, Tokenizer};

use crate::args::{DefaultsArgs, GenerationConfig};
use crate::failure::{OrUsage as _, Outcome};
use crate::models::Models;
use crate::opened::{Opened, OpenedDraft, Role};
use crate::speculation::Draft;
use crate::stores::{Bound, Stores};
use crate::today::today;
use crate::{machine, progress};

/// Most sequences that run at once; the bound of the engine.
const SEQUENCES_MAX: u32 = 4096;
/// Rows of known tokens per step at least; see [`dsde_engine::Config::rows_max`].
const ROWS_MAX_DEFAULT: u32 = 256;
/// Time for measuring what steps cost before the first of them: a second is not noticed beside loading a model.
const PROFILE_TIME: Duration = Duration::from_secs(1);
/// Longest that models are packed without a sign.
const SILENT_MAX: Duration = Duration::from_secs(1);

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
            Form::Chat => Some(template(&target, models.allows_control_tokens)?),
        };
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

/// The chat template, tried out on a question.
///
/// * `allows_control_tokens`: whether messages may spell them.
///
/// # Errors
/// If there is none, or it cannot be read.
fn template(target: &Opened, allows_control_tokens: bool) -> Outcome<ChatTemplate> {
    let template = target.chat_template().or_usage()?;
    let template = match allows_control_tokens {
        true => template,
        false => template.for_tokenizer(&target.tokenizer).or_usage()?,
    };
    if let Err(error) = template.try_out() {
        tracing::warn!("chats may be refused; on a first question, {error}");
    }
    Ok(template)
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
