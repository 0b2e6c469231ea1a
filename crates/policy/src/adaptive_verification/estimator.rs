//! Acceptance out of the draft's own odds: one slope for all positions, an intercept for each.

use crate::acceptance::logistic::sigmoid;

/// Slope and intercepts before anything is known.
const SLOPE_FIRST: f64 = 0.5;
const INTERCEPT_FIRST: f64 = -0.2;

/// Added to the diagonal of the normal equations.
const RIDGE: f64 = 1e-3;

/// Labels at which a step goes half its way.
const HALF_WAY: f64 = 50.0;

/// Most that one step moves a weight, and bound on every weight.
const STEP_MAX: f64 = 1.0;
const WEIGHT_MAX: f64 = 8.0;

/// Sums over the labels of one position since the last step, at the weights in force: `y` the label, `p` its prediction,
/// `z` the log-odds, `v = p (1 - p)`.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Labels.
    n: f64,
    /// `y - p`.
    excess: f64,
    /// `(y - p) z`.
    excess_z: f64,
    /// `v`.
    variance: f64,
    /// `v z`.
    variance_z: f64,
    /// `v z^2`.
    variance_zz: f64,
}

/// Probability that a position is accepted if all before it were, `sigma(s z + b_j)`, fitted as the labels come.
#[derive(Clone, Debug)]
pub struct Estimator {
    slope: f64,
    intercepts: Vec<f64>,
    sums: Vec<Sums>,
}

impl Estimator {
    /// Knows nothing of its `n_positions` yet.
    pub fn new(n_positions: usize) -> Self {
        Self {
            slope: SLOPE_FIRST,
            intercepts: vec![INTERCEPT_FIRST; n_positions],
            sums: vec![Sums::default(); n_positions],
        }
    }

    /// Probability that position `j` is accepted if all before it were.
    ///
    /// * `z`: log-odds of the draft's largest probability.
    pub fn confidence(&self, j: usize, z: f64) -> f64 {
        sigmoid(self.slope * z + self.intercepts[j])
    }

    /// Notes what became of a position that was put to the test; [`fit`](Self::fit) makes it count.
    pub fn note(&mut self, j: usize, z: f64, is_accepted: bool) {
        let predicted = self.confidence(j, z);
        let excess = f64::from(u8::from(is_accepted)) - predicted;
        let variance = predicted * (1.0 - predicted);
        let sums = &mut self.sums[j];
        sums.n += 1.0;
        sums.excess += excess;
        sums.excess_z += excess * z;
        sums.variance += variance;
        sums.variance_z += variance * z;
        sums.variance_zz += variance * z * z;
    }

    /// Takes one damped Newton step over what was noted since the last one.
    ///
    /// The normal equations form an arrowhead, since intercepts meet only through the slope: eliminating each intercept leaves
    /// one equation for the slope. The step counts `n / (n + 50)`. A step to a slope below zero is refused; then the
    /// intercepts step alone.
    pub fn fit(&mut self) {
        let n: f64 = self.sums.iter().map(|sums| sums.n).sum();
        let damping = n / (n + HALF_WAY);
        let newton = self.slope_step();
        let slope_step = if self.slope + damping * newton < 0.0 { 0.0 } else { newton };
        for (intercept, sums) in self.intercepts.iter_mut().zip(&mut self.sums) {
            let step = (sums.excess - sums.variance_z * slope_step) / (sums.variance + RIDGE);
            *intercept = moved(*intercept, damping * step);
            *sums = Sums::default();
        }
        self.slope = moved(self.slope, damping * slope_step).max(0.0);
    }

    /// The slope's Newton step, once the intercepts are eliminated.
    fn slope_step(&self) -> f64 {
        let (mut gradient, mut information) = (0.0, RIDGE);
        for sums in &self.sums {
            let share = sums.variance_z / (sums.variance + RIDGE);
            gradient += sums.excess_z - share * sums.excess;
            information += sums.variance_zz - share * sums.variance_z;
        }
        gradient / information
    }
}

