//! Reads a table of a scenario key by key. Whatever is wrong is told with the path of the key, what is possible and what stands there.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::{Table, Value};

use crate::error::Error;

/// A table and where it stands.
pub(super) struct Section<'a> {
    path: String,
    table: &'a Table,
    /// Keys that somebody has asked for, which are those that there are.
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a Table) -> Self {
        Self { path: String::new(), table, asked: RefCell::default() }
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Value { key: self.key(key), expected: expected.into(), got: got.into() }
    }

    pub(super) fn missing(&self, key: &str, expected: impl Into<String>) -> Error {
        Error::Missing { key: self.key(key), expected: expected.into() }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// A number in a range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        self.get(key).map(|value| number(value, range).map_err(|e| self.at(key, e))).transpose()
    }

    pub(super) fn numbers(
        &self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<Vec<f64>>, Error> {
        self.list(key, |value| number(value, range.clone()))
    }

    /// A whole number in a range.
    pub(super) fn count(&self, key: &'static str, range: RangeInclusive<u32>) -> Result<Option<u32>, Error> {
        self.get(key).map(|value| count(value, range).map_err(|e| self.at(key, e))).transpose()
    }

    pub(super) fn counts(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<Vec<u32>>, Error> {
        self.list(key, |value| count(value, range.clone()))
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, Error> {
        let wrong = |value| self.wrong(key, "true or false", shown(value));
        self.get(key).map(|value| value.as_bool().ok_or_else(|| wrong(value))).transpose()
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&'a str>, Error> {
        self.get(key).map(|value| text(value).map_err(|e| self.at(key, e))).transpose()
    }

    pub(super) fn texts(&self, key: &'static str) -> Result<Option<Vec<&'a str>>, Error> {
        self.list(key, text)
    }

    /// One of some words.
    pub(super) fn word(&self, key: &'static str, words: &[&str]) -> Result<Option<&'a str>, Error> {
        let Some(word) = self.text(key)? else { return Ok(None) };
        match words.contains(&word) {
            true => Ok(Some(word)),
            false => Err(self.wrong(key, format!("one of: {}", words.join(", ")), format!("'{word}'"))),
        }
    }

    /// A table below this one.
    pub(super) fn section(&self, key: &'static str) -> Result<Option<Section<'a>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let table = value.as_table().ok_or_else(|| self.wrong(key, "a table", shown(value)))?;
        Ok(Some(Section { path: self.key(key), table, asked: RefCell::default() }))
    }

    /// A list of tables.
    pub(super) fn sections(&self, key: &'static str) -> Result<Vec<Section<'a>>, Error> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong(key, "a list of tables", shown(value)))?;
        let section = |(i, value): (usize, &'a Value)| {
            let path = format!("{}[{i}]", self.key(key));
            let table = value.as_table().ok_or_else(|| Error::Value {
                key: path.clone(),
                expected: "a table".to_owned(),
                got: shown(value),
            })?;
            Ok(Section { path, table, asked: RefCell::default() })
        };
        list.iter().enumerate().map(section).collect()
    }

    /// Every key has been asked for.
    pub(super) fn end(self) -> Result<(), Error> {
        self.known(&self.asked.borrow())
    }

    /// There are no keys but these. To be asked before a key can be missing: it may be there, misspelt.
    pub(super) fn known(&self, keys: &[&str]) -> Result<(), Error> {
        match self.table.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Error::Unknown { key: self.key(key), expected: keys.join(", ") }),
        }
    }

    /// One value or a list of them.
    fn list<T>(
        &self,
        key: &'static str,
        read: impl Fn(&'a Value) -> Result<T, Wrong>,
    ) -> Result<Option<Vec<T>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(values) = value else {
            return Ok(Some(vec![read(value).map_err(|e| self.at(key, e))?]));
        };
        if values.is_empty() {
            return Err(self.wrong(key, "a value or a list of values", "an empty list"));
        }
        let one = |(i, value)| read(value).map_err(|e| self.at(&format!("{key}[{i}]"), e));
        values.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
    }

    fn at(&self, key: &str, wrong: Wrong) -> Error {
        self.wrong(key, wrong.expected, wrong.got)
    }
}

/// A value that cannot be used, not knowing where it stands.
struct Wrong {
    expected: String,
    got: String,
}

fn number(value: &Value, range: RangeInclusive<f64>) -> Result<f64, Wrong> {
    let number = value.as_float().or(value.as_integer().map(|number| number as f64));
    number.filter(|number| range.contains(number)).ok_or_else(|| Wrong {
        expected: format!("a number in {}..={}", range.start(), range.end()),
        got: shown(value),
    })
}

fn count(value: &Value, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
    let count = value.as_integer().and_then(|count| u32::try_from(count).ok());
    count.filter(|count| range.contains(count)).ok_or_else(|| Wrong {
        expected: format!("a whole number in {}..={}", range.start(), range.end()),
        got: shown(value),
    })
}

fn text(value: &Value) -> Result<&str, Wrong> {
    value.as_str().ok_or_else(|| Wrong { expected: "a text".to_owned(), got: shown(value) })
}

/// A value in messages.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(time) => time.to_string(),
    }
}
