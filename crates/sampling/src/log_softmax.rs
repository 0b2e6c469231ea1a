//! Logarithms of probabilities straight from logits, without exponentials that have to be undone.

use crate::distribution::Shift;
use crate::lanes::{self, EXP_MIN, LANES, Lanes};

/// The map `logit -> ln probability` of one row of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSoftmax {
    shift: Shift,
    log_sum: f32,
}

impl LogSoftmax {
    /// Of a row of logits `[vocab_len]` at a temperature `> 0`.
    #[inline(always)]
    pub(crate) fn of(row: &[f32], temperature: f32) -> Self {
        let shift = Shift::new(lanes::max(row).max(f32::MIN), temperature);
        let (chunks, tail) = row.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for chunk in chunks {
            lanes::accumulate(&mut sums, lanes::exp(shift.apply(chunk)));
        }
        let last = lanes::padded(tail, f32::NEG_INFINITY);
        lanes::accumulate(&mut sums, lanes::exp(shift.apply(&last)));
        // The largest logit contributes 1; only a row without any possible token has a smaller sum.
        let log_sum = lanes::total(sums).max(1.0).ln() as f32;
        Self { shift, log_sum }
    }

    /// `ln` of the probabilities of some logits, not below [`EXP_MIN`].
    #[inline(always)]
    pub(crate) fn log_probs(&self, logits: &Lanes) -> Lanes {
        let shifted = self.shift.apply(logits);
        let mut out = [EXP_MIN; LANES];
        for i in 0..LANES {
            let log_prob = shifted[i] - self.log_sum;
            out[i] = if log_prob > EXP_MIN { log_prob } else { EXP_MIN };
        }
        out
    }

    /// `ln` of the probability of one logit; `-inf` for NaN.
    #[inline(always)]
    pub(crate) fn log_prob(&self, logit: f32) -> f32 {
        // `max` ignores NaN.
        (self.shift.apply_one(logit) - self.log_sum).max(f32::NEG_INFINITY)
    }

    /// Probability of the largest logit.
    #[inline(always)]
    pub(crate) fn top_prob(&self) -> f32 {
        (-self.log_sum).exp()
    }
}
