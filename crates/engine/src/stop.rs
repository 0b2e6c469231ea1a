//! Stop strings on a stream of bytes: nothing is released that could still turn out to be the start of one.
//!
//! Special tokens are part of the stream, so a stop string can name them, but their bytes are not released.

/// Releases text once no stop string can begin in it any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    strings: Vec<Vec<u8>>,
    held: Vec<u8>,
    /// Of each held byte.
    visibility: Vec<Visibility>,
}

/// Whether bytes are part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    Shown,
    Hidden,
}

impl StopStrings {
    /// Watches for `strings`, none of them empty.
    pub(crate) fn new(strings: &[String]) -> Self {
        debug_assert!(strings.iter().all(|s| !s.is_empty()));
        let strings = strings.iter().map(|s| s.as_bytes().to_vec()).collect();
        Self { strings, ..Self::default() }
    }

    /// Takes the bytes of one token, appends to `released` what is safe; `true` if a stop string is now complete, in which
    /// case the text before it has been released and the rest is dropped.
    pub(crate) fn push(&mut self, bytes: &[u8], visibility: Visibility, released: &mut Vec<u8>) -> bool {
        if self.strings.is_empty() {
            self.pass(bytes, visibility, released);
            return false;
        }
        self.held.extend_from_slice(bytes);
        self.visibility.resize(self.held.len(), visibility);
        let first_match = self.strings.iter().filter_map(|s| find(&self.held, s)).min();
        let (safe_len, is_match) = match first_match {
            Some(start) => (start, true),
            None => (self.held.len() - self.longest_start(), false),
        };
        self.release(safe_len, released);
        if is_match {
            self.held.clear();
            self.visibility.clear();
        }
        is_match
    }

    /// Takes the bytes of one token in which no stop string counts, nor one that ends behind them.
    pub(crate) fn pass(&mut self, bytes: &[u8], visibility: Visibility, released: &mut Vec<u8>) {
        debug_assert!(self.held.is_empty(), "what does not count comes first");
        if visibility == Visibility::Shown {
            released.extend_from_slice(bytes);
        }
    }

    /// Releases what was held back, at the end of a sequence that ended for another reason.
    pub(crate) fn flush(&mut self, released: &mut Vec<u8>) {
        self.release(self.held.len(), released);
    }

    fn release(&mut self, len: usize, released: &mut Vec<u8>) {
        let bytes = self.held.drain(..len).zip(self.visibility.drain(..len));
        released
            .extend(bytes.filter(|&(_, visibility)| visibility == Visibility::Shown).map(|(byte, _)| byte));
    }

    /// Length of the longest suffix of the held bytes with which a stop string begins.
    fn longest_start(&self) -> usize {
        let longest = |s: &Vec<u8>| {
            let most = (s.len() - 1).min(self.held.len());
            (1..=most).rev().find(|&n| self.held.ends_with(&s[..n])).unwrap_or(0)
        };
        self.strings.iter().map(longest).max().unwrap_or(0)
    }
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stops: &[&str], pieces: &[&str], expected: &str, expected_match: bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut matcher = StopStrings::new(&stops);
        let mut text = Vec::new();
        // A piece in angle brackets is a special token.
        let visibility =
            |piece: &str| if piece.starts_with('<') { Visibility::Hidden } else { Visibility::Shown };
        let is_match =
            pieces.iter().any(|piece| matcher.push(piece.as_bytes(), visibility(piece), &mut text));
        if !is_match {
            matcher.flush(&mut text);
        }
        assert_eq!(
            (String::from_utf8_lossy(&text).as_ref(), is_match),
            (expected, expected_match),
            "{pieces:?}"
        );
    }

    #[test]
    fn text_passes_without_stop_strings() {
        check(&[], &["ab", "", "c"], "abc", false);
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_cut_off() {
        check(&["END"], &["aE", "N", "Db"], "a", true);
        check(&["END"], &["ENDEND"], "", true);
        check(&["b", "abc"], &["xabc"], "x", true);
    }

    #[test]
    fn an_unfinished_stop_string_is_released_at_the_end() {
        check(&["END"], &["aEN"], "aEN", false);
        check(&["aab"], &["aaa"], "aaa", false);
        check(&["aab"], &["aaa", "b"], "a", true);
    }

    #[test]
    fn special_tokens_stop_and_are_not_shown() {
        check(&["<end>"], &["a", "<end>", "b"], "a", true);
        check(&["b<end>c"], &["ab", "<end>", "cd"], "a", true);
        check(&["b<end>c"], &["ab", "<end>", "d"], "abd", false);
        check(&["END"], &["a", "<end>", "b"], "ab", false);
        check(&[], &["a", "<end>", "b"], "ab", false);
    }

    #[test]
    fn held_text_is_not_released_early() {
        let mut matcher = StopStrings::new(&["END".to_owned()]);
        let mut text = Vec::new();
        assert!(!matcher.push(b"aEN", Visibility::Shown, &mut text));
        assert_eq!(text, b"a");
        assert!(!matcher.push(b"x", Visibility::Shown, &mut text));
        assert_eq!(text, b"aENx");
    }
}
