//! Curves over the number of requests in flight: one panel per workload and temperature, one curve per policy.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::Error;
use super::canvas::{
    self, Area, Caption, Entry, Labelled, PANEL_HEIGHT, PANEL_WIDTH, draw, grid, mark, stroke, text,
};
use super::style::{INK, Look, Mark, TEXT, TITLE, looks};
use crate::comparison::{distinct, policies};
use crate::conditions::Conditions;
use crate::matrix::{Cell, Measured, Ratio, fixed_len};

/// Space left free above and below curves, as a share of their range.
const HEADROOM: f64 = 0.08;
/// Rounds from which an interval is drawn: that of two is several times as wide as what it is about.
const ROUNDS_WITH_INTERVAL: usize = 3;
/// Least distance of two texts at the ends of curves, pixels.
const LABEL_DISTANCE: i32 = 11;

/// A policy's values in a panel.
struct Curve {
    name: String,
    look: Look,
    /// By the position of the load on the axis.
    points: Vec<(usize, Ratio)>,
}

struct Panel {
    title: String,
    /// Loads in ascending order.
    loads: Vec<u32>,
    curves: Vec<Curve>,
}

/// A figure of many panels.
struct Sheet<'a> {
    title: &'a str,
    y: &'a str,
    /// A value to compare with.
    reference: Option<f64>,
    panels: Vec<Panel>,
}

/// Tokens/s over those of `off`; `None` without `off` and others.
pub(super) fn speed(
    cells: &[Cell<'_>],
    is_shown: &dyn Fn(&str) -> bool,
    caption: &Caption,
) -> Result<Option<String>, Error> {
    let value = |cell: &Cell<'_>, measured: &Measured<'_>| match measured.policy {
        "off" => None,
        _ => cell.ratio_to_off(measured).map(|ratio| match measured.runs().count() {
            ..ROUNDS_WITH_INTERVAL => Ratio { half_width: None, ..ratio },
            _ => ratio,
        }),
    };
    let sheet = Sheet {
        title: "Throughput over that of plain decoding",
        y: "tokens/s over those of off",
        reference: Some(1.0),
        panels: panels(cells, is_shown, value),
    };
    sheet.draw(caption)
}

/// Median time per token; `None` if nobody emitted two tokens.
pub(super) fn tpot(
    cells: &[Cell<'_>],
    is_shown: &dyn Fn(&str) -> bool,
    caption: &Caption,
) -> Result<Option<String>, Error> {
    let value = |_: &Cell<'_>, measured: &Measured<'_>| {
        let medians: Vec<f64> = measured.runs().filter_map(|run| Some(run.tpot_ms?.p50)).collect();
        let mean = medians.iter().sum::<f64>() / medians.len() as f64;
        (!medians.is_empty()).then_some(Ratio { mean, half_width: None })
    };
    let sheet = Sheet {
        title: "Time per output token, median over requests",
        y: "TPOT, ms",
        reference: None,
        panels: panels(cells, is_shown, value),
    };
    sheet.draw(caption)
}

/// Cells of constant loads, by workload and temperature.
fn panels(
    cells: &[Cell<'_>],
    is_shown: &dyn Fn(&str) -> bool,
    value: impl Fn(&Cell<'_>, &Measured<'_>) -> Option<Ratio>,
) -> Vec<Panel> {
    let constant: Vec<&Cell<'_>> = cells.iter().filter(|cell| cell.conditions().segment.is_none()).collect();
    let names = shown(&constant, is_shown);
    let looks = looks(&names);
    let titles = distinct(constant.iter().map(|cell| title(cell.conditions())));
    let panel = |panel_title: String| {
        let here = || constant.iter().filter(|cell| title(cell.conditions()) == panel_title);
        let mut loads: Vec<u32> = here().map(|cell| cell.conditions().concurrency).collect();
        loads.sort_unstable();
        loads.dedup();
        let point = |cell: &&&Cell<'_>, name: &str| {
            let place = loads.iter().position(|&load| load == cell.conditions().concurrency)?;
            Some((place, value(cell, cell.find(name)?)?))
        };
        let curve = |(name, &look): (&&str, &Look)| {
            let mut points: Vec<(usize, Ratio)> = here().filter_map(|cell| point(&cell, name)).collect();
            points.sort_by_key(|(place, _)| *place);
            (!points.is_empty()).then(|| Curve { name: (*name).to_owned(), look, points })
        };
        let curves: Vec<Curve> = names.iter().zip(&looks).filter_map(curve).collect();
        (!curves.is_empty()).then_some(Panel { title: panel_title.clone(), loads, curves })
    };
    titles.into_iter().filter_map(panel).collect()
}

/// The policies to be drawn.
pub(super) fn shown<'a>(cells: &[&Cell<'a>], is_shown: &dyn Fn(&str) -> bool) -> Vec<&'a str> {
    policies(cells.iter().copied()).into_iter().filter(|name| is_shown(name)).collect()
}

