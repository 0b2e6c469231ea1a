//! A few lengths per batch size, climbed up and down with the number of accepted drafts: SGLang's adaptive steps.
//!
//! SGLang, adaptive speculative steps for EAGLE drafts (sgl-project/sglang). No paper. Every tier of batch sizes has its own
//! short list of lengths, since each length costs SGLang a captured graph, and its own moving average of the drafts that a
//! request gets accepted per step. Where nearly everything is accepted the next longer length is tried; where fewer are
//! accepted than the next shorter length could deliver, that is enough.
//!
//! | rule | here |
//! |---|---|
//! | batch size from 1: 1, 3, 5, 7; from 8: 0, 1, 3; from 32: 0, 1; from 64: 0 | [`TIERS`] |
//! | EMA, weight 0.2, of accepted drafts per request; starts at the length minus 1 | `Tier::learn` |
//! | down while `EMA <= shorter - 0.5 + down_hyst` (0.5 instead if the shorter length is 0) | [`next_idx`] |
//! | up while `EMA > current - 0.5 + up_hyst`; from 0 always to the smallest positive length | [`next_idx`] |
//! | a decision every 5 batches after 10 batches of warm-up | `Tier::learn` |
//!
//! Deviations and choices:
//! * Steps at length 0 leave the average alone: nothing was drafted, so nothing is known. SGLang's description is silent.
//! * Requests for which nothing was verified, for lack of remaining tokens, are not counted either.
//! * A decision moves in one direction only; with a positive `down_hyst` it could otherwise go down and up again.
//! * Tiers are chosen by the real batch size. SGLang pads it to that of a captured graph first; there are no graphs here.
//! * The optional ceiling by a multiple of the average is left out: it only ever shortens.
//! * A tier starts at its longest length that is at most `k_init`, 3 as in SGLang's static default.

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "tiered",
    summary: "the same length for every sequence, climbed per range of batch sizes with the accepted drafts",
    source: "SGLang, adaptive speculative steps",
    parameters: &[
        Parameter {
            key: "k_init",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("3"),
            meaning: "bound on the first length of every range, tokens",
        },
        Parameter {
            key: "weight",
            values: ValueSet::Number { min: 0.01, max: 1.0 },
            default: Some("0.2"),
            meaning: "weight of the newest step in the average of accepted drafts",
        },
        Parameter {
            key: "warmup",
            values: ValueSet::Count { min: 0, max: 10_000 },
            default: Some("10"),
            meaning: "steps in a range before its first interval begins",
        },
        Parameter {
            key: "interval",
            values: ValueSet::Count { min: 1, max: 10_000 },
            default: Some("5"),
            meaning: "steps in a range between decisions",
        },
        Parameter {
            key: "up_hyst",
            values: ValueSet::Number { min: -1.0, max: 1.0 },
            default: Some("0"),
            meaning: "accepted drafts beyond the threshold that are needed to go up",
        },
        Parameter {
            key: "down_hyst",
            values: ValueSet::Number { min: -1.0, max: 1.0 },
            default: Some("-0.25"),
            meaning: "shift of the threshold to go down in the range from batch size 1; 0 in the others",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Tiered::new(settings))),
};

/// Smallest batch size of every tier, and the lengths it may use, ascending.
pub static TIERS: [(u32, &[u32]); 4] = [(1, &[1, 3, 5, 7]), (8, &[0, 1, 3]), (32, &[0, 1]), (64, &[0])];

/// Accepted drafts by which the average may miss a length and still count as reaching it.
const MARGIN: f64 = 0.5;

/// How far the average must be beyond a threshold.
#[derive(Clone, Copy, Debug)]
pub struct Hysteresis {
    /// Added to the threshold for a longer length, accepted drafts.
    pub up: f64,
    /// Added to the threshold for a shorter length, accepted drafts.
    pub down: f64,
}

/// Index of the length to use next.
///
/// * `lens`: the tier's lengths, ascending, tokens.
/// * `idx`: of the current length.
/// * `accepted`: average of accepted drafts per request and step.
pub fn next_idx(lens: &[u32], idx: usize, accepted: f64, hysteresis: Hysteresis) -> usize {
    if lens[idx] == 0 {
        return (idx + 1).min(lens.len() - 1);
    }
    let is_shorter_enough = |shorter: u32| {
        let reached = if shorter == 0 { MARGIN } else { f64::from(shorter) - MARGIN };
        accepted <= reached + hysteresis.down
    };
    let lower = (0..idx).rev().take_while(|&i| is_shorter_enough(lens[i])).last();
    let is_exhausted = |len: u32| accepted > f64::from(len) - MARGIN + hysteresis.up;
    let n_up = lens[idx..lens.len() - 1].iter().take_while(|&&len| is_exhausted(len)).count();
    lower.unwrap_or(idx + n_up)
}

/// Plans one of few lengths for the whole batch.
#[derive(Clone, Debug)]
pub struct Tiered {
    name: String,
    pace: Pace,
    tiers: [Tier; TIERS.len()],
    /// Tier of the step that is under way; `None` if nobody could speculate.
    current: Option<usize>,
}

/// When and how fast a tier learns.
#[derive(Clone, Copy, Debug)]
struct Pace {
    weight: f64,
    warmup: u64,
    interval: u64,
}

