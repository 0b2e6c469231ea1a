//! Log-probabilities for people and clients.

use crate::lanes::{self, LANES};
use crate::log_softmax::LogSoftmax;

/// Log-probabilities at one emitted position, nats, of the target's distribution before penalties and temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// Of the emitted token.
    pub logprob: f32,
    /// The most probable tokens, most probable first, as `(token, logprob)`.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// From one row of the target's raw logits `[vocab_len]`.
    ///
    /// * `top_len`: how many most probable tokens to list, fewer if fewer are possible. Ties rank by token id, lower first.
    ///
    /// # Panics
    /// If `token` is outside the vocabulary.
    #[inline(always)]
    pub fn of_logits(row: &[f32], token: u32, top_len: u32) -> Self {
        let map = LogSoftmax::of(row, 1.0);
        let mut top = largest(row, top_len as usize);
        for (_, value) in &mut top {
            *value = map.log_prob(*value);
        }
        Self { logprob: map.log_prob(row[token as usize]), top }
    }
}

/// The `len` largest values of a row with their indices, largest first, never `-inf` or NaN. Of equal values the first comes
/// first.
#[inline(always)]
pub(crate) fn largest(row: &[f32], len: usize) -> Vec<(u32, f32)> {
    let mut top = Vec::with_capacity(len + 1);
    if len == 0 {
        return top;
    }
    let (chunks, tail) = row.as_chunks::<LANES>();
    let mut bar = f32::NEG_INFINITY;
    for (chunk_idx, chunk) in chunks.iter().enumerate() {
        if lanes::reaches(chunk, bar) {
            bar = offer(&mut top, len, chunk, chunk_idx * LANES);
        }
    }
    offer(&mut top, len, tail, chunks.len() * LANES);
    top
}

/// Ranks the values that belong into `top` and returns what the next ones must exceed.
fn offer(top: &mut Vec<(u32, f32)>, len: usize, values: &[f32], start: usize) -> f32 {
    for (i, &value) in values.iter().enumerate() {
        let rank = top.partition_point(|&(_, larger)| larger >= value);
        if rank < len && value > f32::NEG_INFINITY {
            top.insert(rank, ((start + i) as u32, value));
            top.truncate(len);
        }
    }
    if top.len() < len { f32::NEG_INFINITY } else { top[len - 1].1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: &[f32], token: u32, top_len: u32, logprob: f32, top: &[(u32, f32)]) {
        let got = TokenLogprobs::of_logits(row, token, top_len);
        let is_near = |a: f32, b: f32| a == b || (a - b).abs() < 1e-6;
        assert!(is_near(got.logprob, logprob), "{got:?}");
        assert_eq!(got.top.len(), top.len(), "{got:?}");
        for (got, expected) in got.top.iter().zip(top) {
            assert!(got.0 == expected.0 && is_near(got.1, expected.1), "{got:?} is not {expected:?}");
        }
    }

    /// `ln` of 1/8, 1/2, 1/4, 1/8, up to a shift.
    fn row() -> Vec<f32> {
        [1.0_f32, 4.0, 2.0, 1.0].map(f32::ln).to_vec()
    }

    #[test]
    fn logprobs_are_normalised_and_ranked() {
        let [eighth, half, quarter] = [0.125_f32, 0.5, 0.25].map(f32::ln);
        check(&row(), 2, 0, quarter, &[]);
        check(&row(), 0, 2, eighth, &[(1, half), (2, quarter)]);
        let all = [(1, half), (2, quarter), (0, eighth), (3, eighth)];
        check(&row(), 1, 4, half, &all);
        check(&row(), 1, 20, half, &all);
        check(&row(), 3, 3, eighth, &all[..3]);
    }

    #[test]
    fn impossible_tokens_are_not_listed() {
        let row = [f32::NEG_INFINITY, 0.0, f32::NAN];
        check(&row, 1, 3, 0.0, &[(1, 0.0)]);
        check(&row, 0, 0, f32::NEG_INFINITY, &[]);
        check(&row, 2, 0, f32::NEG_INFINITY, &[]);
    }

    #[test]
    fn the_largest_are_found_wherever_they_stand() {
        let row: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect();
        // 37 i = v modulo 100 is solved by i = 73 v: 99 stands at 27, 98 at 54, 97 at 81, 96 at 8.
        assert_eq!(largest(&row, 4), [(27, 99.0), (54, 98.0), (81, 97.0), (8, 96.0)]);
    }
}
