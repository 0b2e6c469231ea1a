//! The form that an answer is to have, by whatever name a client knows it: OpenAI's, vLLM's, SGLang's, llama.cpp's, TGI's or
//! Ollama's.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::forms::Form;
use crate::openai::error::ApiError;

/// A form and the field that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AskedForm {
    pub(crate) form: Form,
    pub(crate) field: &'static str,
}

/// Fields that ask for a form, as typed.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct FormFields {
    response_format: Option<Value>,
    structured_outputs: Option<Value>,
    guided_json: Option<Value>,
    guided_json_object: Option<bool>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
    json_schema: Option<Value>,
    regex: Option<String>,
    ebnf: Option<String>,
    grammar: Option<Value>,
    format: Option<Value>,
}

impl FormFields {
    /// The one form that is asked for.
    ///
    /// # Errors
    /// 400 if there are two, or one is none.
    pub(crate) fn asked(self) -> Result<Option<AskedForm>, ApiError> {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let forms = [
            ("response_format", self.response_format.map_or(Ok(None), response_format)?),
            ("structured_outputs", self.structured_outputs.map_or(Ok(None), structured_outputs)?),
            ("guided_json", schema("guided_json", self.guided_json)?),
            ("guided_json_object", self.guided_json_object.filter(|&is| is).map(|_| Form::JsonObject)),
            ("guided_regex", text(self.guided_regex).map(Form::Regex)),
            ("guided_choice", self.guided_choice.filter(|list| !list.is_empty()).map(Form::Choice)),
            ("guided_grammar", text(self.guided_grammar).map(Form::Grammar)),
            ("json_schema", schema("json_schema", self.json_schema)?),
            ("regex", text(self.regex).map(Form::Regex)),
            ("ebnf", text(self.ebnf).map(Form::Grammar)),
            ("grammar", self.grammar.map_or(Ok(None), grammar)?),
            ("format", self.format.map_or(Ok(None), format)?),
        ];
        let mut asked = forms.into_iter().filter_map(|(field, form)| Some(AskedForm { form: form?, field }));
        let first = asked.next();
        match (&first, asked.next()) {
            (Some(first), Some(second)) => {
                let message = format!(
                    "an answer has one form, but `{}` and `{}` ask for two",
                    first.field, second.field
                );
                Err(ApiError::bad_field(second.field, message))
            }
            _ => Ok(first),
        }
    }
}

/// OpenAI's types, with what llama.cpp and TGI put into them, and a type for every other form.
fn response_format(typed: Value) -> Result<Option<Form>, ApiError> {
    const FIELD: &str = "response_format";
    let refuse = |message: String| Err(ApiError::bad_field(FIELD, format!("`{FIELD}` {message}")));
    let Some(kind) = typed["type"].as_str() else {
        return refuse("must be an object with a `type`".to_owned());
    };
    let of_schema =
        || ["schema", "value"].into_iter().map(|name| &typed[name]).find(|value| !value.is_null());
    let text = |names: [&str; 2]| names.into_iter().find_map(|name| typed[name].as_str()).map(str::to_owned);
    match kind {
        "text" => Ok(None),
        "json_object" | "json" => Ok(schema(FIELD, of_schema().cloned())?.or(Some(Form::JsonObject))),
        "json_schema" => {
            let named = &typed["json_schema"];
            let given = Some(&named["schema"]).filter(|schema| !schema.is_null()).or_else(of_schema);
            match given {
                Some(given) => schema(FIELD, Some(given.clone())),
                None => {
                    refuse("of the type json_schema must have a `json_schema` with a `schema`".to_owned())
                }
            }
        }
        "regex" => match text(["regex", "pattern"]).or_else(|| text(["value", "value"])) {
            Some(regex) => Ok(Some(Form::Regex(regex))),
            None => refuse("of the type regex must have a `regex`".to_owned()),
        },
        "grammar" => match text(["grammar", "value"]) {
            Some(grammar) => Ok(Some(Form::Grammar(grammar))),
            None => refuse("of the type grammar must have a `grammar`".to_owned()),
        },
        "choice" => choice(FIELD, &typed["choice"]).map(Some),
        other => {
            let shown: String = other.chars().take(40).collect();
            refuse(format!(
                "must have the type text, json_object, json_schema, regex, choice or grammar, got {shown}"
            ))
        }
    }
}

/// vLLM's object: one of `json`, `json_object`, `regex`, `choice` and `grammar`.
fn structured_outputs(typed: Value) -> Result<Option<Form>, ApiError> {
    const FIELD: &str = "structured_outputs";
    let refuse = |message: String| Err(ApiError::bad_field(FIELD, format!("`{FIELD}` {message}")));
    let Some(entries) = typed.as_object() else {
        return refuse("must be an object".to_owned());
    };
    let mut form = None;
    for (name, value) in entries.iter().filter(|(_, value)| !value.is_null() && **value != Value::Bool(false))
    {
        let text = || match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(ApiError::bad_field(
                format!("{FIELD}.{name}"),
                format!("`{FIELD}.{name}` must be a string"),
            )),
        };
        let this = match name.as_str() {
            "json" => schema("structured_outputs.json", Some(value.clone()))?,
            "json_object" => Some(Form::JsonObject),
            "regex" => Some(Form::Regex(text()?)),
            "choice" => Some(choice("structured_outputs.choice", value)?),
            "grammar" => Some(Form::Grammar(text()?)),
            // There is no white space anyway, and only one engine of grammars.
            "disable_any_whitespace" | "disable_fallback" | "backend" => None,
            other => return refuse(format!("cannot have `{other}` on this server")),
        };
        match (this, &form) {
            (Some(_), Some(_)) => return refuse("must ask for one form, got several".to_owned()),
            (this @ Some(_), None) => form = this,
            (None, _) => {}
        }
    }
    Ok(form)
}

