//! Events of few different sizes, so that who watches an encrypted stream learns less of how many tokens an event has.
//!
//! The field is that of OpenAI's API (`stream_options.include_obfuscation`). Its characters are random, because what repeats
//! would be compressed away by a proxy that compresses.

use std::hash::{BuildHasher, RandomState};
use std::iter;

use serde_json::Value;

/// What fills an event up.
const FIELD: &str = "obfuscation";

/// Padded events are multiples of so many bytes of JSON. 256: with its envelope an event of few tokens is one or two of them.
const SIZE: usize = 256;

/// Fills the object of an event up.
pub(crate) fn pad(event: &mut Value) {
    event[FIELD] = Value::from("");
    let len = event.to_string().len();
    event[FIELD] = random_digits().take(len.next_multiple_of(SIZE) - len).collect::<String>().into();
}

/// Hexadecimal digits that cannot be foreseen from outside of the process.
fn random_digits() -> impl Iterator<Item = char> {
    let keys = RandomState::new();
    let hashes = (0_u64..).map(move |i| keys.hash_one(i));
    hashes.flat_map(|hash| {
        let mut rest = hash;
        iter::repeat_with(move || {
            let digit = char::from(b"0123456789abcdef"[(rest & 15) as usize]);
            rest >>= 4;
            digit
        })
        .take(16)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_multiples_of_one_size_and_differ() {
        let mut seen = Vec::new();
        for len in 0..600 {
            let mut event = json!({"delta": "x".repeat(len)});
            pad(&mut event);
            assert_eq!(event.to_string().len() % SIZE, 0, "{len}");
            assert_eq!(event["delta"].as_str().unwrap().len(), len);
            seen.push(event[FIELD].as_str().unwrap().to_owned());
        }
        let long = |text: &&String| text.len() > 64;
        let n_long = seen.iter().filter(long).count();
        let different: std::collections::HashSet<_> = seen.iter().filter(long).collect();
        assert!(n_long > 100 && different.len() == n_long, "nothing repeats");
    }
}
