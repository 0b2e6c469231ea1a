//! GP-LCB: what each length emits as a Gaussian process, learnt from the one length that was verified in every step.
//!
//! The process belongs to one sequence and is about how far it departs from what everybody emits. Its domain is the lengths, so
//! inference is exact on a small matrix: conditioning on a step is one update of rank one, and nothing is kept of the step.

use crate::registry::LEN_MAX;

/// Standard deviation of a sequence's mean from everybody's, tokens per drafted token.
const AMPLITUDE: f64 = 0.25;

/// Distance of lengths over which departures are alike, tokens.
const LENGTH_SCALE: f64 = 3.0;

/// Standard deviation of a step from its mean, tokens per drafted token; accepted prefixes are anything from none to all.
const NOISE: f64 = 0.4;

/// What a departure keeps from step to step; the rest goes back to what is known of a new sequence.
const MEMORY: f64 = 0.99;

/// What is known of a new sequence: covariances of its departures, by length from 0.
#[derive(Clone, Debug)]
pub struct Prior {
    covariance: Vec<f64>,
    n: usize,
}

impl Prior {
    /// Squared exponential in the difference of the lengths, scaled by both.
    pub fn new(len_max: u32) -> Self {
        let n = len_max as usize + 1;
        let covariance = |i: usize| {
            let (a, b) = ((i / n) as f64, (i % n) as f64);
            AMPLITUDE.powi(2) * a * b * (-0.5 * ((a - b) / LENGTH_SCALE).powi(2)).exp()
        };
        Self { covariance: (0..n * n).map(covariance).collect(), n }
    }
}

/// What is known of the tokens that one sequence emits in a step, beyond what everybody does, by length from 0.
#[derive(Clone, Debug)]
pub struct Process {
    mean: Vec<f64>,
    covariance: Vec<f64>,
}

impl Process {
    /// Nothing was seen of the sequence.
    pub fn new(prior: &Prior) -> Self {
        Self { mean: vec![0.0; prior.n], covariance: prior.covariance.clone() }
    }

    /// Conditions on a step; lengths beyond the longest are ignored.
    ///
    /// Before it, mean and covariance fade towards the prior: `m <- c m`, `S <- K + c^2 (S - K)` with c = 0.99. Then
    /// `m <- m + g (departure - m_len)` and `S <- S - g S_len` with the gain `g = S_len / (S_len,len + noise^2)`.
    ///
    /// * `len`: tokens that were verified, at least 1: no draft says nothing.
    /// * `departure`: emitted tokens less those that everybody emits at this length.
    pub fn learn(&mut self, prior: &Prior, len: u32, departure: f64) {
        let (n, len) = (prior.n, len as usize);
        if len == 0 || len >= n {
            return;
        }
        let faded = |old: f64, prior: f64| prior + MEMORY * MEMORY * (old - prior);
        let mut row = [0.0; LEN_MAX as usize + 1];
        let olds = self.covariance[len * n..][..n].iter().zip(&prior.covariance[len * n..]);
        row.iter_mut().zip(olds).for_each(|(new, (&old, &prior))| *new = faded(old, prior));
        let row = &row[..n];
        let total = row[len] + (NOISE * len as f64).powi(2);
        let surprise = departure - MEMORY * self.mean[len];
        let rows = self.covariance.chunks_exact_mut(n).zip(prior.covariance.chunks_exact(n));
        for ((mean, &to_len), (covariances, priors)) in self.mean.iter_mut().zip(row).zip(rows) {
            let gain = to_len / total;
            *mean = MEMORY * *mean + gain * surprise;
            for ((covariance, &prior), &to_len) in covariances.iter_mut().zip(priors).zip(row) {
                *covariance = faded(*covariance, prior) - gain * to_len;
            }
        }
    }

