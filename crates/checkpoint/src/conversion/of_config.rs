//! What the metadata of a GGUF file say about a model, from its configuration.

use crate::config::{ModelConfig, RopeScaling};
use crate::gguf::Keys;

/// All keys about the model itself.
pub(super) fn keys(config: &ModelConfig) -> Keys {
    let architecture = config.family.gguf_architecture();
    let key = |name: &str| format!("{architecture}.{name}");
    let mut keys = Keys::default();
    keys.text("general.architecture", architecture)
        .text("general.type", "model")
        .u32(&key("block_count"), config.n_layers as u32)
        .u32(&key("context_length"), config.context_len_max)
        .u32(&key("embedding_length"), config.hidden as u32)
        .u32(&key("feed_forward_length"), config.intermediate as u32)
        .u32(&key("attention.head_count"), config.n_heads as u32)
        .u32(&key("attention.head_count_kv"), config.n_kv_heads as u32)
        .u32(&key("attention.key_length"), config.head_dim as u32)
        .u32(&key("attention.value_length"), config.head_dim as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.rms_eps)
        .u32(&key("vocab_size"), config.n_embeddings as u32)
        .u32(&key("rope.dimension_count"), config.head_dim as u32)
        .f32(&key("rope.freq_base"), config.rope.theta as f32);
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        keys.text(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), factor as f32);
    }
    let sampling = &config.sampling;
    for (name, value) in [
        ("temp", sampling.temperature),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("penalty_repeat", sampling.repetition_penalty),
    ] {
        if let Some(value) = value {
            keys.f32(&format!("general.sampling.{name}"), value);
        }
    }
    if let Some(k) = sampling.top_k {
        keys.u32("general.sampling.top_k", k);
    }
    keys
}
