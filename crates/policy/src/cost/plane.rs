//! Seconds of a pass as a plane over its rows and the positions that their sequences have stored.
//!
//! `seconds = intercept + a rows + b context` is how TurboSpec (arXiv:2406.14066) models a pass: attention reads every stored
//! key and value, so a pass over the same rows takes longer in longer contexts. The plane is fitted while serving, as a
//! [`CostLine`](super::CostLine) is, and promises as little: neither more rows nor longer contexts take less time.

use super::{MEMORY, SPREAD, SURE_AFTER, SURPRISE_MAX};

/// Rows and stored positions of a pass.
type Features = [f64; 2];

/// A plane through recent observations of rows, stored positions and seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CostPlane {
    n: u32,
    mean: Features,
    seconds_mean: f64,
    /// Variances of the features, and their covariance between them.
    spread: [f64; 3],
    /// Covariances of features and seconds.
    joint: Features,
    /// Never negative.
    slopes: Features,
}

impl CostPlane {
    /// Takes in one pass. Passes of less than a row, or over which the clock stood still, are ignored.
    ///
    /// Exponentially weighted least squares with the memory of a [`CostLine`](super::CostLine); each slope keeps its old value
    /// as far as its feature hardly varies.
    ///
    /// * `rows`: of the pass; means over rounds may be fractions.
    /// * `context`: positions stored by its sequences together.
    /// * `seconds`: that it took.
    pub fn learn(&mut self, rows: f64, context: f64, seconds: f64) {
        let is_usable = rows >= 1.0 && rows.is_finite() && context >= 0.0 && context.is_finite();
        if !is_usable || !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let seconds = self.bounded(rows, context, seconds);
        self.n = self.n.saturating_add(1);
        let gain = 1.0 / f64::from(self.n).min(MEMORY);
        let off = [rows - self.mean[0], context - self.mean[1]];
        let seconds_off = seconds - self.seconds_mean;
        self.seconds_mean += gain * seconds_off;
        let fade = |old: f64, new: f64| (1.0 - gain) * (old + gain * new);
        self.mean = [0, 1].map(|i| self.mean[i] + gain * off[i]);
        self.joint = [0, 1].map(|i| fade(self.joint[i], off[i] * seconds_off));
        let [rows_off, context_off] = off;
        let products = [rows_off * rows_off, rows_off * context_off, context_off * context_off];
        self.spread = [0, 1, 2].map(|i| fade(self.spread[i], products[i]));
        self.fit();
    }

    /// Expected seconds of a pass, `> 0` and falling in neither argument; `None` before the first observation.
    pub fn seconds(&self, rows: f64, context: f64) -> Option<f64> {
        if self.n == 0 {
            return None;
        }
        let [a, b] = self.slopes;
        let explained = a * self.mean[0] + b * self.mean[1];
        // A negative intercept turns the plane into the one through the origin and the mean.
        let scale = if explained > self.seconds_mean { self.seconds_mean / explained } else { 1.0 };
        let off = a * (rows - self.mean[0]) + b * (context - self.mean[1]);
        Some((self.seconds_mean + scale * off).max(f64::MIN_POSITIVE))
    }

    /// Solves for the slopes, each bounded below by 0.
    fn fit(&mut self) {
        let [rows_spread, both, context_spread] = self.spread;
        let ridge = self.mean.map(|mean| (SPREAD * mean).powi(2));
        let (a, b) = (rows_spread + ridge[0], context_spread + ridge[1]);
        let [rows_joint, context_joint] = [0, 1].map(|i| self.joint[i] + ridge[i] * self.slopes[i]);
        let alone = |joint: f64, spread: f64| if spread > 0.0 { (joint / spread).max(0.0) } else { 0.0 };
        let determinant = a * b - both * both;
        let slopes = [b * rows_joint - both * context_joint, a * context_joint - both * rows_joint]
            .map(|slope| slope / determinant);
        self.slopes = match slopes {
            [rows, context] if rows >= 0.0 && context >= 0.0 && determinant > 0.0 => [rows, context],
            [rows, _] if rows < 0.0 && determinant > 0.0 => [0.0, alone(context_joint, b)],
            _ => [alone(rows_joint, a), 0.0],
        };
    }

