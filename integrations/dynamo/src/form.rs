//! The form that an answer must have, as Dynamo asks for it.

use dsde_server::Form;
use dynamo_backend_common::GuidedDecodingOptions;
use serde_json::Value;

/// The one form that is asked for, if any. Which library compiles it (`backend`) is up to the engine.
///
/// # Errors
/// If two are asked for, or one that this engine does not know.
pub(crate) fn form(options: GuidedDecodingOptions) -> Result<Option<Form>, String> {
    options.validate().map_err(|error| error.to_string())?;
    let GuidedDecodingOptions { json, regex, choice, grammar, structural_tag, whitespace_pattern, .. } =
        options;
    for (name, is_asked) in
        [("structural_tag", structural_tag.is_some()), ("whitespace_pattern", whitespace_pattern.is_some())]
    {
        if is_asked {
            return Err(format!("guided decoding by `{name}` is not supported by this engine"));
        }
    }
    let json = json.map(schema).transpose()?.flatten().map(Form::JsonSchema);
    let choice = choice.filter(|texts| !texts.is_empty()).map(Form::Choice);
    Ok(json.or(regex.map(Form::Regex)).or(choice).or(grammar.map(Form::Grammar)))
}

/// A schema as such or as text; `null` is none.
fn schema(json: Value) -> Result<Option<Value>, String> {
    match json {
        Value::Null => Ok(None),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(schema) => Ok(Some(schema)),
            Err(error) => Err(format!("guided decoding by `json` must be a schema: {error}")),
        },
        schema => Ok(Some(schema)),
    }
}
