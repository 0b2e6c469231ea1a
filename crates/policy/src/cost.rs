//! What a step costs, learnt from steps: seconds of a pass as a straight line over its rows.
//!
//! The line is fitted while serving, by least squares over the recent past, so that no profile is needed. It has no feature for
//! the stored context: that changes slowly against the memory of the fit and so moves the intercept, which every length
//! shares. Where contexts change faster than that, [`plane`] has one.
//!
//! A line serves both sides of the evidence. Between and beyond what was seen it answers by the nearest trend, and it never
//! promises that more rows take less time: a fitted slope below zero counts as zero, an intercept below zero turns the line
//! into the ray from the origin through the mean.
//!
//! On a mixture of experts a pass also reads what its rows wake, which is no straight line over them: [`experts`].
//!
//! What the fit deliberately lacks: steps. The time of a real pass may jump where a kernel changes its tile or a captured
//! graph its size; a line averages over the jump. [`curve`] has them.

pub mod curve;
pub mod experts;
pub mod plane;

/// Observations that the fit remembers, about; two or three decisions' worth.
const MEMORY: f64 = 64.0;

/// Share of the mean rows by which they must vary before the old slope gives way: the fit behaves as if the old slope had
/// been confirmed by observations that far apart.
const SPREAD: f64 = 0.05;

/// Factor by which one observation may miss the fit; what misses it by more counts as that. A step that was interrupted by
/// the machine takes many times its time, and a lasting change still gets through, a factor per observation.
const SURPRISE_MAX: f64 = 4.0;

/// Observations after which surprises are bounded; before, there is no fit to measure them with.
const SURE_AFTER: u32 = 8;

/// A line through recent observations of rows and seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CostLine {
    n: u32,
    rows_mean: f64,
    seconds_mean: f64,
    /// Variance of the rows.
    spread: f64,
    /// Covariance of rows and seconds.
    joint: f64,
    slope: f64,
}

impl CostLine {
    /// Takes in one pass. Passes of less than a row, or over which the clock stood still, are ignored.
    ///
    /// Exponentially weighted least squares: weight of the past `1 - 1 / n` for the first 64 observations, then constant.
    /// The slope is `(joint + r slope) / (spread + r)` with `r = (0.05 rows_mean)^2`, which keeps the old slope where the
    /// rows hardly vary.
    ///
    /// * `rows`: of the pass; means over rounds may be fractions.
    /// * `seconds`: that it took.
    pub fn learn(&mut self, rows: f64, seconds: f64) {
        let is_usable = rows >= 1.0 && seconds > 0.0 && rows.is_finite() && seconds.is_finite();
        if !is_usable {
            return;
        }
        let seconds = self.bounded(rows, seconds);
        self.n = self.n.saturating_add(1);
        let gain = 1.0 / f64::from(self.n).min(MEMORY);
        let (rows_off, seconds_off) = (rows - self.rows_mean, seconds - self.seconds_mean);
        self.rows_mean += gain * rows_off;
        self.seconds_mean += gain * seconds_off;
        self.spread = (1.0 - gain) * (self.spread + gain * rows_off * rows_off);
        self.joint = (1.0 - gain) * (self.joint + gain * rows_off * seconds_off);
        let ridge = (SPREAD * self.rows_mean).powi(2);
        self.slope = (self.joint + ridge * self.slope) / (self.spread + ridge);
    }

    /// Expected seconds of a pass over `rows` rows, `> 0` and never falling in them; `None` before the first observation.
    pub fn seconds(&self, rows: f64) -> Option<f64> {
        if self.n == 0 {
            return None;
        }
        let slope = self.slope.clamp(0.0, self.seconds_mean / self.rows_mean);
        let seconds = self.seconds_mean + slope * (rows - self.rows_mean);
        Some(seconds.max(f64::MIN_POSITIVE))
    }

