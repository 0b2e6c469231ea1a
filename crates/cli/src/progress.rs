//! The bar of work that takes long, on stderr; nothing where that is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `n` things, which begins with the time that has passed.
///
/// * `counts`: what stands behind the bar, in indicatif's words.
pub(crate) fn bar(n: u64, counts: &str) -> ProgressBar {
    let bar = ProgressBar::new(n);
    if let Ok(style) = ProgressStyle::with_template(&format!("{{elapsed_precise}} [{{bar:30}}] {counts}")) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