/// llama.cpp's text, or TGI's object of a type and a value.
fn grammar(typed: Value) -> Result<Option<Form>, ApiError> {
    match typed {
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(Form::Grammar(text))),
        Value::Object(_) if typed["type"] == "json" || typed["type"] == "regex" => response_format(typed),
        _ => Err(ApiError::bad_field(
            "grammar",
            "`grammar` must be a string, or an object of the type json or regex",
        )),
    }
}

/// Ollama's `json`, or a schema.
fn format(typed: Value) -> Result<Option<Form>, ApiError> {
    match typed {
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text == "json" => Ok(Some(Form::JsonObject)),
        Value::Object(_) => schema("format", Some(typed)),
        _ => Err(ApiError::bad_field("format", "`format` must be json or a schema")),
    }
}

/// A schema, or one written into a string.
fn schema(field: &str, typed: Option<Value>) -> Result<Option<Form>, ApiError> {
    let refuse = || Err(ApiError::bad_field(field, format!("the schema in `{field}` must be an object")));
    match typed {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(schema @ Value::Object(_)) => Ok(Some(Form::JsonSchema(schema))),
            _ => refuse(),
        },
        Some(Value::Bool(true)) => Ok(Some(Form::JsonSchema(json!({})))),
        Some(schema @ Value::Object(_)) => Ok(Some(Form::JsonSchema(schema))),
        Some(_) => refuse(),
    }
}

fn choice(field: &str, typed: &Value) -> Result<Form, ApiError> {
    let texts =
        typed.as_array().and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect());
    match texts {
        Some(texts) => Ok(Form::Choice(texts)),
        None => Err(ApiError::bad_field(field, format!("`{field}` must be a list of strings"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(fields: Value) -> Result<Option<AskedForm>, ApiError> {
        serde_json::from_value::<FormFields>(fields).unwrap().asked()
    }

    #[track_caller]
    fn check(fields: Value, expected: Option<Form>) {
        assert_eq!(asked(fields).unwrap().map(|asked| asked.form), expected);
    }

    #[track_caller]
    fn check_refused(fields: Value, message: &str) {
        let error = asked(fields).unwrap_err().body();
        let got = error["error"]["message"].as_str().unwrap();
        assert!(got.contains(message), "{got}");
    }

    #[test]
    fn every_server_asks_in_its_own_words() {
        let schema = json!({"type": "object"});
        let of_schema = Some(Form::JsonSchema(schema.clone()));
        for fields in [
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
            json!({"response_format": {"type": "json_schema", "schema": schema}}),
            json!({"response_format": {"type": "json_object", "schema": schema}}),
            json!({"response_format": {"type": "json", "value": schema}}),
            json!({"structured_outputs": {"json": schema, "regex": null}}),
            json!({"structured_outputs": {"json": schema.to_string()}}),
            json!({"guided_json": schema}),
            json!({"json_schema": schema}),
            json!({"json_schema": schema.to_string()}),
            json!({"grammar": {"type": "json", "value": schema}}),
            json!({"format": schema}),
        ] {
            check(fields, of_schema.clone());
        }
        for fields in [
            json!({"response_format": {"type": "json_object"}}),
            json!({"structured_outputs": {"json_object": true}}),
            json!({"guided_json_object": true}),
            json!({"format": "json"}),
        ] {
            check(fields, Some(Form::JsonObject));
        }
        for fields in [
            json!({"response_format": {"type": "regex", "pattern": "a+"}}),
            json!({"structured_outputs": {"regex": "a+"}}),
            json!({"guided_regex": "a+"}),
            json!({"regex": "a+"}),
            json!({"grammar": {"type": "regex", "value": "a+"}}),
        ] {
            check(fields, Some(Form::Regex("a+".to_owned())));
        }
        for fields in [
            json!({"response_format": {"type": "grammar", "grammar": "g"}}),
            json!({"structured_outputs": {"grammar": "g"}}),
            json!({"guided_grammar": "g"}),
            json!({"grammar": "g"}),
            json!({"ebnf": "g"}),
        ] {
            check(fields, Some(Form::Grammar("g".to_owned())));
        }
        for fields in [
            json!({"response_format": {"type": "choice", "choice": ["a", "b"]}}),
            json!({"structured_outputs": {"choice": ["a", "b"]}}),
            json!({"guided_choice": ["a", "b"]}),
        ] {
            check(fields, Some(Form::Choice(vec!["a".to_owned(), "b".to_owned()])));
        }
    }

    #[test]
    fn neutral_values_ask_for_nothing() {
        check(
            json!({"response_format": {"type": "text"}, "structured_outputs": {}, "guided_json": null}),
            None,
        );
        check(
            json!({"grammar": "", "format": "", "regex": "", "guided_choice": [], "json_schema": null}),
            None,
        );
    }

    #[test]
    fn two_forms_and_half_ones_are_refused() {
        check_refused(json!({"regex": "a", "format": "json"}), "`regex` and `format` ask for two");
        check_refused(json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "got several");
        check_refused(json!({"structured_outputs": {"structural_tag": "x"}}), "cannot have `structural_tag`");
        check_refused(json!({"response_format": {"type": "poem"}}), "got poem");
        check_refused(json!({"response_format": "json"}), "must be an object with a `type`");
        check_refused(json!({"response_format": {"type": "json_schema"}}), "with a `schema`");
        check_refused(json!({"guided_json": [1]}), "must be an object");
        check_refused(json!({"format": "xml"}), "must be json or a schema");
        check_refused(json!({"response_format": {"type": "choice", "choice": "a"}}), "a list of strings");
    }
}
