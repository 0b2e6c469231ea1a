//! Buffers that live from pass to pass, and how parts of a layer join the residual stream in them.

use dsde_checkpoint::config::{DeltaShape, ModelConfig};
use dsde_kernels::{AttentionShape, Backend, Epilogue, RmsNorm};

use crate::attention::attention_shape;
use crate::delta::DeltaScratch;
use crate::feed_forward::FeedForwardScratch;
use crate::layer_inputs::LayerInputScratch;

/// How what a part of a layer computes joins the residual stream.
#[derive(Clone, Copy)]
pub(crate) struct Joint<'a> {
    pub(crate) norm: Option<RmsNorm<'a>>,
    pub(crate) scale: f32,
}

impl Joint<'_> {
    /// `hidden += scale * norm(x)`, where `write` adds or stores `x`.
    pub(crate) fn add<B: Backend>(
        self,
        backend: &B,
        branch: &mut Branch,
        hidden: &mut [f32],
        write: impl FnOnce(Epilogue, &mut [f32]),
    ) {
        if self.norm.is_none() && self.scale == 1.0 {
            return write(Epilogue::Add, hidden);
        }
        let computed = prefix(&mut branch.computed, hidden.len());
        write(Epilogue::Store, computed);
        let added = match self.norm {
            Some(norm) => {
                let normalised = prefix(&mut branch.normalised, hidden.len());
                backend.rms_norm(computed, norm, normalised);
                normalised
            }
            None => computed,
        };
        hidden.iter_mut().zip(added).for_each(|(hidden, x)| *hidden += self.scale * *x);
    }
}

/// What a part of a layer computed, before it joins the residual stream; `[n_rows, hidden]` each.
#[derive(Default)]
pub(crate) struct Branch {
    computed: Vec<f32>,
    normalised: Vec<f32>,
}

/// Buffers that live from pass to pass and grow to the largest pass seen.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) hidden: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    gates: Vec<f32>,
    delta: DeltaScratch,
    branch: Branch,
    pub(crate) feed_forward: FeedForwardScratch,
    pub(crate) layer_inputs: LayerInputScratch,
    pub(crate) taps: Vec<f32>,
    pub(crate) logits: Vec<f32>,
    /// Logits of a translated model, `[n_rows, n_shared]`.
    pub(crate) guessed: Vec<f32>,
}

/// [`Scratch`] cut to a pass.
pub(crate) struct Buffers<'a> {
    /// Residual stream, `[n_rows, hidden]`.
    pub(crate) hidden: &'a mut [f32],
    /// Queries, keys and values, `[n_rows, (n_heads + 2 * n_kv_heads) * head_dim]` of the layer where these are most.
    pub(crate) qkv: &'a mut [f32],
    /// Output of attention, `[n_rows, n_heads * head_dim]`, or of a delta layer, `[n_rows, values_width]`; the longer of both.
    pub(crate) mixed: &'a mut [f32],
    /// What outputs are gated by.
    pub(crate) gates: &'a mut Vec<f32>,
    pub(crate) delta: &'a mut DeltaScratch,
    pub(crate) branch: &'a mut Branch,
    pub(crate) feed_forward: &'a mut FeedForwardScratch,
    pub(crate) layer_inputs: &'a mut LayerInputScratch,
    /// Residual stream at the taps, `[n_rows, n_taps * hidden]`.
    taps: &'a mut [f32],
}

impl Buffers<'_> {
    /// Copies the residual stream, of which `n_done` layers have run, to the taps that are there.
    pub(crate) fn keep_taps(&mut self, tapped: &[usize], n_done: usize, width: usize) {
        for at in (0..tapped.len()).filter(|&at| tapped[at] == n_done) {
            let rows = self.hidden.chunks_exact(width);
            for (taps, row) in self.taps.chunks_exact_mut(tapped.len() * width).zip(rows) {
                taps[at * width..][..width].copy_from_slice(row);
            }
        }
    }
}

impl Scratch {
    pub(crate) fn buffers(&mut self, config: &ModelConfig, n_taps: usize, n_rows: usize) -> Buffers<'_> {
        let hidden = config.hidden;
        let longest = |len: fn(AttentionShape) -> usize| {
            (0..config.n_layers).map(|layer| len(attention_shape(config, layer))).max().unwrap_or(0)
        };
        let (qkv_len, queries_len) = (longest(AttentionShape::qkv_len), longest(AttentionShape::queries_len));
        let mixed_len = config.delta.map_or(0, DeltaShape::values_width).max(queries_len);
        Buffers {
            hidden: prefix(&mut self.hidden, n_rows * hidden),
            qkv: prefix(&mut self.qkv, n_rows * qkv_len),
            mixed: prefix(&mut self.mixed, n_rows * mixed_len),
            gates: &mut self.gates,
            delta: &mut self.delta,
            branch: &mut self.branch,
            feed_forward: &mut self.feed_forward,
            layer_inputs: &mut self.layer_inputs,
            taps: prefix(&mut self.taps, n_rows * n_taps * hidden),
        }
    }
}

/// The first `len` elements, after growing to at least as many.
pub(crate) fn prefix(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Moves the rows named by `outputs` (ascending) to the front.
pub(crate) fn gather_rows(rows: &mut [f32], width: usize, outputs: &[u32]) {
    for (to, &from) in outputs.iter().enumerate() {
        let from = from as usize * width;
        if from != to * width {
            rows.copy_within(from..from + width, to * width);
        }
    }
}