fn moved(weight: f64, step: f64) -> f64 {
    (weight + step.clamp(-STEP_MAX, STEP_MAX)).clamp(-WEIGHT_MAX, WEIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An estimator of `n` positions that thinks everything even.
    fn even(n: usize) -> Estimator {
        Estimator { slope: 0.0, intercepts: vec![0.0; n], sums: vec![Sums::default(); n] }
    }

    /// Fits labels (position, log-odds, accepted) from even odds and compares to what exact arithmetic gives without the ridge.
    fn check(labels: &[(usize, f64, bool)], slope: f64, intercepts: &[f64]) {
        let mut estimator = even(intercepts.len());
        labels.iter().for_each(|&(j, z, is_accepted)| estimator.note(j, z, is_accepted));
        estimator.fit();
        let is_near = |got: f64, expected: f64| (got - expected).abs() <= 0.01 * expected.abs() + 1e-3;
        assert!(is_near(estimator.slope, slope), "{labels:?}: {estimator:?}");
        for (&got, &expected) in estimator.intercepts.iter().zip(intercepts) {
            assert!(is_near(got, expected), "{labels:?}: {estimator:?}");
        }
    }

    #[test]
    fn first_confidences_of_hand_computed_odds() {
        let estimator = Estimator::new(2);
        // 0.5 * 0.4 - 0.2 = 0; 0.5 * ln 4 - 0.2 = 0.4931, 1 / (1 + exp(-0.4931)) = 0.6208.
        assert_eq!(estimator.confidence(0, 0.4), 0.5);
        assert!((estimator.confidence(1, 4f64.ln()) - 0.6208).abs() < 1e-4);
    }

    #[test]
    fn one_step_of_hand_computed_sums() {
        // p = 0.5, v = 0.25 throughout. Slope: gradient 0.5 * 2 + 0.5 * 2 = 2, information 0.25 * 8 = 2, step 1; the intercept's
        // gradient is 0. Two labels count 2 / 52.
        check(&[(0, 2.0, true), (0, -2.0, false)], 2.0 / 52.0, &[0.0]);
        // [1 0.5; 0.5 0.5] [s; b] = [1; 1]: s = 0, b = 2.
        check(&[(0, 2.0, true), (0, 0.0, true)], 0.0, &[2.0 * 2.0 / 52.0]);
        // The slope is shared; the second position has an intercept of its own, 0.5 / 0.25 = 2. Three labels count 3 / 53.
        check(&[(0, 2.0, true), (0, -2.0, false), (1, 0.0, true)], 3.0 / 53.0, &[0.0, 2.0 * 3.0 / 53.0]);
    }

    #[test]
    fn a_negative_slope_is_refused_and_the_intercepts_step_alone() {
        // [1.25 0.75; 0.75 0.5] [s; b] = [-0.5; 0] would give s = -4, b = 6; alone the intercept stays, its gradient is 0.
        check(&[(0, 2.0, false), (0, 1.0, true)], 0.0, &[0.0]);
        check(&[(0, 2.0, false), (0, -2.0, true), (1, 0.0, false)], 0.0, &[0.0, -2.0 * 3.0 / 53.0]);
    }

    #[test]
    fn what_was_not_tested_stays_and_what_was_noted_counts_once() {
        let mut estimator = Estimator::new(3);
        (0..100).for_each(|_| estimator.note(0, 1.0, false));
        estimator.fit();
        assert_eq!(estimator.intercepts[1..], [INTERCEPT_FIRST; 2]);
        let fitted = (estimator.slope, estimator.intercepts[0]);
        estimator.fit();
        assert_eq!((estimator.slope, estimator.intercepts[0]), fitted);
    }

    #[test]
    fn a_known_law_is_found_again() {
        // Accepted with probability sigma(0.8 z + 0.5) at the first position and sigma(0.8 z - 1) at the second; a linear
        // congruential generator decides.
        let mut estimator = Estimator::new(2);
        let mut noise = 1u64;
        for _ in 0..200 {
            for i in 0..400 {
                let (j, z) = (i % 2, f64::from(i as u32 % 17) / 4.0 - 1.0);
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = (noise >> 11) as f64 / (1u64 << 53) as f64;
                estimator.note(j, z, uniform < sigmoid(0.8 * z + [0.5, -1.0][j]));
            }
            estimator.fit();
        }
        let got = [estimator.slope, estimator.intercepts[0], estimator.intercepts[1]];
        let errors = [got[0] - 0.8, got[1] - 0.5, got[2] + 1.0];
        assert!(errors.iter().all(|error| error.abs() < 0.4), "{got:?}");
    }
}
