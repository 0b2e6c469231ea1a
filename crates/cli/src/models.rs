//! Which models a command runs, found where the options say that they are.

use std::num::NonZeroU32;
use std::path::Path;

use dsde_checkpoint::{Error, gguf_file};
use dsde_kernels::Cpu;
use dsde_kernels::cpu::KvType;
use dsde_model::executor::KvSize;
use dsde_policy::registry;
use dsde_sampling::Rule;

use crate::args::{DraftWeights, ModelArgs};
use crate::failure::{Outcome, usage};
use crate::opened::{Opened, OpenedDraft};
use crate::speculation::{Draft, Source, is_off};
use crate::stores::Asked;
use crate::{hub, machine};

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
    pub(crate) allows_control_tokens: bool,
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
    pub(crate) fn in_memory(&self, draft: OpenedDraft) -> OpenedDraft {
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
