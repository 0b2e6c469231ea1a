//! Qwen3.5: its configuration with and without experts, every refusal, and tensors that are brought to another form.

use dsde_checkpoint::config::{Family, ModelConfig};
use dsde_checkpoint::{Checkpoint, Error};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use serde_json::{Value, json};

use super::fixtures::{changed, fixture, parsed};

fn delta_layers(config: &ModelConfig) -> Vec<bool> {
    config.layers.iter().map(|layer| layer.is_delta).collect()
}

#[test]
fn three_layers_of_four_have_states() {
    let config = parsed("qwen3_5", json!({})).unwrap();
    assert_eq!(config.family, Family::Qwen3_5);
    assert_eq!(delta_layers(&config), [true, true, true, false]);
    assert_eq!((config.n_delta_layers(), config.n_attention_layers()), (3, 1));
    let delta = config.delta.as_ref().unwrap();
    assert_eq!((delta.n_key_heads, delta.n_value_heads, delta.key_dim, delta.value_dim), (2, 4, 16, 16));
    assert_eq!((delta.conv_len, delta.is_tiled), (4, false));
    assert_eq!((delta.conv_width(), delta.values_width()), (2 * 2 * 16 + 4 * 16, 4 * 16));
    assert_eq!((config.norm_offset, config.has_qk_norm, config.has_output_gate), (1.0, true, true));
    // A quarter of 16 turns.
    assert_eq!((config.ropes[0].rotary_dim, config.ropes[0].theta), (4, 100_000.0));
    assert!(config.experts.is_none());
    let every_other = parsed("qwen3_5", json!({"full_attention_interval": 2})).unwrap();
    assert_eq!(delta_layers(&every_other), [true, false, true, false]);
    let none = parsed("qwen3_5", json!({"full_attention_interval": 1})).unwrap();
    assert!(none.delta.is_none() && none.n_attention_layers() == 4);
    // Of the published sizes, where the file says nothing else.
    let plain = parsed("qwen3_5", json!({"head_dim": null, "rope_parameters": null})).unwrap();
    assert_eq!((plain.head_dim, plain.ropes[0].rotary_dim), (256, 64));
}

#[test]
fn experts_have_one_beside_them_that_all_rows_ask() {
    let config = parsed("qwen3_5_moe", json!({})).unwrap();
    assert_eq!(config.family, Family::Qwen3_5Moe);
    assert_eq!(delta_layers(&config), [true, false, true]);
    let experts = config.experts.as_ref().unwrap();
    assert_eq!((experts.n_experts, experts.n_chosen, experts.intermediate), (6, 3, 24));
    assert_eq!((experts.shared, experts.is_renormalised), (Some(40), true));
}

#[test]
fn text_parts_of_models_that_read_images_are_read() {
    for name in ["qwen3_5", "qwen3_5_moe"] {
        let text = changed(name, &json!({"architectures": null}));
        let outer = ["Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"];
        let architecture = outer[usize::from(name.ends_with("moe"))];
        let config = json!({"architectures": [architecture], "text_config": text, "vision_config": {}});
        let parse = |config: &Value| ModelConfig::parse(config.to_string().as_bytes(), None);
        assert_eq!(parse(&config).unwrap(), parsed(name, json!({})).unwrap());
        // Whoever quantises such a model says so beside its text part.
        let mut quantised = config;
        quantised["quantization_config"] = json!({"quant_method": "fp8"});
        let error = parse(&quantised).unwrap_err().to_string();
        assert!(error.contains("quantised checkpoint") && error.contains("fp8"), "{error}");
    }
}

#[test]
fn hostile_configurations_are_refused_by_name() {
    let check = |name: &str, changes: Value, expected: &str| {
        let error = parsed(name, changes.clone()).expect_err(&changes.to_string());
        assert!(error.to_string().contains(expected), "{name} {changes}: {error}");
    };
    for (field, max) in [
        ("linear_num_key_heads", 1024),
        ("linear_num_value_heads", 1024),
        ("linear_key_head_dim", 1024),
        ("linear_value_head_dim", 1024),
        ("linear_conv_kernel_dim", 16),
    ] {
        check("qwen3_5", json!({field: null}), &format!("lacks {field}"));
        for value in [json!(0), json!(-1), json!("4"), json!(1.5), json!(max + 1), json!(u64::MAX)] {
            let expected = format!("{field} must be a whole number from 1 to {max}, got {value}");
            check("qwen3_5", json!({field: value}), &expected);
        }
    }
    check("qwen3_5", json!({"linear_conv_kernel_dim": 1}), "must be a whole number from 2 to 16, got 1");
    check(
        "qwen3_5",
        json!({"linear_num_value_heads": 5}),
        "linear_num_value_heads must be a multiple of linear_num_key_heads (2), got 5",
    );
    check("qwen3_5", json!({"full_attention_interval": 0}), "from 1 to 512, got 0");
    check("qwen3_5", json!({"full_attention_interval": 5}), "at least one layer of attention, got none");
    check("qwen3_5", json!({"layer_types": ["linear_attention"]}), "one type for each of 4 layers, got 1");
    let kinds = |last: &str| json!({"layer_types": ["linear_attention", "linear_attention", "linear_attention", last]});
    check("qwen3_5", kinds("linear_attention"), "at least one layer of attention, got none");
    check("qwen3_5", kinds("chunked_attention"), "full_attention and linear_attention");
    check("qwen3_5", json!({"layer_types": "all"}), "layer_types must be a list");
    check("qwen3_5", json!({"attention_bias": true}), "biases beside gated attention is not supported");
    check("qwen3_5", json!({"attn_output_gate": false}), "attn_output_gate: false");
    check(
        "qwen3_5",
        json!({"hidden_act": "gelu_pytorch_tanh"}),
        "another activation of delta layers than silu",
    );
    check("qwen3_5", json!({"num_experts": 4}), "a mixture of experts is not supported");
    check(
        "qwen3_5_moe",
        json!({"shared_expert_intermediate_size": null}),
        "lacks shared_expert_intermediate_size",
    );
    check("qwen3_5_moe", json!({"shared_expert_intermediate_size": 0}), "from 1 to 1048576, got 0");
    // Elsewhere there are no such layers.
    check("qwen3", json!({"layer_types": ["linear_attention", "full_attention"]}), "another kind of layer");
}

