//! Metadata of a GGUF file: typed values by key.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::header::malformed;
use crate::error::Error;

/// Most keys; published files have under 100.
const N_KEYS_MAX: usize = 1 << 16;
/// Most elements of all arrays together; the largest published vocabularies have under 2 million.
const N_ELEMENTS_MAX: usize = 1 << 23;
/// How deep arrays may lie in arrays; no published file has one in another.
const DEPTH_MAX: usize = 4;
/// Longest piece of an offending text that an error repeats, in characters.
const GOT_CHARS_MAX: usize = 80;

/// What a GGUF file says about its model, by key (`general.architecture`, `tokenizer.ggml.tokens`, ...).
///
/// Getters return `Ok(None)` where the key is absent, and an error that names it where its value has another type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

/// A value of the metadata; numbers of all widths are widened, which changes none of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number of an unsigned type.
    Unsigned(u64),
    /// A whole number of a signed type.
    Signed(i64),
    /// A number in floating point.
    Float(f64),
    /// A truth value.
    Flag(bool),
    /// A text.
    Text(String),
    /// An array of whole numbers of an unsigned type.
    Unsigneds(Vec<u64>),
    /// An array of whole numbers of a signed type.
    Signeds(Vec<i64>),
    /// An array of numbers in floating point.
    Floats(Vec<f64>),
    /// An array of truth values.
    Flags(Vec<bool>),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of arrays.
    Arrays(Vec<Value>),
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::Field`], as of all getters.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of texts.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.typed(key, "an array of texts", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// A number, whole or not.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", |value| match *value {
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            Value::Float(x) => Some(x),
            _ => None,
        })
    }

    /// A whole number that is not negative, of any type.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn len(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "a whole number that is not negative", |value| match *value {
            Value::Unsigned(n) => usize::try_from(n).ok(),
            Value::Signed(n) => usize::try_from(n).ok(),
            _ => None,
        })
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An array of truth values.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn flags(&self, key: &str) -> Result<Option<&[bool]>, Error> {
        self.typed(key, "an array of truth values", |value| match value {
            Value::Flags(flags) => Some(flags.as_slice()),
            _ => None,
        })
    }

    /// An array of numbers in floating point.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, Error> {
        self.typed(key, "an array of numbers in floating point", |value| match value {
            Value::Floats(floats) => Some(floats.as_slice()),
            _ => None,
        })
    }

    /// An array of whole numbers of any type.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Error> {
        self.typed(key, "an array of whole numbers below 2^63", |value| match value {
            Value::Unsigneds(all) => all.iter().map(|&n| i64::try_from(n).ok()).collect(),
            Value::Signeds(all) => Some(all.clone()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        typed: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match typed(value) {
            Some(typed) => Ok(Some(typed)),
            None => {
                let (field, expected) = (key.to_string(), expected.to_string());
                Err(Error::Field { field, expected, got: value.shown() })
            }
        }
    }

    /// Reads the number of keys, then each with its value.
    ///
    /// * `places`: gets the keys in the order of the file, and where their values lie, types included.
    pub(super) fn parse(
        cursor: &mut Cursor<'_>,
        places: &mut Vec<(String, Range<usize>)>,
    ) -> Result<Self, Error> {
        let n_keys = cursor.count("the number of keys", N_KEYS_MAX)?;
        let mut values = BTreeMap::new();
        let mut n_elements = 0;
        for _ in 0..n_keys {
            let key = cursor.text("a key")?;
            let start = cursor.at() as usize;
            let type_id = cursor.u32()?;
            let value = Reader { cursor, key, n_elements: &mut n_elements }.value(type_id, 0)?;
            places.push((key.to_string(), start..cursor.at() as usize));
            if values.insert(key.to_string(), value).is_some() {
                return Err(malformed(cursor.file, key, "there once", "a second one"));
            }
        }
        Ok(Self(values))
    }
}

impl FromIterator<(String, Value)> for Metadata {
    /// Of values with the same key the last counts.
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Value {
    /// The value as an error shows it: cut where it is long, and of an array the length.
    fn shown(&self) -> String {
        match self {
            Self::Unsigned(n) => n.to_string(),
            Self::Signed(n) => n.to_string(),
            Self::Float(x) => format!("{x:?}"),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => match text.char_indices().nth(GOT_CHARS_MAX) {
                Some((end, _)) => format!("{:?}...", &text[..end]),
                None => format!("{text:?}"),
            },
            Self::Unsigneds(all) => format!("an array of {} whole numbers", all.len()),
            Self::Signeds(all) => format!("an array of {} whole numbers", all.len()),
            Self::Floats(all) => format!("an array of {} numbers in floating point", all.len()),
            Self::Flags(all) => format!("an array of {} truth values", all.len()),
            Self::Texts(all) => format!("an array of {} texts", all.len()),
            Self::Arrays(all) => format!("an array of {} arrays", all.len()),
        }
    }
}

/// What reads the value of one key.
struct Reader<'a, 'file> {
    cursor: &'a mut Cursor<'file>,
    key: &'a str,
    /// Elements of all arrays up to here.
    n_elements: &'a mut usize,
}

/// Types as numbered in files.
pub(super) mod types {
    pub(in crate::gguf) const U8: u32 = 0;
    pub(in crate::gguf) const I8: u32 = 1;
    pub(in crate::gguf) const U16: u32 = 2;
    pub(in crate::gguf) const I16: u32 = 3;
    pub(in crate::gguf) const U32: u32 = 4;
    pub(in crate::gguf) const I32: u32 = 5;
    pub(in crate::gguf) const F32: u32 = 6;
    pub(in crate::gguf) const FLAG: u32 = 7;
    pub(in crate::gguf) const TEXT: u32 = 8;
    pub(in crate::gguf) const ARRAY: u32 = 9;
    pub(in crate::gguf) const U64: u32 = 10;
    pub(in crate::gguf) const I64: u32 = 11;
    pub(in crate::gguf) const F64: u32 = 12;
}

impl Reader<'_, '_> {
    /// * `depth`: arrays around the value.
    fn value(&mut self, type_id: u32, depth: usize) -> Result<Value, Error> {
        let cursor = &mut *self.cursor;
        Ok(match type_id {
            types::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array()?).into()),
            types::I8 => Value::Signed(i8::from_le_bytes(cursor.array()?).into()),
            types::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
            types::I16 => Value::Signed(i16::from_le_bytes(cursor.array()?).into()),
            types::U32 => Value::Unsigned(u32::from_le_bytes(cursor.array()?).into()),
            types::I32 => Value::Signed(i32::from_le_bytes(cursor.array()?).into()),
            types::U64 => Value::Unsigned(u64::from_le_bytes(cursor.array()?)),
            types::I64 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
            types::F32 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
            types::F64 => Value::Float(f64::from_le_bytes(cursor.array()?)),
            types::FLAG => {
                let [byte] = cursor.array()?;
                Value::Flag(self.flag(byte)?)
            }
            types::TEXT => Value::Text(cursor.text(self.key)?.to_string()),
            types::ARRAY => self.array(depth + 1)?,
            other => return Err(self.malformed("of a type from 0 to 12", format!("type {other}"))),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > DEPTH_MAX {
            return Err(self.malformed(format!("at most {DEPTH_MAX} arrays deep"), "one more"));
        }
        let type_id = self.cursor.u32()?;
        let n = self.cursor.u64()?;
        Ok(match type_id {
            types::U8 => Value::Unsigneds(self.numbers(n, |le| u8::from_le_bytes(le).into())?),
            types::I8 => Value::Signeds(self.numbers(n, |le| i8::from_le_bytes(le).into())?),
            types::U16 => Value::Unsigneds(self.numbers(n, |le| u16::from_le_bytes(le).into())?),
            types::I16 => Value::Signeds(self.numbers(n, |le| i16::from_le_bytes(le).into())?),
            types::U32 => Value::Unsigneds(self.numbers(n, |le| u32::from_le_bytes(le).into())?),
            types::I32 => Value::Signeds(self.numbers(n, |le| i32::from_le_bytes(le).into())?),
            types::U64 => Value::Unsigneds(self.numbers(n, u64::from_le_bytes)?),
            types::I64 => Value::Signeds(self.numbers(n, i64::from_le_bytes)?),
            types::F32 => Value::Floats(self.numbers(n, |le| f32::from_le_bytes(le).into())?),
            types::F64 => Value::Floats(self.numbers(n, f64::from_le_bytes)?),
            types::FLAG => {
                let bytes = self.numbers(n, |[byte]| byte)?;
                Value::Flags(bytes.into_iter().map(|byte| self.flag(byte)).collect::<Result<_, _>>()?)
            }
            types::TEXT => {
                let n = self.counted(n)?;
                let texts = (0..n).map(|_| self.cursor.text(self.key).map(str::to_string));
                Value::Texts(texts.collect::<Result<_, _>>()?)
            }
            types::ARRAY => {
                let n = self.counted(n)?;
                Value::Arrays((0..n).map(|_| self.array(depth + 1)).collect::<Result<_, _>>()?)
            }
            other => return Err(self.malformed("an array of a type from 0 to 12", format!("type {other}"))),
        })
    }

    /// `n` elements of `N` bytes.
    fn numbers<const N: usize, T>(&mut self, n: u64, number: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Error> {
        self.counted(n)?;
        let bytes = self.cursor.take(n.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks().0.iter().map(|&le| number(le)).collect())
    }

    /// Adds the elements of an array to those before.
    fn counted(&mut self, n: u64) -> Result<usize, Error> {
        let total = usize::try_from(n).ok().and_then(|n| self.n_elements.checked_add(n));
        match total.filter(|&total| total <= N_ELEMENTS_MAX) {
            Some(total) => *self.n_elements = total,
            None => {
                let expected = format!("at most {N_ELEMENTS_MAX} elements with the arrays before");
                return Err(self.malformed(expected, n));
            }
        }
        Ok(n as usize)
    }

    fn flag(&self, byte: u8) -> Result<bool, Error> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.malformed("0 or 1", other)),
        }
    }

    fn malformed(&self, expected: impl Into<String>, got: impl ToString) -> Error {
        malformed(self.cursor.file, self.key, expected, got)
    }
}
