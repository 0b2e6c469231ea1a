//! Typed access to the fields of a JSON object, with errors that name the field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{END_TOKENS_MAX, ranges};
use crate::error::Error;

/// Longest piece of an offending value that an error repeats, in characters.
const GOT_CHARS_MAX: usize = 80;

/// Fields of one JSON object; `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands under `field` in its file.
    pub(super) fn of(field: &'static str, value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(invalid(field, "an object", other)),
        }
    }

    /// The value of a field.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// Whether all fields are some of these.
    pub(super) fn are_among(&self, fields: &[&str]) -> bool {
        self.0.keys().all(|field| fields.contains(&field.as_str()))
    }

    /// Whether the field is written, be it as `null`.
    pub(super) fn is_mentioned(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// The field as an object.
    pub(super) fn object(&self, field: &'static str) -> Result<Option<Self>, Error> {
        self.get(field).map(|value| Self::of(field, value)).transpose()
    }

    /// The field as a text.
    pub(super) fn text(&self, field: &'static str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value.as_str().map(Some).ok_or_else(|| invalid(field, "a text", value))
    }

    /// The field as a truth value, `false` if absent.
    pub(super) fn flag(&self, field: &'static str) -> Result<bool, Error> {
        let Some(value) = self.get(field) else {
            return Ok(false);
        };
        value.as_bool().ok_or_else(|| invalid(field, "true or false", value))
    }

    /// The field as a truth value.
    pub(super) fn optional_flag(&self, field: &'static str) -> Result<Option<bool>, Error> {
        self.get(field).map(|_| self.flag(field)).transpose()
    }

    /// The field as a whole number within `range`.
    pub(super) fn optional_len(
        &self,
        field: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let len = value.as_u64().and_then(|n| usize::try_from(n).ok());
        ranges::len(field, len, range, || shown(value)).map(Some)
    }

    /// The field as a whole number from 1 to `max`.
    pub(super) fn len(&self, field: &'static str, max: usize) -> Result<usize, Error> {
        self.optional_len(field, 1..=max)?.ok_or(Error::FieldMissing { field })
    }

    /// The field as a number within `range`.
    pub(super) fn optional_number(
        &self,
        field: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        ranges::number(field, value.as_f64(), range, || shown(value)).map(Some)
    }

    /// The field as a number within `range`.
    pub(super) fn number(&self, field: &'static str, range: RangeInclusive<f64>) -> Result<f64, Error> {
        self.optional_number(field, range)?.ok_or(Error::FieldMissing { field })
    }

    /// The field as token ids: one number or a list of at most [`END_TOKENS_MAX`]; absent means none.
    pub(super) fn tokens(&self, field: &'static str, vocab_len: usize) -> Result<Vec<u32>, Error> {
        let token = |value: &Value| ranges::token(field, value.as_u64(), vocab_len, || shown(value));
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() > END_TOKENS_MAX => Err(Error::Field {
                field: field.to_string(),
                expected: format!("at most {} token ids", END_TOKENS_MAX),
                got: format!("{} of them", values.len()),
            }),
            Some(Value::Array(values)) => values.iter().map(token).collect(),
            Some(value) => Ok(vec![token(value)?]),
        }
    }
}

/// Error about the value of a field.
pub(super) fn invalid(field: &'static str, expected: impl Into<String>, got: &Value) -> Error {
    Error::Field { field: field.to_string(), expected: expected.into(), got: shown(got) }
}

/// A value as an error shows it: its JSON, cut where it is long.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(GOT_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
