//! How likely a drafted token is to be accepted, learnt while serving.
//!
//! Two predictions, by logistic models, per kind of sampling, greedy (acceptance is a matter of yes or no) and with a
//! temperature:
//!
//! * *blind*, for lengths planned before anything is drafted: what everyone's drafts at this position are worth, and the
//!   request's own record;
//! * *sighted*, once a position is drafted: these and the shape of the draft's distribution, the logit of its largest
//!   probability and its entropy. Both are functions of the prefix, never of the drawn token.
//!
//! The models are shared by all requests, so a new one starts informed: it gets what is true of requests on average. What
//! is peculiar to a request is one number, of its record (`acceptance/record.rs`): by how much, in log-odds, it is accepted more
//! or less often than the models say.
//!
//! Positions up to and including the first rejection are labels; what lies beyond continues a text that was refused, and is
//! left out. A sampled draft's label is the exact probability `1 - TV` where the executor delivers it, which says more than
//! the drawn yes or no.

pub mod calibration;
pub mod logistic;
mod record;

use crate::seq_map::SeqMap;
use crate::{DraftPosition, Outcome, SeqId};
use calibration::Calibration;
use logistic::{Logistic, logit};
use record::Record;

/// Bound on the logit of a top probability.
const LOGIT_MAX: f64 = 8.0;

/// Bounds on odds, those of [`sigmoid`](logistic::sigmoid): `e^-12` and `e^12`.
const ODDS_RANGE: (f64, f64) = (6.144_212_353_328_21e-6, 162_754.791_419_003_92);

/// Positions that make one unit of the position's feature.
const POSITION_UNIT: f64 = 4.0;

/// Labels that the shared models remember, about.
const MEMORY_LABELS: f64 = 600.0;

/// Steps that the shared models remember, about, however few labels they bring.
const MEMORY_STEPS: f64 = 2048.0;

/// Labels of a step after which the shared models have heard enough: a tenth of what they remember. Further requests of a
/// large batch only add to their own records.
const LABELS_PER_STEP: f64 = 64.0;

/// Labels over which the worth of the shape is averaged, about.
const INSIGHT_LABELS: f64 = 1000.0;

/// Labels before which the worth of the shape is unknown.
const INSIGHT_AFTER: f64 = 300.0;

/// The models of one kind of sampling.
#[derive(Clone, Debug)]
struct Models {
    /// Of everyone's drafts together: one, position.
    shared: Logistic<2>,
    /// Log-odds of the shared model, offset of the request.
    blind: Logistic<2>,
    /// See [`sighted_features`].
    sighted: Logistic<5>,
}

impl Default for Models {
    /// Blind: 0.7 everywhere. Sighted: odds that follow the square root of the draft's own.
    fn default() -> Self {
        Self {
            shared: Logistic::new([0.85, 0.0], [3.0, 20.0]),
            blind: Logistic::new([1.0, 1.0], [40.0, 8.0]),
            sighted: Logistic::new([-0.2, 1.0, 0.0, 0.5, 0.0], [3.0, 8.0, 20.0, 8.0, 20.0]),
        }
    }
}

fn shared_features(index: u32) -> [f64; 2] {
    [1.0, f64::from(index) / POSITION_UNIT]
}

/// One, offset of the request, position, logit of the top probability, entropy.
fn sighted_features(offset: f64, position: &DraftPosition) -> [f64; 5] {
    let [one, index] = shared_features(position.index);
    let entropy =
        if position.entropy.is_finite() { f64::from(position.entropy).clamp(0.0, LOGIT_MAX) } else { 0.0 };
    [one, offset, index, logit(f64::from(position.top_prob), LOGIT_MAX), entropy]
}

/// Index in [`sighted_features`] of the logit of the top probability.
const TOP_LOGIT: usize = 3;

/// Whether the draft's shape was computed: without it, the draft claims to be certain.
pub fn has_shape(position: &DraftPosition) -> bool {
    position.top_prob < 1.0 || position.entropy > 0.0
}

impl Models {
    fn blind_features(&self, offset: f64, index: u32) -> [f64; 2] {
        [self.shared.log_odds(&shared_features(index)), offset]
    }

    /// Notes a label without regard to the shape; the prediction that it met.
    fn learn_blind(&mut self, record: &mut Record, offset: f64, index: u32, label: f64) -> f64 {
        let features = shared_features(index);
        let shared = self.shared.predict(&features);
        self.shared.note(&features, shared, label);
        record.note(shared, label);
        let features = self.blind_features(offset, index);
        let blind = self.blind.predict(&features);
        self.blind.note(&features, blind, label);
        blind
    }

