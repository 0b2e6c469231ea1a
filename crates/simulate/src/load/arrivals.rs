//! When requests arrive.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::random::Random;
use crate::scenario::SECONDS_MAX;

/// An arrival process.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Gaps are gamma numbers; those of a Poisson process if `cv` is 1.
    Random {
        /// Requests per second.
        rate: f64,
        /// Standard deviation of the gaps over their mean; above 1 they come in bursts.
        cv: f64,
    },
    /// A Poisson process whose rate changes: straight between points of seconds and requests per second, and as at the last one behind it.
    Ramp(Arc<[(f64, f64)]>),
    /// At these times, sooner by a factor; behind the last one as from the beginning.
    Recorded {
        /// Ascending, the first at zero.
        times: Arc<[Duration]>,
        /// Seconds of the file per second.
        speed: f64,
    },
}

/// Goes from arrival to arrival.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now: f64,
}

impl Clock {
    pub(super) fn next(&mut self, arrivals: &Arrivals, i: usize, random: &mut Random) -> Duration {
        match arrivals {
            Arrivals::Random { rate, cv } => self.now += gap(*cv, random) / rate,
            Arrivals::Ramp(points) => self.now = thinned(points, self.now, random),
            Arrivals::Recorded { times, speed } => {
                let last = times.last().copied().unwrap_or_default();
                let rounds = (i / times.len()) as f64;
                let next = (rounds * last.as_secs_f64() + times[i % times.len()].as_secs_f64()) / speed;
                // The last one of a round and the first one of the next are the same but for rounding.
                self.now = self.now.max(next);
            }
        }
        Duration::from_secs_f64(self.now)
    }
}

/// A gap with mean 1.
fn gap(cv: f64, random: &mut Random) -> f64 {
    if cv == 0.0 {
        return 1.0;
    }
    let shape = 1.0 / (cv * cv);
    if cv == 1.0 { random.exponential() } else { random.gamma(shape) / shape }
}

/// The next arrival behind `now` at a changing rate: of arrivals at the highest rate as many are kept as the rate of the moment is of it
/// (Lewis and Shedler, 1979).
fn thinned(points: &[(f64, f64)], mut now: f64, random: &mut Random) -> f64 {
    let highest = points.iter().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    loop {
        // The last rate may be a tiny share of the highest one, which hardly anything would be kept of.
        let highest = points.last().filter(|last| last.0 <= now).map_or(highest, |last| last.1);
        now += random.exponential() / highest;
        if random.uniform() * highest < rate_at(points, now) {
            return now;
        }
    }
}

fn rate_at(points: &[(f64, f64)], time: f64) -> f64 {
    let next = points.iter().position(|point| point.0 > time);
    match next {
        None => points.last().map_or(0.0, |point| point.1),
        Some(0) => points[0].1,
        Some(i) => {
            let ((t0, r0), (t1, r1)) = (points[i - 1], points[i]);
            r0 + (r1 - r0) * (time - t0) / (t1 - t0)
        }
    }
}

/// What a file says of every request: its arrival, counted from the first one, and the tokens of prompt and answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// Ascending.
    pub times: Vec<Duration>,
    /// Prompt and answer, at least 1 each.
    pub lens: Vec<(u32, u32)>,
}

/// Columns of the Azure LLM inference traces of 2023 and 2024.
const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// Reads a file of arrivals in the columns of the Azure LLM inference trace; a time is a date and a time of day, or a number of seconds.
///
/// # Errors
/// If the file cannot be read, a line has other columns, or times do not ascend or reach over more than a month.
pub fn recorded(path: &Path) -> Result<Recorded, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_path_buf(), source };
    let bad = |number: usize, expected: &str, got: &str| Error::Line {
        path: path.to_path_buf(),
        number,
        expected: expected.to_owned(),
        got: format!("'{got}'"),
    };
    let mut lines = BufReader::new(File::open(path).map_err(unreadable)?).lines();
    let head = lines.next().transpose().map_err(unreadable)?.unwrap_or_default();
    let columns: Vec<&str> = head.trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
    if columns != COLUMNS {
        return Err(bad(1, &COLUMNS.join(","), &head));
    }
    let (mut recorded, mut first, mut last) = (Recorded::default(), None, f64::MIN);
    for (number, line) in (2..).zip(lines) {
        let line = line.map_err(unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [time, prompt, output] = fields[..] else {
            return Err(bad(number, "three columns", &line));
        };
        let at = seconds(time).ok_or_else(|| bad(number, "a date and a time of day, or seconds", time))?;
        if at < last {
            return Err(bad(number, "a time that is not before the one above it", time));
        }
        last = at;
        let since_first = at - *first.get_or_insert(at);
        if since_first > SECONDS_MAX {
            return Err(bad(number, "a time of at most 31 days after the first one", time));
        }
        let tokens =
            |text: &str| text.parse::<u32>().map_err(|_| bad(number, "a whole number of tokens", text));
        recorded.lens.push((tokens(prompt)?.max(1), tokens(output)?.max(1)));
        recorded.times.push(Duration::from_secs_f64(since_first));
    }
    match recorded.times.is_empty() {
        true => Err(bad(2, "a request", "")),
        false => Ok(recorded),
    }
}

