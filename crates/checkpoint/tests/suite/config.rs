//! Configurations of every family.

mod refused;

use dsde_checkpoint::Error;
use dsde_checkpoint::config::{Activation, Family, ModelConfig, Rope, RopeScaling, SamplingDefaults};
use serde_json::{Value, json};

use super::fixtures::{fixture, with_changes};

fn of_fixture(family: &str) -> ModelConfig {
    let folder = fixture(family);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let generation = std::fs::read(folder.join("generation_config.json")).ok();
    ModelConfig::parse(&config, generation.as_deref()).unwrap()
}

/// A valid configuration with `changes` applied; `null` deletes.
fn changed(changes: &Value) -> Value {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1000,
        "eos_token_id": 2,
    });
    with_changes(config, changes)
}

fn parsed(changes: Value) -> Result<ModelConfig, Error> {
    ModelConfig::parse(changed(&changes).to_string().as_bytes(), None)
}

fn check_refused(changes: Value, expected: &str) {
    let error = parsed(changes.clone()).expect_err(&changes.to_string());
    assert_eq!(error.to_string(), expected, "{changes}");
}

#[test]
fn llama2_has_as_many_kv_heads_as_heads() {
    let config = of_fixture("llama2");
    assert_eq!(config.family, Family::Llama);
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (2, 2, 16));
    assert_eq!((config.vocab_len, config.hidden, config.n_layers, config.intermediate), (128, 32, 3, 64));
    assert_eq!(
        config.ropes,
        [Rope { theta: 10_000.0, scaling: RopeScaling::None, rotary_dim: 16, span: 16 }]
    );
    assert_eq!((config.rms_eps, config.context_len_max, config.tie_embeddings), (1e-5, 128, false));
    assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias), (false, false, false));
    assert_eq!((config.eos_tokens.as_slice(), config.bos_token), (&[2][..], Some(1)));
}

#[test]
fn llama3_scales_frequencies_and_ends_with_the_tokens_of_the_generation_config() {
    let config = of_fixture("llama3");
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context_len: 16,
    };
    assert_eq!(config.ropes, [Rope { theta: 500_000.0, scaling, rotary_dim: 16, span: 16 }]);
    assert_eq!((config.n_heads, config.n_kv_heads), (4, 2));
    assert_eq!(config.eos_tokens, [2, 5, 7]);
}

#[test]
fn llama_with_biases_and_linear_scaling() {
    let config = of_fixture("llama_linear");
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias), (true, true, true));
}

#[test]
fn mistral_without_window_serves_its_whole_context() {
    let config = of_fixture("mistral");
    assert_eq!(config.family, Family::Mistral);
    assert_eq!((config.n_kv_heads, config.ropes[0].theta, config.context_len_max), (1, 1_000_000.0, 128));
}

#[test]
fn qwen2_has_biases_on_query_key_and_value_only() {
    let config = of_fixture("qwen2");
    assert_eq!(config.family, Family::Qwen2);
    assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias), (true, false, false));
    assert_eq!((config.tie_embeddings, config.context_len_max), (true, 128));
}

#[test]
fn qwen3_normalises_queries_and_keys_of_its_own_head_size() {
    let config = of_fixture("qwen3");
    assert_eq!(config.family, Family::Qwen3);
    assert_eq!((config.has_qk_norm, config.head_dim, config.has_qkv_bias), (true, 32, false));
    assert_eq!(
        config.ropes,
        [Rope { theta: 1_000_000.0, scaling: RopeScaling::None, rotary_dim: 32, span: 32 }]
    );
}

#[test]
fn defaults_are_those_of_the_family() {
    let qwen3 = parsed(json!({"architectures": ["Qwen3ForCausalLM"]})).unwrap();
    assert_eq!((qwen3.head_dim, qwen3.ropes[0].theta), (128, 10_000.0));
    let by_type = parsed(json!({"architectures": null, "model_type": "qwen2"})).unwrap();
    assert_eq!(by_type.family, Family::Qwen2);
    let no_tokens = parsed(json!({"eos_token_id": null})).unwrap();
    assert_eq!((no_tokens.eos_tokens.len(), no_tokens.bos_token), (0, None));
    let flags_of_others = parsed(json!({
        "architectures": ["MistralForCausalLM"], "attention_bias": true, "mlp_bias": true
    }));
    let config = flags_of_others.unwrap();
    assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias), (false, false, false));
}

