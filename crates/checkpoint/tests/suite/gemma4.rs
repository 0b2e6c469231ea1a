//! Gemma 4: what its configuration says of layers, every refusal, and tensors that nobody uses.

use dsde_checkpoint::config::{Activation, Family, KvHeads, KvSource, LayerInputs, ModelConfig, RopeScaling};
use dsde_checkpoint::{Checkpoint, Error};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as SafeDtype, TensorView};
use serde_json::{Value, json};

use super::fixtures::{changed, fixture, parsed};

fn sources(config: &ModelConfig) -> Vec<KvSource> {
    config.layers.iter().map(|layer| layer.kv).collect()
}

#[test]
fn layers_that_see_everything_have_heads_of_their_own() {
    let config = parsed("gemma4", json!({})).unwrap();
    assert_eq!((config.family, config.activation), (Family::Gemma4, Activation::GeluTanh));
    let windows: Vec<_> = config.layers.iter().map(|layer| (layer.window, layer.rope)).collect();
    assert_eq!(windows, [(Some(10), Some(1)), (None, Some(0)), (Some(10), Some(1)), (None, Some(0))]);
    let heads = |n_kv_heads, head_dim| KvHeads { n_kv_heads, head_dim };
    assert_eq!(
        [0, 1, 2, 3].map(|i| config.kv_heads_of(i)),
        [heads(2, 8), heads(1, 16), heads(2, 8), heads(1, 16)]
    );
    let (own, keys) = (KvSource::Projections, KvSource::KeysAsValues);
    assert_eq!(sources(&config), [own, keys, own, keys]);
    assert_eq!(config.projections_of(0).last(), Some(&("self_attn.v_proj", 16)));
    assert_eq!(config.projections_of(1), [("self_attn.q_proj", 64), ("self_attn.k_proj", 16)]);
    assert!(config.has_value_norm && config.has_qk_norm && config.has_layer_scale && config.tie_embeddings);
    // The root of the width, 16.
    assert_eq!((config.attention_scale, config.embedding_scale, config.norm_offset), (1.0, 4.0, 0.0));
    assert_eq!((config.logit_soft_cap, config.layer_inputs, config.experts), (Some(3.0), None, None));
    // Two of eight pairs turn, as the first two of eight.
    let [global, local] = config.ropes.as_slice() else { panic!("two rotary embeddings") };
    assert_eq!((global.theta, global.rotary_dim, global.span), (100_000.0, 4, 16));
    assert_eq!((local.theta, local.rotary_dim, local.span), (1000.0, 8, 8));
    // Heads of these layers are as many as the others' where values have a projection.
    let apart = parsed("gemma4", json!({"attention_k_eq_v": false})).unwrap();
    assert_eq!((sources(&apart), apart.kv_heads_of(1)), (vec![own; 4], heads(2, 16)));
}

#[test]
fn what_a_file_leaves_out_is_as_published() {
    let changes = json!({
        "layer_types": null, "num_hidden_layers": 7, "global_head_dim": null, "sliding_window": null,
        "rope_parameters": null, "final_logit_softcapping": null, "hidden_size_per_layer_input": null,
    });
    let config = parsed("gemma4", changes).unwrap();
    let windows: Vec<_> = config.layers.iter().map(|layer| layer.window.is_some()).collect();
    // Every sixth sees everything, and so does the last.
    assert_eq!(windows, [true, true, true, true, true, false, false]);
    assert_eq!((config.layers[0].window, config.kv_heads_of(5).head_dim), (Some(512), 512));
    assert_eq!((config.logit_soft_cap, config.layer_inputs.unwrap().width), (None, 256));
    let [global, local] = config.ropes.as_slice() else { panic!("two rotary embeddings") };
    assert_eq!((global.theta, global.rotary_dim, global.span), (1e6, 128, 512));
    assert_eq!((local.theta, local.rotary_dim), (1e4, 8));
}

#[test]
fn the_last_layers_may_read_what_others_store() {
    let config = parsed("gemma4_shared", json!({})).unwrap();
    let own = KvSource::Projections;
    let [local, global] = [1, 2].map(KvSource::Layer);
    assert_eq!(sources(&config), [own, own, own, local, local, global]);
    assert_eq!(config.stored_kv_heads().map(|heads| heads.head_dim).collect::<Vec<_>>(), [8, 8, 16]);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|layer| config.kv_layer(layer)), [0, 1, 2, 1, 1, 2]);
    assert_eq!([2, 3].map(|layer| config.intermediate_of(layer)), [24, 48]);
    assert_eq!(config.projections_of(5), [("self_attn.q_proj", 64)]);
    assert_eq!(config.layer_inputs, Some(LayerInputs { width: 8, n_embeddings: 56 }));
    let narrow = parsed("gemma4_shared", json!({"use_double_wide_mlp": false})).unwrap();
    assert_eq!(narrow.intermediate_of(5), 24);
    let without = parsed("gemma4_shared", json!({"num_kv_shared_layers": 0})).unwrap();
    assert_eq!((sources(&without), without.intermediate_of(5)), (vec![own; 6], 24));
}

