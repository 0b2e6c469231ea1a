//! A draft whose vocabulary is not its target's: token-level intersection (TLI; Timor et al., arXiv:2502.05202, Algorithm 4).
//!
//! | paper | here |
//! |---|---|
//! | the draft's distribution over the tokens that both have, normalised | logits of those alone, [`spread`] over the target's ids; the others are `-inf` |
//! | the text so far, encoded for the draft | every token of the target is read as one token of the draft |
//!
//! The first line is a distribution over the target's tokens like any other, so whatever draws from it, judges it and
//! measures it stays as it is, and with it the output law.
//!
//! Deviation: the second line. What the target encodes as one token is often several of the draft's, and then positions of the
//! two would part. Here they stay one to one, so that blocks, prefixes, trees and rollback of the draft are those of the
//! target. What the draft reads decides how well it guesses, never what is emitted.
//!
//! Of its output projection the draft has the rows of shared tokens alone, and of its embeddings those that are read: the
//! projection on a large vocabulary is most of what a small model computes.

use dsde_checkpoint::{Checkpoint, Dense};

use crate::error::Error;

/// Which token of a draft each token of its target is read as, and which tokens both have.
#[derive(Debug, PartialEq, Eq)]
pub struct Translation {
    n_draft_tokens: usize,
    /// Tokens of the draft that are read, ascending.
    read: Vec<u32>,
    /// Where in `read` each token of the target is.
    places: Vec<u32>,
    /// Tokens of the target that the draft guesses, ascending.
    guessed: Vec<u32>,
    /// The draft's ids of those.
    guessed_as: Vec<u32>,
}

impl Translation {
    /// * `reads`: for each token of the target, the token of the draft that it is read as.
    /// * `shared`: tokens that both have, `(target's id, draft's id)`, ascending by the target's.
    ///
    /// # Errors
    /// [`Error::NothingShared`], [`Error::TranslationToken`] if an id lies outside its vocabulary, or
    /// [`Error::TranslationOrder`].
    pub fn new(reads: &[u32], shared: &[(u32, u32)], n_draft_tokens: usize) -> Result<Self, Error> {
        let (guessed, guessed_as): (Vec<u32>, Vec<u32>) = shared.iter().copied().unzip();
        check_ids(&guessed, reads.len())?;
        check_ids(&guessed_as, n_draft_tokens)?;
        check_ids(reads, n_draft_tokens)?;
        if guessed.is_empty() {
            return Err(Error::NothingShared);
        }
        if let Some(pair) = guessed.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::TranslationOrder { expected: pair[0], got: pair[1] });
        }
        let mut read = reads.to_vec();
        read.sort_unstable();
        read.dedup();
        let place = |token: &u32| read.binary_search(token).expect("it is one of them") as u32;
        let places = reads.iter().map(place).collect();
        Ok(Self { n_draft_tokens, read, places, guessed, guessed_as })
    }

    /// Tokens of the target.
    pub fn vocab_len(&self) -> usize {
        self.places.len()
    }

    /// Tokens that both have.
    pub fn n_shared(&self) -> usize {
        self.guessed.len()
    }

    /// # Errors
    /// [`Error::TranslationLen`] unless it is between vocabularies of these lengths.
    pub(crate) fn check_fit(&self, n_target_tokens: usize, n_draft_tokens: usize) -> Result<(), Error> {
        let (expected, got) = ([n_target_tokens, n_draft_tokens], [self.vocab_len(), self.n_draft_tokens]);
        if expected == got { Ok(()) } else { Err(Error::TranslationLen { expected, got }) }
    }

    /// Tokens of the target as rows of [`Translation::embeddings`].
    pub(crate) fn read(&self, tokens: &[u32]) -> Vec<u32> {
        tokens.iter().map(|&token| self.places[token as usize]).collect()
    }

    /// The rows of a draft's embeddings that are read, as stored.
    pub(crate) fn embeddings(&self, table: Dense<'_>) -> Vec<u8> {
        rows(table, &self.read)
    }

    /// The rows of a draft's output projection that guess, as stored.
    pub(crate) fn output_projection(&self, matrix: Dense<'_>) -> Vec<u8> {
        rows(matrix, &self.guessed_as)
    }

    /// Logits over the target's tokens.
    ///
    /// * `guessed`: of the shared tokens, `[n_rows, n_shared]`.
    /// * `logits`: `[n_rows, vocab_len]`.
    pub(crate) fn spread(&self, guessed: &[f32], logits: &mut [f32]) {
        spread(&self.guessed, guessed, self.vocab_len(), logits);
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        let Self { read, places, guessed, guessed_as, .. } = self;
        [read, places, guessed, guessed_as].map(|table| size_of_val(table.as_slice())).iter().sum()
    }

    /// As [`Checkpoint::weight_bytes`], of a draft that is translated.
    pub(crate) fn weight_bytes(&self, draft: &Checkpoint) -> usize {
        // A matrix that is not there is refused when it is loaded.
        let row_bytes = |matrix: Result<Dense<'_>, _>| matrix.map_or(0, |m| m.dtype.row_bytes(m.n_in));
        let [read, guess] = [draft.embeddings(), draft.output_projection()].map(row_bytes);
        let whole = if draft.config().tie_embeddings { read } else { read + guess };
        let rest = draft.weight_bytes().saturating_sub(draft.config().n_embeddings * whole);
        rest + self.read.len() * read + self.n_shared() * guess + self.bytes()
    }
}

