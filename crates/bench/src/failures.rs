//! Requests that a server left without an answer, by reason.

use serde::{Deserialize, Serialize};

/// Requests that a server did not answer. They count in nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Refused as too many (429 or 503), at every attempt.
    pub refused: u64,
    /// Answered with an error.
    pub failed: u64,
    /// Lost with their connection, or silent for too long.
    pub lost: u64,
    /// Further attempts after a refusal, successful ones included.
    pub retries: u64,
}

impl Failures {
    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
            lost: self.lost + other.lost,
            retries: self.retries + other.retries,
        }
    }

    /// As in `2 refused, 1 lost, 5 retries`; `None` if all is well.
    pub fn in_words(&self) -> Option<String> {
        let kinds = [
            (self.refused, "refused"),
            (self.failed, "failed"),
            (self.lost, "lost"),
            (self.retries, "retries"),
        ];
        let words: Vec<String> =
            kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_by_kind() {
        let failures = Failures { refused: 2, lost: 1, ..Failures::default() };
        let more = Failures { retries: 5, ..Failures::default() };
        assert_eq!(failures.and(&more).in_words().as_deref(), Some("2 refused, 1 lost, 5 retries"));
        assert_eq!(Failures::default().in_words(), None);
    }
}
