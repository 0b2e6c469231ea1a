//! The page of a log of benchmarks.

use super::{Axis, Cells, Chart, Line, Page, Style, styles};
use crate::comparison::{distinct, policies};
use crate::log::Log;
use crate::matrix::{Cell, Measured, cells};
use crate::run::Run;

/// Charts and a table of everything that a log holds.
pub fn of_log(log: &Log) -> Page {
    let heading = &log.heading;
    let mut page = Page::new(&format!("dsde bench: {}", heading.model));
    page.text("All figures are measured. Points are means over rounds; C requests are in flight, T is the temperature.");
    page.facts(&[
        ("model", heading.model.clone()),
        ("draft", heading.draft.clone()),
        ("machine", format!("{}, {} logical cores", heading.machine.cpu, heading.machine.cores)),
        ("backend", heading.machine.backend.clone()),
        ("dsde", heading.settings.version.clone()),
        ("command", heading.settings.command.clone()),
    ]);
    let cells: Vec<Cell<'_>> =
        cells(log).into_iter().filter(|cell| cell.conditions().segment.is_none()).collect();
    let names = policies(cells.iter());
    let looks: Vec<(&str, Style)> = names.iter().copied().zip(styles(&names)).collect();
    let parts = cells.iter().map(|cell| (cell.conditions().workload.as_str(), cell.conditions().temperature));
    for (workload, temperature) in distinct(parts) {
        page.heading(&format!("{workload}, T = {temperature}"));
        let part: Vec<&Cell<'_>> = cells
            .iter()
            .filter(|cell| {
                let conditions = cell.conditions();
                conditions.workload == workload && conditions.temperature == temperature
            })
            .collect();
        page.charts(&charts(&part, &looks));
        page.table(&table(&part), 1);
    }
    page
}

/// A mean over runs that have the value.
fn mean(measured: &Measured<'_>, value: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = measured.runs().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn acceptance(run: &Run) -> Option<f64> {
    (run.verified > 0).then(|| run.accepted as f64 / run.verified as f64)
}

fn per_step(run: &Run) -> Option<f64> {
    (run.steps > 0).then(|| run.output_tokens as f64 / run.steps as f64)
}

fn charts(cells: &[&Cell<'_>], looks: &[(&str, Style)]) -> Vec<Chart> {
    let chart = |title: &str, unit: &str, value: &dyn Fn(&Cell<'_>, &Measured<'_>) -> Option<f64>| {
        let line = |(policy, style): &(&str, Style)| {
            let points = cells.iter().filter_map(|cell| {
                Some([f64::from(cell.conditions().concurrency), value(cell, cell.find(policy)?)?])
            });
            let mut points: Vec<[f64; 2]> = points.collect();
            points.sort_by(|a, b| a[0].total_cmp(&b[0]));
            Line { name: (*policy).to_owned(), style: *style, points }
        };
        let loads: Vec<f64> = cells.iter().map(|cell| f64::from(cell.conditions().concurrency)).collect();
        Chart::new(
            title,
            Axis::of_loads("requests in flight", &loads),
            Axis::new(unit),
            looks.iter().map(line).collect(),
        )
    };
    vec![
        chart("Throughput over that of off", "times", &|cell, measured| {
            Some(cell.ratio_to_off(measured)?.mean)
        }),
        chart("Throughput", "tokens/s", &|_, measured| mean(measured, |run| Some(run.tokens_per_s))),
        chart("Time per output token, median", "ms", &|_, measured| {
            mean(measured, |run| Some(run.tpot_ms?.p50))
        }),
        chart("Time to first token, median", "ms", &|_, measured| {
            mean(measured, |run| Some(run.ttft_ms?.p50))
        }),
        chart("Acceptance rate", "accepted of verified", &|_, measured| mean(measured, acceptance)),
        chart("Emitted per sequence and step", "tokens", &|_, measured| mean(measured, per_step)),
        chart("Goodput", "requests/s that met their targets", &|_, measured| {
            mean(measured, |run| run.goodput)
        }),
    ]
}

fn table(cells: &[&Cell<'_>]) -> Cells {
    let head = [
        "policy",
        "C",
        "runs",
        "tokens/s",
        "x off",
        "TTFT p50 ms",
        "TPOT p50 ms",
        "TPOT p99 ms",
        "accepted",
        "emitted/step",
    ];
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
    };
    let mut rows = Vec::new();
    for cell in cells {
        for measured in cell.policies() {
            rows.push(vec![
                measured.policy.to_owned(),
                cell.conditions().concurrency.to_string(),
                measured.runs().count().to_string(),
                number(mean(measured, |run| Some(run.tokens_per_s)), 1),
                number(cell.ratio_to_off(measured).map(|ratio| ratio.mean), 2),
                number(mean(measured, |run| Some(run.ttft_ms?.p50)), 1),
                number(mean(measured, |run| Some(run.tpot_ms?.p50)), 2),
                number(mean(measured, |run| Some(run.tpot_ms?.p99)), 2),
                number(mean(measured, acceptance), 3),
                number(mean(measured, per_step), 2),
            ]);
        }
    }
    Cells { head: head.map(str::to_owned).to_vec(), rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::log;

    #[test]
    fn a_log_becomes_charts_and_a_table() {
        let html = of_log(&log(&[("off", &[100.0, 110.0]), ("auto", &[120.0, 132.0])])).html();
        // 1.2 in both rounds.
        assert!(html.contains("<td>auto</td>") && html.contains("<td class=n>1.20</td>"), "{html}");
        assert!(html.contains("Throughput over that of off") && !html.contains("Goodput"));
    }
}