/// Logits of some tokens at their places among all; `-inf` for the others.
///
/// * `tokens`: distinct; those at or behind `vocab_len` are left out.
/// * `guessed`: `[n_rows, tokens.len()]`.
/// * `logits`: `[n_rows, vocab_len]`.
pub(crate) fn spread(tokens: &[u32], guessed: &[f32], vocab_len: usize, logits: &mut [f32]) {
    logits.fill(f32::NEG_INFINITY);
    let rows = logits.chunks_exact_mut(vocab_len).zip(guessed.chunks_exact(tokens.len()));
    for (row, guessed) in rows {
        for (&token, &logit) in tokens.iter().zip(guessed) {
            if let Some(place) = row.get_mut(token as usize) {
                *place = logit;
            }
        }
    }
}

fn check_ids(tokens: &[u32], expected: usize) -> Result<(), Error> {
    match tokens.iter().find(|&&token| token as usize >= expected) {
        Some(&got) => Err(Error::TranslationToken { expected, got }),
        None => Ok(()),
    }
}

fn rows(matrix: Dense<'_>, tokens: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tokens.len() * matrix.dtype.row_bytes(matrix.n_in));
    tokens.iter().for_each(|&token| bytes.extend_from_slice(matrix.row(token as usize)));
    bytes
}

#[cfg(test)]
mod tests {
    use dsde_checkpoint::Dtype;

    use super::*;

    /// Four tokens of the target; of the draft's three, two are shared.
    fn translation() -> Translation {
        Translation::new(&[2, 0, 2, 0], &[(1, 0), (2, 2)], 3).unwrap()
    }

    #[test]
    fn shared_tokens_have_the_logits_of_the_draft_and_no_other_is_guessed() {
        let mut logits = [9.0; 8];
        translation().spread(&[1.0, 2.0, 3.0, 4.0], &mut logits);
        let none = f32::NEG_INFINITY;
        assert_eq!(logits, [none, 1.0, 2.0, none, none, 3.0, 4.0, none]);
    }

    #[test]
    fn a_draft_keeps_the_rows_that_are_read_and_those_that_guess() {
        let bytes = [10, 11, 20, 21, 30, 31, 40, 41].map(f32::from_bits).map(f32::to_le_bytes).concat();
        let table = Dense::new(Dtype::F32, 4, 2, &bytes);
        // The row 1 is nobody's.
        assert_eq!(translation().embeddings(table), [&bytes[..8], &bytes[16..24]].concat());
        assert_eq!(translation().read(&[3, 2, 0]), [0, 1, 1]);
        assert_eq!(translation().output_projection(table), translation().embeddings(table));
        // Two rows read, four places, twice two shared tokens.
        assert_eq!(translation().bytes(), 4 * (2 + 4 + 4));
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let message = |reads: &[u32], shared: &[(u32, u32)]| {
            Translation::new(reads, shared, 3).unwrap_err().to_string()
        };
        let outside = "a translation must name tokens below";
        assert_eq!(message(&[0, 3], &[(0, 0)]), format!("{outside} 3, got 3"));
        assert_eq!(message(&[0, 1], &[(0, 4)]), format!("{outside} 3, got 4"));
        assert_eq!(message(&[0, 1], &[(2, 0)]), format!("{outside} 2, got 2"));
        let order = "shared tokens must ascend, got 1 behind 1";
        assert_eq!(message(&[0, 1], &[(1, 0), (1, 1)]), order);
        assert_eq!(message(&[0, 1], &[]), "draft and target must share tokens, got none that both have");
        let misfit = translation().check_fit(4, 5).unwrap_err().to_string();
        let expected = "a translation must be between the vocabularies of target and draft, of [4, 5] tokens; got one between \
                        [4, 3]";
        assert_eq!(misfit, expected);
    }
}