#[test]
fn experts_stand_beside_an_ordinary_part() {
    let config = parsed("gemma4_moe", json!({})).unwrap();
    let experts = config.experts.as_ref().unwrap();
    assert_eq!((experts.n_experts, experts.n_chosen, experts.intermediate), (6, 3, 12));
    assert!(experts.is_beside_dense && experts.is_renormalised && config.intermediate == 24);
    // Heads in the newer spelling.
    assert_eq!(config.kv_heads_of(2), KvHeads { n_kv_heads: 1, head_dim: 16 });
    assert_eq!(parsed("gemma4_moe", json!({"enable_moe_block": false})).unwrap().experts, None);
}

#[test]
fn text_parts_of_models_that_read_images_and_sound_are_read() {
    for name in ["gemma4", "gemma4_shared", "gemma4_moe"] {
        let text = changed(name, &json!({"architectures": null, "use_bidirectional_attention": "vision"}));
        let config = json!({
            "architectures": ["Gemma4ForConditionalGeneration"], "text_config": text, "vision_config": {}, "audio_config": {},
        });
        let got = ModelConfig::parse(config.to_string().as_bytes(), None).unwrap();
        assert_eq!(got, parsed(name, json!({})).unwrap());
    }
    // Another wrapper, whose text part leaves out what it never has.
    let text = changed(
        "gemma4",
        &json!({"architectures": null, "hidden_size_per_layer_input": null, "sliding_window": null}),
    );
    let config = json!({"architectures": ["Gemma4UnifiedForConditionalGeneration"], "text_config": text});
    let got = ModelConfig::parse(config.to_string().as_bytes(), None).unwrap();
    assert_eq!((got.layer_inputs, got.layers[0].window), (None, Some(1024)));
}

#[track_caller]
fn check_refused(name: &str, changes: Value, expected: &str) {
    let error = parsed(name, changes.clone()).expect_err(&changes.to_string());
    assert!(error.to_string().contains(expected), "{name} {changes}: {error}");
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    for (field, least, max) in [
        ("global_head_dim", 2, 1024),
        ("num_global_key_value_heads", 1, 4),
        ("sliding_window", 1, 1 << 24),
        ("num_kv_shared_layers", 0, 3),
        ("hidden_size_per_layer_input", 0, 1 << 14),
    ] {
        for value in [json!(-1), json!("4"), json!(1.5), json!(max + 1), json!(u64::MAX)] {
            let expected = format!("{field} must be a whole number from {least} to {max}, got {value}");
            check_refused("gemma4", json!({field: value}), &expected);
        }
    }
    check_refused(
        "gemma4",
        json!({"global_head_dim": 15}),
        "global_head_dim must be even and at most 1024, got 15",
    );
    check_refused(
        "gemma4",
        json!({"num_global_key_value_heads": 3}),
        "num_global_key_value_heads must be a divisor of num_attention_heads (4), got 3",
    );
    check_refused(
        "gemma4_shared",
        json!({"vocab_size_per_layer_input": 47}),
        "vocab_size_per_layer_input must be at least vocab_size (48), got 47",
    );
}

