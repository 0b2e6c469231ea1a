//! `[acceptance]`: where drafts are accepted.

use std::path::Path;
use std::sync::Arc;

use super::beside;
use super::section::Section;
use crate::error::Error;
use crate::process::ties::{self, Ties};
use crate::process::{Process, Recording, Regime, Regimes, answers};
use crate::trace;

pub(super) struct Acceptance {
    /// Of greedy requests, and of sampled ones.
    pub(super) processes: [Process; 2],
    pub(super) recording: Option<Arc<Recording>>,
}

impl Acceptance {
    /// Whether it is known what requests said.
    pub(super) fn has_answers(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| recording.has_answers())
    }

    /// Refuses answers of another model than the target.
    pub(super) fn check_tokens(&self, vocab_len: u32) -> Result<(), Error> {
        let largest = self.recording.as_ref().and_then(|recording| recording.largest_token());
        match largest.filter(|&token| token >= vocab_len) {
            None => Ok(()),
            Some(token) => Err(Error::Value {
                key: "acceptance.answers".to_owned(),
                expected: format!("answers of the target, whose tokens are below {vocab_len}"),
                got: format!("token {token}"),
            }),
        }
    }
}

/// Regimes of a text where a scenario names none: longer easy stretches and shorter hard ones. Together with [`SPREAD_REQUESTS`] they have
/// the spread over all places (5.4 and 1.75 log-odds), the spread over requests (1.6 and 0.5) and about the correlation of places that lie
/// up to 16 apart (0.1 to 0.15) of this project's embedded pair, greedy and at temperature 1. Measured as [`ties`](crate::process::ties) are.
const REGIMES: [[Regime; 2]; 2] = [
    [Regime { shift: 0.9, run: 40.0, spread: 4.7 }, Regime { shift: -2.4, run: 15.0, spread: 5.2 }],
    [Regime { shift: 0.3, run: 40.0, spread: 1.55 }, Regime { shift: -0.8, run: 15.0, spread: 1.7 }],
];
/// Standard deviation over requests where a scenario names none, log-odds; greedy and sampled.
const SPREAD_REQUESTS: [f64; 2] = [1.6, 0.5];
/// Largest shift and spread, log-odds: beyond it everything is accepted or nothing.
const ODDS_MAX: f64 = 20.0;
/// Signals of greedy and of sampled requests.
const TIES: [&Ties; 2] = [&ties::GREEDY, &ties::SAMPLED];

pub(super) fn read(section: &Section<'_>, folder: &Path) -> Result<Acceptance, Error> {
    let kinds = ["independent", "regimes", "trace"];
    let kind = section.word("process", &kinds)?;
    section.known(keys(kind))?;
    let kind = kind.ok_or_else(|| section.missing("process", format!("one of: {}", kinds.join(", "))))?;
    if kind == "trace" {
        return recorded(section, folder);
    }
    let greedy = section.number("rate", 0.0..=1.0)?;
    let greedy = greedy
        .ok_or_else(|| section.missing("rate", "the share of drafted tokens that are accepted, 0..=1"))?;
    let rates = [greedy, section.number("rate_sampled", 0.0..=1.0)?.unwrap_or(greedy)];
    let processes = match kind {
        "independent" => [0, 1].map(|i| Regimes::independent(rates[i], TIES[i])),
        _ => regimes(section, rates)?,
    };
    Ok(Acceptance { processes: processes.map(Process::Regimes), recording: None })
}

/// Each process has keys of its own.
fn keys(process: Option<&str>) -> &'static [&'static str] {
    match process {
        Some("independent") => &["process", "rate", "rate_sampled"],
        Some("trace") => &["process", "files", "temperature", "answers"],
        Some(_) => &["process", "rate", "rate_sampled", "spread_requests", "regimes"],
        None => &[
            "process",
            "rate",
            "rate_sampled",
            "spread_requests",
            "regimes",
            "files",
            "temperature",
            "answers",
        ],
    }
}

fn regimes(section: &Section<'_>, rates: [f64; 2]) -> Result<[Regimes; 2], Error> {
    let spread = section.number("spread_requests", 0.0..=ODDS_MAX)?;
    let mut named = Vec::new();
    for regime in section.sections("regimes")? {
        regime.known(&["shift", "run", "spread"])?;
        named.push(Regime {
            shift: regime.number("shift", -ODDS_MAX..=ODDS_MAX)?.unwrap_or(0.0),
            run: regime
                .number("run", 1.0..=1e9)?
                .ok_or_else(|| regime.missing("run", "places, at least 1"))?,
            spread: regime.number("spread", 0.0..=ODDS_MAX)?.unwrap_or(0.0),
        });
    }
    Ok([0, 1].map(|i| {
        let regimes = if named.is_empty() { REGIMES[i].to_vec() } else { named.clone() };
        Regimes::new(rates[i], spread.unwrap_or(SPREAD_REQUESTS[i]), regimes, TIES[i])
    }))
}

fn recorded(section: &Section<'_>, folder: &Path) -> Result<Acceptance, Error> {
    let files = section.texts("files")?;
    let files =
        files.ok_or_else(|| section.missing("files", "a trace, or a list of traces of the same requests"))?;
    let temperature = section.number("temperature", 0.0..=2.0)?.unwrap_or(0.0);
    let mut runs = Vec::new();
    for file in &files {
        runs.extend(trace::read(&beside(folder, file))?);
    }
    let mut recording = Recording::of(&runs, temperature, &beside(folder, files[0]))?;
    if let Some(file) = section.text("answers")? {
        let path = beside(folder, file);
        recording = recording.with_answers(&answers::read(&path)?, &path)?;
    }
    let recording = Arc::new(recording);
    let processes = [(); 2].map(|()| Process::Recorded(recording.clone()));
    Ok(Acceptance { processes, recording: Some(recording) })
}
