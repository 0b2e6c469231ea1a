//! Looking again while speculation is off: rarely and on a budget of time, with one sequence, or with all if it nearly pays.

use crate::SeqId;

/// Steps of a probe.
const STEPS: u32 = 4;

/// Most that may be saved up, in plain steps.
const SAVINGS_MAX: f64 = 64.0;

/// Most by which a hopeless prospect stretches the pauses between probes.
const PATIENCE_MAX: f64 = 4.0;

/// Factor on the share while too little is known to settle it: a few unlucky drafts must not.
const EAGERNESS: f64 = 6.0;

/// Shortfall of the expected gain that doubles the pauses.
const SHORTFALL: f64 = 0.1;

/// Savings and the probe in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// Share of the time that probes may cost.
    share: f64,
    /// Seconds saved up.
    savings: f64,
    left: u32,
    who: Who,
}

/// Who drafts in a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// One sequence, which shows what is accepted.
    One(SeqId),
    /// Everyone, which also shows what it costs.
    All,
}

/// What a probe would cost, seconds beyond plain decoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) who: Who,
    /// Once, for reading what the draft has not read.
    pub(super) catch_up: f64,
    /// Per step; below zero if it would gain.
    pub(super) step: f64,
}

impl Probe {
    pub(super) fn new(share: f64) -> Self {
        Self { share, savings: 0.0, left: 0, who: Who::All }
    }

    /// Saves up for the next probe during a plain step.
    ///
    /// * `is_open`: whether speculation may pay after all.
    pub(super) fn save(&mut self, plain_seconds: f64, is_open: bool) {
        let share = if is_open { EAGERNESS * self.share } else { self.share };
        self.savings = (self.savings + share * plain_seconds).min(SAVINGS_MAX * plain_seconds);
    }

    /// Who takes part in the probe that goes on.
    pub(super) fn in_progress(&self) -> Option<Who> {
        (self.left > 0).then_some(self.who)
    }

    /// Counts a step of the probe in progress.
    pub(super) fn advance(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Ends the probe in progress.
    pub(super) fn stop(&mut self) {
        self.left = 0;
    }

    /// Starts a probe if the savings allow.
    ///
    /// * `gain`: expected rate of speculation over that of plain decoding; the further below 1, the longer the pause.
    pub(super) fn start(&mut self, offer: Offer, plain_seconds: f64, gain: f64) -> bool {
        let patience = (2.0f64).powf((1.0 - gain) / SHORTFALL - 1.0).clamp(1.0, PATIENCE_MAX);
        let cost = patience * (offer.catch_up + f64::from(STEPS) * offer.step.max(0.02 * plain_seconds));
        if self.savings < cost {
            return false;
        }
        self.savings -= cost;
        self.left = STEPS;
        self.who = offer.who;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_take_their_share_of_the_time() {
        let mut probe = Probe::new(0.005);
        let offer = Offer { who: Who::One(SeqId(1)), catch_up: 0.1, step: 0.4 };
        let mut n_probes = 0;
        for _ in 0..10_000 {
            probe.save(1.0, false);
            n_probes += u32::from(probe.start(offer, 1.0, 1.0));
        }
        // 50 s saved, 0.1 + 4 * 0.4 = 1.7 s each.
        assert_eq!(n_probes, 29);
        // At 20 % short the pauses are twice as long: twice the cost must be saved, and is spent.
        let mut probe = Probe::new(0.005);
        (0..679).for_each(|_| probe.save(1.0, false));
        assert!(!probe.start(offer, 1.0, 0.8));
        probe.save(1.0, false);
        probe.save(1.0, false);
        assert!(probe.start(offer, 1.0, 0.8));
        assert_eq!(probe.in_progress(), Some(Who::One(SeqId(1))));
        (0..STEPS).for_each(|_| probe.advance());
        assert_eq!(probe.in_progress(), None);
    }

    #[test]
    fn an_open_question_is_looked_at_more_often() {
        let offer = Offer { who: Who::All, catch_up: 0.0, step: 0.19 };
        let steps_to_afford = |is_open| {
            let mut probe = Probe::new(0.005);
            (1..).find(|_| {
                probe.save(1.0, is_open);
                probe.start(offer, 1.0, 1.0)
            })
        };
        // 4 * 0.19 s, at 5 ms and at 30 ms per second.
        assert_eq!((steps_to_afford(false), steps_to_afford(true)), (Some(152), Some(26)));
    }
}
