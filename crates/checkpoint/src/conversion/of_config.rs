//! What the metadata of a GGUF file say about a model, from its configuration.

use crate::config::{Family, ModelConfig, Rope, RopeScaling, SamplingDefaults};
use crate::error::Error;
use crate::gguf::Keys;

/// Whether chosen experts are scaled follows from the architecture in GGUF files, and all layers have experts or none has.
///
/// # Errors
/// [`Error::Unsupported`] for models of which neither is true.
pub(super) fn refuse_experts(config: &ModelConfig) -> Result<(), Error> {
    let Some(experts) = &config.experts else { return Ok(()) };
    let unsupported =
        |feature, got: String| Err(Error::Unsupported { feature, got, hint: "use the folder as it is" });
    if experts.is_renormalised != (config.family != Family::Olmoe) {
        let got = format!("norm_topk_prob: {}", experts.is_renormalised);
        return unsupported("this weighting of experts in a GGUF file", got);
    }
    match (0..config.n_layers).find(|&layer| experts.is_dense(layer)) {
        Some(layer) => unsupported("a layer without experts in a GGUF file", format!("layer {layer}")),
        None => Ok(()),
    }
}

/// All keys about the model itself.
///
/// # Errors
/// [`Error::Unsupported`] for architectures of which no files are written, and for a scaling that no key says.
pub(super) fn keys(config: &ModelConfig) -> Result<Keys, Error> {
    if !config.family.is_written() {
        return unsupported("writing a GGUF file of this architecture", config.family.architecture().into());
    }
    let rope = &config.ropes[0];
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
        .u32(&key("rope.dimension_count"), rope.rotary_dim as u32)
        .f32(&key("rope.freq_base"), rope.theta as f32);
    if let Some(experts) = &config.experts {
        keys.u32(&key("expert_count"), experts.n_experts as u32)
            .u32(&key("expert_used_count"), experts.n_chosen as u32)
            .u32(&key("expert_feed_forward_length"), experts.intermediate as u32);
    }
    if let Some(factor) = linear_factor(rope)? {
        keys.text(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), factor as f32);
    }
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        keys.u32(&key("attention.sliding_window"), window);
    }
    add_sampling(&mut keys, &config.sampling);
    Ok(keys)
}

/// By what positions are divided, if they are; factors per pair are a tensor, and no key.
///
/// # Errors
/// [`Error::Unsupported`] for what no key says.
fn linear_factor(rope: &Rope) -> Result<Option<f64>, Error> {
    if rope.span != rope.rotary_dim {
        return unsupported("writing a GGUF file with pairs that do not turn", format!("{rope:?}"));
    }
    match rope.scaling {
        RopeScaling::None | RopeScaling::Factors(_) | RopeScaling::Llama3 { .. } => Ok(None),
        RopeScaling::Linear { factor } => Ok(Some(factor)),
        RopeScaling::Dynamic { .. } | RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. } => {
            unsupported("writing a GGUF file with this rotary scaling", format!("{:?}", rope.scaling))
        }
    }
}

fn add_sampling(keys: &mut Keys, sampling: &SamplingDefaults) {
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
}

fn unsupported<T>(feature: &'static str, got: String) -> Result<T, Error> {
    const HINT: &str = "run the folder as it is, or write the file with another program";
    Err(Error::Unsupported { feature, got, hint: HINT })
}
