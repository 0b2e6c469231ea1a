//! Drafting without a model: continue an earlier occurrence of the last few tokens (prompt lookup).
//!
//! Proposals are deterministic functions of the prefix, so their distribution is one-hot and any rule that trims them is
//! lossless. Drafting with a model is the executor's part; the engine's part of it is in `step`.

use dsde_sampling::Proposal;

use crate::config::ConfigError;

/// How far back and how strictly to look for a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLookup {
    /// Longest suffix to look for, tokens; longer matches win. 3.
    pub ngram_max: u32,
    /// Shortest suffix that counts as a repetition, tokens. 2: single tokens repeat by chance.
    pub ngram_min: u32,
    /// Tokens searched, counted from the end; bounds the cost per step. 2048.
    pub window: u32,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self { ngram_max: 3, ngram_min: 2, window: 2048 }
    }
}

impl PromptLookup {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("ngram_max", self.ngram_max, 1, 16),
            ("ngram_min", self.ngram_min, 1, self.ngram_max),
            ("window", self.window, self.ngram_max + 1, 1 << 20),
        ];
        for (name, got, min, max) in bounds {
            if got < min || got > max {
                return Err(ConfigError::OutOfRange { name, got, min, max });
            }
        }
        Ok(())
    }

    /// Fills `proposal` with at most `len` tokens that followed the most recent occurrence of the longest repeated suffix.
    ///
    /// `tokens`: prompt and output. Leaves `proposal` empty if nothing repeats.
    pub fn propose(&self, tokens: &[u32], len: u32, proposal: &mut Proposal) {
        proposal.clear();
        let searched = &tokens[tokens.len().saturating_sub(self.window as usize)..];
        let Some(start) =
            (self.ngram_min..=self.ngram_max).rev().find_map(|n| continuation(searched, n as usize))
        else {
            return;
        };
        // A continuation that reaches the end goes on with what it proposed itself: a period repeats.
        for i in 0..len as usize {
            let next = match searched.get(start + i) {
                Some(&token) => token,
                None => proposal.tokens()[start + i - searched.len()],
            };
            proposal.push_chain(next);
        }
    }
}

/// Index behind the most recent earlier occurrence of the last `n` tokens.
fn continuation(tokens: &[u32], n: usize) -> Option<usize> {
    let suffix_start = tokens.len().checked_sub(n)?;
    let (suffix, last) = (&tokens[suffix_start..], *tokens.last()?);
    (n..tokens.len()).rev().find(|&end| tokens[end - 1] == last && &tokens[end - n..end] == suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[u32], len: u32, expected: &[u32]) {
        let mut proposal = Proposal::new();
        PromptLookup::default().propose(tokens, len, &mut proposal);
        assert_eq!(proposal.tokens(), expected, "after {tokens:?}");
        assert!(proposal.is_chain());
    }

    #[test]
    fn nothing_repeats_nothing_is_proposed() {
        check(&[], 4, &[]);
        check(&[1], 4, &[]);
        check(&[1, 2, 3, 4], 4, &[]);
        // A single repeated token is below ngram_min.
        check(&[7, 1, 7], 4, &[]);
    }

    #[test]
    fn the_continuation_of_the_last_occurrence_is_proposed() {
        // The pair (1, 2) was followed by 3 first and by 4 later.
        check(&[1, 2, 3, 1, 2, 4, 9, 1, 2], 2, &[4, 9]);
    }

    #[test]
    fn the_longer_match_wins_over_the_more_recent_one() {
        // (5, 1, 2) was followed by 3; the more recent but shorter (1, 2) by 4.
        check(&[5, 1, 2, 3, 1, 2, 4, 5, 1, 2], 1, &[3]);
    }

    #[test]
    fn a_period_continues_beyond_the_end() {
        check(&[1, 2, 1, 2], 5, &[1, 2, 1, 2, 1]);
    }

    #[test]
    fn only_the_window_is_searched() {
        let lookup = PromptLookup { window: 4, ..PromptLookup::default() };
        let mut proposal = Proposal::new();
        lookup.propose(&[1, 2, 3, 8, 9, 1, 2], 1, &mut proposal);
        assert!(proposal.is_empty());
    }
}