/// What one range of batch sizes has learnt.
#[derive(Clone, Debug)]
struct Tier {
    lens: &'static [u32],
    idx: usize,
    hysteresis: Hysteresis,
    /// Average of accepted drafts per request and step.
    accepted: f64,
    n_steps: u64,
}

impl Tier {
    fn new(lens: &'static [u32], k_init: u32, hysteresis: Hysteresis) -> Self {
        let idx = lens.iter().rposition(|&len| len <= k_init).unwrap_or(0);
        let accepted = f64::from(lens[idx].saturating_sub(1));
        Self { lens, idx, hysteresis, accepted, n_steps: 0 }
    }

    fn len(&self) -> u32 {
        self.lens[self.idx]
    }

    /// Takes in one step and decides if it is time.
    fn learn(&mut self, pace: Pace, feedback: &StepFeedback<'_>) {
        let (mut accepted, mut n_requests) = (0u64, 0u64);
        for outcome in feedback.outcomes.iter().filter(|outcome| outcome.verified > 0) {
            accepted += u64::from(outcome.accepted);
            n_requests += 1;
        }
        if n_requests > 0 {
            self.accepted += pace.weight * (accepted as f64 / n_requests as f64 - self.accepted);
        }
        self.n_steps += 1;
        let is_time =
            self.n_steps > pace.warmup && (self.n_steps - pace.warmup).is_multiple_of(pace.interval);
        if is_time {
            self.idx = next_idx(self.lens, self.idx, self.accepted, self.hysteresis);
        }
    }
}

impl Tiered {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    pub fn new(settings: &Settings) -> Self {
        let up = settings.number("up_hyst");
        let tiers = std::array::from_fn(|i| {
            let down = if i == 0 { settings.number("down_hyst") } else { 0.0 };
            Tier::new(TIERS[i].1, settings.count("k_init"), Hysteresis { up, down })
        });
        let pace = Pace {
            weight: settings.number("weight"),
            warmup: u64::from(settings.count("warmup")),
            interval: u64::from(settings.count("interval")),
        };
        Self { name: settings.name(), pace, tiers, current: None }
    }
}

impl Policy for Tiered {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        let batch_size = view.sequences.len() as u32;
        self.current = TIERS.iter().rposition(|&(first, _)| first <= batch_size);
        if let Some(current) = self.current {
            plan.fill(Planned { len: self.tiers[current].len(), width: 1, is_settled: true, reason: "tier" });
        }
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        if let Some(current) = self.current.take() {
            self.tiers[current].learn(self.pace, feedback);
        }
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lens: &[u32], current: u32, accepted: f64, hysteresis: (f64, f64), expected: u32) {
        let idx = lens.iter().position(|&len| len == current).unwrap();
        let hysteresis = Hysteresis { up: hysteresis.0, down: hysteresis.1 };
        let got = lens[next_idx(lens, idx, accepted, hysteresis)];
        assert_eq!(got, expected, "{lens:?} from {current}, {accepted} accepted, {hysteresis:?}");
    }

    #[test]
    fn lengths_are_left_where_the_average_crosses_a_threshold() {
        let small = &[1, 3, 5, 7];
        // From 3: up above 3 - 0.5, down at 1 - 0.5 - 0.25.
        check(small, 3, 2.51, (0.0, -0.25), 5);
        check(small, 3, 2.50, (0.0, -0.25), 3);
        check(small, 3, 0.26, (0.0, -0.25), 3);
        check(small, 3, 0.25, (0.0, -0.25), 1);
        // Several at once: from 7 down past 5 (4.25) and 3 (2.25), not past 1 (0.25).
        check(small, 7, 2.0, (0.0, -0.25), 3);
        check(small, 7, 0.0, (0.0, -0.25), 1);
        check(small, 1, 0.0, (0.0, -0.25), 1);
        check(small, 7, 7.0, (0.0, -0.25), 7);
        // An average from longer proposals lifts several at once too: above 0.5, 2.5 and 4.5.
        check(small, 1, 4.6, (0.0, -0.25), 7);
        // 0.1 more is needed to go up.
        check(small, 3, 2.59, (0.1, 0.0), 3);
        check(small, 3, 2.61, (0.1, 0.0), 5);
        // Down at 3 - 0.5 + 1, where going up again from 3 would need only 2.5.
        check(small, 5, 3.4, (0.0, 1.0), 3);
    }

    #[test]
    fn zero_is_left_at_half_a_draft_and_always_tried_again() {
        check(&[0, 1, 3], 1, 0.5, (0.0, 0.0), 0);
        check(&[0, 1, 3], 1, 0.51, (0.0, 0.0), 3);
        check(&[0, 1, 3], 3, 0.5, (0.0, 0.0), 0);
        check(&[0, 1, 3], 0, 0.0, (0.0, 0.0), 1);
        check(&[0, 1, 3], 0, 9.0, (0.0, 0.0), 1);
        check(&[0], 0, 9.0, (0.0, 0.0), 0);
    }

    #[test]
    fn tiers_start_at_their_longest_length_up_to_the_bound() {
        let first =
            |k_init| TIERS.map(|(_, lens)| Tier::new(lens, k_init, Hysteresis { up: 0.0, down: 0.0 }).len());
        assert_eq!(first(3), [3, 3, 1, 0]);
        assert_eq!(first(1), [1, 1, 1, 0]);
        assert_eq!(first(64), [7, 3, 1, 0]);
    }
}
