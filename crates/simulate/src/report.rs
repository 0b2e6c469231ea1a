//! Results for people: tables in Markdown, and a page.

use std::fmt::Write as _;

use dsde_bench::page::{Axis, Cells, Chart, Line, Page, Style, styles};
use dsde_bench::report::Table;
use dsde_bench::{Attained, Quantiles};

use crate::results::{Cell, Results};
use crate::series::Part;
use crate::signals::Relation;

/// One table per temperature, below what was simulated.
pub fn markdown(results: &Results) -> String {
    let mut out = format!("# {}\n\n", results.scenario);
    if let Some(about) = &results.about {
        let _ = writeln!(out, "{about}\n");
    }
    let _ = writeln!(out, "Simulated: {} on {}; seed {}.", results.pair, results.machine, results.seed);
    for temperature in temperatures(results) {
        let _ = writeln!(out, "\nTemperature {temperature}:\n");
        let cells = table(results, temperature);
        let head: Vec<&str> = cells.head.iter().map(String::as_str).collect();
        let mut table = Table::new(&head);
        cells.rows.into_iter().for_each(|row| table.push(row));
        out.push_str(&table.markdown());
    }
    out
}

/// What the columns of [`table`] mean, for a page that is read without the documentation.
const COLUMNS: &str = "x off: throughput over that of plain decoding under the same load. TTFT: from arrival to the first token. TPOT: time per token \
after the first. e2e: from arrival to the end. accepted: of verified tokens. emitted/step, drafted/step: tokens emitted, and drafted, per sequence and step. \
$ per M: US dollars for a million tokens. Times are of the simulated machine.";

/// Everything on one page.
pub fn page(results: &Results) -> Page {
    let mut page = Page::new(&results.scenario);
    if let Some(about) = &results.about {
        page.text(about);
    }
    page.text(
        "Simulated: the engine and its policies are real, times and acceptance are those of the model and the machine named here.",
    );
    let dollars =
        results.dollars_per_hour.map_or_else(|| "-".to_owned(), |dollars| format!("{dollars:.2} US dollars"));
    page.facts(&[
        ("pair", results.pair.clone()),
        ("machine", results.machine.clone()),
        ("an hour of it", dollars),
        ("seed", results.seed.to_string()),
        ("dsde", results.version.clone()),
    ]);
    let looks = Looks::of(results);
    for temperature in temperatures(results) {
        let at = |text: &str| format!("{text}, temperature {temperature}");
        page.heading(&at("Throughput and latency"));
        page.charts(&speed_charts(results, temperature, &looks));
        page.heading(&at("Speculation"));
        page.charts(&speculation_charts(results, temperature, &looks));
        page.heading(&at("Over time"));
        page.charts(&time_charts(results, temperature, &looks));
        page.heading(&at("All figures"));
        page.text(COLUMNS);
        page.table(&table(results, temperature), 2);
    }
    page.heading("What passes cost");
    page.charts(&[cost_chart(results)]);
    page
}

fn temperatures(results: &Results) -> Vec<f32> {
    let mut temperatures: Vec<f32> = Vec::new();
    for cell in &results.cells {
        if !temperatures.contains(&cell.temperature) {
            temperatures.push(cell.temperature);
        }
    }
    temperatures
}

/// How policies are drawn, in the order of their appearance.
struct Looks(Vec<(String, Style)>);

impl Looks {
    fn of(results: &Results) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for cell in &results.cells {
            if !names.contains(&cell.policy.as_str()) {
                names.push(&cell.policy);
            }
        }
        Self(names.iter().map(|name| (*name).to_owned()).zip(styles(&names)).collect())
    }

    /// One line per policy that has points.
    fn lines(&self, points: impl Fn(&str) -> Vec<[f64; 2]>) -> Vec<Line> {
        let line = |(name, style): &(String, Style)| Line {
            name: name.clone(),
            style: *style,
            points: points(name),
        };
        self.0.iter().map(line).collect()
    }
}

/// A value of every cell of a temperature against load.
fn against_load(
    results: &Results,
    temperature: f32,
    looks: &Looks,
    (title, unit): (&str, &str),
    value: &dyn Fn(&Cell) -> Option<f64>,
) -> Chart {
    let cells = || results.cells.iter().filter(move |cell| cell.temperature == temperature);
    let lines = looks.lines(|policy| {
        let own = cells().filter(|cell| cell.policy == policy);
        let mut points: Vec<[f64; 2]> =
            own.filter_map(|cell| Some([cell.load_value, value(cell)?])).collect();
        points.sort_by(|a, b| a[0].total_cmp(&b[0]));
        points
    });
    let loads: Vec<f64> = cells().map(|cell| cell.load_value).collect();
    Chart::new(title, Axis::of_loads(&results.load_axis, &loads), Axis::new(unit), lines)
}

