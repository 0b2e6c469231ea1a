//! Min-p, top-k and top-p on unnormalised weights, without sorting a vocabulary.
//!
//! Top-k and top-p both keep the shortest prefix, in order of weight (equal weights by token id), that meets a quota: a
//! number of tokens or a mass. Weights are not negative, so their bits are ordered like their values, and the smallest kept
//! weight is found by bisection over bits: about thirty looks at the candidates, whatever the distribution. Candidates are
//! few, because a few coarse floors are tried on the whole row first.

use crate::Params;
use crate::lanes::{self, LANES, Lanes, Sums};

/// Candidates for the smallest kept weight, relative to the largest weight; the first one that meets the quota is taken.
const FLOORS: [f32; 4] = [1.0 / 64.0, 1.0 / 4096.0, 1.0 / 1_048_576.0, f32::MIN_POSITIVE];

/// Sets the weights of dropped tokens to 0 and returns the mass of the others.
///
/// * `weights`: `[vocab_len]`, in `0..=1` with at least one 1.
/// * `mass`: their sum.
/// * `survivors`: scratch.
#[inline(always)]
pub(crate) fn truncate(weights: &mut [f32], mass: f64, params: &Params, survivors: &mut Vec<f32>) -> f64 {
    let mut mass = mass;
    if params.min_p > 0.0 {
        clear_below(weights, params.min_p);
        mass = measure(weights, f32::MIN_POSITIVE).mass;
    }
    if params.top_k > 0 && (params.top_k as usize) < weights.len() {
        cut(weights, Quota::Count(params.top_k), survivors);
        mass = measure(weights, f32::MIN_POSITIVE).mass;
    }
    if params.top_p < 1.0 {
        cut(weights, Quota::Mass(f64::from(params.top_p) * mass), survivors);
        mass = measure(weights, f32::MIN_POSITIVE).mass;
    }
    mass
}

/// How much must be kept.
#[derive(Clone, Copy, Debug)]
enum Quota {
    Count(u32),
    Mass(f64),
}

impl Quota {
    fn is_met(self, kept: Kept) -> bool {
        match self {
            Self::Count(count) => kept.count >= count,
            Self::Mass(mass) => kept.mass >= mass,
        }
    }
}

/// Number and mass of some weights.
#[derive(Clone, Copy, Debug)]
struct Kept {
    count: u32,
    mass: f64,
}

/// Keeps the shortest prefix in order of weight that meets the quota; everything if nothing less does.
#[inline(always)]
fn cut(weights: &mut [f32], quota: Quota, survivors: &mut Vec<f32>) {
    let Some(floor) = FLOORS.into_iter().find(|&floor| quota.is_met(measure(weights, floor))) else {
        return;
    };
    gather(weights, floor, survivors);
    let smallest = smallest_kept(survivors, floor, quota);
    clear_below(weights, smallest);
    clear_surplus_ties(weights, smallest, quota);
}

/// The largest weight such that it and everything above it meet the quota, given that `floor` does.
#[inline(always)]
fn smallest_kept(survivors: &[f32], floor: f32, quota: Quota) -> f32 {
    let mut kept_bits = floor.to_bits();
    let mut short_bits = 1.0_f32.to_bits() + 1;
    while short_bits - kept_bits > 1 {
        let middle = kept_bits.midpoint(short_bits);
        if quota.is_met(measure(survivors, f32::from_bits(middle))) {
            kept_bits = middle;
        } else {
            short_bits = middle;
        }
    }
    f32::from_bits(kept_bits)
}

/// Of the weights equal to the smallest kept one, drops those that the quota does not need, last tokens first.
#[inline(always)]
fn clear_surplus_ties(weights: &mut [f32], smallest: f32, quota: Quota) {
    let mut kept = measure(weights, smallest.next_up());
    let n_ties = measure(weights, smallest).count - kept.count;
    if n_ties < 2 {
        return;
    }
    for weight in weights.iter_mut().filter(|weight| **weight == smallest) {
        if quota.is_met(kept) {
            *weight = 0.0;
        } else {
            kept.count += 1;
            kept.mass += f64::from(smallest);
        }
    }
}

/// Collects the weights from `floor` on.
#[inline(always)]
fn gather(weights: &[f32], floor: f32, survivors: &mut Vec<f32>) {
    survivors.clear();
    let (chunks, tail) = weights.as_chunks::<LANES>();
    for chunk in chunks.iter().filter(|chunk| lanes::reaches(chunk, floor)) {
        survivors.extend(chunk.iter().filter(|weight| **weight >= floor));
    }
    survivors.extend(tail.iter().filter(|weight| **weight >= floor));
}

/// Number and mass of the weights from `floor` on.
#[inline(always)]
fn measure(weights: &[f32], floor: f32) -> Kept {
    let (chunks, tail) = weights.as_chunks::<LANES>();
    let mut counts = [0; LANES];
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        tally(&mut counts, &mut sums, chunk, floor);
    }
    tally(&mut counts, &mut sums, &lanes::padded(tail, -1.0), floor);
    Kept { count: counts.iter().sum(), mass: lanes::total(sums) }
}

