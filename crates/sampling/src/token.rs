//! Token-wise verification of sampled chains.
//!
//! Leviathan, Kalman, Matias: "Fast inference from transformers via speculative decoding" (arXiv:2211.17192), and
//! independently Chen et al. (arXiv:2302.01318).
//!
//! | paper | here |
//! |---|---|
//! | accept `x` with probability `min(1, p(x) / q(x))` | [`Chain::ratio`] |
//! | after a rejection draw from `norm(max(0, p - q))` | [`Chain::recovered`] with scale 1 |
//! | after `n` acceptances draw from `p_{n+1}` | [`Chain::completed`] |
//!
//! Deviations: none.

use crate::chain::Chain;
use crate::{Draws, Verdict};

/// Accepts tokens one by one until the first rejection.
#[inline(always)]
pub fn token_wise(chain: &Chain<'_>, draws: &mut impl Draws) -> Verdict {
    let first_rejected = (0..chain.len()).find(|&i| !draws.accept(i as u32, chain.ratio(i).min(1.0)));
    match first_rejected {
        Some(i) => chain.recovered(i, 1.0, draws),
        None => chain.completed(draws),
    }
}
