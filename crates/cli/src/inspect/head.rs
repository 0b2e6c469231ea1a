//! What a head is, beside the model that it drafts for.

use std::io::{self, Write};

use dsde_checkpoint::config::{Eagle3Config, ModelConfig};
use dsde_checkpoint::{AssistantCheckpoint, Eagle3Checkpoint, MtpCheckpoint};
use dsde_kernels::{Backend as _, Cpu};
use dsde_model::executor::DraftCheckpoint;
use serde::Serialize;

use crate::opened::{Dtypes, Opened};
use crate::stores::bytes;

/// An EAGLE-3 head, the one that the model brings, or an assistant of Gemma 4.
#[derive(Serialize)]
pub(super) struct Head {
    architecture: &'static str,
    dtypes: Dtypes,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    /// Tokens that it can guess, of how many.
    draft_vocab_len: usize,
    vocab_len: usize,
    context_len_max: u32,
    /// It reads the model's states after so many layers; `null` if the model has too few.
    taps: Option<Vec<usize>>,
    own_embeddings: bool,
    weight_bytes: usize,
    /// Keys, values and features.
    kv_bytes_per_token: usize,
}

impl Head {
    pub(super) fn of_eagle3(head: &Eagle3Checkpoint, target: &Opened, backend: &Cpu) -> Self {
        let Eagle3Config { layer, draft_vocab_len, .. } = head.config();
        let taps = head.config().taps_in(target.config().n_layers);
        Self {
            architecture: "EAGLE-3",
            dtypes: Dtypes::of(head.dtypes()),
            draft_vocab_len: *draft_vocab_len,
            taps: taps.ok(),
            own_embeddings: head.embeddings().is_ok_and(|table| table.is_some()),
            ..Self::of_layer(layer, DraftCheckpoint::Eagle3(head), backend)
        }
    }

    pub(super) fn of_mtp(head: &MtpCheckpoint, target: &Opened, backend: &Cpu) -> Self {
        Self {
            architecture: "MTP",
            dtypes: Dtypes::of(head.dtypes()),
            taps: Some(vec![target.config().n_layers]),
            ..Self::of_layer(head.config(), DraftCheckpoint::Mtp(head), backend)
        }
    }

    pub(super) fn of_assistant(head: &AssistantCheckpoint, target: &Opened, backend: &Cpu) -> Self {
        Self {
            architecture: "Gemma 4 assistant",
            dtypes: Dtypes::of(head.dtypes()),
            taps: Some(vec![target.config().n_layers]),
            ..Self::of_layer(&head.config().model, DraftCheckpoint::Assistant(head), backend)
        }
    }

    /// What a layer and `draft` say, the head being the target's in all else.
    fn of_layer(layer: &ModelConfig, draft: DraftCheckpoint<'_>, backend: &Cpu) -> Self {
        Self {
            architecture: "",
            dtypes: Dtypes::of(Vec::new()),
            layers: layer.n_layers,
            hidden: layer.hidden,
            heads: layer.n_heads,
            kv_heads: layer.n_kv_heads,
            head_dim: layer.head_dim,
            intermediate: layer.intermediate,
            draft_vocab_len: layer.vocab_len,
            vocab_len: layer.vocab_len,
            context_len_max: layer.context_len_max,
            taps: None,
            own_embeddings: false,
            weight_bytes: draft.weight_bytes(),
            kv_bytes_per_token: draft.block_bytes(backend) / backend.block_len(),
        }
    }

    /// For people.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { architecture, dtypes, layers, hidden, heads, kv_heads, head_dim, intermediate, .. } = self;
        writeln!(out, "  {architecture} head, {dtypes}")?;
        let of_layers = if *layers == 1 { "layer" } else { "layers" };
        writeln!(
            out,
            "  {layers} {of_layers}, hidden {hidden}, {heads} heads ({kv_heads} key/value) of {head_dim}, feed-forward {intermediate}"
        )?;
        writeln!(
            out,
            "  guesses {} of {} tokens, {} embeddings",
            self.draft_vocab_len,
            self.vocab_len,
            if self.own_embeddings { "own" } else { "the model's" }
        )?;
        match self.taps.as_deref() {
            Some([low, middle, high]) => {
                writeln!(out, "  reads the model's states after {low}, {middle} and {high} layers")?;
            }
            Some([all]) => writeln!(out, "  reads the model's states after all {all} layers")?,
            _ => {}
        }
        writeln!(out, "  context {} tokens", self.context_len_max)?;
        writeln!(
            out,
            "  {} of weights, {} of keys, values and features per token",
            bytes(self.weight_bytes),
            bytes(self.kv_bytes_per_token)
        )
    }
}
