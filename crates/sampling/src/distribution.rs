//! From one row of logits to the distribution that tokens are drawn from, in place.
//!
//! Undefined logits have a meaning here: NaN counts as `-inf`, `+inf` as the largest finite number, and a row without any
//! possible token becomes certainty of token 0. A broken row therefore cannot make the engine draw from nothing.

use crate::Params;
use crate::lanes::{self, LANES, Lanes};
use crate::truncation::truncate;

/// Set in [`Scratch::marks`] for tokens of the history; the bits below count occurrences in the output.
const SEEN: u32 = 1 << 31;

/// Memory that [`adjust`] and [`softmax`] reuse from row to row; holds no information between calls.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// `[vocab_len]`, all zero between calls: [`SEEN`] and how often a token stands in the output.
    marks: Vec<u32>,
    /// Weights that may be the smallest one kept by a truncation.
    survivors: Vec<f32>,
}

/// What changes the logits of one row besides temperature and truncation.
#[derive(Clone, Copy, Debug)]
pub struct Adjustment<'a> {
    /// Sampling parameters of the sequence.
    pub params: &'a Params,
    /// Prompt and emitted tokens.
    pub history: &'a [u32],
    /// Length of the prompt inside `history`.
    pub prompt_len: u32,
    /// Drafted tokens between the history and this row, root first; they count as output.
    pub drafted: &'a [u32],
    /// Tokens that may not be emitted: probability zero.
    pub banned: &'a [u32],
}

impl Adjustment<'_> {
    /// Prompt and output, and where the output begins in each part.
    fn parts(&self) -> [(&[u32], usize); 2] {
        let prompt_len = (self.prompt_len as usize).min(self.history.len());
        [(self.history, prompt_len), (self.drafted, 0)]
    }
}

/// Applies bias, penalties and bans to one row of logits `[vocab_len]`, in this order.
///
/// Repetition divides positive and multiplies negative logits of every token of history and draft, once; then frequency is
/// subtracted per occurrence and presence once from tokens of the output (history after the prompt, and draft).
///
/// Costs nothing where everything is off, and two walks over the history where a penalty is on. Tokens outside the
/// vocabulary are ignored.
pub fn adjust(logits: &mut [f32], adjustment: &Adjustment<'_>, scratch: &mut Scratch) {
    for &(token, bias) in &adjustment.params.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if adjustment.params.has_penalties() {
        penalise(logits, adjustment, &mut scratch.marks);
    }
    for &token in adjustment.banned {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The first walk marks and counts tokens, the second applies each mark where it meets it first and erases it.
fn penalise(logits: &mut [f32], adjustment: &Adjustment<'_>, marks: &mut Vec<u32>) {
    if marks.len() < logits.len() {
        marks.resize(logits.len(), 0);
    }
    for (tokens, output_start) in adjustment.parts() {
        for (i, &token) in tokens.iter().enumerate() {
            if let Some(mark) = marks.get_mut(token as usize) {
                *mark = (*mark | SEEN) + u32::from(i >= output_start);
            }
        }
    }
    for (tokens, _) in adjustment.parts() {
        for &token in tokens {
            let mark = marks.get_mut(token as usize).map_or(0, std::mem::take);
            if let (Some(logit), true) = (logits.get_mut(token as usize), mark != 0) {
                *logit = penalised(*logit, mark & !SEEN, adjustment.params);
            }
        }
    }
}

fn penalised(logit: f32, output_count: u32, params: &Params) -> f32 {
    let repeated =
        if logit > 0.0 { logit / params.repetition_penalty } else { logit * params.repetition_penalty };
    let presence = if output_count > 0 { params.presence_penalty } else { 0.0 };
    repeated - params.frequency_penalty * output_count as f32 - presence
}

/// Turns one row of logits `[vocab_len]` into probabilities: temperature, min-p, top-k, top-p, each on the renormalised
/// rest of the one before. Equal probabilities rank by token id, lower first.
///
/// * `params`: a temperature of 0 counts as 1, so that greedy requests have a distribution to compare.
///
/// Call from a `#[target_feature]` function for faster code with the same result.
#[inline(always)]
pub fn softmax(row: &mut [f32], params: &Params, scratch: &mut Scratch) {
    let max = lanes::max(row);
    if max == f32::NEG_INFINITY {
        row.fill(0.0);
        row.iter_mut().take(1).for_each(|p| *p = 1.0);
        return;
    }
    let temperature = if params.is_greedy() { 1.0 } else { params.temperature };
    let mass = exponentiate(row, Shift::new(max, temperature));
    let kept = truncate(row, mass, params, &mut scratch.survivors);
    let scale = (1.0 / kept) as f32;
    for p in row {
        *p *= scale;
    }
}

/// The map `logit -> (logit - max) / temperature`, at most 0, that makes exponentials safe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    max: f32,
    inverse_temperature: f32,
}

impl Shift {
    /// * `max`: largest logit, finite.
    /// * `temperature`: `> 0`; its inverse is kept finite, so that the largest logit always maps to 0.
    #[inline(always)]
    pub(crate) fn new(max: f32, temperature: f32) -> Self {
        Self { max, inverse_temperature: (1.0 / temperature).min(f32::MAX) }
    }

    #[inline(always)]
    pub(crate) fn apply(self, logits: &Lanes) -> Lanes {
        let mut out = [0.0; LANES];
        for i in 0..LANES {
            out[i] = self.apply_one(logits[i]);
        }
        out
    }

    #[inline(always)]
    pub(crate) fn apply_one(self, logit: f32) -> f32 {
        let finite = if logit > f32::MAX { f32::MAX } else { logit };
        (finite - self.max) * self.inverse_temperature
    }
}

/// Replaces logits by `exp` of their shift and returns the sum.
#[inline(always)]
fn exponentiate(row: &mut [f32], shift: Shift) -> f64 {
    let (chunks, tail) = row.as_chunks_mut::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        *chunk = lanes::exp(shift.apply(chunk));
        lanes::accumulate(&mut sums, *chunk);
    }
    let last = lanes::exp(shift.apply(&lanes::padded(tail, f32::NEG_INFINITY)));
    lanes::accumulate(&mut sums, last);
    tail.copy_from_slice(&last[..tail.len()]);
    lanes::total(sums)
}

