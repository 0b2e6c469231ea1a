//! A log of measured runs in JSON lines: written run by run, so that a long measurement can be ended and taken up again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::class::LatencyClass;
use crate::conditions::Conditions;
use crate::record::{Machine, Record, Row, Settings};
use crate::run::Run;

/// Largest accepted file, bytes: a million runs.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What all runs of a log share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heading {
    /// Where they were measured.
    pub machine: Machine,
    /// Target model as given on the command line.
    pub model: String,
    /// Draft as given on the command line.
    pub draft: String,
    /// Of the first command that wrote to the log.
    pub settings: Settings,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// The first one.
    Heading(Heading),
    /// Every other.
    Run(Run),
}

/// A log as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// What all runs share.
    pub heading: Heading,
    /// In the order in which they were measured.
    pub runs: Vec<Run>,
}

/// Means over repeats stand for a round.
impl From<Record> for Log {
    fn from(record: Record) -> Self {
        let Record { machine, model, draft, settings, rows } = record;
        let run = |row: Row| Run {
            conditions: row.conditions,
            round: 0,
            requests: row.requests,
            output_tokens: row.output_tokens,
            tokens_per_s: row.tokens_per_s.mean,
            ttft_ms: row.ttft_ms,
            tpot_ms: row.tpot_ms,
            drafted: row.drafted,
            verified: row.verified,
            accepted: row.accepted,
            steps: row.steps,
            digest: None,
            gap_ms: row.gap_ms,
            goodput: row.goodput.map(|goodput| goodput.mean),
            attained: row.attained,
            failures: row.failures,
        };
        let heading = Heading { machine, model, draft, settings };
        Self { heading, runs: rows.into_iter().map(run).collect() }
    }
}

/// A log that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened, read or written.
    #[error("cannot use {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More than a log may have.
    #[error("{file} is larger than {expected_max} bytes")]
    FileTooLarge {
        /// The file.
        file: String,
        /// What a log may have.
        expected_max: u64,
    },
    /// Not a line of a log.
    #[error("{file}:{line}: expected a heading in line 1 and runs below")]
    Json {
        /// The file.
        file: String,
        /// Line counted from 1.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A heading elsewhere than in the first line, or none there.
    #[error("{file}: expected a heading in line 1 and runs below, got it otherwise in line {line}")]
    Order {
        /// The file.
        file: String,
        /// Line counted from 1.
        line: usize,
    },
    /// The log was written under other settings, so its runs cannot be compared with new ones.
    #[error("{file} holds runs with {what} {expected}, not {got}; give another file")]
    Heading {
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
        /// In the file.
        expected: String,
        /// Asked for.
        got: String,
    },
}

impl Log {
    /// Reads a log, or a [`Record`] as a log of one round. A last line without line break was cut off while it was written and is
    /// left out.
    ///
    /// # Errors
    /// [`Error`] naming the file and, where there is one, the line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let mut text = String::new();
        let read = |text: &mut String| File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(text);
        let n_bytes = read(&mut text).map_err(|source| Error::Io { file: file.clone(), source })?;
        if n_bytes as u64 > FILE_BYTES_MAX {
            return Err(Error::FileTooLarge { file, expected_max: FILE_BYTES_MAX });
        }
        Self::parse(&file, &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, Error> {
        if let Ok(record) = serde_json::from_str::<Record>(text) {
            return Ok(record.into());
        }
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut log: Option<Self> = None;
        for (i, text) in whole.lines().enumerate() {
            let (file, line) = (file.to_owned(), i + 1);
            let parsed = serde_json::from_str(text);
            match (parsed.map_err(|source| Error::Json { file: file.clone(), line, source })?, &mut log) {
                (Line::Heading(heading), None) => log = Some(Self { heading, runs: Vec::new() }),
                (Line::Run(run), Some(log)) => log.runs.push(run),
                _ => return Err(Error::Order { file, line }),
            }
        }
        log.ok_or_else(|| Error::Order { file: file.to_owned(), line: 1 })
    }

    /// Adds the runs of another log of the same machine, models and settings; the number of requests may differ.
    ///
    /// * `path`: of the other log.
    ///
    /// # Errors
    /// [`Error::Heading`] naming what else differs.
    pub fn add(&mut self, path: &Path, other: Self) -> Result<(), Error> {
        let mut heading = other.heading;
        heading.settings.requests = self.heading.settings.requests;
        check_same(path, &heading, &self.heading)?;
        self.runs.extend(other.runs);
        Ok(())
    }

    /// Whether `conditions` were measured in `round`.
    pub fn has(&self, conditions: &Conditions, round: u32) -> bool {
        self.runs.iter().any(|run| run.round == round && run.conditions == *conditions)
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: PathBuf,
    /// What is in it.
    pub log: Log,
}

impl LogFile {
    /// Begins a log, or takes up one that was written under the same settings.
    ///
    /// # Errors
    /// If the file cannot be used or was written under other settings.
    pub fn open(path: &Path, heading: Heading) -> Result<Self, Error> {
        let io_error = |source| Error::Io { file: path.display().to_string(), source };
        let is_new = std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(io_error)?;
        if is_new {
            let log = Log { heading: heading.clone(), runs: Vec::new() };
            let mut begun = Self { file, path: path.to_path_buf(), log };
            begun.write(&Line::Heading(heading))?;
            return Ok(begun);
        }
        let log = Log::read(path)?;
        check_same(path, &log.heading, &heading)?;
        let end = whole_lines_len(&mut file).map_err(io_error)?;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(io_error)?;
        Ok(Self { file, path: path.to_path_buf(), log })
    }

    /// Appends a run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, run: Run) -> Result<(), Error> {
        self.write(&Line::Run(run.clone()))?;
        self.log.runs.push(run);
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<(), Error> {
        let text = serde_json::to_string(line).expect("numbers and texts have a JSON form") + "\n";
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|source| Error::Io { file: self.path.display().to_string(), source })
    }
}

/// Bytes up to the last line break.
fn whole_lines_len(file: &mut File) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end as u64 + 1))
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn in_words(classes: &[LatencyClass]) -> String {
    let words: Vec<String> = classes.iter().map(ToString::to_string).collect();
    if words.is_empty() { "none".to_owned() } else { words.join("; ") }
}

