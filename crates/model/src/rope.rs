//! Rotary position embedding: the table of angles, with the frequency changes that models use for longer contexts.
//!
//! | scaling | source |
//! |---|---|
//! | none | Su et al. (arXiv:2104.09864), Eq. 15 |
//! | linear, "position interpolation" | Chen et al. (arXiv:2306.15595), Eq. 4 |
//! | Llama 3.1 | Dubey et al. (arXiv:2407.21783), Section 3.2, and its reference code |
//! | dynamic, "NTK-aware" | Peng et al. (arXiv:2309.00071), Section 3.1 and Appendix A.1 |
//! | YaRN | the same, Sections 3.2 to 3.4 |
//! | LongRoPE | Ding et al. (arXiv:2402.13753), Section 3 |
//!
//! Frequencies and angles are rounded to `f32` where the models' own training code does, since weights were trained on those
//! angles; only the cosine and sine themselves are taken in `f64`.
//!
//! Deviation: where frequencies depend on the length of a sequence (dynamic, LongRoPE) they are those of the longest sequence that
//! is served. Keys are stored turned, and shared by sequences with the same beginning, so an angle may depend on nothing but its
//! position.

use std::f64::consts::TAU;

use dsde_checkpoint::config::{Rope, RopeScaling};
use dsde_kernels::RopeTable;

/// Cosines and sines of positions `0..n_positions`.
pub(crate) fn rope_table(rope: &Rope, n_positions: usize) -> RopeTable {
    let frequencies = frequencies(rope, n_positions);
    let factor = match rope.scaling {
        RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
            attention_factor
        }
        _ => 1.0,
    };
    let angles = || {
        let frequencies = &frequencies;
        (0..n_positions)
            .flat_map(move |position| frequencies.iter().map(move |f| f64::from(position as f32 * f)))
    };
    RopeTable {
        n_pairs: frequencies.len(),
        distance: rope.span / 2,
        cos: angles().map(|angle| (factor * angle.cos()) as f32).collect(),
        sin: angles().map(|angle| (factor * angle.sin()) as f32).collect(),
    }
}

/// Radians per position of each pair of dimensions that turns, `[rotary_dim / 2]`: `theta^(-2 i / span)`, then scaled.
fn frequencies(rope: &Rope, n_positions: usize) -> Vec<f32> {
    let theta = match rope.scaling {
        RopeScaling::Dynamic { factor, original_context_len } => {
            let growth = (n_positions as f64 / f64::from(original_context_len)).max(1.0);
            rope.theta * (factor * growth - (factor - 1.0)).powf(dynamic_exponent(rope.rotary_dim))
        }
        _ => rope.theta,
    };
    let frequency = |i: usize| theta.powf(-2.0 * i as f64 / rope.span as f64);
    (0..rope.rotary_dim / 2).map(|i| scaled(frequency(i), rope, i, n_positions) as f32).collect()
}

/// `d / (d - 2)`, with which the slowest frequency of `d` elements is divided by what the base grows by; two elements have
/// only the fastest, which stays.
fn dynamic_exponent(rotary_dim: usize) -> f64 {
    if rotary_dim > 2 { rotary_dim as f64 / (rotary_dim as f64 - 2.0) } else { 0.0 }
}

/// * `i`: which pair.
fn scaled(frequency: f64, rope: &Rope, i: usize, n_positions: usize) -> f64 {
    let mixed = |kept: f64, factor: f64| frequency * (kept + (1.0 - kept) / factor);
    match rope.scaling {
        RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Factors(ref factors) => frequency / f64::from(factors[i]),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } => {
            let turns = f64::from(original_context_len) * frequency / TAU;
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            mixed(kept.clamp(0.0, 1.0), factor)
        }
        RopeScaling::Yarn { factor, original_context_len, beta_fast, beta_slow, is_truncated, .. } => {
            let turns = Turns { original_context_len, beta_fast, beta_slow, is_truncated };
            mixed(turns.kept(rope, i), factor)
        }
        RopeScaling::LongRope { ref short, ref long, original_context_len, .. } => {
            let is_long = n_positions > original_context_len as usize;
            frequency / f64::from(if is_long { long[i] } else { short[i] })
        }
    }
}

/// Between which pairs YaRN mixes; see [`RopeScaling::Yarn`].
struct Turns {
    original_context_len: u32,
    beta_fast: f64,
    beta_slow: f64,
    is_truncated: bool,
}

