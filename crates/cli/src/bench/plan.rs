//! What is measured: cells, how many requests each takes, and for how long.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use dsde_bench::{Conditions, Profile, Run, Seen, Segment, Served};

use super::BenchArgs;
use super::loads::{Asked, Load};
use super::measure::Turn;
use crate::failure::{Outcome, usage};
use crate::sampling::shortest;
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

/// Where policies are compared.
pub(super) struct Cell<'a, R> {
    pub(super) load: &'a Load<R>,
    pub(super) traffic: &'a Traffic,
    pub(super) n_requests: u32,
}

impl<R: Asked> Cell<'_, R> {
    /// The requests of a run.
    ///
    /// Where there are two per slot or more, those of the first batch are shorter: the first by all but one share, the last not
    /// at all. Slots are then at different places of their answers from the start, as in a server that has run for hours, and not
    /// in step until a policy that serves unevenly parts them: prompts arrive one by one for every policy.
    pub(super) fn requests(&self) -> impl Iterator<Item = R> {
        let slots = self.traffic.concurrency_max().get();
        let n_shorter = if self.n_requests / 2 >= slots { slots } else { 0 };
        (0..self.n_requests).zip(self.load.requests()).map(move |(i, mut request)| {
            if i < n_shorter {
                request.shorten(i + 1, slots);
            }
            request
        })
    }
}

impl<R> Cell<'_, R> {
    /// What is measured of a policy here.
    pub(super) fn conditions(&self, policy: &str) -> Conditions {
        Conditions {
            policy: policy.to_owned(),
            workload: self.load.name.clone(),
            concurrency: self.traffic.concurrency_max().get(),
            temperature: shortest(self.load.temperature),
            segment: match self.traffic {
                Traffic::Closed(_) => None,
                Traffic::Changing(profile) => Some(Segment { profile: profile.to_string(), segment: 0 }),
            },
        }
    }
}

/// A run for every part of a load that changes.
pub(super) fn parts<R>(turn: &Turn<'_, R>, profile: &Profile, served: &[Served]) -> Vec<(Run, Seen)> {
    let whole = turn.cell.conditions(turn.policy);
    let part = |((served, concurrency), i): ((&Served, &NonZeroU32), u32)| {
        let segment = Some(Segment { profile: profile.to_string(), segment: i });
        let conditions = Conditions { concurrency: concurrency.get(), segment, ..whole.clone() };
        // A part that one long step of the part before it has used up has no speed.
        let run = Run::profiled(conditions, turn.round, served, &Seen::default())?;
        Some((run, Seen::default()))
    };
    served.iter().zip(profile.concurrencies()).zip(1..).filter_map(part).collect()
}

/// Time after which nothing new begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    end: Option<Instant>,
}

impl Budget {
    /// * `minutes`: from now on; `None` is no bound.
    pub(super) fn new(minutes: Option<f64>) -> Self {
        let end =
            minutes.and_then(|minutes| Instant::now().checked_add(Duration::from_secs_f64(60.0 * minutes)));
        Self { end }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

#[cfg(test)]
mod tests {
    use dsde_engine::Request;
    use dsde_sampling::Params;

    use super::*;

    #[test]
    fn a_run_has_enough_requests_to_keep_its_slots_busy() {
        let n_requests = |slots, asked| Traffic::Closed(NonZeroU32::new(slots).unwrap()).n_requests(asked);
        assert_eq!((n_requests(1, None), n_requests(8, None), n_requests(32, None)), (16, 24, 96));
        assert_eq!(n_requests(32, Some(5)), 5);
    }

    #[test]
    fn the_first_batch_is_parted_from_the_start() {
        let lens = |n_requests| {
            let load = Load::of_one(Request::new(vec![1], Params::greedy(), 48));
            let traffic = Traffic::Closed(NonZeroU32::new(4).unwrap());
            let cell = Cell { load: &load, traffic: &traffic, n_requests };
            cell.requests().map(|request| request.tokens_max).collect::<Vec<_>>()
        };
        assert_eq!(lens(9), [12, 24, 36, 48, 48, 48, 48, 48, 48]);
        assert_eq!(lens(7), [48; 7], "never full for long");
    }

    #[test]
    fn no_minutes_are_no_bound() {
        assert!(!Budget::new(None).is_spent());
        assert!(Budget::new(Some(0.0)).is_spent());
        assert!(!Budget::new(Some(60.0)).is_spent());
    }
}
