//! How well tokens were predicted: sums over what their surprise was.

/// Sums over the negative log-likelihoods of tokens, nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    n_tokens: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Score {
    /// One more token.
    pub(super) fn add(&mut self, nll: f64) {
        self.n_tokens += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    /// Tokens so far.
    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Mean over the tokens, nats.
    pub(super) fn nll(&self) -> f64 {
        self.sum / self.n_tokens as f64
    }

    /// `exp` of the mean.
    pub(super) fn perplexity(&self) -> f64 {
        self.nll().exp()
    }

    /// Standard error of the perplexity: that of the mean, as if tokens were independent, times the derivative of `exp`.
    pub(super) fn standard_error(&self) -> f64 {
        let n = self.n_tokens as f64;
        let variance = (self.sum_of_squares / n - self.nll().powi(2)).max(0.0);
        (variance / (n - 1.0)).sqrt() * self.perplexity()
    }
}

/// Negative logarithm of the probability of a token, nats.
///
/// * `logits`: `[vocab_len]`.
pub(super) fn nll(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    sum.ln() - f64::from(logits[token as usize] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-6 * expected.abs(), "{got} {expected}");
    }

    #[test]
    fn the_perplexity_is_that_of_the_mean() {
        let mut score = Score::default();
        [1.0, 2.0, 3.0].into_iter().for_each(|nll| score.add(nll));
        assert_eq!(score.n_tokens(), 3);
        check(score.perplexity(), 7.389_056);
        // Variance 14 / 3 - 4 = 2 / 3, of the mean 1 / 3; sqrt(1 / 3) e^2 = 0.577350 * 7.389056.
        check(score.standard_error(), 4.266_073);
    }

    #[test]
    fn probabilities_are_those_of_a_softmax() {
        // Of 1 : 2 : 5, in logarithms, far from zero.
        let logits = [1.0_f32, 2.0, 5.0].map(|weight| weight.ln() + 80.0);
        for (token, probability) in [(0, 1.0 / 8.0), (1, 2.0 / 8.0), (2, 5.0 / 8.0)] {
            let got = nll(&logits, token);
            assert!((got + f64::ln(probability)).abs() < 1e-5, "{got}");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        assert!(nll(&[f32::NAN, 0.0], 0).is_nan());
        assert!(nll(&[f32::NAN, 0.0], 1).is_nan());
    }
}
