//! Tables for people, from the rows of a [`Record`].

use std::fmt::Write as _;

use crate::class::Attained;
use crate::record::{Machine, Record, Row, Settings};
use crate::stats::{Quantiles, Summary};

/// A table of text cells, rendered in aligned Markdown that also reads well in a terminal.
#[derive(Clone, Debug, Default)]
pub struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head; the first column is aligned left, the others right.
    pub fn new(head: &[&str]) -> Self {
        Self { lines: vec![head.iter().map(ToString::to_string).collect()] }
    }

    /// Appends a line of as many cells as the head has.
    ///
    /// # Panics
    /// If the number of cells differs from the head's; that is a bug of the caller.
    pub fn push(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.lines[0].len(), "a table line has one cell per column");
        self.lines.push(cells);
    }

    /// The table as Markdown, one line per row, ending with a line break.
    pub fn markdown(&self) -> String {
        let width = |column: usize| self.lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> =
            (0..self.lines[0].len()).map(|column| width(column).unwrap_or(0).max(3)).collect();
        let mut out = String::new();
        for (i, line) in self.lines.iter().enumerate() {
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let fill = " ".repeat(width - cell.chars().count());
                let (before, after) = if column == 0 { ("", &*fill) } else { (&*fill, "") };
                let _ = write!(out, "| {before}{cell}{after} ");
            }
            out.push_str("|\n");
            if i == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let end = if column == 0 { "-" } else { ":" };
                    let _ = write!(out, "|{}{end}", "-".repeat(width + 1));
                }
                out.push_str("|\n");
            }
        }
        out
    }
}

/// One table per workload: throughput, its ratio to `off`, latencies and what speculation achieved.
pub fn tables(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.conditions.workload.as_str()) {
            names.push(&row.conditions.workload);
        }
    }
    for name in names {
        let _ = writeln!(out, "### {name}\n");
        out.push_str(&workload_table(rows, name).markdown());
        out.push('\n');
    }
    out
}

fn workload_table(rows: &[Row], name: &str) -> Table {
    let rows_here = || rows.iter().filter(|row| row.conditions.workload == name);
    let classes = Attained::sums(rows_here().flat_map(|row| &row.attained));
    let mut head = vec![
        "policy",
        "C",
        "T",
        "tokens/s",
        "sd",
        "x off",
        "TTFT p50 ms",
        "TPOT p50 ms",
        "TPOT p99 ms",
        "accepted",
        "emitted/step",
    ];
    let met: Vec<String> = classes.iter().map(|class| format!("met {}", class.class)).collect();
    if !met.is_empty() {
        head.push("goodput");
        head.extend(met.iter().map(String::as_str));
    }
    let mut table = Table::new(&head);
    for row in rows_here() {
        let mut cells = vec![
            row.conditions.policy.clone(),
            row.conditions.concurrency.to_string(),
            row.conditions.temperature.to_string(),
            format!("{:.1}", row.tokens_per_s.mean),
            deviation(row.tokens_per_s, 1),
            ratio(ratio_to_off(rows, row)),
            milliseconds(row.ttft_ms, |q| q.p50),
            milliseconds(row.tpot_ms, |q| q.p50),
            milliseconds(row.tpot_ms, |q| q.p99),
            percent(row.acceptance_rate),
            row.emitted_per_step.map_or_else(absent, |mean| format!("{mean:.2}")),
        ];
        if !classes.is_empty() {
            cells.push(row.goodput.map_or_else(absent, |goodput| format!("{:.2}", goodput.mean)));
            cells.extend(classes.iter().map(|class| percent(attainment(&row.attained, &class.class))));
        }
        table.push(cells);
    }
    table
}

/// The share of a class's requests that met their latency targets; `None` if it had none.
pub(crate) fn attainment(attained: &[Attained], class: &str) -> Option<f64> {
    attained.iter().find(|attained| attained.class == class)?.share()
}

/// Mean throughput of `row` over that of the policy `off` in the same conditions; `None` if `off` was not measured there.
pub fn ratio_to_off(rows: &[Row], row: &Row) -> Option<f64> {
    let off = rows.iter().find(|other| {
        other.conditions.policy == "off"
            && other.conditions.workload == row.conditions.workload
            && other.conditions.concurrency == row.conditions.concurrency
            && other.conditions.temperature == row.conditions.temperature
    })?;
    (off.tokens_per_s.mean > 0.0).then(|| row.tokens_per_s.mean / off.tokens_per_s.mean)
}

/// A standard deviation, if there is one.
///
/// * `n_digits`: behind the point.
pub fn deviation(summary: Summary, n_digits: usize) -> String {
    match summary.n {
        0 | 1 => "-".to_owned(),
        _ => format!("{:.n_digits$}", summary.sd),
    }
}

/// A page with the conditions and all tables.
pub fn summary(record: &Record) -> String {
    let Record { machine, model, draft, settings, rows } = record;
    let mut out = String::from("# Benchmark\n\n");
    out += &conditions(machine, model, draft, settings);
    let _ = writeln!(out, "* measured runs per row: {}\n", settings.repeats);
    out.push_str("All figures are measured. C: requests in flight (closed loop); T: temperature; tokens/s: while C requests ");
    out.push_str("were in flight; sd: its standard deviation over runs; x off: mean tokens/s over that of `off` in the same conditions; accepted: of ");
    out.push_str("the verified tokens");
    if rows.iter().any(|row| !row.attained.is_empty()) {
        out.push_str("; goodput: requests per second that met their latency targets; met: share of a class's requests that did");
    }
    out.push_str(".\n\n");
    out.push_str(&tables(rows));
    out
}

