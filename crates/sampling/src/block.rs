//! Block verification of sampled chains: the longest prefix that is acceptable as a whole.
//!
//! Sun et al.: "Block verification accelerates speculative decoding" (arXiv:2403.10444). Accepts at least as many tokens on
//! average as token-wise verification, for the same law and the same model calls.
//!
//! | paper | here |
//! |---|---|
//! | `p_i = min(1, p_{i-1} p(x_i) / q(x_i))`, `p_0 = 1` | `prefix_probs` |
//! | `S_i = sum_v max(p_i p(v) - q(v), 0)` after `x_1..x_i` | [`Chain::residual`] and its mass |
//! | `h_i = S_i / (S_i + 1 - p_i)` for `0 < i < n`, `h_n = p_n` | `acceptance` |
//! | accept the largest `i` with `u_i <= h_i` | [`block_wise`] |
//! | then draw from `norm(max(p_i p - q, 0))`, or from `p_{n+1}` if `i = n` | [`Chain::recovered`], [`Chain::completed`] |
//!
//! Deviations: prefixes are tried from the longest on and the search ends at the first acceptance. The `u_i` are
//! independent, so the law is the same, and `S_i` is summed only where a longer prefix was refused.

use crate::chain::Chain;
use crate::{Draws, Verdict};

/// Accepts the longest acceptable prefix.
#[inline(always)]
pub fn block_wise(chain: &Chain<'_>, draws: &mut impl Draws) -> Verdict {
    let probs = prefix_probs(chain);
    let accepted = (1..=chain.len())
        .rev()
        .find(|&i| draws.accept(i as u32 - 1, acceptance(chain, i, probs[i])))
        .unwrap_or(0);
    if accepted == chain.len() {
        chain.completed(draws)
    } else {
        chain.recovered(accepted, probs[accepted], draws)
    }
}

/// `p_0..=p_n`: how far the first `i` drafted tokens together count as drawn from the target, `[1 + len]`.
#[inline(always)]
fn prefix_probs(chain: &Chain<'_>) -> Vec<f64> {
    let mut probs = Vec::with_capacity(chain.len() + 1);
    let mut prob = 1.0;
    probs.push(prob);
    for i in 0..chain.len() {
        prob = (prob * chain.ratio(i)).min(1.0);
        probs.push(prob);
    }
    probs
}

/// `h_i`: probability that the first `i >= 1` tokens are accepted if no longer prefix was.
#[inline(always)]
fn acceptance(chain: &Chain<'_>, i: usize, prefix_prob: f64) -> f64 {
    if i == chain.len() || prefix_prob == 0.0 {
        return prefix_prob;
    }
    let remaining = chain.residual(i, prefix_prob).mass();
    let lacking = 1.0 - prefix_prob;
    if lacking > 0.0 { remaining / (remaining + lacking) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Purpose, Rows, Weights};

    const TARGET: [f32; 2] = [1.0 / 3.0, 2.0 / 3.0];
    const DRAFT: [f32; 2] = [2.0 / 3.0, 1.0 / 3.0];

    /// Refuses `refusals` times, then accepts; remembers what it was asked.
    struct Stubborn {
        refusals: usize,
        asked: Vec<(u32, f64)>,
        weights: [f64; 2],
    }

    impl Draws for Stubborn {
        fn accept(&mut self, index: u32, probability: f64) -> bool {
            self.asked.push((index, probability));
            self.asked.len() > self.refusals
        }

        fn token(&mut self, _: Purpose, index: u32, weights: Weights<'_>) -> u32 {
            self.weights = [0, 1].map(|token| weights.weight(token));
            index
        }
    }

    /// `asked`: expected index and probability of each acceptance; `weights`: of the tokens the last one is drawn from.
    fn check(tokens: [u32; 2], refusals: usize, accepted: u32, asked: &[(u32, f64)], weights: [f64; 2]) {
        let (target, draft) = ([TARGET; 3].concat(), [DRAFT; 2].concat());
        let chain = Chain::new(&tokens, Rows::new(&target, 2), Rows::new(&draft, 2));
        let mut draws = Stubborn { refusals, asked: Vec::new(), weights: [0.0; 2] };
        let verdict = block_wise(&chain, &mut draws);
        assert_eq!((verdict.accepted(), verdict.is_bonus), (accepted, accepted == 2), "{tokens:?}");
        assert_eq!(verdict.next, accepted);
        let is_near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert_eq!(draws.asked.len(), asked.len(), "{tokens:?}");
        for (got, expected) in draws.asked.iter().zip(asked) {
            assert!(got.0 == expected.0 && is_near(got.1, expected.1), "{tokens:?}: {got:?}");
        }
        for (got, expected) in draws.weights.into_iter().zip(weights) {
            assert!(is_near(got, expected), "{tokens:?}: {:?}", draws.weights);
        }
    }

    #[test]
    fn acceptance_follows_the_paper() {
        let (third, p) = (1.0 / 3.0, TARGET.map(f64::from));
        // Tokens 0 0: p_1 = 1/2, p_2 = 1/4. S_1 = max(1/6 - 2/3, 0) + max(1/3 - 1/3, 0) = 0, so h_1 = 0.
        check([0, 0], 0, 2, &[(1, 0.25)], p);
        check([0, 0], 2, 0, &[(1, 0.25), (0, 0.0)], [0.0, third]);
        // Tokens 0 1: p_1 = 1/2, p_2 = min(1, 1/2 * 2) = 1: a bad beginning is made good.
        check([0, 1], 0, 2, &[(1, 1.0)], p);
        // Tokens 1 0: p_1 = min(1, 2) = 1, p_2 = 1/2. S_1 = max(2/3 - 1/3, 0) = 1/3, h_1 = S_1 / (S_1 + 0) = 1.
        check([1, 0], 1, 1, &[(1, 0.5), (0, 1.0)], [0.0, third]);
        // Tokens 1 1: p_1 = p_2 = 1.
        check([1, 1], 0, 2, &[(1, 1.0)], p);
    }
}
