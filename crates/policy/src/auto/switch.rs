//! On or off: any gain keeps speculation on, a clear one is needed to start it, a clearer one after false starts.

use super::guard::Progress;

/// Gain from which speculation is started.
pub(super) const GAIN_TO_START: f64 = 1.02;

/// What every false start adds to that.
const GAIN_PER_FAILURE: f64 = 0.02;

/// False starts that count.
const FAILURES_MAX: f64 = 10.0;

/// Share of the false starts that a plain step keeps.
const KEPT_WHEN_PLAIN: f64 = 1.0 - 1.0 / 2048.0;

/// Whether speculation is on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Switch {
    is_on: bool,
    /// Since the start, in units of plain decoding's.
    achieved: Progress,
    failures: f64,
}

impl Switch {
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Decides for a step.
    ///
    /// * `can_gain`: whether any draft was found worth its time; `gain`: expected rate over that of plain decoding.
    pub(super) fn turn(&mut self, can_gain: bool, gain: f64) {
        let needed = if self.is_on { 1.0 } else { GAIN_TO_START + GAIN_PER_FAILURE * self.failures };
        let was_on = std::mem::replace(&mut self.is_on, can_gain && gain > needed);
        match (was_on, self.is_on) {
            (false, true) => self.achieved = Progress::default(),
            (true, true) => {}
            (true, false) => self.end(),
            (false, false) => self.failures *= KEPT_WHEN_PLAIN,
        }
    }

    /// Takes in what a step brought while on.
    pub(super) fn note(&mut self, measured: Progress) {
        self.achieved.tokens += measured.tokens;
        self.achieved.seconds += measured.seconds;
    }

    /// It was a false start if it lost time, catching up included.
    fn end(&mut self) {
        let has_lost = self.achieved.tokens < self.achieved.seconds;
        self.failures = if has_lost { (self.failures + 1.0).min(FAILURES_MAX) } else { 0.5 * self.failures };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step on which speculation made `tokens` times the progress of plain decoding in its time.
    fn brought(switch: &mut Switch, tokens: f64) {
        switch.note(Progress { tokens, seconds: 1.0 });
    }

    #[test]
    fn starting_takes_more_than_staying_and_more_after_a_false_start() {
        let mut switch = Switch::default();
        let steps = [
            // Gain, progress that the step brings, on afterwards.
            (1.01, 0.0, false),
            (1.03, 1.2, true),
            (1.001, 0.7, true),
            (0.99, 0.0, false),
            // 1.9 in the time of 2, one false start: 1.04 is needed.
            (1.03, 0.0, false),
            (1.05, 1.2, true),
            (1.05, 0.9, true),
            (0.9, 0.0, false),
            // 2.1 in the time of 2, half a false start is left: 1.03 is needed.
            (1.028, 0.0, false),
            (1.032, 1.2, true),
        ];
        for (i, (gain, tokens, is_on)) in steps.into_iter().enumerate() {
            switch.turn(true, gain);
            assert_eq!(switch.is_on(), is_on, "step {i}");
            if is_on {
                brought(&mut switch, tokens);
            }
        }
        switch.turn(false, 2.0);
        assert!(!switch.is_on());
    }

    #[test]
    fn a_long_time_clears_the_record() {
        let mut switch = Switch { failures: 5.0, ..Switch::default() };
        (0..20_000).for_each(|_| switch.turn(true, 1.0));
        assert!(switch.failures < 0.01);
    }
}
