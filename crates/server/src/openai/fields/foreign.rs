//! Fields of other servers and of other parts of the API.
//!
//! One that would change the answer in a way this server does not know is refused by name, unless it asks for what happens
//! anyway. Fields that are in no list here change no answer (who asks, what is stored, how it is cached) and are ignored.

use serde_json::Value;

use crate::openai::error::ApiError;

/// Neutral if null, false, or empty.
const EMPTY: [&str; 72] = [
    // OpenAI
    "audio",
    "functions",
    "reasoning",
    "suffix",
    "tools",
    // vLLM
    "allowed_token_ids",
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "flat_logprobs",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "include_stop_str_in_output",
    "kv_transfer_params",
    "logits_processors",
    "logprob_token_ids",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "prompt_embeds",
    "repetition_detection",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "structural_tag",
    "truncate_prompt_tokens",
    "use_beam_search",
    "vllm_xargs",
    // SGLang
    "custom_logit_processor",
    "custom_params",
    "input_ids",
    "lora_path",
    "no_stop_trim",
    "return_hidden_states",
    "stop_regex",
    // llama.cpp
    "dry_multiplier",
    "dynatemp_range",
    "grammar_lazy",
    "grammar_triggers",
    "image_data",
    "lora",
    "mirostat",
    "n_indent",
    "n_probs",
    "post_sampling_probs",
    "response_fields",
    "return_tokens",
    "samplers",
    "t_max_predict_ms",
    "thinking_forced_open",
    "xtc_probability",
    // TGI
    "adapter_id",
    "decoder_input_details",
    "details",
    "guideline",
    "tool_prompt",
    "top_n_tokens",
    "truncate",
    "watermark",
    // Ollama
    "context",
    "images",
    "options",
    "raw",
    "template",
    // Anthropic, and others
    "enable_thinking",
    "parameters",
    "safe_prompt",
    "sampling_params",
    "system",
    "thinking",
    "transforms",
];

/// Neutral if null or this number.
const NUMBERS: [(&str, f64); 17] = [
    ("best_of", 1.0),
    ("diversity_penalty", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("length_penalty", 1.0),
    ("n_keep", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("smoothing_factor", 0.0),
    ("repeat_penalty", 1.0),
    ("tfs_z", 1.0),
    ("top_a", 0.0),
    ("top_n_sigma", -1.0),
    ("truncation_length", 0.0),
    ("typical_p", 1.0),
    ("dry_allowed_length", 2.0),
];

/// Neutral if null or one of these words.
const WORDS: [(&str, &[&str]); 8] = [
    ("early_stopping", &["false"]),
    ("function_call", &["none", "auto"]),
    ("reasoning_effort", &["none"]),
    ("reasoning_format", &["auto", "none"]),
    ("tool_choice", &["none", "auto"]),
    ("truncation", &["disabled"]),
    ("verbosity", &["medium"]),
    ("moderation", &["auto"]),
];

/// Neutral if null or true.
const TRUE: [&str; 5] = [
    "detokenize",
    "parse_tool_calls",
    "separate_reasoning",
    "skip_special_tokens",
    "spaces_between_special_tokens",
];

/// Only null is neutral: zero or an empty value asks for something.
const NULL: [&str; 5] =
    ["input", "prompt_logprobs", "thinking_budget", "thinking_token_budget", "web_search_options"];

/// What others call a field of this server; neutral if null.
const OTHER_NAMES: [(&str, &str); 14] = [
    ("max_length", "max_tokens"),
    ("max_new_tokens", "max_tokens"),
    ("max_output_tokens", "max_tokens"),
    ("min_new_tokens", "min_tokens"),
    ("n_predict", "max_tokens"),
    ("num_predict", "max_tokens"),
    ("instructions", "messages"),
    ("random_seed", "seed"),
    ("repetition_context_size", "repetition_penalty"),
    ("stop_sequence", "stop"),
    ("stop_sequences", "stop"),
    ("stop_token", "stop_token_ids"),
    ("stop_words", "stop"),
    ("think", "enable_thinking"),
];

/// Wrappers of client libraries that never reach a server where they are used as meant.
const WRAPPERS: [&str; 4] = ["extra_args", "extra_body", "extra_query", "generation_config"];

/// Refuses fields that cannot be honoured.
///
/// * `is_known`: whether the route itself has a field of this name.
///
/// # Errors
/// 400 with the name of the first one.
pub(crate) fn check(fields: &Value, is_known: impl Fn(&str) -> bool) -> Result<(), ApiError> {
    let refused = fields.as_object().into_iter().flatten().filter(|(name, _)| !is_known(name));
    for (name, value) in refused {
        if let Some(what) = refusal(name, value, fields) {
            return Err(ApiError::bad_field(name, format!("`{name}` is not supported by this server{what}")));
        }
    }
    Ok(())
}

/// Why a field is refused, to be read behind that it is.
fn refusal(name: &str, value: &Value, fields: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| *other == name) {
        return Some(format!("; use `{ours}`"));
    }
    if WRAPPERS.contains(&name) {
        return (!is_empty(value)).then(|| "; put what it holds beside the other fields".to_owned());
    }
    let is_word = WORDS
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, words)| is_empty(value) || value.as_str().is_some_and(|word| words.contains(&word)));
    let is_number = || {
        let (_, neutral) = NUMBERS.iter().find(|(other, _)| *other == name)?;
        // All of `n` best continuations are what `n` gives.
        let is_all = name == "best_of" && *value == fields["n"];
        Some(is_all || value.as_f64().map_or(is_empty(value), |number| number == *neutral))
    };
    let is_true = || TRUE.contains(&name).then(|| *value == Value::Bool(true));
    let is_null = || NULL.contains(&name).then_some(false);
    let is_nothing = || match name {
        "modalities" => Some(is_empty(value) || *value == serde_json::json!(["text"])),
        _ => EMPTY.contains(&name).then(|| is_empty(value)),
    };
    let is_neutral = is_word.or_else(is_number).or_else(is_true).or_else(is_null).or_else(is_nothing)?;
    (!is_neutral).then(String::new)
}

