//! What differs between the layers of a model.

use super::{Family, ModelConfig};

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Positions that a row attends to, itself included, at least 1; `None` is all.
    pub window: Option<u32>,
    /// Which of [`ModelConfig::ropes`] turns queries and keys; `None` leaves them as they are.
    pub rope: Option<usize>,
    /// Whether it is a delta layer ([`ModelConfig::delta`]); otherwise one of attention.
    pub is_delta: bool,
    /// Its key/value heads where they are not those of [`ModelConfig`].
    pub kv_heads: Option<KvHeads>,
    /// Where its keys and values come from.
    pub kv: KvSource,
    /// Width of its feed-forward part where it is not [`ModelConfig::intermediate`].
    pub intermediate: Option<usize>,
}

/// Key/value heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHeads {
    /// How many; divides [`ModelConfig::n_heads`].
    pub n_kv_heads: usize,
    /// Elements of each, and of each query head; even.
    pub head_dim: usize,
}

/// Where the keys and values of a layer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSource {
    /// A projection each.
    Projections,
    /// One projection: values are what keys are before their norm and rotary embedding.
    KeysAsValues,
    /// Another layer below, which stores its own: the layer projects queries alone and reads those.
    Layer(usize),
    /// Another model, for which this one drafts: the last of its layers that stores some and has a window as this one has, or none.
    /// The layer projects queries alone.
    Target,
}

impl LayerConfig {
    /// One that sees everything, turned by the first rotary embedding.
    pub(super) const PLAIN: Self = Self {
        window: None,
        rope: Some(0),
        is_delta: false,
        kv_heads: None,
        kv: KvSource::Projections,
        intermediate: None,
    };

    /// Whether it has keys and values of its own.
    pub fn stores(&self) -> bool {
        !self.is_delta && matches!(self.kv, KvSource::Projections | KvSource::KeysAsValues)
    }
}

impl ModelConfig {
    /// Key/value heads of a layer.
    pub fn kv_heads_of(&self, layer: usize) -> KvHeads {
        let usual = KvHeads { n_kv_heads: self.n_kv_heads, head_dim: self.head_dim };
        self.layers[layer].kv_heads.unwrap_or(usual)
    }

    /// Width of the feed-forward part of a layer.
    pub fn intermediate_of(&self, layer: usize) -> usize {
        self.layers[layer].intermediate.unwrap_or(self.intermediate)
    }

    /// Key/value heads of the layers that store keys and values, from the first to the last.
    pub fn stored_kv_heads(&self) -> impl Iterator<Item = KvHeads> {
        (0..self.n_layers).filter(|&layer| self.layers[layer].stores()).map(|layer| self.kv_heads_of(layer))
    }

    /// Which of these a layer reads; one that reads those of another model, none of them.
    pub fn kv_layer(&self, layer: usize) -> usize {
        let stored_by = match self.layers[layer].kv {
            KvSource::Layer(below) => below,
            KvSource::Projections | KvSource::KeysAsValues | KvSource::Target => layer,
        };
        self.layers[..stored_by].iter().filter(|layer| layer.stores()).count()
    }

    /// What a layer of attention projects of its input: names within the layer, and numbers of outputs.
    pub fn projections_of(&self, layer: usize) -> Vec<(&'static str, usize)> {
        let KvHeads { n_kv_heads, head_dim } = self.kv_heads_of(layer);
        let (queries, keys) = (self.n_heads * head_dim, n_kv_heads * head_dim);
        let all = [("self_attn.q_proj", queries), ("self_attn.k_proj", keys), ("self_attn.v_proj", keys)];
        let n_projections = match self.layers[layer].kv {
            KvSource::Projections => 3,
            KvSource::KeysAsValues => 2,
            KvSource::Layer(_) | KvSource::Target => 1,
        };
        all[..n_projections].to_vec()
    }

    /// Elements that queries and keys of a layer are normalised over: those of a head, or of all heads together.
    pub fn qk_norm_lens(&self, layer: usize) -> [usize; 2] {
        let KvHeads { n_kv_heads, head_dim } = self.kv_heads_of(layer);
        match self.family {
            Family::Olmoe => [self.n_heads * head_dim, n_kv_heads * head_dim],
            _ => [head_dim; 2],
        }
    }
}