#[inline(always)]
fn tally(counts: &mut [u32; LANES], sums: &mut Sums, weights: &Lanes, floor: f32) {
    for i in 0..LANES {
        let is_kept = weights[i] >= floor;
        counts[i] += u32::from(is_kept);
        sums[i] += f64::from(if is_kept { weights[i] } else { 0.0 });
    }
}

#[inline(always)]
fn clear_below(weights: &mut [f32], floor: f32) {
    for weight in weights {
        *weight = if *weight < floor { 0.0 } else { *weight };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ranks by sorting, keeps a prefix per rule, forgets the others.
    fn reference(weights: &[f32], params: &Params) -> Vec<f32> {
        let mut ranked: Vec<usize> = (0..weights.len()).collect();
        ranked.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        ranked.retain(|&i| weights[i] >= params.min_p && weights[i] > 0.0);
        if params.top_k > 0 {
            ranked.truncate(params.top_k as usize);
        }
        let mass: f64 = ranked.iter().map(|&i| f64::from(weights[i])).sum();
        let mut reached = 0.0;
        ranked.retain(|&i| {
            let is_needed = params.top_p == 1.0 || reached < f64::from(params.top_p) * mass;
            reached += f64::from(weights[i]);
            is_needed
        });
        let mut kept = vec![0.0; weights.len()];
        for i in ranked {
            kept[i] = weights[i];
        }
        kept
    }

    fn check(weights: &[f32], params: &Params, expected: &[f32]) {
        let mut got = weights.to_vec();
        let mass = weights.iter().map(|&w| f64::from(w)).sum();
        let kept_mass = truncate(&mut got, mass, params, &mut Vec::new());
        assert_eq!(got, expected, "{params:?}");
        let expected_mass: f64 = expected.iter().map(|&w| f64::from(w)).sum();
        assert!((kept_mass - expected_mass).abs() < 1e-9, "mass {kept_mass}");
    }

    fn params(top_k: u32, top_p: f32, min_p: f32) -> Params {
        Params { top_k, top_p, min_p, ..Params::greedy() }
    }

    #[test]
    fn each_rule_keeps_the_heaviest_tokens() {
        let weights = [0.25, 1.0, 0.5, 0.25];
        check(&weights, &params(0, 1.0, 0.0), &weights);
        check(&weights, &params(0, 1.0, 0.5), &[0.0, 1.0, 0.5, 0.0]);
        check(&weights, &params(0, 1.0, 1.0), &[0.0, 1.0, 0.0, 0.0]);
        check(&weights, &params(1, 1.0, 0.0), &[0.0, 1.0, 0.0, 0.0]);
        check(&weights, &params(2, 1.0, 0.0), &[0.0, 1.0, 0.5, 0.0]);
        check(&weights, &params(9, 1.0, 0.0), &weights);
        // 1.0 of 2.0 is a half: reached exactly by the first token.
        check(&weights, &params(0, 0.5, 0.0), &[0.0, 1.0, 0.0, 0.0]);
        check(&weights, &params(0, 0.51, 0.0), &[0.0, 1.0, 0.5, 0.0]);
        check(&weights, &params(0, 1e-9, 0.0), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn of_equal_weights_the_lower_tokens_are_kept() {
        check(&[0.5, 1.0, 0.5, 0.5], &params(3, 1.0, 0.0), &[0.5, 1.0, 0.5, 0.0]);
        check(&[1.0; 4], &params(0, 0.5, 0.0), &[1.0, 1.0, 0.0, 0.0]);
        check(&[1.0; 40], &params(1, 1.0, 0.0), &[&[1.0][..], &[0.0; 39]].concat());
    }

    #[test]
    fn top_p_counts_the_mass_that_top_k_left() {
        // Top-3 leaves 1.75, of which 0.8 is 1.4: two tokens (1.5). Of the whole mass 2.0 it would be 1.6: three.
        check(&[0.25, 1.0, 0.5, 0.25], &params(3, 0.8, 0.0), &[0.0, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn weights_of_zero_never_fill_a_quota() {
        check(&[0.0, 1.0, 0.0, 0.0], &params(3, 0.999, 0.0), &[0.0, 1.0, 0.0, 0.0]);
    }

    proptest! {
        /// Multiples of 1/64 make many ties and exact sums; squares and powers spread over magnitudes.
        #[test]
        fn truncation_equals_sorting(
            steps in proptest::collection::vec(0_u8..=64, 1..100),
            power in prop::sample::select(vec![1, 2, 6, 18]),
            top_k in 0_u32..110,
            top_p in prop::sample::select(vec![1.0_f32, 0.999, 0.9, 0.75, 0.5, 0.01]),
            min_p in prop::sample::select(vec![0.0_f32, 0.001, 0.25, 1.0]),
        ) {
            let mut weights: Vec<f32> = steps.iter().map(|&s| (f32::from(s) / 64.0).powi(power)).collect();
            weights[steps.len() / 2] = 1.0;
            let params = params(top_k, top_p, min_p);
            check(&weights, &params, &reference(&weights, &params));
        }
    }
}