/// Where and how something was measured, as a list.
pub fn conditions(machine: &Machine, model: &str, draft: &str, settings: &Settings) -> String {
    let mut out = String::new();
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let place = format!("{}, {} logical cores, {gib:.1} GiB, {}", machine.cpu, machine.cores, machine.os);
    let _ = match &settings.url {
        Some(url) => writeln!(out, "* Server: {url}; model: {model}\n* Client: {place}"),
        None => writeln!(
            out,
            "* Machine: {place}\n* Kernels: {}\n* Model: {model}; draft: {draft}",
            machine.backend
        ),
    };
    let _ = write!(
        out,
        "* At most {} tokens per request, end of text {}, seed {}",
        settings.max_tokens,
        if settings.ignore_eos { "ignored" } else { "respected" },
        settings.seed,
    );
    let _ = match settings.url {
        Some(_) => writeln!(out),
        None => writeln!(out, ", {} verification", settings.verification),
    };
    for (what, target) in [("TTFT", settings.slo_ttft_ms), ("TPOT", settings.slo_tpot_ms)] {
        if let Some(target) = target {
            let _ = writeln!(out, "* Latency target: {what} of at most {target} ms");
        }
    }
    if !settings.slo_classes.is_empty() {
        let classes: Vec<String> = settings.slo_classes.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "* Requests take latency classes in turns: {}", classes.join("; "));
    }
    let _ = writeln!(out, "* dsde {}: `{}`", settings.version, settings.command);
    out
}

/// A share as a percentage, or a dash.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(absent, |share| format!("{:.1} %", 100.0 * share))
}

/// A ratio with two decimals, or a dash.
pub fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(absent, |ratio| format!("{ratio:.2}"))
}

fn milliseconds(quantiles: Option<Quantiles>, pick: impl Fn(Quantiles) -> f64) -> String {
    quantiles.map_or_else(absent, |quantiles| format!("{:.2}", pick(quantiles)))
}

/// What stands where there is nothing to tell.
pub(crate) fn absent() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Conditions;

    fn row(policy: &str, concurrency: u32, tokens_per_s: f64) -> Row {
        Row {
            conditions: Conditions {
                policy: policy.to_owned(),
                workload: "chat".to_owned(),
                concurrency,
                temperature: 0.0,
                segment: None,
            },
            requests: 1,
            output_tokens: 4,
            tokens_per_s: Summary::of(&[tokens_per_s]).unwrap(),
            ttft_ms: None,
            tpot_ms: None,
            e2e_ms: None,
            acceptance_rate: Some(0.625),
            emitted_per_step: Some(2.0),
            drafted: 0,
            verified: 8,
            accepted: 5,
            steps: 2,
            gap_ms: None,
            goodput: None,
            attained: Vec::new(),
            failures: None,
        }
    }

    #[test]
    fn ratios_compare_with_off_in_the_same_conditions_only() {
        let rows = [row("off", 1, 100.0), row("dsde", 1, 150.0), row("dsde", 4, 90.0)];
        let ratios: Vec<_> = rows.iter().map(|row| ratio_to_off(&rows, row)).collect();
        assert_eq!(ratios, [Some(1.0), Some(1.5), None]);
    }

    #[test]
    fn a_table_is_aligned_markdown() {
        let mut table = Table::new(&["name", "n"]);
        table.push(vec!["a".to_owned(), "10".to_owned()]);
        table.push(vec!["longer".to_owned(), "7".to_owned()]);
        let expected = "\
| name   |   n |
|--------|----:|
| a      |  10 |
| longer |   7 |
";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn every_workload_has_its_own_table_and_missing_values_are_dashes() {
        let mut other = row("off", 1, 10.0);
        other.conditions.workload = "code".to_owned();
        let text = tables(&[row("dsde", 4, 90.0), other]);
        assert_eq!(text.matches("### ").count(), 2);
        let line = text.lines().find(|line| line.contains("dsde")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        // The outer bars make empty cells at both ends.
        assert_eq!(cells, ["", "dsde", "4", "0", "90.0", "-", "-", "-", "-", "-", "62.5 %", "2.00", ""]);
    }
    #[test]
    fn attainment_has_a_column_per_class_where_there_are_targets() {
        let of = |class: &str, attained| Attained { class: class.to_owned(), requests: 4, attained };
        let mut with_targets = row("dsde", 4, 90.0);
        with_targets.goodput = Summary::of(&[2.5]);
        with_targets.attained = vec![of("tight", 1), of("loose", 4)];
        let text = tables(&[with_targets, row("off", 4, 80.0)]);
        let cells = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(cells("policy")[12..], ["goodput", "met tight", "met loose", ""]);
        assert_eq!(cells("dsde")[12..], ["2.50", "25.0 %", "100.0 %", ""]);
        assert_eq!(cells("off")[12..], ["-", "-", "-", ""]);
        assert!(!tables(&[row("off", 4, 80.0)]).contains("goodput"));
    }
}
