//! Models as opened: configuration, mapped weights and text, before anything is packed.

use std::path::Path;

use dsde_model::Error;
use dsde_model::checkpoint::Checkpoint;
use dsde_model::config::ModelConfig;
use dsde_model::embedded;
use dsde_model::text::{ChatTemplate, Tokenizer};

use crate::failure::Outcome;
use crate::speculation::{Draft, Source};

/// A model as opened.
pub(crate) struct Opened {
    /// Configuration and weights.
    pub(crate) checkpoint: Checkpoint,
    /// Its text.
    pub(crate) tokenizer: Tokenizer,
}

/// Which of the embedded pair is meant by `demo`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// The model that decides.
    Target,
    /// The model that guesses.
    Draft,
}

impl Opened {
    /// # Errors
    /// If files are missing or make no sense.
    pub(crate) fn new(source: &Source, role: Role) -> Outcome<Self> {
        let Self { checkpoint, tokenizer } = Self::untrimmed(source, role)?;
        Ok(Self { checkpoint: checkpoint.without_padding(tokenizer.vocab_len()), tokenizer })
    }

    /// The model with the padding of its vocabulary, as stored.
    ///
    /// # Errors
    /// As [`Opened::new`].
    pub(crate) fn untrimmed(source: &Source, role: Role) -> Outcome<Self> {
        let folder = match source {
            Source::Demo => return Ok(Self::demo(role)),
            Source::Folder(folder) => folder,
        };
        let open = || -> Result<Self, Error> {
            Ok(Self { checkpoint: Checkpoint::open(folder)?, tokenizer: Tokenizer::open(folder)? })
        };
        Ok(open().map_err(|error| anyhow::Error::new(error).context(cannot_load(folder)))?)
    }

    /// The draft model, where there is one.
    ///
    /// # Errors
    /// As [`Opened::new`].
    pub(crate) fn draft(draft: &Draft) -> Outcome<Option<Self>> {
        match draft {
            Draft::Model(source) => Self::new(source, Role::Draft).map(Some),
            Draft::Ngram | Draft::None => Ok(None),
        }
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

    /// Whether `draft` can draft for this model: every token that either has embeddings for means the same in both.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn check_draft(&self, draft: &Self) -> Result<(), Error> {
        let (expected, got) = (self.config().vocab_len, draft.config().vocab_len);
        if expected != got {
            return Err(Error::VocabularyLen { expected, got });
        }
        self.tokenizer.same_tokens(&draft.tokenizer, expected)
    }
}

fn cannot_load(folder: &Path) -> String {
    format!("cannot load {}", folder.display())
}

/// The chat template of a model.
///
/// # Errors
/// If it has none or a broken one.
pub(crate) fn chat_template(source: &Source) -> Result<ChatTemplate, Error> {
    match source {
        Source::Demo => Ok(embedded::chat_template()),
        Source::Folder(folder) => ChatTemplate::open(folder),
    }
}
