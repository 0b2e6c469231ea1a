//! Whether predicted probabilities are the frequencies that come true.

/// Bins of equal width over the predicted probability.
const N_BINS: usize = 10;

/// Labels that are remembered, about.
const MEMORY: f64 = 2000.0;

/// Expected calibration error over the recent past.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    bins: [Bin; N_BINS],
    /// Weight of the next label; grows instead of every bin's shrinking.
    scale: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    weight: f64,
    /// Weighted sum of label minus prediction.
    excess: f64,
}

impl Calibration {
    /// Takes in one prediction and what became of it, both in `0..=1`.
    pub fn note(&mut self, predicted: f64, label: f64) {
        self.scale = if self.scale == 0.0 { 1.0 } else { self.scale * (1.0 + 1.0 / MEMORY) };
        let bin = &mut self.bins[((predicted * N_BINS as f64) as usize).min(N_BINS - 1)];
        bin.weight += self.scale;
        bin.excess += self.scale * (label - predicted);
        if self.scale > 1e12 {
            self.rescale();
        }
    }

    /// Expected calibration error: the mean over labels of the absolute difference, in the label's bin, of mean prediction
    /// and mean label. In `0..=1`; `None` without labels.
    pub fn error(&self) -> Option<f64> {
        let weight: f64 = self.bins.iter().map(|bin| bin.weight).sum();
        let excess: f64 = self.bins.iter().map(|bin| bin.excess.abs()).sum();
        (weight > 0.0).then(|| excess / weight)
    }

    fn rescale(&mut self) {
        for bin in &mut self.bins {
            bin.weight /= self.scale;
            bin.excess /= self.scale;
        }
        self.scale = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[(f64, f64)], expected: f64) {
        let mut calibration = Calibration::default();
        labels.iter().for_each(|&(predicted, label)| calibration.note(predicted, label));
        let got = calibration.error().unwrap();
        // Weights differ by 1 / 2000 per label.
        assert!((got - expected).abs() < 0.002, "{labels:?}: expected {expected}, got {got}");
    }

    #[test]
    fn errors_of_hand_computed_bins() {
        assert_eq!(Calibration::default().error(), None);
        check(&[(0.5, 1.0), (0.5, 0.0)], 0.0);
        check(&[(0.9, 1.0), (0.9, 0.0)], 0.4);
        // One bin is off by 0.25, the other by -0.85; they do not make up for each other.
        check(&[(0.75, 1.0), (0.85, 0.0)], 0.55);
    }

    #[test]
    fn the_past_is_forgotten() {
        let mut calibration = Calibration::default();
        (0..2_000).for_each(|_| calibration.note(0.95, 0.0));
        (0..200_000).for_each(|i| calibration.note(0.95, f64::from(u8::from(i % 20 != 0))));
        assert!(calibration.error().unwrap() < 0.01);
    }
}
