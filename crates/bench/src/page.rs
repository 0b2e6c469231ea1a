//! Reports as one HTML file: tables and charts that need no network, no script and no font, and follow the reader's choice of a light
//! or dark page.

mod chart;
mod measured;
mod scale;

use std::fmt::Write as _;

use crate::matrix::fixed_len;
use crate::plot::style::looks;
pub use chart::{Axis, Chart, Line, Style};
pub use measured::of_log;

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Page {
    title: String,
    body: String,
}

/// What stands in a table: text cells below a head.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    /// Names of the columns.
    pub head: Vec<String>,
    /// As many cells each as the head has.
    pub rows: Vec<Vec<String>>,
}

impl Page {
    /// An empty page.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), body: String::new() }
    }

    /// A heading of a part.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escaped(text));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escaped(text));
    }

    /// Names and values, such as the machine and the model.
    pub fn facts(&mut self, facts: &[(&str, String)]) {
        self.body.push_str("<dl>\n");
        for (name, value) in facts {
            let _ = writeln!(self.body, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
        }
        self.body.push_str("</dl>\n");
    }

    /// A table; the first `n_names` columns are text, the others numbers.
    pub fn table(&mut self, cells: &Cells, n_names: usize) {
        let row = |tag: &str, row: &[String]| {
            let cell = |(i, text): (usize, &String)| {
                let class = if i < n_names { "" } else { " class=n" };
                format!("<{tag}{class}>{}</{tag}>", escaped(text))
            };
            format!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>())
        };
        self.body.push_str("<div class=wide><table>\n<thead>");
        self.body.push_str(&row("th", &cells.head));
        self.body.push_str("</thead>\n<tbody>\n");
        cells.rows.iter().for_each(|cells| self.body.push_str(&row("td", cells)));
        self.body.push_str("</tbody></table></div>\n");
    }

    /// Charts side by side, as many as fit; those without a point are left out.
    pub fn charts(&mut self, charts: &[Chart]) {
        self.body.push_str("<div class=charts>\n");
        charts.iter().filter(|chart| chart.has_points()).for_each(|chart| self.body.push_str(&chart.html()));
        self.body.push_str("</div>\n");
    }

    /// The whole file.
    pub fn html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
             <meta name=viewport content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n",
            title = escaped(&self.title),
            body = self.body,
        )
    }
}

/// A style per policy, the same as in figures ([`plot`](crate::plot)); all policies of a page have to be named at once.
pub fn styles(policies: &[&str]) -> Vec<Style> {
    let mut n_plain = 0;
    let style = |(look, policy): (_, &&str)| {
        // `off` and plain fixed lengths share a colour.
        let dash = fixed_len(policy).map_or("", |_| DASHES[n_plain % DASHES.len()]);
        n_plain += usize::from(fixed_len(policy).is_some());
        Style { look, dash }
    };
    looks(policies).into_iter().zip(policies).map(style).collect()
}

/// Dashes and gaps of lines of one colour, pixels.
const DASHES: [&str; 5] = ["", "7 3", "2 3", "9 3 2 3", "4 6"];

/// Text in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --ink: #1d2129; --soft: #5d6470; --line: #d9dde3; --panel: #f6f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --back: #0d1117; --ink: #e3e7ed; --soft: #98a1ae; --line: #2c333d; --panel: #151b23 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1500px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
h1 { font-size: 1.6rem; margin: 0 0 .75rem; line-height: 1.25 }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line) }
p { max-width: 80ch; margin: .5rem 0; color: var(--soft) }
dl { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .5rem 0 1rem }
dt { font-size: .8rem; color: var(--soft) }
dd { margin: 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem }
th, td { padding: .28rem .7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 }
.n { text-align: right }
tbody tr:hover { background: var(--panel) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem .9rem; background: var(--panel); border: 1px solid var(--line); border-radius: 8px }
figcaption { font-weight: 600; margin-bottom: .3rem }
figcaption span { display: block; font-weight: 400; font-size: .82rem; color: var(--soft) }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums }
.grid { stroke: var(--line) }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; margin: .4rem 0 0; padding: 0; list-style: none; font-size: .84rem }
.legend svg { display: inline-block; width: 26px; height: 10px; margin-right: .35rem; vertical-align: middle }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes_what_it_is_told() {
        let mut page = Page::new("a <b> & c");
        page.facts(&[("machine", "\"x\"".to_owned())]);
        page.table(
            &Cells {
                head: vec!["policy".into(), "tokens/s".into()],
                rows: vec![vec!["<off>".into(), "7".into()]],
            },
            1,
        );
        let style = styles(&["off"])[0];
        let lines = vec![Line { name: "off".to_owned(), style, points: vec![[1.0, 2.0], [2.0, 3.0]] }];
        page.charts(&[Chart::new("t", Axis::new("x"), Axis::new("y"), lines)]);
        let html = page.html();
        assert!(html.starts_with("<!doctype html>") && html.contains("<title>a &lt;b&gt; &amp; c</title>"));
        assert!(html.contains("<td>&lt;off&gt;</td><td class=n>7</td>") && html.contains("&quot;x&quot;"));
        for foreign in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        assert!(!html.contains("NaN") && !html.contains("inf"));
    }
}