impl Turns {
    /// How much of the frequency of pair `i` stays: 1 before the pair of `beta_fast` turns within the original context, 0 after
    /// that of `beta_slow`, and in proportion between.
    fn kept(&self, rope: &Rope, i: usize) -> f64 {
        /// Keeps a range of one pair from being empty, as the authors' code does.
        const RANGE_MIN: f64 = 0.001;
        let ends = [self.pair(rope, self.beta_fast), self.pair(rope, self.beta_slow)];
        let [first, last] = if self.is_truncated { [ends[0].floor(), ends[1].ceil()] } else { ends };
        let (first, last) = (first.max(0.0), last.min(rope.rotary_dim as f64 - 1.0));
        let range = if first == last { RANGE_MIN } else { last - first };
        1.0 - ((i as f64 - first) / range).clamp(0.0, 1.0)
    }

    /// The pair that makes so many turns within the original context, between two of them.
    fn pair(&self, rope: &Rope, turns: f64) -> f64 {
        /// With a base of 1 all pairs turn alike, and no number of turns belongs to one of them.
        const THETA_MIN: f64 = 1.0 + 1e-9;
        let original = f64::from(self.original_context_len);
        rope.rotary_dim as f64 * (original / (turns * TAU)).ln() / (2.0 * rope.theta.max(THETA_MIN).ln())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dsde_checkpoint::config::ModelConfig;
    use serde_json::Value;

    use super::*;

    fn check(scaling: RopeScaling, rotary_dim: usize, expected: &[f32]) {
        let got = frequencies(&Rope { theta: 10_000.0, scaling, rotary_dim, span: rotary_dim }, 1000);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got / expected - 1.0).abs() < 1e-6, "got {got}, expected {expected}");
        }
    }

    #[test]
    fn frequencies_fall_geometrically() {
        // 10000^(-2i/8) = 10^-i.
        check(RopeScaling::None, 8, &[1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        check(RopeScaling::Linear { factor: 4.0 }, 4, &[0.25, 0.0025]);
    }

    #[test]
    fn factors_divide_their_own_frequency() {
        check(RopeScaling::Factors(vec![1.0, 2.5]), 4, &[1.0, 0.004]);
    }

    #[test]
    fn llama3_scaling_keeps_fast_divides_slow_and_mixes_between() {
        // Turns within 1000 positions: 1000 f / 2 pi = 159.15, 15.915, 1.591549, 0.159. The first two are above 4: kept.
        // The last is below 1: divided by 8. Between: weight (1.591549 - 1) / (4 - 1) = 0.1971831 on the kept one, so
        // 0.01 * (0.1971831 + 0.8028169 / 8) = 0.002975352.
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_len: 1000,
        };
        check(scaling, 8, &[1.0, 0.1, 0.002_975_352, 0.000_125]);
    }

    #[test]
    fn the_table_holds_one_row_of_angles_per_position() {
        // Four elements: frequencies 1 and 0.01. Position 3: angles 3 and 0.03.
        let table =
            rope_table(&Rope { theta: 10_000.0, scaling: RopeScaling::None, rotary_dim: 4, span: 4 }, 4);
        assert_eq!(table.cos.len(), 8);
        assert_eq!((table.cos[0], table.sin[0]), (1.0, 0.0));
        let expected = [(-0.989_992_5, 0.141_12), (0.999_550_03, 0.029_995_5)];
        for (i, (cos, sin)) in expected.into_iter().enumerate() {
            assert!((table.cos[6 + i] - cos).abs() < 1e-6, "cosine {i}: {}", table.cos[6 + i]);
            assert!((table.sin[6 + i] - sin).abs() < 1e-6, "sine {i}: {}", table.sin[6 + i]);
        }
    }

    /// Frequencies of transformers are in f32, and so are some of their intermediate values.
    const TOLERANCE: f64 = 2e-6;

    #[test]
    fn every_scaling_in_every_spelling_is_that_of_transformers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rope.json");
        let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let config = ModelConfig::parse(case["config"].to_string().as_bytes(), None).unwrap();
            let rope = match case["kind"].as_str() {
                Some("sliding_attention") => &config.ropes[1],
                _ => &config.ropes[0],
            };
            let got = frequencies(rope, case["length"].as_u64().unwrap() as usize);
            let expected: Vec<f64> =
                case["frequencies"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(got.len(), expected.len(), "{case}");
            for (got, expected) in got.iter().zip(&expected) {
                let error = (f64::from(*got) / expected - 1.0).abs();
                assert!(error < TOLERANCE, "got {got}, expected {expected}: {case}");
            }
            let factor = f64::from(rope_table(rope, 1).cos[0]);
            assert!((factor / case["factor"].as_f64().unwrap() - 1.0).abs() < TOLERANCE, "{factor}: {case}");
        }
    }
}
