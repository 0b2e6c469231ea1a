//! Latency classes: requests of one load with targets of different strictness, and how many of each meet theirs.

use std::fmt;

use dsde_engine::{RequestTimeline, Slo};
use serde::{Deserialize, Serialize};

use crate::metrics;

/// Requests that share latency targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyClass {
    /// For people, such as `tight`.
    pub name: String,
    /// Arrival to first token, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms_max: Option<f64>,
    /// Mean time per token after the first, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_ms_max: Option<f64>,
}

impl LatencyClass {
    /// Its targets.
    pub fn slo(&self) -> Slo {
        Slo { ttft_ms_max: self.ttft_ms_max, tpot_ms_max: self.tpot_ms_max }
    }
}

/// As in `tight: TPOT of at most 0.6 ms`.
impl fmt::Display for LatencyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let targets = [("TTFT", self.ttft_ms_max), ("TPOT", self.tpot_ms_max)];
        let targets = targets.into_iter().filter_map(|(what, max)| Some((what, max?)));
        for ((what, max), separator) in targets.zip([": ", ", "]) {
            write!(f, "{separator}{what} of at most {max} ms")?;
        }
        Ok(())
    }
}

/// The classes of a load, which its requests take in turns; none where there are no targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencyClasses(Vec<LatencyClass>);

impl LatencyClasses {
    /// * `classes`: with names of their own.
    pub fn new(classes: Vec<LatencyClass>) -> Self {
        Self(classes)
    }

    /// The targets of a request.
    ///
    /// * `request_idx`: its place in the load, from 0.
    pub fn slo(&self, request_idx: usize) -> Slo {
        self.of(request_idx).map_or_else(Slo::default, |class| self.0[class].slo())
    }

    /// How many of the requests that ended met their targets, by class.
    ///
    /// * `ended`: timelines with their places in the load.
    pub fn attained<'a>(
        &self,
        ended: impl IntoIterator<Item = (usize, &'a RequestTimeline)>,
    ) -> Vec<Attained> {
        let attained =
            |class: &LatencyClass| Attained { class: class.name.clone(), requests: 0, attained: 0 };
        let mut all: Vec<Attained> = self.0.iter().map(attained).collect();
        for (request_idx, timeline) in ended {
            if let Some(class) = self.of(request_idx) {
                all[class].requests += 1;
                all[class].attained += u64::from(metrics::is_attained(timeline, &self.0[class].slo()));
            }
        }
        all
    }

    fn of(&self, request_idx: usize) -> Option<usize> {
        request_idx.checked_rem(self.0.len())
    }
}

/// How many requests of a class met their latency targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attained {
    /// Name of the class.
    pub class: String,
    /// Requests of it that ended.
    pub requests: u64,
    /// Those that met every target they had.
    pub attained: u64,
}

impl Attained {
    /// Attainment: the share of the requests that met their targets; `None` without requests.
    pub fn share(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.attained as f64 / self.requests as f64)
    }

    /// Sums by class, in the order of appearance.
    pub fn sums<'a>(all: impl IntoIterator<Item = &'a Self>) -> Vec<Self> {
        let mut sums: Vec<Self> = Vec::new();
        for one in all {
            match sums.iter_mut().find(|sum| sum.class == one.class) {
                Some(sum) => {
                    sum.requests += one.requests;
                    sum.attained += one.attained;
                }
                None => sums.push(one.clone()),
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn class(name: &str, ttft_ms_max: Option<f64>, tpot_ms_max: f64) -> LatencyClass {
        LatencyClass { name: name.to_owned(), ttft_ms_max, tpot_ms_max: Some(tpot_ms_max) }
    }

    /// Eleven tokens, the first after 10 ms.
    fn timeline(tpot_ms: u64) -> RequestTimeline {
        RequestTimeline {
            first_token: Some(Duration::from_millis(10)),
            finished: Duration::from_millis(10 + 10 * tpot_ms),
            emitted: 11,
            ..RequestTimeline::default()
        }
    }

    #[test]
    fn requests_take_classes_in_turns_and_are_judged_by_their_own() {
        let classes = LatencyClasses::new(vec![class("tight", None, 2.0), class("loose", None, 6.0)]);
        assert_eq!(classes.slo(4).tpot_ms_max, Some(2.0));
        assert_eq!(classes.slo(5).tpot_ms_max, Some(6.0));
        // They end in another order than they began in: tight 2 and 3 ms, loose 6 and 7 ms.
        let timelines = [timeline(3), timeline(7), timeline(6), timeline(2)];
        let attained = classes.attained([2, 3, 1, 0].into_iter().zip(&timelines));
        let of = |class: &str| Attained { class: class.to_owned(), requests: 2, attained: 1 };
        assert_eq!(attained, [of("tight"), of("loose")]);
        assert_eq!(attained[0].share(), Some(0.5));
        assert_eq!(Attained::sums(attained.iter().chain(&attained))[1].requests, 4);
    }

    #[test]
    fn without_classes_there_are_no_targets() {
        let classes = LatencyClasses::default();
        assert_eq!(classes.slo(3), Slo::default());
        assert_eq!(classes.attained([(0, &timeline(1))]), []);
    }

    #[test]
    fn a_class_says_its_targets() {
        let both = class("tight", Some(50.0), 0.5);
        assert_eq!(both.to_string(), "tight: TTFT of at most 50 ms, TPOT of at most 0.5 ms");
        assert_eq!(class("loose", None, 3.0).to_string(), "loose: TPOT of at most 3 ms");
    }
}
