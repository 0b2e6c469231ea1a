//! The assistant of Gemma 4, which drafts from the keys and values of its target (the source is transformers'
//! `Gemma4AssistantForCausalLM` and `SinglePositionMultiTokenCandidateGenerator`).
//!
//! The row of a token reads its embedding beside the feature of the token before: the state behind the target's last norm, or, where
//! that token was drafted, what the assistant made of it. All rows of a proposal stand at the position of the last known token and see
//! the slots that the target has stored, those of the tokens before it. So the assistant stores nothing, and forgets by itself.
//!
//! Deviation: where a proposal was rejected, transformers lets the next one see the slot of the rejected token, too, which stands where
//! the last known one will. Here no row ever sees what was rejected, and drafts depend on known tokens alone.

mod output;

use std::ops::Range;

use dsde_checkpoint::config::{AssistantConfig, KvHeads, ModelConfig};
use dsde_checkpoint::{AssistantCheckpoint, Checkpoint};
use dsde_engine::RowBatch;
use dsde_kernels::{Backend, Epilogue, Input, RmsNorm, RopeTable, Stacking};

use crate::attention::AttentionPass;
use crate::buffers::{Buffers, Scratch, prefix};
use crate::error::Error;
use crate::features::Features;
use crate::head::Drawing;
use crate::llama::Llama;
use crate::rope::rope_table;
use crate::weights::{Layer, Mixer, Tensors};
use output::Output;

/// An assistant: packed weights, rotary angles and the buffers of a pass.
pub(crate) struct Assistant<B: Backend> {
    config: AssistantConfig,
    weights: Weights<B>,
    /// Which layer of the target's store each layer reads.
    kv_layers: Vec<usize>,
    ropes: Vec<RopeTable>,
    scratch: Scratch,
    /// Rows of the last pass whose outputs were asked for.
    rows: RowBatch,
    /// Embeddings of their tokens, `[n_rows, target_hidden]`; so for the next two.
    embedded: Vec<f32>,
    /// What the target or the assistant made of the tokens before.
    before: Vec<f32>,
    /// Features that come out.
    features: Vec<f32>,
    /// Embeddings and features, `[n_rows, 2 * target_hidden]`.
    inputs: Vec<f32>,
    /// States behind the last norm, `[n_rows, hidden]`.
    states: Vec<f32>,
}

struct Weights<B: Backend> {
    before: B::Matrix,
    layers: Vec<Layer<B>>,
    final_norm: Vec<f32>,
    behind: B::Matrix,
    output: Output<B>,
}

impl<B: Backend> Assistant<B> {
    /// Packs the weights of an assistant for a target that it fits ([`check_fit`]).
    ///
    /// * `context_len`: as for [`Llama::load`].
    ///
    /// # Errors
    /// If a tensor is absent or has another shape or element type than the configuration implies.
    pub(crate) fn load(
        backend: &B,
        checkpoint: &AssistantCheckpoint,
        target: &Checkpoint,
        context_len: u32,
    ) -> Result<Self, Error> {
        let config = checkpoint.config().clone();
        let ropes = config.model.ropes.iter().map(|rope| rope_table(rope, context_len as usize)).collect();
        Ok(Self {
            weights: Weights::load(backend, checkpoint, target.config().vocab_len)?,
            kv_layers: kv_layers(&config, target.config())?,
            ropes,
            scratch: Scratch::default(),
            rows: RowBatch::default(),
            embedded: Vec::new(),
            before: Vec::new(),
            features: Vec::new(),
            inputs: Vec::new(),
            states: Vec::new(),
            config,
        })
    }

    /// See [`Head::weight_bytes`](crate::head::Head::weight_bytes).
    pub(crate) fn weight_bytes(&self, backend: &B) -> usize {
        let n_angles: usize = self.ropes.iter().map(|rope| rope.cos.len()).sum();
        self.weights.bytes(backend) + 2 * n_angles * size_of::<f32>()
    }

    /// Features of the outputs of the target's last pass, `[n_outputs, target_hidden]`.
    pub(crate) fn read_target(&mut self, backend: &B, target: &Llama<B>, n_outputs: usize) -> &[f32] {
        let features = prefix(&mut self.features, n_outputs * self.config.target_hidden);
        target.states(backend, features);
        features
    }

