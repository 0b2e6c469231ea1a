//! Request bodies: JSON of bounded length, read in bounded time, and what is wrong with it told by the field.

mod names;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};
use tokio::time::timeout;

use crate::app::App;
use crate::openai::error::ApiError;
use crate::openai::fields::{Fields, foreign};

pub(crate) use names::names_of;

/// Longest time that a body may take to arrive: the longest one at a slow line's 1 Mbit/s.
const ARRIVAL_MAX: Duration = Duration::from_secs(32);
/// Longest part of a wrong value that a message repeats, characters.
const REPEATED_MAX: usize = 60;
/// Largest whole number that every JSON writer can write as a float, 2^53.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// What some editors begin files in UTF-8 with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A body as JSON, whatever the content type says. Nesting is bounded by the parser, to 128 levels.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// A body of fields that a route has for itself and of those that completions share.
pub(crate) struct FieldsBody<T>(pub(crate) T, pub(crate) Fields);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let fields = object(request, app).await?;
        Ok(Self(typed(&fields)?))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for FieldsBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        Self::of(&object(request, app).await?)
    }
}

impl<T: DeserializeOwned> FieldsBody<T> {
    /// Both parts of the fields of an object.
    ///
    /// # Errors
    /// 400 with the first field that is refused or of the wrong type.
    pub(crate) fn of(fields: &Value) -> Result<Self, ApiError> {
        let own = names_of::<T>();
        foreign::check(fields, |name| own.contains(&name) || Fields::has(name))?;
        Ok(Self(typed(fields)?, Fields::typed(fields)?))
    }
}

/// The fields of a body.
async fn object(request: Request, app: &Arc<App>) -> Result<Value, ApiError> {
    check_head(request.headers(), app.config.body_bytes_max)?;
    let arrived = timeout(ARRIVAL_MAX, Bytes::from_request(request, app)).await;
    let bytes =
        arrived.map_err(|_| ApiError::slow_body())?.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_long(app.config.body_bytes_max),
            _ => ApiError::bad_request(format!("the body could not be read: {rejection}")),
        })?;
    match serde_json::from_slice(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes)) {
        Ok(Value::Object(mut fields)) => {
            fields.iter_mut().for_each(|(name, value)| tidy(name, value));
            Ok(Value::Object(fields))
        }
        Ok(_) => Err(ApiError::bad_request("the body must be a JSON object")),
        Err(error) => Err(ApiError::bad_request(no_json(&error.to_string()))),
    }
}

/// Refuses by what a head says of its body, before any of that is read or asked for (`Expect: 100-continue`).
fn check_head(headers: &HeaderMap, bytes_max: usize) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(encoding) =
        text(CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    {
        return Err(ApiError::encoded_body(shortened(encoding).as_str()));
    }
    let announced = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    match announced.is_some_and(|length| length > bytes_max as u64) {
        true => Err(ApiError::body_too_long(bytes_max)),
        false => Ok(()),
    }
}

fn no_json(error: &str) -> String {
    let hint = match error.contains("hex escape") {
        true => "; half of a character that is written as two escapes (\\ud83d without what follows) is none",
        false => "",
    };
    format!("the body is no JSON: {error}{hint}")
}

/// Undoes what some languages do to JSON: whole numbers become floats, also in lists of tokens, and an empty object a list.
fn tidy(name: &str, value: &mut Value) {
    const OBJECTS: [&str; 4] = ["chat_template_kwargs", "logit_bias", "metadata", "stream_options"];
    make_whole(value);
    let is_nothing = value.as_array().is_some_and(Vec::is_empty) || *value == Value::Bool(false);
    if is_nothing && OBJECTS.contains(&name) {
        *value = Value::Object(Map::new());
    }
}

fn make_whole(value: &mut Value) {
    if let Value::Array(list) = value {
        list.iter_mut().for_each(make_whole);
    }
    let float = value.as_f64().filter(|_| value.is_f64());
    if let Some(whole) = float.filter(|float| float.fract() == 0.0 && float.abs() < WHOLE_MAX) {
        *value = Value::from(whole as i64);
    }
}