/// Of `2023-11-16 18:15:46.6805900`, with or without a zone, or of a plain number.
fn seconds(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let (date, time) = text.split_once([' ', 'T'])?;
    let time = time.split(['+', 'Z']).next()?;
    let part = |text: &str, max: f64| text.parse::<f64>().ok().filter(|x| (0.0..=max).contains(x));
    let date: Vec<f64> = date.split('-').map(|text| part(text, 9999.0)).collect::<Option<_>>()?;
    let time: Vec<f64> = time.split(':').map(|text| part(text, 61.0)).collect::<Option<_>>()?;
    let ([year, month, day], [hours, minutes, seconds]) = (&date[..], &time[..]) else {
        return None;
    };
    let days = days(*year as i64, *month as i64, *day as i64) as f64;
    Some(days * 86_400.0 + hours * 3600.0 + minutes * 60.0 + seconds)
}

/// Days since an arbitrary one, by the Gregorian calendar; years begin in March, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn times(arrivals: &Arrivals, n: usize) -> Vec<f64> {
        let (mut clock, mut random) = (Clock::default(), Random::new(&[3]));
        (0..n).map(|i| clock.next(arrivals, i, &mut random).as_secs_f64()).collect()
    }

    #[test]
    fn gaps_have_their_mean_and_spread() {
        for cv in [0.0, 0.5, 1.0, 3.0] {
            let times = times(&Arrivals::Random { rate: 4.0, cv }, 40_000);
            let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            // At a spread of 3 the mean is known to 1.5 %, and its spread to 5 %.
            assert!((mean / 0.25 - 1.0).abs() < 0.05, "{cv}: {mean}");
            assert!((variance.sqrt() / mean - cv).abs() < 0.05 * cv.max(0.01), "{cv}: {variance}");
        }
    }

    #[test]
    fn a_ramp_has_as_many_arrivals_as_its_area() {
        let ramp = Arrivals::Ramp(Arc::new([(0.0, 0.0), (100.0, 20.0), (200.0, 20.0)]));
        let times = times(&ramp, 4000);
        let until = |end: f64| times.iter().filter(|&&time| time < end).count() as f64;
        // Areas of 1000 and 3000, whose square roots are 32 and 55.
        assert!((until(100.0) - 1000.0).abs() < 130.0, "{}", until(100.0));
        assert!((until(200.0) - 3000.0).abs() < 220.0, "{}", until(200.0));
    }

    #[test]
    fn recorded_arrivals_never_go_back() {
        let recorded = [Duration::ZERO, Duration::from_secs_f64(0.1)];
        let times = times(&Arrivals::Recorded { times: Arc::new(recorded), speed: 1e-6 }, 100);
        assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn a_ramp_may_end_almost_without_arrivals() {
        let times = times(&Arrivals::Ramp(Arc::new([(0.0, 1e4), (0.01, 1e-6)])), 100);
        assert!(times[99] > 1e6, "{}", times[99]);
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn both_azure_traces_can_be_read() {
        let file = file(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-12-31 23:59:59.5000000,374,44\n\
             2024-01-01 00:00:01.000000+00:00,396,109\n",
        );
        let got = recorded(file.path()).unwrap();
        assert_eq!(got.lens, [(374, 44), (396, 109)]);
        assert_eq!(got.times, [Duration::ZERO, Duration::from_millis(1500)]);
        let replayed = Arrivals::Recorded { times: got.times.into(), speed: 3.0 };
        assert_eq!(times(&replayed, 3), [0.0, 0.5, 0.5]);
    }

    #[test]
    fn other_lines_are_refused() {
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let cases = [
            (
                "time,prompt\n",
                "line 1",
                "expected TIMESTAMP,ContextTokens,GeneratedTokens, got 'time,prompt'",
            ),
            ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "line 2", "expected a request"),
            (&format!("{head}1,2,x\n"), "line 2", "expected a whole number of tokens, got 'x'"),
            (&format!("{head}5,2,3\n4,2,3\n"), "line 3", "not before the one above it, got '4'"),
            (&format!("{head}soon,2,3\n"), "line 2", "got 'soon'"),
            (&format!("{head}0,2,3\n1e300,2,3\n"), "line 3", "31 days after the first one, got '1e300'"),
        ];
        for (text, line, expected) in cases {
            let message = recorded(file(text).path()).unwrap_err().to_string();
            assert!(message.contains(line) && message.contains(expected), "{message}");
        }
    }
}