/// Windows of the layers of a changed configuration.
fn windows(changes: Value) -> Vec<Option<u32>> {
    parsed(changes).unwrap().layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn mistral_has_one_window_in_every_layer() {
    let mistral = json!(["MistralForCausalLM"]);
    assert_eq!(windows(json!({"architectures": mistral, "sliding_window": 300})), [Some(300); 2]);
    assert_eq!(windows(json!({"architectures": mistral})), [Some(4096); 2]);
    let config = parsed(json!({"architectures": mistral, "sliding_window": 300})).unwrap();
    assert_eq!(config.context_len_max, 1000);
    let mut none = changed(&json!({"architectures": mistral}));
    none["sliding_window"] = Value::Null;
    let none = ModelConfig::parse(none.to_string().as_bytes(), None).unwrap();
    assert!(none.layers.iter().all(|layer| layer.window.is_none()));
}

#[test]
fn the_upper_layers_of_qwen_have_windows_if_the_file_says_so() {
    for architecture in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        let with = |changes: Value| {
            let mut all =
                json!({"architectures": [architecture], "sliding_window": 300, "num_hidden_layers": 4});
            all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            windows(all)
        };
        let (none, some) = (None, Some(300));
        assert_eq!(with(json!({})), [none; 4]);
        assert_eq!(with(json!({"use_sliding_window": true})), [none; 4]);
        let upper = json!({"use_sliding_window": true, "max_window_layers": 3});
        assert_eq!(with(upper), [none, none, none, some]);
        assert_eq!(with(json!({"use_sliding_window": true, "max_window_layers": 0})), [some; 4]);
        let (full, sliding) = ("full_attention", "sliding_attention");
        let listed = json!({"use_sliding_window": true, "layer_types": [sliding, full, full, sliding]});
        assert_eq!(with(listed), [some, none, none, some]);
    }
}

#[test]
fn llama_sees_everything_whatever_the_window_of_the_file() {
    assert_eq!(windows(json!({"sliding_window": 300})), [None; 2]);
}

fn gemma(architecture: &str, changes: Value) -> Value {
    let mut all = json!({
        "architectures": [architecture], "head_dim": 16, "num_hidden_layers": 7, "sliding_window": 8,
        "query_pre_attn_scalar": 16,
    });
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    all
}

#[test]
fn gemma2_sees_a_window_in_every_other_layer_and_caps_scores_and_logits() {
    let config = parsed(gemma("Gemma2ForCausalLM", json!({}))).unwrap();
    let window = |i: usize| config.layers[i].window;
    assert_eq!([0, 1, 2, 3].map(window), [Some(8), None, Some(8), None]);
    assert_eq!((config.attention_soft_cap, config.logit_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!((config.attention_scale, config.embedding_scale, config.norm_offset), (0.25, 8.0, 1.0));
    assert_eq!((config.activation, config.tie_embeddings), (Activation::GeluTanh, true));
    let low =
        json!({"attn_logit_softcapping": 5.0, "final_logit_softcapping": 2, "query_pre_attn_scalar": 64});
    let config = parsed(gemma("Gemma2ForCausalLM", low)).unwrap();
    assert_eq!((config.attention_soft_cap, config.logit_soft_cap), (Some(5.0), Some(2.0)));
    assert_eq!(config.attention_scale, 0.125);
}

#[test]
fn gemma3_turns_by_another_base_in_the_layers_that_see_a_window() {
    let config = parsed(gemma("Gemma3ForCausalLM", json!({}))).unwrap();
    let layer = |i: usize| (config.layers[i].window, config.layers[i].rope);
    assert_eq!([4, 5, 6].map(layer), [(Some(8), Some(1)), (None, Some(0)), (Some(8), Some(1))]);
    assert_eq!([0, 1].map(|i| config.ropes[i].theta), [1_000_000.0, 10_000.0]);
    assert_eq!((config.attention_soft_cap, config.logit_soft_cap, config.has_qk_norm), (None, None, true));
    let older = json!({"sliding_window_pattern": 2, "rope_theta": 5e5, "rope_local_base_freq": 2e4});
    let config = parsed(gemma("Gemma3ForCausalLM", older)).unwrap();
    assert_eq!([0, 1].map(|i| config.layers[i].rope), [Some(1), Some(0)]);
    assert_eq!([0, 1].map(|i| config.ropes[i].theta), [5e5, 2e4]);
    let longer_than_the_model = json!({"sliding_window_pattern": 100});
    let config = parsed(gemma("Gemma3ForCausalLM", longer_than_the_model)).unwrap();
    assert!(config.layers.iter().all(|layer| layer.window == Some(8)));
}

#[test]
fn of_a_model_that_reads_images_the_text_part_counts() {
    let text = json!({
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "sliding_window": 8, "head_dim": 16,
        "eos_token_id": 5,
    });
    let config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text, "vision_config": {"hidden_size": 3},
        "eos_token_id": [1, 106],
    });
    let config = ModelConfig::parse(config.to_string().as_bytes(), None).unwrap();
    assert_eq!((config.family, config.hidden, config.vocab_len), (Family::Gemma3, 64, 262_208));
    assert_eq!((config.n_heads, config.n_kv_heads, config.context_len_max), (8, 4, 131_072));
    assert_eq!(config.eos_tokens, [1, 106]);
    let without = json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": 3});
    let error = ModelConfig::parse(without.to_string().as_bytes(), None).unwrap_err();
    assert!(error.to_string().contains("Gemma3ForConditionalGeneration is not supported"), "{error}");
}