    /// Upper confidence bounds of the tokens emitted by length from 0, each between 1 and its length plus 1.
    ///
    /// * `everyone`: tokens that everybody emits, by length from 0.
    /// * `beta`: standard deviations.
    pub fn optimistic(&self, everyone: &[f64], beta: f64) -> impl Iterator<Item = f64> {
        let variances = self.covariance.iter().step_by(self.mean.len() + 1);
        let bounds = everyone.iter().zip(&self.mean).zip(variances);
        bounds.zip(1..).map(move |(((everyone, mean), variance), most)| {
            (everyone + mean + beta * variance.max(0.0).sqrt()).clamp(1.0, f64::from(most))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-5, "expected {expected}, got {got}");
    }

    #[test]
    fn one_step_of_hand_computed_covariances() {
        // 0.25^2 = 0.0625; 4 * 0.0625 = 0.25; 2 * 0.0625 * exp(-1 / 18) = 0.118245.
        let prior = Prior::new(2);
        for (i, expected) in
            [0.0, 0.0, 0.0, 0.0, 0.0625, 0.118245, 0.0, 0.118245, 0.25].into_iter().enumerate()
        {
            check_near(prior.covariance[i], expected);
        }
        // Noise 0.8^2: gains 0.118245 / 0.89 and 0.25 / 0.89.
        let mut process = Process::new(&prior);
        process.learn(&prior, 2, 1.0);
        for (len, expected) in [0.0, 0.132860, 0.280899].into_iter().enumerate() {
            check_near(process.mean[len], expected);
        }
        // 0.0625 - 0.118245^2 / 0.89; 0.118245 (1 - 0.280899); 0.25 (1 - 0.280899).
        check_near(process.covariance[4], 0.046790);
        check_near(process.covariance[5], 0.085030);
        check_near(process.covariance[7], 0.085030);
        check_near(process.covariance[8], 0.179775);
        // Everybody emits 1, 1.7, 2.19: one standard deviation is 0.216310 and 0.424000.
        let bounds: Vec<f64> = process.optimistic(&[1.0, 1.7, 2.19], 1.0).collect();
        check_near(bounds[0], 1.0);
        check_near(bounds[1], 2.0);
        check_near(bounds[2], 2.894899);
        let means: Vec<f64> = process.optimistic(&[1.0, 1.7, 2.19], 0.0).collect();
        check_near(means[1], 1.832860);
        // A second step as expected: 0.99 * 0.280899 = 0.278090 stays, and the variance fades to 0.25 + 0.9801 * (0.179775 - 0.25)
        // = 0.181172 before 0.181172^2 / 0.821172 of it is taken.
        process.learn(&prior, 2, 0.278090);
        check_near(process.mean[2], 0.278090);
        check_near(process.covariance[8], 0.141201);
    }

    #[test]
    fn steps_that_say_nothing_change_nothing() {
        let prior = Prior::new(3);
        let mut process = Process::new(&prior);
        process.learn(&prior, 0, 1.0);
        process.learn(&prior, 4, 1.0);
        assert_eq!((process.mean, process.covariance), (vec![0.0; 4], prior.covariance));
    }

    #[test]
    fn what_is_learnt_at_one_length_says_less_of_others() {
        let prior = Prior::new(16);
        let mut process = Process::new(&prior);
        (0..200).for_each(|_| process.learn(&prior, 8, 4.0));
        // Relative to what the prior allows.
        let share = |len: usize| process.covariance[17 * len + len] / prior.covariance[17 * len + len];
        assert!(share(8) < share(7) && share(7) < share(4) && share(4) < share(1));
        assert!(share(8) < 0.3 && share(16) > 0.9);
        assert!(process.mean[8] > 3.0 && process.mean[16] < process.mean[8]);
    }

    #[test]
    fn no_history_makes_numbers_that_are_none() {
        let prior = Prior::new(LEN_MAX);
        let mut process = Process::new(&prior);
        let everyone = vec![1.0; prior.n];
        for i in 0..5000u32 {
            let len = 1 + (i * 37) % LEN_MAX;
            process.learn(&prior, len, f64::from(i % 2 * len) - 1.0);
        }
        for (bound, most) in process.optimistic(&everyone, 10.0).zip(1..) {
            assert!((1.0..=f64::from(most)).contains(&bound), "{bound}");
        }
        let variances = process.covariance.iter().step_by(prior.n + 1);
        assert!(variances.clone().all(|&variance| variance > -1e-9), "{variances:?}");
    }
}
