//! From an assistant's states to tokens: by scores of all of them, or of those of the groups that score best.
//!
//! The latter is transformers' `Gemma4AssistantMaskedEmbedder`. Deviation: tokens of other groups have probability 0 here; there their
//! logits are 1 below the least of the pass, which greedy drafts never show and sampled ones would waste their guesses on.

use dsde_checkpoint::config::{Centroids, Experts};
use dsde_checkpoint::{AssistantCheckpoint, Dense};
use dsde_kernels::{Backend, Epilogue, Input, Routed, Stacking};

use crate::buffers::prefix;
use crate::error::Error;
use crate::feed_forward::experts::widened;
use crate::feed_forward::routing::Routing;

/// An output projection.
pub(super) enum Output<B: Backend> {
    All(B::Matrix),
    Grouped(Box<Grouped<B>>),
}

/// Groups of tokens, as a layer has experts.
pub(super) struct Grouped<B: Backend> {
    centroids: B::Matrix,
    /// The same as numbers of experts.
    choice: Experts,
    /// Rows of the output projection, group after group.
    groups: B::Experts,
    /// Tokens in the same order.
    order: Vec<u32>,
    group_len: usize,
    routing: Routing,
    /// `[n_rows, n_centroids]`.
    scores: Vec<f32>,
    /// Logits of the groups that rows chose, `[n_places, group_len]`.
    chosen: Vec<f32>,
}

impl<B: Backend> Output<B> {
    /// * `vocab_len`: as for [`Output::project`].
    pub(super) fn load(
        backend: &B,
        checkpoint: &AssistantCheckpoint,
        vocab_len: usize,
    ) -> Result<Self, Error> {
        let table = checkpoint.weights().output_projection()?;
        let Some((Centroids { n_centroids, n_chosen }, centroids)) =
            checkpoint.config().centroids.zip(checkpoint.centroids()?)
        else {
            let tokens = table.first_rows(vocab_len);
            return Ok(Self::All(backend.pack(&[tokens], Stacking::Concat, None)));
        };
        let order = checkpoint.order().to_vec();
        let group_len = order.len() / n_centroids;
        let row_bytes = table.dtype.row_bytes(table.n_in);
        let row = |&token: &u32| &table.bytes[token as usize * row_bytes..][..row_bytes];
        let mut sorted = Vec::with_capacity(order.len() * row_bytes);
        order.iter().for_each(|token| sorted.extend_from_slice(row(token)));
        let group = |bytes| [Dense::new(table.dtype, group_len, table.n_in, bytes)];
        let groups: Vec<[Dense<'_>; 1]> = sorted.chunks_exact(group_len * row_bytes).map(group).collect();
        let groups: Vec<&[Dense<'_>]> = groups.iter().map(<[_; 1]>::as_slice).collect();
        Ok(Self::Grouped(Box::new(Grouped {
            // In single precision, as what chooses experts: another choice is another guess.
            centroids: widened(backend, centroids, None),
            choice: Experts::uniform(n_centroids, n_chosen, group_len, true),
            groups: backend.pack_experts(&groups, Stacking::Concat, None),
            order,
            group_len,
            routing: Routing::default(),
            scores: Vec::new(),
            chosen: Vec::new(),
        })))
    }

    pub(super) fn bytes(&self, backend: &B) -> usize {
        match self {
            Self::All(matrix) => backend.matrix_bytes(matrix),
            Self::Grouped(grouped) => {
                let Grouped { centroids, groups, order, .. } = &**grouped;
                let matrices = backend.matrix_bytes(centroids) + backend.experts_bytes(groups);
                matrices + size_of_val(order.as_slice())
            }
        }
    }

    /// Logits of all tokens: `-inf` for those of groups that a row did not choose.
    ///
    /// * `states`: `[n_rows, hidden]`.
    /// * `logits`: `[n_rows, vocab_len]` of the target, which may have fewer tokens than there are embeddings.
    pub(super) fn project(&mut self, backend: &B, states: &[f32], n_rows: usize, logits: &mut [f32]) {
        match self {
            Self::All(matrix) => {
                backend.linear(Input { x: states, norm: None }, n_rows, matrix, Epilogue::Store, logits);
            }
            Self::Grouped(grouped) => grouped.project(backend, states, n_rows, logits),
        }
    }
}

impl<B: Backend> Grouped<B> {
    fn project(&mut self, backend: &B, states: &[f32], n_rows: usize, logits: &mut [f32]) {
        let scores = prefix(&mut self.scores, n_rows * self.choice.n_experts);
        let input = Input { x: states, norm: None };
        backend.linear(input, n_rows, &self.centroids, Epilogue::Store, scores);
        self.routing.route(&self.choice, scores, None);
        let chosen = prefix(&mut self.chosen, self.routing.n_places() * self.group_len);
        backend.linear_by_expert(states, self.routing.asked(), &self.groups, Epilogue::Store, chosen);
        self.spread(logits.len() / n_rows.max(1), logits);
    }

    /// Brings the logits of chosen groups to their tokens.
    fn spread(&self, vocab_len: usize, logits: &mut [f32]) {
        logits.fill(f32::NEG_INFINITY);
        let Routed { woken, sources } = self.routing.asked();
        let sources = sources.unwrap_or_default();
        let mut groups = woken.iter();
        let mut group = groups.next();
        for ((place, &row), chosen) in (0..).zip(sources).zip(self.chosen.chunks_exact(self.group_len)) {
            if group.is_some_and(|group| group.end <= place) {
                group = groups.next();
            }
            let centroid = group.expect("every place belongs to a group").expert as usize;
            let tokens = &self.order[centroid * self.group_len..][..self.group_len];
            let logits = &mut logits[row as usize * vocab_len..][..vocab_len];
            // Padding of the embeddings is no token of the target.
            let known = tokens.iter().zip(chosen).filter(|(token, _)| (**token as usize) < vocab_len);
            known.for_each(|(&token, &logit)| logits[token as usize] = logit);
        }
    }
}
