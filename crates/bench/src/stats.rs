//! Summaries of measured values.

use serde::{Deserialize, Serialize};

/// Mean, spread and extremes of repeated measurements, in the unit of the values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divisor `n - 1`); 0 for one value.
    pub sd: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Number of values.
    pub n: usize,
}

impl Summary {
    /// Summarises `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let (&first, rest) = values.split_first()?;
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            mean,
            sd: if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 },
            min: rest.iter().copied().fold(first, f64::min),
            max: rest.iter().copied().fold(first, f64::max),
            n,
        })
    }
}

/// Median and upper tail, in the unit of the values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Quantiles {
    /// Quantiles of `values` in any order; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            p50: quantile(&sorted, 0.50)?,
            p90: quantile(&sorted, 0.90)?,
            p99: quantile(&sorted, 0.99)?,
        })
    }
}

/// Quantile by linear interpolation between the two nearest ranks: with `n` sorted values the `q`-quantile stands at index
/// `(n - 1) * q`, counted from 0 (definition 7 of Hyndman and Fan, *Sample Quantiles in Statistical Packages*, 1996).
///
/// * `sorted`: ascending.
/// * `q`: in `0..=1`.
/// * Returns `None` if there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    debug_assert!((0.0..=1.0).contains(&q), "a quantile lies in 0..=1, got {q}");
    debug_assert!(sorted.is_sorted(), "quantiles are taken of sorted values");
    let place = sorted.len().checked_sub(1)? as f64 * q;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_quantile(sorted: &[f64], q: f64, expected: Option<f64>) {
        let got = quantile(sorted, q);
        match (got, expected) {
            (Some(got), Some(expected)) => assert!((got - expected).abs() < 1e-12, "{got} != {expected}"),
            _ => assert_eq!(got, expected),
        }
    }

    #[test]
    fn quantiles_interpolate_between_the_nearest_ranks() {
        check_quantile(&[], 0.5, None);
        check_quantile(&[7.0], 0.99, Some(7.0));
        check_quantile(&[1.0, 2.0], 0.5, Some(1.5));
        // Index 3 * 0.9 = 2.7: 3 + 0.7 * (10 - 3) = 7.9.
        check_quantile(&[1.0, 2.0, 3.0, 10.0], 0.9, Some(7.9));
        // Index 4 * 0.5 = 2 exactly.
        check_quantile(&[1.0, 2.0, 3.0, 4.0, 50.0], 0.5, Some(3.0));
        check_quantile(&[1.0, 2.0, 3.0], 0.0, Some(1.0));
        check_quantile(&[1.0, 2.0, 3.0], 1.0, Some(3.0));
    }

    #[test]
    fn quantiles_do_not_depend_on_the_order_of_the_values() {
        // Index 2 * 0.9 = 1.8: 20 + 0.8 * 10 = 28; index 2 * 0.99 = 1.98: 20 + 0.98 * 10 = 29.8.
        let quantiles = Quantiles::of(&[30.0, 10.0, 20.0]).unwrap();
        assert_eq!(quantiles.p50, 20.0);
        assert!((quantiles.p90 - 28.0).abs() < 1e-12);
        assert!((quantiles.p99 - 29.8).abs() < 1e-12);
        assert_eq!(Quantiles::of(&[]), None);
    }

    #[test]
    fn the_deviation_divides_by_one_less_than_the_count() {
        // Mean 5; squares 9 + 1 + 1 + 9 = 20; sqrt(20 / 3).
        let summary = Summary::of(&[2.0, 4.0, 6.0, 8.0]).unwrap();
        assert_eq!((summary.mean, summary.min, summary.max, summary.n), (5.0, 2.0, 8.0, 4));
        assert!((summary.sd - (20.0_f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn one_value_has_no_deviation_and_none_has_no_summary() {
        assert_eq!(Summary::of(&[3.5]).unwrap().sd, 0.0);
        assert_eq!(Summary::of(&[]), None);
    }
}