    /// The observation, moved to within a factor of what the fit expects.
    fn bounded(&self, rows: f64, seconds: f64) -> f64 {
        match self.seconds(rows) {
            Some(expected) if self.n >= SURE_AFTER => {
                seconds.clamp(expected / SURPRISE_MAX, expected * SURPRISE_MAX)
            }
            _ => seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fitted(observations: &[(f64, f64)]) -> CostLine {
        let mut line = CostLine::default();
        for &(rows, seconds) in observations {
            line.learn(rows, seconds);
        }
        line
    }

    /// Checks the expectation to within one percent.
    fn check(line: &CostLine, rows: f64, expected: f64) {
        let got = line.seconds(rows).unwrap();
        assert!((got / expected - 1.0).abs() < 0.01, "{rows} rows: expected {expected}, got {got}");
    }

    #[test]
    fn nothing_is_known_before_the_first_pass() {
        assert_eq!(CostLine::default().seconds(1.0), None);
        assert_eq!(
            fitted(&[(0.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)]).seconds(1.0),
            None
        );
    }

    #[test]
    fn two_passes_of_hand_computed_weights() {
        // Means 2 and 0.15; spread (1 - 1/2) (0 + 1/2 * 2^2) = 1, joint 1/2 * 1/2 * 2 * 0.1 = 0.05; ridge (0.05 * 2)^2 = 0.01.
        // Slope (0.05 + 0) / 1.01; at 3 rows 0.15 + 0.0495 = 0.1995.
        let line = fitted(&[(1.0, 0.1), (3.0, 0.2)]);
        assert!((line.seconds(3.0).unwrap() - (0.15 + 0.05 / 1.01)).abs() < 1e-12);
    }

    #[test]
    fn a_line_is_found_and_continued() {
        // 10 ms and 1 ms per row, seen at 1 to 8 rows.
        let line =
            fitted(&(0..64).map(|i| f64::from(1 + i % 8)).map(|r| (r, 0.01 + 0.001 * r)).collect::<Vec<_>>());
        for rows in [1.0, 4.5, 8.0, 64.0] {
            check(&line, rows, 0.01 + 0.001 * rows);
        }
    }

    #[test]
    fn one_size_alone_says_nothing_about_others() {
        let line = fitted(&[(4.0, 0.02); 20]);
        check(&line, 1.0, 0.02);
        check(&line, 400.0, 0.02);
    }

    #[test]
    fn the_slope_outlives_a_long_time_of_equal_rows() {
        let mut line =
            fitted(&(0..40).map(|i| f64::from(1 + i % 8)).map(|r| (r, 0.01 + 0.001 * r)).collect::<Vec<_>>());
        (0..1000).for_each(|_| line.learn(4.0, 0.014));
        check(&line, 4.0, 0.014);
        check(&line, 24.0, 0.034);
    }

    #[test]
    fn more_rows_never_take_less_time() {
        // Falling: the slope counts as 0, the mean remains.
        let falling = fitted(&[(1.0, 0.03), (2.0, 0.02), (3.0, 0.01)]);
        check(&falling, 1.0, 0.02);
        check(&falling, 9.0, 0.02);
        // Steeper than the origin allows: 3 ms at 2 rows on average, 1.5 ms per row.
        let steep = fitted(
            &(0..30).map(|i| f64::from(1 + i % 3)).map(|r| (r, 0.003 * r - 0.0029)).collect::<Vec<_>>(),
        );
        check(&steep, 4.0, 2.0 * steep.seconds(2.0).unwrap());
    }

    #[test]
    fn one_interrupted_pass_moves_the_fit_little() {
        let mut line = fitted(&[(4.0, 0.01); 64]);
        line.learn(4.0, 10.0);
        // It counts as 40 ms with weight 1/64: 10 ms + 30 / 64.
        assert!((line.seconds(4.0).unwrap() - (0.01 + 0.03 / 64.0)).abs() < 1e-12);
    }

    #[test]
    fn a_lasting_change_gets_through() {
        let mut line = fitted(&[(4.0, 0.001); 64]);
        (0..500).for_each(|_| line.learn(4.0, 0.1));
        check(&line, 4.0, 0.1);
    }

    proptest! {
        #[test]
        fn expectations_are_positive_and_monotone(
            observations in prop::collection::vec((0.0f64..600.0, 0.0f64..2.0), 1..200),
            rows in 0.0f64..1000.0,
            more in 0.0f64..1000.0,
        ) {
            let line = fitted(&observations);
            if let (Some(few), Some(many)) = (line.seconds(rows), line.seconds(rows + more)) {
                prop_assert!(few > 0.0 && few.is_finite() && many.is_finite());
                prop_assert!(few <= many * (1.0 + 1e-9), "{} rows {}, {} more {}", rows, few, more, many);
            }
        }
    }
}
