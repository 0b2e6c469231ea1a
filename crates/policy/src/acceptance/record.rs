//! What is peculiar to one request: by how much it is accepted more or less often than the shared models say.

use crate::dsde::rule::wvir;
use crate::window::Window;

/// Labels that a request's record remembers, about.
const RECORD_LABELS: f64 = 48.0;

/// Inverse variance of requests around the shared model, in log-odds: most lie within 1 of it.
const RECORD_PRIOR: f64 = 1.0;

/// Bound on what a request may differ by, log-odds.
const OFFSET_MAX: f64 = 3.0;

/// Divergences that count as recent and as long-run in the volatility ratio, and the weight of one step of age; those of
/// DSDE (arXiv:2509.01083).
const VOLATILITY: (usize, usize, f64) = (10, 30, 0.85);

/// Bounds on the volatility ratio where it divides the memory of a record.
const VOLATILITY_RANGE: (f64, f64) = (0.5, 4.0);

/// What is peculiar to one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// Decayed sum of label minus the shared model's prediction.
    excess: f64,
    /// Decayed sum of the predictions' variances.
    information: f64,
    /// Divergences, where they are delivered, nats.
    klds: Option<Window>,
    /// Labels worth remembering, from when there are enough of them.
    memory: Option<f64>,
}

impl Record {
    /// Log-odds by which this request is accepted more often than the shared model says: one Newton step from 0, with a
    /// Gaussian prior around it.
    pub(super) fn offset(&self) -> f64 {
        (self.excess / (self.information + RECORD_PRIOR)).clamp(-OFFSET_MAX, OFFSET_MAX)
    }

    /// Takes in a label that the shared model predicted.
    pub(super) fn note(&mut self, predicted: f64, label: f64) {
        let kept = 1.0 - 1.0 / self.memory();
        self.excess = kept * self.excess + label - predicted;
        self.information = kept * self.information + predicted * (1.0 - predicted);
    }

    /// Labels worth remembering: fewer where the divergences have become volatile (DSDE's WVIR), more where they are calm.
    fn memory(&self) -> f64 {
        self.memory.unwrap_or(RECORD_LABELS)
    }

    /// Takes in the divergences of a proposal, nats; what is none is left out.
    pub(super) fn note_divergences(&mut self, klds: impl Iterator<Item = f32>) {
        let (short, long, decay) = VOLATILITY;
        let window = self.klds.get_or_insert_with(|| Window::new(long));
        klds.filter(|kld| kld.is_finite() && *kld >= 0.0).for_each(|kld| window.push(kld));
        if window.len() >= short {
            let ratio = wvir(window, short, long, decay);
            self.memory = Some(RECORD_LABELS / ratio.clamp(VOLATILITY_RANGE.0, VOLATILITY_RANGE.1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volatile_divergences_shorten_the_memory() {
        let mut record = Record::default();
        assert_eq!(record.memory(), RECORD_LABELS);
        record.note_divergences((0..30).map(|i| if i < 20 { 0.1 } else { (i % 2) as f32 }));
        assert!(record.memory() < RECORD_LABELS);
        record.note_divergences([f32::NAN].into_iter());
        assert!(record.memory().is_finite());
    }
}
