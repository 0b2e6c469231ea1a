//! Who guesses: a model of its own, or a head on the target.

use std::ops::Range;
use std::sync::Arc;

use dsde_checkpoint::config::ModelConfig;
use dsde_checkpoint::{Checkpoint, Eagle3Checkpoint, MtpCheckpoint};
use dsde_engine::{BlockCopy, RowBatch, Shape, SlotMove};
use dsde_kernels::Backend;

use super::{Model, block_bytes};
use crate::eagle3::{self, Eagle3};
use crate::error::Error;
use crate::features::Features;
use crate::head::{Head, head_kv_shape};
use crate::llama::Llama;
use crate::mtp::Mtp;
use crate::translation::Translation;

/// Files of a draft.
#[derive(Clone, Copy, Debug)]
pub enum DraftCheckpoint<'a> {
    /// A model of its own.
    Model(&'a Checkpoint),
    /// A model of its own with another vocabulary.
    Translated {
        /// Its files.
        checkpoint: &'a Checkpoint,
        /// From its target's tokens to its own.
        translation: &'a Arc<Translation>,
    },
    /// An EAGLE-3 head.
    Eagle3(&'a Eagle3Checkpoint),
    /// The head in the target's own files.
    Mtp(&'a MtpCheckpoint),
}

impl<'a> DraftCheckpoint<'a> {
    /// Whether it can draft for a target.
    ///
    /// # Errors
    /// [`Error::RecurrentDraft`] if it has states, [`Error::VocabularyLen`] if the two have different numbers of tokens,
    /// [`Error::TranslationLen`] if a translation is between others, and of a head what else does not fit.
    pub fn check_fit(self, target: &ModelConfig) -> Result<(), Error> {
        match self {
            Self::Eagle3(head) => eagle3::check_fit(head, target),
            Self::Mtp(head) if head.config().hidden != target.hidden => {
                Err(Error::TargetHidden { expected: target.hidden, got: head.config().hidden })
            }
            Self::Mtp(head) if head.config().vocab_len == target.vocab_len => Ok(()),
            Self::Mtp(head) => {
                Err(Error::VocabularyLen { expected: target.vocab_len, got: head.config().vocab_len })
            }
            Self::Model(draft) | Self::Translated { checkpoint: draft, .. }
                if draft.config().delta.is_some() =>
            {
                Err(Error::RecurrentDraft { got: draft.config().family.architecture() })
            }
            Self::Translated { checkpoint, translation } => {
                translation.check_fit(target.vocab_len, checkpoint.config().vocab_len)
            }
            Self::Model(draft) if draft.config().vocab_len == target.vocab_len => Ok(()),
            Self::Model(draft) => {
                Err(Error::VocabularyLen { expected: target.vocab_len, got: draft.config().vocab_len })
            }
        }
    }

    /// As [`Checkpoint::weight_bytes`].
    pub fn weight_bytes(self) -> usize {
        match self {
            Self::Model(checkpoint) => checkpoint.weight_bytes(),
            Self::Translated { checkpoint, translation } => translation.weight_bytes(checkpoint),
            Self::Eagle3(checkpoint) => checkpoint.weight_bytes(),
            Self::Mtp(checkpoint) => checkpoint.weight_bytes(),
        }
    }

    /// Bytes of one block of its stores.
    pub fn block_bytes<B: Backend>(self, backend: &B) -> usize {
        match self {
            Self::Model(checkpoint) | Self::Translated { checkpoint, .. } => {
                block_bytes(backend, checkpoint.config())
            }
            Self::Eagle3(_) | Self::Mtp(_) => {
                let layer = self.config();
                let features = Features::block_bytes(backend.block_len(), layer.hidden);
                features + backend.block_bytes(&head_kv_shape(layer, 1))
            }
        }
    }

    /// Longest sequence that it can read.
    pub(super) fn context_len_max(self) -> u32 {
        self.config().context_len_max
    }

    /// Of the model, or of the head's layer.
    fn config(self) -> &'a ModelConfig {
        match self {
            Self::Model(checkpoint) | Self::Translated { checkpoint, .. } => checkpoint.config(),
            Self::Eagle3(checkpoint) => &checkpoint.config().layer,
            Self::Mtp(checkpoint) => checkpoint.config(),
        }
    }

    pub(super) fn reads_target(self) -> bool {
        match self {
            Self::Eagle3(_) | Self::Mtp(_) => true,
            Self::Model(_) | Self::Translated { .. } => false,
        }
    }
}

/// Who guesses, loaded.
pub(super) enum Draft<B: Backend> {
    Model(Model<B>),
    Head(HeadDraft<B>),
}

/// A head, its keys and values, and what it reads of the target.
pub(super) struct HeadDraft<B: Backend> {
    head: Head<B>,
    kv: B::KvStore,
    features: Features,
    block_bytes: usize,
}

impl<B: Backend> Draft<B> {
    /// Loads the draft of `target`, which it fits; a head taps it.
    pub(super) fn load(
        backend: &B,
        draft: DraftCheckpoint<'_>,
        target_checkpoint: &Checkpoint,
        target: &mut Llama<B>,
        shape: Shape,
    ) -> Result<Self, Error> {
        let model = |checkpoint, translation| {
            let model = Model::load(backend, checkpoint, translation, shape, &mut |_, _| {})?;
            Ok(Self::Model(model))
        };
        let context_len = shape.context_len_max.min(draft.context_len_max());
        let head = match draft {
            DraftCheckpoint::Model(checkpoint) => return model(checkpoint, None),
            DraftCheckpoint::Translated { checkpoint, translation } => {
                return model(checkpoint, Some(translation.clone()));
            }
            DraftCheckpoint::Eagle3(checkpoint) => {
                target.tap(&checkpoint.config().taps_in(target.config().n_layers)?);
                Head::Eagle3(Eagle3::load(backend, checkpoint, target_checkpoint, context_len)?)
            }
            DraftCheckpoint::Mtp(checkpoint) => {
                target.tap(&[target.config().n_layers]);
                Head::Mtp(Mtp::load(backend, checkpoint, target_checkpoint, context_len)?)
            }
        };
        let (layer, n_blocks) = (draft.config(), shape.n_blocks as usize);
        Ok(Self::Head(HeadDraft {
            head,
            kv: backend.kv_store(&head_kv_shape(layer, n_blocks)),
            features: Features::new(n_blocks, backend.block_len(), layer.hidden),
            block_bytes: draft.block_bytes(backend),
        }))
    }

    pub(super) fn weight_bytes(&self, backend: &B) -> usize {
        match self {
            Self::Model(model) => model.llama.weight_bytes(backend),
            Self::Head(draft) => draft.head.weight_bytes(backend),
        }
    }

    /// Bytes of one block of its stores.
    pub(super) fn block_bytes(&self, backend: &B) -> usize {
        match self {
            Self::Model(model) => block_bytes(backend, model.llama.config()),
            Self::Head(draft) => draft.block_bytes,
        }
    }

    pub(super) fn copy_blocks(&mut self, backend: &B, copies: &[BlockCopy]) {
        match self {
            Self::Model(model) => backend.copy_blocks(&mut model.kv, copies),
            Self::Head(draft) => {
                backend.copy_blocks(&mut draft.kv, copies);
                draft.features.copy_blocks(copies);
            }
        }
    }

    /// See [`Executor::move_slots`](dsde_engine::Executor::move_slots).
    pub(super) fn move_slots(&mut self, backend: &B, target: &[SlotMove], draft: &[SlotMove]) {
        match self {
            Self::Model(model) => backend.move_slots(&mut model.kv, draft),
            Self::Head(head) => {
                backend.move_slots(&mut head.kv, draft);
                head.features.move_slots(target);
            }
        }
    }

    /// Takes in what the target made of `rows`, all of which its last pass ended with.
    pub(super) fn read_target(&mut self, backend: &B, target: &Llama<B>, rows: &RowBatch) {
        if let Self::Head(HeadDraft { head, features, .. }) = self {
            let n_rows = rows.n_rows();
            features.write(rows, 0..n_rows, head.combine(backend, target.taps(n_rows), n_rows));
        }
    }

    /// What it passes with.
    pub(super) fn reader<'a>(&'a mut self, target: &'a Llama<B>) -> Reader<'a, B> {
        match self {
            Self::Model(model) => Reader::Model(model),
            Self::Head(draft) => Reader::Head { draft, target },
        }
    }
}

/// A draft under way.
pub(super) enum Reader<'a, B: Backend> {
    Model(&'a mut Model<B>),
    Head { draft: &'a mut HeadDraft<B>, target: &'a Llama<B> },
}

impl<B: Backend> Reader<'_, B> {
    /// See [`Llama::forward`].
    pub(super) fn forward(&mut self, backend: &B, rows: &RowBatch, outputs: &[u32]) {
        match self {
            Self::Model(Model { llama, kv }) => llama.forward(backend, rows, outputs, kv),
            Self::Head { draft: HeadDraft { head, kv, features, .. }, target } => {
                head.forward(backend, target, rows, outputs, (features, kv));
            }
        }
    }

    /// See [`Llama::logits`].
    pub(super) fn logits(&mut self, backend: &B, outputs: Range<usize>) -> &mut [f32] {
        match self {
            Self::Model(model) => model.llama.logits(backend, outputs),
            Self::Head { draft, target } => draft.head.logits(backend, target, outputs),
        }
    }

    pub(super) fn vocab_len(&self) -> usize {
        match self {
            Self::Model(model) => model.llama.vocab_len(),
            Self::Head { target, .. } => target.config().vocab_len,
        }
    }
}