#[test]
fn phi3_turns_a_part_of_each_head_by_factors_of_its_own() {
    let config = of_fixture("phi3");
    let expected = RopeScaling::LongRope {
        short: vec![1.0, 1.1, 1.3],
        long: vec![1.5, 2.5, 6.0],
        original_context_len: 16,
        // sqrt(1 + ln(128 / 16) / ln(16)) = sqrt(1.75).
        attention_factor: 1.75_f64.sqrt(),
    };
    let [Rope { theta, scaling, rotary_dim, .. }] = config.ropes.as_slice() else {
        panic!("one rotary embedding")
    };
    assert_eq!((theta, scaling, rotary_dim), (&10_000.0, &expected, &6));
    assert_eq!(config.layers[0].window, Some(30));
}

#[test]
fn smollm3_has_layers_without_rotary_embedding() {
    let ropes = |changes: Value| {
        let mut all = json!({"architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 5});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        parsed(all).map(|config| config.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>())
    };
    assert_eq!(ropes(json!({})).unwrap(), [Some(0), Some(0), Some(0), None, Some(0)]);
    assert_eq!(ropes(json!({"no_rope_layer_interval": 2})).unwrap(), [Some(0), None, Some(0), None, Some(0)]);
    let listed = json!({"no_rope_layers": [0, 1, 1, 1, 0, 1, 1]});
    assert_eq!(ropes(listed).unwrap(), [None, Some(0), Some(0), Some(0), None]);
    for wrong in [json!([1, 0]), json!([1, 1, 1, 2, 1]), json!("1"), json!([1, 1, 1, 1, null])] {
        let error = ropes(json!({"no_rope_layers": wrong})).unwrap_err().to_string();
        assert!(
            error.starts_with("no_rope_layers must be a list of 0 or 1 for each of 5 layers, got"),
            "{error}"
        );
    }
}

#[test]
fn granite_has_four_multipliers() {
    let config = of_fixture("granite");
    let scales = [config.embedding_scale, config.residual_scale, config.attention_scale, config.logit_scale];
    assert_eq!(scales, [6.0, 0.4, 0.3, 1.0 / 0.9]);
}

#[test]
fn glm4_turns_half_of_each_head_and_has_biases_where_the_file_says_nothing() {
    let config = parsed(json!({"architectures": ["Glm4ForCausalLM"]})).unwrap();
    assert_eq!((config.head_dim, config.ropes[0].rotary_dim), (128, 64));
    assert_eq!((config.has_qkv_bias, config.has_output_bias), (true, false));
}

#[test]
fn scaled_models_are_served_as_far_as_they_were_made_for() {
    let context = |scaling: Value| parsed(json!({"rope_scaling": scaling})).unwrap().context_len_max;
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 800});
    assert_eq!(context(yarn), 3200);
    let told = json!({"rope_type": "yarn", "factor": 1.1, "original_max_position_embeddings": 800});
    assert_eq!(context(told), 1000);
    assert_eq!(context(json!({"rope_type": "dynamic", "factor": 2.0})), 2000);
    assert_eq!(context(json!({"rope_type": "linear", "factor": 2.0})), 1000);
    assert_eq!(context(json!({"rope_type": "dynamic", "factor": 1e6})), 1 << 24);
}

