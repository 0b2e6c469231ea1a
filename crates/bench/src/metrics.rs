//! The definitions of every latency, rate and share, for real runs and simulation alike.

use std::time::Duration;

use dsde_engine::{RequestTimeline, Slo};

/// Time to first token: arrival to the first emission; `None` if nothing was emitted.
pub fn ttft(timeline: &RequestTimeline) -> Option<Duration> {
    Some(timeline.first_token?.saturating_sub(timeline.arrival))
}

/// Time per output token: `(last emission - first emission) / (emitted - 1)`; `None` below two tokens.
///
/// A step may emit several tokens at once, so this is a mean over the request and not a gap between emissions.
pub fn tpot(timeline: &RequestTimeline) -> Option<Duration> {
    let gaps = timeline.emitted.checked_sub(1).filter(|&gaps| gaps > 0)?;
    Some(timeline.finished.saturating_sub(timeline.first_token?) / gaps)
}

/// Arrival to the end.
pub fn e2e(timeline: &RequestTimeline) -> Duration {
    timeline.finished.saturating_sub(timeline.arrival)
}

/// A time in the unit of statistics.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

/// First arrival to last end; zero without timelines.
pub fn span(timelines: &[RequestTimeline]) -> Duration {
    let first = timelines.iter().map(|timeline| timeline.arrival).min();
    let last = timelines.iter().map(|timeline| timeline.finished).max();
    last.unwrap_or_default().saturating_sub(first.unwrap_or_default())
}

/// Emitted tokens per second of [`span`]; `None` if no time passed.
pub fn throughput(timelines: &[RequestTimeline]) -> Option<f64> {
    per_second(Totals::of(timelines).output_tokens, span(timelines))
}

/// Emitted tokens per second while `concurrency` requests were in flight and new ones took the places of those that ended: from
/// the first end to the first end after which fewer are left. `None` if no time passed.
///
/// With fewer than two requests per slot the load is never full for long, and with answers that all end at once never at all; all
/// of [`span`] counts then.
///
/// A closed loop begins with prompts only and ends with fewer and fewer requests in flight, and how long that takes depends on
/// how evenly a policy serves them; this leaves both out. As many prompts are read in between as requests end. Tokens of requests
/// that are in flight at either end are counted as if each of them came at its request's TPOT.
pub fn full_load_throughput(timelines: &[RequestTimeline], concurrency: usize) -> Option<f64> {
    let mut ends: Vec<Duration> = timelines.iter().map(|timeline| timeline.finished).collect();
    ends.sort_unstable();
    let start = *ends.first()?;
    let end = ends[ends.len() - concurrency.clamp(1, ends.len())];
    if timelines.len() < 2 * concurrency || end == start {
        return throughput(timelines);
    }
    let emitted = |timeline| emitted_until(timeline, end) - emitted_until(timeline, start);
    let n_tokens: f64 = timelines.iter().map(emitted).sum();
    Some(n_tokens / (end - start).as_secs_f64())
}

/// Tokens emitted up to `time`, the first at once and the others evenly.
fn emitted_until(timeline: &RequestTimeline, time: Duration) -> f64 {
    let emitted = f64::from(timeline.emitted);
    match timeline.first_token {
        _ if timeline.finished <= time => emitted,
        Some(first) if first <= time => {
            let share = (time - first).as_secs_f64() / (timeline.finished - first).as_secs_f64();
            1.0 + (emitted - 1.0) * share
        }
        _ => 0.0,
    }
}

/// Whether a request met every latency target it had; a request without any output misses them all.
pub fn is_attained(timeline: &RequestTimeline, slo: &Slo) -> bool {
    let meets = |got: Option<Duration>, max: Option<f64>| match (got, max) {
        (_, None) => true,
        (Some(got), Some(max)) => milliseconds(got) <= max,
        (None, Some(_)) => false,
    };
    // One token has no time per token to miss.
    let tpot = tpot(timeline).or((timeline.emitted == 1).then_some(Duration::ZERO));
    timeline.emitted > 0 && meets(ttft(timeline), slo.ttft_ms_max) && meets(tpot, slo.tpot_ms_max)
}

/// Requests per second of [`span`] that met their targets; `None` if no time passed.
///
/// * `attained`: how many of them did, by [`is_attained`].
pub fn goodput(timelines: &[RequestTimeline], attained: u64) -> Option<f64> {
    per_second(attained, span(timelines))
}

fn per_second(count: u64, time: Duration) -> Option<f64> {
    (time > Duration::ZERO).then(|| count as f64 / time.as_secs_f64())
}

/// Sums over requests. `accepted <= verified <= drafted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Ended requests.
    pub requests: u64,
    /// Tokens emitted.
    pub output_tokens: u64,
    /// Target passes that emitted, counted once per request.
    pub steps: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens verified.
    pub verified: u64,
    /// Verified tokens kept.
    pub accepted: u64,
}

