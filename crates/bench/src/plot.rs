//! Figures of a log, as SVG: how fast each policy is where, what it costs not to know the best fixed length, and how a load that
//! changes is served over time. [`matrix`](crate::matrix) has the definitions.
//!
//! Figures have no background and only colours of middle lightness, so that they can be read on light and on dark pages. All text
//! is text: what shows the figure brings the font.

mod bars;
mod canvas;
mod curves;
mod parts;
pub(crate) mod style;

use crate::log::Log;
use crate::matrix::cells;
use canvas::Caption;

/// A drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What it shows, as a file name without ending.
    pub name: &'static str,
    /// The whole file.
    pub svg: String,
}

/// A figure that could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a figure cannot be drawn: {what}")]
pub struct Error {
    /// Why.
    what: String,
}

impl Error {
    fn new(error: impl std::fmt::Display) -> Self {
        Self { what: error.to_string() }
    }
}

/// All figures for which the log has data.
///
/// * `is_shown`: whether a policy is drawn; those that are not still count where others are compared with them.
///
/// # Errors
/// If one cannot be drawn; that is a bug.
pub fn figures(log: &Log, is_shown: &dyn Fn(&str) -> bool) -> Result<Vec<Figure>, Error> {
    let caption = Caption::of(&log.heading);
    let cells = cells(log);
    let drawn = [
        ("speed", curves::speed(&cells, is_shown, &caption)?),
        ("tpot", curves::tpot(&cells, is_shown, &caption)?),
        ("regret", bars::regret(&cells, is_shown, &caption)?),
        ("load", parts::load(&cells, is_shown, &caption)?),
    ];
    Ok(drawn.into_iter().filter_map(|(name, svg)| Some(Figure { name, svg: svg? })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Segment;
    use crate::matrix::tests::log;

    fn names(log: &Log) -> Vec<&'static str> {
        figures(log, &|_| true).unwrap().iter().map(|figure| figure.name).collect()
    }

    #[test]
    fn a_log_has_the_figures_that_it_has_data_for() {
        assert_eq!(names(&log(&[])), [""; 0]);
        // Nothing to compare with, and no times.
        assert_eq!(names(&log(&[("auto", &[100.0])])), [""; 0]);
        assert_eq!(names(&log(&[("off", &[100.0]), ("auto", &[120.0])])), ["speed"]);
        let with_lengths = log(&[("off", &[100.0]), ("fixed:k=2", &[90.0]), ("auto", &[120.0])]);
        assert_eq!(names(&with_lengths), ["speed", "regret"]);
    }

    #[test]
    fn figures_name_their_machine_axes_and_policies() {
        let mut log =
            log(&[("off", &[100.0, 101.0]), ("fixed:k=2", &[90.0, 95.0]), ("auto", &[120.0, 130.0])]);
        log.heading.machine.cpu = "Some <CPU> & more".to_owned();
        for run in &mut log.runs {
            run.tpot_ms = crate::stats::Quantiles::of(&[2.5]);
        }
        for figure in figures(&log, &|_| true).unwrap() {
            assert!(
                figure.svg.starts_with("<svg") && figure.svg.trim_end().ends_with("</svg>"),
                "{}",
                figure.name
            );
            assert!(figure.svg.contains("Some &lt;CPU&gt; &amp; more"), "{}", figure.name);
            for part in ["auto", "chat, T = 0"] {
                assert!(figure.svg.contains(part) || figure.name == "regret", "{part} in {}", figure.name);
            }
            assert!(!figure.svg.contains("NaN") && !figure.svg.contains("inf"), "{}", figure.name);
        }
    }

    #[test]
    fn who_is_not_shown_still_counts() {
        let log = log(&[("off", &[100.0]), ("fixed:k=2", &[150.0]), ("auto", &[120.0])]);
        let figures = figures(&log, &|policy| policy == "auto").unwrap();
        assert_eq!(figures.iter().map(|figure| figure.name).collect::<Vec<_>>(), ["speed", "regret"]);
        assert!(figures.iter().all(|figure| !figure.svg.contains("fixed:k")));
        // 120 of 150 tokens/s.
        assert!(figures[1].svg.contains("20.0"), "{}", figures[1].svg);
    }

    #[test]
    fn a_load_that_changes_has_a_figure_over_time() {
        let mut log = log(&[("off", &[100.0]), ("auto", &[120.0])]);
        let whole = log.runs.clone();
        log.runs.clear();
        for segment in 1..=3 {
            log.runs.extend(whole.iter().cloned().map(|mut run| {
                run.conditions.segment = Some(Segment { profile: "1-4-2@2s".to_owned(), segment });
                run
            }));
        }
        assert_eq!(names(&log), ["load"]);
        let svg = &figures(&log, &|_| true).unwrap()[0].svg;
        assert!(svg.contains("time, s") && svg.contains("1-4-2@2s"), "{svg}");
    }
}
