//! Online logistic regression of a handful of features.

/// Bound on every weight; keeps a separable stretch of labels from running away.
const WEIGHT_MAX: f64 = 8.0;

/// Probability of a yes/no outcome as a logistic function of `N` features, fitted as the labels come.
///
/// A damped Newton step at a time: `w <- w + d P^-1 g`, where `g = sum (y - p) x` is the gradient of the new labels and
/// `P <- m P + (1 - m) P0 + sum p (1 - p) x x^T` their information on top of the share `m` of the past that is kept. The
/// prior `P0` never leaves, so the step is bounded where nothing is known.
#[derive(Clone, Debug)]
pub struct Logistic<const N: usize> {
    weights: [f64; N],
    precision: [[f64; N]; N],
    /// Diagonal of `P0`.
    prior: [f64; N],
    gradient: [f64; N],
    information: [[f64; N]; N],
    n_new: f64,
}

impl<const N: usize> Logistic<N> {
    /// Starts at `weights`, each with the precision (1 / variance) of `prior`.
    pub fn new(weights: [f64; N], prior: [f64; N]) -> Self {
        let mut precision = [[0.0; N]; N];
        (0..N).for_each(|i| precision[i][i] = prior[i]);
        Self { weights, precision, prior, gradient: [0.0; N], information: [[0.0; N]; N], n_new: 0.0 }
    }

    /// Probability at these features, strictly between 0 and 1.
    pub fn predict(&self, features: &[f64; N]) -> f64 {
        sigmoid(self.log_odds(features))
    }

    /// Log-odds at these features.
    pub fn log_odds(&self, features: &[f64; N]) -> f64 {
        self.weights.iter().zip(features).map(|(w, x)| w * x).sum()
    }

    /// The weights in force.
    pub fn weights(&self) -> &[f64; N] {
        &self.weights
    }

    /// Standard deviation of a weight if the others are as they are.
    pub fn deviation(&self, feature: usize) -> f64 {
        self.precision[feature][feature].sqrt().recip()
    }

    /// Notes one label, a probability in `0..=1`; [`settle`](Self::settle) makes it count.
    pub fn note(&mut self, features: &[f64; N], predicted: f64, label: f64) {
        let variance = predicted * (1.0 - predicted);
        for i in 0..N {
            self.gradient[i] += (label - predicted) * features[i];
            for j in 0..=i {
                self.information[i][j] += variance * features[i] * features[j];
            }
        }
        self.n_new += 1.0;
    }

    /// Labels noted since the last Newton step.
    pub fn n_new(&self) -> f64 {
        self.n_new
    }

    /// Takes the Newton step over what was noted.
    ///
    /// * `kept`: share of the past's information that still counts, in `0..=1`.
    /// * `damping`: factor on the step, in `0..=1`.
    pub fn settle(&mut self, kept: f64, damping: f64) {
        for i in 0..N {
            for j in 0..=i {
                let prior = if i == j { (1.0 - kept) * self.prior[i] } else { 0.0 };
                self.precision[i][j] = kept * self.precision[i][j] + prior + self.information[i][j];
            }
        }
        if self.n_new > 0.0 {
            let step = solve(&self.precision, self.gradient);
            for (weight, step) in self.weights.iter_mut().zip(step) {
                *weight = (*weight + damping * step).clamp(-WEIGHT_MAX, WEIGHT_MAX);
            }
        }
        self.gradient = [0.0; N];
        self.information = [[0.0; N]; N];
        self.n_new = 0.0;
    }

    /// Raises one weight to zero if it is below.
    pub fn keep_non_negative(&mut self, feature: usize) {
        self.weights[feature] = self.weights[feature].max(0.0);
    }
}

/// `1 / (1 + e^-z)`, bounded away from 0 and 1.
pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z.clamp(-12.0, 12.0)).exp())
}

/// `ln(p / (1 - p))` within `-bound..=bound`; what is not a number counts as even odds.
pub fn logit(p: f64, bound: f64) -> f64 {
    if p.is_nan() {
        return 0.0;
    }
    let p = p.clamp(0.0, 1.0);
    (p / (1.0 - p)).ln().clamp(-bound, bound)
}

/// Solves `a x = b` for a symmetric positive definite `a`, given by its lower triangle (Cholesky).
fn solve<const N: usize>(a: &[[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    let mut l = [[0.0; N]; N];
    for i in 0..N {
        for j in 0..=i {
            let rest = a[i][j] - (0..j).map(|k| l[i][k] * l[j][k]).sum::<f64>();
            l[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / l[j][j] };
        }
    }
    for i in 0..N {
        let known: f64 = (0..i).map(|k| l[i][k] * b[k]).sum();
        b[i] = (b[i] - known) / l[i][i];
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|k| l[k][i] * b[k]).sum();
        b[i] = (b[i] - known) / l[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_of_hand_computed_solution() {
        // [4 2; 2 3] [1; -2] = [0; -4]
        let x = solve(&[[4.0, 0.0], [2.0, 3.0]], [0.0, -4.0]);
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] + 2.0).abs() < 1e-12, "{x:?}");
    }

    #[test]
    fn one_label_moves_the_weight_by_a_newton_step() {
        let mut model = Logistic::new([0.0], [4.0]);
        model.note(&[1.0], 0.5, 1.0);
        model.settle(1.0, 1.0);
        // Gradient 0.5; information 0.25 on top of a prior of 4, which never leaves.
        assert!((model.weights()[0] - 0.5 / 4.25).abs() < 1e-12, "{:?}", model.weights());
    }

    #[test]
    fn logits_are_bounded_and_survive_what_is_no_probability() {
        assert_eq!(logit(0.5, 8.0), 0.0);
        assert_eq!([0.0, 1.0, 7.0, -1.0].map(|p| logit(p, 6.0)), [-6.0, 6.0, 6.0, -6.0]);
        assert_eq!(logit(f64::NAN, 6.0), 0.0);
    }

    #[test]
    fn a_known_law_is_found_again() {
        // P(yes) = sigmoid(-0.5 + 1.5 x); labels are the probabilities themselves, x runs over -2..=2.
        let mut model = Logistic::new([0.0, 0.0], [4.0, 4.0]);
        for step in 0..2000 {
            let x = f64::from(step % 17) / 4.0 - 2.0;
            let features = [1.0, x];
            let predicted = model.predict(&features);
            model.note(&features, predicted, sigmoid(-0.5 + 1.5 * x));
            model.settle(0.999, 1.0);
        }
        let [bias, slope] = *model.weights();
        assert!((bias + 0.5).abs() < 0.05 && (slope - 1.5).abs() < 0.05, "{bias} {slope}");
    }
}
