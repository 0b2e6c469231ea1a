//! How many requests are in flight, and how many a run takes.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use dsde_bench::Profile;

use super::BenchArgs;
use crate::failure::{Outcome, usage};
use crate::speculation::first_repeated;

/// Fewest requests of a run where nobody says how many: enough texts for an average.
const REQUESTS_MIN: u32 = 16;
/// Requests per slot where nobody says how many: two thirds of them begin and end at full load.
const REQUESTS_PER_SLOT: u32 = 3;

/// How many requests are in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Always the same number.
    Closed(NonZeroU32),
    /// As the profile says.
    Changing(Profile),
}

impl Traffic {
    /// Every traffic that was asked for.
    ///
    /// # Errors
    /// If one is listed twice.
    pub(super) fn asked(args: &BenchArgs) -> Outcome<Vec<Self>> {
        if let Some(numbers) = &args.profile {
            let every = Duration::from_secs_f64(args.every);
            let profile = Profile::new(numbers.clone(), every);
            return Ok(vec![Self::Changing(profile.ok_or_else(|| usage("--profile is empty"))?)]);
        }
        match first_repeated(&args.concurrency) {
            Some(concurrency) => Err(usage(format!("--concurrency: {concurrency} is listed twice"))),
            None => Ok(args.concurrency.iter().copied().map(Self::Closed).collect()),
        }
    }

    /// Requests in flight at most.
    pub(super) fn concurrency_max(&self) -> NonZeroU32 {
        match self {
            Self::Closed(concurrency) => *concurrency,
            Self::Changing(profile) => profile.concurrency_max(),
        }
    }

    /// Requests of a run; a changing load takes as many as it can serve in its time.
    pub(super) fn n_requests(&self, asked: Option<u32>) -> u32 {
        let slots = self.concurrency_max().get();
        asked.unwrap_or((REQUESTS_PER_SLOT * slots).max(REQUESTS_MIN))
    }

    /// Whether so many requests leave little but beginnings and ends to count: prompts and few tokens behind them, in other shares under every policy.
    pub(super) fn is_short(&self, asked: Option<u32>) -> bool {
        let slots = self.concurrency_max().get();
        matches!(self, Self::Closed(_)) && slots > 1 && self.n_requests(asked) < REQUESTS_PER_SLOT * slots
    }
}

/// As in `C=4`.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(concurrency) => write!(f, "C={concurrency}"),
            Self::Changing(profile) => write!(f, "C={profile}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_enough_requests_to_keep_its_slots_busy() {
        let n_requests = |slots, asked| Traffic::Closed(NonZeroU32::new(slots).unwrap()).n_requests(asked);
        assert_eq!((n_requests(1, None), n_requests(8, None), n_requests(32, None)), (16, 24, 96));
        assert_eq!(n_requests(32, Some(5)), 5);
    }
}
