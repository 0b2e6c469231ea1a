//! What stored positions cost: a pass over the same rows takes longer in longer contexts.
//!
//! The first row of a sequence brings in all of its keys and values; every further row attends to them once more. So a pass
//! takes `a C + b D` on top of what its rows take, with `C` the positions stored by its sequences and `D` the same
//! counted once per draft row. TurboSpec (arXiv:2406.14066) has one such term, over `C`; where rows are verified, the second one
//! decides how dear a draft is in a long context.
//!
//! Both prices are fitted within passes of one kind and size, whose times differ for no other reason than their contexts:
//! covariances around the group's own means, summed over all groups. Neither is believed beyond what the noise of the timings
//! allows: `a` counts less two standard errors, and `b` is half of it as far as nothing else is sure. While contexts say nothing
//! both are 0, and the time of a size has it all.

use crate::cost::curve::{Attended, N_SIZES, attending, size_of};

/// Passes of a group, and of all groups, that are remembered, about.
const MEMORY_OF_GROUP: f64 = 64.0;
const MEMORY: f64 = 512.0;

/// Noise that timings have at least, as a share of them: a few passes that agree by chance prove nothing.
const NOISE_MIN: f64 = 0.05;

/// Standard errors by which the price is thought lower than it seems.
const DOUBT: f64 = 2.0;

/// Share of a first row's price that a draft row is thought to have, within a standard error: keys and values that come from
/// memory once are attended to twice in about one and a half times the time.
const ALIKE: f64 = 0.5;

/// Factor by which a pass may miss what is expected of it; what misses it by more counts as that.
const SURPRISE_MAX: f64 = 2.0;

/// Means of passes of one kind and size.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    n: f64,
    attended: Attended,
    seconds: f64,
}

/// Seconds per attended position, learnt from passes.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// Plain passes and speculating ones, by size.
    groups: Box<[[Group; N_SIZES]; 2]>,
    n: f64,
    /// Within groups: variances of the two, their covariance between them, and their covariances with seconds.
    spread: [f64; 3],
    joint: Attended,
    /// Variance of what the prices do not explain.
    noise: f64,
    /// Mean of all passes.
    seconds: f64,
    /// `0 <= prices[1] <= prices[0]`.
    prices: Attended,
}

impl Default for Attention {
    fn default() -> Self {
        Self {
            groups: Box::new([[Group::default(); N_SIZES]; 2]),
            n: 0.0,
            spread: [0.0; 3],
            joint: [0.0; 2],
            noise: 0.0,
            seconds: 0.0,
            prices: [0.0; 2],
        }
    }
}

impl Attention {
    /// Seconds that attending to so many positions takes beyond what the rows take.
    pub(super) fn seconds(&self, attended: Attended) -> f64 {
        attending(self.prices, attended)
    }

    /// Seconds per position attended by first rows, and by draft rows.
    pub(super) fn prices(&self) -> Attended {
        self.prices
    }

    /// Takes in a pass of decoding sequences alone; one over which the clock stood still is ignored.
    ///
    /// * `rows`: of the pass.
    pub(super) fn learn(&mut self, is_plain: bool, rows: u32, attended: Attended, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let prices = self.prices;
        let group = &mut self.groups[usize::from(!is_plain)][size_of(rows)];
        let off = [0, 1].map(|i| attended[i] - group.attended[i]);
        let expected = group.seconds + attending(prices, off);
        let is_bounded = group.n > 0.0 && expected > 0.0;
        let seconds = if is_bounded {
            seconds.clamp(expected / SURPRISE_MAX, expected * SURPRISE_MAX)
        } else {
            seconds
        };
        let seconds_off = seconds - group.seconds;
        group.n = (group.n + 1.0).min(MEMORY_OF_GROUP);
        let gain = 1.0 / group.n;
        group.seconds += gain * seconds_off;
        group.attended = [0, 1].map(|i| group.attended[i] + gain * off[i]);
        // The first pass of a group says nothing of differences.
        let evidence = 1.0 - gain;
        self.n = (self.n + 1.0).min(MEMORY);
        let fade = |old: f64, new: f64| old + (evidence * new - old) / self.n;
        self.spread = [
            fade(self.spread[0], off[0] * off[0]),
            fade(self.spread[1], off[0] * off[1]),
            fade(self.spread[2], off[1] * off[1]),
        ];
        self.joint = [fade(self.joint[0], off[0] * seconds_off), fade(self.joint[1], off[1] * seconds_off)];
        self.seconds += (seconds - self.seconds) / self.n;
        let unexplained = seconds_off - attending(prices, off);
        self.noise = fade(self.noise, unexplained * unexplained);
        self.fit();
    }

