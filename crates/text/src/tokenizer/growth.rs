//! How much longer a normaliser can make a text, from its description; the library itself has no bound.

use serde_json::Value;

/// Longest text after normalisation, in bytes; each takes the library 17 bytes of memory.
pub(super) const NORMALIZED_BYTES_MAX: u64 = 64 << 20;
/// Growth of one character in Unicode's compatibility forms: U+FDFA, of 3 bytes, becomes 18 characters of 33 bytes.
const COMPATIBILITY: u64 = 11;
/// Growth of one character in Unicode's other forms, and by case: 2 bytes become at most 6.
const CANONICAL: u64 = 3;

/// Bounds of the bytes that a text of a given length may have after normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    /// Bytes out per byte in.
    factor: u64,
    /// Bytes out of an empty text.
    constant: u64,
}

impl Growth {
    /// Of no normaliser.
    pub(super) const NONE: Self = Self { factor: 1, constant: 0 };

    /// Growth by the normaliser of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it replaces the empty text, which has no end.
    pub(super) fn of(normalizer: &Value) -> Result<Self, String> {
        let text = |field: &str| normalizer[field].as_str().unwrap_or_default().len() as u64;
        Ok(match normalizer["type"].as_str() {
            Some("Sequence") => {
                let steps = normalizer["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
                steps
                    .iter()
                    .try_fold(Self::NONE, |growth, step| Ok::<_, String>(growth.then(Self::of(step)?)))?
            }
            Some("Replace") => {
                let content = text("content");
                match normalizer["pattern"]["String"].as_str().map(str::len) {
                    Some(0) => {
                        return Err(
                            "a normalizer that replaces must have a pattern, got an empty one".to_string()
                        );
                    }
                    Some(len) => Self { factor: content.div_ceil(len as u64).max(1), constant: 0 },
                    // An expression may match between any two characters.
                    None => Self { factor: content.saturating_add(1), constant: content },
                }
            }
            Some("Prepend") => Self { constant: text("prepend"), ..Self::NONE },
            Some("NFKC" | "NFKD" | "Precompiled") => Self { factor: COMPATIBILITY, ..Self::NONE },
            // Spaces around ideographs of 3 bytes, and the other forms.
            Some(_) => Self { factor: CANONICAL, ..Self::NONE },
            None => Self::NONE,
        })
    }

    /// Most bytes that a text of so many bytes may have.
    pub(super) fn bytes_max(self, len: usize) -> u64 {
        self.factor.saturating_mul(len as u64).saturating_add(self.constant)
    }

    fn then(self, next: Self) -> Self {
        Self {
            factor: self.factor.saturating_mul(next.factor),
            constant: next.factor.saturating_mul(self.constant).saturating_add(next.constant),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    fn check(normalizer: Value, len: usize, expected: u64) {
        assert_eq!(Growth::of(&normalizer).unwrap().bytes_max(len), expected, "{normalizer}");
    }

    #[test]
    fn growth_is_the_product_of_all_steps() {
        check(Value::Null, 10, 10);
        check(replace(" ", "\u{2581}"), 10, 30);
        check(replace("``", "\""), 10, 10);
        check(json!({"type": "Replace", "pattern": {"Regex": " *"}, "content": "ab"}), 10, 32);
        let llama = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"}, replace(" ", "\u{2581}"),
        ]});
        // 3 bytes before, all of which might be spaces to the second step.
        check(llama, 10, 3 * (10 + 3));
        check(json!({"type": "NFKC"}), 10, 110);
        let chain = vec![replace("a", "aaaaaaaa"); 40];
        check(json!({"type": "Sequence", "normalizers": chain}), 10, u64::MAX);
    }

    #[test]
    fn unicode_grows_no_further_than_said() {
        let mut longest = [0_u64; 2];
        for c in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let len = c.len_utf8() as u64;
            for (kind, name) in ["NFKD", "NFD"].into_iter().enumerate() {
                let normalizer = serde_json::from_value(json!({"type": name})).unwrap();
                let normalizer: tokenizers::NormalizerWrapper = normalizer;
                let mut text = tokenizers::NormalizedString::from(c.to_string());
                tokenizers::Normalizer::normalize(&normalizer, &mut text).unwrap();
                longest[kind] = longest[kind].max((text.get().len() as u64).div_ceil(len));
            }
        }
        assert_eq!(longest, [COMPATIBILITY, CANONICAL]);
    }

    #[test]
    fn the_empty_text_is_not_replaced() {
        assert!(Growth::of(&replace("", "x")).unwrap_err().contains("an empty one"));
    }
}