    /// Notes a label with the shape that belongs to it; the prediction that it met.
    fn learn_sighted(&mut self, offset: f64, position: &DraftPosition, label: f64) -> f64 {
        let features = sighted_features(offset, position);
        let sighted = self.sighted.predict(&features);
        self.sighted.note(&features, sighted, label);
        sighted
    }

    fn settle(&mut self, n_steps: u32) {
        let kept = |n_new: f64| (-n_new / MEMORY_LABELS - f64::from(n_steps) / MEMORY_STEPS).exp();
        self.shared.settle(kept(self.shared.n_new()), 1.0);
        self.blind.settle(kept(self.blind.n_new()), 1.0);
        self.sighted.settle(kept(self.sighted.n_new()), 1.0);
        self.sighted.keep_non_negative(TOP_LOGIT);
    }
}

/// Acceptance of everyone's drafts.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    greedy: Models,
    sampled: Models,
    records: SeqMap<Record>,
    calibration: Calibration,
    /// Mean log-likelihood that the shape adds per label, and the labels it was averaged over.
    insight: f64,
    n_insight: f64,
}

impl Acceptance {
    /// What is known of a request by itself; 0 log-odds for a new one.
    pub fn offset(&self, seq: SeqId) -> f64 {
        self.records.get(&seq).map_or(0.0, Record::offset)
    }

    /// Probability that position `index` of a request is accepted if all before it are, before it is drafted.
    pub fn blind(&self, temperature: f32, offset: f64, index: u32) -> f64 {
        let models = self.models(temperature);
        models.blind.predict(&models.blind_features(offset, index))
    }

    /// Probabilities that all positions up to each are accepted, before any is drafted: products of [`blind`](Self::blind).
    ///
    /// The log-odds are linear in the position, so the odds are a geometric series and two exponentials do for all of them.
    pub fn survivals(&self, temperature: f32, offset: f64, survivals: &mut [f64]) {
        let blind = &self.models(temperature).blind;
        let log_odds = |index| blind.log_odds(&self.models(temperature).blind_features(offset, index));
        let first = log_odds(0);
        let (mut odds_against, ratio) = ((-first).exp(), (first - log_odds(1)).exp());
        let mut survival = 1.0;
        for slot in survivals {
            survival /= 1.0 + odds_against.clamp(ODDS_RANGE.0, ODDS_RANGE.1);
            *slot = survival;
            odds_against *= ratio;
        }
    }

    /// Probabilities that all positions up to each are accepted, of a draft that is known before it is planned: products of
    /// [`sighted`](Self::sighted).
    ///
    /// * `positions`: at least as many as `survivals`.
    pub fn foreseen(
        &self,
        temperature: f32,
        offset: f64,
        positions: &[DraftPosition],
        survivals: &mut [f64],
    ) {
        let mut survival = 1.0;
        for (slot, position) in survivals.iter_mut().zip(positions) {
            survival *= self.sighted(temperature, offset, position);
            *slot = survival;
        }
    }

    /// [`blind`](Self::blind) once the position is drafted; that of [`blind`](Self::blind) if its shape was not computed.
    pub fn sighted(&self, temperature: f32, offset: f64, position: &DraftPosition) -> f64 {
        if !has_shape(position) {
            return self.blind(temperature, offset, position.index);
        }
        self.models(temperature).sighted.predict(&sighted_features(offset, position))
    }

    /// Takes in what became of a proposal; it counts from the next [`settle`](Self::settle) on.
    ///
    /// A position that was reached but trimmed for its shape has no label. Leaving it out would show the blind models
    /// promising positions only, so they get what the sighted one expected of it.
    ///
    /// * `positions`: features of the drafted positions, root first; fewer if they are unknown.
    pub fn learn(&mut self, outcome: &Outcome<'_>, positions: &[DraftPosition]) {
        let is_enough = self.models(outcome.temperature).shared.n_new() >= LABELS_PER_STEP;
        if is_enough {
            self.learn_own(outcome);
        } else {
            self.learn_all(outcome, positions);
        }
        if !outcome.signals.is_empty() {
            let record = self.records.entry(outcome.seq).or_default();
            record.note_divergences(outcome.signals.iter().map(|signals| signals.kld));
        }
    }

    /// Labels that teach the request's own record and nobody else.
    fn learn_own(&mut self, outcome: &Outcome<'_>) {
        let models = if outcome.temperature > 0.0 { &self.sampled } else { &self.greedy };
        let record = self.records.entry(outcome.seq).or_default();
        for index in 0..n_labels(outcome) {
            record.note(models.shared.predict(&shared_features(index)), label(outcome, index));
        }
    }

