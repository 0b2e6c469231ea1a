//! Tensors that list tokens, none twice.

use super::Checkpoint;
use crate::error::Error;

/// What the entries of a list are.
#[derive(Clone, Copy)]
pub(super) enum Listed {
    /// Tokens.
    Tokens,
    /// How far each token is from the place of its entry.
    Distances,
}

impl Listed {
    /// The tokens of the tensor `name`, `[len]` whole numbers of 64 bits.
    ///
    /// # Errors
    /// If it is another tensor, or its entries are no distinct tokens below `vocab_len`.
    pub(super) fn tokens(
        self,
        weights: &Checkpoint,
        name: &str,
        len: usize,
        vocab_len: usize,
    ) -> Result<Vec<u32>, Error> {
        let mut is_there = vec![false; vocab_len];
        let stored = weights.raw(name, "I64", &[len])?.as_chunks().0;
        let token = |(i, le): (usize, &[u8; 8])| {
            let got = i64::from_le_bytes(*le);
            let token = match self {
                Self::Tokens => Some(got),
                Self::Distances => got.checked_add(i as i64),
            };
            let token = token.and_then(|token| usize::try_from(token).ok());
            let token = token.filter(|&token| is_there.get(token) == Some(&false));
            let token = token.ok_or_else(|| Error::Field {
                field: format!("{name}[{i}]"),
                expected: self.expected(vocab_len),
                got: got.to_string(),
            })?;
            is_there[token] = true;
            Ok(token as u32)
        };
        stored.iter().enumerate().map(token).collect()
    }

    fn expected(self, vocab_len: usize) -> String {
        match self {
            Self::Tokens => format!("a token below {vocab_len} that no other entry names"),
            Self::Distances => {
                format!("the distance to a token below {vocab_len} that no other entry leads to")
            }
        }
    }
}
