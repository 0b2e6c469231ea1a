//! What is measured: cells, how many requests each takes, and for how long.

use std::time::{Duration, Instant};

use dsde_bench::{Conditions, Segment};

use super::loads::{Asked, Load, Loads};
use super::traffic::Traffic;
use crate::sampling::shortest;

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

impl<R> Loads<R> {
    /// Every load under every traffic.
    pub(super) fn cells(&self) -> Vec<Cell<'_, R>> {
        let pairs =
            self.loads.iter().flat_map(|load| self.traffics.iter().map(move |traffic| (load, traffic)));
        let cell = |(load, traffic)| Cell {
            load,
            traffic,
            n_requests: Traffic::n_requests(traffic, self.n_requests),
        };
        pairs.map(cell).collect()
    }
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
    use std::num::NonZeroU32;

    use dsde_engine::Request;
    use dsde_sampling::Params;

    use super::*;

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
