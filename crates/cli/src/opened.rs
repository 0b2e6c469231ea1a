//! Models as opened: configuration, mapped weights and text, before anything is packed.

use std::fmt;
use std::path::Path;

use dsde_checkpoint::config::ModelConfig;
use dsde_checkpoint::{Checkpoint, Dtype};
use dsde_model::embedded;
use dsde_model::executor::DraftSource;
use dsde_text::{ChatTemplate, Tokenizer};
use serde::{Serialize, Serializer};

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
        let open = || -> anyhow::Result<Self> {
            let checkpoint = checkpoint(source, role)?;
            let tokenizer = match (source, checkpoint.gguf()) {
                (Source::Demo, _) => embedded::tokenizer(),
                (Source::Path(path), Some(metadata)) => {
                    Tokenizer::from_gguf(&path.display().to_string(), metadata)?
                }
                (Source::Path(path), None) => Tokenizer::open(path)?,
            };
            Ok(Self { checkpoint, tokenizer })
        };
        Ok(open().map_err(|error| match source {
            Source::Demo => error,
            Source::Path(folder) => error.context(cannot_load(folder)),
        })?)
    }

    /// The draft model, where there is one.
    ///
    /// # Errors
    /// As [`Opened::new`].
    pub(crate) fn draft(draft: &Draft) -> Outcome<Option<Self>> {
        match draft {
            Draft::Model(source) => Self::new(source, Role::Draft).map(Some),
            Draft::Suffix { .. } | Draft::None => Ok(None),
        }
    }

    /// Its chat template; `source` is what it was opened from, of which a GGUF file is not read again.
    ///
    /// # Errors
    /// As [`chat_template`].
    pub(crate) fn chat_template(&self, source: &Source) -> Result<ChatTemplate, dsde_text::Error> {
        match self.checkpoint.gguf() {
            Some(metadata) => ChatTemplate::from_gguf(metadata),
            None => chat_template(source),
        }
    }

    /// What the model is.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// Element types of its weights.
    pub(crate) fn dtypes(&self) -> Dtypes {
        Dtypes(self.checkpoint.dtypes())
    }

    /// Tokens that end a text: what any file says, and what ends a turn of `template`.
    pub(crate) fn eos_tokens(&self, template: Option<&ChatTemplate>) -> Vec<u32> {
        let mut tokens = self.config().eos_tokens.clone();
        let end_of_turn = template.and_then(|template| template.end_of_turn(&self.tokenizer));
        let named = self.tokenizer.end_tokens().iter().copied().chain(end_of_turn);
        for token in named.filter(|&token| (token as usize) < self.config().vocab_len) {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// Opens the checkpoint of this model again, which came from `source`.
    pub(crate) fn reopen(&self, source: &Source, role: Role) -> DraftSource {
        let (source, n_tokens) = (source.clone(), self.tokenizer.vocab_len());
        DraftSource::new(move || Ok(checkpoint(&source, role)?.without_padding(n_tokens)))
    }

    /// Whether `draft` can draft for this model: every token that either has embeddings for means the same in both.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn check_draft(&self, draft: &Self) -> anyhow::Result<()> {
        let (expected, got) = (self.config().vocab_len, draft.config().vocab_len);
        if expected != got {
            return Err(dsde_model::Error::VocabularyLen { expected, got }.into());
        }
        Ok(self.tokenizer.same_tokens(&draft.tokenizer, expected)?)
    }
}

/// How many tensors have which element type, the most frequent first. An object in JSON.
pub(crate) struct Dtypes(Vec<(Dtype, usize)>);

impl fmt::Display for Dtypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = match self.0.as_slice() {
            [(dtype, _)] => vec![dtype.name().to_owned()],
            counts => counts.iter().map(|(dtype, n)| format!("{} x {n}", dtype.name())).collect(),
        };
        f.write_str(&texts.join(", "))
    }
}

impl Serialize for Dtypes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(dtype, n)| (dtype.name(), n)))
    }
}

fn checkpoint(source: &Source, role: Role) -> Result<Checkpoint, dsde_checkpoint::Error> {
    match (source, role) {
        (Source::Demo, Role::Target) => Ok(embedded::target()),
        (Source::Demo, Role::Draft) => Ok(embedded::draft()),
        (Source::Path(folder), _) => Checkpoint::open(folder),
    }
}

fn cannot_load(folder: &Path) -> String {
    format!("cannot load {}", folder.display())
}

/// The chat template of a model.
///
/// # Errors
/// If it has none or a broken one.
pub(crate) fn chat_template(source: &Source) -> Result<ChatTemplate, dsde_text::Error> {
    match source {
        Source::Demo => Ok(embedded::chat_template()),
        Source::Path(path) => ChatTemplate::open(path),
    }
}
