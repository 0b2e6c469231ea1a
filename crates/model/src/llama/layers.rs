//! The layers of a pass: what each makes of the residual stream of ragged rows, and which rows pass the last ones.

use std::ops::Range;

use dsde_engine::RowBatch;

use dsde_checkpoint::config::{LayerConfig, ModelConfig};
use dsde_kernels::{Backend, Input, RmsNorm};

use super::Llama;
use crate::attention::AttentionPass;
use crate::buffers::{Buffers, Joint, gather_rows};
use crate::layer_inputs;
use crate::states::States;
use crate::weights::{Layer, Mixer};

impl<B: Backend> Llama<B> {
    /// Another part of [`Llama::forward`]: some layers. All have run once the parts are joined.
    ///
    /// * `layers`: from the one after the last that has run; all of them if the model has delta layers.
    /// * `rows`: those that the pass began with, less those that have been dropped ([`Llama::keep_rows`]).
    pub fn run_layers(
        &mut self,
        backend: &B,
        layers: Range<usize>,
        rows: &RowBatch,
        outputs: &[u32],
        kv: &mut B::KvStore,
    ) {
        check_rows(rows, outputs);
        let has_delta = self.config.delta.is_some();
        assert!(!has_delta || layers == (0..self.config.n_layers), "states go through a pass once");
        self.states.iter_mut().for_each(|states| states.begin(rows));
        let last_kept = (layers.end == self.config.n_layers).then(|| self.last_kept_layer());
        let end = last_kept.map_or(layers.end, |last| (last + 1).clamp(layers.start, layers.end));
        let is_unwanted = outputs.is_empty();
        self.mix_and_feed(backend, layers.start..end, rows, outputs, last_kept.filter(|_| is_unwanted), kv);
        if end < layers.end && !is_unwanted {
            self.run_wanted(backend, end..layers.end, rows, outputs, kv);
        }
        self.states.iter_mut().for_each(States::end);
    }

    /// Runs layers behind the last that leaves something, for the rows of outputs alone.
    fn run_wanted(
        &mut self,
        backend: &B,
        layers: Range<usize>,
        rows: &RowBatch,
        outputs: &[u32],
        kv: &mut B::KvStore,
    ) {
        gather_rows(&mut self.scratch.hidden, self.config.hidden, outputs);
        gather_rows(&mut self.scratch.layer_inputs.inputs, layer_inputs::row_len(&self.config), outputs);
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.copy_rows(rows, outputs);
        let all: Vec<u32> = (0..outputs.len() as u32).collect();
        self.mix_and_feed(backend, layers, &wanted, &all, None, kv);
        self.wanted = wanted;
    }

    /// See [`Llama::run_layers`].
    ///
    /// * `last`: the layer of which only what is stored is needed.
    fn mix_and_feed(
        &mut self,
        backend: &B,
        layers: Range<usize>,
        rows: &RowBatch,
        outputs: &[u32],
        last: Option<usize>,
        kv: &mut B::KvStore,
    ) {
        let mut n_rows = rows.n_rows();
        let mut buffers = self.scratch.buffers(&self.config, self.tapped.len(), n_rows);
        let n_layers = self.weights.layers.len();
        let is_end_tapped = self.tapped.contains(&n_layers);
        for i in layers {
            buffers.keep_taps(&self.tapped, i, self.config.hidden);
            let Buffers { hidden, qkv, mixed, gates, delta: delta_scratch, .. } = &mut buffers;
            let layer = &self.weights.layers[i];
            let norm = RmsNorm { weight: &layer.attention_norm, eps: self.config.rms_eps };
            let input = Input { x: hidden, norm: Some(norm) };
            let mixed = &mut mixed[..n_rows * layer.mixed_len];
            let is_last = i + 1 == n_layers;
            let is_ignored = last.is_some_and(|last| i >= last);
            match &layer.mixer {
                Mixer::Attention(attention) => {
                    let (config, kv_layer) = (&self.config, layer.idx);
                    let rope = config.layers[i].rope.map(|rope| &self.ropes[rope]);
                    let pass = AttentionPass { config, layer: i, kv_layer, rope, rows };
                    attention.store(backend, pass, input, kv, qkv);
                    if !is_ignored {
                        attention.attend(backend, pass, input, kv, (qkv, gates), mixed);
                    }
                }
                Mixer::Delta(delta) => {
                    let states = self.states.as_mut().expect("a model with delta layers has states");
                    let scratch = (&mut **delta_scratch, &mut **gates);
                    delta.forward(backend, layer.idx, (input, n_rows), states, scratch, mixed);
                }
            }
            if is_ignored {
                return;
            }
            if is_last && !is_end_tapped {
                gather_rows(hidden, self.config.hidden, outputs);
                gather_rows(mixed, layer.mixed_len, outputs);
                gather_rows(&mut buffers.layer_inputs.inputs, layer_inputs::row_len(&self.config), outputs);
                n_rows = outputs.len();
            }
            layer.finish(backend, &self.config, n_rows, &mut buffers);
            if is_last && is_end_tapped {
                buffers.keep_taps(&self.tapped, n_layers, self.config.hidden);
                gather_rows(buffers.hidden, self.config.hidden, outputs);
            }
        }
    }

