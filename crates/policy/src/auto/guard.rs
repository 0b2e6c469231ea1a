//! What speculation brought against what was foretold: the check that does not trust the model.

/// Speculating steps that are remembered, about.
const MEMORY: f64 = 128.0;

/// Imagined steps of one sequence that went as foretold; few steps prove little.
const PRIOR: f64 = 64.0;

/// Share of the past that a plain step keeps: what went wrong then may go right by now.
const KEPT_WHEN_PLAIN: f64 = 1.0 - 1.0 / 2048.0;

/// Bounds on the correction.
const FACTOR_RANGE: (f64, f64) = (0.5, 1.25);

/// Progress and time of one step or of many, in units of plain decoding's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Progress {
    pub(super) tokens: f64,
    pub(super) seconds: f64,
}

/// Ratio of measured to foretold rates while speculating.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guard {
    foretold: Progress,
    measured: Progress,
}

impl Guard {
    /// Takes in one speculating step of `n_sequences`; up to four of them count, since the clock's noise is common to all.
    pub(super) fn note(&mut self, n_sequences: usize, foretold: Progress, measured: Progress) {
        self.keep(1.0 - 1.0 / MEMORY);
        let weight = n_sequences.min(4) as f64;
        // An interrupted step says little about speculation.
        let seconds = measured.seconds.clamp(0.5 * foretold.seconds, 2.0 * foretold.seconds);
        self.foretold.tokens += weight * foretold.tokens;
        self.foretold.seconds += weight * foretold.seconds;
        self.measured.tokens += weight * measured.tokens;
        self.measured.seconds += weight * seconds;
    }

    /// Takes in one plain step.
    pub(super) fn relax(&mut self) {
        self.keep(KEPT_WHEN_PLAIN);
    }

    /// Factor on a foretold rate, without unit: 1 if speculation brings what was foretold.
    pub(super) fn factor(&self) -> f64 {
        let tokens = (self.measured.tokens + PRIOR) / (self.foretold.tokens + PRIOR);
        let seconds = (self.measured.seconds + PRIOR) / (self.foretold.seconds + PRIOR);
        (tokens / seconds).clamp(FACTOR_RANGE.0, FACTOR_RANGE.1)
    }

    fn keep(&mut self, share: f64) {
        for progress in [&mut self.foretold, &mut self.measured] {
            progress.tokens *= share;
            progress.seconds *= share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_disappointment_lowers_the_factor_and_time_heals_it() {
        let mut guard = Guard::default();
        assert_eq!(guard.factor(), 1.0);
        let foretold = Progress { tokens: 2.0, seconds: 1.5 };
        guard.note(1, foretold, Progress { tokens: 1.0, seconds: 1.5 });
        // (1 + 64) / (2 + 64), seconds as foretold.
        assert!((guard.factor() - 65.0 / 66.0).abs() < 1e-12);
        (0..1000).for_each(|_| guard.note(1, foretold, Progress { tokens: 1.4, seconds: 1.5 }));
        // Sums of 128 steps: (179.2 + 64) / (256 + 64) = 0.76.
        assert!((guard.factor() - 0.76).abs() < 0.01, "{}", guard.factor());
        (0..20_000).for_each(|_| guard.relax());
        assert!((guard.factor() - 1.0).abs() < 0.01);
    }

    #[test]
    fn one_interruption_is_bounded() {
        let mut guard = Guard::default();
        let foretold = Progress { tokens: 1.0, seconds: 1.0 };
        guard.note(1, foretold, Progress { tokens: 1.0, seconds: 1000.0 });
        assert!(guard.factor() > 0.98);
    }
}