    /// The observation, moved to within a factor of what the fit expects.
    fn bounded(&self, rows: f64, context: f64, seconds: f64) -> f64 {
        match self.seconds(rows, context) {
            Some(expected) if self.n >= SURE_AFTER => {
                seconds.clamp(expected / SURPRISE_MAX, expected * SURPRISE_MAX)
            }
            _ => seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fitted(observations: impl IntoIterator<Item = (f64, f64, f64)>) -> CostPlane {
        let mut plane = CostPlane::default();
        observations.into_iter().for_each(|(rows, context, seconds)| plane.learn(rows, context, seconds));
        plane
    }

    /// Checks the expectation to within one percent.
    fn check(plane: &CostPlane, rows: f64, context: f64, expected: f64) {
        let got = plane.seconds(rows, context).unwrap();
        assert!(
            (got / expected - 1.0).abs() < 0.01,
            "{rows} rows, {context} stored: expected {expected}, got {got}"
        );
    }

    #[test]
    fn nothing_is_known_before_the_first_pass() {
        let broken = [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, f64::NAN, 1.0), (1.0, 1.0, 0.0)];
        assert_eq!(fitted(broken).seconds(1.0, 1.0), None);
    }

    #[test]
    fn rows_and_context_are_told_apart() {
        // 10 ms, 1 ms per row and 2 us per stored position, at 1 to 8 rows and up to 4000 positions.
        let seconds = |rows: f64, context: f64| 0.010 + 0.001 * rows + 2e-6 * context;
        let passes = (0..256).map(|i| (f64::from(1 + i % 8), f64::from(i * 7 % 41) * 100.0));
        let plane = fitted(passes.map(|(rows, context)| (rows, context, seconds(rows, context))));
        for (rows, context) in [(1.0, 0.0), (4.0, 1000.0), (8.0, 4000.0), (32.0, 8000.0)] {
            check(&plane, rows, context, seconds(rows, context));
        }
    }

    #[test]
    fn without_contexts_it_is_a_line() {
        // As in the test of the line: 0.15 s on average of 2 rows, 0.05 / 1.01 s per row.
        let plane = fitted([(1.0, 0.0, 0.1), (3.0, 0.0, 0.2)]);
        assert!((plane.seconds(3.0, 0.0).unwrap() - (0.15 + 0.05 / 1.01)).abs() < 1e-12);
    }

    #[test]
    fn a_context_that_never_varies_says_nothing() {
        let plane =
            fitted((0..64).map(|i| f64::from(1 + i % 8)).map(|rows| (rows, 500.0, 0.01 + 0.001 * rows)));
        check(&plane, 4.0, 500.0, 0.014);
        check(&plane, 4.0, 5000.0, 0.014);
    }

    #[test]
    fn a_slope_below_zero_counts_as_none() {
        let plane = fitted((0..64).map(|i| f64::from(1 + i % 8)).map(|rows| (rows, 100.0 * rows, 0.02)));
        check(&plane, 8.0, 800.0, 0.02);
        let falling =
            fitted((0..64).map(|i| f64::from(1 + i % 8)).map(|rows| (rows, 9.0, 0.02 - 0.001 * rows)));
        check(&falling, 1.0, 9.0, falling.seconds(8.0, 9.0).unwrap());
    }

    proptest! {
        #[test]
        fn expectations_are_positive_and_monotone(
            observations in prop::collection::vec((0.0f64..600.0, 0.0f64..1e5, 0.0f64..2.0), 1..200),
            (rows, context) in (0.0f64..1000.0, 0.0f64..2e5),
            (more_rows, more_context) in (0.0f64..1000.0, 0.0f64..2e5),
        ) {
            let plane = fitted(observations);
            let pair = plane.seconds(rows, context).zip(plane.seconds(rows + more_rows, context + more_context));
            if let Some((few, many)) = pair {
                prop_assert!(few > 0.0 && few.is_finite() && many.is_finite());
                prop_assert!(few <= many * (1.0 + 1e-9), "{} then {}", few, many);
            }
        }
    }
}
