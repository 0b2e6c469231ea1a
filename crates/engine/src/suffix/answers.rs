//! Past answers, for requests that resemble each other: what one wrote another may be going to write.
//!
//! Answers are kept in volumes, each with an index of its own. A volume is of one salt, and a sequence is told of no other's.
//! All volumes together have a bound, and the oldest one goes when it is reached.

use std::collections::{BTreeMap, VecDeque};

use super::contexts::{Contexts, DEPTH_MAX, Match};

/// Volumes that share the bound, if nobody else has any.
const N_VOLUMES: usize = 8;

/// Tokens that even an empty volume counts as, so that their number has a bound too.
const VOLUME_TOKENS_MIN: usize = 256;

/// What answers said, by salt.
#[derive(Debug)]
pub(crate) struct Answers {
    tokens_max: usize,
    n_tokens: usize,
    /// Oldest first. No salt is without a volume.
    volumes: BTreeMap<String, VecDeque<Volume>>,
    /// Whose volumes they are, oldest first.
    salts: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Volume {
    /// Answers one behind the other, each with the end of its prompt.
    text: Vec<u32>,
    contexts: Contexts,
}

impl Answers {
    /// Smallest bound that keeps anything worth it, and the largest, tokens.
    pub(crate) const TOKENS_MIN: u32 = 4096;
    pub(crate) const TOKENS_MAX: u32 = 1 << 26;

    /// None yet.
    ///
    /// * `tokens_max`: tokens kept, ends of prompts included; 0 keeps none.
    pub(crate) fn new(tokens_max: u32) -> Self {
        Self {
            tokens_max: tokens_max as usize,
            n_tokens: 0,
            volumes: BTreeMap::new(),
            salts: VecDeque::new(),
        }
    }

    /// Keeps what was emitted behind `tokens[..prompt_len]`; of a long answer the end.
    pub(crate) fn keep(&mut self, salt: &str, tokens: &[u32], prompt_len: usize) {
        let volume_max = self.tokens_max / N_VOLUMES;
        let start = prompt_len.saturating_sub(DEPTH_MAX).max(tokens.len().saturating_sub(volume_max));
        let text = &tokens[start..];
        if text.len() < 2 || tokens.len() == prompt_len {
            return;
        }
        let newest = self.volumes.get_mut(salt).and_then(VecDeque::back_mut);
        match newest.filter(|volume| volume.text.len() + text.len() <= volume_max) {
            Some(volume) => {
                self.n_tokens -= volume.weight();
                volume.push(text, prompt_len.saturating_sub(start));
                self.n_tokens += volume.weight();
            }
            None => {
                let mut volume = Volume::default();
                volume.push(text, prompt_len.saturating_sub(start));
                self.n_tokens += volume.weight();
                self.volumes.entry(salt.to_owned()).or_default().push_back(volume);
                self.salts.push_back(salt.to_owned());
            }
        }
        while self.n_tokens > self.tokens_max {
            self.drop_oldest();
        }
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.tokens_max as u32);
    }

    /// The longest suffix of `context` in any answer of `salt` with a token behind it; of equal ones the newest volume's.
    pub(crate) fn find(&self, salt: &str, context: &[u32]) -> Option<Match> {
        let volumes = self.volumes.get(salt)?.iter();
        let matches = volumes.filter_map(|volume| volume.contexts.find(&volume.text, context));
        matches.max_by_key(|found| found.len)
    }

    fn drop_oldest(&mut self) {
        let salt = self.salts.pop_front().expect("tokens are kept in volumes");
        let volumes = self.volumes.get_mut(&salt).expect("a salt has volumes");
        self.n_tokens -= volumes.pop_front().expect("as many as are listed").weight();
        if volumes.is_empty() {
            self.volumes.remove(&salt);
        }
    }
}

impl Volume {
    /// Tokens that it counts as.
    fn weight(&self) -> usize {
        self.text.len().max(VOLUME_TOKENS_MIN)
    }