/// The cell of plain decoding under the same load.
fn plain<'a>(results: &'a Results, cell: &Cell) -> Option<&'a Cell> {
    results.cells.iter().find(|other| {
        other.policy == "off" && other.temperature == cell.temperature && other.load == cell.load
    })
}

fn attainment(cell: &Cell) -> Option<f64> {
    let sum = |of: fn(&Attained) -> u64| cell.attained.iter().map(of).sum::<u64>();
    let (requests, attained) = (sum(|class| class.requests), sum(|class| class.attained));
    (requests > 0).then(|| attained as f64 / requests as f64)
}

fn per_sequence_step(cell: &Cell) -> Option<f64> {
    let tokens = cell.emitted_per_step?;
    (tokens > 0.0).then(|| cell.drafted as f64 * tokens / cell.output_tokens.max(1) as f64)
}

/// US dollars for a million tokens, if somebody says what the machine costs.
fn dollars(results: &Results, cell: &Cell) -> Option<f64> {
    let per_second = results.dollars_per_hour? / 3600.0;
    (cell.tokens_per_s.mean > 0.0).then(|| 1e6 * per_second / cell.tokens_per_s.mean)
}

fn speed_charts(results: &Results, temperature: f32, looks: &Looks) -> Vec<Chart> {
    let chart = |title: (&str, &str), value: &dyn Fn(&Cell) -> Option<f64>| {
        against_load(results, temperature, looks, title, value)
    };
    let quantile = |times: Option<Quantiles>, of: fn(&Quantiles) -> f64| times.as_ref().map(of);
    vec![
        chart(("Throughput", "tokens/s"), &|cell| Some(cell.tokens_per_s.mean)),
        chart(("Throughput over that of off", "times"), &|cell| {
            Some(cell.tokens_per_s.mean / plain(results, cell)?.tokens_per_s.mean)
        }),
        chart(("Cost of a million tokens", "US dollars"), &|cell| dollars(results, cell)),
        chart(("Goodput", "requests/s that met their targets"), &|cell| Some(cell.goodput?.mean)),
        chart(("Attainment", "share of requests"), &attainment),
        chart(("Time per output token, median", "ms"), &|cell| quantile(cell.tpot_ms, |q| q.p50)),
        chart(("Time per output token, 99th percentile", "ms"), &|cell| quantile(cell.tpot_ms, |q| q.p99)),
        chart(("Time to first token, median", "ms"), &|cell| quantile(cell.ttft_ms, |q| q.p50)),
        chart(("Time to first token, 99th percentile", "ms"), &|cell| quantile(cell.ttft_ms, |q| q.p99)),
        chart(("Arrival to end, median", "ms"), &|cell| quantile(cell.e2e_ms, |q| q.p50)),
        chart(("Between emissions, 99th percentile", "ms"), &|cell| quantile(cell.gap_ms, |q| q.p99)),
    ]
}

fn speculation_charts(results: &Results, temperature: f32, looks: &Looks) -> Vec<Chart> {
    let chart = |title: (&str, &str), value: &dyn Fn(&Cell) -> Option<f64>| {
        against_load(results, temperature, looks, title, value)
    };
    let mut charts = vec![
        chart(("Drafted per sequence and step", "tokens"), &per_sequence_step),
        chart(("Emitted per sequence and step", "tokens"), &|cell| cell.emitted_per_step),
        chart(("Acceptance rate", "accepted of verified"), &|cell| cell.acceptance_rate),
    ];
    let signals: [(&str, &str, Related); 3] = [
        ("KLD of a step and what it accepted", "mean KLD, nats", |cell| Some(&cell.signals.as_ref()?.kld)),
        ("Entropy of the draft and what was accepted", "mean entropy, nats", |cell| {
            Some(&cell.signals.as_ref()?.draft_entropy)
        }),
        ("WVIR before a step and what it accepted", "WVIR", |cell| Some(&cell.signals.as_ref()?.wvir)),
    ];
    for (title, unit, relation) in signals {
        charts.push(signal_chart(results, temperature, looks, (title, unit), relation));
    }
    charts
}

/// One of the signals of a cell.
type Related = fn(&Cell) -> Option<&Relation>;

