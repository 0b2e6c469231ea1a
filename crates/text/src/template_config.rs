//! What the files of a model say about its chat template, which tools have put in different places over time.

use std::path::Path;

use serde_json::{Map, Value, json};

use dsde_checkpoint::files::{self, JSON_BYTES_MAX, read_optional};
use dsde_checkpoint::gguf::Metadata;

use crate::error::Error;
use crate::tokenizer::gguf::mark_texts;

const CONFIG: &str = "tokenizer_config.json";
const TOKENS: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.json";
const FIELD: &str = "chat_template";
/// Where GGUF files have it; named ones have a dot and the name behind this.
pub(super) const GGUF_FIELD: &str = "tokenizer.chat_template";
/// Special tokens that templates mention.
const TOKEN_FIELDS: [&str; 2] = ["bos_token", "eos_token"];

/// `tokenizer_config.json`, completed by the special tokens of `special_tokens_map.json` and the template of
/// `chat_template.json` where it has none itself.
///
/// # Errors
/// If a file cannot be read or is not JSON.
pub(super) fn read(folder: &Path) -> Result<Vec<u8>, Error> {
    let mut config = match json_of(folder, CONFIG)? {
        Value::Object(config) => config,
        _ => Map::new(),
    };
    let is_missing = |config: &Map<String, Value>, field: &str| config.get(field).is_none_or(Value::is_null);
    if TOKEN_FIELDS.iter().any(|field| is_missing(&config, field)) {
        let tokens = json_of(folder, TOKENS)?;
        for field in TOKEN_FIELDS.into_iter().filter(|field| tokens.get(field).is_some()) {
            if is_missing(&config, field) {
                config.insert(field.to_string(), tokens[field].clone());
            }
        }
    }
    if is_missing(&config, FIELD) {
        let file = json_of(folder, TEMPLATE)?;
        config.insert(FIELD.to_string(), file.get(FIELD).unwrap_or(&file).clone());
    }
    if let Some(Value::Object(named)) = config.get(FIELD) {
        let list = named.iter().map(|(name, template)| json!({"name": name, "template": template}));
        config.insert(FIELD.to_string(), list.collect());
    }
    Ok(Value::Object(config).to_string().into_bytes())
}

/// What the metadata of a GGUF file says, in the form of `tokenizer_config.json`.
///
/// # Errors
/// If a value has another type, or names a token that is not there.
pub(super) fn of_gguf(metadata: &Metadata) -> Result<Vec<u8>, Error> {
    let mut named = Vec::new();
    for key in metadata.keys() {
        let name = match key.strip_prefix(GGUF_FIELD) {
            Some("") => "default",
            Some(rest) => match rest.strip_prefix('.') {
                Some(name) => name,
                None => continue, // `tokenizer.chat_templates`, the list of the names.
            },
            None => continue,
        };
        named.push(json!({"name": name, "template": metadata.text(key)?}));
    }
    let mut config = Map::new();
    for (field, text) in TOKEN_FIELDS.into_iter().zip(mark_texts(metadata)?) {
        config.insert(field.to_string(), text.into());
    }
    if !named.is_empty() {
        config.insert(FIELD.to_string(), named.into());
    }
    Ok(Value::Object(config).to_string().into_bytes())
}

/// The contents of a file, `null` if there is none.
fn json_of(folder: &Path, name: &str) -> Result<Value, Error> {
    let Some(text) = read_optional(&folder.join(name), JSON_BYTES_MAX)? else {
        return Ok(Value::Null);
    };
    Ok(files::json(name, &text)?)
}