#[test]
fn what_is_computed_otherwise_is_refused_by_name() {
    for (field, value) in [
        ("attention_k_eq_v", json!("yes")),
        ("use_double_wide_mlp", json!(2)),
        ("enable_moe_block", json!("no")),
    ] {
        check_refused("gemma4", json!({field: value}), &format!("{field} must be true or false"));
    }
    // Three of four: one layer is left, and it has a window.
    check_refused(
        "gemma4",
        json!({"num_kv_shared_layers": 3}),
        "num_kv_shared_layers must be few enough for layers of both kinds to store keys and values, got 3 of 4",
    );
    check_refused(
        "gemma4",
        json!({"use_bidirectional_attention": "all"}),
        "attention to later tokens is not supported",
    );
    check_refused("gemma4", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor: 0.5");
    check_refused("gemma4", json!({"rope_local_base_freq": 10.0}), "rope_local_base_freq: 10.0");
    check_refused(
        "gemma4",
        json!({"final_logit_softcapping": 0}),
        "final_logit_softcapping must be a number from 0.001",
    );
    check_refused(
        "gemma4",
        json!({"layer_types": ["full_attention"]}),
        "one type for each of 4 layers, got 1",
    );
    check_refused("gemma4", json!({"query_pre_attn_scalar": 256}), "another scale of attention");
    // Elsewhere all layers turn alike.
    check_refused(
        "llama2",
        json!({"partial_rotary_factor": 0.25}),
        "a rotary embedding of a part of each head",
    );
}

#[test]
fn rotary_embeddings_that_make_no_sense_are_refused_by_name() {
    let ropes = |full: Value| json!({"rope_parameters": {"full_attention": full, "sliding_attention": {"rope_theta": 1e4}}});
    check_refused(
        "gemma4",
        ropes(Value::Null),
        "rope_parameters must be full_attention and sliding_attention",
    );
    let proportional = |share: f64| json!({"rope_type": "proportional", "partial_rotary_factor": share});
    check_refused(
        "gemma4",
        ropes(proportional(0.05)),
        "partial_rotary_factor must be an even number of the 16 elements",
    );
    check_refused(
        "gemma4",
        ropes(proportional(1.5)),
        "partial_rotary_factor must be a number from 0.001 to 1.0",
    );
    check_refused("gemma4", ropes(json!({"rope_type": "axial"})), "(rope_parameters.rope_type: axial)");
}

#[test]
fn experts_that_make_no_sense_are_refused_by_name() {
    for field in ["num_experts", "top_k_experts", "moe_intermediate_size"] {
        check_refused("gemma4_moe", json!({field: null}), &format!("lacks {field}"));
        check_refused("gemma4_moe", json!({field: 0}), &format!("{field} must be a whole number from 1 to"));
    }
    check_refused(
        "gemma4_moe",
        json!({"top_k_experts": 7}),
        "top_k_experts must be a whole number from 1 to 6, got 7",
    );
}

#[test]
fn heads_of_layers_that_make_no_sense_are_refused_by_name() {
    let heads =
        "the same head_dim and num_key_value_heads for every layer of full_attention, and nothing else";
    for wrong in [
        json!({}),
        json!({"1": {"head_dim": 16}, "2": {"head_dim": 16}}),
        json!({"2": {"head_dim": 16, "sliding_window": 4}}),
    ] {
        check_refused("gemma4_moe", json!({"per_layer_config": wrong}), heads);
    }
    check_refused("gemma4_moe", json!({"per_layer_config": {"2": {"head_dim": 7}}}), "head_dim must be even");
    check_refused("gemma4_moe", json!({"per_layer_config": {"2": 7}}), "per_layer_config must be an object");
}

#[test]
fn slower_pairs_may_stand_still_and_the_others_be_slowed_down() {
    let full =
        json!({"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 4.0, "rope_theta": 1e6});
    let ropes = json!({"full_attention": full, "sliding_attention": {"rope_type": "default"}});
    let config = parsed("gemma4", json!({"rope_parameters": ropes})).unwrap();
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!((config.ropes[0].rotary_dim, config.ropes[0].span), (8, 16));
    let older = json!({"type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e6});
    let ropes = json!({"full_attention": older, "sliding_attention": {"type": "default"}});
    let config = parsed("gemma4", json!({"rope_parameters": ropes})).unwrap();
    assert_eq!((config.ropes[0].rotary_dim, config.ropes[0].span), (8, 16));
}

/// The fixture with tensors added and taken away.
fn with_tensors(name: &str, added: &[(&str, Vec<usize>)], removed: &str) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let halves: Vec<u8> = (0..4096).flat_map(|_| half::bf16::from_f32(0.5).to_le_bytes()).collect();
    let mut tensors: Vec<(String, TensorView<'_>)> = stored
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.contains(removed) || removed.is_empty())
        .collect();
    for (name, shape) in added {
        let len = 2 * shape.iter().product::<usize>();
        let view = TensorView::new(SafeDtype::BF16, shape.clone(), &halves[..len]).unwrap();
        tensors.push(((*name).to_string(), view));
    }
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    Checkpoint::open(folder.path())
}

#[test]
fn tensors_for_images_and_of_shared_layers_are_left_and_others_refused() {
    let images =
        [("model.vision_tower.patch.weight", vec![4, 4]), ("model.audio_tower.conv.weight", vec![4])];
    assert!(with_tensors("gemma4", &images, "").is_ok());
    // The fixture has keys and values for layers that read those of others; without them it is the same.
    let model = with_tensors("gemma4_shared", &[], "layers.5.self_attn.k_").unwrap();
    assert_eq!(model.weight_bytes(), with_tensors("gemma4_shared", &[], "").unwrap().weight_bytes());
    for (name, shape) in [
        ("model.layers.0.self_attn.v_norm.weight", vec![8]),
        ("model.layers.0.router.proj.weight", vec![6, 16]),
        ("model.layers.0.per_layer_input_gate.weight", vec![8, 16]),
        ("model.layers.1.self_attn.k_norm.bias", vec![16]),
    ] {
        let error = with_tensors("gemma4", &[(name, shape)], "").unwrap_err();
        assert!(matches!(error, Error::TensorUndeclared { .. }), "{name}: {error}");
    }
}