    /// Computes the outputs of the rows that draw, which become the features of their slots.
    ///
    /// * `kv`: of the target.
    /// * `features`: of the slot before that of every row.
    ///
    /// # Panics
    /// If a token or a position lies outside the assistant; the engine admits no such request.
    pub(crate) fn forward(
        &mut self,
        backend: &B,
        (target, kv): (&Llama<B>, &B::KvStore),
        drawing: Drawing<'_>,
        features: &mut Features,
    ) {
        let n_rows = drawing.outputs.len();
        if n_rows == 0 {
            return;
        }
        self.rows.copy_rows(drawing.rows, drawing.outputs);
        self.join(backend, target, features);
        see_what_is_stored(&mut self.rows, drawing.known_lens());
        let Self { weights, config: AssistantConfig { model: config, .. }, rows, .. } = self;
        let mut buffers = self.scratch.buffers(config, 0, n_rows);
        let input = Input { x: &self.inputs[..n_rows * 2 * self.config.target_hidden], norm: None };
        backend.linear(input, n_rows, &weights.before, Epilogue::Store, buffers.hidden);
        for (i, layer) in weights.layers.iter().enumerate() {
            let rope = config.layers[i].rope.map(|rope| &self.ropes[rope]);
            let pass = AttentionPass { config, layer: i, kv_layer: self.kv_layers[i], rope, rows };
            let Buffers { hidden, qkv, mixed, gates, .. } = &mut buffers;
            let Mixer::Attention(attention) = &layer.mixer else { unreachable!("an assistant attends") };
            let norm = RmsNorm { weight: &layer.attention_norm, eps: config.rms_eps };
            let input = Input { x: hidden, norm: Some(norm) };
            attention.ask(backend, pass, input, qkv);
            let mixed = &mut mixed[..n_rows * layer.mixed_len];
            attention.attend(backend, pass, input, kv, (qkv, gates), mixed);
            layer.finish(backend, config, n_rows, &mut buffers);
        }
        let states = prefix(&mut self.states, n_rows * config.hidden);
        let norm = RmsNorm { weight: &weights.final_norm, eps: config.rms_eps };
        backend.rms_norm(buffers.hidden, norm, states);
        let made = prefix(&mut self.features, n_rows * self.config.target_hidden);
        backend.linear(Input { x: states, norm: None }, n_rows, &weights.behind, Epilogue::Store, made);
        features.write(rows, 0..n_rows, made);
    }

    /// Fills `inputs`.
    fn join(&mut self, backend: &B, target: &Llama<B>, features: &Features) {
        let (n_rows, width) = (self.rows.n_rows(), self.config.target_hidden);
        let embedded = prefix(&mut self.embedded, n_rows * width);
        target.embed(backend, &self.rows.tokens, embedded);
        let before = prefix(&mut self.before, n_rows * width);
        features.read(&self.rows, before);
        let halves = embedded.chunks_exact(width).zip(before.chunks_exact(width));
        let inputs = prefix(&mut self.inputs, n_rows * 2 * width);
        for (input, (embedded, before)) in inputs.chunks_exact_mut(2 * width).zip(halves) {
            let (left, right) = input.split_at_mut(width);
            left.iter_mut().zip(embedded).for_each(|(x, e)| *x = target.config().embedding_scale * e);
            right.copy_from_slice(before);
        }
    }

    /// See [`Head::logits`](crate::head::Head::logits).
    pub(crate) fn logits(&mut self, backend: &B, target: &Llama<B>, outputs: Range<usize>) -> &mut [f32] {
        let (n_rows, width) = (outputs.len(), self.config.model.hidden);
        let logits = prefix(&mut self.scratch.logits, n_rows * target.config().vocab_len);
        let states = &self.states[outputs.start * width..outputs.end * width];
        self.weights.output.project(backend, states, n_rows, logits);
        logits
    }
}

/// Puts rows where the last known token stands, and lets them see the slots before it.
///
/// * `known_lens`: of the sequence of each row.
fn see_what_is_stored(rows: &mut RowBatch, known_lens: impl Iterator<Item = u32>) {
    for (row, known_len) in known_lens.enumerate() {
        debug_assert!((2..=rows.positions[row] + 1).contains(&known_len), "a token is stored, another known");
        rows.positions[row] = known_len - 1;
        rows.visible_len[row] = known_len - 1;
        rows.tree_mask[row] = 0;
    }
}

impl<B: Backend> Weights<B> {
    /// * `vocab_len`: tokens of the target, without padding.
    fn load(backend: &B, checkpoint: &AssistantCheckpoint, vocab_len: usize) -> Result<Self, Error> {
        let (weights, config) = (checkpoint.weights(), &checkpoint.config().model);
        let tensors = |layer| Tensors { checkpoint: weights, layer, prefix: format!("model.layers.{layer}") };
        let layers = (0..config.n_layers).map(|layer| Layer::load(backend, tensors(layer), config.hidden));
        let [before, behind] = checkpoint.projections()?;
        Ok(Self {
            before: backend.pack(&[before], Stacking::Concat, None),
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: weights.norm("model.norm.weight", config.hidden)?,
            behind: backend.pack(&[behind], Stacking::Concat, None),
            output: Output::load(backend, checkpoint, vocab_len)?,
        })
    }

