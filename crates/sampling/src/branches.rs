//! What a token tree branches into: the most probable tokens of a distribution.

use crate::log_softmax::LogSoftmax;
use crate::logprobs::largest;
use crate::{Params, Scratch, softmax};

/// The `len` most probable tokens of one row with the natural logarithms of their probabilities, most probable first. Equal
/// probabilities rank by token id, lower first.
///
/// * `row`: adjusted logits `[vocab_len]`; of sampled requests it becomes probabilities, as by [`softmax`]. Greedy requests
///   are ranked by their softmax at temperature 1.
/// * Returns `min(len, vocab_len)` tokens; impossible ones come last, with `-inf`.
///
/// Call from a `#[target_feature]` function for faster code with the same result.
#[inline(always)]
pub fn branches(row: &mut [f32], params: &Params, len: u32, scratch: &mut Scratch) -> Vec<(u32, f32)> {
    let mut top = if params.is_greedy() {
        let map = LogSoftmax::of(row, 1.0);
        let mut top = largest(row, len as usize);
        top.iter_mut().for_each(|(_, value)| *value = map.log_prob(*value));
        top
    } else {
        softmax(row, params, scratch);
        let mut top = largest(row, len as usize);
        top.iter_mut().for_each(|(_, value)| *value = value.ln());
        top
    };
    let n_missing = (len as usize).min(row.len()) - top.len();
    if n_missing > 0 {
        let is_listed = |token: &u32| top.iter().any(|(listed, _)| listed == token);
        let missing: Vec<u32> = (0..row.len() as u32).filter(|t| !is_listed(t)).take(n_missing).collect();
        top.extend(missing.into_iter().map(|token| (token, f32::NEG_INFINITY)));
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    fn check(row: &[f32], params: &Params, len: u32, expected: &[(u32, f32)]) {
        let got = branches(&mut row.to_vec(), params, len, &mut Scratch::default());
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (got, expected) in got.iter().zip(expected) {
            let is_near = got.1 == expected.1 || (got.1 - expected.1).abs() < 1e-6;
            assert!(got.0 == expected.0 && is_near, "{got:?} is not {expected:?}");
        }
    }

    /// `ln` of 1/8, 1/2, 1/4, 1/8, up to a shift.
    fn row() -> Vec<f32> {
        [1.0_f32, 4.0, 2.0, 1.0].map(f32::ln).to_vec()
    }

    fn sampled(temperature: f32) -> Params {
        Params { temperature, ..Params::greedy() }
    }

    #[test]
    fn the_most_probable_come_first_and_ties_rank_by_token() {
        let expected = [(1, 0.5_f32.ln()), (2, 0.25_f32.ln()), (0, 0.125_f32.ln()), (3, 0.125_f32.ln())];
        for params in [Params::greedy(), sampled(1.0)] {
            check(&row(), &params, 0, &[]);
            check(&row(), &params, 3, &expected[..3]);
            check(&row(), &params, 9, &expected);
        }
    }

    #[test]
    fn temperature_and_truncation_count_for_sampled_requests() {
        // Weights 16, 4, 1, 1 of 22.
        let expected = [(1, (16.0_f32 / 22.0).ln()), (2, (4.0_f32 / 22.0).ln())];
        check(&row(), &sampled(0.5), 2, &expected);
        let truncated = Params { top_k: 2, ..sampled(1.0) };
        let expected = [(1, (2.0_f32 / 3.0).ln()), (2, (1.0_f32 / 3.0).ln()), (0, -INF)];
        check(&row(), &truncated, 3, &expected);
    }

    #[test]
    fn impossible_tokens_fill_up() {
        check(&[-INF, 0.0, f32::NAN], &Params::greedy(), 3, &[(1, 0.0), (0, -INF), (2, -INF)]);
        check(&[f32::NAN; 2], &Params::greedy(), 1, &[(0, -INF)]);
    }
}
