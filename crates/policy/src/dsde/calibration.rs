//! The first tokens of a sequence: find out how far it can go, then fix its bounds.

use super::config::{Config, Variant};
use super::rule::Bounds;

/// Share of the ceiling below which the released variant does not go, as `1 / 10`.
const RELEASED_FLOOR_DIVISOR: u32 = 10;

/// Slow start of one sequence, and what it learns on the way.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// Of the slow start, tokens.
    len: u32,
    proposed: u32,
    accepted_max: u32,
    kld_sum: f64,
    kld_max: f64,
    n_klds: u32,
    /// Steps that the bounds are taken from.
    n_samples: u32,
}

impl Calibration {
    /// Starts at the configured initial length: the paper's variant within the configured bounds, the released one anywhere.
    pub fn new(config: &Config) -> Self {
        let len = match config.variant() {
            Variant::Paper => config.k_init().clamp(config.sl_min(), config.sl_max()),
            Variant::Released => config.k_init(),
        };
        Self { len, proposed: 0, accepted_max: 0, kld_sum: 0.0, kld_max: 0.0, n_klds: 0, n_samples: 0 }
    }

    /// Length of the next step, tokens; within the configured bounds from the second step on.
    pub fn next_len(&self, config: &Config) -> u32 {
        if self.proposed == 0 { self.len } else { self.len.clamp(config.sl_min(), config.sl_max()) }
    }

    /// Takes in a step. Bounds come from what all of them show, in the released variant without the one that ends the
    /// calibration.
    ///
    /// * `verified`, `accepted`: tokens; at least one was verified.
    /// * `klds`: divergences of the verified positions, nats; none if the drafter has no distribution.
    pub fn learn(
        &mut self,
        config: &Config,
        verified: u32,
        accepted: u32,
        klds: impl IntoIterator<Item = f32>,
    ) {
        self.proposed = self.proposed.saturating_add(verified);
        if self.is_done(config) && config.variant() == Variant::Released {
            return;
        }
        self.n_samples += 1;
        self.accepted_max = self.accepted_max.max(accepted);
        for kld in klds {
            let kld = f64::from(kld);
            self.kld_sum += kld;
            self.kld_max = self.kld_max.max(kld);
            self.n_klds += 1;
        }
        self.grow(config, accepted);
    }

    /// Doubles the length if the whole of it was accepted, and never shrinks it.
    ///
    /// A step that the engine clipped proves nothing about the full length and leaves it alone.
    fn grow(&mut self, config: &Config, accepted: u32) {
        self.len = if accepted >= self.len {
            (2 * self.len).min(config.sl_max())
        } else {
            self.len.max(config.sl_min())
        };
    }

    /// Whether enough tokens were proposed.
    pub fn is_done(&self, config: &Config) -> bool {
        self.proposed >= config.activation()
    }

