//! What the demo shows while it measures.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use dsde_bench::load::Observer;
use dsde_bench::metrics;
use dsde_engine::{Emission, StepReport};
use dsde_policy::registry;
use indicatif::{ProgressBar, ProgressStyle};

/// A line on stderr that tells what runs; nothing where stderr is not a terminal.
pub(super) struct Live {
    bar: ProgressBar,
    title: String,
    n_tokens: usize,
    start: Instant,
    /// When the line was last written.
    described: Instant,
    /// Text of the first prompt so far.
    text: Vec<u8>,
}

impl Live {
    /// Characters of text shown.
    const TEXT_WIDTH: usize = 48;
    /// Time between two descriptions.
    const PERIOD: Duration = Duration::from_millis(50);

    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            title: String::new(),
            n_tokens: 0,
            start: Instant::now(),
            described: Instant::now(),
            text: Vec::new(),
        }
    }

    /// Begins a run.
    pub(super) fn begin(&mut self, policy: &registry::Config, what: &str) {
        self.title = format!("{policy}, {what}");
        self.n_tokens = 0;
        self.start = Instant::now();
        self.text.clear();
    }

    /// Leaves nothing behind.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn text_tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.text).replace(char::is_control, " ");
        let n_chars = text.chars().count();
        text.chars().skip(n_chars.saturating_sub(Self::TEXT_WIDTH)).collect()
    }
}

impl Observer for Live {
    fn emitted(&mut self, request_idx: usize, emission: &Emission) {
        self.n_tokens += emission.tokens.len();
        if request_idx == 0 {
            self.text.extend_from_slice(&emission.text);
        }
    }

    fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
        // Describing every step would be part of what is measured.
        if self.bar.is_hidden() || self.described.elapsed() < Self::PERIOD {
            return ControlFlow::Continue(());
        }
        self.described = Instant::now();
        let seconds = metrics::milliseconds(self.start.elapsed()) / 1e3;
        let rate = self.n_tokens as f64 / seconds.max(1e-3);
        self.bar.set_message(format!(
            "{}: {} running, {rate:.0} tokens/s | {}",
            self.title,
            report.n_seqs,
            self.text_tail()
        ));
        self.bar.tick();
        ControlFlow::Continue(())
    }
}
