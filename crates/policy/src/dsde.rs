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
//! | 4: WVIR, ratio of weighted variances | [`rule::wvir`], [`Window::variance`](crate::window::Window::variance) |
//! | 8: SL between floor and ceiling | [`rule::length`] |
//! | 9-11: SL_cap, the mean of the batch | [`cap::mean_len`]; choose it with `cap=mean` |
//!
//! The text of these was known when this was written, that of equations 2 and 5 to 7 was not: `variant=paper` is not checked
//! against them.
//!
//! `variant=released` plans what the authors' code plans, step by step (`tests/dsde_released.rs`). Where the paper is
//! silent that code decides for both variants:
//! * Calibration starts at 5 tokens and doubles the length whenever everything was accepted, up to 20 (`k_init`, `sl_max`).
//! * WVIR is 0 below two values, and 20 if the long-run variance is under 1e-6. The second guard sends a draft that is
//!   steadily wrong to the floor and leaves one that is steadily right, whose scale factor vanishes, at the ceiling.
//! * The mean divergence is divided by the temperature before it enters the scale factor. The paper measures at 0 and 1
//!   only, where this changes nothing.
//! * SL is rounded up; SL_max to the nearest, ties to even.
//!
//! Where both speak and differ, the variant decides: decay of the variance weights 0.85 or 0.9, weight of the divergence
//! ratio in Eq. 1 (`headroom`) 1 or 0.5, floor 2 or 6, windows 10 and 30 or a third and all of the history. Four habits of the
//! released code are its variant's alone, since nothing in the paper asks for them:
//! * The step that completes the calibration is not part of it: neither its accepted tokens nor its divergences enter the
//!   bounds. If it was the first step, the configured bounds stay.
//! * The first length is `k_init`, outside the bounds too; they hold from the second step on.
//! * The floor is raised to a tenth of the ceiling.
//! * The cap is set after a step, for the next: the mean of the sequences that drafted in this step and were settled before it,
//!   the ones that end with it included. It cuts every settled sequence of the step, also one that has settled only now and
//!   is not in the mean. Otherwise the cap is the mean of the settled sequences that are about to draft.
//!
//! Deviations:
//! * The paper adds epsilon to the denominator of Eq. 1; we take the ratio of a history of zeros to be 0, which is the limit.
//! * A divergence that is not a number, which only a broken executor can deliver, counts as the largest possible one.
//!   The length then falls to the floor instead of becoming undefined.
//! * A divergence that clamping leaves under zero counts as zero. In the released code a step of such divergences can plan one
//!   token above the ceiling.
//! * A drafter without a distribution (suffix decoding) leaves no divergences. The scale factor is then 0, and the length
//!   stays at the ceiling that the calibration found; the released code would calibrate for ever.
//! * A step without a proposal teaches nothing. The released code takes it for one in which nothing was accepted, which
//!   matters only while a sequence calibrates beside prompts that are read in the same pass.
//! * The released configuration calibrates over 100 tokens, its class and the paper over 30; our default is 30 for both
//!   variants, `activation=100` the other.
//! * The released engine reserves key-value slots for its maximal length; here the scheduler reserves what is planned.

pub mod calibration;
pub mod config;
pub mod rule;

use std::collections::HashMap;

use calibration::Calibration;
pub use config::{Config, ENTRY, Variant};
use rule::Bounds;

use crate::window::Window;
use crate::{Outcome, PlanView, Planned, Policy, PositionSignals, Reason, SeqId, Signals, StepFeedback, cap};

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
    /// The bound that the policy itself set after the last step, tokens.
    cap: Option<u32>,
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
        Self { config, sequences: HashMap::new(), cap: None }
    }

    /// Sequences that are remembered; each costs a window of divergences until it is forgotten.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Bounds the lengths of all settled sequences of a step by the mean of those that were settled before it, also where
    /// one of them ends with this step.
    fn cut_to_mean(&mut self, outcomes: &[Outcome<'_>], settled_lens: &[u32]) {
        self.cap = cap::mean_len(settled_lens.iter().copied());
        let Some(bound) = self.cap else { return };
        for outcome in outcomes.iter().filter(|outcome| outcome.verified > 0) {
            if let Some(history) = self.sequences.get_mut(&outcome.seq) {
                cap::cut(&mut history.planned, bound);
            }
        }
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
        let mut settled_lens = Vec::new();
        for outcome in feedback.outcomes.iter().filter(|outcome| outcome.verified > 0) {
            // Sequences that were never planned or are already forgotten leave nothing behind.
            let Some(history) = self.sequences.get_mut(&outcome.seq) else { continue };
            let was_settled = history.planned.is_settled;
            history.learn(&self.config, outcome);
            if was_settled {
                settled_lens.push(history.planned.len);
            }
        }
        if self.config.is_capped() {
            self.cut_to_mean(feedback.outcomes, &settled_lens);
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
        numbers.extend(self.cap.map(|cap| ("cap", f64::from(cap))));
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
                len: calibration.next_len(config),
                width: 1,
                is_settled: false,
                reason: CALIBRATING,
            },
            phase: Phase::Calibrating(calibration),
            instability: None,
        }
    }

    fn learn(&mut self, config: &Config, outcome: &Outcome<'_>) {
        let klds = outcome.signals.iter().map(sane_kld);
        klds.clone().for_each(|kld| self.klds.push(kld));
        if let Phase::Calibrating(calibration) = &mut self.phase {
            calibration.learn(config, outcome.verified, outcome.accepted, klds.clone());
            if !calibration.is_done(config) {
                self.planned.len = calibration.next_len(config);
                return;
            }
            self.phase = Phase::Settled(calibration.bounds(config));
        }
        if let Phase::Settled(bounds) = self.phase {
            let kld_mean = klds.map(f64::from).sum::<f64>() / outcome.signals.len().max(1) as f64;
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
