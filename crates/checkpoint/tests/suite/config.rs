//! Configurations of every family, and every refusal.

use std::path::Path;

use dsde_checkpoint::Error;
use dsde_checkpoint::config::{Activation, Family, ModelConfig, Rope, RopeScaling, SamplingDefaults};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(family: &str) -> ModelConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(family);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let generation = std::fs::read(folder.join("generation_config.json")).ok();
    ModelConfig::parse(&config, generation.as_deref()).unwrap()
}

/// A valid configuration with `changes` applied; `null` deletes.
fn changed(changes: &Value) -> Value {
    let mut config = json!({
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
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => config.as_object_mut().unwrap().remove(field),
            value => config.as_object_mut().unwrap().insert(field.clone(), value.clone()),
        };
    }
    config
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
    let config = fixture("llama2");
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
    let config = fixture("llama3");
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
    let config = fixture("llama_linear");
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias), (true, true, true));
}

#[test]
fn mistral_without_window_serves_its_whole_context() {
    let config = fixture("mistral");
    assert_eq!(config.family, Family::Mistral);
    assert_eq!((config.n_kv_heads, config.ropes[0].theta, config.context_len_max), (1, 1_000_000.0, 128));
}

#[test]
fn qwen2_has_biases_on_query_key_and_value_only() {
    let config = fixture("qwen2");
    assert_eq!(config.family, Family::Qwen2);
    assert_eq!((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias), (true, false, false));
    assert_eq!((config.tie_embeddings, config.context_len_max), (true, 128));
}

#[test]
fn qwen3_normalises_queries_and_keys_of_its_own_head_size() {
    let config = fixture("qwen3");
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
    let config = fixture("phi3");
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
    let config = fixture("granite");
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
fn other_architectures_are_refused_by_name() {
    let expected = |got: &str| {
        format!(
            "architecture {got} is not supported; supported are LlamaForCausalLM, MistralForCausalLM, \
             Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma4ForCausalLM, Phi3ForCausalLM, \
             SmolLM3ForCausalLM, GraniteForCausalLM, Glm4ForCausalLM, Qwen3MoeForCausalLM, MixtralForCausalLM, \
             OlmoeForCausalLM, GptOssForCausalLM, Qwen3_5ForCausalLM, Qwen3_5MoeForCausalLM, \
             Qwen3NextForCausalLM"
        )
    };
    check_refused(json!({"architectures": ["GPT2LMHeadModel"]}), &expected("GPT2LMHeadModel"));
    check_refused(json!({"architectures": ["PhimoeForCausalLM"]}), &expected("PhimoeForCausalLM"));
    check_refused(json!({"architectures": [7]}), &expected("7"));
    check_refused(json!({"architectures": [], "model_type": "gemma"}), &expected("gemma"));
    check_refused(json!({"architectures": null}), "config.json lacks architectures");
}

#[test]
fn what_is_not_implemented_is_refused() {
    let experts =
        "a mixture of experts is not supported (num_local_experts: 8); use a dense model of the family";
    check_refused(json!({"num_local_experts": 8}), experts);
    let quantised = "a quantised checkpoint is not supported (quant_method: \"gptq\"); use the original weights in bf16, \
                     f16 or f32";
    check_refused(json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), quantised);
    let activation = "an activation other than silu and gelu_pytorch_tanh is not supported (hidden_act: gelu); use another model, or remove the \
                      field if the weights do not need it";
    check_refused(json!({"hidden_act": "gelu"}), activation);
    let scaled = |field: &str| {
        format!(
            "rotary scaling other than linear, dynamic, yarn, longrope, llama3 and proportional is not supported ({field}: mrope); set it \
             to \"default\" in config.json, and leave rope_theta, to serve contexts up to the original length"
        )
    };
    let scaling = json!({"rope_type": "mrope", "factor": 4.0});
    check_refused(json!({"rope_scaling": scaling}), &scaled("rope_scaling.rope_type"));
    check_refused(json!({"rope_parameters": scaling}), &scaled("rope_parameters.rope_type"));
    let older = json!({"type": "mrope", "factor": 4.0});
    check_refused(json!({"rope_scaling": older}), &scaled("rope_scaling.type"));
}

