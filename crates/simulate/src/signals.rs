//! How what a policy sees hangs together with what is accepted.

use dsde_engine::StepTrace;
use serde::{Deserialize, Serialize};

/// Sequences that verified something in a step, in ranges of what was seen of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalReport {
    /// By mean KLD of the step, nats.
    pub kld: Relation,
    /// By mean entropy of the draft, nats.
    pub draft_entropy: Relation,
    /// By WVIR before the step, of policies that know one.
    pub wvir: Relation,
}

/// A signal and acceptance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// Pearson's correlation of the signal with the share of the proposal that was accepted; absent where either never varies.
    pub correlation: Option<f64>,
    /// Ranges of the signal that occurred, ascending.
    pub ranges: Vec<SignalRange>,
}

/// Steps in which a signal lay in a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalRange {
    /// Mean of the signal.
    pub mean: f64,
    /// Accepted over verified tokens, in the mean over steps.
    pub accepted: f64,
    /// Sequences and steps.
    pub n: u64,
}

/// Ranges of a signal.
const RANGES: usize = 16;

/// Gathers one signal.
#[derive(Clone, Debug, Default)]
struct Gathered {
    n: f64,
    sums: [f64; 5],
    ranges: [SignalRange; RANGES],
}

impl Gathered {
    /// * `place`: of the signal on the scale of the ranges, 0 to 1.
    fn add(&mut self, signal: f64, place: f64, accepted: f64) {
        let terms = [signal, accepted, signal * signal, accepted * accepted, signal * accepted];
        self.n += 1.0;
        self.sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        let range = &mut self.ranges[((place * RANGES as f64) as usize).min(RANGES - 1)];
        range.mean += signal;
        range.accepted += accepted;
        range.n += 1;
    }

    fn relation(&self) -> Relation {
        let [x, y, xx, yy, xy] = self.sums.map(|sum| sum / self.n.max(1.0));
        let spread = ((xx - x * x) * (yy - y * y)).max(0.0).sqrt();
        let mean = |range: &SignalRange| SignalRange {
            mean: range.mean / range.n as f64,
            accepted: range.accepted / range.n as f64,
            n: range.n,
        };
        Relation {
            correlation: (spread > 1e-12).then(|| (xy - x * y) / spread),
            ranges: self.ranges.iter().filter(|range| range.n > 0).map(mean).collect(),
        }
    }
}

/// Gathers the signals of a run.
#[derive(Clone, Debug, Default)]
pub struct SignalStatistics {
    kld: Gathered,
    draft_entropy: Gathered,
    wvir: Gathered,
}

/// A logarithmic scale from `10^-3` to `10` nats.
fn nats_place(nats: f64) -> f64 {
    ((nats.max(1e-9).log10() + 3.0) / 4.0).clamp(0.0, 1.0)
}

/// WVIR at the end of its ranges.
const WVIR_MAX: f64 = 4.0;

impl SignalStatistics {
    /// Adds all sequences of a step that verified something.
    pub fn add(&mut self, step: &StepTrace<'_>) {
        for seq in step.sequences.iter().filter(|seq| seq.verified > 0) {
            let accepted = f64::from(seq.accepted) / f64::from(seq.verified);
            if !seq.signals.is_empty() {
                let mean = |of: fn(&dsde_policy::PositionSignals) -> f32| {
                    seq.signals.iter().map(|signals| f64::from(of(signals))).sum::<f64>()
                        / seq.signals.len() as f64
                };
                let kld = mean(|signals| signals.kld);
                self.kld.add(kld, nats_place(kld), accepted);
                let entropy = mean(|signals| signals.draft_entropy);
                self.draft_entropy.add(entropy, nats_place(entropy), accepted);
            }
            let wvir = seq.numbers.iter().find(|(name, _)| *name == "wvir");
            if let Some(&(_, wvir)) = wvir.filter(|(_, wvir)| wvir.is_finite()) {
                self.wvir.add(wvir, wvir / WVIR_MAX, accepted);
            }
        }
    }

    /// What was gathered; `None` if no policy asked for a signal.
    pub fn report(&self) -> Option<SignalReport> {
        (self.kld.n > 0.0).then(|| SignalReport {
            kld: self.kld.relation(),
            draft_entropy: self.draft_entropy.relation(),
            wvir: self.wvir.relation(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_are_those_of_the_text_book() {
        let mut gathered = Gathered::default();
        for (x, y) in [(0.1, 0.9), (0.2, 0.7), (0.4, 0.8), (0.8, 0.2)] {
            gathered.add(x, nats_place(x), y);
        }
        // Deviations from 0.375 and 0.65: sum of products -0.265, sums of squares 0.2875 and 0.29.
        let relation = gathered.relation();
        assert!((relation.correlation.unwrap() + 0.265 / (0.2875_f64 * 0.29).sqrt()).abs() < 1e-9);
        assert_eq!(relation.ranges.iter().map(|range| range.n).sum::<u64>(), 4);
        assert!(relation.ranges.windows(2).all(|pair| pair[0].mean < pair[1].mean));
    }
}
