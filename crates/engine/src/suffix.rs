//! Drafting without a model: continue the text as it went on where the same tokens stood before (suffix decoding).
//!
//! SuffixDecoding (arXiv:2411.04975). The longest suffix of the text that occurred before says what followed it, and how
//! often; with the guess appended, the suffix is longer by a token and says what follows that.
//!
//! | paper | here |
//! |---|---|
//! | suffix tree of prompt and output | [`Contexts`], one per sequence |
//! | suffix tree of past outputs | [`Answers`], by option and apart for every salt |
//! | `D(N)`, the score of a node: counts over those of its parent, multiplied along the path | [`probability`], and the path probability |
//! | at most `alpha * p` tokens behind a match of `p` | [`Suffix::reach`] |
//! | the tree of the highest score, greedily expanded | beams over path probability, where a policy asks for a width |
//!
//! Deviations: the score counts the length of the match as evidence, so that a context seen once is worth more the longer it
//! is; which of the two trees is asked is decided token by token, by the longer match. The oldest tokens of past outputs make
//! room for new ones.
//!
//! Proposals are functions of the emitted tokens, the sequence's own and those of answers that have ended. The target judges
//! them by its own walk ([`dsde_sampling::walk`]): every emitted token is its choice, made with numbers that depend on the token's
//! position alone, so that even sampled text is the same whatever is proposed.

mod answers;
mod contexts;

use dsde_policy::DraftPosition;
use dsde_sampling::Proposal;

use crate::config::ConfigError;
use crate::passes::{Beam, Drafted};

pub(crate) use answers::Answers;
pub(crate) use contexts::{Contexts, FOLLOWERS_MAX};
use contexts::{DEPTH_MAX, Follower, Match};

/// Path probability below which nothing is offered. 0.1: where rows are nearly free `auto` gains 2 to 4 % over 0.2, and where they
/// are dear it plans less than is offered. Seen once, a match reaches about as far by this bound as by [`Suffix::reach`].
const PATH_PROB_MIN: f32 = 0.1;

/// Imagined occurrences that were followed by something else, of a match of one token; a match of n tokens has one n-th of it.
/// Fitted to the same answers: what followed once follows again in 28, 49, 65, 69 % behind matches of 1 to 4 tokens, and in 79, 90
/// and 98 % behind those of 8, 16 and 64.
const DOUBT: f32 = 2.0;

/// What is continued, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suffix {
    /// Shortest suffix that counts as a repetition, tokens. 1: single tokens repeat by chance, and are offered where one of the
    /// things that followed them stands out.
    pub match_min: u32,
    /// Tokens offered per token of the match, at most. 2.
    pub reach: u32,
    /// Tokens of past answers that are kept and continued as well, for requests of the same
    /// [`salt`](crate::Request::salt); the oldest make room for new ones. 0 keeps none, which is the default: it is for requests that
    /// resemble each other.
    pub answer_tokens: u32,
}

impl Default for Suffix {
    fn default() -> Self {
        Self { match_min: 1, reach: 2, answer_tokens: 0 }
    }
}

/// Texts in which a sequence finds what it repeats.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a> {
    /// Prompt and output.
    pub(crate) tokens: &'a [u32],
    /// Of `tokens`.
    pub(crate) contexts: &'a Contexts,
    pub(crate) answers: &'a Answers,
    /// Whose answers.
    pub(crate) salt: &'a str,
}

impl Texts<'_> {
    /// The longest match of `context` in any text; of equal ones that in the sequence's own.
    fn find(&self, context: &[u32]) -> Option<Match> {
        let own = self.contexts.find(self.tokens, context);
        let other = self.answers.find(self.salt, context);
        own.into_iter().chain(other).reduce(|best, other| if other.len > best.len { other } else { best })
    }

    /// The end of the text, `[..=DEPTH_MAX]`.
    fn end(&self) -> Vec<u32> {
        self.tokens[self.tokens.len().saturating_sub(DEPTH_MAX)..].to_vec()
    }
}

