//! Linear models of mean times: coefficients with the least relative error, in which an interrupted step is just a late one.

/// One measurement: what was there, and how long it took.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) features: Vec<f64>,
    pub(super) seconds: f64,
}

/// A time counts as at most so many times what its like take: throughput is made of means, and a machine that is slow for a while
/// belongs to them, but a step that something interrupted for seconds says nothing about its like.
const LATE: f64 = 3.0;
/// Passes of reweighting; what changes after a dozen is below what matters.
const PASSES: u32 = 15;
/// Weight of a coefficient's square, so that features which never occur get none.
const RIDGE: f64 = 1e-9;

/// Coefficients, one per feature.
///
/// * `bends`: triples of successive knots of a curve with their places, whose bend is held small where no sample says otherwise.
pub(super) fn fit(samples: &[Sample], bends: &[Bend], n_features: usize) -> Vec<f64> {
    let shortest = samples.iter().map(|sample| sample.seconds).fold(f64::INFINITY, f64::min);
    let mut coefficients = vec![0.0; n_features];
    // What each sample's like take; at first itself, so that late ones count little.
    let mut likes: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    for _ in 0..PASSES {
        let mut system = System::new(n_features);
        for (sample, like) in samples.iter().zip(&likes) {
            system.add(&sample.features, sample.seconds.min(LATE * like), like.powi(-2));
        }
        let scale = system.scale();
        for bend in bends {
            system.add(&bend.features(n_features), 0.0, BEND_WEIGHT * scale);
        }
        coefficients = system.solve();
        for (sample, like) in samples.iter().zip(&mut likes) {
            *like = predicted(&coefficients, &sample.features).max(shortest / LATE);
        }
    }
    coefficients
}

/// What the coefficients say.
pub(super) fn predicted(coefficients: &[f64], features: &[f64]) -> f64 {
    coefficients.iter().zip(features).map(|(c, x)| c * x).sum()
}

/// Of all samples' weight: enough to carry a curve over knots without samples, too little to bend one.
const BEND_WEIGHT: f64 = 1e-5;

/// Three successive knots of a curve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bend {
    pub(super) first: usize,
    pub(super) places: [f64; 3],
}

impl Bend {
    /// Difference of the slopes, in rows of the first gap.
    fn features(&self, n_features: usize) -> Vec<f64> {
        let [a, b, c] = self.places;
        let (left, right) = (1.0 / (b - a), 1.0 / (c - b));
        let mut features = vec![0.0; n_features];
        features[self.first] = left * (b - a);
        features[self.first + 1] = -(left + right) * (b - a);
        features[self.first + 2] = right * (b - a);
        features
    }
}

/// Normal equations.
struct System {
    n: usize,
    /// `[n, n + 1]`, the right side last.
    cells: Vec<f64>,
}

impl System {
    fn new(n: usize) -> Self {
        Self { n, cells: vec![0.0; n * (n + 1)] }
    }

    fn add(&mut self, features: &[f64], value: f64, weight: f64) {
        for (i, &x) in features.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            let row = &mut self.cells[i * (self.n + 1)..][..=self.n];
            for (cell, &y) in row.iter_mut().zip(features) {
                *cell += weight * x * y;
            }
            row[self.n] += weight * x * value;
        }
    }

    /// Mean of the diagonal.
    fn scale(&self) -> f64 {
        (0..self.n).map(|i| self.cells[i * (self.n + 1) + i]).sum::<f64>() / self.n as f64
    }

    /// Gaussian elimination with the largest pivot.
    fn solve(mut self) -> Vec<f64> {
        let (n, width) = (self.n, self.n + 1);
        for i in 0..n {
            let own = self.cells[i * width + i];
            self.cells[i * width + i] += RIDGE * own.max(f64::MIN_POSITIVE.sqrt());
        }
        for i in 0..n {
            let pivot = (i..n)
                .max_by(|&a, &b| self.cells[a * width + i].abs().total_cmp(&self.cells[b * width + i].abs()));
            let pivot = pivot.expect("there is a row");
            for column in 0..width {
                self.cells.swap(i * width + column, pivot * width + column);
            }
            let lead = self.cells[i * width + i];
            if lead == 0.0 {
                continue;
            }
            for row in i + 1..n {
                let factor = self.cells[row * width + i] / lead;
                for column in i..width {
                    self.cells[row * width + column] -= factor * self.cells[i * width + column];
                }
            }
        }
        let mut solution = vec![0.0; n];
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|j| self.cells[i * width + j] * solution[j]).sum();
            let lead = self.cells[i * width + i];
            solution[i] = if lead == 0.0 { 0.0 } else { (self.cells[i * width + n] - known) / lead };
        }
        solution
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 190 samples of a known model.
    fn known() -> (Vec<Sample>, [f64; 3]) {
        let coefficients = [3.0, 0.5, 0.25];
        let samples = (0..190).map(|i| {
            let features = vec![1.0, f64::from(i % 17), f64::from(i % 5)];
            Sample { seconds: predicted(&coefficients, &features), features }
        });
        (samples.collect(), coefficients)
    }

    #[test]
    fn coefficients_come_back() {
        let (samples, expected) = known();
        for (got, expected) in fit(&samples, &[], 3).iter().zip(expected) {
            assert!((got / expected - 1.0).abs() < 1e-6, "{got} for {expected}");
        }
    }

    #[test]
    fn an_interruption_is_a_late_step() {
        let (mut samples, expected) = known();
        samples.iter_mut().step_by(19).for_each(|sample| sample.seconds *= 1000.0);
        let got = fit(&samples, &[], 3);
        let total = |coefficients: &[f64]| -> f64 {
            samples.iter().map(|sample| predicted(coefficients, &sample.features)).sum()
        };
        // One of 19 counts three times what its like take: a mean of m is that of 18 times 1 and one of 3 m.
        let late = total(&got) / total(&expected);
        assert!((late / (18.0 / 16.0) - 1.0).abs() < 0.01, "{late}");
    }

    #[test]
    fn a_machine_of_two_speeds_costs_its_mean() {
        let samples: Vec<Sample> = (0..90)
            .map(|i| Sample { features: vec![1.0], seconds: if i % 3 == 0 { 2.0 } else { 1.0 } })
            .collect();
        assert!((fit(&samples, &[], 1)[0] - 4.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_feature_that_never_occurs_costs_nothing() {
        let samples: Vec<Sample> = (1..9)
            .map(|x| Sample { features: vec![f64::from(x), 0.0], seconds: 2.0 * f64::from(x) })
            .collect();
        let got = fit(&samples, &[], 2);
        assert!((got[0] - 2.0).abs() < 1e-6 && got[1] == 0.0, "{got:?}");
    }

    #[test]
    fn a_curve_goes_straight_over_knots_without_samples() {
        // Knots at 1, 2 and 4 with samples at the outer ones only.
        let bend = Bend { first: 0, places: [1.0, 2.0, 4.0] };
        let samples = [
            Sample { features: vec![1.0, 0.0, 0.0], seconds: 10.0 },
            Sample { features: vec![0.0, 0.0, 1.0], seconds: 16.0 },
        ];
        let got = fit(&samples, &[bend], 3);
        assert!((got[1] - 12.0).abs() < 0.01, "{got:?}");
    }
}
