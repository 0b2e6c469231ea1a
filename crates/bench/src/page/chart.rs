//! A chart of lines as SVG in HTML. Values can be read by pointing at a mark.

use std::fmt::Write as _;

use plotters::style::RGBColor;

use super::escaped;
use super::scale::{Scale, short};
use crate::plot::style::{Look, Mark};

/// What an axis is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// With the unit.
    pub name: String,
    /// Whether equal factors are equally far apart.
    pub is_logarithmic: bool,
}

impl Axis {
    /// A linear axis from zero.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), is_logarithmic: false }
    }

    /// A logarithmic axis, or a linear one where values are few or lie close to each other.
    pub fn of_loads(name: &str, values: &[f64]) -> Self {
        let (min, max) = values.iter().fold((f64::MAX, 0.0_f64), |(min, max), &x| (min.min(x), max.max(x)));
        Self { name: name.to_owned(), is_logarithmic: min > 0.0 && max >= 8.0 * min }
    }

    /// A logarithmic axis.
    pub fn logarithmic(name: &str) -> Self {
        Self { name: name.to_owned(), is_logarithmic: true }
    }

    fn scale(&self, values: impl Iterator<Item = f64>) -> Scale {
        if self.is_logarithmic { Scale::logarithmic(values) } else { Scale::linear(values) }
    }
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    pub(super) look: Look,
    /// Dashes and gaps; unbroken if empty.
    pub(super) dash: &'static str,
}

impl Style {
    fn stroke(self) -> String {
        let RGBColor(r, g, b) = self.look.colour;
        let dash = match self.dash {
            "" => String::new(),
            dash => format!(" stroke-dasharray=\"{dash}\""),
        };
        format!("stroke=\"#{r:02x}{g:02x}{b:02x}\" stroke-width=\"{}\"{dash}", self.look.width)
    }

    fn fill(self) -> String {
        let RGBColor(r, g, b) = self.look.colour;
        format!("fill=\"#{r:02x}{g:02x}{b:02x}\"")
    }
}

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// How it is drawn.
    pub style: Style,
    /// Ascending x; points that are not finite are left out.
    pub points: Vec<[f64; 2]>,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    title: String,
    note: String,
    x: Axis,
    y: Axis,
    lines: Vec<Line>,
    has_marks: bool,
}

/// Pixels of the drawing, of its margins, and of a mark.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 42.0;
const MARK: f64 = 3.4;

impl Chart {
    /// A chart whose points have marks.
    pub fn new(title: &str, x: Axis, y: Axis, lines: Vec<Line>) -> Self {
        let finite = |mut line: Line| {
            line.points.retain(|point| point.iter().all(|value| value.is_finite()));
            line
        };
        let lines = lines.into_iter().map(finite).filter(|line| !line.points.is_empty()).collect();
        Self { title: title.to_owned(), note: String::new(), x, y, lines, has_marks: true }
    }

    /// With a line below the title.
    #[must_use]
    pub fn noted(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Without marks, for lines of many points.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { has_marks: false, ..self }
    }

    pub(super) fn has_points(&self) -> bool {
        !self.lines.is_empty()
    }

    pub(super) fn html(&self) -> String {
        let mut out = String::from("<figure>\n<figcaption>");
        let _ = write!(out, "{}", escaped(&self.title));
        if !self.note.is_empty() {
            let _ = write!(out, "<span>{}</span>", escaped(&self.note));
        }
        let _ = writeln!(out, "</figcaption>\n{}{}</figure>", self.svg(), self.legend());
        out
    }

