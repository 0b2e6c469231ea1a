//! On or off: any gain keeps speculation on, a clear one is needed to start it, a clearer one after false starts.

/// Gain from which speculation is started.
const GAIN_TO_START: f64 = 1.02;

/// What every false start adds to that.
const GAIN_PER_FAILURE: f64 = 0.02;

/// False starts that count.
const FAILURES_MAX: f64 = 10.0;

/// Share of the false starts that a plain step keeps.
const KEPT_WHEN_PLAIN: f64 = 1.0 - 1.0 / 2048.0;

/// Steps that show that a start was right; catching up the draft should have paid for itself by then.
const STEPS_TO_SUCCEED: u32 = 128;

/// Whether speculation is on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Switch {
    is_on: bool,
    n_steps_on: u32,
    /// Batch size at the start.
    n_sequences: usize,
    failures: f64,
}

impl Switch {
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Decides for a step.
    ///
    /// * `can_gain`: whether any draft was found worth its time; `gain`: expected rate over that of plain decoding.
    /// * `n_sequences`: of the batch; ending because the batch changed is no false start.
    pub(super) fn turn(&mut self, can_gain: bool, gain: f64, n_sequences: usize) {
        let needed = if self.is_on { 1.0 } else { GAIN_TO_START + GAIN_PER_FAILURE * self.failures };
        let was_on = std::mem::replace(&mut self.is_on, can_gain && gain > needed);
        match (was_on, self.is_on) {
            (false, true) => (self.n_steps_on, self.n_sequences) = (1, n_sequences),
            (true, true) => self.stay_on(),
            (true, false) => self.end(n_sequences),
            (false, false) => self.failures *= KEPT_WHEN_PLAIN,
        }
    }

    fn stay_on(&mut self) {
        self.n_steps_on = self.n_steps_on.saturating_add(1);
        if self.n_steps_on == STEPS_TO_SUCCEED {
            self.failures = 0.0;
        }
    }

    fn end(&mut self, n_sequences: usize) {
        if self.n_steps_on < STEPS_TO_SUCCEED && n_sequences == self.n_sequences {
            self.failures = (self.failures + 1.0).min(FAILURES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_takes_more_than_staying_and_more_after_a_false_start() {
        let mut switch = Switch::default();
        let steps = [
            // Gain, batch size, on afterwards.
            (1.01, 4, false),
            (1.03, 4, true),
            (1.001, 4, true),
            (0.99, 4, false),
            // One false start: 1.04 is needed.
            (1.03, 4, false),
            (1.05, 4, true),
            // A larger batch is no false start.
            (0.9, 8, false),
            (1.05, 4, true),
        ];
        for (i, (gain, n_sequences, is_on)) in steps.into_iter().enumerate() {
            switch.turn(true, gain, n_sequences);
            assert_eq!(switch.is_on(), is_on, "step {i}");
        }
        switch.turn(false, 2.0, 4);
        assert!(!switch.is_on());
    }

    #[test]
    fn a_long_run_and_a_long_time_clear_the_record() {
        let mut switch = Switch { failures: 5.0, ..Switch::default() };
        (0..STEPS_TO_SUCCEED).for_each(|_| switch.turn(true, 1.5, 1));
        assert_eq!(switch.failures, 0.0);
        let mut switch = Switch { failures: 5.0, ..Switch::default() };
        (0..20_000).for_each(|_| switch.turn(true, 1.0, 1));
        assert!(switch.failures < 0.01);
    }
}