#[test]
fn windows_and_scalings_that_make_no_sense_are_refused() {
    let gemma3 = |changes| gemma("Gemma3ForCausalLM", changes);
    let window = "sliding_window must be a whole number from 1 to 16777216, got 0";
    check_refused(gemma3(json!({"sliding_window": 0})), window);
    let pattern = "sliding_window_pattern must be a whole number from 1 to 512, got 0";
    check_refused(gemma3(json!({"sliding_window_pattern": 0})), pattern);
    let types = "layer_types must be one type for each of 7 layers, got 8";
    check_refused(gemma3(json!({"layer_types": vec!["full_attention"; 8]})), types);
    check_refused(
        gemma3(json!({"layer_types": "full_attention"})),
        "another kind of layer is not supported (layer_types: full_attention); use another model, or remove the field if the \
         weights do not need it",
    );
    let cap = "final_logit_softcapping must be a number from 0.001 to 1000000.0, got 0";
    check_refused(gemma3(json!({"final_logit_softcapping": 0})), cap);
    let scalar = "query_pre_attn_scalar must be a number from 0.001 to 1000000.0, got -1";
    check_refused(gemma3(json!({"query_pre_attn_scalar": -1})), scalar);
    let scaled = |scaling: Value| json!({"rope_scaling": scaling});
    let factor = "factor must be a number from 1.0 to 1000000.0, got 0.5";
    check_refused(scaled(json!({"rope_type": "dynamic", "factor": 0.5})), factor);
    check_refused(scaled(json!({"rope_type": "yarn", "factor": 0.5})), factor);
    check_refused(scaled(json!({"rope_type": "dynamic"})), "config.json lacks factor");
    check_refused(
        scaled(json!({"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 32})),
        "beta_fast must be above beta_slow (32), got 1",
    );
    let phi3 = |scaling: Value| json!({"architectures": ["Phi3ForCausalLM"], "rope_scaling": scaling});
    let long = |short: Value| phi3(json!({"type": "longrope", "short_factor": short, "long_factor": [1, 1]}));
    let eight = "short_factor must be 8 numbers from 0.5 to 1000000.0, got";
    check_refused(long(json!([1.0, 2.0])), &format!("{eight} 2 of them"));
    check_refused(long(json!("many")), &format!("{eight} \"many\""));
    check_refused(long(json!([0, 1, 1, 1, 1, 1, 1, 1])), &format!("{eight} 0"));
    check_refused(phi3(json!({"type": "longrope", "long_factor": [1]})), "config.json lacks short_factor");
    let partial =
        "partial_rotary_factor must be an even number of the 16 elements of a head, at least 2, got 0.2";
    check_refused(json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.2}), partial);
}

#[test]
fn texts_end_as_either_file_says_and_begin_as_the_generation_config_does() {
    let config = changed(&json!({"bos_token_id": 1})).to_string();
    let tokens = |generation: &str| {
        let config = ModelConfig::parse(config.as_bytes(), Some(generation.as_bytes())).unwrap();
        (config.eos_tokens, config.bos_token)
    };
    assert_eq!(tokens(r#"{"eos_token_id": [5, 6], "bos_token_id": 4}"#), (vec![5, 6, 2], Some(4)));
    assert_eq!(tokens(r#"{"eos_token_id": 5}"#), (vec![5, 2], Some(1)));
    assert_eq!(tokens(r#"{"eos_token_id": null}"#), (vec![2], Some(1)));
}

#[test]
fn recommended_sampling_is_read_and_nonsense_in_it_ignored() {
    let config = changed(&json!({})).to_string();
    let sampling = |generation: Value| {
        let generation = generation.to_string();
        ModelConfig::parse(config.as_bytes(), Some(generation.as_bytes())).unwrap().sampling
    };
    let qwen3 =
        sampling(json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0}));
    let expected = SamplingDefaults {
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        min_p: Some(0.0),
        repetition_penalty: None,
    };
    assert_eq!(qwen3, expected);
    assert_eq!(qwen3.to_string(), "temperature 0.6, top-p 0.95, top-k 20, min-p 0");
    assert_eq!(sampling(json!({"eos_token_id": 2})), SamplingDefaults::default());
    assert_eq!(SamplingDefaults::default().to_string(), "");
    assert_eq!(sampling(json!({"do_sample": false, "temperature": 0.6})).temperature, Some(0.0));
    assert_eq!(sampling(json!({"top_k": -1})).top_k, Some(0));
    let nonsense =
        json!({"temperature": -1, "top_p": 0, "top_k": 1.0e20, "min_p": 2, "repetition_penalty": "x"});
    assert_eq!(sampling(nonsense), SamplingDefaults::default());
}
