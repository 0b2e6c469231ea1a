//! Delta layers: against the reference, and a state against itself when its tokens came otherwise.

use dsde_checkpoint::config::DeltaShape;
use dsde_kernels::{Backend, DeltaRows, DeltaRun, DeltaWeights, Gate, Reference};

use super::support::{Numbers, bits, cpus, relative_error};

/// Kernels sum in another order, and their exponential is off by 2e-7; twenty rows go through a state.
const TOLERANCE: f32 = 2e-5;

/// Columns that are no whole block, one that is alone, odd rows, both ways of sharing heads of keys.
const SHAPES: [DeltaShape; 4] = [
    shape([2, 4], [16, 16], 4, false),
    shape([2, 6], [8, 40], 4, true),
    shape([1, 3], [7, 33], 2, false),
    shape([2, 2], [64, 64], 5, true),
];

const fn shape(n_heads: [usize; 2], dims: [usize; 2], conv_len: usize, is_tiled: bool) -> DeltaShape {
    let ([n_key_heads, n_value_heads], [key_dim, value_dim]) = (n_heads, dims);
    DeltaShape { n_key_heads, n_value_heads, key_dim, value_dim, conv_len, is_tiled }
}

/// A layer with any weights.
struct Layer {
    shape: DeltaShape,
    convolution: Vec<f32>,
    rates: Vec<f32>,
    biases: Vec<f32>,
}

impl Layer {
    fn new(shape: DeltaShape, numbers: &mut Numbers) -> Self {
        let rates = numbers.units(shape.n_value_heads).iter().map(|x| -0.6 - 0.5 * x).collect();
        Self {
            shape,
            convolution: numbers.units(shape.conv_len * shape.conv_width()),
            rates,
            biases: numbers.units(shape.n_value_heads),
        }
    }

    fn pass<B: Backend>(
        &self,
        backend: &B,
        inputs: &[f32],
        runs: &[DeltaRun],
        parents: &[u32],
        states: &mut [f32],
    ) -> Vec<f32> {
        let Self { shape, convolution, rates, biases } = self;
        let weights = DeltaWeights { convolution, rates, biases };
        let mut out = vec![f32::NAN; parents.len() * shape.values_width()];
        backend.delta(*shape, weights, inputs, DeltaRows { runs, parents }, states, &mut out);
        out
    }

    /// The same inputs as known rows of one sequence, `chunk` at a time; outputs and the state.
    fn in_chunks<B: Backend>(&self, backend: &B, inputs: &[f32], chunk: usize) -> (Vec<f32>, Vec<f32>) {
        let mut state = vec![0.0; backend.state_len(self.shape)];
        let mut out = Vec::new();
        for inputs in inputs.chunks(chunk * self.shape.input_len()) {
            let n = inputs.len() / self.shape.input_len();
            out.extend(self.pass(backend, inputs, &[run(0, 0..0, 0..n, n)], &vec![0; n], &mut state));
        }
        (out, state)
    }

    fn inputs(&self, n: usize, numbers: &mut Numbers) -> Vec<f32> {
        numbers.units(n * self.shape.input_len()).iter().map(|x| 2.0 * x).collect()
    }
}

fn run(
    state: usize,
    replayed: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    n_known: usize,
) -> DeltaRun {
    DeltaRun { state, replayed, rows, n_known }
}

/// A prompt, a chain behind what is replayed, a tree, a plain decode: rows 0..5, 5..9, 9..16, 16..17; replays 17..20.
fn ragged() -> (Vec<DeltaRun>, Vec<u32>) {
    let runs =
        vec![run(3, 0..0, 0..5, 5), run(0, 17..20, 5..9, 1), run(2, 0..0, 9..16, 2), run(1, 0..0, 16..17, 1)];
    let chain = [0, 5, 6, 7];
    // Two roots below row 10, two children of the first, one of the second.
    let tree = [0, 0, 10, 10, 11, 11, 12];
    (runs, [&[0; 5][..], &chain, &tree, &[0]].concat())
}

const N_INPUTS: usize = 20;

