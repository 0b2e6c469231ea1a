//! Which bytes a token stands for, by the decoder that `tokenizer.json` names.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::error::Error;

/// Character that stands for a space in vocabularies of the SentencePiece kind.
const SPACE_MARK: char = '\u{2581}';
/// What error messages offer.
const SUPPORTED: &str = "ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip";

/// How the text of a vocabulary entry becomes bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decoder {
    /// Every character stands for one byte (GPT-2's alphabet).
    ByteLevel(HashMap<char, u8>),
    /// A mark stands for the space.
    SentencePiece {
        /// Whether `<0x41>` stands for the byte 0x41.
        has_byte_tokens: bool,
        /// Whether encoding put a space before the text, which decoding takes away.
        has_leading_space: bool,
    },
}

impl Decoder {
    /// Recognises the decoder from its JSON.
    pub(super) fn parse(decoder: &Value) -> Result<Self, Error> {
        let steps = match decoder["type"].as_str() {
            Some("Sequence") => decoder["decoders"].as_array().map(Vec::as_slice).unwrap_or_default(),
            _ => std::slice::from_ref(decoder),
        };
        let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("none")).collect();
        match kinds[..] {
            ["ByteLevel"] | ["ByteLevel", "Fuse"] => return Ok(Self::ByteLevel(byte_alphabet())),
            ["Metaspace"] if steps[0]["replacement"] == json!(SPACE_MARK) => {
                let has_leading_space = steps[0]["prepend_scheme"] != "never";
                return Ok(Self::SentencePiece { has_byte_tokens: false, has_leading_space });
            }
            ["Replace", .., "Fuse"] | ["Replace", .., "Fuse", "Strip"] => {}
            _ => return Err(unsupported(decoder)),
        }
        let has_byte_tokens = match kinds[1] {
            "ByteFallback" if kinds[2] == "Fuse" => true,
            "Fuse" => false,
            _ => return Err(unsupported(decoder)),
        };
        let is_space_replaced =
            steps[0]["pattern"]["String"] == json!(SPACE_MARK) && steps[0]["content"] == json!(" ");
        let strip = steps.last().filter(|step| step["type"] == "Strip");
        let is_one_space_stripped = strip
            .is_none_or(|s| s["content"] == json!(" ") && s["start"] == json!(1) && s["stop"] == json!(0));
        if !is_space_replaced || !is_one_space_stripped {
            return Err(unsupported(decoder));
        }
        Ok(Self::SentencePiece { has_byte_tokens, has_leading_space: strip.is_some() })
    }

    /// Bytes of the vocabulary entry `text`.
    pub(super) fn bytes(&self, text: &str) -> Vec<u8> {
        match self {
            // An entry with characters outside the alphabet stands for itself, as in the reference implementation.
            Self::ByteLevel(alphabet) => {
                let bytes: Option<Vec<u8>> = text.chars().map(|c| alphabet.get(&c).copied()).collect();
                bytes.unwrap_or_else(|| text.as_bytes().to_vec())
            }
            Self::SentencePiece { has_byte_tokens, .. } => {
                match byte_token(text).filter(|_| *has_byte_tokens) {
                    Some(byte) => vec![byte],
                    None => text.replace(SPACE_MARK, " ").into_bytes(),
                }
            }
        }
    }

    /// Whether the vocabulary entry `text` stands for one byte of any text, beside entries for characters.
    pub(super) fn is_byte_token(&self, text: &str) -> bool {
        matches!(self, Self::SentencePiece { has_byte_tokens: true, .. }) && byte_token(text).is_some()
    }

    /// Whether the first space of a whole text is not part of it.
    pub(super) fn has_leading_space(&self) -> bool {
        matches!(self, Self::SentencePiece { has_leading_space: true, .. })
    }
}

fn unsupported(decoder: &Value) -> Error {
    Error::Decoder { expected: SUPPORTED, got: decoder.to_string() }
}

/// The byte that an entry of the form `<0x41>` stands for.
fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_byte { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// GPT-2's alphabet: printable bytes of Latin-1 are themselves, the others take the code points from 256 on, in order.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 256;
    let mut alphabet = HashMap::new();
    for byte in 0..=u8::MAX {
        let character = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("code points below 512 are characters")
            }
        };
        alphabet.insert(character, byte);
    }
    alphabet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama2() -> Value {
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]})
    }

    fn check(decoder: &Value, cases: &[(&str, &[u8])]) {
        let decoder = Decoder::parse(decoder).unwrap();
        for (text, expected) in cases {
            assert_eq!(decoder.bytes(text), *expected, "{text}");
        }
    }

    #[test]
    fn byte_level_characters_stand_for_bytes() {
        // 0x00 is the first byte without its own character: U+0100. 0x20 is number 32: U+0120. 0x7F follows the 33
        // controls and the space: U+0121. 0xAD is the last of all 68: 256 + 67 = 323, U+0143.
        check(
            &json!({"type": "ByteLevel"}),
            &[
                ("\u{100}", &[0]),
                ("\u{120}the", b" the"),
                ("\u{121}", &[0x7F]),
                ("\u{143}", &[0xAD]),
                ("\u{C3}\u{A9}", "é".as_bytes()),
                ("\u{4F60}a", "\u{4F60}a".as_bytes()),
            ],
        );
    }

    #[test]
    fn byte_alphabet_is_a_bijection() {
        let mut bytes: Vec<u8> = byte_alphabet().into_values().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
    }

    #[test]
    fn sentence_piece_marks_stand_for_spaces_and_byte_tokens_for_bytes() {
        check(
            &llama2(),
            &[
                ("\u{2581}the", b" the"),
                ("\u{2581}\u{2581}", b"  "),
                ("<0x0A>", b"\n"),
                ("<0xE4>", &[0xE4]),
                ("<0xZZ>", b"<0xZZ>"),
                ("<0x+1>", b"<0x+1>"),
                ("<0x041>", b"<0x041>"),
            ],
        );
        assert!(Decoder::parse(&llama2()).unwrap().has_leading_space());
    }

    #[test]
    fn metaspace_has_no_byte_tokens() {
        let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never"});
        check(&metaspace, &[("a\u{2581}", b"a "), ("<0x0A>", b"<0x0A>")]);
        assert!(!Decoder::parse(&metaspace).unwrap().has_leading_space());
    }

    #[test]
    fn other_decoders_are_refused() {
        let mut two_stripped = llama2();
        two_stripped["decoders"][3]["start"] = json!(2);
        let mut other_mark = llama2();
        other_mark["decoders"][0]["pattern"]["String"] = json!("_");
        let mut unknown_step = llama2();
        unknown_step["decoders"][1]["type"] = json!("CTC");
        let refused = [
            Value::Null,
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "Metaspace", "replacement": "_"}),
            json!({"type": "Sequence", "decoders": []}),
            json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}),
            two_stripped,
            other_mark,
            unknown_step,
        ];
        for decoder in refused {
            assert!(matches!(Decoder::parse(&decoder), Err(Error::Decoder { .. })), "{decoder}");
        }
    }
}