    /// Labels that teach the shared models and the record.
    fn learn_all(&mut self, outcome: &Outcome<'_>, positions: &[DraftPosition]) {
        let models = if outcome.temperature > 0.0 { &mut self.sampled } else { &mut self.greedy };
        let record = self.records.entry(outcome.seq).or_default();
        let offset = record.offset();
        let shape_at = |index: u32| positions.get(index as usize).filter(|position| has_shape(position));
        for index in 0..n_labels(outcome) {
            let label = label(outcome, index);
            let blind = models.learn_blind(record, offset, index, label);
            let sighted = shape_at(index).map(|position| models.learn_sighted(offset, position, label));
            if let Some(sighted) = sighted {
                self.n_insight = (self.n_insight + 1.0).min(INSIGHT_LABELS);
                let added = log_likelihood(sighted, label) - log_likelihood(blind, label);
                self.insight += (added - self.insight) / self.n_insight;
            }
            self.calibration.note(sighted.unwrap_or(blind), label);
        }
        if let Some(trimmed) = shape_at(outcome.verified).filter(|_| outcome.accepted >= outcome.verified) {
            let expected = models.sighted.predict(&sighted_features(offset, trimmed));
            models.learn_blind(record, offset, trimmed.index, expected);
        }
    }

    /// Ends a step, and as many before it in which nothing was heard: what was learnt counts from now on, and fades.
    pub fn settle(&mut self, n_steps: u32) {
        self.greedy.settle(n_steps);
        self.sampled.settle(n_steps);
    }

    /// Expected calibration error of the best prediction there was for each label, over the last 2000 or so; in `0..=1`,
    /// `None` without labels.
    pub fn calibration_error(&self) -> Option<f64> {
        self.calibration.error()
    }

    /// Standard deviation of what everyone's drafts are worth, log-odds; grows again while nothing is heard.
    pub fn uncertainty(&self, temperature: f32) -> f64 {
        self.models(temperature).shared.deviation(0)
    }

    /// What the draft's shape adds to the prediction of a label, nats; `None` while too few labels came with a shape.
    pub fn insight(&self) -> Option<f64> {
        (self.n_insight >= INSIGHT_AFTER).then_some(self.insight)
    }

    /// Drops the record of a request that has ended.
    pub fn forget(&mut self, seq: SeqId) {
        self.records.remove(&seq);
    }

    fn models(&self, temperature: f32) -> &Models {
        if temperature > 0.0 { &self.sampled } else { &self.greedy }
    }
}

/// Positions that were put to the test: up to and including the first rejection.
fn n_labels(outcome: &Outcome<'_>) -> u32 {
    outcome.verified.min(outcome.accepted.saturating_add(1))
}

/// Of a label, itself a probability, under a prediction; nats.
fn log_likelihood(predicted: f64, label: f64) -> f64 {
    // A yes or no has one term, and logarithms are most of the work.
    match label {
        1.0 => predicted.ln(),
        0.0 => (1.0 - predicted).ln(),
        _ => label * predicted.ln() + (1.0 - label) * (1.0 - predicted).ln(),
    }
}