#[test]
fn kernels_agree_with_the_reference() {
    for (seed, shape) in (1..).zip(SHAPES) {
        let mut numbers = Numbers::new(seed);
        let layer = Layer::new(shape, &mut numbers);
        let (runs, parents) = ragged();
        let passes = [(); 3].map(|()| layer.inputs(N_INPUTS, &mut numbers));
        let outputs =
            |pass: &mut dyn FnMut(&[f32]) -> Vec<f32>| passes.iter().flat_map(|x| pass(x)).collect();
        let mut states = vec![0.0; 4 * Reference.state_len(shape)];
        let expected: Vec<f32> =
            outputs(&mut |inputs| layer.pass(&Reference, inputs, &runs, &parents, &mut states));
        for cpu in cpus() {
            let mut states = vec![0.0; 4 * cpu.state_len(shape)];
            let got: Vec<f32> = outputs(&mut |inputs| layer.pass(&cpu, inputs, &runs, &parents, &mut states));
            let error = relative_error(&got, &expected);
            assert!(error < TOLERANCE, "{shape:?}, {}: {error}", cpu.describe());
        }
    }
}

fn check_chunks<B: Backend>(backend: &B, shape: DeltaShape) {
    let mut numbers = Numbers::new(7);
    let layer = Layer::new(shape, &mut numbers);
    let inputs = layer.inputs(13, &mut numbers);
    let (out, state) = layer.in_chunks(backend, &inputs, 13);
    for chunk in [1, 2, 3, 5, 12] {
        let (chunked_out, chunked_state) = layer.in_chunks(backend, &inputs, chunk);
        assert_eq!(bits(&chunked_out), bits(&out), "{shape:?} by {chunk}, {}", backend.describe());
        assert_eq!(bits(&chunked_state), bits(&state), "{shape:?} by {chunk}, {}", backend.describe());
    }
}

#[test]
fn a_state_is_the_same_whatever_the_chunks() {
    for shape in SHAPES {
        check_chunks(&Reference, shape);
        cpus().iter().for_each(|cpu| check_chunks(cpu, shape));
    }
}

/// Of 9 inputs the first 3 are read, then 6 proposed, of which the first `n_accepted` are replayed before the next row.
fn check_replay<B: Backend>(backend: &B, shape: DeltaShape, n_accepted: usize) {
    let mut numbers = Numbers::new(11);
    let layer = Layer::new(shape, &mut numbers);
    let len = shape.input_len();
    let inputs = layer.inputs(10, &mut numbers);
    let proposed = [run(0, 0..0, 0..9, 3)];
    let mut state = vec![0.0; backend.state_len(shape)];
    let out = layer.pass(backend, &inputs[..9 * len], &proposed, &[0, 0, 0, 2, 3, 4, 5, 6, 7], &mut state);
    let (all_known, _) = layer.in_chunks(backend, &inputs[..9 * len], 9);
    assert_eq!(bits(&out), bits(&all_known), "outputs are those of known rows, {}", backend.describe());
    let (_, only_known) = layer.in_chunks(backend, &inputs[..3 * len], 3);
    assert_eq!(bits(&state), bits(&only_known), "proposals leave no trace, {}", backend.describe());
    let next = &inputs[9 * len..];
    let replayed = [next, &inputs[3 * len..(3 + n_accepted) * len]].concat();
    let out = layer.pass(backend, &replayed, &[run(0, 1..1 + n_accepted, 0..1, 1)], &[0], &mut state);
    let plain = [&inputs[..(3 + n_accepted) * len], next].concat();
    let (expected_out, expected_state) = layer.in_chunks(backend, &plain, 1);
    let last = expected_out.len() - shape.values_width();
    assert_eq!(bits(&out), bits(&expected_out[last..]), "{n_accepted} accepted, {}", backend.describe());
    assert_eq!(bits(&state), bits(&expected_state), "{n_accepted} accepted, {}", backend.describe());
}

#[test]
fn rejected_rows_leave_no_trace_and_accepted_ones_are_replayed() {
    for shape in SHAPES {
        for n_accepted in 0..=6 {
            check_replay(&Reference, shape, n_accepted);
            cpus().iter().for_each(|cpu| check_replay(cpu, shape, n_accepted));
        }
    }
}