/// A signal against acceptance at the highest load, where most is known.
fn signal_chart(
    results: &Results,
    temperature: f32,
    looks: &Looks,
    (title, unit): (&str, &str),
    relation: Related,
) -> Chart {
    let busiest = busiest(results, temperature);
    let of = |policy: &str| busiest.iter().find(|cell| cell.policy == policy).and_then(|cell| relation(cell));
    let points =
        |relation: &Relation| relation.ranges.iter().map(|range| [range.mean, range.accepted]).collect();
    let lines = looks.lines(|policy| of(policy).map_or_else(Vec::new, points));
    let correlations = looks.0.iter().filter_map(|(policy, _)| {
        let correlation = of(policy)?.correlation?;
        Some(format!("{policy} r = {correlation:.3}"))
    });
    let note = correlations.collect::<Vec<_>>().join("; ");
    let x = if unit == "WVIR" { Axis::new(unit) } else { Axis::logarithmic(unit) };
    Chart::new(title, x, Axis::new("share accepted"), lines).noted(note)
}

/// The cells of the highest load.
fn busiest(results: &Results, temperature: f32) -> Vec<&Cell> {
    let cells = || results.cells.iter().filter(move |cell| cell.temperature == temperature);
    let highest = cells().map(|cell| cell.load_value).fold(0.0, f64::max);
    cells().filter(|cell| cell.load_value == highest).collect()
}

fn time_charts(results: &Results, temperature: f32, looks: &Looks) -> Vec<Chart> {
    let busiest = busiest(results, temperature);
    let chart = |title: &str, unit: &str, value: &dyn Fn(&Part) -> Option<f64>| {
        let lines = looks.lines(|policy| {
            let parts = busiest.iter().filter(|cell| cell.policy == policy).flat_map(|cell| &cell.series);
            parts.filter_map(|part| Some([part.end_s, value(part)?])).collect()
        });
        let note = busiest.first().map_or_else(String::new, |cell| cell.load.clone());
        Chart::new(title, Axis::new("seconds"), Axis::new(unit), lines).plain().noted(note)
    };
    vec![
        chart("Drafted per sequence and step", "tokens", &Part::drafted_len),
        chart("Acceptance rate", "accepted of verified", &Part::acceptance_rate),
        chart("Sequences that run", "sequences", &Part::running),
        chart("Requests that wait", "requests", &|part| Some(part.waiting as f64 / part.steps.max(1) as f64)),
    ]
}

fn cost_chart(results: &Results) -> Chart {
    let names: Vec<&str> = results.costs.iter().map(|curve| curve.name.as_str()).collect();
    let curves = results.costs.iter().zip(styles(&names));
    let lines =
        curves.map(|(curve, style)| Line { name: curve.name.clone(), style, points: curve.points.clone() });
    Chart::new("A pass by its rows", Axis::logarithmic("rows"), Axis::logarithmic("ms"), lines.collect())
}

/// Every cell of a temperature.
fn table(results: &Results, temperature: f32) -> Cells {
    let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.temperature == temperature).collect();
    let has_targets = cells.iter().any(|cell| cell.goodput.is_some());
    let has_losses = cells.iter().any(|cell| cell.lost != Default::default());
    let mut head = vec![
        "policy",
        "load",
        "tokens/s",
        "x off",
        "TTFT p50 ms",
        "TTFT p99 ms",
        "TPOT p50 ms",
        "TPOT p99 ms",
        "e2e mean ms",
        "accepted",
        "emitted/step",
        "drafted/step",
        "$ per M",
    ];
    if has_targets {
        head.extend(["goodput", "attained"]);
    }
    if has_losses {
        head.extend(["cancelled", "failed", "refused"]);
    }
    let row = |cell: &&Cell| {
        let of_plain = plain(results, cell).map(|plain| cell.tokens_per_s.mean / plain.tokens_per_s.mean);
        let quantile =
            |times: Option<Quantiles>, of: fn(&Quantiles) -> f64| number(times.as_ref().map(of), 1);
        let mut row = vec![
            cell.policy.clone(),
            cell.load.clone(),
            number(Some(cell.tokens_per_s.mean), 1),
            number(of_plain, 2),
            quantile(cell.ttft_ms, |q| q.p50),
            quantile(cell.ttft_ms, |q| q.p99),
            number(cell.tpot_ms.map(|q| q.p50), 2),
            number(cell.tpot_ms.map(|q| q.p99), 2),
            number(cell.e2e_ms_mean, 0),
            number(cell.acceptance_rate, 3),
            number(cell.emitted_per_step, 2),
            number(per_sequence_step(cell), 2),
            number(dollars(results, cell), 2),
        ];
        if has_targets {
            row.extend([number(cell.goodput.map(|goodput| goodput.mean), 3), number(attainment(cell), 3)]);
        }
        if has_losses {
            let lost = cell.lost;
            row.extend([lost.cancelled, lost.failed, lost.refused].map(|n| n.to_string()));
        }
        row
    };
    Cells { head: head.into_iter().map(str::to_owned).collect(), rows: cells.iter().map(row).collect() }
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}