impl Totals {
    /// Adds up `timelines`.
    pub fn of<'a>(timelines: impl IntoIterator<Item = &'a RequestTimeline>) -> Self {
        timelines.into_iter().fold(Self::default(), |sum, timeline| Self {
            requests: sum.requests + 1,
            output_tokens: sum.output_tokens + u64::from(timeline.emitted),
            steps: sum.steps + u64::from(timeline.steps),
            drafted: sum.drafted + u64::from(timeline.drafted),
            verified: sum.verified + u64::from(timeline.verified),
            accepted: sum.accepted + u64::from(timeline.accepted),
        })
    }

    /// Accepted over verified; `None` if nothing was verified.
    pub fn acceptance_rate(&self) -> Option<f64> {
        share(self.accepted, self.verified)
    }

    /// Mean tokens that a request emitted per step in which it emitted; 1 without speculation, `None` without steps.
    pub fn emitted_per_step(&self) -> Option<f64> {
        share(self.output_tokens, self.steps)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(times_ms: [u64; 3], emitted: u32) -> RequestTimeline {
        let [arrival, first, finished] = times_ms.map(Duration::from_millis);
        RequestTimeline {
            arrival,
            first_token: (emitted > 0).then_some(first),
            finished,
            emitted,
            ..RequestTimeline::default()
        }
    }

    fn slo(ttft_ms_max: f64, tpot_ms_max: f64) -> Slo {
        Slo { ttft_ms_max: Some(ttft_ms_max), tpot_ms_max: Some(tpot_ms_max) }
    }

    #[test]
    fn latencies_follow_their_definitions() {
        // (130 - 30) / (6 - 1) = 20.
        let six = timeline([10, 30, 130], 6);
        assert_eq!(ttft(&six), Some(Duration::from_millis(20)));
        assert_eq!(tpot(&six), Some(Duration::from_millis(20)));
        assert_eq!(e2e(&six), Duration::from_millis(120));
    }

    #[test]
    fn one_token_has_no_time_per_token_and_none_has_no_first() {
        assert_eq!(tpot(&timeline([0, 5, 5], 1)), None);
        assert_eq!(ttft(&timeline([0, 0, 9], 0)), None);
        assert_eq!(tpot(&timeline([0, 0, 9], 0)), None);
    }

    #[test]
    fn throughput_counts_tokens_from_the_first_arrival_to_the_last_end() {
        let timelines = [timeline([500, 600, 1500], 10), timeline([1000, 1100, 2500], 30)];
        // 40 tokens in 2500 - 500 = 2000 ms.
        assert_eq!(throughput(&timelines), Some(20.0));
        assert_eq!(throughput(&[]), None);
    }

    #[test]
    fn full_load_is_from_the_first_end_until_a_slot_stays_empty() {
        // Two slots: the third request takes over at 1000, the fourth at 1600; from 2000 on one of them is left alone.
        let timelines = [
            timeline([0, 100, 1000], 10),
            // From 1000 on: 6 of the 15 behind the first.
            timeline([0, 100, 1600], 16),
            timeline([1000, 1100, 2000], 10),
            // Until 2000: the first token and half of the other 10.
            timeline([1600, 1700, 2300], 11),
        ];
        assert_eq!(full_load_throughput(&timelines, 2), Some(6.0 + 10.0 + 6.0));
        // One slot would be busy to the end: another 5 tokens, 27 in 1.3 s.
        assert_eq!(full_load_throughput(&timelines, 1), Some(27.0 / 1.3));
        // More slots are never filled again: 47 tokens in 2.3 s.
        for concurrency in [3, 100] {
            assert_eq!(full_load_throughput(&timelines, concurrency), Some(47.0 / 2.3));
        }
        assert_eq!(
            full_load_throughput(&timelines[..1], 1),
            Some(10.0 / 1.0),
            "one end and nothing after it"
        );
        assert_eq!(full_load_throughput(&[], 8), None);
    }

    #[test]
    fn goodput_counts_requests_that_meet_both_targets() {
        // TTFT 100, 100, 300 ms; TPOT (1100 - 100) / 10 = 100, then 200 and 50 ms.
        let timelines =
            [timeline([0, 100, 1100], 11), timeline([0, 100, 2000], 10), timeline([0, 300, 800], 11)];
        let goodput_of = |slo: Slo| {
            let attained = timelines.iter().filter(|timeline| is_attained(timeline, &slo)).count();
            goodput(&timelines, attained as u64)
        };
        assert_eq!(goodput_of(slo(200.0, 150.0)), Some(0.5));
        assert_eq!(goodput_of(Slo::default()), Some(1.5));
    }

    #[test]
    fn targets_are_met_at_equality_and_missed_without_output() {
        assert!(is_attained(&timeline([0, 200, 350], 2), &slo(200.0, 150.0)));
        assert!(!is_attained(&timeline([0, 201, 350], 2), &slo(200.0, 150.0)));
        assert!(is_attained(&timeline([0, 200, 200], 1), &slo(200.0, 1.0)));
        assert!(!is_attained(&timeline([0, 0, 1], 0), &Slo::default()));
    }

    #[test]
    fn shares_are_quotients_of_sums() {
        let one = RequestTimeline {
            emitted: 9,
            steps: 3,
            drafted: 10,
            verified: 8,
            accepted: 6,
            ..RequestTimeline::default()
        };
        let other = RequestTimeline { emitted: 1, steps: 1, ..RequestTimeline::default() };
        let totals = Totals::of(&[one, other]);
        assert_eq!(totals.requests, 2);
        // 6 / 8 and (9 + 1) / (3 + 1).
        assert_eq!(totals.acceptance_rate(), Some(0.75));
        assert_eq!(totals.emitted_per_step(), Some(2.5));
        assert_eq!(Totals::default().acceptance_rate(), None);
        assert_eq!(Totals::default().emitted_per_step(), None);
    }
}