    fn svg(&self) -> String {
        let values =
            |i: usize| self.lines.iter().flat_map(move |line| line.points.iter().map(move |point| point[i]));
        let (x, y) = (self.x.scale(values(0)), self.y.scale(values(1)));
        let at_x = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">\n",
            escaped(&self.title)
        );
        for (value, name) in &y.ticks {
            let at = at_y(*value);
            let _ = writeln!(out, "<path class=grid d=\"M{LEFT} {at:.1}H{:.1}\"/>", WIDTH - RIGHT);
            let _ = writeln!(out, "<text x={} y={:.1} text-anchor=end>{name}</text>", LEFT - 6.0, at + 4.0);
        }
        for (value, name) in &x.ticks {
            let at = at_x(*value);
            let _ = writeln!(
                out,
                "<text x={at:.1} y={} text-anchor=middle>{name}</text>",
                HEIGHT - BOTTOM + 17.0
            );
        }
        let _ = writeln!(out, "<text x=4 y=12>{}</text>", escaped(&self.y.name));
        let _ = writeln!(
            out,
            "<text x={} y={} text-anchor=end>{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 6.0,
            escaped(&self.x.name)
        );
        for line in &self.lines {
            let places: Vec<[f64; 2]> = line.points.iter().map(|&[px, py]| [at_x(px), at_y(py)]).collect();
            self.draw(line, &places, &mut out);
        }
        out.push_str("</svg>\n");
        out
    }

    fn draw(&self, line: &Line, places: &[[f64; 2]], out: &mut String) {
        let path: Vec<String> = places.iter().map(|[x, y]| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(out, "<path fill=none {} d=\"M{}\"/>", line.style.stroke(), path.join("L"));
        if !self.has_marks && line.points.len() > 1 {
            return;
        }
        for ([x, y], point) in places.iter().zip(&line.points) {
            let label = format!("{}: {} at {}", line.name, short(point[1]), short(point[0]));
            let _ = writeln!(
                out,
                "<g {}>{}<title>{}</title></g>",
                line.style.fill(),
                mark(line.style, *x, *y),
                escaped(&label)
            );
        }
    }

    fn legend(&self) -> String {
        let entry = |line: &Line| {
            format!(
                "<li><svg viewBox=\"0 0 26 10\" aria-hidden=true><path d=\"M0 5H26\" {}/><g {}>{}</g></svg>{}</li>\n",
                line.style.stroke(),
                line.style.fill(),
                if self.has_marks { mark(line.style, 13.0, 5.0) } else { String::new() },
                escaped(&line.name)
            )
        };
        format!("<ul class=legend>\n{}</ul>\n", self.lines.iter().map(entry).collect::<String>())
    }
}

/// The mark of a style around a point.
fn mark(style: Style, x: f64, y: f64) -> String {
    let m = MARK;
    match style.look.mark {
        Mark::None => format!("<circle cx={x:.1} cy={y:.1} r={:.1} />", m * 0.6),
        Mark::Circle => format!("<circle cx={x:.1} cy={y:.1} r={m:.1} />"),
        Mark::Triangle => format!(
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z\"/>",
            x,
            y - 1.3 * m,
            x + 1.2 * m,
            y + m,
            x - 1.2 * m,
            y + m
        ),
        Mark::Cross => format!(
            "<path d=\"M{:.1} {:.1}h{a}v{b}h-{a}v{a}h-{b}v-{a}h-{a}v-{b}h{a}v-{a}h{b}Z\"/>",
            x + 0.35 * m,
            y - 0.35 * m,
            a = format!("{:.1}", 0.8 * m),
            b = format!("{:.1}", 0.7 * m),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::styles;

    #[test]
    fn lines_go_through_their_points() {
        let style = styles(&["auto"])[0];
        let points = vec![[1.0, 0.0], [2.0, 50.0], [4.0, 100.0], [8.0, f64::NAN]];
        let line = Line { name: "auto".to_owned(), style, points };
        let chart =
            Chart::new("t", Axis::of_loads("in flight", &[1.0, 2.0, 4.0, 8.0]), Axis::new("y"), vec![line]);
        let svg = chart.svg();
        // From the lower left corner over the middle to the upper right one: 2 is halfway from 1 to 4.
        assert!(svg.contains("M56.0 278.0L301.0 150.0L546.0 22.0"), "{svg}");
        assert!(svg.contains("<title>auto: 50 at 2</title>") && !svg.contains("NaN"));
        assert!(!Chart::new("t", Axis::new("x"), Axis::new("y"), Vec::new()).has_points());
    }
}