    /// Floor and ceiling for the rest of the sequence's life.
    ///
    /// DSDE (arXiv:2509.01083), Eq. 1: `SL_max = A (1 + mean(KLD) / max(KLD))`, `A` being the most tokens accepted in one
    /// step. The released code weighs the ratio by 0.5 (`headroom`), raises the floor to a tenth of the ceiling, and keeps the
    /// configured bounds if the first step already ended the calibration.
    pub fn bounds(&self, config: &Config) -> Bounds {
        if self.n_samples == 0 {
            return Bounds { min: config.sl_min(), max: config.sl_max() };
        }
        let ratio =
            if self.kld_max > 0.0 { self.kld_sum / f64::from(self.n_klds) / self.kld_max } else { 0.0 };
        let ceiling = f64::from(self.accepted_max) * (1.0 + config.headroom() * ratio);
        let max = (ceiling.round_ties_even() as u32).clamp(config.sl_min(), config.sl_max());
        let min = match config.variant() {
            Variant::Paper => config.sl_min(),
            Variant::Released => config.sl_min().max(max.div_ceil(RELEASED_FLOOR_DIVISOR)),
        };
        Bounds { min, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `(verified, accepted)` steps and compares the length after each.
    fn check_lengths(parameters: &str, steps: &[(u32, u32)], expected: &[u32]) {
        let config = Config::of(parameters);
        let mut calibration = Calibration::new(&config);
        let lengths: Vec<u32> = steps
            .iter()
            .map(|&(verified, accepted)| {
                calibration.learn(&config, verified, accepted, []);
                calibration.next_len(&config)
            })
            .collect();
        assert_eq!(lengths, expected, "{parameters} {steps:?}");
    }

    #[test]
    fn slow_start_doubles_on_full_acceptance_and_never_shrinks() {
        check_lengths("sl_max=20", &[(5, 5), (10, 10), (20, 20)], &[10, 20, 20]);
        check_lengths("sl_max=20", &[(5, 4), (5, 0), (5, 5), (10, 9)], &[5, 5, 10, 10]);
    }

    #[test]
    fn a_clipped_step_does_not_double() {
        // The engine clipped 5 to 3: all accepted, yet nothing is known about 5.
        check_lengths("sl_max=20", &[(3, 3), (5, 5)], &[5, 10]);
    }

    #[test]
    fn slow_start_stays_within_the_configured_bounds() {
        // The initial 5 is moved to the floor of 6.
        check_lengths("sl_min=6", &[(6, 5), (6, 6), (12, 12)], &[6, 12, 20]);
        check_lengths("sl_max=4", &[(4, 4)], &[4]);
    }

    fn check_first(parameters: &str, expected: u32) {
        let config = Config::of(parameters);
        assert_eq!(Calibration::new(&config).next_len(&config), expected, "{parameters}");
    }

    #[test]
    fn the_first_released_length_is_not_moved_into_the_bounds() {
        check_first("variant=released", 5);
        check_first("variant=released,k_init=30", 30);
        check_first("sl_min=6", 6);
        check_first("k_init=30", 20);
        // From the second step on the floor of 6 holds: 5 doubled, 5 raised.
        check_lengths("variant=released", &[(5, 5), (10, 10)], &[10, 20]);
        check_lengths("variant=released", &[(5, 4), (6, 6)], &[6, 12]);
        // 2 doubled is 4, planned as 6; accepting those 6 doubles the 4, not the 6.
        check_lengths("variant=released,k_init=2", &[(2, 2), (6, 6)], &[6, 8]);
    }

    #[test]
    fn calibration_counts_proposed_tokens_not_steps() {
        let config = Config::of("activation=12");
        let mut calibration = Calibration::new(&config);
        let mut done = Vec::new();
        for _ in 0..3 {
            calibration.learn(&config, 5, 1, []);
            done.push(calibration.is_done(&config));
        }
        // 5, 10, 15 of 12.
        assert_eq!(done, [false, false, true]);
    }

    fn check_bounds(parameters: &str, accepted_max: u32, klds: &[f32], min: u32, max: u32) {
        let config = Config::of(parameters);
        let mut calibration = Calibration::new(&config);
        calibration.learn(&config, accepted_max, accepted_max, klds.iter().copied());
        let expected = Bounds { min, max };
        assert_eq!(calibration.bounds(&config), expected, "{parameters} {accepted_max} {klds:?}");
    }

    #[test]
    fn ceiling_grows_with_the_divergence_ratio() {
        // mean 0.25, max 0.5: 6 * 1.5 = 9
        check_bounds("variant=paper", 6, &[0.0, 0.25, 0.5], 2, 9);
        // 6 * (1 + 0.5 * 0.5) = 7.5, a tie, to the even 8
        check_bounds("variant=released", 6, &[0.0, 0.25, 0.5], 6, 8);
        // 10 * (1 + 0.5 * 0.5) = 12.5, a tie, to the even 12; a tenth of it is 2
        check_bounds("variant=released,sl_min=1", 10, &[0.0, 0.5], 2, 12);
        // All equal: 8 * 2 = 16
        check_bounds("variant=paper", 8, &[0.5, 0.5], 2, 16);
    }

    #[test]
    fn ceiling_stays_within_the_configured_bounds() {
        // 15 * 2 = 30
        check_bounds("variant=paper", 15, &[0.5, 0.5], 2, 20);
        // 0 * 2 = 0
        check_bounds("variant=paper", 0, &[0.5, 0.5], 2, 2);
    }

    #[test]
    fn ceiling_is_the_accepted_length_without_divergence() {
        check_bounds("variant=paper", 7, &[0.0, 0.0], 2, 7);
        check_bounds("variant=paper", 7, &[], 2, 7);
    }

    #[test]
    fn released_floor_is_a_tenth_of_the_ceiling() {
        // 20 * (1 + 0.5 * 1) = 30, of which a tenth is 3
        check_bounds("variant=released,sl_min=1,sl_max=40", 20, &[0.5], 3, 30);
        check_bounds("variant=paper,sl_min=1,sl_max=40", 20, &[0.5], 1, 40);
    }
    /// Two steps: one of 5 tokens, all accepted, without divergence, then one of 8 that ends the calibration after 12.
    fn check_last_step(variant: &str, expected: Bounds) {
        let config = Config::of(&format!("variant={variant},activation=12"));
        let mut calibration = Calibration::new(&config);
        calibration.learn(&config, 5, 5, [0.0; 5]);
        calibration.learn(&config, 8, 8, [0.5; 8]);
        assert!(calibration.is_done(&config));
        assert_eq!(calibration.bounds(&config), expected, "{variant}");
        assert_eq!(calibration.len, 10, "8 are not all of 10: {variant}");
    }

    #[test]
    fn the_released_bounds_leave_out_the_step_that_ends_the_calibration() {
        // 8 (1 + (4 / 13) / 0.5) = 12.9
        check_last_step("paper", Bounds { min: 2, max: 13 });
        // 5 (1 + 0), moved to the floor
        check_last_step("released", Bounds { min: 6, max: 6 });
    }

    #[test]
    fn a_single_released_step_that_ends_the_calibration_leaves_the_bounds_alone() {
        let config = Config::of("variant=released,activation=5");
        let mut calibration = Calibration::new(&config);
        calibration.learn(&config, 5, 1, [0.5; 5]);
        assert!(calibration.is_done(&config));
        assert_eq!(calibration.bounds(&config), Bounds { min: 6, max: 20 });
    }
}