/// The fixture with tensors added and taken away.
fn with_tensors(name: &str, added: &[(&str, Vec<usize>)], removed: &str) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let data: Vec<Vec<u8>> =
        added.iter().map(|(_, shape)| [0x80, 0x3f].repeat(shape.iter().product())).collect();
    let mut tensors: Vec<(String, TensorView<'_>)> =
        stored.tensors().into_iter().filter(|(found, _)| found != removed).collect();
    for ((name, shape), data) in added.iter().zip(&data) {
        let view = TensorView::new(SafeDtype::BF16, shape.clone(), data).unwrap();
        tensors.push(((*name).to_string(), view));
    }
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    Checkpoint::open(folder.path())
}

#[test]
fn tensors_that_belong_to_no_layer_are_refused_and_layers_that_predict_are_passed_over() {
    let predicting = ("mtp.layers.1.self_attn.q_proj.weight", vec![64, 32]);
    assert!(with_tensors("qwen3_5", &[predicting, ("mtp.embed_tokens.weight", vec![48, 32])], "").is_ok());
    for name in ["model.layers.3.linear_attn.A_log", "model.layers.0.linear_attn.conv1d.bias"] {
        let error = with_tensors("qwen3_5", &[(name, vec![4])], "").unwrap_err();
        assert!(matches!(&error, Error::TensorUndeclared { name: found, .. } if found == name), "{error}");
    }
}

#[test]
fn a_head_is_a_model_of_one_layer_of_attention() {
    for name in ["qwen3_5", "qwen3_5_moe", "qwen3_next"] {
        let model = Checkpoint::open(&fixture(name)).unwrap().without_padding(40);
        let head = model.mtp().unwrap().unwrap();
        let config = head.config();
        assert_eq!((config.n_layers, config.n_attention_layers(), config.n_delta_layers()), (1, 1, 0));
        assert_eq!((config.vocab_len, config.hidden, config.has_output_gate), (40, 32, true));
        assert_eq!(config.experts_of(0).is_some(), model.config().experts.is_some());
        // Queries and gates of two heads of 16, and the projection of embedding and state.
        assert_eq!(head.weights().gated_queries(0).unwrap().queries().n_out, 32);
        assert!(head.weights().matrix("mtp.fc.weight", 32, 64).is_ok());
        let beside = model.stored_bytes() - model.weight_bytes();
        assert!(head.weight_bytes() > 0 && head.weight_bytes() <= beside);
        assert!(!head.weights().has_tensor("model.layers.1.input_layernorm.weight"));
    }
    assert!(Checkpoint::open(&fixture("llama3")).unwrap().mtp().unwrap().is_none());
}

#[test]
fn heads_of_another_make_are_refused_by_name() {
    let head = |added: &[(&str, Vec<usize>)], removed: &str| {
        with_tensors("qwen3_5", added, removed).unwrap().mtp().map(|head| head.is_some())
    };
    for (name, shape) in [
        ("mtp.embed_tokens.weight", vec![48, 32]),
        ("mtp.layers.1.input_layernorm.weight", vec![32]),
        ("mtp.layers.0.self_attn.q_proj.bias", vec![64]),
    ] {
        let error = head(&[(name, shape)], "").unwrap_err();
        assert!(matches!(&error, Error::TensorUndeclared { name: found, .. } if found == name), "{error}");
    }
    let misshapen = head(&[("mtp.fc.weight", vec![32, 32])], "mtp.fc.weight").unwrap_err();
    assert!(matches!(&misshapen, Error::TensorShape { name, .. } if name == "mtp.fc.weight"), "{misshapen}");
    for name in ["mtp.norm.weight", "mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight"] {
        let error = head(&[], name).unwrap_err();
        assert!(matches!(&error, Error::TensorMissing { name: found } if found == name), "{error}");
    }
}