    /// The last layer that leaves something for later passes or taps: of it, only what is stored is needed where nobody wants logits,
    /// and those behind it concern nobody but the rows whose logits somebody wants.
    fn last_kept_layer(&self) -> usize {
        let keeps = |layer: &LayerConfig| layer.stores() || layer.is_delta;
        let last = self.config.layers.iter().rposition(keeps).unwrap_or(0);
        self.tapped.iter().copied().fold(last, usize::max)
    }

    /// Goes on with some rows of the pass under way; the keys and values of the others stay as far as they were computed.
    ///
    /// * `kept`: ascending.
    pub fn keep_rows(&mut self, kept: &[u32]) {
        gather_rows(&mut self.scratch.hidden, self.config.hidden, kept);
        gather_rows(&mut self.scratch.taps, self.tapped.len() * self.config.hidden, kept);
        gather_rows(&mut self.scratch.layer_inputs.inputs, layer_inputs::row_len(&self.config), kept);
    }
}

impl<B: Backend> Layer<B> {
    /// From what is mixed to the residual stream behind the layer, in the first `n_rows` rows of `buffers`.
    pub(crate) fn finish(&self, backend: &B, config: &ModelConfig, n_rows: usize, buffers: &mut Buffers<'_>) {
        let norm = |weight| RmsNorm { weight, eps: config.rms_eps };
        let hidden = &mut buffers.hidden[..n_rows * config.hidden];
        let input = Input { x: &buffers.mixed[..n_rows * self.mixed_len], norm: None };
        let attention =
            Joint { norm: self.after_attention.as_deref().map(norm), scale: config.residual_scale };
        attention.add(backend, buffers.branch, hidden, |epilogue, out| {
            backend.linear(input, n_rows, &self.output, epilogue, out);
        });
        let input = Input { x: hidden, norm: Some(norm(&self.feed_forward_norm)) };
        self.feed_forward.read(backend, input, n_rows, buffers.feed_forward);
        let feed_forward =
            Joint { norm: self.after_feed_forward.as_deref().map(norm), scale: config.residual_scale };
        feed_forward.add(backend, buffers.branch, hidden, |epilogue, out| {
            self.feed_forward.write(backend, n_rows, epilogue, buffers.feed_forward, out);
        });
        if let Some(input) = &self.input {
            input.add(backend, config, (buffers.layer_inputs, buffers.branch), n_rows, hidden);
        }
        if let Some(scale) = self.scale {
            hidden.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Shapes of a batch agree with each other and with `outputs`.
fn check_rows(rows: &RowBatch, outputs: &[u32]) {
    let n_rows = rows.n_rows();
    debug_assert!(
        [rows.positions.len(), rows.slots.len(), rows.visible_len.len(), rows.tree_mask.len()] == [n_rows; 4],
        "every row has a position, a slot and what it sees"
    );
    debug_assert_eq!(
        rows.offsets.last().copied().unwrap_or(0) as usize,
        n_rows,
        "offsets end at the last row"
    );
    debug_assert!(rows.table_ranges.len() >= rows.n_seqs(), "every sequence has a table");
    debug_assert!(outputs.is_sorted_by(|a, b| a < b), "outputs are ascending");
    debug_assert!(outputs.last().is_none_or(|&r| (r as usize) < n_rows), "outputs are rows");
}
