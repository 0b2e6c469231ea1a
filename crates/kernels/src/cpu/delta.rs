//! The gated delta rule: one state per head of values, which reads row after row.
//!
//! A state is cut into blocks of [`LANES`] columns, since no column of it depends on another; a thread takes a block through all
//! rows of a sequence, and it stays in the first cache meanwhile. Rows are read one after the other, never several at once by a form
//! that rounds otherwise, so a state has the same bits however its tokens came.

use std::sync::PoisonError;

use dsde_checkpoint::config::DeltaShape;

use super::super::delta::{DeltaRows, DeltaRun, DeltaWeights, LENGTH_EPS, Source, assert_delta};
use super::Cpu;
use super::isa::dispatch;
use super::math::{sigmoid, silu, sum_of_squares};
use super::share::SharedMut;

/// Columns of a block: two vectors of 16, or four of 8.
const LANES: usize = 32;
/// Partial sums over the rows of a state, by index; two hide how long an addition takes.
const PARTS: usize = 2;
/// Numbers of inputs below which the convolution is left to the caller's thread.
const PARALLEL_INPUTS_MIN: usize = 1 << 14;

/// A row of a block.
type Lanes = [f32; LANES];

fn n_blocks(shape: DeltaShape) -> usize {
    shape.value_dim.div_ceil(LANES)
}

/// Numbers of the states of all heads.
fn heads_len(shape: DeltaShape) -> usize {
    shape.n_value_heads * n_blocks(shape) * shape.key_dim * LANES
}

/// Numbers of a state: `[n_value_heads, n_blocks, key_dim, LANES]`, then what the convolution remembers.
pub(super) fn state_len(shape: DeltaShape) -> usize {
    heads_len(shape) + shape.conv_state_len()
}

/// See [`Backend::delta`](super::super::Backend::delta).
pub(super) fn delta(
    cpu: &Cpu,
    shape: DeltaShape,
    weights: DeltaWeights<'_>,
    inputs: &[f32],
    rows: DeltaRows<'_>,
    states: &mut [f32],
    out: &mut [f32],
) {
    let state_len = state_len(shape);
    assert_delta(shape, weights, inputs, rows, [states.len(), state_len], out);
    let mut prepared = cpu.prepared.lock().unwrap_or_else(PoisonError::into_inner);
    if prepared.len() < inputs.len() {
        prepared.resize(inputs.len(), 0.0);
    }
    let prepared = &mut prepared[..inputs.len()];
    prepare_all(cpu, shape, weights, inputs, rows, states, prepared);
    let blocks_per_run = shape.n_value_heads * n_blocks(shape);
    let out_len = out.len();
    let (shared_states, shared_out) = (SharedMut::new(states), SharedMut::new(out));
    cpu.pool.run(rows.runs.len() * blocks_per_run, &|task| {
        let run = &rows.runs[task / blocks_per_run];
        let block_idx = task % blocks_per_run;
        let block_len = shape.key_dim * LANES;
        // SAFETY: each run has a state of its own, and each task a block of it.
        let block = unsafe { shared_states.slice(run.state * state_len + block_idx * block_len, block_len) };
        let place = Block::new(shape, block_idx);
        let write = |row: usize, values: &Lanes| {
            debug_assert!((row + 1) * shape.values_width() <= out_len, "row {row} has an output");
            // SAFETY: each row belongs to one run, and each task writes columns of its own.
            let out = unsafe { shared_out.slice(row * shape.values_width() + place.first, place.n_columns) };
            out.copy_from_slice(&values[..place.n_columns]);
        };
        let walk = Walk { shape, place, run, parents: rows.parents, prepared };
        run_block(cpu.isa, walk, block.as_chunks_mut().0, &write);
    });
    for run in rows.runs {
        let conv_state = &mut states[run.state * state_len + heads_len(shape)..][..shape.conv_state_len()];
        run.remember(shape, inputs, conv_state);
    }
}

/// Which columns of which head a task has.
#[derive(Clone, Copy)]
struct Block {
    head: usize,
    /// Its first column among the values of all heads.
    first: usize,
    n_columns: usize,
}