#[test]
fn tensors_of_delta_layers_are_brought_to_one_form() {
    let checkpoint = Checkpoint::open(&fixture("qwen3_5")).unwrap();
    let (width, len) = (128, 4);
    let stored = checkpoint.stored("model.layers.1.linear_attn.conv1d.weight").unwrap();
    assert_eq!(stored.shape, [width, 1, len]);
    let (stored, convolution) = (stored.to_f32(), checkpoint.convolution(1).unwrap());
    for channel in 0..width {
        for i in 0..len {
            assert_eq!(convolution[i * width + channel], stored[channel * len + i]);
        }
    }
    let logs = checkpoint.vector("model.layers.1.linear_attn.A_log", 4).unwrap();
    let rates: Vec<f32> = logs.iter().map(|log| -log.exp()).collect();
    assert_eq!(checkpoint.decay_rates(1).unwrap(), rates);
    // Two heads of 16 rows of queries, then as many of gates.
    let both = checkpoint.matrix("model.layers.3.self_attn.q_proj.weight", 64, 32).unwrap();
    let gated = checkpoint.gated_queries(3).unwrap();
    let row = |i: usize| both.row(i).to_vec();
    for i in 0..32 {
        let head = i / 16 * 32;
        assert_eq!(gated.queries().row(i), row(head + i % 16), "query {i}");
        assert_eq!(gated.gates().row(i), row(head + 16 + i % 16), "gate {i}");
    }
}

#[test]
fn projections_in_turns_are_brought_to_one_form() {
    let checkpoint = Checkpoint::open(&fixture("qwen3_next")).unwrap();
    let layer = "model.layers.0.linear_attn";
    let projections = checkpoint.delta_projections(0).unwrap();
    let [qkv, b, a] = projections.inputs();
    assert_eq!([qkv.n_out, b.n_out, a.n_out, projections.gates().n_out], [128, 4, 4, 64]);
    // Per head of keys: 16 rows of queries, 16 of keys, two heads of 16 of values, and as many of gates.
    let fused = checkpoint.matrix(&format!("{layer}.in_proj_qkvz.weight"), 192, 32).unwrap();
    let row = |i: usize| fused.row(i).to_vec();
    for head in 0..2 {
        for i in 0..16 {
            assert_eq!(qkv.row(16 * head + i), row(96 * head + i), "query {i} of {head}");
            assert_eq!(qkv.row(32 + 16 * head + i), row(96 * head + 16 + i), "key {i} of {head}");
        }
        for i in 0..32 {
            assert_eq!(qkv.row(64 + 32 * head + i), row(96 * head + 32 + i), "value {i} of {head}");
            assert_eq!(projections.gates().row(32 * head + i), row(96 * head + 64 + i), "gate {i} of {head}");
        }
    }
    let fused = checkpoint.matrix(&format!("{layer}.in_proj_ba.weight"), 8, 32).unwrap();
    for (i, value_head) in [0, 1, 4, 5].into_iter().enumerate() {
        assert_eq!(b.row(i), fused.row(value_head));
        assert_eq!(a.row(i), fused.row(value_head + 2));
    }
}

#[test]
fn qwen3_next_has_experts_beside_a_shared_one() {
    let config = parsed("qwen3_next", json!({})).unwrap();
    assert_eq!((config.family, config.n_delta_layers()), (Family::Qwen3Next, 1));
    let experts = config.experts.as_ref().unwrap();
    assert_eq!((experts.n_experts, experts.n_chosen, experts.shared), (4, 2, Some(40)));
    assert!(experts.is_renormalised);
    let silent = parsed("qwen3_next", json!({"norm_topk_prob": null})).unwrap();
    assert!(silent.experts.is_some_and(|experts| experts.is_renormalised), "what transformers takes then");
    let dense = parsed("qwen3_next", json!({"mlp_only_layers": [1], "intermediate_size": 48})).unwrap();
    assert!(dense.experts_of(0).is_some() && dense.experts_of(1).is_none());
    let lacking = parsed("qwen3_next", json!({"shared_expert_intermediate_size": null})).unwrap_err();
    assert!(lacking.to_string().contains("lacks shared_expert_intermediate_size"), "{lacking}");
}

#[test]
fn missing_and_misshapen_tensors_are_errors() {
    let name = "model.layers.0.linear_attn.A_log";
    let checkpoint = with_tensors("qwen3_5", &[], name).unwrap();
    assert!(matches!(checkpoint.decay_rates(0), Err(Error::TensorMissing { name: found }) if found == name));
    let checkpoint = with_tensors("qwen3_5", &[(name, vec![5])], name).unwrap();
    assert!(matches!(checkpoint.decay_rates(0), Err(Error::TensorShape { .. })));
    let name = "model.layers.3.self_attn.q_proj.weight";
    let checkpoint = with_tensors("qwen3_5", &[(name, vec![32, 32])], name).unwrap();
    assert!(matches!(checkpoint.gated_queries(3), Err(Error::TensorShape { .. })));
}