fn check_same(path: &Path, expected: &Heading, got: &Heading) -> Result<(), Error> {
    let facts = |heading: &Heading| {
        let Heading { machine, model, draft, settings } = heading;
        [
            ("processor", machine.cpu.clone()),
            ("kernels", machine.backend.clone()),
            ("model", model.clone()),
            ("draft", draft.clone()),
            ("version", settings.version.clone()),
            ("--max-tokens", settings.max_tokens.to_string()),
            ("--seed", settings.seed.to_string()),
            ("--requests", settings.requests.map_or_else(|| "by load".to_owned(), |n| n.to_string())),
            ("end of text ignored:", settings.ignore_eos.to_string()),
            ("--verification", settings.verification.clone()),
            ("--url", or_none(settings.url.as_ref())),
            ("--slo-ttft-ms", or_none(settings.slo_ttft_ms)),
            ("--slo-tpot-ms", or_none(settings.slo_tpot_ms)),
            ("--slo-classes", in_words(&settings.slo_classes)),
        ]
    };
    match facts(expected).into_iter().zip(facts(got)).find(|(expected, got)| expected != got) {
        None => Ok(()),
        Some(((what, expected), (_, got))) => {
            Err(Error::Heading { file: path.display().to_string(), what, expected, got })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Attained;
    use crate::load::Served;
    use crate::run::Seen;
    use dsde_engine::RequestTimeline;
    use std::time::Duration;

    fn heading() -> Heading {
        let machine = Machine {
            cpu: "a".to_owned(),
            cores: 2,
            isa: Vec::new(),
            memory_bytes: 1,
            os: "b".to_owned(),
            backend: "c".to_owned(),
        };
        let settings = Settings {
            command: "dsde bench".to_owned(),
            version: "1".to_owned(),
            max_tokens: 4,
            ignore_eos: true,
            seed: 0,
            requests: None,
            repeats: 2,
            verification: "block".to_owned(),
            ..Settings::default()
        };
        Heading { machine, model: "m".to_owned(), draft: "d".to_owned(), settings }
    }

    fn run(round: u32) -> Run {
        let conditions = Conditions {
            policy: "off".to_owned(),
            workload: "chat".to_owned(),
            concurrency: 1,
            temperature: 0.0,
            segment: None,
        };
        let timeline = RequestTimeline {
            first_token: Some(Duration::from_secs(1)),
            finished: Duration::from_secs(2),
            emitted: 4,
            steps: 4,
            ..RequestTimeline::default()
        };
        Run::closed(conditions, round, &Seen { timelines: vec![timeline], ..Seen::default() }).unwrap()
    }

    #[test]
    fn a_log_that_was_cut_off_is_taken_up_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        LogFile::open(&path, heading()).unwrap().push(run(0)).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"run\":{\"pol").unwrap();
        let other_command = Settings { command: "dsde bench --more".to_owned(), ..heading().settings };
        let mut log = LogFile::open(&path, Heading { settings: other_command, ..heading() }).unwrap();
        assert_eq!(log.log.runs, [run(0)]);
        assert!(log.log.has(&run(0).conditions, 0) && !log.log.has(&run(0).conditions, 1));
        log.push(run(1)).unwrap();
        let read = Log::read(&path).unwrap();
        assert_eq!((read.heading, read.runs), (heading(), vec![run(0), run(1)]));
    }

    #[test]
    fn runs_under_other_settings_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        LogFile::open(&path, heading()).unwrap();
        let other = Heading { model: "n".to_owned(), ..heading() };
        let error = LogFile::open(&path, other).unwrap_err().to_string();
        assert!(error.ends_with("holds runs with model m, not n; give another file"), "{error}");
    }

    #[test]
    fn logs_of_other_numbers_of_requests_are_added_and_no_others() {
        let other = |settings| Log { heading: Heading { settings, ..heading() }, runs: vec![run(1)] };
        let mut log = Log { heading: heading(), runs: vec![run(0)] };
        let more =
            Settings { requests: Some(64), command: "dsde bench --more".to_owned(), ..heading().settings };
        log.add(Path::new("more.jsonl"), other(more)).unwrap();
        assert_eq!((&log.heading, &log.runs), (&heading(), &vec![run(0), run(1)]));
        let longer = Settings { max_tokens: 5, ..heading().settings };
        let error = log.add(Path::new("longer.jsonl"), other(longer)).unwrap_err().to_string();
        assert_eq!(error, "longer.jsonl holds runs with --max-tokens 5, not 4; give another file");
    }

    #[test]
    fn what_is_no_log_is_refused_with_its_line() {
        let heading = serde_json::to_string(&Line::Heading(heading())).unwrap();
        let run = serde_json::to_string(&Line::Run(run(0))).unwrap();
        for (text, line) in [
            (String::new(), 1),
            (format!("{run}\n"), 1),
            (format!("{heading}\n{heading}\n"), 2),
            (format!("{heading}\n{run}\n{{}}\n"), 3),
        ] {
            match Log::parse("f", &text) {
                Err(Error::Order { line: got, .. } | Error::Json { line: got, .. }) => assert_eq!(got, line),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(Log::parse("f", &format!("{heading}\n{run}\n")).unwrap().runs.len(), 1);
    }

    #[test]
    fn a_part_of_a_changing_load_keeps_its_place_in_json() {
        let segment = crate::conditions::Segment { profile: "1-4@2s".to_owned(), segment: 2 };
        let conditions = Conditions { segment: Some(segment), ..run(0).conditions };
        let served = Served { time: Duration::from_secs(2), emitted: 10, ..Served::default() };
        let run = Run::profiled(conditions, 1, &served, &Seen::default()).unwrap();
        assert_eq!(run.tokens_per_s, 5.0);
        let json = serde_json::to_string(&run).unwrap();
        assert!(json.contains("\"segment\":2"), "{json}");
        assert_eq!(serde_json::from_str::<Run>(&json).unwrap(), run);
    }

    #[test]
    fn logs_of_earlier_versions_are_read() {
        let mut json = serde_json::to_value(run(0)).unwrap();
        for key in ["gap_ms", "goodput", "failures"] {
            json.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(serde_json::from_value::<Run>(json).unwrap(), run(0));
    }

    #[test]
    fn runs_of_other_latency_classes_are_another_log() {
        let class = |tpot_ms_max| LatencyClass {
            name: "tight".to_owned(),
            ttft_ms_max: None,
            tpot_ms_max: Some(tpot_ms_max),
        };
        let under = |classes: Vec<LatencyClass>| Heading {
            settings: Settings { slo_classes: classes, ..heading().settings },
            ..heading()
        };
        let check = |got| check_same(Path::new("log"), &under(vec![class(2.0)]), &got);
        assert!(check(under(vec![class(2.0)])).is_ok());
        let expected =
            "log holds runs with --slo-classes tight: TPOT of at most 2 ms, not none; give another file";
        assert_eq!(check(heading()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn goodput_needs_targets() {
        let timeline = RequestTimeline {
            first_token: Some(Duration::from_secs(1)),
            finished: Duration::from_secs(2),
            emitted: 4,
            ..RequestTimeline::default()
        };
        let goodput = |attained: &[u64]| {
            let of_class = |&attained: &u64| Attained { class: attained.to_string(), requests: 2, attained };
            let attained = attained.iter().map(of_class).collect();
            let seen = Seen { timelines: vec![timeline; 4], gaps: Vec::new(), attained };
            Run::closed(run(0).conditions, 0, &seen).unwrap().goodput
        };
        // Of two classes, 2 + 1 of 4 requests in 2 s.
        assert_eq!((goodput(&[]), goodput(&[2, 1]), goodput(&[0])), (None, Some(1.5), Some(0.0)));
    }
}
