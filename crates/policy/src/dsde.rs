//! DSDE: speculate far where draft and target have been agreeing steadily, and hardly at all where they have not.
//!
//! Yang, Choi, Moon, Jang, Jeon, "DSDE: Dynamic Speculative Decoding with KLD Stability for Real-World Serving", IEEE
//! BigData 2025, arXiv:2509.01083. `variant=paper` follows the text, `variant=released` the code its authors published.
//!
//! Every verified position leaves behind the divergence KL(target || draft), even a rejected one. The mean of the last
//! step says how bad the draft is now; the ratio of its recent to its long-run variance (WVIR) says whether this is a
//! region in which it becomes unreliable. Both together shrink the length from a ceiling, which a short calibration finds
//! for each sequence, towards a floor. Speculation never switches off and the load plays no part.
//!
//! | equation | here |
//! |---|---|
//! | 1: SL_max from the calibration | [`Calibration::bounds`](calibration::Calibration::bounds) |
//! | 3: SF, scale factor of the last step | [`rule::scale_factor`] |
//! | 4: WVIR, ratio of weighted variances | [`rule::wvir`] |
//! | 8: SL between floor and ceiling | [`rule::length`] |
//! | 9-11: SL_cap, the mean of the batch | [`Cap`](crate::Cap); choose it with `cap=mean` |
//!
//! Where the paper is silent, its released code decides, for both variants:
//! * Calibration starts at 5 tokens and doubles the length whenever everything was accepted, up to 20 (`k_init`, `sl_max`).
//! * WVIR is 0 below two values, and 20 if the long-run variance is under 1e-6. The second guard sends a draft that is
//!   steadily wrong to the floor and leaves one that is steadily right, whose scale factor vanishes, at the ceiling.
//! * The mean divergence is divided by the temperature before it enters the scale factor. The paper measures at 0 and 1
//!   only, where this changes nothing.
//! * SL is rounded up; SL_max to the nearest, ties to even.
//!
//! Where both speak and differ, the variant decides: decay of the variance weights 0.85 or 0.9, weight of the divergence
//! ratio in Eq. 1 (`headroom`) 1 or 0.5, floor 2 or 6, windows 10 and 30 or a third and all of the history. The released floor
//! is raised to a tenth of the ceiling.
//!
//! Deviations:
//! * The paper adds epsilon to the denominator of Eq. 1; we take the ratio of a history of zeros to be 0, which is the limit.
//! * A divergence that is not a number, which only a broken executor can deliver, counts as the largest possible one.
//!   The length then falls to the floor instead of becoming undefined.
//! * A drafter without a distribution (prompt lookup) leaves no divergences. The scale factor is then 0, and the length
//!   stays at the ceiling that the calibration found.
//! * The released configuration calibrates over 100 tokens, its class and the paper over 30; our default is 30.
//! * The released engine reserves key-value slots for its maximal length; here the scheduler reserves what is planned.

pub mod calibration;
pub mod config;
pub mod rule;

use std::collections::HashMap;

use calibration::Calibration;
pub use config::{Config, ENTRY, Variant};
use rule::Bounds;

use crate::window::Window;
use crate::{Outcome, PlanView, Planned, Policy, PositionSignals, Reason, SeqId, Signals, StepFeedback};

/// Reason while a sequence calibrates.
const CALIBRATING: Reason = "calibrating";
/// Reason of a length that the divergences determine.
const DIVERGENCE: Reason = "divergence";
/// Reason where the divergences leave nothing above the floor.
const FLOOR: Reason = "floor";

/// Plans each sequence from the level and the stability of its divergences.
#[derive(Clone, Debug)]
pub struct Dsde {
    config: Config,
    sequences: HashMap<SeqId, History>,
}

/// What is remembered of one sequence.
#[derive(Clone, Debug)]
struct History {
    /// Divergences of the last verified positions, nats.
    klds: Window,
    phase: Phase,
    /// Behind `planned`; `None` until the sequence is settled.
    instability: Option<Instability>,
    /// What the next step will be told.
    planned: Planned,
}

