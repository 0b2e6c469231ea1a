//! Rotary position embedding: the table of angles, with the frequency changes that models use for longer contexts.
//!
//! Sources: rotary embedding, Su et al. (arXiv:2104.09864), Eq. 15; linear scaling ("position interpolation"), Chen et al.
//! (arXiv:2306.15595), Eq. 4; Llama 3.1 scaling, Dubey et al. (arXiv:2407.21783), Section 3.2, and its reference code.
//!
//! Deviation: none in the formulas. Frequencies and angles are rounded to `f32` where the models' own training code does,
//! since weights were trained on those angles; only the cosine and sine themselves are taken in `f64`.

use std::f64::consts::TAU;

use dsde_checkpoint::config::{Rope, RopeScaling};
use dsde_kernels::RopeTable;

/// Cosines and sines of positions `0..n_positions` for heads of `head_dim` elements.
pub(crate) fn rope_table(rope: &Rope, head_dim: usize, n_positions: usize) -> RopeTable {
    let frequencies = frequencies(rope, head_dim);
    let angles = || {
        let frequencies = &frequencies;
        (0..n_positions)
            .flat_map(move |position| frequencies.iter().map(move |f| f64::from(position as f32 * f)))
    };
    RopeTable {
        cos: angles().map(|angle| angle.cos() as f32).collect(),
        sin: angles().map(|angle| angle.sin() as f32).collect(),
    }
}

/// Radians per position of each pair of dimensions, `[head_dim / 2]`: `theta^(-2 i / head_dim)`, then scaled.
fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let exponent = -2.0 * i as f64 / head_dim as f64;
            scaled(rope.theta.powf(exponent), &rope.scaling, i) as f32
        })
        .collect()
}

/// * `i`: which pair.
fn scaled(frequency: f64, scaling: &RopeScaling, i: usize) -> f64 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Factors(ref factors) => frequency / f64::from(factors[i]),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } => {
            let turns = f64::from(original_context_len) * frequency / TAU;
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = kept.clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / factor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scaling: RopeScaling, head_dim: usize, expected: &[f32]) {
        let got = frequencies(&Rope { theta: 10_000.0, scaling }, head_dim);
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
        // head_dim 4: frequencies 1 and 0.01. Position 3: angles 3 and 0.03.
        let table = rope_table(&Rope { theta: 10_000.0, scaling: RopeScaling::None }, 4, 4);
        assert_eq!(table.cos.len(), 8);
        assert_eq!((table.cos[0], table.sin[0]), (1.0, 0.0));
        let expected = [(-0.989_992_5, 0.141_12), (0.999_550_03, 0.029_995_5)];
        for (i, (cos, sin)) in expected.into_iter().enumerate() {
            assert!((table.cos[6 + i] - cos).abs() < 1e-6, "cosine {i}: {}", table.cos[6 + i]);
            assert!((table.sin[6 + i] - sin).abs() < 1e-6, "sine {i}: {}", table.sin[6 + i]);
        }
    }
}
