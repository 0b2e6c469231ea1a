//! Stop strings on a stream of bytes: nothing is released that could still turn out to be the start of one.

/// Releases text once no stop string can begin in it any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    strings: Vec<Vec<u8>>,
    held: Vec<u8>,
}

impl StopStrings {
    /// Watches for `strings`, none of them empty.
    pub(crate) fn new(strings: &[String]) -> Self {
        debug_assert!(strings.iter().all(|s| !s.is_empty()));
        Self { strings: strings.iter().map(|s| s.as_bytes().to_vec()).collect(), held: Vec::new() }
    }

    /// Takes the bytes of one token, appends to `released` what is safe; `true` if a stop string is now complete, in which
    /// case the text before it has been released and the rest is dropped.
    pub(crate) fn push(&mut self, bytes: &[u8], released: &mut Vec<u8>) -> bool {
        if self.strings.is_empty() {
            released.extend_from_slice(bytes);
            return false;
        }
        self.held.extend_from_slice(bytes);
        let first_match = self.strings.iter().filter_map(|s| find(&self.held, s)).min();
        let (safe_len, is_match) = match first_match {
            Some(start) => (start, true),
            None => (self.held.len() - self.longest_start(), false),
        };
        released.extend(self.held.drain(..safe_len));
        if is_match {
            self.held.clear();
        }
        is_match
    }

    /// Releases what was held back, at the end of a sequence that ended for another reason.
    pub(crate) fn flush(&mut self, released: &mut Vec<u8>) {
        released.append(&mut self.held);
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
        let is_match = pieces.iter().any(|piece| matcher.push(piece.as_bytes(), &mut text));
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
    fn held_text_is_not_released_early() {
        let mut matcher = StopStrings::new(&["END".to_owned()]);
        let mut text = Vec::new();
        assert!(!matcher.push(b"aEN", &mut text));
        assert_eq!(text, b"a");
        assert!(!matcher.push(b"x", &mut text));
        assert_eq!(text, b"aENx");
    }
}