/// How bad the draft is, and how unsteadily so.
#[derive(Clone, Copy, Debug)]
struct Instability {
    /// SF, Eq. 3.
    scale_factor: f64,
    /// WVIR, Eq. 4.
    wvir: f64,
}

#[derive(Clone, Debug)]
enum Phase {
    Calibrating(Calibration),
    Settled(Bounds),
}

impl Dsde {
    /// Remembers no sequence yet.
    pub fn new(config: Config) -> Self {
        Self { config, sequences: HashMap::new() }
    }

    /// Sequences that are remembered; each costs a window of divergences until it is forgotten.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }
}

impl Policy for Dsde {
    fn name(&self) -> String {
        self.config.name().to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: true, draft_shape: false }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        for (sequence, planned) in view.sequences.iter().zip(plan) {
            let history = self.sequences.entry(sequence.seq).or_insert_with(|| History::new(&self.config));
            *planned = history.planned;
        }
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        for outcome in feedback.outcomes {
            // Sequences that were never planned or are already forgotten leave nothing behind.
            if let Some(history) = self.sequences.get_mut(&outcome.seq) {
                history.learn(&self.config, outcome);
            }
        }
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        let Some(history) = self.sequences.get(&seq) else { return };
        if let (Phase::Settled(bounds), Some(instability)) = (&history.phase, history.instability) {
            numbers.extend([
                ("scale_factor", instability.scale_factor),
                ("wvir", instability.wvir),
                ("floor", f64::from(bounds.min)),
                ("ceiling", f64::from(bounds.max)),
            ]);
        }
    }

    fn forget(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }
}

impl History {
    fn new(config: &Config) -> Self {
        let calibration = Calibration::new(config);
        Self {
            klds: Window::new(config.long()),
            planned: Planned {
                len: calibration.next_len(),
                width: 1,
                is_settled: false,
                reason: CALIBRATING,
            },
            phase: Phase::Calibrating(calibration),
            instability: None,
        }
    }

    fn learn(&mut self, config: &Config, outcome: &Outcome<'_>) {
        if outcome.verified == 0 {
            return;
        }
        let mut kld_sum = 0.0;
        for signals in outcome.signals {
            let kld = sane_kld(signals);
            self.klds.push(kld);
            kld_sum += f64::from(kld);
            if let Phase::Calibrating(calibration) = &mut self.phase {
                calibration.learn_kld(kld);
            }
        }
        if let Phase::Calibrating(calibration) = &mut self.phase {
            calibration.learn_lengths(config, outcome.verified, outcome.accepted);
            if !calibration.is_done(config) {
                self.planned.len = calibration.next_len();
                return;
            }
            self.phase = Phase::Settled(calibration.bounds(config));
        }
        if let Phase::Settled(bounds) = self.phase {
            let kld_mean = kld_sum / outcome.signals.len().max(1) as f64;
            let instability = Instability {
                scale_factor: rule::scale_factor(at_temperature(kld_mean, outcome.temperature)),
                wvir: rule::wvir(&self.klds, config.short(self.klds.len()), config.long(), config.decay()),
            };
            self.planned = settled(bounds, instability.scale_factor * instability.wvir);
            self.instability = Some(instability);
        }
    }
}

/// The rule of settled sequences, Eq. 8.
fn settled(bounds: Bounds, instability: f64) -> Planned {
    Planned {
        width: 1,
        len: rule::length(bounds, instability),
        is_settled: true,
        reason: if instability < 1.0 { DIVERGENCE } else { FLOOR },
    }
}

/// Divergence per unit of temperature, as in the released code; greedy requests keep theirs.
fn at_temperature(kld_mean: f64, temperature: f32) -> f64 {
    if temperature > 0.0 { kld_mean / f64::from(temperature) } else { kld_mean }
}

/// The divergence of a position within its possible range; what is not a number counts as the worst.
fn sane_kld(signals: &PositionSignals) -> f32 {
    if signals.kld.is_finite() { signals.kld.clamp(0.0, rule::KLD_MAX) } else { rule::KLD_MAX }
}