    /// Appends an answer behind `n_known` tokens of its prompt.
    fn push(&mut self, text: &[u32], n_known: usize) {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        self.contexts.skip(n_known);
        self.contexts.read(&self.text, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length and most frequent continuation of the longest match.
    fn found(answers: &Answers, salt: &str, context: &[u32]) -> Option<(u32, u32)> {
        let found = answers.find(salt, context)?;
        Some((found.len, found.ranked().as_slice()[0].token))
    }

    /// Panics unless the bound holds and everything is accounted for.
    fn check(answers: &Answers) {
        let volumes = || answers.volumes.values().flatten();
        assert_eq!(answers.n_tokens, volumes().map(Volume::weight).sum::<usize>());
        assert!(answers.n_tokens <= answers.tokens_max);
        assert_eq!(answers.salts.len(), volumes().count());
        for (salt, volumes) in &answers.volumes {
            assert!(!volumes.is_empty());
            assert_eq!(answers.salts.iter().filter(|other| *other == salt).count(), volumes.len());
        }
    }

    #[test]
    fn an_answer_is_continued_and_its_prompt_is_not() {
        let mut answers = Answers::new(1 << 12);
        answers.keep("", &[1, 2, 3, 4, 5, 6], 3);
        // The prompt says what the answer followed.
        assert_eq!(found(&answers, "", &[9, 2, 3]), Some((2, 4)));
        assert_eq!(found(&answers, "", &[3, 4]), Some((2, 5)));
        assert_eq!(found(&answers, "", &[1]), None, "what follows 1 was asked and not answered");
        check(&answers);
    }

    #[test]
    fn answers_of_other_salts_do_not_exist() {
        let mut answers = Answers::new(1 << 12);
        answers.keep("a", &[1, 2, 3], 1);
        answers.keep("b", &[1, 7, 8], 1);
        assert_eq!(found(&answers, "a", &[1]), Some((1, 2)));
        assert_eq!(found(&answers, "b", &[1]), Some((1, 7)));
        assert_eq!((found(&answers, "", &[1]), found(&answers, "c", &[2])), (None, None));
        check(&answers);
    }

    #[test]
    fn an_answer_does_not_follow_the_one_before_it() {
        let mut answers = Answers::new(1 << 12);
        answers.keep("", &[1, 2, 3], 1);
        answers.keep("", &[4, 5, 6], 1);
        assert_eq!(found(&answers, "", &[3]), None);
        assert_eq!(found(&answers, "", &[3, 4]), Some((1, 5)));
    }

    #[test]
    fn the_oldest_answers_make_room_for_new_ones_across_salts() {
        let tokens_max = 4096;
        let mut answers = Answers::new(tokens_max);
        for i in 0..400_u32 {
            let salt = ["a", "b", "c"][i as usize % 3];
            answers.keep(salt, &(0..64).map(|j| 1000 * i + j).collect::<Vec<u32>>(), 1);
            check(&answers);
            assert_eq!(
                found(&answers, salt, &[1000 * i + 5]),
                Some((1, 1000 * i + 6)),
                "the newest is there"
            );
        }
        assert_eq!(found(&answers, "a", &[5]), None);
        // Most of the bound is in use.
        assert!(answers.n_tokens > tokens_max as usize / 2);
    }

    #[test]
    fn salts_that_nobody_uses_again_are_bounded() {
        let mut answers = Answers::new(4096);
        for i in 0..1000 {
            answers.keep(&i.to_string(), &[1, 2, 3], 1);
            check(&answers);
        }
        assert_eq!(answers.volumes.len(), 4096 / VOLUME_TOKENS_MIN);
    }

    #[test]
    fn of_an_answer_longer_than_a_volume_the_end_is_kept() {
        let mut answers = Answers::new(2048);
        answers.keep("", &(0..1000).collect::<Vec<u32>>(), 10);
        check(&answers);
        assert_eq!(found(&answers, "", &[100]), None);
        assert_eq!(found(&answers, "", &[900]), Some((1, 901)));
    }

    #[test]
    fn nothing_is_kept_without_room_or_answer() {
        let mut none = Answers::new(0);
        none.keep("", &[1, 2, 3, 1, 2, 3], 1);
        assert!(none.volumes.is_empty() && none.salts.is_empty());
        let mut answers = Answers::new(2048);
        answers.keep("", &[1, 2, 3], 3);
        assert!(answers.volumes.is_empty());
        answers.keep("", &[1, 2, 3], 1);
        answers.clear();
        assert!(answers.volumes.is_empty() && answers.n_tokens == 0);
        check(&answers);
    }
}
