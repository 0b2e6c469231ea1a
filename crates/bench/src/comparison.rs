//! A log of runs as a page for people: which policy is how fast where, how much that may be off, and what it costs not to know
//! the best fixed length. [`matrix`](crate::matrix) has the definitions.

use std::fmt::Write as _;

use crate::log::{Log, Run};
use crate::matrix::{Cell, Measured, Ratio, cells, fixed_len, mean_over_cells};
use crate::record::Conditions;
use crate::report::{self, Table, percent};
use crate::stats::{Quantiles, quantile};

/// The whole page in Markdown.
pub fn page(log: &Log) -> String {
    let cells = cells(log);
    let heading = &log.heading;
    let mut out = String::from("# Comparison of policies\n\n");
    out += &report::conditions(&heading.machine, &heading.model, &heading.draft, &heading.settings);
    out.push('\n');
    let _ = writeln!(out, "{}\n", facts(log, &cells));
    out.push_str(DEFINITIONS);
    out.push_str("\n## All conditions together\n\n");
    out += &overview(&cells).markdown();
    for (title, group) in groups(&cells) {
        let _ = writeln!(out, "\n## {title}\n\nTokens/s over those of `off`:\n");
        out += &speeds(&group).markdown();
        out.push('\n');
        out += &details(&group).markdown();
    }
    out.push('\n');
    out
}

const DEFINITIONS: &str = "\
All figures are measured. C: requests in flight; T: temperature; tokens/s: while C requests were in flight, mean over rounds; \
x off: tokens/s over those of `off` in the same round, geometric mean without the outer fifths of the rounds, ± half of its 95 % confidence interval; best fixed: the \
length with the most tokens/s, `off` being length 0; regret: share of the best fixed length's tokens/s that is missed, where \
the best length is chosen by the other rounds (negative: faster than it); accepted: of the verified tokens.\n";

