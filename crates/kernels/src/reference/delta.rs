//! The gated delta rule, row by row.

use super::{dot, silu};
use crate::delta::{DeltaRows, DeltaRun, DeltaWeights, LENGTH_EPS, Source, assert_delta};
use dsde_checkpoint::config::DeltaShape;

/// Numbers of a state: `[n_value_heads, key_dim, value_dim]`, then what the convolution remembers.
pub(super) fn state_len(shape: DeltaShape) -> usize {
    shape.values_width() * shape.key_dim + shape.conv_state_len()
}

/// See [`Backend::delta`](crate::Backend::delta).
pub(super) fn delta(
    shape: DeltaShape,
    weights: DeltaWeights<'_>,
    inputs: &[f32],
    rows: DeltaRows<'_>,
    states: &mut [f32],
    out: &mut [f32],
) {
    let state_len = state_len(shape);
    assert_delta(shape, weights, inputs, rows, [states.len(), state_len], out);
    let layer = Layer { shape, weights, inputs, parents: rows.parents };
    for run in rows.runs {
        let state = &mut states[run.state * state_len..][..state_len];
        let (heads, conv_state) = state.split_at_mut(shape.values_width() * shape.key_dim);
        let mut ignored = vec![0.0; shape.values_width()];
        for input in run.read() {
            let out = match run.rows.contains(&input) {
                true => &mut out[input * shape.values_width()..][..shape.values_width()],
                false => &mut ignored,
            };
            layer.read(run, input, heads, conv_state, out);
        }
        for row in run.proposed() {
            let is_proposed = |row: &usize| run.proposed().contains(row);
            let path = std::iter::successors(Some(row), |&row| Some(rows.parents[row] as usize));
            let mut path: Vec<usize> = path.take_while(is_proposed).collect();
            path.reverse();
            let mut heads = heads.to_vec();
            let out = &mut out[row * shape.values_width()..][..shape.values_width()];
            path.into_iter().for_each(|input| layer.read(run, input, &mut heads, conv_state, out));
        }
        run.remember(shape, inputs, conv_state);
    }
}

struct Layer<'a> {
    shape: DeltaShape,
    weights: DeltaWeights<'a>,
    inputs: &'a [f32],
    parents: &'a [u32],
}

impl Layer<'_> {
    /// The state of all heads reads one input.
    fn read(&self, run: &DeltaRun, input: usize, heads: &mut [f32], conv_state: &[f32], out: &mut [f32]) {
        let DeltaShape { n_value_heads, key_dim, value_dim, .. } = self.shape;
        let mixed = self.convolved(run, input, conv_state);
        let (queries, rest) = mixed.split_at(self.shape.keys_width());
        let (keys, values) = rest.split_at(self.shape.keys_width());
        let row = &self.inputs[input * self.shape.input_len()..][..self.shape.input_len()];
        let (b, a) = row[self.shape.conv_width()..].split_at(n_value_heads);
        for head in 0..n_value_heads {
            let of_key = self.shape.key_head(head) * key_dim;
            let query = of_length_one(&queries[of_key..of_key + key_dim], (key_dim as f32).sqrt().recip());
            let key = of_length_one(&keys[of_key..of_key + key_dim], 1.0);
            let value = &values[head * value_dim..][..value_dim];
            let decay = (self.weights.rates[head] * softplus(a[head] + self.weights.biases[head])).exp();
            let beta = 1.0 / (1.0 + (-b[head]).exp());
            let state = &mut heads[head * key_dim * value_dim..][..key_dim * value_dim];
            state.iter_mut().for_each(|x| *x *= decay);
            for (column, &value) in value.iter().enumerate() {
                let of_column = |i: usize| i * value_dim + column;
                let found: f32 = (0..key_dim).map(|i| state[of_column(i)] * key[i]).sum();
                let change = beta * (value - found);
                (0..key_dim).for_each(|i| state[of_column(i)] += key[i] * change);
                out[head * value_dim + column] = (0..key_dim).map(|i| state[of_column(i)] * query[i]).sum();
            }
        }
    }

    /// Queries, keys and values of an input.
    fn convolved(&self, run: &DeltaRun, input: usize, conv_state: &[f32]) -> Vec<f32> {
        let (width, conv_len) = (self.shape.conv_width(), self.shape.conv_len);
        let mut sums = vec![0.0; width];
        let mut sources: Vec<Source> = run.sources(input, self.parents).take(conv_len).collect();
        sources.reverse();
        for (at, source) in sources.into_iter().enumerate() {
            let x = match source {
                Source::Input(input) => &self.inputs[input * self.shape.input_len()..][..width],
                Source::State(n_back) => &conv_state[(conv_len - 2 - n_back) * width..][..width],
            };
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += self.weights.convolution[at * width + i] * x[i];
            }
        }
        sums.into_iter().map(silu).collect()
    }
}

/// `scale * x / |x|`.
fn of_length_one(x: &[f32], scale: f32) -> Vec<f32> {
    let factor = scale / (dot(x, x) + LENGTH_EPS).sqrt();
    x.iter().map(|x| x * factor).collect()
}

/// `ln(1 + e^x)`.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
