//! Models as opened: configuration, mapped weights and text, before anything is packed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use dsde_checkpoint::config::ModelConfig;
use dsde_checkpoint::{
    AssistantCheckpoint, Checkpoint, Dtype, Eagle3Checkpoint, HeadCheckpoint, MtpCheckpoint,
};
use dsde_model::executor::{DraftCheckpoint, DraftSource};
use dsde_model::{Translation, embedded};
use dsde_text::{ChatTemplate, Correspondence, Tokenizer};
use serde::{Serialize, Serializer};

use crate::failure::{OrUsage as _, Outcome, usage};
use crate::speculation::{Draft, Source};

/// What plain weights of heads and of draft models are rounded to. A head of two is right as often with 4 bits as with 16
/// (docs/drafters.md); models have more layers for errors to add up in.
const HEAD_DTYPE: Dtype = Dtype::Q4_0;
const MODEL_DTYPE: Dtype = Dtype::Q8_0;

/// A model as opened.
pub(crate) struct Opened {
    /// Configuration and weights.
    pub(crate) checkpoint: Checkpoint,
    /// Its text.
    pub(crate) tokenizer: Tokenizer,
    source: Source,
    /// Whether its weights are no longer those of the files.
    is_rounded: bool,
}

/// Who guesses, as opened.
pub(crate) enum OpenedDraft {
    /// A model of its own.
    Model(Box<Opened>),
    /// An EAGLE-3 head, whose text is that of its model.
    Eagle3(Box<Eagle3Checkpoint>),
    /// The head that its model brings with it.
    Mtp(Box<MtpCheckpoint>),
    /// An assistant of Gemma 4, whose text is that of its model.
    Assistant(Box<AssistantCheckpoint>),
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
        let opened = Self::untrimmed(source, role)?;
        let n_tokens = opened.tokenizer.vocab_len();
        Ok(Self { checkpoint: opened.checkpoint.without_padding(n_tokens), ..opened })
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
            Ok(Self { checkpoint, tokenizer, source: source.clone(), is_rounded: false })
        };
        Ok(open().map_err(|error| match source {
            Source::Demo => error,
            Source::Path(folder) => error.context(cannot_load(folder)),
        })?)
    }

    /// Its chat template; a GGUF file is not read again.
    ///
    /// # Errors
    /// As [`chat_template`].
    pub(crate) fn chat_template(&self) -> Result<ChatTemplate, dsde_text::Error> {
        match self.checkpoint.gguf() {
            Some(metadata) => ChatTemplate::from_gguf(metadata),
            None => chat_template(&self.source),
        }
    }

    /// What the model is.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// The head in its files.
    ///
    /// # Errors
    /// If there is none, or not all of one.
    fn own_head(&self) -> Outcome<OpenedDraft> {
        let head = self.checkpoint.mtp().or_usage_of("the head of this model cannot be used")?;
        let missing = "--draft mtp: this model brings no head (tensors `mtp.*`, in GGUF files `nextn.*`); leave --draft out";
        head.map(|head| OpenedDraft::Mtp(Box::new(head))).ok_or_else(|| usage(missing))
    }

    /// Element types of its weights.
    pub(crate) fn dtypes(&self) -> Dtypes {
        Dtypes::of(self.checkpoint.dtypes())
    }

    /// Tokens that end a text: what any file says, and what ends a turn of `template`.
    pub(crate) fn eos_tokens(&self, template: Option<&ChatTemplate>) -> Vec<u32> {
        let mut tokens = self.config().eos_tokens.clone();
        let end_of_turn = template.and_then(|template| template.end_of_turn(&self.tokenizer));
        let end_of_call = template.and_then(|template| template.end_of_call(&self.tokenizer));
        let named = self.tokenizer.end_tokens().iter().copied().chain(end_of_turn).chain(end_of_call);
        for token in named.filter(|&token| (token as usize) < self.config().vocab_len) {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// How `draft` can draft for this model: as it is if every token that either has embeddings for means the same in both, else
    /// by a translation. A head names no tokens; it has the sizes of those that were trained for this model.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn fit(&self, draft: &OpenedDraft) -> anyhow::Result<Option<Arc<Translation>>> {
        let translation = match draft {
            OpenedDraft::Model(draft) if !self.has_tokens_of(draft) => Some(self.translation(draft)?),
            OpenedDraft::Model(_)
            | OpenedDraft::Eagle3(_)
            | OpenedDraft::Mtp(_)
            | OpenedDraft::Assistant(_) => None,
        };
        draft.checkpoint(translation.as_ref()).check_fit(self.config())?;
        Ok(translation)
    }

    fn has_tokens_of(&self, draft: &Self) -> bool {
        let vocab_len = self.config().vocab_len;
        draft.config().vocab_len == vocab_len
            && self.tokenizer.same_tokens(&draft.tokenizer, vocab_len).is_ok()
    }

    fn translation(&self, draft: &Self) -> anyhow::Result<Arc<Translation>> {
        let [own, drafts] = [self, draft].map(|model| (&model.tokenizer, model.config().vocab_len));
        let ends = self.end_of_turn().zip(draft.end_of_turn());
        let Correspondence { reads, shared } = Correspondence::new(own, drafts, ends)?;
        Ok(Arc::new(Translation::new(&reads, &shared, drafts.1)?))
    }

    /// The token that ends an answer.
    fn end_of_turn(&self) -> Option<u32> {
        let template = self.chat_template().ok();
        let named = template.as_ref().and_then(|template| template.end_of_turn(&self.tokenizer));
        named.or_else(|| self.eos_tokens(template.as_ref()).first().copied())
    }
}

