//! Models that read images, too: which of their fields are about text.

use serde_json::{Map, Value, json};

use super::unsupported::QUANTISATION;

/// Architectures of such models, and of their text parts.
const MULTIMODAL: [[&str; 2]; 5] = [
    [GEMMA3, "Gemma3ForCausalLM"],
    ["Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"],
    [GEMMA4_UNIFIED, "Gemma4ForCausalLM"],
    ["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
    ["Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"],
];
/// Those whose files leave fields out that mean something else elsewhere.
const GEMMA3: &str = "Gemma3ForConditionalGeneration";
const GEMMA4_UNIFIED: &str = "Gemma4UnifiedForConditionalGeneration";
/// Object that holds the fields of the text part.
const TEXT: &str = "text_config";
/// Fields beside it that are about text, too.
const OUTER: [&str; 4] = ["bos_token_id", "eos_token_id", "tie_word_embeddings", QUANTISATION];

/// `config` as that of a model that reads text alone.
pub(super) fn text_part(mut config: Value) -> Value {
    let named = &config["architectures"][0];
    let Some([outer_architecture, architecture]) = MULTIMODAL.into_iter().find(|[found, _]| named == found)
    else {
        return config;
    };
    let defaults = match outer_architecture {
        GEMMA3 => gemma3_defaults(),
        GEMMA4_UNIFIED => gemma4_unified_defaults(),
        _ => Map::new(),
    };
    flat(&mut config, architecture, defaults).unwrap_or(config)
}

/// The fields of the text part and those beside it that are about text, as those of a model of `architecture`; they are taken out of
/// `config`. `None` without such a part.
///
/// * `defaults`: what absent fields are.
pub(super) fn flat(config: &mut Value, architecture: &str, defaults: Map<String, Value>) -> Option<Value> {
    let Some(Value::Object(text)) = config.get_mut(TEXT).map(Value::take) else {
        return None;
    };
    let outer = OUTER.map(|field| (field, config[field].take()));
    let mut fields = defaults;
    fields.extend(text);
    fields.extend(
        outer.into_iter().filter(|(_, value)| !value.is_null()).map(|(field, value)| (field.into(), value)),
    );
    fields.insert("architectures".into(), json!([architecture]));
    Some(Value::Object(fields))
}

/// Sizes that the published files leave out: those of transformers' `Gemma3TextConfig`.
fn gemma3_defaults() -> Map<String, Value> {
    let fields = [
        ("vocab_size", json!(262_208)),
        ("num_attention_heads", json!(8)),
        ("num_key_value_heads", json!(4)),
        ("rms_norm_eps", json!(1e-6)),
        ("max_position_embeddings", json!(131_072)),
    ];
    fields.map(|(field, value)| (field.to_string(), value)).into_iter().collect()
}

/// What transformers' `Gemma4UnifiedTextConfig` has otherwise than that of Gemma 4: no inputs per layer, and a longer window.
pub(super) fn gemma4_unified_defaults() -> Map<String, Value> {
    let fields = [("hidden_size_per_layer_input", json!(0)), ("sliding_window", json!(1024))];
    fields.map(|(field, value)| (field.to_string(), value)).into_iter().collect()
}
