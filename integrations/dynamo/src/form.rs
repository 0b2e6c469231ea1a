//! The form that an answer must have, as Dynamo asks for it.

use std::sync::Arc;

use dsde_engine::Grammar;
use dsde_text::{Grammars, Thoughts};
use dynamo_backend_common::GuidedDecodingOptions;
use serde_json::Value;

/// What answers must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// JSON of a schema.
    JsonSchema(Value),
    /// What a regular expression matches, as a whole.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// What a grammar describes.
    Grammar(String),
}

impl Form {
    /// The one form that is asked for, if any. Which library compiles it (`backend`) is up to the engine.
    ///
    /// # Errors
    /// If two are asked for, or one that this engine does not know.
    pub(crate) fn of(options: GuidedDecodingOptions) -> Result<Option<Self>, String> {
        options.validate().map_err(|error| error.to_string())?;
        let GuidedDecodingOptions {
            json, regex, choice, grammar, structural_tag, whitespace_pattern, ..
        } = options;
        for (name, is_asked) in [
            ("structural_tag", structural_tag.is_some()),
            ("whitespace_pattern", whitespace_pattern.is_some()),
        ] {
            if is_asked {
                return Err(format!("guided decoding by `{name}` is not supported by this engine"));
            }
        }
        let json = json.map(schema).transpose()?.flatten().map(Self::JsonSchema);
        let choice = choice.filter(|texts| !texts.is_empty()).map(Self::Choice);
        Ok(json.or(regex.map(Self::Regex)).or(choice).or(grammar.map(Self::Grammar)))
    }

    /// What an answer of this form may say. May take a while.
    ///
    /// # Errors
    /// If the form cannot be followed.
    pub(crate) fn compiled(self, grammars: &Grammars) -> Result<Arc<dyn Grammar>, dsde_text::Error> {
        match self {
            Self::JsonSchema(schema) => grammars.json_schema(schema, Thoughts::None),
            Self::Regex(regex) => grammars.regex(&regex, Thoughts::None),
            Self::Choice(texts) => grammars.choice(&texts, Thoughts::None),
            Self::Grammar(text) => grammars.grammar(&text, Thoughts::None),
        }
    }
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
