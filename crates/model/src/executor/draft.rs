//! Who guesses: a model of its own, or a head on the target.

use std::ops::Range;
use std::sync::Arc;

use dsde_checkpoint::config::ModelConfig;
use dsde_checkpoint::{AssistantCheckpoint, Checkpoint, Eagle3Checkpoint, MtpCheckpoint};
use dsde_engine::{BlockCopy, RowBatch, Shape, SlotMove};
use dsde_kernels::Backend;

use super::{Model, block_bytes};
use crate::assistant::{self, Assistant};
use crate::eagle3::{self, Eagle3};
use crate::error::Error;
use crate::features::Features;
use crate::head::{Drawing, Head, HeadStores, head_kv_shape};
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
    /// An assistant of Gemma 4.
    Assistant(&'a AssistantCheckpoint),
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
            Self::Assistant(head) => assistant::check_fit(head.config(), target),
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
            Self::Assistant(checkpoint) => checkpoint.weight_bytes(),
        }
    }

    /// Bytes of one block of its stores.
    pub fn block_bytes<B: Backend>(self, backend: &B) -> usize {
        match self {
            Self::Model(checkpoint) | Self::Translated { checkpoint, .. } => {
                block_bytes(backend, checkpoint.config())
            }
            Self::Eagle3(_) | Self::Mtp(_) | Self::Assistant(_) => {
                let features = Features::block_bytes(backend.block_len(), self.feature_len());
                features + backend.block_bytes(&head_kv_shape(self.config(), 1))
            }
        }
    }

    /// Longest sequence that it can read.
    pub(super) fn context_len_max(self) -> u32 {
        self.config().context_len_max
    }

    /// Numbers of a feature, of a head.
    fn feature_len(self) -> usize {
        match self {
            Self::Assistant(checkpoint) => checkpoint.config().target_hidden,
            _ => self.config().hidden,
        }
    }

    /// Of the model, or of the head's layers.
    fn config(self) -> &'a ModelConfig {
        match self {
            Self::Model(checkpoint) | Self::Translated { checkpoint, .. } => checkpoint.config(),
            Self::Eagle3(checkpoint) => &checkpoint.config().layer,
            Self::Mtp(checkpoint) => checkpoint.config(),
            Self::Assistant(checkpoint) => &checkpoint.config().model,
        }
    }

    pub(super) fn reads_target(self) -> bool {
        match self {
            Self::Eagle3(_) | Self::Mtp(_) | Self::Assistant(_) => true,
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
            DraftCheckpoint::Assistant(checkpoint) => {
                Head::Assistant(Assistant::load(backend, checkpoint, target_checkpoint, context_len)?)
            }
        };
        let n_blocks = shape.n_blocks as usize;
        Ok(Self::Head(HeadDraft {
            head,
            kv: backend.kv_store(&head_kv_shape(draft.config(), n_blocks)),
            features: Features::new(n_blocks, backend.block_len(), draft.feature_len()),
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
    ///
    /// * `outputs`: of that pass.
    pub(super) fn read_target(&mut self, backend: &B, target: &Llama<B>, rows: &RowBatch, outputs: &[u32]) {
        if let Self::Head(HeadDraft { head, features, .. }) = self {
            head.read_target(backend, target, (rows, outputs), features);
        }
    }

    /// What it passes with.
    pub(super) fn reader<'a>(&'a mut self, target: &'a Model<B>) -> Reader<'a, B> {
        match self {
            Self::Model(model) => Reader::Model(model),
            Self::Head(draft) => Reader::Head { draft, target },
        }
    }
}

/// A draft under way.
pub(super) enum Reader<'a, B: Backend> {
    Model(&'a mut Model<B>),
    Head { draft: &'a mut HeadDraft<B>, target: &'a Model<B> },
}

impl<B: Backend> Reader<'_, B> {
    /// See [`Llama::forward`].
    pub(super) fn forward(&mut self, backend: &B, drawing: Drawing<'_>) {
        match self {
            Self::Model(Model { llama, kv }) => llama.forward(backend, drawing.rows, drawing.outputs, kv),
            Self::Head { draft: HeadDraft { head, kv, features, .. }, target } => {
                let stores = HeadStores { features, kv, target_kv: &target.kv };
                head.forward(backend, &target.llama, drawing, stores);
            }
        }
    }

    /// See [`Llama::logits`].
    pub(super) fn logits(&mut self, backend: &B, outputs: Range<usize>) -> &mut [f32] {
        match self {
            Self::Model(model) => model.llama.logits(backend, outputs),
            Self::Head { draft, target } => draft.head.logits(backend, &target.llama, outputs),
        }
    }

    pub(super) fn vocab_len(&self) -> usize {
        match self {
            Self::Model(model) => model.llama.vocab_len(),
            Self::Head { target, .. } => target.llama.config().vocab_len,
        }
    }
}