impl OpenedDraft {
    /// The draft model or head for `target`, where there is one.
    ///
    /// # Errors
    /// If files are missing or make no sense.
    pub(crate) fn new(draft: &Draft, target: &Opened) -> Outcome<Option<Self>> {
        let source = match draft {
            Draft::Model(source) => source,
            Draft::Mtp => return target.own_head().map(Some),
            Draft::Suffix { .. } | Draft::None => return Ok(None),
        };
        let head = match source {
            Source::Path(path) => {
                head(path).map_err(|error| anyhow::Error::new(error).context(cannot_load(path)))?
            }
            Source::Demo => None,
        };
        match head {
            Some(head) => Ok(Some(head)),
            None => Ok(Some(Self::Model(Box::new(Opened::new(source, Role::Draft)?)))),
        }
    }

    /// With its weights rounded, as far as they are plain numbers: those of a head to 4 bits, those of a model of its own to 8.
    ///
    /// The embedded draft stays as it is: so small a model lies in the processor's caches anyway.
    pub(crate) fn rounded(self) -> Self {
        match self {
            Self::Model(opened) if opened.source == Source::Demo => Self::Model(opened),
            Self::Model(opened) => Self::Model(Box::new(Opened {
                checkpoint: opened.checkpoint.with_matrices_rounded(MODEL_DTYPE),
                is_rounded: true,
                ..*opened
            })),
            Self::Eagle3(head) => Self::Eagle3(Box::new(head.with_matrices_rounded(HEAD_DTYPE))),
            Self::Mtp(head) => Self::Mtp(Box::new(head.with_matrices_rounded(HEAD_DTYPE))),
            Self::Assistant(head) => Self::Assistant(Box::new(head.with_matrices_rounded(HEAD_DTYPE))),
        }
    }

    /// Configuration and weights.
    ///
    /// * `translation`: as of [`Opened::fit`].
    pub(crate) fn checkpoint<'a>(&'a self, translation: Option<&'a Arc<Translation>>) -> DraftCheckpoint<'a> {
        match (self, translation) {
            (Self::Model(opened), Some(translation)) => {
                DraftCheckpoint::Translated { checkpoint: &opened.checkpoint, translation }
            }
            (Self::Model(opened), None) => DraftCheckpoint::Model(&opened.checkpoint),
            (Self::Eagle3(head), _) => DraftCheckpoint::Eagle3(head),
            (Self::Mtp(head), _) => DraftCheckpoint::Mtp(head),
            (Self::Assistant(head), _) => DraftCheckpoint::Assistant(head),
        }
    }

    /// Opens the checkpoint of this draft again, which came from `draft`; a head stays loaded.
    pub(crate) fn reopen(&self, draft: &Draft) -> Option<DraftSource> {
        let (Draft::Model(source), Self::Model(opened)) = (draft, self) else {
            return None;
        };
        let (source, n_tokens, is_rounded) =
            (source.clone(), opened.tokenizer.vocab_len(), opened.is_rounded);
        Some(DraftSource::new(move || {
            let checkpoint = checkpoint(&source, Role::Draft)?.without_padding(n_tokens);
            Ok(if is_rounded { checkpoint.with_matrices_rounded(MODEL_DTYPE) } else { checkpoint })
        }))
    }
}

/// The head at a path, if that is what lies there.
fn head(path: &Path) -> Result<Option<OpenedDraft>, dsde_checkpoint::Error> {
    Ok(HeadCheckpoint::find(path)?.map(|head| match head {
        HeadCheckpoint::Eagle3(head) => OpenedDraft::Eagle3(head),
        HeadCheckpoint::Assistant(assistant) => OpenedDraft::Assistant(assistant),
    }))
}

/// How many tensors have which element type, the most frequent first. An object in JSON.
pub(crate) struct Dtypes(Vec<(Dtype, usize)>);

impl Dtypes {
    /// * `counts`: as of [`Checkpoint::dtypes`].
    pub(crate) fn of(counts: Vec<(Dtype, usize)>) -> Self {
        Self(counts)
    }
}

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