/// Index of the largest logit; the lowest index wins ties. 0 if every logit is `-inf` or NaN.
///
/// Finding the maximum and then its first place is faster than carrying places along.
#[inline(always)]
pub fn argmax(row: &[f32]) -> u32 {
    let max = lanes::max(row);
    let (chunks, tail) = row.as_chunks::<LANES>();
    let chunk_idx = chunks.iter().position(|chunk| lanes::reaches(chunk, max));
    let start = chunk_idx.unwrap_or(chunks.len()) * LANES;
    let chunk = chunk_idx.map_or(tail, |idx| &chunks[idx]);
    let lane = chunk.iter().position(|logit| *logit >= max);
    lane.filter(|_| max > f32::NEG_INFINITY).map_or(0, |lane| (start + lane) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INF: f32 = f32::INFINITY;

    fn at_temperature(temperature: f32) -> Params {
        Params { temperature, ..Params::greedy() }
    }

    fn check_softmax(logits: &[f32], params: &Params, expected: &[f32]) {
        let mut row = logits.to_vec();
        softmax(&mut row, params, &mut Scratch::default());
        for (got, expected) in row.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{logits:?}: {row:?}");
        }
    }

    #[test]
    fn softmax_divides_by_the_temperature() {
        let ln_3 = 3.0_f32.ln();
        check_softmax(&[0.0, ln_3], &at_temperature(1.0), &[0.25, 0.75]);
        // exp(2 ln 3) = 9
        check_softmax(&[0.0, ln_3], &at_temperature(0.5), &[0.1, 0.9]);
        check_softmax(&[0.0, ln_3], &at_temperature(0.0), &[0.25, 0.75]);
    }

    #[test]
    fn softmax_survives_extreme_rows() {
        let one = at_temperature(1.0);
        check_softmax(&[-INF, 5.0, -INF], &one, &[0.0, 1.0, 0.0]);
        check_softmax(&[1e30, -1e30, 1e30], &one, &[0.5, 0.0, 0.5]);
        check_softmax(&[f32::MAX, f32::MIN], &one, &[1.0, 0.0]);
        check_softmax(&[f32::NAN, 0.0, 0.0], &one, &[0.0, 0.5, 0.5]);
        check_softmax(&[0.0, INF, -INF], &one, &[0.0, 1.0, 0.0]);
        check_softmax(&[-INF, -INF], &one, &[1.0, 0.0]);
        check_softmax(&[f32::NAN; 20], &one, &[&[1.0][..], &[0.0; 19]].concat());
        check_softmax(&[7.0], &one, &[1.0]);
    }

    #[test]
    fn softmax_survives_extreme_temperatures() {
        for temperature in [1e-45, 1e-6] {
            check_softmax(&[1.0, 1.001], &at_temperature(temperature), &[0.0, 1.0]);
            check_softmax(&[2.0, 2.0], &at_temperature(temperature), &[0.5, 0.5]);
        }
        // exp(1 / 100) = 1.01005; 1.01005 / 2.01005 = 0.502500
        check_softmax(&[0.0, 1.0], &at_temperature(100.0), &[0.497_500, 0.502_500]);
    }

    #[test]
    fn truncated_probabilities_are_normalised_again() {
        // Weights 1, 1/2, 1/4, 1/4: top-k 3 leaves 1, 1/2, 1/4, divided by 7/4.
        let logits = [1.0_f32, 0.5, 0.25, 0.25].map(f32::ln);
        let params = Params { top_k: 3, ..at_temperature(1.0) };
        check_softmax(&logits, &params, &[4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0, 0.0]);
    }

    #[test]
    fn argmax_takes_the_first_of_the_largest() {
        let cases: [(&[f32], u32); 7] = [
            (&[1.0, 3.0, 3.0], 1),
            (&[-INF, -INF], 0),
            (&[f32::NAN, -5.0, f32::NAN], 1),
            (&[f32::NAN; 33], 0),
            (&[0.0, INF], 1),
            (&[-0.0, 0.0], 0),
            (&[], 0),
        ];
        for (row, expected) in cases {
            assert_eq!(argmax(row), expected, "{row:?}");
        }
        // Ties in different lanes and different chunks.
        let mut row = [0.0; 100];
        for token in [90, 51, 35, 19] {
            row[token] = 1.0;
            assert_eq!(argmax(&row), token as u32);
        }
    }

    /// `change` is applied to plain parameters; prompt 0 1, output 1 2 2, drafted 3.
    fn check_adjust(change: impl FnOnce(&mut Params), banned: &[u32], expected: [f32; 6]) {
        let mut params = Params::greedy();
        change(&mut params);
        let mut scratch = Scratch::default();
        let adjustment =
            Adjustment { params: &params, history: &[0, 1, 1, 2, 2], prompt_len: 2, drafted: &[3], banned };
        let mut logits = [2.0, 2.0, -2.0, 2.0, 2.0, 0.0];
        adjust(&mut logits, &adjustment, &mut scratch);
        assert_eq!(logits, expected, "{params:?}");
        assert!(scratch.marks.iter().all(|mark| *mark == 0));
    }

    #[test]
    fn nothing_changes_without_a_reason() {
        check_adjust(|_| (), &[], [2.0, 2.0, -2.0, 2.0, 2.0, 0.0]);
    }

    #[test]
    fn repetition_weakens_every_token_seen_once() {
        check_adjust(|p| p.repetition_penalty = 2.0, &[], [1.0, 1.0, -4.0, 1.0, 2.0, 0.0]);
    }

    #[test]
    fn presence_counts_the_output_once_and_frequency_each_time() {
        check_adjust(|p| p.presence_penalty = 0.5, &[], [2.0, 1.5, -2.5, 1.5, 2.0, 0.0]);
        check_adjust(|p| p.frequency_penalty = 0.5, &[], [2.0, 1.5, -3.0, 1.5, 2.0, 0.0]);
    }

    #[test]
    fn bias_comes_first_and_bans_come_last() {
        // Token 4 is biased only; token 0: (2 + 2) / 2; token 3: banned after everything.
        let change = |p: &mut Params| {
            p.repetition_penalty = 2.0;
            p.logit_bias = vec![(0, 2.0), (4, -1.0), (3, 100.0)];
        };
        check_adjust(change, &[3], [2.0, 1.0, -4.0, -INF, 1.0, 0.0]);
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_ignored() {
        let params = Params { presence_penalty: 1.0, logit_bias: vec![(9, 1.0)], ..Params::greedy() };
        let adjustment =
            Adjustment { params: &params, history: &[7, 1], prompt_len: 5, drafted: &[8, 0], banned: &[6] };
        let mut logits = [0.0; 2];
        adjust(&mut logits, &adjustment, &mut Scratch::default());
        assert_eq!(logits, [-1.0, 0.0]);
    }

    proptest! {
        #[test]
        fn softmax_equals_its_definition(
            logits in proptest::collection::vec(-30.0_f32..30.0, 1..70),
            temperature in 0.05_f32..10.0,
        ) {
            let mut row = logits.clone();
            softmax(&mut row, &at_temperature(temperature), &mut Scratch::default());
            let scaled = |x: f32| f64::from(x) / f64::from(temperature);
            let max = logits.iter().copied().map(scaled).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = logits.iter().map(|&x| (scaled(x) - max).exp()).collect();
            let mass: f64 = weights.iter().sum();
            for (got, weight) in row.iter().zip(weights) {
                // A relative error of the exponent x, 2^-23 or so, costs e^-x that much times x; x e^-x is below 0.4.
                prop_assert!((f64::from(*got) - weight / mass).abs() < 3e-7);
            }
            let total: f64 = row.iter().map(|&p| f64::from(p)).sum();
            prop_assert!((total - 1.0).abs() < 1e-6);
        }

        #[test]
        fn argmax_equals_its_definition(row in proptest::collection::vec(-3_i8..3, 1..70)) {
            let row: Vec<f32> = row.into_iter().map(f32::from).collect();
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let expected = row.iter().position(|&x| x == max).unwrap();
            prop_assert_eq!(argmax(&row), expected as u32);
        }
    }
}
