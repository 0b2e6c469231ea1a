//! Now and then a token more than planned is verified, so that pessimism cannot confirm itself.
//!
//! What is accepted is learnt from what is verified, and what is verified is what seemed worth it. Where the model is too
//! pessimistic about a position, or about a shape of the draft, it would never see that it is wrong. So for one sequence and step in
//! [`ONE_IN`], drawn without a look at the draft, the draft goes one token beyond the best length, is not ended by its shape and not
//! trimmed.

use crate::SequenceView;

use super::LAG_ORDINARY;

/// Sequences and steps of which one is drawn. A drawn one verifies a few tokens that would not have paid, against the two or three of
/// all others: well below 1 % of the tokens.
const ONE_IN: u64 = 512;

/// Whether a step draws the place of a sequence in the batch, whoever that is.
pub(super) fn is_drawn(step: u64, place: usize) -> bool {
    mix(step, place as u64).is_multiple_of(ONE_IN)
}

/// Whether a sequence for which `len` tokens are best can draft another one without catching up first, which would cost more.
///
/// * `len_max`: most tokens that it may draft.
pub(super) fn has_more(sequence: &SequenceView, is_foreseen: bool, len: u32, len_max: u32) -> bool {
    len < len_max && (is_foreseen || len > 0 || sequence.draft_lag <= LAG_ORDINARY)
}

/// A number that looks random, for each step and place another: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).
fn mix(step: u64, place: u64) -> u64 {
    let x = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.rotate_left(32);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_drawn_as_rarely_as_the_others() {
        for place in 0..8 {
            let n = (0..100 * ONE_IN).filter(|&step| is_drawn(step, place)).count();
            assert!((60..=140).contains(&n), "place {place}: {n}, 100 expected");
        }
        // Not all of a batch at once.
        let together = |step: &u64| (0..8).filter(|&place| is_drawn(*step, place)).count() > 1;
        let n = (0..100 * ONE_IN).filter(together).count();
        // 28 pairs in 512^2.
        assert!(n <= 20, "{n} steps, 5 expected");
    }
}