/// Fields as a type has them; others are left out.
///
/// # Errors
/// 400 with the path of the field that has not its type.
pub(crate) fn typed<T: DeserializeOwned>(fields: &Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let (mut path, message) = (path_text(error.path()), error.inner().to_string());
        if let Some(name) = missing(&message) {
            let param = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            return ApiError::bad_field(param.clone(), format!("missing field `{param}`"));
        }
        let told = told(&message);
        if path.is_empty() {
            path = "body".to_owned();
        }
        ApiError::bad_field(path.clone(), format!("`{path}` {told}"))
    })
}

fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// `messages[0].content`
fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => text += &format!("[{index}]"),
            Segment::Map { key } if text.is_empty() => text += key,
            Segment::Map { key } => text += &format!(".{key}"),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// A parser's message in words that need no Rust, to be read behind the name of a field.
fn told(message: &str) -> String {
    let of_value = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((got, expected)) = of_value.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return message.strip_prefix("expected ").map_or_else(
            || format!("is not as expected: {}", shortened(message)),
            |expected| format!("must be {expected}"),
        );
    };
    let expected = match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "u64" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        structure if structure.starts_with("struct ") => "an object",
        other => other,
    };
    let got = match got {
        "sequence" => "a list",
        "map" => "an object",
        got => ["integer ", "floating point ", "boolean ", "string "]
            .iter()
            .find_map(|kind| got.strip_prefix(kind))
            .map_or(got, |value| value.trim_matches('`')),
    };
    format!("must be {expected}, got {}", shortened(got))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(REPEATED_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Part {
        #[serde(rename = "text")]
        _text: String,
    }

    #[derive(Debug, Deserialize)]
    struct Typed {
        #[serde(rename = "parts")]
        _parts: Option<Vec<Part>>,
        #[serde(rename = "n")]
        _n: Option<u32>,
        #[serde(rename = "stream")]
        _stream: Option<bool>,
    }

    #[track_caller]
    fn check(fields: Value, param: &str, message: &str) {
        let error = typed::<Typed>(&fields).unwrap_err().body();
        assert_eq!((&error["error"]["param"], &error["error"]["message"]), (&json!(param), &json!(message)));
    }

    #[test]
    fn a_wrong_type_is_told_with_the_path_of_its_field() {
        check(json!({"n": -5}), "n", "`n` must be a whole number from 0 to 4294967295, got -5");
        check(json!({"n": 1.5}), "n", "`n` must be a whole number from 0 to 4294967295, got 1.5");
        check(json!({"stream": "yes"}), "stream", "`stream` must be true or false, got \"yes\"");
        check(json!({"parts": {}}), "parts", "`parts` must be a list, got an object");
        check(
            json!({"parts": [{"text": "a"}, {"text": []}]}),
            "parts[1].text",
            "`parts[1].text` must be a string, got a list",
        );
        check(json!({"parts": [{}]}), "parts[0].text", "missing field `parts[0].text`");
        let long = json!({"n": "x".repeat(1 << 20)});
        assert!(typed::<Typed>(&long).unwrap_err().body().to_string().len() < 300);
    }

    #[test]
    fn whole_numbers_may_be_floats_and_empty_objects_lists() {
        let tidied = |name: &str, mut value: Value| {
            tidy(name, &mut value);
            value
        };
        assert_eq!(tidied("n", json!(16.0)), json!(16));
        assert_eq!(tidied("n", json!(0.5)), json!(0.5));
        assert_eq!(tidied("n", json!(1e300)), json!(1e300));
        assert_eq!(tidied("prompt", json!([[1.0, 2.5], 3.0])), json!([[1, 2.5], 3]));
        assert_eq!(tidied("logit_bias", json!([])), json!({}));
        assert_eq!(tidied("stop", json!([])), json!([]));
    }

    #[test]
    fn the_names_of_a_type_are_those_of_its_fields() {
        assert_eq!(names_of::<Typed>(), ["parts", "n", "stream"]);
    }
}
