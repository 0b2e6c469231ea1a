//! Attention of a layer: which weights it has, and how it goes through a pass.

use dsde_checkpoint::config::{KvHeads, KvSource, ModelConfig};
use dsde_engine::RowBatch;
use dsde_kernels::{
    AttentionRule, AttentionShape, Backend, Epilogue, Gate, Input, QkvTransform, RmsNorm, RopeTable, Stacking,
};

use crate::buffers::prefix;
use crate::error::Error;
use crate::weights::Tensors;

/// Weights of attention; norms of heads, sinks and gates only where the architecture has them.
pub(crate) struct Attention<B: Backend> {
    /// What projects queries, and keys and values as far as the layer has its own.
    qkv: B::Matrix,
    source: KvSource,
    shape: AttentionShape,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    /// Ones.
    v_norm: Option<Vec<f32>>,
    /// `[n_heads]`.
    sinks: Option<Vec<f32>>,
    /// What makes gates of the outputs, `[n_heads * head_dim, n_in]`.
    gates: Option<B::Matrix>,
}

/// A pass through the attention of one layer.
#[derive(Clone, Copy)]
pub(crate) struct AttentionPass<'a> {
    pub(crate) config: &'a ModelConfig,
    /// Its number among all layers.
    pub(crate) layer: usize,
    /// The layer of the store whose keys and values it reads.
    pub(crate) kv_layer: usize,
    pub(crate) rope: Option<&'a RopeTable>,
    pub(crate) rows: &'a RowBatch,
}

impl<B: Backend> Attention<B> {
    /// * `n_in`: width of what query, key and value are projected from.
    pub(crate) fn load(backend: &B, tensors: &Tensors<'_>, n_in: usize) -> Result<Self, Error> {
        let config = tensors.checkpoint.config();
        let layer = tensors.layer;
        let shape = attention_shape(config, layer);
        let stores = config.layers[layer].stores();
        let [q_norm_len, k_norm_len] = config.qk_norm_lens(layer);
        let qk_norm = |name, len, is_there: bool| is_there.then(|| tensors.norm(name, len)).transpose();
        let parts = config.projections_of(layer);
        let (qkv, gates) = match config.has_output_gate {
            false => (tensors.packed(backend, &parts, n_in, Stacking::Concat, config.has_qkv_bias)?, None),
            true => {
                let gated = tensors.checkpoint.gated_queries(layer)?;
                let mut qkv = vec![gated.queries()];
                for (module, n_out) in &parts[1..] {
                    qkv.push(tensors.matrix(module, *n_out, n_in)?);
                }
                let gates = backend.pack(&[gated.gates()], Stacking::Concat, None);
                (backend.pack(&qkv, Stacking::Concat, None), Some(gates))
            }
        };
        Ok(Self {
            qkv,
            source: config.layers[layer].kv,
            shape,
            q_norm: qk_norm("self_attn.q_norm", q_norm_len, config.has_qk_norm)?,
            k_norm: qk_norm("self_attn.k_norm", k_norm_len, config.has_qk_norm && stores)?,
            v_norm: (config.has_value_norm && stores).then(|| vec![1.0; shape.head_dim]),
            sinks: config.has_sinks.then(|| tensors.vector("self_attn.sinks", shape.n_heads)).transpose()?,
            gates,
        })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let Self { qkv, q_norm, k_norm, v_norm, sinks, gates, .. } = self;
        let matrices = [Some(qkv), gates.as_ref()].into_iter().flatten();
        let vectors = [q_norm, k_norm, v_norm, sinks].into_iter().flatten();
        matrices.map(|matrix| backend.matrix_bytes(matrix)).sum::<usize>()
            + vectors.map(|vector| size_of_val(vector.as_slice())).sum::<usize>()
    }

