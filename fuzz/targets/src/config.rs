//! `config.json` and `generation_config.json`, of models, EAGLE-3 heads and assistants.

use dsde_checkpoint::config::{Centroids, KvSource};
use dsde_checkpoint::{AssistantConfig, Eagle3Config, ModelConfig};

use crate::input::sections;

/// A configuration that is taken can be computed with.
///
/// Input: `config.json`, and behind a line of dashes `generation_config.json`.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sections = sections(&text);
    let file = sections.next().unwrap_or_default().as_bytes();
    if let Ok(config) = ModelConfig::parse(file, sections.next().map(str::as_bytes)) {
        assert_usable(&config);
    }
    if let Ok(head) = Eagle3Config::parse(file) {
        assert_usable(&head.layer);
        assert!((1..=head.layer.vocab_len).contains(&head.draft_vocab_len));
        for n_layers in [0, 1, 3, 40] {
            let taps = head.taps_in(n_layers).unwrap_or_default();
            assert!(n_layers == 0 || taps.iter().all(|&tap| tap < n_layers), "{taps:?}");
        }
    }
    if let Ok(assistant) = AssistantConfig::parse(file) {
        assert_usable_assistant(&assistant);
    }
    let _ = (Eagle3Config::describes(file), AssistantConfig::describes(file));
}

/// An assistant whose layers read what a target has stored, and whose groups hold all tokens.
pub(crate) fn assert_usable_assistant(assistant: &AssistantConfig) {
    let AssistantConfig { model, target_hidden, centroids, .. } = assistant;
    assert_usable(model);
    assert!(model.layers.iter().all(|layer| layer.kv == KvSource::Target));
    assert!((1..1 << 31).contains(target_hidden));
    if let Some(Centroids { n_centroids, n_chosen }) = centroids {
        assert!(model.vocab_len.is_multiple_of(*n_centroids) && (1..=*n_centroids).contains(n_chosen));
    }
}

/// What the documentation of [`ModelConfig`] promises: sizes whose products are numbers, finite factors, references that lead
/// somewhere.
pub(crate) fn assert_usable(config: &ModelConfig) {
    let sizes = [
        config.vocab_len,
        config.n_embeddings,
        config.hidden,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        config.intermediate,
        config.context_len_max as usize,
    ];
    for size in sizes {
        assert!((1..1 << 31).contains(&size), "a size of {size}");
    }
    assert!(config.vocab_len <= config.n_embeddings);
    assert!(config.n_heads.is_multiple_of(config.n_kv_heads) && config.head_dim.is_multiple_of(2));
    assert_eq!(config.layers.len(), config.n_layers);
    for (i, layer) in config.layers.iter().enumerate() {
        let heads = config.kv_heads_of(i);
        assert!(layer.window.is_none_or(|window| window > 0));
        assert!(layer.rope.is_none_or(|rope| config.ropes[rope].span <= heads.head_dim));
        assert!(config.n_heads.is_multiple_of(heads.n_kv_heads) && heads.head_dim.is_multiple_of(2));
        if let KvSource::Layer(below) = layer.kv {
            assert!(below < i && config.layers[below].stores() && config.kv_heads_of(below) == heads);
        }
    }
    assert!(!config.ropes.is_empty());
    for rope in &config.ropes {
        assert!((2..=rope.span).contains(&rope.rotary_dim) && rope.rotary_dim.is_multiple_of(2));
        assert!(rope.theta.is_finite() && rope.theta >= 1.0);
    }
    // Every number is shown.
    let shown = format!("{config:?}");
    let mut words = shown.split(|c: char| !c.is_alphanumeric());
    assert!(words.all(|word| word != "inf" && word != "NaN"), "{shown}");
    assert!(config.rms_eps > 0.0);
    let tokens = config.eos_tokens.iter().chain(&config.bos_token);
    tokens.for_each(|&token| assert!((token as usize) < config.vocab_len, "token {token}"));
    if let Some(experts) = &config.experts {
        assert!((1..=experts.n_experts).contains(&experts.n_chosen) && experts.intermediate > 0);
    }
}
