//! Confidences that mean what they say: a temperature per position, fitted to what was accepted.

/// Bins over the logits of a position.
const N_BINS: usize = 16;

/// Logits are kept within this; at the bounds the odds are 3000 to 1.
const LOGIT_MAX: f64 = 8.0;

/// Temperatures that are tried, `2^(i / 2)` from a quarter to sixteen.
const N_TEMPERATURES: i32 = 13;

/// Steps between fits.
const INTERVAL: u32 = 100;

/// What remains of the counts after a fit.
const MEMORY: f64 = 0.8;

/// Counted positions below which a temperature stays as it is.
const COUNT_MIN: f64 = 32.0;

/// Natural logarithm of the odds of `prob`, kept within 8 of 0. What is not a number counts as even.
pub fn logit(prob: f32) -> f64 {
    let prob = f64::from(prob);
    let logit = (prob / (1.0 - prob)).ln();
    if logit.is_nan() { 0.0 } else { logit.clamp(-LOGIT_MAX, LOGIT_MAX) }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// Positions whose logits are close together.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    n: f64,
    accepted: f64,
    logit_sum: f64,
}

/// The confidence of one position in the block.
#[derive(Clone, Debug)]
struct Position {
    temperature: f64,
    bins: [Bin; N_BINS],
}

impl Position {
    /// Calibration error at a temperature, weighted by counts: `sum over bins of |accepted - n sigma(mean z / T)|`.
    fn error(&self, temperature: f64) -> f64 {
        let of_bin = |bin: &Bin| (bin.accepted - bin.n * sigmoid(bin.logit_sum / bin.n / temperature)).abs();
        self.bins.iter().filter(|bin| bin.n > 0.0).map(of_bin).sum()
    }

    fn fit(&mut self) {
        if self.bins.iter().map(|bin| bin.n).sum::<f64>() >= COUNT_MIN {
            let temperatures = (0..N_TEMPERATURES).map(|i| 0.25 * 2f64.powf(f64::from(i) / 2.0));
            self.temperature = temperatures
                .map(|temperature| (self.error(temperature), temperature))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .map_or(self.temperature, |(_, temperature)| temperature);
        }
        for bin in &mut self.bins {
            let Bin { n, accepted, logit_sum } = *bin;
            *bin = Bin { n: MEMORY * n, accepted: MEMORY * accepted, logit_sum: MEMORY * logit_sum };
        }
    }
}

/// Temperatures of all positions of a block.
#[derive(Clone, Debug)]
pub struct Calibration {
    positions: Vec<Position>,
    n_steps: u32,
}

impl Calibration {
    /// All temperatures are 1: a confidence is the draft's probability.
    pub fn new(block_len: usize) -> Self {
        let position = Position { temperature: 1.0, bins: [Bin::default(); N_BINS] };
        Self { positions: vec![position; block_len], n_steps: 0 }
    }

    /// Probability that a position is accepted if all before it were, `sigma(z / T_j)`.
    ///
    /// * `j`: 0 for the first position, below the length of the block.
    /// * `z`: its [`logit`].
    pub fn confidence(&self, j: usize, z: f64) -> f64 {
        sigmoid(z / self.positions[j].temperature)
    }

    /// Takes in one position that was put to the test.
    pub fn count(&mut self, j: usize, z: f64, is_accepted: bool) {
        let share = (z + LOGIT_MAX) / (2.0 * LOGIT_MAX);
        let bin = &mut self.positions[j].bins[((share * N_BINS as f64) as usize).min(N_BINS - 1)];
        bin.n += 1.0;
        bin.accepted += f64::from(u8::from(is_accepted));
        bin.logit_sum += z;
    }

    /// Fits all temperatures every 100 steps.
    pub fn end_step(&mut self) {
        self.n_steps += 1;
        if self.n_steps == INTERVAL {
            self.n_steps = 0;
            self.positions.iter_mut().for_each(Position::fit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_of_hand_computed_probabilities() {
        assert_eq!(logit(0.5), 0.0);
        // ln 3, ln 1/3.
        assert!((logit(0.75) - 1.0986).abs() < 1e-4);
        assert!((logit(0.25) + 1.0986).abs() < 1e-4);
        assert_eq!([logit(1.0), logit(0.0), logit(f32::NAN), logit(2.0)], [8.0, -8.0, 0.0, 0.0]);
    }

    #[test]
    fn a_confidence_is_the_probability_at_first() {
        let calibration = Calibration::new(2);
        assert!((calibration.confidence(1, logit(0.9)) - 0.9).abs() < 1e-6);
    }

    #[test]
    fn an_overconfident_position_is_cooled_down_to_what_was_accepted() {
        // The draft says 0.9, logit 2.197; 75 of 100 are accepted, logit 1.0986: T = 2. The other position keeps its 1.
        let mut calibration = Calibration::new(2);
        (0..100).for_each(|i| calibration.count(0, logit(0.9), i % 4 != 0));
        (0..INTERVAL - 1).for_each(|_| calibration.end_step());
        assert!((calibration.confidence(0, logit(0.9)) - 0.9).abs() < 1e-6);
        calibration.end_step();
        assert!((calibration.confidence(0, logit(0.9)) - 0.75).abs() < 1e-4);
        assert!((calibration.confidence(1, logit(0.9)) - 0.9).abs() < 1e-6);
        // 0.99, logit 4.595: sigma(4.595 / 2) = 0.9087.
        assert!((calibration.confidence(0, logit(0.99)) - 0.9087).abs() < 1e-3);
    }

    #[test]
    fn a_temperature_changes_only_with_enough_evidence() {
        let mut calibration = Calibration::new(1);
        (0..31).for_each(|_| calibration.count(0, logit(0.9), false));
        (0..INTERVAL).for_each(|_| calibration.end_step());
        assert!((calibration.confidence(0, logit(0.9)) - 0.9).abs() < 1e-6);
        // 0.8 * 31 + 8 more.
        (0..8).for_each(|_| calibration.count(0, logit(0.9), false));
        (0..INTERVAL).for_each(|_| calibration.end_step());
        assert!(calibration.confidence(0, logit(0.9)) < 0.6);
    }
}
