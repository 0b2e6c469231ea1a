//! Heads: a layer or a few that draft from what the target made of the tokens so far, EAGLE-3's, the target's own, or an assistant.
//!
//! The row of a token reads its embedding and the *feature* of the token before, which comes from the target where that has read
//! the token, and from the head itself where it was drafted. Features lie in [`Features`], a slot each, and so do keys and values.

use std::iter::repeat_n;
use std::ops::Range;

use dsde_checkpoint::config::ModelConfig;
use dsde_engine::{DraftDraw, RowBatch};
use dsde_kernels::{Backend, KvShape, RmsNorm};

use crate::assistant::Assistant;
use crate::eagle3::Eagle3;
use crate::features::Features;
use crate::llama::{Llama, kv_shape};
use crate::mtp::Mtp;

/// A head, loaded.
pub(crate) enum Head<B: Backend> {
    Eagle3(Eagle3<B>),
    Mtp(Mtp<B>),
    Assistant(Assistant<B>),
}

/// Rows of a draft pass, and which of them draw.
#[derive(Clone, Copy)]
pub(crate) struct Drawing<'a> {
    pub(crate) rows: &'a RowBatch,
    /// Those that draw, strictly ascending; without any, work that only serves logits is left out.
    pub(crate) outputs: &'a [u32],
    /// Whose they are, in the same order.
    pub(crate) draws: &'a [DraftDraw<'a>],
}

impl Drawing<'_> {
    /// Known tokens of the sequence of each output; the target has stored all but the last.
    pub(crate) fn known_lens(self) -> impl Iterator<Item = u32> {
        let of_draw = |draw: &DraftDraw<'_>| repeat_n(draw.history.len() as u32, draw.n_rows() as usize);
        self.draws.iter().flat_map(of_draw)
    }
}

/// Stores that a head works with.
pub(crate) struct HeadStores<'a, B: Backend> {
    pub(crate) features: &'a mut Features,
    /// Of [`head_kv_shape`] for its layer.
    pub(crate) kv: &'a mut B::KvStore,
    pub(crate) target_kv: &'a B::KvStore,
}

impl<B: Backend> Head<B> {
    /// Bytes of all weights as they lie in memory, rotary angles included.
    pub(crate) fn weight_bytes(&self, backend: &B) -> usize {
        match self {
            Self::Eagle3(head) => head.weight_bytes(backend),
            Self::Mtp(head) => head.weight_bytes(backend),
            Self::Assistant(head) => head.weight_bytes(backend),
        }
    }

    /// Keeps features of rows that the target has read in its last pass: of all, or, of an assistant, of its outputs.
    pub(crate) fn read_target(
        &mut self,
        backend: &B,
        target: &Llama<B>,
        (rows, outputs): (&RowBatch, &[u32]),
        features: &mut Features,
    ) {
        let n_rows = rows.n_rows();
        match self {
            Self::Eagle3(head) => {
                features.write(rows, 0..n_rows, head.combine(backend, target.taps(n_rows), n_rows));
            }
            Self::Mtp(head) => {
                features.write(rows, 0..n_rows, head.combine(backend, target.taps(n_rows), n_rows));
            }
            Self::Assistant(head) => {
                let made = head.read_target(backend, target, outputs.len());
                features.write(rows, outputs.iter().map(|&r| r as usize), made);
            }
        }
    }

    /// Stores keys and values of the rows, of a head that has some, and computes the output of those that draw, which becomes the
    /// feature of their slots.
    ///
    /// # Panics
    /// If a token or a position lies outside the head; the engine admits no such request.
    pub(crate) fn forward(
        &mut self,
        backend: &B,
        target: &Llama<B>,
        drawing: Drawing<'_>,
        HeadStores { features, kv, target_kv }: HeadStores<'_, B>,
    ) {
        let Drawing { rows, outputs, .. } = drawing;
        match self {
            Self::Eagle3(head) => head.forward(backend, target, rows, outputs, features, kv),
            Self::Mtp(head) => head.forward(backend, target, rows, outputs, features, kv),
            Self::Assistant(head) => head.forward(backend, (target, target_kv), drawing, features),
        }
    }

    /// Logits `[outputs.len(), vocab_len]` of the target's tokens behind a range of the last pass' outputs, for the caller to
    /// change as it likes: `-inf` for tokens that the head does not guess.
    ///
    /// * `outputs`: indices into the `outputs` of [`Head::forward`].
    pub(crate) fn logits(&mut self, backend: &B, target: &Llama<B>, outputs: Range<usize>) -> &mut [f32] {
        match self {
            Self::Eagle3(head) => head.logits(backend, outputs, target.config().vocab_len),
            Self::Mtp(head) => head.logits(backend, target, outputs),
            Self::Assistant(head) => head.logits(backend, target, outputs),
        }
    }
}

/// The key/value store that a head needs.
pub(crate) fn head_kv_shape(layer: &ModelConfig, n_blocks: usize) -> KvShape {
    let mut shape = kv_shape(layer, n_blocks);
    // The first token of a sequence has no feature before it.
    shape.layers.iter_mut().for_each(|layer| layer.first_slot = 1);
    shape
}

/// Rows of two tables, normalised, one beside the other.
///
/// * `tables`: `[n_rows, width]` each; so `out` is `[n_rows, 2 * width]`.
pub(crate) fn beside_each_other<B: Backend>(
    backend: &B,
    tables: [&[f32]; 2],
    norms: [RmsNorm<'_>; 2],
    out: &mut [f32],
) {
    let width = norms[0].weight.len();
    for (half, (table, norm)) in tables.into_iter().zip(norms).enumerate() {
        for (row, out) in table.chunks_exact(width).zip(out.chunks_exact_mut(2 * width)) {
            backend.rms_norm(row, norm, &mut out[half * width..][..width]);
        }
    }
}
