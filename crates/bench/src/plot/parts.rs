//! A load that changes, over time: how fast each policy serves its parts, and how many requests are in flight in them.

use plotters::prelude::*;

use super::Error;
use super::canvas::{self, Area, Caption, Entry, PANEL_HEIGHT, PANEL_WIDTH, draw, stroke};
use super::curves::{shown, title};
use super::style::{INK, Look, Mark, TEXT, TITLE, looks};
use crate::matrix::Cell;
use crate::profile::Profile;

/// Share of a panel's height for the requests in flight.
const LOAD_SHARE: f64 = 0.28;

/// All parts of a load on one workload at one temperature.
struct Panel<'c, 'a> {
    title: String,
    /// Seconds that a part holds.
    every: f64,
    /// By time.
    parts: Vec<&'c Cell<'a>>,
}

/// The figure; `None` without a load that changes.
pub(super) fn load(
    cells: &[Cell<'_>],
    is_shown: &dyn Fn(&str) -> bool,
    caption: &Caption,
) -> Result<Option<String>, Error> {
    let parts: Vec<&Cell<'_>> = cells
        .iter()
        .filter(|cell| cell.conditions().segment.as_ref().is_some_and(|segment| segment.segment > 0))
        .collect();
    let panels = panels(&parts);
    if panels.is_empty() {
        return Ok(None);
    }
    let names = shown(&parts, is_shown);
    let looks: Vec<(&str, Look)> = names.iter().copied().zip(looks(&names)).collect();
    let entry = |&(name, look): &(&str, Look)| Entry {
        text: name.to_owned(),
        look: Look { mark: Mark::None, ..look },
    };
    let legend: Vec<Entry> = looks.iter().map(entry).collect();
    let size = (2 * PANEL_WIDTH, (PANEL_HEIGHT + 60) * panels.len() as u32);
    draw("Throughput under a load that changes", caption, &legend, size, |area| {
        for (panel, area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
            panel.draw(&looks, &area)?;
        }
        Ok(())
    })
    .map(Some)
}

fn panels<'c, 'a>(parts: &[&'c Cell<'a>]) -> Vec<Panel<'c, 'a>> {
    let mut panels: Vec<Panel<'c, 'a>> = Vec::new();
    for &cell in parts {
        let conditions = cell.conditions();
        let Some(segment) = &conditions.segment else { continue };
        let title = format!("{}, load {}", title(conditions), segment.profile);
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.parts.push(cell),
            None => {
                let every = Profile::seconds_of(&segment.profile).unwrap_or(1.0);
                panels.push(Panel { title, every, parts: vec![cell] });
            }
        }
    }
    for panel in &mut panels {
        panel.parts.sort_by_key(|cell| cell.conditions().segment.as_ref().map(|segment| segment.segment));
    }
    panels
}

impl Panel<'_, '_> {
    /// When a part begins, seconds; it ends one [`Panel::every`] later.
    fn begin(&self, cell: &Cell<'_>) -> f64 {
        let place = cell.conditions().segment.as_ref().map_or(0, |segment| segment.segment.saturating_sub(1));
        f64::from(place) * self.every
    }

    fn end(&self) -> f64 {
        self.parts.last().map_or(self.every, |cell| self.begin(cell) + self.every)
    }

    fn draw(&self, looks: &[(&str, Look)], area: &Area<'_>) -> Result<(), Error> {
        let load_height = (f64::from(area.dim_in_pixel().1) * LOAD_SHARE) as u32;
        let (upper, lower) = area.split_vertically(area.dim_in_pixel().1 - load_height);
        self.speeds(looks, &upper)?;
        self.requests(&lower)
    }

    /// Tokens/s of every policy, level within a part.
    fn speeds(&self, looks: &[(&str, Look)], area: &Area<'_>) -> Result<(), Error> {
        let rate = |cell: &Cell<'_>, name: &str| {
            let rates: Vec<f64> = cell.find(name)?.runs().map(|run| run.tokens_per_s).collect();
            Some(rates.iter().sum::<f64>() / rates.len() as f64)
        };
        let rates = self.parts.iter().flat_map(|cell| looks.iter().filter_map(|(name, _)| rate(cell, name)));
        let high = rates.fold(f64::MIN_POSITIVE, f64::max) * 1.08;
        let mut chart = ChartBuilder::on(area)
            .margin_right(12)
            .caption(&self.title, ("sans-serif", TITLE).into_font().color(&INK))
            .x_label_area_size(6)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..self.end(), 0.0..high)
            .map_err(Error::new)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.25))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", TEXT).into_font().color(&INK))
            .y_desc("tokens/s")
            .x_labels(0)
            .y_labels(6)
            .draw()
            .map_err(Error::new)?;
        let plot = chart.plotting_area();
        let plain = area.strip_coord_spec();
        for &(name, look) in looks {
            let level = |cell: &&Cell<'_>| {
                let (begin, rate) = (self.begin(cell), rate(cell, name)?);
                Some([begin, begin + self.every].map(|time| canvas::place(plot, area, &(time, rate))))
            };
            let line: Vec<(i32, i32)> = self.parts.iter().filter_map(level).flatten().collect();
            plain.draw(&PathElement::new(line, stroke(look))).map_err(Error::new)?;
        }
        Ok(())
    }

    fn requests(&self, area: &Area<'_>) -> Result<(), Error> {
        let most = self.parts.iter().map(|cell| cell.conditions().concurrency).max().unwrap_or(1);
        let mut chart = ChartBuilder::on(area)
            .margin_right(12)
            .margin_top(6)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..self.end(), 0.0..f64::from(most) * 1.15)
            .map_err(Error::new)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(INK)
            .label_style(("sans-serif", TEXT).into_font().color(&INK))
            .x_desc("time, s")
            .y_desc("in flight")
            .x_labels(10)
            .y_labels(3)
            .y_label_formatter(&|n| format!("{n:.0}"))
            .draw()
            .map_err(Error::new)?;
        let plot = chart.plotting_area();
        let plain = area.strip_coord_spec();
        for cell in &self.parts {
            let (begin, n) = (self.begin(cell), f64::from(cell.conditions().concurrency));
            let corners =
                [(begin, n), (begin + self.every, 0.0)].map(|corner| canvas::place(plot, area, &corner));
            plain.draw(&Rectangle::new(corners, INK.mix(0.35).filled())).map_err(Error::new)?;
        }
        Ok(())
    }
}
