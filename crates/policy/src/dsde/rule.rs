//! The three equations that turn a history of divergences into a length.

use crate::window::Window;

/// Largest possible divergence, nats: `ln(1 / 1e-8)`, since probabilities are clamped below at 1e-8 before they are compared.
pub const KLD_MAX: f32 = 18.420_681;

/// Long-run variance, nats squared, under which the ratio is not computed; from the authors' released code.
const VARIANCE_MIN: f64 = 1e-6;

/// Ratio that stands for a vanishing long-run variance; from the authors' released code.
const WVIR_SATURATED: f64 = 20.0;

/// Floor and ceiling of a settled sequence, tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// SL_min, at least 1.
    pub min: u32,
    /// SL_max, at least `min`.
    pub max: u32,
}

/// How bad the draft was in the last step (SF): 0 for a perfect one, 1 at `ln(2) / 2 = 0.347` nats.
///
/// DSDE (arXiv:2509.01083), Eq. 3: `exp(2 mean(KLD)) - 1`.
///
/// * `kld_mean`: nats, `>= 0`.
/// * Returns a finite number `>= 0`, without unit.
pub fn scale_factor(kld_mean: f64) -> f64 {
    // The bound keeps 0 * infinity out of Eq. 8 when a small temperature has blown the mean up.
    (2.0 * kld_mean).exp_m1().min(f64::MAX)
}

/// Ratio of recent to long-run volatility of the divergences (WVIR); large means the draft became unreliable.
///
/// DSDE (arXiv:2509.01083), Eq. 4: `Var_w(last short) / Var_w(last long)`, weights `decay^age`, newest age 0.
///
/// * `klds`: nats.
/// * `short`, `long`: values that count as recent and as long-run.
/// * Returns a ratio `>= 0`, without unit; `0.0` below two values.
///
/// Deviation: a long-run variance under 1e-6 gives 20; the formula alone would be 0 / 0.
pub fn wvir(klds: &Window, short: usize, long: usize, decay: f64) -> f64 {
    if klds.len() < 2 {
        return 0.0;
    }
    let long_run = klds.variance(long, decay);
    if long_run < VARIANCE_MIN {
        return WVIR_SATURATED;
    }
    klds.variance(short, decay) / long_run
}

/// Length between floor and ceiling, tokens, rounded up.
///
/// DSDE (arXiv:2509.01083), Eq. 8: `(1 - x) (SL_max - SL_min) + SL_min` for `x <= 1`, else `SL_min`.
///
/// * `instability`: the product `x` of scale factor and WVIR, `>= 0`.
pub fn length(bounds: Bounds, instability: f64) -> u32 {
    if instability > 1.0 {
        return bounds.min;
    }
    let headroom = f64::from(bounds.max - bounds.min);
    // At most `max`: the factor is at most 1 and whole numbers of this size are exact.
    ((1.0 - instability) * headroom + f64::from(bounds.min)).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_factor_of_known_divergences() {
        let cases = [
            (0.0, 0.0, 0.0),
            // exp(0.1) = 1.105171
            (0.05, 0.105171, 5e-7),
            // exp(0.2) = 1.221403
            (0.10, 0.221403, 5e-7),
            // exp(0.4) = 1.491825
            (0.20, 0.491825, 5e-7),
            // exp(0.6) = 1.822119
            (0.30, 0.822119, 5e-7),
            // exp(ln 2) = 2
            (std::f64::consts::LN_2 / 2.0, 1.0, 1e-15),
        ];
        for (kld_mean, expected, tolerance) in cases {
            let got = scale_factor(kld_mean);
            assert!((got - expected).abs() <= tolerance, "{kld_mean}: expected {expected}, got {got}");
        }
    }

    #[test]
    fn scale_factor_stays_finite() {
        assert_eq!(scale_factor(1e9), f64::MAX);
    }

    fn window(values: &[f32]) -> Window {
        let mut window = Window::new(values.len().max(1));
        values.iter().for_each(|&value| window.push(value));
        window
    }

    /// * `decay`: weight of one step of age; the short window holds 2 values, the long one 4.
    fn check_wvir(klds: &[f32], decay: f64, expected: f64) {
        let got = wvir(&window(klds), 2, 4, decay);
        assert!(
            (got - expected).abs() < 1e-12,
            "{klds:?} with decay {decay}: expected {expected}, got {got}"
        );
    }

    #[test]
    fn wvir_is_zero_below_two_values() {
        check_wvir(&[], 0.5, 0.0);
        check_wvir(&[1.0], 0.5, 0.0);
    }

    #[test]
    fn wvir_saturates_without_long_run_variance() {
        check_wvir(&[0.5; 4], 0.85, 20.0);
        // Fluctuation of 1e-4 around 1.0001: variance 1e-8, below the guard of 1e-6.
        check_wvir(&[1.0, 1.0002, 1.0, 1.0002], 1.0, 20.0);
    }

    #[test]
    fn wvir_of_a_spike() {
        // Fresh, decay 1. Short: 0, 4, mean 2, variance 4. Long: 0, 0, 0, 4, mean 1, (3 * 1 + 9) / 4 = 3. Ratio 4/3.
        check_wvir(&[0.0, 0.0, 0.0, 4.0], 1.0, 4.0 / 3.0);
        // Three positions later. Short: 0, 0, variance 0; long still 3.
        check_wvir(&[4.0, 0.0, 0.0, 0.0], 1.0, 0.0);
        // Fresh, decay 1/2: weights 1, 1/2, 1/4, 1/8 on 4, 0, 0, 0 (newest first).
        // Short: mean 4 / 1.5 = 8/3, variance ((4/3)^2 + (8/3)^2 / 2) / 1.5 = 32/9.
        // Long: weights sum to 15/8, mean 32/15, squares (28/15)^2 + (32/15)^2 * 7/8 = (784 + 896) / 225 = 112/15,
        // variance 112/15 * 8/15 = 896/225. Ratio 32/9 * 225/896 = 25/28.
        check_wvir(&[0.0, 0.0, 0.0, 4.0], 0.5, 25.0 / 28.0);
    }

    #[test]
    fn length_between_floor_and_ceiling() {
        let cases = [
            // (floor, ceiling, instability, length)
            (2, 10, 0.0, 10),
            // (1 - 0.5) * 8 + 2 = 6
            (2, 10, 0.5, 6),
            // (1 - 0.4) * 8 + 2 = 6.8
            (2, 10, 0.4, 7),
            // 0.001 * 8 + 2 = 2.008
            (2, 10, 0.999, 3),
            (2, 10, 1.0, 2),
            (2, 10, 1.001, 2),
            (2, 10, f64::INFINITY, 2),
            (6, 6, 0.3, 6),
        ];
        for (min, max, instability, expected) in cases {
            let got = length(Bounds { min, max }, instability);
            assert_eq!(got, expected, "{min}..={max} at {instability}");
        }
    }
}
