//! The recent past of one number, and how much it fluctuated.

/// Ring of the most recent values; the oldest makes room for the newest.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    values: Vec<f32>,
    capacity: usize,
    /// Where the next value goes.
    next: usize,
}

impl Window {
    /// An empty window.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a window holds at least one value");
        Self { values: Vec::new(), capacity, next: 0 }
    }

    /// Appends the newest value.
    pub fn push(&mut self, value: f32) {
        if self.values.len() < self.capacity {
            self.values.push(value);
        } else {
            self.values[self.next] = value;
        }
        self.next = (self.next + 1) % self.capacity;
    }

    /// Values held, at most the capacity.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = f32> + '_ {
        // While the ring is filling up, `next` is its length (or 0 once just full) and one of the halves is empty.
        let (newer, older) = self.values.split_at(self.next);
        newer.iter().rev().chain(older.iter().rev()).copied()
    }

    /// Exponentially weighted variance of the `n` newest values, or of all if there are fewer.
    ///
    /// With weights `w = decay^age`, age 0 for the newest: `m = sum(w x) / sum(w)`, variance `sum(w (x - m)^2) / sum(w)`.
    /// Biased: no correction for the sample size. The second pass over the values keeps it from cancelling to a negative
    /// number. DSDE (arXiv:2509.01083), the `Var_w` of Eq. 4.
    ///
    /// * `decay`: in `(0, 1]`; 1 weighs all alike.
    /// * Returns the square of the values' unit, `>= 0`; `0.0` without values.
    pub fn variance(&self, n: usize, decay: f64) -> f64 {
        let (mut total, mut sum, mut weight) = (0.0, 0.0, 1.0);
        for value in self.newest_first().take(n) {
            total += weight;
            sum += weight * f64::from(value);
            weight *= decay;
        }
        if total == 0.0 {
            return 0.0;
        }
        let mean = sum / total;
        let (mut squares, mut weight) = (0.0, 1.0);
        for value in self.newest_first().take(n) {
            let deviation = f64::from(value) - mean;
            squares += weight * deviation * deviation;
            weight *= decay;
        }
        squares / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(capacity: usize, values: &[f32]) -> Window {
        let mut window = Window::new(capacity);
        for &value in values {
            window.push(value);
        }
        window
    }

    #[test]
    fn keeps_the_newest_values_newest_first() {
        let cases: [(usize, &[f32], &[f32]); 5] = [
            (3, &[], &[]),
            (3, &[1.0, 2.0], &[2.0, 1.0]),
            (3, &[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]),
            (3, &[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 4.0, 3.0]),
            (1, &[1.0, 2.0], &[2.0]),
        ];
        for (capacity, pushed, expected) in cases {
            let window = window(capacity, pushed);
            let got: Vec<f32> = window.newest_first().collect();
            assert_eq!(got, expected, "capacity {capacity}, pushed {pushed:?}");
            assert_eq!(window.len(), expected.len());
            assert_eq!(window.is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn variance_of_hand_computed_histories() {
        let cases: [(&[f32], usize, f64, f64); 7] = [
            (&[], 10, 0.5, 0.0),
            (&[3.0], 10, 0.5, 0.0),
            (&[2.0, 2.0, 2.0], 10, 0.5, 0.0),
            // Plain variance of 1, 2, 3: mean 2, (1 + 0 + 1) / 3.
            (&[1.0, 2.0, 3.0], 10, 1.0, 2.0 / 3.0),
            // Newest first 4, 0 with weights 1, 1/2: mean 4 / 1.5 = 8/3;
            // (1 * (4/3)^2 + 1/2 * (8/3)^2) / 1.5 = (16/9 + 32/9) / 1.5 = 32/9.
            (&[0.0, 4.0], 10, 0.5, 32.0 / 9.0),
            // The same two values the other way round: mean 0.5 * 4 / 1.5 = 4/3;
            // (1 * (4/3)^2 + 1/2 * (8/3)^2) / 1.5 = 32/9 again, since the two weights of a pair only exchange sides.
            (&[4.0, 0.0], 10, 0.5, 32.0 / 9.0),
            // Only the two newest of three count: 4, 0 as above.
            (&[100.0, 0.0, 4.0], 2, 0.5, 32.0 / 9.0),
        ];
        for (values, n, decay, expected) in cases {
            let got = window(8, values).variance(n, decay);
            assert!(
                (got - expected).abs() < 1e-12,
                "{values:?}, n {n}, decay {decay}: expected {expected}, got {got}"
            );
        }
    }

    #[test]
    fn variance_does_not_cancel_when_the_mean_is_large() {
        // 4096, 4097 are exact in f32: variance 1/4 although the squares are 2^24.
        assert_eq!(window(4, &[4096.0, 4097.0]).variance(4, 1.0), 0.25);
    }

    /// The definition, with explicit powers over the whole history.
    fn variance_naive(values: &[f32], n: usize, decay: f64) -> f64 {
        let recent = &values[values.len().saturating_sub(n)..];
        let weights: Vec<f64> =
            (0..recent.len()).map(|i| decay.powi((recent.len() - 1 - i) as i32)).collect();
        let total: f64 = weights.iter().sum();
        if recent.is_empty() {
            return 0.0;
        }
        let weighted = |f: &dyn Fn(f64) -> f64| -> f64 {
            let sum: f64 = weights.iter().zip(recent).map(|(w, &x)| w * f(f64::from(x))).sum();
            sum / total
        };
        let mean = weighted(&|x| x);
        weighted(&|x| (x - mean).powi(2))
    }

    proptest! {
        #[test]
        fn variance_equals_its_definition(
            values in prop::collection::vec(0.0f32..20.0, 0..80),
            capacity in 1usize..40,
            n in 0usize..50,
            decay in 0.05f64..=1.0,
        ) {
            let got = window(capacity, &values).variance(n, decay);
            let expected = variance_naive(&values, n.min(capacity), decay);
            prop_assert!(got >= 0.0);
            prop_assert!((got - expected).abs() <= 1e-9 * (1.0 + expected), "expected {expected}, got {got}");
        }
    }
}