    /// How the layer attends.
    fn rule(&self, config: &ModelConfig, layer: usize) -> AttentionRule<'_> {
        AttentionRule {
            scale: config.attention_scale,
            soft_cap: config.attention_soft_cap,
            window: config.layers[layer].window.map(|window| window as usize),
            sinks: self.sinks.as_deref(),
        }
    }

    /// Stores keys and values of the rows, and leaves in `qkv` what [`Attention::attend`] reads.
    pub(crate) fn store(
        &self,
        backend: &B,
        pass: AttentionPass<'_>,
        input: Input<'_>,
        kv: &mut B::KvStore,
        qkv: &mut [f32],
    ) {
        let AttentionPass { kv_layer, rows, .. } = pass;
        let (n_rows, shape) = (rows.n_rows(), self.shape);
        let project = |out: &mut [f32]| backend.linear(input, n_rows, &self.qkv, Epilogue::Store, out);
        let qkv = &mut qkv[..n_rows * self.row_len()];
        match self.source {
            KvSource::Projections => project(qkv),
            KvSource::KeysAsValues => {
                let keys_len = shape.n_kv_heads * shape.head_dim;
                project(&mut qkv[..n_rows * (shape.queries_len() + keys_len)]);
                repeat_ends(qkv, shape.qkv_len(), keys_len);
            }
            KvSource::Layer(_) | KvSource::Target => return self.ask(backend, pass, input, qkv),
        }
        backend.store_kv(kv_layer, qkv, self.transform(pass), rows, kv);
    }

    /// The same of a layer that stores nothing.
    pub(crate) fn ask(&self, backend: &B, pass: AttentionPass<'_>, input: Input<'_>, queries: &mut [f32]) {
        let n_rows = pass.rows.n_rows();
        let queries = &mut queries[..n_rows * self.shape.queries_len()];
        backend.linear(input, n_rows, &self.qkv, Epilogue::Store, queries);
        backend.transform_queries(self.shape, queries, self.transform(pass), pass.rows);
    }

    fn transform<'a>(&'a self, AttentionPass { config, rope, .. }: AttentionPass<'a>) -> QkvTransform<'a> {
        let norm = |weight| RmsNorm { weight, eps: config.rms_eps };
        let [q_norm, k_norm, v_norm] =
            [&self.q_norm, &self.k_norm, &self.v_norm].map(|weight| weight.as_deref().map(norm));
        QkvTransform { q_norm, k_norm, v_norm, rope }
    }

    /// Numbers of a row between [`Attention::store`] and [`Attention::attend`].
    fn row_len(&self) -> usize {
        match self.source {
            KvSource::Projections | KvSource::KeysAsValues => self.shape.qkv_len(),
            KvSource::Layer(_) | KvSource::Target => self.shape.queries_len(),
        }
    }

    /// Attends, and gates what comes out.
    ///
    /// * `input`: as for [`Attention::store`].
    pub(crate) fn attend(
        &self,
        backend: &B,
        pass: AttentionPass<'_>,
        input: Input<'_>,
        kv: &B::KvStore,
        (qkv, gates): (&[f32], &mut Vec<f32>),
        attended: &mut [f32],
    ) {
        let AttentionPass { config, layer, kv_layer, rows, .. } = pass;
        let qkv = &qkv[..rows.n_rows() * self.row_len()];
        backend.attention(kv_layer, self.rule(config, layer), qkv, rows, kv, attended);
        if let Some(matrix) = &self.gates {
            let gates = prefix(gates, attended.len());
            backend.linear(input, rows.n_rows(), matrix, Epilogue::Store, gates);
            backend.gate(Gate::Sigmoid, gates, attended);
        }
    }
}

/// Shape of attention of a layer.
pub(crate) fn attention_shape(config: &ModelConfig, layer: usize) -> AttentionShape {
    let KvHeads { n_kv_heads, head_dim } = config.kv_heads_of(layer);
    AttentionShape { n_heads: config.n_heads, n_kv_heads, head_dim, first_slot: 0 }
}

/// Makes rows of `width` of rows that lack their last `n` elements, which are to be as the `n` before them; in place.
///
/// * `x`: `[n_rows, width]`, the shorter rows in front.
fn repeat_ends(x: &mut [f32], width: usize, n: usize) {
    let narrow = width - n;
    for row in (0..x.len() / width).rev() {
        x.copy_within(row * narrow..(row + 1) * narrow, row * width);
        x.copy_within(row * width + narrow - n..row * width + narrow, row * width + narrow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_rows_are_repeated_in_place() {
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 0.0, 0.0, 0.0];
        repeat_ends(&mut x, 4, 1);
        assert_eq!(x, [1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 6.0, 7.0, 8.0, 9.0, 9.0]);
        repeat_ends(&mut x[..6], 6, 2);
        assert_eq!(x[..6], [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        repeat_ends(&mut [], 4, 1);
    }
}
