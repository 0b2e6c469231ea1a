//! Characters out of bytes that come in pieces.

use std::str::from_utf8;

/// Assembles UTF-8 from pieces that may end inside a character.
///
/// What all calls return, put together, equals [`String::from_utf8_lossy`] of all bytes put together.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// Beginning of a character whose end is still missing; at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Text that is certain after `bytes`; an unfinished character is held back, an impossible one becomes U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        loop {
            let (valid, after) = match from_utf8(rest) {
                Ok(valid) => (valid, None),
                Err(e) => (from_utf8(&rest[..e.valid_up_to()]).unwrap_or_default(), Some(e)),
            };
            text.push_str(valid);
            rest = &rest[valid.len()..];
            match after.and_then(|e| e.error_len()) {
                Some(invalid_len) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid_len..];
                }
                None => break,
            }
        }
        self.pending = rest.to_vec();
        debug_assert!(self.pending.len() < 4, "a character has at most 4 bytes");
        text
    }

    /// Ends the text: an unfinished character becomes U+FFFD. The stream is empty afterwards.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pieces: &[&[u8]], expected: &[&str]) {
        let mut stream = Utf8Stream::default();
        let mut got: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        got.push(stream.finish());
        assert_eq!(got, expected);
    }

    #[test]
    fn a_character_is_held_until_it_is_complete() {
        check(&[b"a\xF0\x9F", b"\x98", b"\x80b"], &["a", "", "\u{1F600}b", ""]);
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end() {
        check(&[b"ok \xE4\xBD"], &["ok ", "\u{FFFD}"]);
    }

    #[test]
    fn a_broken_character_is_replaced_as_soon_as_it_is_known_to_be_broken() {
        check(&[b"\xE4", b"x", b"\xFF\xFEy"], &["", "\u{FFFD}x", "\u{FFFD}\u{FFFD}y", ""]);
    }

    #[test]
    fn nothing_in_nothing_out() {
        check(&[], &[""]);
        check(&[b"", b""], &["", "", ""]);
    }

    /// Bytes with many beginnings and ends of characters, cut anywhere.
    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let byte = prop_oneof![any::<u8>(), 0x80..=0xBFu8, 0xC0..=0xFFu8, b'a'..=b'z'];
        let broken = proptest::collection::vec(byte, 0..6);
        let whole = any::<char>().prop_map(|c| c.to_string().into_bytes());
        let runs = proptest::collection::vec(prop_oneof![broken, whole], 0..20);
        (runs, 1..5usize).prop_map(|(runs, len)| runs.concat().chunks(len).map(<[u8]>::to_vec).collect())
    }

    proptest! {
        #[test]
        fn pieces_give_the_same_text_as_the_whole(pieces in pieces()) {
            let mut stream = Utf8Stream::default();
            let mut text: String = pieces.iter().map(|piece| stream.push(piece)).collect();
            text += &stream.finish();
            let whole = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
