//! One model as `inspect` tells of it.

use std::io::{self, Write};

use dsde_checkpoint::config::{KvHeads, ModelConfig, SamplingDefaults};
use dsde_kernels::{Backend as _, Cpu};
use dsde_model::executor::{block_bytes, state_bytes};
use serde::Serialize;

use super::parameters::n_parameters;
use crate::opened::{Dtypes, Opened};
use crate::sampling::shortest;
use crate::speculation::Source;
use crate::stores::bytes;

#[derive(Serialize)]
pub(super) struct Model {
    pub(super) source: String,
    architecture: &'static str,
    /// Tensors of every element type, as stored.
    dtypes: Dtypes,
    parameters: u64,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    /// Of a model that has them.
    experts: Option<Experts>,
    /// Layers with a state in place of keys and values.
    delta_layers: usize,
    /// Layers with other key/value heads than the others.
    other_heads: Option<OtherHeads>,
    /// Layers that read the keys and values of others.
    sharing_layers: usize,
    /// Rows of the embedding.
    pub(super) vocab_len: usize,
    /// Rows of the embedding table, padding included.
    n_embeddings: usize,
    context_len_max: u32,
    eos_tokens: Vec<u32>,
    bos_token: Option<u32>,
    /// What the authors recommend; `null` where they recommend nothing.
    sampling: Sampling,
    tied_embeddings: bool,
    chat_template: bool,
    /// In memory, less the padding of packed matrices.
    weight_bytes: usize,
    kv_bytes_per_token: usize,
    /// Of one sequence.
    state_bytes: usize,
}

#[derive(Clone, Copy, Serialize)]
struct Experts {
    experts: usize,
    /// How many of them a row asks.
    chosen: usize,
    intermediate: usize,
    /// Layers that have them.
    layers: usize,
}

#[derive(Clone, Copy, Serialize)]
struct OtherHeads {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

#[derive(Serialize)]
struct Sampling {
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    #[serde(skip)]
    text: String,
}

impl Model {
    pub(super) fn new(source: &Source, opened: &Opened, backend: &Cpu) -> Self {
        let config = opened.config();
        let template = opened.chat_template();
        Self {
            source: source.to_string(),
            architecture: config.family.architecture(),
            dtypes: opened.dtypes(),
            parameters: n_parameters(config),
            layers: config.n_layers,
            hidden: config.hidden,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            intermediate: config.intermediate,
            experts: Experts::of(config),
            delta_layers: config.n_delta_layers(),
            other_heads: OtherHeads::of(config),
            sharing_layers: config.layers.iter().filter(|layer| !layer.is_delta && !layer.stores()).count(),
            state_bytes: state_bytes(backend, config),
            vocab_len: config.vocab_len,
            n_embeddings: config.n_embeddings,
            context_len_max: config.context_len_max,
            eos_tokens: opened.eos_tokens(template.as_ref().ok()),
            bos_token: config.bos_token,
            sampling: Sampling::new(&config.sampling),
            tied_embeddings: config.tie_embeddings,
            chat_template: template.is_ok(),
            weight_bytes: opened.checkpoint.weight_bytes(),
            kv_bytes_per_token: block_bytes(backend, config) / backend.block_len(),
        }
    }

    /// All of it but where it comes from, for people.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { architecture, dtypes, layers, hidden, heads, kv_heads, head_dim, intermediate, .. } = self;
        writeln!(out, "  {architecture}, {:.1} million parameters, {dtypes}", self.parameters as f64 / 1e6)?;
        writeln!(
            out,
            "  {layers} layers, hidden {hidden}, {heads} heads ({kv_heads} key/value) of {head_dim}, feed-forward {intermediate}"
        )?;
        if let Some(OtherHeads { layers, kv_heads, head_dim }) = self.other_heads {
            writeln!(out, "  {layers} of the layers have heads of {head_dim} ({kv_heads} key/value)")?;
        }
        if self.sharing_layers > 0 {
            writeln!(out, "  {} of the layers read keys and values of others", self.sharing_layers)?;
        }
        if let Some(Experts { experts, chosen, intermediate, layers }) = self.experts {
            writeln!(
                out,
                "  {experts} experts of {intermediate} in {layers} layers, {chosen} of them per token"
            )?;
        }
        if self.delta_layers > 0 {
            writeln!(
                out,
                "  {} of the layers have a state, {} for each sequence",
                self.delta_layers,
                bytes(self.state_bytes)
            )?;
        }
        writeln!(
            out,
            "  vocabulary {}, {} rows of {} embeddings",
            self.vocab_len,
            self.n_embeddings,
            if self.tied_embeddings { "tied" } else { "separate" }
        )?;
        writeln!(
            out,
            "  context {} tokens, end of text {:?}, {}",
            self.context_len_max,
            self.eos_tokens,
            if self.chat_template { "chat template" } else { "no chat template" }
        )?;
        if !self.sampling.text.is_empty() {
            writeln!(out, "  sampling unless asked otherwise: {}", self.sampling.text)?;
        }
        writeln!(
            out,
            "  {} of weights, {} of keys and values per token",
            bytes(self.weight_bytes),
            bytes(self.kv_bytes_per_token)
        )
    }
}

impl OtherHeads {
    fn of(config: &ModelConfig) -> Option<Self> {
        let layers = config.layers.iter().filter(|layer| layer.kv_heads.is_some()).count();
        let KvHeads { n_kv_heads, head_dim } = config.layers.iter().find_map(|layer| layer.kv_heads)?;
        Some(Self { layers, kv_heads: n_kv_heads, head_dim })
    }
}

impl Experts {
    fn of(config: &ModelConfig) -> Option<Self> {
        let experts = config.experts.as_ref()?;
        let layers = (0..config.n_layers).filter(|&layer| !experts.is_dense(layer)).count();
        let (chosen, intermediate) = (experts.n_chosen, experts.intermediate);
        Some(Self { experts: experts.n_experts, chosen, intermediate, layers })
    }
}

impl Sampling {
    fn new(defaults: &SamplingDefaults) -> Self {
        Self {
            temperature: defaults.temperature.map(shortest),
            top_p: defaults.top_p.map(shortest),
            top_k: defaults.top_k,
            min_p: defaults.min_p.map(shortest),
            repetition_penalty: defaults.repetition_penalty.map(shortest),
            text: defaults.to_string(),
        }
    }
}
