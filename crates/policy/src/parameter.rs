//! Parameters of policies as data: one table serves parsing, checking, naming and `--help`.

use std::fmt;

use crate::Error;
use crate::registry::Entry;
use crate::table::LenTable;

/// One parameter of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// As typed before the `=`.
    pub key: &'static str,
    /// What may stand after the `=`.
    pub values: ValueSet,
    /// As typed; `None` if the parameter must be given.
    pub default: Option<&'static str>,
    /// One phrase with the unit.
    pub meaning: &'static str,
}

/// Values that a parameter accepts; displayed as users read it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueSet {
    /// A whole number in `min..=max`.
    Count {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// A whole number in `min..=max`, or a word that stands for a computed one.
    CountOr {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
        /// The word.
        word: &'static str,
    },
    /// A number in `min..=max`.
    Number {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A table from batch size to length, none of them above `len_max`.
    Table {
        /// Longest length, tokens.
        len_max: u32,
    },
}

/// A value that its parameter accepts.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u32),
    /// A finite number.
    Number(f64),
    /// A word of the set.
    Word(&'static str),
    /// A table from batch size to length.
    Table(LenTable),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
            Self::Table(table) => table.fmt(f),
        }
    }
}

/// Other defaults, chosen by one value of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// Key of the parameter that chooses.
    pub key: &'static str,
    /// The word that chooses this preset.
    pub word: &'static str,
    /// Keys and their defaults under this preset.
    pub defaults: &'static [(&'static str, &'static str)],
}

impl fmt::Display for ValueSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { min, max } => write!(f, "{min}..={max}"),
            Self::CountOr { min, max, word } => write!(f, "{min}..={max} or {word}"),
            Self::Number { min, max } => write!(f, "{min}..={max}"),
            Self::Word(words) => f.write_str(&words.join(" or ")),
            Self::Table { len_max } => write!(f, "FIRST-LAST:LEN;... from batch size 1, LEN 0..={len_max}"),
        }
    }
}

impl ValueSet {
    /// Reads a value; `None` if it is not in the set.
    pub fn parse(&self, text: &str) -> Option<Value> {
        let count = |min, max| {
            let count = text.parse().ok()?;
            (min..=max).contains(&count).then_some(Value::Count(count))
        };
        match *self {
            Self::Count { min, max } => count(min, max),
            Self::CountOr { word, .. } if text == word => Some(Value::Word(word)),
            Self::CountOr { min, max, .. } => count(min, max),
            Self::Number { min, max } => {
                let number: f64 = text.parse().ok()?;
                (min..=max).contains(&number).then_some(Value::Number(number))
            }
            Self::Word(words) => words.iter().find(|&&word| word == text).map(|&word| Value::Word(word)),
            Self::Table { len_max } => LenTable::parse(text, len_max).map(Value::Table),
        }
    }
}

/// The values a policy is built from: typed ones, else those of the chosen preset, else the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    entry: &'static Entry,
    given: Vec<(&'static str, Value)>,
}

impl Settings {
    /// Reads `key=value` pairs separated by commas; `None` means that nothing was typed.
    ///
    /// # Errors
    /// Unknown or repeated keys, values outside their sets, missing parameters.
    pub fn parse(entry: &'static Entry, text: Option<&str>) -> Result<Self, Error> {
        let policy = entry.name;
        let mut settings = Self { entry, given: Vec::new() };
        for pair in text.into_iter().flat_map(|text| text.split(',')) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| Error::Syntax { policy, got: pair.to_owned() })?;
            let parameter = entry.find(key)?;
            let key = parameter.key;
            if settings.given(key).is_some() {
                return Err(Error::Duplicate { policy, key });
            }
            let value = parameter.values.parse(value).ok_or_else(|| Error::Value {
                policy,
                key,
                expected: parameter.values.to_string(),
                got: value.to_owned(),
            })?;
            settings.given.push((key, value));
        }
        let missing = entry.parameters().find(|p| p.default.is_none() && settings.given(p.key).is_none());
        match missing {
            None => Ok(settings),
            Some(parameter) => {
                Err(Error::Missing { policy, key: parameter.key, expected: parameter.values.to_string() })
            }
        }
    }

    fn given(&self, key: &str) -> Option<Value> {
        let (_, value) = self.given.iter().find(|(given, _)| *given == key)?;
        Some(value.clone())
    }

    /// Name of the policy as typed, with every parameter of its own that differs from its default.
    pub fn name(&self) -> String {
        let mut name = self.entry.name.to_owned();
        let mut separator = ':';
        for parameter in self.entry.parameters {
            let value = self.value(parameter.key);
            if self.default_of(parameter).as_ref() != Some(&value) {
                name.push_str(&format!("{separator}{}={value}", parameter.key));
                separator = ',';
            }
        }
        name
    }

    /// The value of a parameter.
    ///
    /// # Panics
    /// If the policy's table does not list `key`; that is a bug of the policy.
    pub fn value(&self, key: &str) -> Value {
        let parameter = self.entry.find(key).expect("a policy reads only parameters of its table");
        self.given(key)
            .or_else(|| self.default_of(parameter))
            .expect("parameters without a default are refused when missing")
    }

    fn default_of(&self, parameter: &Parameter) -> Option<Value> {
        let is_chosen = |preset: &&Preset| self.given(preset.key) == Some(Value::Word(preset.word));
        let preset = self.entry.presets.iter().find(is_chosen);
        let text = self.entry.default_of(parameter, preset)?;
        Some(parameter.values.parse(text).expect("defaults are values that their parameters accept"))
    }

    /// A whole number.
    ///
    /// # Panics
    /// If the policy's table does not list `key` as a count; that is a bug of the policy.
    pub fn count(&self, key: &str) -> u32 {
        match self.value(key) {
            Value::Count(count) => count,
            other => panic!("parameter {key} is {other:?}, expected a count"),
        }
    }

    /// A number.
    ///
    /// # Panics
    /// If the policy's table does not list `key` as a number; that is a bug of the policy.
    pub fn number(&self, key: &str) -> f64 {
        match self.value(key) {
            Value::Number(number) => number,
            other => panic!("parameter {key} is {other:?}, expected a number"),
        }
    }

    /// A word.
    ///
    /// # Panics
    /// If the policy's table does not list `key` as a word; that is a bug of the policy.
    pub fn word(&self, key: &str) -> &'static str {
        match self.value(key) {
            Value::Word(word) => word,
            other => panic!("parameter {key} is {other:?}, expected a word"),
        }
    }

    /// A table from batch size to length.
    ///
    /// # Panics
    /// If the policy's table does not list `key` as such a table; that is a bug of the policy.
    pub fn table(&self, key: &str) -> LenTable {
        match self.value(key) {
            Value::Table(table) => table,
            other => panic!("parameter {key} is {other:?}, expected a table"),
        }
    }

    /// Requires that the first of two values, each with its key, is not above the second.
    ///
    /// # Errors
    /// [`Error::Order`].
    pub fn check_order(&self, low: (&'static str, u32), high: (&'static str, u32)) -> Result<(), Error> {
        if low.1 <= high.1 {
            return Ok(());
        }
        let policy = self.entry.name;
        Err(Error::Order { policy, low_key: low.0, low: low.1, high_key: high.0, high: high.1 })
    }
}