impl Suffix {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let answer_tokens_min = if self.answer_tokens > 0 { Answers::TOKENS_MIN } else { 0 };
        let bounds = [
            ("match_min", self.match_min, 1, DEPTH_MAX as u32),
            ("reach", self.reach, 1, 64),
            ("answer_tokens", self.answer_tokens, answer_tokens_min, Answers::TOKENS_MAX),
        ];
        for (name, got, min, max) in bounds {
            if got < min || got > max {
                return Err(ConfigError::OutOfRange { name, got, min, max });
            }
        }
        Ok(())
    }

    /// Fills `offered` with a chain of at most `len_max` tokens, each the most probable one; empty if nothing repeats.
    pub(crate) fn offer(&self, texts: Texts<'_>, len_max: u32, offered: &mut Vec<Drafted>) {
        offered.clear();
        let mut context = texts.end();
        let (mut len_max, mut path_prob, mut path_log_prob) = (len_max, 1.0, 0.0);
        while (offered.len() as u32) < len_max {
            let Some(found) = self.find(texts, &context) else { return };
            if offered.is_empty() {
                len_max = len_max.min(self.reach.saturating_mul(found.len));
            }
            let best = found.ranked().as_slice()[0];
            let (position, index) = (position(&found, best), offered.len() as u32);
            path_prob *= position.top_prob;
            if path_prob < PATH_PROB_MIN {
                return;
            }
            path_log_prob += position.path_log_prob;
            let position = DraftPosition { index, path_log_prob, ..position };
            offered.push(Drafted { token: best.token, position });
            context.push(best.token);
        }
    }

    /// Fills `drafted` with what a beam asks for, `[beam.n_rows, beam.width]`: of each row the most probable tokens first. Where
    /// fewer are known, the others are impossible.
    ///
    /// * `proposal`: the tree so far, whose last `n_rows` nodes are continued; the text, if it is empty.
    pub(crate) fn branch(
        &self,
        texts: Texts<'_>,
        beam: Beam,
        proposal: &Proposal,
        drafted: &mut Vec<Drafted>,
    ) {
        let impossible = DraftPosition { path_log_prob: f32::NEG_INFINITY, ..DraftPosition::default() };
        drafted.clear();
        for row in 0..beam.n_rows {
            let mut context = texts.end();
            if let Some(node) = (proposal.len() + row).checked_sub(beam.n_rows) {
                context.extend(proposal.path(node));
            }
            if let Some(found) = self.find(texts, &context) {
                let ranked = found.ranked();
                let best = ranked.as_slice().iter().take(beam.width as usize);
                drafted.extend(best.map(|&follower| Drafted {
                    token: follower.token,
                    position: position(&found, follower),
                }));
            }
            let row_end = beam.width as usize * (row as usize + 1);
            drafted.resize(row_end, Drafted { token: 0, position: impossible });
        }
    }

    fn find(&self, texts: Texts<'_>, context: &[u32]) -> Option<Match> {
        texts.find(context).filter(|found| found.len >= self.match_min)
    }
}

/// Estimated probability that what followed a match `count` times follows again.
fn probability(found: &Match, count: u32) -> f32 {
    count as f32 / (found.count as f32 + DOUBT / found.len as f32)
}