    /// Estimates the prices: what first rows cost if draft rows cost their usual share of it, then by how much that share is off.
    fn fit(&mut self) {
        let [first, both, further] = self.spread;
        // Of `C + ALIKE D`; its covariances with `D` and with seconds.
        let all = first + ALIKE * (2.0 * both + ALIKE * further);
        let (with_further, with_seconds) = (both + ALIKE * further, self.joint[0] + ALIKE * self.joint[1]);
        if all <= 0.0 {
            return;
        }
        let noise = self.noise + (NOISE_MIN * self.seconds).powi(2);
        let error = |spread: f64| (noise / (self.n * spread)).sqrt();
        // What is left of `D` when the sum is known.
        let own = further - with_further * with_further / all;
        let off = match own > 0.0 {
            true => {
                let off = (self.joint[1] - with_seconds / all * with_further) / own;
                off.signum() * (off.abs() - error(own)).max(0.0)
            }
            false => 0.0,
        };
        let price = ((with_seconds - off * with_further) / all - DOUBT * error(all)).max(0.0);
        self.prices = [price, (ALIKE * price + off).clamp(0.0, price)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of one sequence that stored `context` positions and drafted `drafts`; a row takes 1 ms.
    fn learn(attention: &mut Attention, context: f64, drafts: u32, prices: Attended) {
        let attended = [context, context * f64::from(drafts)];
        let seconds = 0.010 + 0.001 * f64::from(drafts) + prices[0] * attended[0] + prices[1] * attended[1];
        attention.learn(drafts == 0, 1 + drafts, attended, seconds);
    }

    /// Steps in which contexts go up and down between 100 and 4100, and drafts between 0 and 3.
    fn learnt(prices: Attended) -> Attention {
        let mut attention = Attention::default();
        for i in 0..800 {
            learn(&mut attention, 100.0 + 100.0 * f64::from(i * 7 % 41), i as u32 % 4, prices);
        }
        attention
    }

    /// Checks the prices to within a tenth: they are thought a little lower than they seem.
    fn check(attention: &Attention, expected: Attended) {
        let prices = attention.prices;
        let is_near = |i: usize| (prices[i] - expected[i]).abs() <= 0.1 * expected[i];
        assert!(is_near(0) && is_near(1), "{prices:?}, expected {expected:?}");
    }

    #[test]
    fn both_prices_are_told_apart_from_what_rows_take() {
        check(&learnt([3e-6, 2e-6]), [3e-6, 2e-6]);
        check(&learnt([3e-6, 0.4e-6]), [3e-6, 0.4e-6]);
        check(&learnt([0.0, 0.0]), [0.0, 0.0]);
    }

    #[test]
    fn a_further_row_is_not_thought_dearer_than_the_first() {
        let attention = learnt([1e-6, 2e-6]);
        let [first, further] = attention.prices;
        assert!(first == further && (1e-6..2e-6).contains(&first), "{:?}", attention.prices);
    }

    #[test]
    fn contexts_that_do_not_vary_say_nothing() {
        let mut attention = Attention::default();
        (0..200).for_each(|i| learn(&mut attention, 4000.0, i % 4, [3e-6, 2e-6]));
        check(&attention, [0.0, 0.0]);
        // Nor do they unlearn.
        let mut attention = learnt([3e-6, 2e-6]);
        (0..200).for_each(|i| learn(&mut attention, 4000.0, i % 4, [3e-6, 2e-6]));
        check(&attention, [3e-6, 2e-6]);
    }

    #[test]
    fn one_interrupted_pass_is_bounded() {
        let mut attention = learnt([3e-6, 2e-6]);
        // 22 ms were expected, and 5 s are heard as 44.
        attention.learn(true, 1, [4000.0, 0.0], 5.0);
        check(&attention, [3e-6, 2e-6]);
    }
}
