//! A load that changes: how many requests are in flight, one number after the other.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// Numbers of requests in flight, each for the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    concurrencies: Vec<NonZeroU32>,
    every: Duration,
}

impl Profile {
    /// * `concurrencies`: at least one.
    /// * `every`: time that each of them holds, above zero.
    ///
    /// Returns `None` if there is no number or no time.
    pub fn new(concurrencies: Vec<NonZeroU32>, every: Duration) -> Option<Self> {
        (!concurrencies.is_empty() && every > Duration::ZERO).then_some(Self { concurrencies, every })
    }

    /// Requests in flight, in order.
    pub fn concurrencies(&self) -> &[NonZeroU32] {
        &self.concurrencies
    }

    /// The largest of them.
    pub fn concurrency_max(&self) -> NonZeroU32 {
        self.concurrencies.iter().copied().max().expect("a profile has at least one number")
    }

    /// Seconds that each number holds, from the name of a profile.
    pub fn seconds_of(name: &str) -> Option<f64> {
        let seconds = name.rsplit_once('@')?.1.strip_suffix('s')?.parse().ok()?;
        Some(seconds).filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
    }

    /// Time that each number holds.
    pub fn every(&self) -> Duration {
        self.every
    }
}

/// As in `1-16-2@10s`.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, concurrency) in self.concurrencies.iter().enumerate() {
            write!(f, "{}{concurrency}", if i == 0 { "" } else { "-" })?;
        }
        write!(f, "@{}s", self.every.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_named_by_its_numbers_and_needs_some() {
        let numbers: Vec<NonZeroU32> = [1, 16, 2].into_iter().filter_map(NonZeroU32::new).collect();
        let profile = Profile::new(numbers, Duration::from_millis(2500)).unwrap();
        assert_eq!(profile.to_string(), "1-16-2@2.5s");
        assert_eq!(profile.concurrency_max().get(), 16);
        assert_eq!(Profile::seconds_of("1-16-2@2.5s"), Some(2.5));
        assert!(
            ["", "1-2", "1@s", "1@0s", "1@NaNs", "1@2"]
                .iter()
                .all(|name| Profile::seconds_of(name).is_none())
        );
        assert_eq!(Profile::new(Vec::new(), Duration::from_secs(1)), None);
        assert_eq!(Profile::new(profile.concurrencies().to_vec(), Duration::ZERO), None);
    }
}