/// Features of the estimated distribution behind a match, and the logarithm of the probability of one token of it.
///
/// The entropy is that of the tokens known and of one that stands for all others.
fn position(found: &Match, follower: Follower) -> DraftPosition {
    let known = found.followers.as_slice().iter().map(|follower| probability(found, follower.count));
    let (mut top_prob, mut rest, mut entropy) = (0.0_f32, 1.0, 0.0);
    for p in known {
        top_prob = top_prob.max(p);
        rest -= p;
        entropy -= p * p.ln();
    }
    if rest > 0.0 {
        entropy -= rest * rest.ln();
    }
    DraftPosition { index: 0, entropy, top_prob, path_log_prob: probability(found, follower.count).ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_texts<T>(tokens: &[u32], answers: &Answers, salt: &str, work: impl FnOnce(Texts<'_>) -> T) -> T {
        let mut contexts = Contexts::default();
        contexts.read(tokens, 0);
        work(Texts { tokens, contexts: &contexts, answers, salt })
    }

    fn offered(suffix: Suffix, tokens: &[u32], len_max: u32) -> Vec<Drafted> {
        let mut offered = Vec::new();
        let none = Answers::new(0);
        with_texts(tokens, &none, "", |texts| suffix.offer(texts, len_max, &mut offered));
        offered
    }

    #[track_caller]
    fn check(tokens: &[u32], len_max: u32, expected: &[u32]) {
        let offered = offered(Suffix::default(), tokens, len_max);
        let got: Vec<u32> = offered.iter().map(|drafted| drafted.token).collect();
        assert_eq!(got, expected, "after {tokens:?}");
        let (mut index, mut path_log_prob) = (0, 0.0);
        for Drafted { position, .. } in offered {
            assert_eq!(position.index, index);
            assert!(position.top_prob > 0.0 && position.top_prob < 1.0 && position.entropy > 0.0);
            path_log_prob += position.top_prob.ln();
            assert!((position.path_log_prob - path_log_prob).abs() < 1e-5, "{position:?}");
            index += 1;
        }
    }

    #[test]
    fn nothing_repeats_nothing_is_offered() {
        check(&[], 4, &[]);
        check(&[1], 4, &[]);
        check(&[1, 2, 3, 4], 4, &[]);
        check(&[1, 2, 3, 1, 2, 3], 0, &[]);
    }

    #[test]
    fn a_longer_match_is_offered_further() {
        // Twice as many tokens as the match has.
        check(&[7, 1, 2, 3, 4, 5, 7], 8, &[1, 2]);
        check(&[7, 8, 1, 2, 3, 4, 5, 7, 8], 8, &[1, 2, 3, 4]);
        let text: Vec<u32> = (0..20).chain(0..5).collect();
        check(&text, 64, &(5..15).collect::<Vec<u32>>());
        check(&text, 3, &[5, 6, 7]);
    }

    #[test]
    fn nothing_improbable_is_offered() {
        // One of ten: 1 / (10 + 2). One of five: 1/7, and whatever follows, once, 2/4 of that is less than 0.1.
        let text = |n: u32| -> Vec<u32> { (0..n).flat_map(|i| [99, i]).chain([98, 99]).collect() };
        check(&text(10), 8, &[]);
        check(&text(5), 8, &[4]);
    }

    #[test]
    fn the_longer_match_wins_over_the_more_recent_one() {
        // (5, 1, 2) was followed by 3; the more recent but shorter (1, 2) by 4.
        check(&[5, 1, 2, 3, 1, 2, 4, 5, 1, 2], 1, &[3]);
    }

    #[test]
    fn what_followed_more_often_wins_and_of_equals_what_followed_last() {
        check(&[1, 2, 3, 1, 2, 3, 1, 2, 4, 9, 1, 2], 1, &[3]);
        check(&[1, 2, 3, 6, 1, 2, 4, 9, 1, 2], 1, &[4]);
    }

    #[test]
    fn a_period_continues_beyond_the_end() {
        // Matches of six and seven tokens in turn, seen once: (6/8 7/9)^4 = 0.12, and 6/8 of that is less than 0.1.
        check(&[1, 2, 1, 2, 1, 2, 1, 2], 9, &[1, 2, 1, 2, 1, 2, 1, 2]);
        check(&[7; 40], 8, &[7; 8]);
    }

    #[test]
    fn a_match_that_is_too_short_counts_for_nothing() {
        let suffix = Suffix { match_min: 2, ..Suffix::default() };
        assert!(offered(suffix, &[7, 1, 2, 7], 4).is_empty());
        assert!(!offered(suffix, &[6, 7, 1, 2, 6, 7], 4).is_empty());
    }

    #[test]
    fn no_more_than_the_reach_is_offered() {
        // Ten contexts of one token agree on what follows, and on what follows that.
        let text: Vec<u32> = (0..10).flat_map(|i| [100 + i, 1, 2, 3, 4, 5]).chain([99, 1]).collect();
        for reach in 1..5 {
            assert_eq!(offered(Suffix { reach, ..Suffix::default() }, &text, 64).len(), reach as usize);
        }
    }

    #[test]
    fn probabilities_are_counts_and_the_length_of_the_match() {
        // 1 was followed by 2 twice and by 3 once: 2 / (3 + 2) and 1 / (3 + 2), and 2 / 5 are left for others.
        let text = [1, 2, 9, 1, 3, 8, 1, 2, 7, 1];
        let (none, mut drafted) = (Answers::new(0), Vec::new());
        with_texts(&text, &none, "", |texts| {
            Suffix::default().branch(texts, Beam { n_rows: 1, width: 3 }, &Proposal::new(), &mut drafted);
        });
        let tokens: Vec<u32> = drafted.iter().map(|drafted| drafted.token).collect();
        assert_eq!(tokens, [2, 3, 0]);
        let probabilities = drafted.iter().map(|drafted| drafted.position.path_log_prob.exp());
        for (p, expected) in probabilities.zip([0.4, 0.2, 0.0]) {
            assert!((p - expected).abs() < 1e-6, "{drafted:?}");
        }
        let entropy = -2.0 * 0.4 * 0.4_f32.ln() - 0.2 * 0.2_f32.ln();
        for Drafted { position, .. } in &drafted[..2] {
            assert!((position.entropy - entropy).abs() < 1e-6 && position.top_prob == 0.4, "{position:?}");
        }
    }

    #[test]
    fn a_beam_continues_every_node_of_the_level() {
        // Behind 1 stand 2 and 3; behind (1, 2) stands 5, behind (1, 3) 6.
        let text = [1, 2, 5, 1, 3, 6, 1];
        let none = Answers::new(0);
        let mut proposal = Proposal::new();
        proposal.push(2, None);
        proposal.push(3, None);
        proposal.push(4, None);
        let mut drafted = Vec::new();
        with_texts(&text, &none, "", |texts| {
            Suffix::default().branch(texts, Beam { n_rows: 3, width: 2 }, &proposal, &mut drafted);
        });
        let tokens: Vec<Option<u32>> = drafted
            .iter()
            .map(|drafted| drafted.position.path_log_prob.is_finite().then_some(drafted.token))
            .collect();
        assert_eq!(tokens, [Some(5), None, Some(6), None, None, None]);
    }

    #[test]
    fn past_answers_are_continued_where_they_match_longer() {
        let mut answers = Answers::new(1 << 12);
        answers.keep("me", &[4, 1, 2, 3, 8, 9], 1);
        let best = |tokens: &[u32], salt: &str| {
            let mut offered = Vec::new();
            with_texts(tokens, &answers, salt, |texts| Suffix::default().offer(texts, 1, &mut offered));
            offered.first().map(|drafted| drafted.token)
        };
        assert_eq!(best(&[1, 2, 3], "me"), Some(8));
        assert_eq!(best(&[1, 2, 3], "you"), None);
        // Of equally long matches the sequence's own counts; a longer one of an answer wins.
        assert_eq!(best(&[7, 3, 5, 6, 3], "me"), Some(5));
        assert_eq!(best(&[7, 3, 5, 6, 2, 3], "me"), Some(8));
    }
}
