//! Every refusal, and what is none.

use dsde_checkpoint::Error;
use dsde_checkpoint::config::ModelConfig;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{check_refused, parsed};

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