    fn bytes(&self, backend: &B) -> usize {
        let layers: usize = self.layers.iter().map(|layer| layer.bytes(backend)).sum();
        let projections = [&self.before, &self.behind].map(|matrix| backend.matrix_bytes(matrix));
        let norm = size_of_val(self.final_norm.as_slice());
        layers + norm + projections.iter().sum::<usize>() + self.output.bytes(backend)
    }
}

/// # Errors
/// [`Error::AssistantTarget`], [`Error::TargetHidden`], [`Error::VocabularyLen`], [`Error::AssistantKind`] or
/// [`Error::AssistantHeads`]: the assistant was not made for `target`.
pub(crate) fn check_fit(config: &AssistantConfig, target: &ModelConfig) -> Result<(), Error> {
    if target.family != config.model.family {
        return Err(Error::AssistantTarget { got: target.family.architecture() });
    }
    if target.hidden != config.target_hidden {
        return Err(Error::TargetHidden { expected: target.hidden, got: config.target_hidden });
    }
    let vocab_len = config.model.vocab_len;
    if ![target.vocab_len, target.n_embeddings].contains(&vocab_len) {
        return Err(Error::VocabularyLen { expected: target.vocab_len, got: vocab_len });
    }
    kv_layers(config, target).map(drop)
}

/// Which layer of the target's store each layer reads.
fn kv_layers(config: &AssistantConfig, target: &ModelConfig) -> Result<Vec<usize>, Error> {
    let read_by = |layer: usize| {
        let has_window = config.model.layers[layer].window.is_some();
        let is_read =
            |i: &usize| target.layers[*i].stores() && target.layers[*i].window.is_some() == has_window;
        let read = (0..target.n_layers).rfind(is_read).ok_or(Error::AssistantKind {
            layer,
            expected: if has_window { "with a window" } else { "that sees everything" },
        })?;
        let heads = |KvHeads { n_kv_heads, head_dim }| [n_kv_heads, head_dim];
        let [expected, got] = [target.kv_heads_of(read), config.model.kv_heads_of(layer)].map(heads);
        match expected == got {
            true => Ok(target.kv_layer(read)),
            false => Err(Error::AssistantHeads { layer, expected, got }),
        }
    };
    (0..config.model.n_layers).map(read_by).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The text of a fixture's configuration with one part in place of another.
    fn changed(name: &str, [from, to]: [&str; 2]) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
        let text = std::fs::read_to_string(folder.join("config.json")).expect("a fixture");
        assert!(text.contains(from), "{from}");
        text.replace(from, to).into_bytes()
    }

    fn check(assistant: [&str; 2], target: [&str; 2], expected: Option<&str>) {
        let assistant =
            AssistantConfig::parse(&changed("gemma4_assistant", assistant)).expect("an assistant");
        let target = ModelConfig::parse(&changed("gemma4", target), None).expect("a model");
        let error = check_fit(&assistant, &target).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), expected);
    }

    #[test]
    fn an_assistant_fits_by_width_vocabulary_and_what_it_reads() {
        let same = ["\"bos_token_id\"", "\"bos_token_id\""];
        let as_it_is = ["\"backbone_hidden_size\"", "\"backbone_hidden_size\""];
        check(as_it_is, same, None);
        check(
            ["\"backbone_hidden_size\": 16", "\"backbone_hidden_size\": 20"],
            same,
            Some(
                "this head reads states of 20 numbers, those of the model have 16; use the head of this very model",
            ),
        );
        check(
            as_it_is,
            ["\"vocab_size\": 48", "\"vocab_size\": 47"],
            Some("draft and target must have the same vocabulary: 47 tokens in one, 48 in the other"),
        );
        check(
            as_it_is,
            ["sliding_attention\",", "full_attention\","],
            Some(
                "layer 0 of this assistant reads a layer with a window, and the model has none; use the assistant of this very model",
            ),
        );
        check(
            ["\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1"],
            same,
            Some(
                "layer 0 of this assistant reads 1 key/value heads of 8 numbers, the model stores 2 of 8; use the assistant of this very model",
            ),
        );
    }

    /// Every row of a proposal stands where the last known token does, and sees what is stored.
    #[test]
    fn rows_see_the_tokens_before_the_last_known_one() {
        use dsde_engine::BlockId;
        use dsde_sampling::Proposal;

        let mut tree = Proposal::new();
        for (token, parent) in [(1, None), (2, None), (3, Some(0))] {
            tree.push(token, parent);
        }
        let mut rows = RowBatch::default();
        rows.push(6, &[9], &tree, &[BlockId(0)]);
        see_what_is_stored(&mut rows, [7; 4].into_iter());
        assert_eq!((rows.positions, rows.visible_len, rows.tree_mask), (vec![6; 4], vec![6; 4], vec![0; 4]));
        assert_eq!(rows.slots, [6, 7, 8, 9]);
    }
}
