//! `[load]`: who asks when and for how much.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dsde_bench::{LatencyClass, LatencyClasses};

use super::acceptance::Acceptance;
use super::beside;
use super::machine::Machine;
use super::section::{Section, shown};
use crate::error::Error;
use crate::load::{Arrivals, Lengths, Load, Sizes, Traffic, recorded};

/// How often requests come, in one of the cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// For people, such as `8 in flight`.
    pub label: String,
    /// On an axis: requests in flight, requests per second, or how much faster than recorded.
    pub value: f64,
    /// How they come.
    pub traffic: Traffic,
}

/// Most requests of a cell.
const REQUESTS_MAX: u32 = 10_000_000;
/// Most requests per second.
const RATE_MAX: f64 = 1e6;
/// Fewest: all requests of a load come within the time that can be counted.
const RATE_MIN: f64 = 1e-6;
/// Longest prompt or answer, tokens.
const LEN_MAX: u32 = 1 << 24;
/// Longest latency target, ms: an hour.
const TARGET_MS_MAX: f64 = 3.6e6;

/// Keys of every load.
pub(super) const KEYS: &[&str] =
    &["arrivals", "requests", "prompt", "output", "file", "shared_prefix", "class"];

/// More keys, of some arrivals.
fn keys(arrivals: &str) -> &'static [&'static str] {
    match arrivals {
        "closed" => &["concurrency"],
        "gamma" => &["rate", "cv"],
        "ramp" => &["ramp"],
        "recorded" => &["speed"],
        _ => &["rate"],
    }
}

pub(super) fn read(
    section: Section<'_>,
    acceptance: &Acceptance,
    machine: &Machine,
    folder: &Path,
) -> Result<(Load, Vec<Point>), Error> {
    let kinds = ["closed", "poisson", "gamma", "ramp", "recorded"];
    let kind = section.word("arrivals", &kinds)?.unwrap_or("closed");
    section.known(&[KEYS, keys(kind)].concat())?;
    let file = section.text("file")?.map(|name| recorded(&beside(folder, name))).transpose()?;
    let times = file.as_ref().map(|file| file.times.as_slice());
    let points = points(&section, kind, times)?;
    let sizes = match (file, &acceptance.recording) {
        (Some(file), _) => Sizes::Listed(file.lens.into()),
        (None, Some(recording)) if section.get("prompt").is_none() => {
            Sizes::Recorded { recording: recording.clone(), output: lengths(&section, "output")? }
        }
        _ => Sizes::Drawn { prompt: wanted(&section, "prompt")?, output: wanted(&section, "output")? },
    };
    let requests = section.count("requests", 1..=REQUESTS_MAX)?;
    let load = Load {
        n_requests: requests.ok_or_else(|| section.missing("requests", "a whole number of requests"))?
            as usize,
        sizes,
        shared_prefix: section.count("shared_prefix", 0..=LEN_MAX)?.unwrap_or(0),
        context_len_max: machine.pair.shape.context_len_max,
        classes: classes(&section)?,
    };
    section.end()?;
    Ok((load, points))
}

fn points(section: &Section<'_>, kind: &str, times: Option<&[Duration]>) -> Result<Vec<Point>, Error> {
    match kind {
        "closed" => {
            let expected = "requests in flight, one or several numbers";
            let counts = section.counts("concurrency", 1..=4096)?;
            let counts = counts.ok_or_else(|| section.missing("concurrency", expected))?;
            let point = |n: u32| Point {
                label: format!("{n} in flight"),
                value: f64::from(n),
                traffic: Traffic::Closed(n),
            };
            Ok(counts.into_iter().map(point).collect())
        }
        "ramp" => ramp(section).map(|point| vec![point]),
        "recorded" => {
            let times = times.ok_or_else(|| section.missing("file", "a file of arrivals"))?;
            let times: Arc<[Duration]> = times.into();
            let speeds = section.numbers("speed", 1e-6..=1e6)?.unwrap_or(vec![1.0]);
            let point = |speed: f64| Point {
                label: format!("recorded, {speed} times as fast"),
                value: speed,
                traffic: Traffic::Open(Arrivals::Recorded { times: times.clone(), speed }),
            };
            Ok(speeds.into_iter().map(point).collect())
        }
        _ => {
            let rates = section.numbers("rate", RATE_MIN..=RATE_MAX)?;
            let rates = rates
                .ok_or_else(|| section.missing("rate", "requests per second, one or several numbers"))?;
            let cv = if kind == "gamma" { section.number("cv", 0.0..=100.0)?.unwrap_or(2.0) } else { 1.0 };
            let point = |rate: f64| Point {
                label: format!("{rate} requests/s"),
                value: rate,
                traffic: Traffic::Open(Arrivals::Random { rate, cv }),
            };
            Ok(rates.into_iter().map(point).collect())
        }
    }
}

