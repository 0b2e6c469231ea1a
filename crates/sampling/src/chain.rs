//! A sampled chain under judgement: drafted tokens with the distributions they came from and the target's opinion.

use crate::draws::{Draws, Weights};
use crate::rng::Purpose;
use crate::verdict::{Rows, Verdict};

/// Drafted tokens `x_1..x_n` with the rows of draft and target; the common ground of the rules for chains.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    tokens: &'a [u32],
    target: Rows<'a>,
    draft: Rows<'a>,
}

impl<'a> Chain<'a> {
    /// * `target`: `[1 + tokens.len(), vocab_len]`; row `i` is the target's distribution after the first `i` tokens.
    /// * `draft`: `[tokens.len(), vocab_len]`; row `i` is what token `i` was drawn from.
    ///
    /// # Panics
    /// If there are fewer rows than that, or if the rows differ in length.
    pub fn new(tokens: &'a [u32], target: Rows<'a>, draft: Rows<'a>) -> Self {
        assert!(
            target.n_rows() > tokens.len() && draft.n_rows() >= tokens.len(),
            "{} tokens were given {} target and {} draft rows",
            tokens.len(),
            target.n_rows(),
            draft.n_rows()
        );
        assert_eq!(target.vocab_len(), draft.vocab_len(), "target and draft share a vocabulary");
        Self { tokens, target, draft }
    }

    /// Number of drafted tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing was drafted.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// `p(x) / q(x)` of drafted token `i`; 0 if the draft could not have drawn it.
    #[inline(always)]
    pub fn ratio(&self, i: usize) -> f64 {
        let token = self.tokens[i] as usize;
        let q = f64::from(self.draft.row(i)[token]);
        if q > 0.0 { f64::from(self.target.row(i)[token]) / q } else { 0.0 }
    }

    /// `max(scale * p - q, 0)` after the first `i` tokens, over the vocabulary.
    #[inline(always)]
    pub fn residual(&self, i: usize, scale: f64) -> Weights<'a> {
        Weights::Residual { scale, target: self.target.row(i), draft: self.draft.row(i) }
    }

    /// Ends the chain after `i < len` tokens: the next one is recovered from the residual, or from the target itself where
    /// rounding left no residual.
    #[inline(always)]
    pub fn recovered(&self, i: usize, scale: f64, draws: &mut impl Draws) -> Verdict {
        let residual = self.residual(i, scale);
        let weights = if residual.mass() > 0.0 { residual } else { Weights::Row(self.target.row(i)) };
        Verdict {
            path: (0..i as u32).collect(),
            next: draws.token(Purpose::Target, i as u32, weights),
            is_bonus: false,
        }
    }

    /// Accepts every token: the next one is a bonus from the target.
    #[inline(always)]
    pub fn completed(&self, draws: &mut impl Draws) -> Verdict {
        let len = self.len();
        Verdict {
            path: (0..len as u32).collect(),
            next: draws.token(Purpose::Target, len as u32, Weights::Row(self.target.row(len))),
            is_bonus: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CounterDraws, Stream};

    const DRAWS: CounterDraws = CounterDraws { stream: Stream::Own { key: 1, number: 0 }, position: 1 };

    #[test]
    fn a_token_the_draft_could_not_draw_is_never_accepted() {
        let rows = [0.5, 0.5, 0.5, 0.5];
        let chain = Chain::new(&[0], Rows::new(&rows, 2), Rows::new(&[0.0, 1.0], 2));
        assert_eq!(chain.ratio(0), 0.0);
        let chain = Chain::new(&[1], Rows::new(&rows, 2), Rows::new(&[0.0, 1.0], 2));
        assert_eq!(chain.ratio(0), 0.5);
    }

    #[test]
    fn without_a_residual_the_target_decides() {
        let target = [0.0, 1.0, 0.5, 0.5];
        let chain = Chain::new(&[1], Rows::new(&target, 2), Rows::new(&[0.0, 1.0], 2));
        let verdict = chain.recovered(0, 1.0, &mut DRAWS.clone());
        assert_eq!((verdict.next, verdict.accepted(), verdict.is_bonus), (1, 0, false));
    }

    #[test]
    fn spare_draft_rows_are_ignored() {
        // A trimmed chain keeps the rows of what was cut off.
        let (target, draft) = ([0.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]);
        let chain = Chain::new(&[1], Rows::new(&target, 2), Rows::new(&draft, 2));
        let verdict = chain.completed(&mut DRAWS.clone());
        assert_eq!((verdict.next, verdict.path, verdict.is_bonus), (0, vec![0], true));
    }

    #[test]
    #[should_panic(expected = "2 tokens were given 2 target and 2 draft rows")]
    fn a_missing_target_row_is_a_bug() {
        let rows = [0.5; 4];
        Chain::new(&[0, 1], Rows::new(&rows, 2), Rows::new(&rows, 2));
    }
}