/// What holds for the log as a whole.
fn facts(log: &Log, cells: &[Cell<'_>]) -> String {
    let n_rounds = log.runs.iter().map(|run| run.round + 1).max().unwrap_or(0);
    let widths = cells.iter().flat_map(|cell| {
        let others = cell.policies().iter().filter(|measured| measured.policy != "off");
        others.filter_map(|measured| cell.ratio_to_off(measured)?.half_width)
    });
    let mut widths: Vec<f64> = widths.collect();
    widths.sort_by(f64::total_cmp);
    let noise = match (quantile(&widths, 0.5), quantile(&widths, 0.9)) {
        (Some(p50), Some(p90)) => format!(
            "x off is known to ± {} in half of the conditions and to ± {} in nine of ten",
            percent(Some(p50)),
            percent(Some(p90))
        ),
        _ => "one round says nothing about noise".to_owned(),
    };
    let checks: Vec<(bool, &Cell<'_>)> =
        cells.iter().filter_map(|cell| Some((cell.is_lossless()?, cell))).collect();
    let differing: Vec<String> =
        checks.iter().filter(|(is_same, _)| !is_same).map(|(_, cell)| place(cell.conditions())).collect();
    let lossless = match differing.is_empty() {
        true if checks.is_empty() => "no greedy output to compare".to_owned(),
        true => format!("greedy output is the same under all policies in all {} conditions", checks.len()),
        false => format!("GREEDY OUTPUT DIFFERS between policies at {}", differing.join("; ")),
    };
    format!("{} runs, up to {n_rounds} rounds; {noise}; {lossless}.", log.runs.len())
}

/// One line per policy, over all cells that are no parts of others.
fn overview(cells: &[Cell<'_>]) -> Table {
    let whole: Vec<&Cell<'_>> = cells.iter().filter(|cell| !is_part(cell.conditions())).collect();
    let mut names: Vec<&str> = Vec::new();
    for measured in whole.iter().flat_map(|cell| cell.policies()) {
        if !names.contains(&measured.policy) {
            names.push(measured.policy);
        }
    }
    let mut table = Table::new(&[
        "policy",
        "cells",
        "x off",
        "worst x off",
        "regret",
        "worst regret",
        "where it is worst",
    ]);
    for name in names {
        table.push(overview_line(&whole, name));
    }
    table
}

fn overview_line(cells: &[&Cell<'_>], policy: &str) -> Vec<String> {
    let here: Vec<(&Cell<'_>, &Measured<'_>)> =
        cells.iter().filter_map(|&cell| Some((cell, cell.find(policy)?))).collect();
    let to_off = here.iter().filter_map(|(cell, measured)| cell.ratio_to_off(measured));
    let to_off: Vec<Ratio> = to_off.collect();
    let to_best = here.iter().filter_map(|(cell, measured)| Some((cell.ratio_to_best(measured)?, *cell)));
    let to_best: Vec<(Ratio, &Cell<'_>)> = to_best.collect();
    let slower = |a: &f64, b: &f64| a.total_cmp(b);
    let worst = to_best.iter().min_by(|a, b| a.0.mean.total_cmp(&b.0.mean));
    let ratios: Vec<Ratio> = to_best.iter().map(|(ratio, _)| *ratio).collect();
    vec![
        policy.to_owned(),
        here.len().to_string(),
        mean_over_cells(&to_off).map_or_else(absent, with_error),
        report::ratio(to_off.iter().map(|ratio| ratio.mean).min_by(slower)),
        mean_over_cells(&ratios).map_or_else(absent, regret_with_error),
        percent(worst.map(|(ratio, _)| 1.0 - ratio.mean)),
        worst.map_or_else(absent, |(_, cell)| place(cell.conditions())),
    ]
}

/// Cells of one workload and temperature, with a title.
fn groups<'c, 'a>(cells: &'c [Cell<'a>]) -> Vec<(String, Vec<&'c Cell<'a>>)> {
    let mut groups: Vec<(String, Vec<&Cell<'_>>)> = Vec::new();
    for cell in cells {
        let Conditions { workload, temperature, .. } = cell.conditions();
        let title = format!("{workload}, T = {temperature}");
        match groups.iter_mut().find(|(other, _)| *other == title) {
            Some((_, group)) => group.push(cell),
            None => groups.push((title, vec![cell])),
        }
    }
    for (_, group) in &mut groups {
        // The whole of a load after its parts, constant loads by their size.
        group.sort_by_key(|cell| {
            let Conditions { segment, concurrency, .. } = cell.conditions();
            let part = segment.as_ref().map(|segment| segment.segment.wrapping_sub(1));
            let constant = if part.is_none() { *concurrency } else { 0 };
            (segment.as_ref().map(|segment| segment.profile.clone()), part, constant)
        });
    }
    groups
}

/// Policies by loads.
fn speeds(group: &[&Cell<'_>]) -> Table {
    let loads: Vec<String> = group.iter().map(|cell| load(cell.conditions())).collect();
    let head: Vec<&str> = std::iter::once("policy").chain(loads.iter().map(String::as_str)).collect();
    let mut table = Table::new(&head);
    let mut names: Vec<&str> = Vec::new();
    for measured in group.iter().flat_map(|cell| cell.policies()) {
        if !names.contains(&measured.policy) {
            names.push(measured.policy);
        }
    }
    for name in names.iter().filter(|name| **name != "off") {
        let speed = |cell: &&Cell<'_>| cell.find(name).and_then(|measured| cell.ratio_to_off(measured));
        let cells = group.iter().map(|cell| speed(cell).map_or_else(absent, with_error));
        table.push(std::iter::once((*name).to_owned()).chain(cells).collect());
    }
    if group.iter().any(|cell| cell.policies().iter().any(|other| fixed_len(other.policy) > Some(0))) {
        let best = |cell: &&Cell<'_>| {
            let len = cell.best_fixed().and_then(|best| fixed_len(best.policy));
            len.map_or_else(absent, |len| format!("k={len}"))
        };
        table.push(std::iter::once("best fixed".to_owned()).chain(group.iter().map(best)).collect());
    }
    table
}

/// Everything else, one line per load and policy.
fn details(group: &[&Cell<'_>]) -> Table {
    let mut table = Table::new(&[
        "policy",
        "C",
        "rounds",
        "tokens/s",
        "x off",
        "regret",
        "TTFT p50 ms",
        "TPOT p50 ms",
        "TPOT p99 ms",
        "accepted",
        "emitted/step",
    ]);
    for cell in group {
        for measured in cell.policies() {
            table.push(detail(cell, measured));
        }
    }
    table
}

fn detail(cell: &Cell<'_>, measured: &Measured<'_>) -> Vec<String> {
    let sum = |count: fn(&Run) -> u64| measured.runs().map(count).sum::<u64>();
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let accepted = share(sum(|run| run.accepted), sum(|run| run.verified));
    let emitted = share(sum(|run| run.output_tokens), sum(|run| run.steps));
    vec![
        measured.policy.to_owned(),
        load(cell.conditions()),
        measured.runs().count().to_string(),
        mean(measured, |run| Some(run.tokens_per_s)).map_or_else(absent, |rate| format!("{rate:.1}")),
        cell.ratio_to_off(measured).map_or_else(absent, with_error),
        cell.ratio_to_best(measured).map_or_else(absent, regret_with_error),
        milliseconds(measured, |run| run.ttft_ms, |quantiles| quantiles.p50),
        milliseconds(measured, |run| run.tpot_ms, |quantiles| quantiles.p50),
        milliseconds(measured, |run| run.tpot_ms, |quantiles| quantiles.p99),
        percent(accepted),
        emitted.map_or_else(absent, |emitted| format!("{emitted:.2}")),
    ]
}

/// Mean over the rounds that have the value.
fn mean(measured: &Measured<'_>, value: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = measured.runs().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn milliseconds(
    measured: &Measured<'_>,
    time: fn(&Run) -> Option<Quantiles>,
    pick: fn(Quantiles) -> f64,
) -> String {
    mean(measured, |run| time(run).map(pick)).map_or_else(absent, |ms| format!("{ms:.2}"))
}

/// As in `1.07 ± 3 %`; without the second part where nothing varies.
fn with_error(Ratio { mean, half_width }: Ratio) -> String {
    match half_width.filter(|&half_width| half_width > 0.0) {
        None => format!("{mean:.2}"),
        Some(half_width) => format!("{mean:.2} ± {:.0} %", 100.0 * half_width),
    }
}

/// As in `5.0 ± 3 %`, of a ratio to the best fixed length.
fn regret_with_error(Ratio { mean, half_width }: Ratio) -> String {
    let regret = 100.0 * (1.0 - mean);
    match half_width.filter(|&half_width| half_width > 0.0) {
        None => format!("{regret:.1} %"),
        Some(half_width) => format!("{regret:.1} ± {:.0} %", 100.0 * half_width),
    }
}

fn is_part(conditions: &Conditions) -> bool {
    conditions.segment.as_ref().is_some_and(|segment| segment.segment > 0)
}

/// Requests in flight: `16`, all of a load `1-16@10s`, or its second part `#2: 16`.
fn load(conditions: &Conditions) -> String {
    match &conditions.segment {
        None => conditions.concurrency.to_string(),
        Some(segment) if segment.segment == 0 => segment.profile.clone(),
        Some(segment) => format!("#{}: {}", segment.segment, conditions.concurrency),
    }
}

fn place(conditions: &Conditions) -> String {
    let Conditions { workload, temperature, .. } = conditions;
    format!("{workload}, T={temperature}, C={}", load(conditions))
}

fn absent() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::log;
    use crate::record::Segment;

    /// The cells of the line that begins with `name`, less the outer bars.
    fn line(page: &str, name: &str) -> Vec<String> {
        let line = page.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap();
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn the_overview_has_means_and_the_worst_cell() {
        let mut log =
            log(&[("off", &[100.0, 100.0]), ("fixed:k=2", &[150.0, 150.0]), ("auto", &[120.0, 120.0])]);
        let mut others = log.runs.clone();
        for run in &mut others {
            run.conditions.workload = "code".to_owned();
            // Here the fixed length loses to off.
            run.tokens_per_s = if run.conditions.policy == "fixed:k=2" { 50.0 } else { 100.0 };
        }
        log.runs.extend(others);
        let page = page(&log);
        // sqrt(1.2 * 1.0).
        // Geometric mean of 0.8 and 1.
        let expected = ["auto", "2", "1.10", "1.00", "10.6 %", "20.0 %", "chat, T=0, C=4"];
        assert_eq!(line(&page, "auto"), expected);
        // sqrt(1.5 * 0.5); 1 - sqrt(1 * 0.5).
        let expected = ["fixed:k=2", "2", "0.87", "0.50", "29.3 %", "50.0 %", "code, T=0, C=4"];
        assert_eq!(line(&page, "fixed:k=2"), expected);
        assert!(page.contains("12 runs, up to 2 rounds;") && page.contains("in all 2 conditions"), "{page}");
        assert!(page.contains("## chat, T = 0\n") && page.contains("## code, T = 0\n"), "{page}");
        assert_eq!(line(page.split("## code").nth(1).unwrap(), "best fixed"), ["best fixed", "k=0"]);
    }

    #[test]
    fn a_difference_in_greedy_output_is_not_overlooked() {
        let mut log = log(&[("off", &[100.0]), ("auto", &[120.0])]);
        log.runs[1].digest = Some("other".to_owned());
        assert!(page(&log).contains("GREEDY OUTPUT DIFFERS between policies at chat, T=0, C=4"));
    }

    #[test]
    fn parts_of_a_load_are_columns_and_do_not_count_twice() {
        let mut log = log(&[("off", &[100.0]), ("auto", &[120.0])]);
        let whole = log.runs.clone();
        for (part, speed) in [(1, 2.0), (2, 0.5)] {
            log.runs.extend(whole.iter().cloned().map(|mut run| {
                let segment = Segment { profile: "1-4@2s".to_owned(), segment: part };
                run.conditions.segment = Some(segment);
                run.tokens_per_s *= if run.conditions.policy == "auto" { speed } else { 1.0 };
                run
            }));
        }
        for run in &mut log.runs[..2] {
            run.conditions.segment = Some(Segment { profile: "1-4@2s".to_owned(), segment: 0 });
        }
        let page = page(&log);
        assert_eq!(line(&page, "auto")[..3], ["auto", "1", "1.20"]);
        let group = page.split("## chat").nth(1).unwrap();
        assert_eq!(line(group, "policy"), ["policy", "#1: 4", "#2: 4", "1-4@2s"]);
        assert_eq!(line(group, "auto"), ["auto", "2.40", "0.60", "1.20"]);
    }
}