fn ramp(section: &Section<'_>) -> Result<Point, Error> {
    let mut ramp = Vec::new();
    for point in section.sections("ramp")? {
        point.known(&["at_s", "rate"])?;
        let at = point.number("at_s", 0.0..=super::SECONDS_MAX)?;
        let rate = point.number("rate", 0.0..=RATE_MAX)?;
        ramp.push((
            at.ok_or_else(|| point.missing("at_s", "seconds"))?,
            rate.ok_or_else(|| point.missing("rate", "requests per second"))?,
        ));
    }
    let last_rate = ramp.last().map(|point: &(f64, f64)| point.1);
    let is_rising = ramp.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !is_rising || last_rate.is_none_or(|rate| rate < RATE_MIN) {
        let expected =
            format!("a list of {{ at_s, rate }} whose times rise and whose last rate is at least {RATE_MIN}");
        return Err(section.missing("ramp", expected));
    }
    let value = ramp.iter().map(|point| point.1).fold(0.0, f64::max);
    let label = format!("ramp to {value} requests/s");
    Ok(Point { label, value, traffic: Traffic::Open(Arrivals::Ramp(ramp.into())) })
}

fn wanted(section: &Section<'_>, key: &'static str) -> Result<Lengths, Error> {
    lengths(section, key)?.ok_or_else(|| section.missing(key, LENGTHS))
}

const LENGTHS: &str = "tokens: a number, { min, max }, or { mean, cv, min, max }";

/// A number or a table.
fn lengths(section: &Section<'_>, key: &'static str) -> Result<Option<Lengths>, Error> {
    let Some(value) = section.get(key) else { return Ok(None) };
    if value.is_integer() {
        return Ok(section.count(key, 1..=LEN_MAX)?.map(Lengths::Fixed));
    }
    if !value.is_table() {
        return Err(section.wrong(key, LENGTHS, shown(value)));
    }
    let table = section.section(key)?.expect("it is a table");
    let min = table.count("min", 1..=LEN_MAX)?;
    let max = table.count("max", min.unwrap_or(1)..=LEN_MAX)?;
    let mean = table.number("mean", 1.0..=f64::from(LEN_MAX))?;
    let cv = table.number("cv", 0.0..=100.0)?;
    table.end()?;
    match (mean, min, max) {
        (Some(mean), min, max) => {
            let bounds = (min.unwrap_or(1), max.unwrap_or(LEN_MAX));
            Ok(Some(Lengths::LogNormal { mean, cv: cv.unwrap_or(1.0), bounds }))
        }
        (None, Some(min), Some(max)) if cv.is_none() => Ok(Some(Lengths::Uniform(min, max))),
        _ => Err(section.wrong(key, LENGTHS, "a table")),
    }
}

fn classes(section: &Section<'_>) -> Result<LatencyClasses, Error> {
    let mut classes: Vec<LatencyClass> = Vec::new();
    for class in section.sections("class")? {
        class.known(&["name", "ttft_ms", "tpot_ms"])?;
        let name = class.text("name")?.ok_or_else(|| class.missing("name", "a text"))?;
        if classes.iter().any(|other| other.name == name) {
            return Err(class.wrong("name", "another name than those before it", format!("'{name}'")));
        }
        classes.push(LatencyClass {
            name: name.to_owned(),
            ttft_ms_max: class.number("ttft_ms", 1e-3..=TARGET_MS_MAX)?,
            tpot_ms_max: class.number("tpot_ms", 1e-3..=TARGET_MS_MAX)?,
        });
    }
    Ok(LatencyClasses::new(classes))
}
