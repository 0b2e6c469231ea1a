//! Measurements that make one record: kept in memory, then printed and saved.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use dsde_bench::{Heading, Log, Record, Row, Run, Seen};

use super::measure::{Plan, Sink, Subject, measure};
use super::{BenchArgs, tell};
use crate::failure::Outcome;

/// Measures anew and prints a record.
pub(super) fn record_rows<S: Subject>(
    args: &BenchArgs,
    heading: Heading,
    plan: &Plan<'_, S::Request>,
    subject: &mut S,
) -> Outcome {
    let mut rows = Rows::default();
    let coverage = measure(plan, subject, &mut rows)?;
    tell(coverage);
    let Heading { machine, model, draft, settings } = heading;
    let record = Record { machine, model, draft, settings, rows: rows.finish() };
    if let Some(folder) = &args.out {
        save(folder, &record)?;
    }
    print(args, &record)
}

/// Keeps what makes the rows of a record.
#[derive(Default)]
struct Rows {
    /// One entry per cell and policy, in the order of appearance.
    repeats: Vec<Vec<(Run, Seen)>>,
}

impl Sink for Rows {
    fn log(&self) -> Option<&Log> {
        None
    }

    fn take(&mut self, run: Run, seen: Seen) -> Outcome {
        let is_same = |repeats: &&mut Vec<(Run, Seen)>| {
            repeats.iter().any(|(other, _)| other.conditions == run.conditions)
        };
        match self.repeats.iter_mut().find(is_same) {
            Some(repeats) => repeats.push((run, seen)),
            None => self.repeats.push(vec![(run, seen)]),
        }
        Ok(())
    }
}

impl Rows {
    /// Rows of whole loads; their parts belong into logs.
    fn finish(self) -> Vec<Row> {
        let is_whole = |row: &Row| row.conditions.segment.as_ref().is_none_or(|segment| segment.segment == 0);
        self.repeats.iter().filter_map(|repeats| Row::new(repeats)).filter(is_whole).collect()
    }
}

fn save(folder: &Path, record: &Record) -> Outcome {
    let files = [
        ("record.json", serde_json::to_string_pretty(record)? + "\n"),
        ("summary.md", dsde_bench::report::summary(record)),
        ("command.txt", format!("{}\n", record.settings.command)),
        ("machine.json", serde_json::to_string_pretty(&record.machine)? + "\n"),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        let context = format!("cannot write {}", path.display());
        fs::write(&path, text).map_err(|error| anyhow::Error::new(error).context(context))?;
    }
    Ok(())
}

fn print(args: &BenchArgs, record: &Record) -> Outcome {
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(record)?)?,
        false => write!(out, "{}", dsde_bench::report::summary(record))?,
    }
    Ok(())
}