/// 1 for accepted, 0 for the first rejected; for a sampled draft the exact probability if it is known.
fn label(outcome: &Outcome<'_>, index: u32) -> f64 {
    match outcome.signals.get(index as usize) {
        Some(signals) if outcome.temperature > 0.0 && signals.rejection.is_finite() => {
            1.0 - f64::from(signals.rejection).clamp(0.0, 1.0)
        }
        _ => f64::from(u8::from(index < outcome.accepted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PositionSignals;
    use crate::samples::OUTCOME;

    fn outcome(seq: u64, verified: u32, accepted: u32) -> Outcome<'static> {
        Outcome { seq: SeqId(seq), planned: verified, drafted: verified, verified, accepted, ..OUTCOME }
    }

    #[test]
    fn labels_end_at_the_first_rejection() {
        let mut acceptance = Acceptance::default();
        for (verified, accepted, expected) in [(4, 4, 4.0), (4, 1, 6.0), (4, 0, 7.0), (0, 0, 7.0)] {
            acceptance.learn(&outcome(1, verified, accepted), &[]);
            assert_eq!(acceptance.greedy.blind.n_new(), expected, "{verified}, {accepted}");
        }
        assert_eq!(acceptance.sampled.blind.n_new(), 0.0);
    }

    #[test]
    fn survivals_are_products_of_blind_probabilities() {
        let mut acceptance = Acceptance::default();
        for step in 0..60 {
            acceptance.learn(&outcome(step % 3, 4, (step % 5) as u32), &[]);
            acceptance.settle(1);
        }
        for offset in [-2.5, 0.0, 0.4, 30.0] {
            let mut got = [0.0; 8];
            acceptance.survivals(0.0, offset, &mut got);
            let mut expected = 1.0;
            for (index, got) in (0..).zip(got) {
                expected *= acceptance.blind(0.0, offset, index);
                assert!((got / expected - 1.0).abs() < 1e-9, "{offset}, {index}: {expected}, {got}");
            }
        }
    }

    #[test]
    fn a_large_batch_teaches_the_shared_models_enough_and_every_record() {
        let mut acceptance = Acceptance::default();
        (0..200).for_each(|seq| acceptance.learn(&outcome(seq, 1, 0), &[]));
        assert_eq!(acceptance.greedy.shared.n_new(), LABELS_PER_STEP);
        assert!((0..200).all(|seq| acceptance.offset(SeqId(seq)) < -0.1));
    }

    #[test]
    fn total_variation_is_the_label_of_a_sampled_draft_only() {
        let signals = [PositionSignals { rejection: 0.25, ..PositionSignals::default() }];
        let sampled = Outcome { temperature: 1.0, signals: &signals, ..outcome(1, 2, 1) };
        assert_eq!([label(&sampled, 0), label(&sampled, 1)], [0.75, 0.0]);
        let greedy = Outcome { signals: &signals, ..outcome(1, 1, 1) };
        assert_eq!(label(&greedy, 0), 1.0);
    }

    #[test]
    fn requests_are_told_apart_and_new_ones_start_informed() {
        let mut acceptance = Acceptance::default();
        for step in 0..400 {
            // Request 1 accepts nine of ten, request 2 one of ten.
            let is_tenth = step % 10 == 0;
            acceptance.learn(&outcome(1, 1, u32::from(!is_tenth)), &[]);
            acceptance.learn(&outcome(2, 1, u32::from(is_tenth)), &[]);
            acceptance.settle(1);
        }
        assert_eq!(acceptance.insight(), None, "no shape was seen");
        let of = |seq| acceptance.blind(0.0, acceptance.offset(SeqId(seq)), 0);
        assert!(of(1) > 0.8 && of(2) < 0.2 && (0.3..0.7).contains(&of(3)), "{} {} {}", of(1), of(2), of(3));
        acceptance.forget(SeqId(1));
        assert_eq!(acceptance.offset(SeqId(1)), 0.0);
    }

    #[test]
    fn an_informative_shape_is_used_and_calibrated() {
        let mut acceptance = Acceptance::default();
        let position = |top_prob| DraftPosition { index: 0, entropy: 0.5, top_prob, path_log_prob: 0.0 };
        let mut noise = 1u64;
        for step in 0..4000u32 {
            // Accepted 9 of 10 where the draft says 0.9, 3 of 10 where it says 0.3; a linear congruential generator decides.
            let (top_prob, of_ten) = if step % 2 == 0 { (0.9, 9) } else { (0.3, 3) };
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let is_accepted = (noise >> 33) % 10 < of_ten;
            acceptance.learn(&outcome(1, 1, u32::from(is_accepted)), &[position(top_prob)]);
            acceptance.settle(1);
        }
        let offset = acceptance.offset(SeqId(1));
        let (sure, unsure) = (
            acceptance.sighted(0.0, offset, &position(0.9)),
            acceptance.sighted(0.0, offset, &position(0.3)),
        );
        assert!((sure - 0.9).abs() < 0.1 && (unsure - 0.3).abs() < 0.1, "{sure} {unsure}");
        assert!(acceptance.insight().unwrap() > 0.05, "{:?}", acceptance.insight());
        assert!(acceptance.calibration_error().unwrap() < 0.08, "{:?}", acceptance.calibration_error());
    }

    #[test]
    fn broken_features_do_not_spread() {
        let mut acceptance = Acceptance::default();
        for broken in [f32::NAN, f32::INFINITY, -1.0] {
            let position = DraftPosition { index: 0, entropy: broken, top_prob: broken, path_log_prob: 0.0 };
            acceptance.learn(&outcome(1, 1, 0), &[position]);
            acceptance.settle(1);
            let got = acceptance.sighted(0.0, acceptance.offset(SeqId(1)), &position);
            assert!((0.0..=1.0).contains(&got), "{broken}: {got}");
        }
    }
}
