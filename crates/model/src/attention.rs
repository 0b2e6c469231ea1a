//! Attention of a layer: which weights it has, and how it goes through a pass.

use dsde_checkpoint::config::ModelConfig;
use dsde_engine::RowBatch;
use dsde_kernels::{
    AttentionRule, Backend, Epilogue, Gate, Input, QkvTransform, RmsNorm, RopeTable, Stacking,
};

use crate::error::Error;
use crate::llama::prefix;
use crate::weights::Tensors;

/// Weights of attention; norms of heads, sinks and gates only where the architecture has them.
pub(crate) struct Attention<B: Backend> {
    qkv: B::Matrix,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
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
    /// Its number among those of attention.
    pub(crate) kv_layer: usize,
    pub(crate) rope: Option<&'a RopeTable>,
    pub(crate) rows: &'a RowBatch,
}

impl<B: Backend> Attention<B> {
    /// * `n_in`: width of what query, key and value are projected from.
    pub(crate) fn load(backend: &B, tensors: &Tensors<'_>, n_in: usize) -> Result<Self, Error> {
        let config = tensors.checkpoint.config();
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
        let (q_len, kv_len) = (n_heads * head_dim, n_kv_heads * head_dim);
        let [q_norm_len, k_norm_len] = config.qk_norm_lens();
        let qk_norm = |name, len| config.has_qk_norm.then(|| tensors.norm(name, len)).transpose();
        let parts = [("self_attn.q_proj", q_len), ("self_attn.k_proj", kv_len), ("self_attn.v_proj", kv_len)];
        let (qkv, gates) = match config.has_output_gate {
            false => (tensors.packed(backend, &parts, n_in, Stacking::Concat, config.has_qkv_bias)?, None),
            true => {
                let gated = tensors.checkpoint.gated_queries(tensors.layer)?;
                let [_, (key, _), (value, _)] = parts;
                let qkv = [
                    gated.queries(),
                    tensors.matrix(key, kv_len, n_in)?,
                    tensors.matrix(value, kv_len, n_in)?,
                ];
                let gates = backend.pack(&[gated.gates()], Stacking::Concat, None);
                (backend.pack(&qkv, Stacking::Concat, None), Some(gates))
            }
        };
        Ok(Self {
            qkv,
            q_norm: qk_norm("self_attn.q_norm", q_norm_len)?,
            k_norm: qk_norm("self_attn.k_norm", k_norm_len)?,
            sinks: config.has_sinks.then(|| tensors.vector("self_attn.sinks", n_heads)).transpose()?,
            gates,
        })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self, backend: &B) -> usize {
        let Self { qkv, q_norm, k_norm, sinks, gates } = self;
        let matrices = [Some(qkv), gates.as_ref()].into_iter().flatten();
        let vectors = [q_norm, k_norm, sinks].into_iter().flatten();
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
        let AttentionPass { config, kv_layer, rope, rows, .. } = pass;
        backend.linear(input, rows.n_rows(), &self.qkv, Epilogue::Store, qkv);
        let norm = |weight| RmsNorm { weight, eps: config.rms_eps };
        let [q_norm, k_norm] = [&self.q_norm, &self.k_norm].map(|weight| weight.as_deref().map(norm));
        backend.store_kv(kv_layer, qkv, QkvTransform { q_norm, k_norm, v_norm: None, rope }, rows, kv);
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
        backend.attention(kv_layer, self.rule(config, layer), qkv, rows, kv, attended);
        if let Some(matrix) = &self.gates {
            let gates = prefix(gates, attended.len());
            backend.linear(input, rows.n_rows(), matrix, Epilogue::Store, gates);
            backend.gate(Gate::Sigmoid, gates, attended);
        }
    }
}