/// Every node of the tree gets what the last row of its path would get.
fn check_tree<B: Backend>(backend: &B, shape: DeltaShape) {
    let mut numbers = Numbers::new(13);
    let layer = Layer::new(shape, &mut numbers);
    let len = shape.input_len();
    let inputs = layer.inputs(7, &mut numbers);
    let parents = [0, 0, 1, 1, 2, 2, 3];
    let mut state = vec![0.0; backend.state_len(shape)];
    let out = layer.pass(backend, &inputs, &[run(0, 0..0, 0..7, 2)], &parents, &mut state);
    let of_row = |row: usize| &inputs[row * len..(row + 1) * len];
    for path in [&[0, 1, 2][..], &[0, 1, 3], &[0, 1, 2, 4], &[0, 1, 2, 5], &[0, 1, 3, 6]] {
        let plain: Vec<f32> = path.iter().flat_map(|&row| of_row(row).to_vec()).collect();
        let (expected, _) = layer.in_chunks(backend, &plain, 2);
        let (width, last) = (shape.values_width(), path[path.len() - 1]);
        let expected = &expected[expected.len() - width..];
        assert_eq!(bits(&out[last * width..][..width]), bits(expected), "{path:?}, {}", backend.describe());
    }
}

#[test]
fn nodes_of_a_tree_follow_their_ancestors() {
    for shape in SHAPES {
        check_tree(&Reference, shape);
        cpus().iter().for_each(|cpu| check_tree(cpu, shape));
    }
}

#[test]
fn a_sequence_gets_the_same_in_any_company() {
    for shape in SHAPES {
        for cpu in cpus() {
            let mut numbers = Numbers::new(17);
            let layer = Layer::new(shape, &mut numbers);
            let (runs, parents) = ragged();
            let inputs = layer.inputs(N_INPUTS, &mut numbers);
            let state_len = cpu.state_len(shape);
            let mut states = numbers.units(4 * state_len);
            let before = states.clone();
            let out = layer.pass(&cpu, &inputs, &runs, &parents, &mut states);
            for found in &runs {
                let (rows, n_rows) = (found.rows.clone(), found.rows.len());
                let of = |range: std::ops::Range<usize>| {
                    inputs[range.start * shape.input_len()..range.end * shape.input_len()].to_vec()
                };
                let alone = [of(rows.clone()), of(found.replayed.clone())].concat();
                let run = run(0, n_rows..n_rows + found.replayed.len(), 0..n_rows, found.n_known);
                let parents: Vec<u32> = parents[rows.clone()]
                    .iter()
                    .map(|parent| parent.saturating_sub(rows.start as u32))
                    .collect();
                let mut state = before[found.state * state_len..][..state_len].to_vec();
                let got = layer.pass(&cpu, &alone, &[run], &parents, &mut state);
                let width = shape.values_width();
                assert_eq!(bits(&got), bits(&out[rows.start * width..rows.end * width]), "{found:?}");
                assert_eq!(bits(&state), bits(&states[found.state * state_len..][..state_len]), "{found:?}");
            }
        }
    }
}

#[test]
fn gates_agree_with_the_reference() {
    let mut numbers = Numbers::new(19);
    for len in [0, 1, 31, 20_000] {
        let gates: Vec<f32> = numbers.units(len).iter().map(|x| 8.0 * x).collect();
        let x = numbers.units(len);
        for kind in [Gate::Sigmoid, Gate::Silu, Gate::Gelu] {
            let gated = |gate: &dyn Fn(&mut [f32])| {
                let mut x = x.clone();
                gate(&mut x);
                x
            };
            let expected = gated(&|x| Reference.gate(kind, &gates, x));
            for cpu in cpus() {
                let got = gated(&|x| cpu.gate(kind, &gates, x));
                assert!(relative_error(&got, &expected) < 1e-6, "{kind:?} of {len}, {}", cpu.describe());
            }
        }
    }
}
