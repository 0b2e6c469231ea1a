//! What all figures share: a caption above, a legend below, and room for panels between them.

use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Error;
use super::style::{INK, Look, Mark, TEXT, TITLE, text_width};
use crate::log::Heading;

/// A drawing area of an SVG.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Width of a panel, pixels.
pub(super) const PANEL_WIDTH: u32 = 400;
/// Height of a panel, pixels.
pub(super) const PANEL_HEIGHT: u32 = 300;
/// Panels side by side.
const COLUMNS_MAX: usize = 3;
/// Space at the edges, pixels.
const MARGIN: i32 = 12;
/// Height of a line of text, pixels.
const LINE: i32 = 20;
/// Width of the sample of a line in the legend, pixels.
const SAMPLE: i32 = 26;

/// An axis with labels at given values.
pub(super) struct Labelled {
    pub(super) range: Range<f64>,
    pub(super) labels: Vec<(f64, String)>,
}

impl Ranged for Labelled {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.labels.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Labelled {
    fn format_ext(&self, value: &f64) -> String {
        let label = self.labels.iter().find(|(other, _)| other == value);
        label.map_or_else(String::new, |(_, text)| text.clone())
    }
}

/// Where the figures of a log come from.
pub(super) struct Caption {
    lines: Vec<String>,
}

impl Caption {
    pub(super) fn of(heading: &Heading) -> Self {
        let Heading { machine, model, draft, settings } = heading;
        let place = format!("{}, {} logical cores", machine.cpu, machine.cores);
        let model = match &settings.url {
            Some(url) => format!("model {model} at {url}, asked from {place}"),
            None => format!("model {model}, draft {draft}; {place}; {}", machine.backend),
        };
        let run = format!("dsde {}, at most {} tokens per request", settings.version, settings.max_tokens);
        Self { lines: vec![model, run] }
    }
}

/// An entry of the legend.
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) look: Look,
}

/// Where a value of a chart stands in `area`, pixels from its corner; charts map to pixels of the whole figure.
pub(super) fn place<X: Ranged, Y: Ranged>(
    plot: &DrawingArea<SVGBackend<'_>, Cartesian2d<X, Y>>,
    area: &Area<'_>,
    value: &(X::ValueType, Y::ValueType),
) -> (i32, i32) {
    let ((x, y), corner) = (plot.map_coordinate(value), area.get_base_pixel());
    (x - corner.0, y - corner.1)
}

/// Width and height of `n` panels in rows.
pub(super) fn grid(n: usize) -> (usize, usize) {
    let columns = n.clamp(1, COLUMNS_MAX);
    (n.div_ceil(columns), columns)
}

/// Draws a figure around `panels`, which fill `size` pixels.
///
/// # Errors
/// If `panels` fails.
pub(super) fn draw(
    title: &str,
    caption: &Caption,
    legend: &[Entry],
    size: (u32, u32),
    panels: impl FnOnce(&Area<'_>) -> Result<(), Error>,
) -> Result<String, Error> {
    let width = size.0 as i32 + 2 * MARGIN;
    let places = places(legend, width);
    let legend_height = places.last().map_or(0, |place| place.1 + LINE);
    let head = MARGIN + LINE + LINE * caption.lines.len() as i32;
    let height = head + size.1 as i32 + legend_height + MARGIN;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        text(&root, title, (MARGIN, MARGIN), TITLE, HPos::Left)?;
        for (i, line) in caption.lines.iter().enumerate() {
            text(&root, line, (MARGIN, MARGIN + LINE * (i as i32 + 1)), TEXT, HPos::Left)?;
        }
        let inner = root.margin(head, legend_height + MARGIN, MARGIN, MARGIN);
        panels(&inner)?;
        for (entry, (x, y)) in legend.iter().zip(places) {
            let y = height - MARGIN - legend_height + y + LINE / 2;
            let line = PathElement::new(vec![(x, y), (x + SAMPLE, y)], stroke(entry.look));
            root.draw(&line).map_err(Error::new)?;
            mark(&root, (x + SAMPLE / 2, y), entry.look)?;
            text(&root, &entry.text, (x + SAMPLE + 6, y - TEXT / 2), TEXT, HPos::Left)?;
        }
        root.present().map_err(Error::new)?;
    }
    Ok(svg)
}

/// Where the entries of a legend stand: in as many lines as they need.
fn places(legend: &[Entry], width: i32) -> Vec<(i32, i32)> {
    let mut next = (MARGIN, 0);
    let mut places = Vec::new();
    for entry in legend {
        let entry_width = SAMPLE + 6 + text_width(&entry.text, TEXT) + 18;
        if next.0 + entry_width > width && next.0 > MARGIN {
            next = (MARGIN, next.1 + LINE);
        }
        places.push(next);
        next.0 += entry_width;
    }
    places
}

/// The line of a policy.
pub(super) fn stroke(look: Look) -> ShapeStyle {
    look.colour.stroke_width(look.width)
}

/// What stands at a measured point, in pixels.
pub(super) fn mark(area: &Area<'_>, at: (i32, i32), look: Look) -> Result<(), Error> {
    let filled = look.colour.filled();
    let drawn = match look.mark {
        Mark::None => Ok(()),
        Mark::Circle => area.draw(&Circle::new(at, 3, filled)),
        Mark::Triangle => area.draw(&TriangleMarker::new(at, 5, filled)),
        Mark::Cross => area.draw(&Cross::new(at, 4, stroke(look))),
    };
    drawn.map_err(Error::new)
}

/// Writes a text; `at` is its upper edge.
pub(super) fn text(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    height: i32,
    align: HPos,
) -> Result<(), Error> {
    let style =
        TextStyle::from(("sans-serif", height).into_font()).color(&INK).pos(Pos::new(align, VPos::Top));
    area.draw_text(text, &style, at).map_err(Error::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_the_panel_they_are_drawn_in() {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, (600, 400)).into_drawing_area();
        for area in root.split_evenly((2, 2)) {
            let chart = ChartBuilder::on(&area)
                .margin(10)
                .x_label_area_size(30)
                .y_label_area_size(40)
                .build_cartesian_2d(0.0..1.0, 0.0..1.0)
                .unwrap();
            // 300 x 200 pixels, less margins and axes, without the last pixel.
            assert_eq!(place(chart.plotting_area(), &area, &(0.0, 1.0)), (50, 10));
            let (x, y) = place(chart.plotting_area(), &area, &(1.0, 0.0));
            assert!((289..=290).contains(&x) && (159..=160).contains(&y), "{x}, {y}");
        }
    }
}