/// What a panel is about.
pub(super) fn title(conditions: &Conditions) -> String {
    format!("{}, T = {}", conditions.workload, conditions.temperature)
}

impl Sheet<'_> {
    fn draw(&self, caption: &Caption) -> Result<Option<String>, Error> {
        if self.panels.is_empty() {
            return Ok(None);
        }
        let (rows, columns) = grid(self.panels.len());
        let size = (PANEL_WIDTH * columns as u32, PANEL_HEIGHT * rows as u32);
        let svg = draw(self.title, caption, &self.legend(), size, |area| {
            for (panel, area) in self.panels.iter().zip(area.split_evenly((rows, columns))) {
                self.panel(panel, &area)?;
            }
            Ok(())
        })?;
        Ok(Some(svg))
    }

    /// Plain fixed lengths have one entry together: their curves are labelled.
    fn legend(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for curve in self.panels.iter().flat_map(|panel| &panel.curves) {
            let text = match fixed_len(&curve.name) {
                Some(1..) => "fixed:k=N, labelled with N".to_owned(),
                _ => curve.name.clone(),
            };
            if !entries.iter().any(|entry| entry.text == text) {
                entries.push(Entry { text, look: curve.look });
            }
        }
        entries
    }

    fn panel(&self, panel: &Panel, area: &Area<'_>) -> Result<(), Error> {
        let last = panel.loads.len().saturating_sub(1) as f64;
        let (low, high) = self.range(panel);
        let label = |(place, load): (usize, &u32)| (place as f64, load.to_string());
        let labels = panel.loads.iter().enumerate().map(label).collect();
        let x = Labelled { range: -0.35..last + 0.45, labels };
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .caption(&panel.title, ("sans-serif", TITLE).into_font().color(&INK))
            .x_label_area_size(40)
            .y_label_area_size(54)
            .build_cartesian_2d(x, low..high)
            .map_err(Error::new)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.25))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", TEXT).into_font().color(&INK))
            .x_desc("requests in flight")
            .y_desc(self.y)
            .y_labels(6)
            .draw()
            .map_err(Error::new)?;
        let plot = chart.plotting_area();
        let at = |place: f64, value: f64| canvas::place(plot, area, &(place, value.clamp(low, high)));
        let plain = area.strip_coord_spec();
        if let Some(reference) = self.reference {
            let line = vec![at(-0.35, reference), at(last + 0.45, reference)];
            plain.draw(&PathElement::new(line, INK.stroke_width(2))).map_err(Error::new)?;
        }
        // Fixed lengths lie below, `auto` on top.
        let mut curves: Vec<&Curve> = panel.curves.iter().collect();
        curves.sort_by_key(|curve| curve.look.width);
        let mut labels: Vec<i32> = Vec::new();
        for curve in curves {
            let points: Vec<(i32, i32)> =
                curve.points.iter().map(|(place, value)| at(*place as f64, value.mean)).collect();
            for (place, Ratio { mean, half_width }) in &curve.points {
                let Some(half_width) = half_width.filter(|_| curve.look.mark != Mark::None) else { continue };
                let ends =
                    [1.0 - half_width, 1.0 + half_width].map(|factor| at(*place as f64, mean * factor));
                let whisker = PathElement::new(ends.to_vec(), curve.look.colour.mix(0.6).stroke_width(1));
                plain.draw(&whisker).map_err(Error::new)?;
            }
            plain.draw(&PathElement::new(points.clone(), stroke(curve.look))).map_err(Error::new)?;
            for &point in &points {
                mark(&plain, point, curve.look)?;
            }
            if let (Some(len @ 1..), Some(&(x, y))) = (fixed_len(&curve.name), points.last())
                && labels.iter().all(|other| (other - y).abs() >= LABEL_DISTANCE)
            {
                labels.push(y);
                text(&plain, &len.to_string(), (x + 5, y - TEXT / 2), TEXT - 2, HPos::Left)?;
            }
        }
        Ok(())
    }

    /// Bounds of the vertical axis, around all values and the reference.
    fn range(&self, panel: &Panel) -> (f64, f64) {
        let values = panel.curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| value.mean);
        let (low, high) = values
            .chain(self.reference)
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        // Times begin at zero; ratios do not say more with it.
        let low = if self.reference.is_some() { low } else { 0.0 };
        let room = (high - low).max(0.02 * high.abs()).max(f64::MIN_POSITIVE) * HEADROOM;
        (if self.reference.is_some() { low - room } else { low }, high + room)
    }
}