/// Null, false, zero or empty.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(fields: &Value) -> Option<String> {
        let error = check(fields, |name| name == "n").err()?.body();
        assert!(error["error"]["message"].as_str().unwrap().contains("is not supported by this server"));
        Some(error["error"]["param"].as_str().unwrap().to_owned())
    }

    #[test]
    fn every_field_is_neutral_if_null_and_refused_if_it_changes_something() {
        let names = EMPTY.iter().copied().chain(NULL).chain(TRUE).chain(WRAPPERS);
        let names = names.chain(NUMBERS.map(|(name, _)| name)).chain(WORDS.map(|(name, _)| name));
        for name in names.chain(OTHER_NAMES.map(|(name, _)| name)).chain(["modalities"]) {
            assert_eq!(refused(&json!({name: null})), None, "{name}");
            assert_eq!(refused(&json!({name: {"x": 17}})).as_deref(), Some(name));
            assert_eq!(refused(&json!({name: 17})).as_deref(), Some(name));
            assert_eq!(refused(&json!({name: "something"})).as_deref(), Some(name));
        }
    }

    #[test]
    fn neutral_values_are_not_refused() {
        for neutral in [
            json!({"tools": [], "tool_choice": "none", "functions": null, "function_call": "auto"}),
            json!({"modalities": ["text"], "verbosity": "medium", "x": 0}),
            json!({"best_of": 1, "length_penalty": 1, "typical_p": 1.0, "repeat_penalty": 1, "mirostat": 0}),
            json!({"n": 3, "best_of": 3}),
            json!({"use_beam_search": false, "suffix": "", "extra_body": {}}),
            json!({"skip_special_tokens": true, "spaces_between_special_tokens": true, "early_stopping": false}),
            json!({"user": "me", "store": true, "metadata": {"a": "b"}, "service_tier": "flex", "unknown": [1]}),
            json!({"prediction": {"type": "content", "content": "x"}, "cache_prompt": true, "keep_alive": "5m"}),
        ] {
            assert_eq!(refused(&neutral), None, "{neutral}");
        }
    }

    #[test]
    fn what_changes_the_answer_is_refused_by_name() {
        for (fields, name) in [
            (json!({"n": 2, "best_of": 3}), "best_of"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"web_search_options": {}}), "web_search_options"),
            (json!({"spaces_between_special_tokens": false}), "spaces_between_special_tokens"),
            (json!({"extra_body": {"top_k": 1}}), "extra_body"),
            (json!({"verbosity": "low"}), "verbosity"),
            (json!({"n_predict": 16}), "n_predict"),
            (json!({"mirostat": 2}), "mirostat"),
        ] {
            assert_eq!(refused(&fields).as_deref(), Some(name));
        }
    }
}
