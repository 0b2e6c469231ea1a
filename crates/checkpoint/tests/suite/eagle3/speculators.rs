//! Heads in the format of `speculators`, whose layer has an object of its own, and heads with further norms.

use dsde_checkpoint::Eagle3Config;
use dsde_checkpoint::config::Family;
use serde_json::{Value, json};

use super::{GUESSED, HIDDEN, VOCAB, config, floats, opened, parsed, tensors, with};

/// The head of the other tests in that format.
fn nested(outer: &Value, inner: &Value) -> Value {
    let mut layer = with(inner);
    layer
        .as_object_mut()
        .unwrap()
        .retain(|field, _| !["architectures", "draft_vocab_size"].contains(&field.as_str()));
    let mut nested = json!({
        "architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3", "draft_vocab_size": GUESSED.len(),
        "norm_before_residual": false, "target_hidden_size": null, "embed_requires_grad": false,
        "speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "somebody/something"}},
        "transformer_layer_config": layer,
    });
    nested.as_object_mut().unwrap().append(&mut outer.as_object().unwrap().clone());
    nested
}

fn of(config: &Value) -> Result<Eagle3Config, String> {
    Eagle3Config::parse(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn the_layer_in_an_object_of_its_own_is_the_same_head() {
    let plain = of(&config()).unwrap();
    for name in ["Eagle3Speculator", "Eagle3DraftModel"] {
        let config = nested(&json!({"architectures": [name]}), &json!({}));
        assert!(Eagle3Config::describes(config.to_string().as_bytes()).unwrap());
        assert_eq!(of(&config).unwrap(), plain);
    }
    // Left out it is true, as vLLM reads it.
    let mut silent = nested(&json!({}), &json!({}));
    silent.as_object_mut().unwrap().remove("norm_before_residual");
    assert!(of(&silent).unwrap().norm_before_residual);
    let taps = nested(&json!({"eagle_aux_hidden_state_layer_ids": [3, 18, 33]}), &json!({}));
    assert_eq!(of(&taps).unwrap().taps_in(36).unwrap(), [3, 18, 33]);
    // What training leaves behind is not read.
    let mut tensors = tensors();
    tensors.insert("verifier_norm.weight".into(), floats(&[HIDDEN]));
    tensors.insert("verifier_lm_head.weight".into(), floats(&[GUESSED.len(), HIDDEN]));
    let head = opened(&nested(&json!({}), &json!({})), &tensors).unwrap();
    assert_eq!(head.vocabulary(), GUESSED);
}

#[test]
fn a_layer_of_qwen3_has_norms_of_queries_and_keys() {
    let qwen3 = json!({"model_type": "qwen3", "head_dim": 2});
    for config in [
        nested(&json!({}), &qwen3),
        with(&json!({"architectures": ["Eagle3Qwen3ForCausalLM"], "head_dim": 2})),
    ] {
        let parsed = of(&config).unwrap();
        assert_eq!((parsed.layer.family, parsed.layer.has_qk_norm), (Family::Qwen3, true));
        let mut tensors = tensors();
        for module in ["q_norm", "k_norm"] {
            tensors.insert(format!("midlayer.self_attn.{module}.weight"), floats(&[2]));
        }
        assert_eq!(
            opened(&config, &tensors).unwrap().weight_bytes(),
            opened(&super::config(), &super::tensors()).unwrap().weight_bytes() + 16
        );
    }
    let other = nested(&json!({}), &json!({"model_type": "mistral"}));
    assert_eq!(
        of(&other).unwrap_err(),
        "a head with another layer than those of Llama and Qwen3 is not supported (model_type: mistral); use another head"
    );
}

#[test]
fn norms_of_the_targets_states_are_read() {
    let joint = json!({"norm_before_fc": true});
    for changes in [
        joint.clone(),
        json!({"eagle_config": joint}),
        json!({"norm_before_fc": false, "eagle_config": joint}),
    ] {
        let mut tensors = tensors();
        assert_eq!(
            opened(&with(&changes), &tensors).unwrap_err(),
            "the weights lack tensor input_norm.weight"
        );
        tensors.insert("input_norm.weight".into(), floats(&[3 * HIDDEN]));
        let norms = opened(&with(&changes), &tensors).unwrap().state_norms().unwrap();
        assert_eq!(norms.iter().map(Vec::len).collect::<Vec<_>>(), [3 * HIDDEN]);
    }
    let mut tensors = tensors();
    for i in 0..3 {
        tensors.insert(format!("fc_norm.{i}.weight"), floats(&[HIDDEN]));
    }
    let head = opened(&with(&json!({"fc_norm": true, "norm_output": true})), &tensors).unwrap();
    assert_eq!(head.state_norms().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [HIDDEN; 3]);
    assert!(head.config().norm_output);
    // Norms that nobody asked for are another head.
    assert_eq!(
        opened(&config(), &tensors).unwrap_err(),
        "the weights have fc_norm.0.weight, which an EAGLE-3 head does not declare; use another head"
    );
    assert_eq!(
        parsed(&json!({"fc_norm": true, "norm_before_fc": true})).unwrap_err(),
        "states of the target that are normalised twice is not supported (norm_before_fc and fc_norm); use another head"
    );
}

#[test]
fn hostile_configurations_are_refused_by_name() {
    for (outer, inner, expected) in [
        (
            json!({"speculators_model_type": "peagle"}),
            json!({}),
            "a head of another algorithm is not supported (speculators_model_type: peagle); use another head",
        ),
        (
            json!({"eagle_config": {"use_aux_hidden_state": 0}}),
            json!({}),
            "use_aux_hidden_state must be true or false, got 0",
        ),
        (
            json!({}),
            json!({"layer_types": ["sliding_attention"], "sliding_window": 2048}),
            "a window that the layer does not have elsewhere is not supported (layer_types: [\"sliding_attention\"]); use another head",
        ),
        (
            json!({"transformer_layer_config": 7}),
            json!({}),
            "transformer_layer_config must be an object, got 7",
        ),
        (
            json!({}),
            json!({"num_hidden_layers": 2}),
            "a head of several layers is not supported (num_hidden_layers: 2); use another head",
        ),
        (
            json!({"draft_vocab_size": VOCAB + 1}),
            json!({}),
            "draft_vocab_size must be at most vocab_size (10), got 11",
        ),
        (
            json!({"parallel_drafting": true}),
            json!({}),
            "drafting several tokens at once is not supported (parallel_drafting: true); use another head",
        ),
    ] {
        assert_eq!(of(&nested(&outer, &inner)).unwrap_err(), expected);
    }
    assert!(of(&nested(&json!({}), &json!({"hidden_size": null}))).unwrap_err().contains("hidden_size"));
}
