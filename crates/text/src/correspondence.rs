//! What two vocabularies have in common: how a draft can read and guess tokens of a target that has another tokenizer.
//!
//! Tokens are the same if they are the same bytes and both special or both not, however a vocabulary writes them: ` the` is one
//! token whether its file says `Ġthe` or `▁the`. Vocabularies that are made apart share most of what is frequent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use dsde_engine::Vocabulary as _;

use super::Tokenizer;
use crate::error::Error;

/// Tokens of a target as tokens of a draft.
#[derive(Debug, PartialEq, Eq)]
pub struct Correspondence {
    /// For each token of the target, the token of the draft that it is read as: the same one, or else the longest end of its
    /// bytes that is one; a special token that the draft lacks is what begins a text of the draft.
    pub reads: Vec<u32>,
    /// Tokens that both have, `(target's id, draft's id)`, ascending by the target's, none of the draft's twice.
    pub shared: Vec<(u32, u32)>,
}

impl Correspondence {
    /// * `target`, `draft`: a tokenizer, and for how many of its tokens the model has embeddings.
    /// * `ends`: what ends an answer of the target, and of the draft: the one is read as the other and, unless one of them is
    ///   shared with another token, counts as the same.
    ///
    /// # Errors
    /// [`Error::FewSharedWords`] if the draft could guess hardly any text of the target.
    pub fn new(
        target: (&Tokenizer, usize),
        draft: (&Tokenizer, usize),
        ends: Option<(u32, u32)>,
    ) -> Result<Self, Error> {
        let (own, other) = (Tokens::new(target), Tokens::new(draft));
        let mut shared = own.shared_with(&other);
        own.check_words(&shared)?;
        let ends = ends.filter(|ends| ends.0 < own.len && ends.1 < other.len);
        let is_taken = |ends: (u32, u32)| shared.iter().any(|pair| pair.0 == ends.0 || pair.1 == ends.1);
        if let Some(ends) = ends.filter(|&ends| !is_taken(ends)) {
            shared.insert(shared.partition_point(|pair| pair.0 < ends.0), ends);
        }
        let begin = draft.0.encode_plain("").unwrap_or_default().first().copied();
        let begin = begin.filter(|&begin| begin < other.len);
        let mut reads: Vec<u32> =
            own.ids().map(|token| other.reading(own.bytes(token), own.is_special(token), begin)).collect();
        ends.iter().chain(&shared).for_each(|&(token, read)| reads[token as usize] = read);
        Ok(Self { reads, shared })
    }
}

/// Published tokens stay below 200 bytes; in a file from a stranger they can be as long as the file.
const END_LEN_MAX: usize = 256;

/// Tokens of one vocabulary by their bytes.
struct Tokens<'a> {
    tokenizer: &'a Tokenizer,
    len: u32,
    texts: HashMap<&'a [u8], u32>,
    special: HashMap<&'a [u8], u32>,
    /// Bytes of the longest end of a token that is looked for among `texts`.
    end_len_max: usize,
}

impl<'a> Tokens<'a> {
    fn new((tokenizer, len): (&'a Tokenizer, usize)) -> Self {
        let (mut texts, mut special) = (HashMap::new(), HashMap::new());
        let len = len as u32;
        for token in (0..len).filter(|&token| !tokenizer.spelled(token).is_empty()) {
            let is_special = !tokenizer.special_bytes(token).is_empty();
            let tokens = if is_special { &mut special } else { &mut texts };
            match tokens.entry(tokenizer.spelled(token)) {
                Entry::Vacant(place) => {
                    place.insert(token);
                }
                // A text is not written byte by byte where there is a token for it.
                Entry::Occupied(mut place) if tokenizer.is_byte_token(*place.get()) => {
                    place.insert(token);
                }
                Entry::Occupied(_) => {}
            }
        }
        let longest = texts.keys().map(|text: &&[u8]| text.len()).max().unwrap_or(0);
        let end_len_max = longest.min(END_LEN_MAX);
        Self { tokenizer, len, texts, special, end_len_max }
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        0..self.len
    }

    fn bytes(&self, token: u32) -> &'a [u8] {
        self.tokenizer.spelled(token)
    }

    fn is_special(&self, token: u32) -> bool {
        !self.tokenizer.special_bytes(token).is_empty()
    }

    /// Tokens of the same bytes and kind, `(own, other's)`; of several with the same bytes, one.
    fn shared_with(&self, other: &Self) -> Vec<(u32, u32)> {
        let same = |token: u32| {
            let is_special = self.is_special(token);
            let (own, other) = match is_special {
                true => (&self.special, &other.special),
                false => (&self.texts, &other.texts),
            };
            let bytes = self.bytes(token);
            other.get(bytes).filter(|_| own.get(bytes) == Some(&token)).map(|&same| (token, same))
        };
        self.ids().filter_map(same).collect()
    }

    /// The token that a token of these bytes is read as by a model that has the tokens of `self`.
    ///
    /// * `begin`: begins a text.
    fn reading(&self, bytes: &[u8], is_special: bool, begin: Option<u32>) -> u32 {
        let same = self.texts.get(bytes).or_else(|| self.special.get(bytes)).copied();
        let begin_if_special = begin.filter(|_| is_special);
        let first = bytes.len().saturating_sub(self.end_len_max).max(1);
        let end = || (first..bytes.len()).find_map(|from| self.texts.get(&bytes[from..]).copied());
        // The id 0 is for ids without a token, which no text has.
        same.or(begin_if_special).or_else(end).or(begin).unwrap_or(0)
    }

    /// Refuses a draft that could guess less than half of a text of these tokens at best.
    ///
    /// By Zipf's law the `n` most frequent of `N` tokens are `ln n / ln N` of a text; half of it, if `n` is the square root of
    /// `N`. Single bytes do not count: every vocabulary has them, and texts are made of few.
    ///
    /// # Errors
    /// [`Error::FewSharedWords`].
    fn check_words(&self, shared: &[(u32, u32)]) -> Result<(), Error> {
        let is_word = |token: u32| !self.is_special(token) && self.bytes(token).len() > 1;
        let got = shared.iter().filter(|pair| is_word(pair.0)).count();
        let expected = self.len.isqrt() as usize;
        if got < expected { Err(Error::FewSharedWords { expected, got }) } else { Ok(()) }
    }
}
