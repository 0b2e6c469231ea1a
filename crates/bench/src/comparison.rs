//! A log of runs as a page for people: which policy is how fast where, how much that may be off, and what it costs not to know
//! the best fixed length. [`matrix`](crate::matrix) has the definitions.

use std::fmt::Write as _;

use crate::class::Attained;
use crate::conditions::Conditions;
use crate::log::Log;
use crate::matrix::{Cell, Measured, Ratio, cells, fixed_len, mean_over_cells};
use crate::metrics::Totals;
use crate::report::{self, Table, absent, percent};
use crate::run::Run;
use crate::stats::quantile;

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
    out += &summaries(&cells);
    for (title, group) in groups(&cells) {
        let _ = write!(out, "\n## {title}\n");
        out += &measures(&group);
    }
    out.push('\n');
    out
}

const DEFINITIONS: &str = "\
All figures are measured. C: requests in flight; T: temperature; tokens/s: from the first end of a request until fewer than C are left, mean over rounds; \
x off: tokens/s over those of `off` in the same round, geometric mean without the outer fifths of the rounds, ± half of its 95 % confidence interval; best fixed: the \
length with the most tokens/s, `off` being length 0; auto over it: tokens/s of `auto` over those of the policy, likewise; \
means over conditions are geometric, their ± is from the rounds of each, or where a condition has one round, from the spread over conditions; regret: share of the best fixed length's tokens/s that is missed, where \
the best length is chosen by the other rounds (negative: faster than it); TTFT, TPOT, gap: quantiles over requests, of gaps \
over all of them, mean over rounds; goodput: requests per second that meet their latency targets; targets met: share of a class's requests that do, over all rounds; accepted: of the verified tokens.\n";

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
    let failures = log.runs.iter().filter_map(|run| run.failures).reduce(|sum, failures| sum.and(&failures));
    let lost = failures.and_then(|failures| failures.in_words());
    let lost = lost.map_or_else(String::new, |words| format!("; REQUESTS WITHOUT ANSWER: {words}"));
    format!("{} runs, up to {n_rounds} rounds; {noise}; {lossless}{lost}.", log.runs.len())
}