impl Block {
    fn new(shape: DeltaShape, block_idx: usize) -> Self {
        let (head, block) = (block_idx / n_blocks(shape), block_idx % n_blocks(shape));
        let n_columns = (shape.value_dim - block * LANES).min(LANES);
        Self { head, first: head * shape.value_dim + block * LANES, n_columns }
    }
}

/// The rows that a block goes through.
#[derive(Clone, Copy)]
struct Walk<'a> {
    shape: DeltaShape,
    place: Block,
    run: &'a DeltaRun,
    parents: &'a [u32],
    prepared: &'a [f32],
}

/// What a block reads of an input.
struct Operands<'a> {
    query: &'a [f32],
    key: &'a [f32],
    values: Lanes,
    decay: f32,
    beta: f32,
}

impl<'a> Operands<'a> {
    #[inline(always)]
    fn of(shape: DeltaShape, place: Block, prepared: &'a [f32], input: usize) -> Self {
        let row = &prepared[input * shape.input_len()..][..shape.input_len()];
        let (conv, rest) = row.split_at(shape.conv_width());
        let at = shape.key_head(place.head) * shape.key_dim;
        let mut values = [0.0; LANES];
        values[..place.n_columns]
            .copy_from_slice(&conv[2 * shape.keys_width() + place.first..][..place.n_columns]);
        Self {
            query: &conv[at..at + shape.key_dim],
            key: &conv[shape.keys_width() + at..][..shape.key_dim],
            values,
            beta: rest[place.head],
            decay: rest[shape.n_value_heads + place.head],
        }
    }
}

dispatch! {
    /// Takes a block through the rows of a run; proposals go on from a copy of it.
    fn run_block(walk: Walk<'_>, block: &mut [Lanes], write: &dyn Fn(usize, &Lanes)) {
        let Walk { shape, place, run, parents, prepared } = walk;
        let operands = |input| Operands::of(shape, place, prepared, input);
        for input in run.read() {
            let values = read(block, &operands(input));
            if run.rows.contains(&input) {
                write(input, &values);
            }
        }
        let proposed = run.proposed();
        if proposed.is_empty() {
            return;
        }
        let mut copy = block.to_vec();
        let mut last = proposed.start - 1;
        let mut path = Vec::new();
        for row in proposed.clone() {
            let parent = parents[row] as usize;
            if parent != last {
                copy.copy_from_slice(block);
                path.clear();
                let ancestors = std::iter::successors(Some(parent), |&row| Some(parents[row] as usize));
                path.extend(ancestors.take_while(|row| proposed.contains(row)));
                for &ancestor in path.iter().rev() {
                    read(&mut copy, &operands(ancestor));
                }
            }
            write(row, &read(&mut copy, &operands(row)));
            last = row;
        }
    }
}

/// The state decays, learns what it did not expect of the value, and answers the query: Yang et al. (arXiv:2412.06464), Eq. 10.
#[inline(always)]
fn read(block: &mut [Lanes], operands: &Operands<'_>) -> Lanes {
    let &Operands { query, key, values, decay, beta } = operands;
    let (keys, last_key) = key.as_chunks::<PARTS>();
    let (queries, last_query) = query.as_chunks::<PARTS>();
    let (rows, last_row) = block.as_chunks::<PARTS>();
    let mut parts = [[0.0; LANES]; PARTS];
    for (rows, keys) in rows.iter().zip(keys) {
        for part in 0..PARTS {
            find(&rows[part], keys[part], &mut parts[part]);
        }
    }
    last_row.iter().zip(last_key).for_each(|(row, key)| find(row, *key, &mut parts[0]));
    let mut change = [0.0; LANES];
    for (lane, change) in change.iter_mut().enumerate() {
        *change = beta * (values[lane] - decay * (parts[0][lane] + parts[1][lane]));
    }
    parts = [[0.0; LANES]; PARTS];
    let (rows, last_row) = block.as_chunks_mut::<PARTS>();
    for ((rows, keys), queries) in rows.iter_mut().zip(keys).zip(queries) {
        for part in 0..PARTS {
            learn(&mut rows[part], decay, keys[part], &change);
            find(&rows[part], queries[part], &mut parts[part]);
        }
    }
    for ((row, key), query) in last_row.iter_mut().zip(last_key).zip(last_query) {
        learn(row, decay, *key, &change);
        find(row, *query, &mut parts[0]);
    }
    std::array::from_fn(|lane| parts[0][lane] + parts[1][lane])
}

