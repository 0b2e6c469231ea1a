//! Regret as bars: what each policy misses of the best fixed length, on average and where it misses most.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::Error;
use super::canvas::{self, Area, Caption, Labelled, PANEL_WIDTH, draw, text};
use super::curves::shown;
use super::style::{INK, TEXT, looks, text_width};
use crate::matrix::{Cell, Ratio, mean_over_cells};

/// Height of a bar with its surroundings, pixels.
const BAR: u32 = 26;
/// Height of the axis, pixels.
const AXIS: u32 = 48;
/// Length of the mark at the worst value, pixels.
const WORST: i32 = 7;

struct Bar<'a> {
    policy: &'a str,
    colour: RGBColor,
    /// Mean over cells, percent.
    mean: f64,
    /// Half of its 95 % confidence interval, percent.
    half_width: Option<f64>,
    /// In the worst cell, percent.
    worst: f64,
}

/// The figure; `None` where there is no fixed length to compare with.
pub(super) fn regret(
    cells: &[Cell<'_>],
    is_shown: &dyn Fn(&str) -> bool,
    caption: &Caption,
) -> Result<Option<String>, Error> {
    let is_whole =
        |cell: &&Cell<'_>| cell.conditions().segment.as_ref().is_none_or(|segment| segment.segment == 0);
    let whole: Vec<&Cell<'_>> = cells.iter().filter(is_whole).collect();
    let names = shown(&whole, is_shown);
    let looks = looks(&names);
    let mut bars: Vec<Bar<'_>> =
        names.into_iter().zip(looks).filter_map(|(policy, look)| bar(&whole, policy, look.colour)).collect();
    if bars.is_empty() {
        return Ok(None);
    }
    bars.sort_by(|a, b| a.mean.total_cmp(&b.mean));
    let size = (2 * PANEL_WIDTH, BAR * bars.len() as u32 + AXIS);
    draw("Regret against the best fixed length of each condition", caption, &[], size, |area| {
        chart(&bars, area)
    })
    .map(Some)
}

fn bar<'a>(cells: &[&Cell<'_>], policy: &'a str, colour: RGBColor) -> Option<Bar<'a>> {
    let ratios: Vec<Ratio> = cells.iter().filter_map(|cell| cell.ratio_to_best(cell.find(policy)?)).collect();
    let Ratio { mean, half_width } = mean_over_cells(&ratios)?;
    let worst = ratios.iter().map(|ratio| ratio.mean).min_by(f64::total_cmp)?;
    let percent = |ratio: f64| 100.0 * (1.0 - ratio);
    let half_width = half_width.map(|half_width| 100.0 * half_width);
    Some(Bar { policy, colour, mean: percent(mean), half_width, worst: percent(worst) })
}

fn chart(bars: &[Bar<'_>], area: &Area<'_>) -> Result<(), Error> {
    let n = bars.len();
    let ends = || bars.iter().flat_map(|bar| [bar.mean, bar.worst]);
    let (low, high) = (ends().fold(0.0, f64::min), ends().fold(1.0, f64::max));
    let room = 0.12 * (high - low);
    let names_width = bars.iter().map(|bar| text_width(bar.policy, TEXT)).max().unwrap_or(0) + 14;
    let middle = |place: usize| n as f64 - place as f64 - 0.5;
    let label = |(place, bar): (usize, &Bar<'_>)| (middle(place), bar.policy.to_owned());
    let y = Labelled { range: 0.0..n as f64, labels: bars.iter().enumerate().map(label).collect() };
    let mut chart = ChartBuilder::on(area)
        .margin_right(8)
        .x_label_area_size(AXIS)
        .y_label_area_size(names_width.max(20) as u32)
        .build_cartesian_2d(low - if low < 0.0 { room } else { 0.0 }..high + room, y)
        .map_err(Error::new)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", TEXT).into_font().color(&INK))
        .x_desc("tokens/s missed, % (bar: mean over conditions; mark: worst condition)")
        .x_label_formatter(&|percent| format!("{percent:.0}"))
        .draw()
        .map_err(Error::new)?;
    let plot = chart.plotting_area();
    let plain = area.strip_coord_spec();
    for (place, bar) in bars.iter().enumerate() {
        let at = |percent: f64| canvas::place(plot, area, &(percent, middle(place)));
        let ((zero, y), (end, _), (worst, _)) = (at(0.0), at(bar.mean), at(bar.worst));
        let half = BAR as i32 / 2 - 5;
        let body = [(zero.min(end), y - half), (zero.max(end), y + half)];
        plain.draw(&Rectangle::new(body, bar.colour.mix(0.75).filled())).map_err(Error::new)?;
        let tick = vec![(worst, y - WORST), (worst, y + WORST)];
        plain.draw(&PathElement::new(tick, bar.colour.stroke_width(3))).map_err(Error::new)?;
        let whole = vec![(end, y), (worst, y)];
        plain.draw(&PathElement::new(whole, bar.colour.stroke_width(1))).map_err(Error::new)?;
        let error = bar.half_width.filter(|&half_width| half_width > 0.0);
        let error = error.map_or_else(String::new, |half_width| format!(" ± {half_width:.0}"));
        let label = format!("{:.1}{error}", bar.mean);
        text(&plain, &label, (worst.max(end).max(zero) + 8, y - TEXT / 2), TEXT, HPos::Left)?;
    }
    Ok(())
}