/// One line per policy, over all cells that are no parts of others.
fn overview(cells: &[Cell<'_>]) -> Table {
    let whole: Vec<&Cell<'_>> = cells.iter().filter(|cell| !is_part(cell.conditions())).collect();
    let mut table = Table::new(&[
        "policy",
        "conditions",
        "x off",
        "auto over it",
        "worst x off",
        "regret",
        "worst regret",
        "where it is worst",
    ]);
    for name in policies(whole.iter().copied()) {
        table.push(overview_line(&whole, name));
    }
    table
}

fn overview_line(cells: &[&Cell<'_>], policy: &str) -> Vec<String> {
    let here: Vec<(&Cell<'_>, &Measured<'_>)> =
        cells.iter().filter_map(|&cell| Some((cell, cell.find(policy)?))).collect();
    let to_off = here.iter().filter_map(|(cell, measured)| cell.ratio_to_off(measured));
    let to_off: Vec<Ratio> = to_off.collect();
    let auto_over = here.iter().filter(|_| policy != "auto");
    let auto_over = auto_over.filter_map(|(cell, measured)| cell.ratio(cell.find("auto")?, measured));
    let auto_over: Vec<Ratio> = auto_over.collect();
    let to_best = here.iter().filter_map(|(cell, measured)| Some((cell.ratio_to_best(measured)?, *cell)));
    let to_best: Vec<(Ratio, &Cell<'_>)> = to_best.collect();
    let slower = |a: &f64, b: &f64| a.total_cmp(b);
    let worst = to_best.iter().min_by(|a, b| a.0.mean.total_cmp(&b.0.mean));
    let ratios: Vec<Ratio> = to_best.iter().map(|(ratio, _)| *ratio).collect();
    vec![
        policy.to_owned(),
        here.len().to_string(),
        mean_over_cells(&to_off).map_or_else(absent, with_error),
        mean_over_cells(&auto_over).map_or_else(absent, with_error),
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

/// The head of a column and the cells that it stands for.
type Column<'c, 'a> = (String, Vec<&'c Cell<'a>>);

/// Policies by requests in flight and by workload, over everything else.
fn summaries(cells: &[Cell<'_>]) -> String {
    let constant = || cells.iter().filter(|cell| cell.conditions().segment.is_none());
    let mut loads: Vec<u32> = constant().map(|cell| cell.conditions().concurrency).collect();
    loads.sort_unstable();
    loads.dedup();
    let by_load = |load: &u32| {
        (load.to_string(), constant().filter(|cell| cell.conditions().concurrency == *load).collect())
    };
    let workloads = distinct(constant().map(|cell| cell.conditions().workload.as_str()));
    let by_workload = |workload: &&str| {
        (workload.to_string(), constant().filter(|cell| cell.conditions().workload == **workload).collect())
    };
    let by_load: Vec<Column<'_, '_>> = loads.iter().map(by_load).collect();
    let by_workload: Vec<Column<'_, '_>> = workloads.iter().map(by_workload).collect();
    summary("C", &by_load) + &summary("workload", &by_workload)
}

/// Means over the cells of every column; nothing where these are one column or one cell each.
fn summary(by: &str, columns: &[Column<'_, '_>]) -> String {
    if columns.len() < 2 || columns.iter().all(|(_, cells)| cells.len() < 2) {
        return String::new();
    }
    let mean = |cells: &[&Cell<'_>], policy: &str, ratio: CellRatio| {
        let ratios: Vec<Ratio> = cells.iter().filter_map(|cell| ratio(cell, cell.find(policy)?)).collect();
        mean_over_cells(&ratios)
    };
    let speed = table(columns, |cells, policy| mean(cells, policy, to_off).map(with_error));
    let regret = table(columns, |cells, policy| mean(cells, policy, to_best).map(regret_with_error));
    let mut out = String::new();
    for (title, table) in [("x off", speed), ("Regret", regret)] {
        if let Some(table) = table {
            let markdown = table.markdown();
            let _ = write!(out, "\n{title} by {by}, mean over all else:\n\n{markdown}");
        }
    }
    out
}

/// A policy's throughput in a cell over another one's.
type CellRatio = fn(&Cell<'_>, &Measured<'_>) -> Option<Ratio>;

/// Of all policies but `off` itself.
fn to_off(cell: &Cell<'_>, measured: &Measured<'_>) -> Option<Ratio> {
    cell.ratio_to_off(measured).filter(|_| measured.policy != "off")
}

/// Of every policy.
fn to_best(cell: &Cell<'_>, measured: &Measured<'_>) -> Option<Ratio> {
    cell.ratio_to_best(measured)
}

/// Something that is told of every policy under every load.
struct Measure {
    title: &'static str,
    value: fn(&Cell<'_>, &Measured<'_>) -> Option<String>,
}

const MEASURES: [Measure; 11] = [
    Measure { title: "x off", value: |cell, measured| to_off(cell, measured).map(with_error) },
    Measure { title: "Regret", value: |cell, measured| to_best(cell, measured).map(regret_with_error) },
    Measure {
        title: "Tokens/s",
        value: |_, measured| mean(measured, |run| Some(run.tokens_per_s)).map(|rate| format!("{rate:.1}")),
    },
    Measure { title: "TTFT p50, ms", value: |_, measured| mean_of(measured, |run| Some(run.ttft_ms?.p50)) },
    Measure { title: "TTFT p99, ms", value: |_, measured| mean_of(measured, |run| Some(run.ttft_ms?.p99)) },
    Measure { title: "TPOT p50, ms", value: |_, measured| mean_of(measured, |run| Some(run.tpot_ms?.p50)) },
    Measure { title: "TPOT p99, ms", value: |_, measured| mean_of(measured, |run| Some(run.tpot_ms?.p99)) },
    Measure { title: "Gap p99, ms", value: |_, measured| mean_of(measured, |run| Some(run.gap_ms?.p99)) },
    Measure { title: "Goodput, requests/s", value: |_, measured| mean_of(measured, |run| run.goodput) },
    Measure {
        title: "Accepted",
        value: |_, measured| Some(percent(Some(totals(measured).acceptance_rate()?))),
    },
    Measure {
        title: "Emitted per step",
        value: |_, measured| totals(measured).emitted_per_step().map(|mean| format!("{mean:.2}")),
    },
];

/// Every measure that some policy has, policies by loads.
fn measures(group: &[&Cell<'_>]) -> String {
    let columns: Vec<Column<'_, '_>> =
        group.iter().map(|cell| (load(cell.conditions()), vec![*cell])).collect();
    let mut out = String::new();
    for (i, Measure { title, value }) in MEASURES.iter().enumerate() {
        let of =
            |cells: &[&Cell<'_>], policy: &str| cells.iter().find_map(|cell| value(cell, cell.find(policy)?));
        let Some(mut table) = table(&columns, of) else { continue };
        if i == 0 {
            push_best_fixed(&mut table, group);
        }
        let _ = write!(out, "\n{title}:\n\n{}", table.markdown());
    }
    for class in distinct(runs(group).flat_map(|run| run.attained.iter().map(|attained| &attained.class))) {
        let of = |cells: &[&Cell<'_>], policy: &str| {
            cells.iter().find_map(|cell| attainment(cell.find(policy)?, class))
        };
        if let Some(table) = table(&columns, of) {
            let _ = write!(out, "\nTargets met, {class}:\n\n{}", table.markdown());
        }
    }
    out
}

fn runs<'c>(group: &'c [&'c Cell<'_>]) -> impl Iterator<Item = &'c Run> {
    group.iter().flat_map(|cell| cell.policies()).flat_map(Measured::runs)
}

/// The share of a class's requests, over all rounds, that met their latency targets.
fn attainment(measured: &Measured<'_>, class: &str) -> Option<String> {
    let sums = Attained::sums(measured.runs().flat_map(|run| &run.attained));
    report::attainment(&sums, class).map(|share| percent(Some(share)))
}

fn push_best_fixed(table: &mut Table, group: &[&Cell<'_>]) {
    if group.iter().any(|cell| cell.policies().iter().any(|other| fixed_len(other.policy) > Some(0))) {
        let best = |cell: &&Cell<'_>| {
            let len = cell.best_fixed().and_then(|best| fixed_len(best.policy));
            len.map_or_else(absent, |len| format!("k={len}"))
        };
        table.push(std::iter::once("best fixed".to_owned()).chain(group.iter().map(best)).collect());
    }
}

/// Policies that have any value, by columns; `None` if none has.
fn table(columns: &[Column<'_, '_>], value: impl Fn(&[&Cell<'_>], &str) -> Option<String>) -> Option<Table> {
    let heads = columns.iter().map(|(head, _)| head.as_str());
    let mut table = Table::new(&std::iter::once("policy").chain(heads).collect::<Vec<_>>());
    let mut is_empty = true;
    for name in policies(columns.iter().flat_map(|(_, cells)| cells).copied()) {
        let values: Vec<Option<String>> = columns.iter().map(|(_, cells)| value(cells, name)).collect();
        if values.iter().any(Option::is_some) {
            is_empty = false;
            let values = values.into_iter().map(|value| value.unwrap_or_else(absent));
            table.push(std::iter::once(name.to_owned()).chain(values).collect());
        }
    }
    (!is_empty).then_some(table)
}

/// In the order of appearance.
pub(crate) fn policies<'c, 'a: 'c>(cells: impl Iterator<Item = &'c Cell<'a>>) -> Vec<&'a str> {
    distinct(cells.flat_map(Cell::policies).map(|measured| measured.policy))
}

/// Every item once, in the order of appearance.
pub(crate) fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut distinct, item| {
        if !distinct.contains(&item) {
            distinct.push(item);
        }
        distinct
    })
}

fn totals(measured: &Measured<'_>) -> Totals {
    measured.runs().fold(Totals::default(), Totals::and)
}

/// Mean over the rounds that have the value.
fn mean(measured: &Measured<'_>, value: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = measured.runs().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn mean_of(measured: &Measured<'_>, value: impl Fn(&Run) -> Option<f64>) -> Option<String> {
    mean(measured, value).map(|mean| format!("{mean:.2}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Segment;
    use crate::matrix::tests::log;

    /// The cells of the line that begins with `name`, less the outer bars.
    fn line(page: &str, name: &str) -> Vec<String> {
        let line = page.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap();
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn the_overview_has_means_and_the_worst_condition() {
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
        let expected = ["auto", "2", "1.10", "-", "1.00", "10.6 %", "20.0 %", "chat, T=0, C=4"];
        assert_eq!(line(&page, "auto"), expected);
        // sqrt(1.5 * 0.5); sqrt(120 / 150 * 100 / 50); 1 - sqrt(1 * 0.5).
        let expected = ["fixed:k=2", "2", "0.87", "1.26", "0.50", "29.3 %", "50.0 %", "code, T=0, C=4"];
        assert_eq!(line(&page, "fixed:k=2"), expected);
        assert!(page.contains("12 runs, up to 2 rounds;") && page.contains("in all 2 conditions"), "{page}");
        assert!(page.contains("## chat, T = 0\n") && page.contains("## code, T = 0\n"), "{page}");
        assert_eq!(line(page.split("## code").nth(1).unwrap(), "best fixed"), ["best fixed", "k=0"]);
        assert_eq!(line(&page, "policy")[1], "conditions");
        assert!(!page.contains("cell"), "readers know them as conditions: {page}");
    }

    #[test]
    fn loads_and_workloads_are_summed_up_where_there_are_several() {
        let mut log = log(&[("off", &[100.0]), ("auto", &[120.0])]);
        assert!(!page(&log).contains("mean over all else"));
        for (workload, concurrency) in [("code", 4), ("chat", 1), ("code", 1)] {
            let mut others = log.runs[..2].to_vec();
            for run in &mut others {
                (run.conditions.workload, run.conditions.concurrency) = (workload.to_owned(), concurrency);
                run.tokens_per_s *=
                    if run.conditions.policy == "auto" && concurrency == 1 { 1.5 } else { 1.0 };
            }
            log.runs.extend(others);
        }
        let page = page(&log);
        let by_load = page.split("x off by C").nth(1).unwrap();
        assert_eq!(line(by_load, "policy"), ["policy", "1", "4"]);
        assert_eq!(line(by_load, "auto"), ["auto", "1.80", "1.20"]);
        let by_workload = page.split("x off by workload").nth(1).unwrap();
        // 1.2 sqrt(1.5).
        assert_eq!(line(by_workload, "policy"), ["policy", "chat", "code"]);
        assert_eq!(line(by_workload, "auto"), ["auto", "1.47", "1.47"]);
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
