//! Metadata to be written: keys with values as they lie in a file.

use super::metadata::types;

/// Metadata of a file to be written, in order. A key that is set again keeps its place and gets the new value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys(Vec<(String, Vec<u8>)>);

impl Keys {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes keys away.
    pub fn retain(&mut self, keeps: impl Fn(&str) -> bool) {
        self.0.retain(|(key, _)| keeps(key));
    }

    /// Adds the keys of `others`.
    pub fn extend(&mut self, others: Keys) {
        for (key, value) in others.0 {
            self.encoded(&key, value);
        }
    }

    /// A whole number.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.value(key, types::U32, value.to_le_bytes())
    }

    /// A number in floating point.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.value(key, types::F32, value.to_le_bytes())
    }

    /// A truth value.
    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.value(key, types::FLAG, [u8::from(value)])
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        put_text(&mut bytes, value);
        self.value(key, types::TEXT, bytes)
    }

    /// An array of texts.
    pub fn texts<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a str>) -> &mut Self {
        let mut bytes = array(types::TEXT, values.len());
        values.for_each(|value| put_text(&mut bytes, value));
        self.value(key, types::ARRAY, bytes)
    }

    /// An array of whole numbers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let mut bytes = array(types::I32, values.len());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.value(key, types::ARRAY, bytes)
    }

    fn value(&mut self, key: &str, type_id: u32, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.encoded(key, [&type_id.to_le_bytes(), bytes.as_ref()].concat())
    }

    /// * `value`: its type, then the value itself.
    pub(super) fn encoded(&mut self, key: &str, value: Vec<u8>) -> &mut Self {
        match self.0.iter_mut().find(|(found, _)| found == key) {
            Some((_, before)) => *before = value,
            None => self.0.push((key.to_string(), value)),
        }
        self
    }

    /// Appends all keys with their values.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.0 {
            put_text(out, key);
            out.extend(value);
        }
    }
}

/// Appends a text: its length in bytes, then these.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The beginning of an array.
fn array(type_id: u32, len: usize) -> Vec<u8> {
    [&type_id.to_le_bytes()[..], &(len as u64).to_le_bytes()].concat()
}