/// `sums += x * row`.
#[inline(always)]
fn find(row: &Lanes, x: f32, sums: &mut Lanes) {
    for (sum, row) in sums.iter_mut().zip(row) {
        *sum += x * row;
    }
}

/// `row = decay * row + key * change`.
#[inline(always)]
fn learn(row: &mut Lanes, decay: f32, key: f32, change: &Lanes) {
    for (x, change) in row.iter_mut().zip(change) {
        *x = decay * *x + key * change;
    }
}

/// Convolves all inputs and brings queries and keys to their length: `prepared` is `[n_inputs, input_len]`, with beta and decay in
/// the places of `b` and `a`.
fn prepare_all(
    cpu: &Cpu,
    shape: DeltaShape,
    weights: DeltaWeights<'_>,
    inputs: &[f32],
    rows: DeltaRows<'_>,
    states: &[f32],
    prepared: &mut [f32],
) {
    let state_len = state_len(shape);
    let tasks: Vec<(&DeltaRun, usize)> =
        rows.runs.iter().flat_map(|run| run.inputs().map(move |input| (run, input))).collect();
    let shared = SharedMut::new(prepared);
    let prepare_one = |task: usize| {
        let (run, input) = tasks[task];
        let conv_state = &states[run.state * state_len + heads_len(shape)..][..shape.conv_state_len()];
        let place = |source| match source {
            Source::Input(input) => &inputs[input * shape.input_len()..][..shape.conv_width()],
            Source::State(n_back) => {
                &conv_state[(shape.conv_len - 2 - n_back) * shape.conv_width()..][..shape.conv_width()]
            }
        };
        let mut sources: Vec<&[f32]> =
            run.sources(input, rows.parents).take(shape.conv_len).map(place).collect();
        sources.reverse();
        let gates = &inputs[input * shape.input_len()..][shape.conv_width()..shape.input_len()];
        // SAFETY: each input is one task.
        let out = unsafe { shared.slice(input * shape.input_len(), shape.input_len()) };
        prepare(cpu.isa, shape, weights, &sources, gates, out);
    };
    match tasks.len() * shape.input_len() < PARALLEL_INPUTS_MIN {
        true => (0..tasks.len()).for_each(prepare_one),
        false => cpu.pool.run(tasks.len(), &prepare_one),
    }
}

dispatch! {
    /// One input; `sources` are what the convolution sees, the oldest first.
    fn prepare(
        shape: DeltaShape,
        weights: DeltaWeights<'_>,
        sources: &[&[f32]],
        gates: &[f32],
        out: &mut [f32],
    ) {
        let (conv, own) = out.split_at_mut(shape.conv_width());
        conv.fill(0.0);
        for (x, weight) in sources.iter().zip(weights.convolution.chunks_exact(shape.conv_width())) {
            for ((sum, x), weight) in conv.iter_mut().zip(*x).zip(weight) {
                *sum += weight * x;
            }
        }
        conv.iter_mut().for_each(|x| *x = silu(*x));
        let (queries, rest) = conv.split_at_mut(shape.keys_width());
        let scale = 1.0 / (shape.key_dim as f32).sqrt();
        for (heads, scale) in [(queries, scale), (&mut rest[..shape.keys_width()], 1.0)] {
            for head in heads.chunks_exact_mut(shape.key_dim) {
                let factor = scale / (sum_of_squares(head) + LENGTH_EPS).sqrt();
                head.iter_mut().for_each(|x| *x *= factor);
            }
        }
        let (betas, decays) = own.split_at_mut(shape.n_value_heads);
        let (b, a) = gates.split_at(shape.n_value_heads);
        for (beta, b) in betas.iter_mut().zip(b) {
            *beta = sigmoid(*b);
        }
        for (head, decay) in decays.iter_mut().enumerate() {
            let x = a[head] + weights.biases[head];
            // Beyond 20 the logarithm of 1 + e^x is x in single precision.
            let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
            *decay = (weights.rates[head] * softplus).exp();
        }
    }
}