/// Fields and a value of each that asks for what is not implemented.
fn asking_for_more() -> Vec<(&'static str, Value)> {
    vec![
        ("num_experts", json!(64)),
        ("partial_rotary_factor", json!(0.5)),
        ("rotary_pct", json!(0.25)),
        ("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 0.75})),
        ("rope_interleave", json!(true)),
        ("rope_scaling", json!({"full_attention": {"rope_theta": 1e6}})),
        ("rope_local_base_freq", json!(10_000)),
        ("no_rope_layers", json!([1, 0])),
        ("position_embedding_type", json!("absolute")),
        ("alibi", json!(true)),
        ("layer_types", json!(["full_attention", "linear_attention"])),
        ("attn_logit_softcapping", json!(50.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("clip_qkv", json!(8.0)),
        ("attention_chunk_size", json!(8192)),
        ("use_bidirectional_attention", json!(true)),
        ("use_parallel_residual", json!(true)),
        ("embedding_multiplier", json!(12.0)),
        ("residual_multiplier", json!(0.22)),
        ("logits_scaling", json!(8.0)),
        ("attention_multiplier", json!(0.015625)),
        ("query_pre_attn_scalar", json!(256)),
        ("scale_emb", json!(12)),
    ]
}

#[test]
fn fields_that_change_the_computation_are_refused_by_name() {
    for (field, value) in asking_for_more() {
        let error = parsed(json!({field: value})).unwrap_err().to_string();
        let named = match field {
            "rope_parameters" => "partial_rotary_factor",
            "rope_scaling" => "full_attention",
            field => field,
        };
        assert!(error.contains(&format!("is not supported ({named}: ")), "{field}: {error}");
    }
    check_refused(
        json!({"layer_types": ["full_attention", "sliding_attention"]}),
        "config.json lacks sliding_window",
    );
}

#[test]
fn fields_that_change_nothing_are_not_refused() {
    for (field, _) in asking_for_more() {
        assert!(parsed(json!({field: null})).is_ok(), "{field}");
    }
    let head_dim = parsed(json!({})).unwrap().head_dim as f64;
    let neutral = json!({
        "hidden_act": "swish", "num_experts": 0, "partial_rotary_factor": 1.0, "rope_interleave": false, "alibi": false,
        "position_embedding_type": "rope", "layer_types": ["full_attention"], "embedding_multiplier": 1,
        "residual_multiplier": 1.0, "logits_scaling": 1.0, "attention_multiplier": head_dim.powf(-0.5),
        "query_pre_attn_scalar": head_dim, "no_rope_layers": [1, 1], "clip_qkv": null, "pretraining_tp": 2,
        "attention_dropout": 0.1, "use_cache": true, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0},
    });
    assert_eq!(parsed(neutral).unwrap(), parsed(json!({})).unwrap());
}

#[test]
fn a_token_that_begins_a_text_may_be_wrong_because_nothing_uses_it() {
    assert_eq!(parsed(json!({"bos_token_id": 999})).unwrap().bos_token, None);
    assert_eq!(parsed(json!({"bos_token_id": "<s>"})).unwrap().bos_token, None);
    assert_eq!(parsed(json!({"bos_token_id": 127})).unwrap().bos_token, Some(127));
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

#[test]
fn required_fields_are_required() {
    let required = [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "rms_norm_eps",
        "max_position_embeddings",
    ];
    for field in required {
        check_refused(json!({field: null}), &format!("config.json lacks {field}"));
    }
    let qwen2 = json!({"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": null});
    check_refused(qwen2, "config.json lacks num_key_value_heads");
    check_refused(json!({"rope_scaling": {"factor": 2.0}}), "config.json lacks rope_type");
    check_refused(json!({"rope_scaling": {"type": "linear"}}), "config.json lacks factor");
}

#[test]
fn sizes_outside_their_limits_are_refused() {
    let vocab = |got: &str| format!("vocab_size must be a whole number from 1 to 1048576, got {got}");
    check_refused(json!({"vocab_size": 0}), &vocab("0"));
    check_refused(json!({"vocab_size": -1}), &vocab("-1"));
    check_refused(json!({"vocab_size": 1.5}), &vocab("1.5"));
    check_refused(json!({"vocab_size": u64::MAX}), &vocab("18446744073709551615"));
    check_refused(json!({"vocab_size": "128"}), &vocab("\"128\""));
    let layers = "num_hidden_layers must be a whole number from 1 to 512, got 1000000000";
    check_refused(json!({"num_hidden_layers": 1_000_000_000}), layers);
    let head_dim = |got: usize| format!("head_dim must be a whole number from 2 to 1024, got {got}");
    check_refused(json!({"head_dim": 0}), &head_dim(0));
    check_refused(json!({"head_dim": 2048}), &head_dim(2048));
    // In f32, 1e300 is infinite and 1e-300 is 0.
    for eps in ["-0.1", "0.0", "1e300", "1e-300", "1.5"] {
        let expected = format!("rms_norm_eps must be a number from 1e-12 to 1.0, got {}", number(eps));
        check_refused(json!({"rms_norm_eps": number(eps)}), &expected);
    }
    for theta in ["0.0", "1e300"] {
        let expected =
            format!("rope_theta must be a number from 1.0 to 1000000000000.0, got {}", number(theta));
        check_refused(json!({"rope_theta": number(theta)}), &expected);
        check_refused(json!({"rope_parameters": {"rope_theta": number(theta)}}), &expected);
    }
    let window = "sliding_window must be a whole number from 1 to 16777216, got 0";
    check_refused(json!({"architectures": ["MistralForCausalLM"], "sliding_window": 0}), window);
    check_refused(json!({"eos_token_id": 128}), "eos_token_id must be token ids below 128, got 128");
    check_refused(json!({"eos_token_id": [2, -1]}), "eos_token_id must be token ids below 128, got -1");
    check_refused(json!({"tie_word_embeddings": 1}), "tie_word_embeddings must be true or false, got 1");
    check_refused(json!({"rope_scaling": 8}), "rope_scaling must be an object, got 8");
}

/// A JSON number as written.
fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_model_ends_texts_with_no_more_tokens_than_a_request_may() {
    let ids = |n: u32| json!({"eos_token_id": (0..n).map(|i| i % 128).collect::<Vec<_>>()});
    assert_eq!(parsed(ids(128)).unwrap().eos_tokens.len(), 128);
    check_refused(ids(129), "eos_token_id must be at most 128 token ids, got 129 of them");
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    let kv = "num_key_value_heads must be a divisor of num_attention_heads (4), got 3";
    check_refused(json!({"num_key_value_heads": 3}), kv);
    let more_kv = "num_key_value_heads must be a whole number from 1 to 4, got 8";
    check_refused(json!({"num_key_value_heads": 8}), more_kv);
    let hidden = "hidden_size must be a multiple of num_attention_heads (4) where head_dim is absent, got 66";
    check_refused(json!({"hidden_size": 66}), hidden);
    check_refused(json!({"hidden_size": 60}), "head_dim must be even and at most 1024, got 15");
    check_refused(json!({"hidden_size": 8192}), "head_dim must be even and at most 1024, got 2048");
    let llama3 = json!({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }});
    check_refused(llama3, "high_freq_factor must be above low_freq_factor (4), got 4");
}

#[test]
fn long_values_are_cut_in_messages() {
    let error = parsed(json!({"vocab_size": "x".repeat(10_000)})).unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
}

#[test]
fn texts_that_are_no_configuration_are_refused() {
    for text in ["", "[]", "null", "{", "\u{feff}{}", "nonsense"] {
        assert!(ModelConfig::parse(text.as_bytes(), None).is_err(), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(ModelConfig::parse(deep.as_bytes(), None), Err(Error::Json { .. })));
}

/// Values that files should not hold.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..300u64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,8}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..3).prop_map(Value::from),
        Just(json!({"rope_type": "linear"})),
    ]
}

proptest! {
    #[test]
    fn any_values_parse_to_a_usable_model_or_an_error(
        changes in proptest::collection::vec((0..16usize, odd_value()), 1..4),
    ) {
        const FIELDS: [&str; 16] = [
            "architectures", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "intermediate_size", "rms_norm_eps", "max_position_embeddings", "eos_token_id",
            "head_dim", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "tie_word_embeddings",
        ];
        let changes: serde_json::Map<_, _> =
            changes.into_iter().map(|(i, value)| (FIELDS[i].to_string(), value)).collect();
        if let Ok(config) = parsed(Value::Object(changes)) {
            prop_assert!(config.n_heads % config.n_kv_heads == 0 && config.n_kv_heads > 0);
            prop_assert!(config.head_dim % 2 == 0 && config.head_dim > 0);
            prop_assert!(config.vocab_len > 0 && config.hidden > 0 && config.context_len_max > 0);
            prop_assert!((1.0..=1e12).contains(&config.ropes[0].theta));
            prop_assert!(config.layers.len() == config.n_layers);
            prop_assert!(config.rms_eps > 0.0 && config.rms_eps <= 1.0);
        }
    }
}
