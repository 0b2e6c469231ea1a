//! Operands of [`Backend::delta`](super::Backend::delta): weights, and which row follows which.

use std::ops::Range;

use dsde_checkpoint::config::DeltaShape;

/// Added to the squared length of queries and keys before they are divided by it.
pub(super) const LENGTH_EPS: f32 = 1e-6;

/// Weights of a delta layer beside its projections.
#[derive(Clone, Copy, Debug)]
pub struct DeltaWeights<'a> {
    /// `[conv_len, conv_width]`, those of the oldest token first.
    pub convolution: &'a [f32],
    /// Rates of decay, `[n_value_heads]`, below 0.
    pub rates: &'a [f32],
    /// Added to `a`, `[n_value_heads]`.
    pub biases: &'a [f32],
}

/// Rows of a sequence, and the state that they go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRun {
    /// Index of the state; each run has another.
    pub state: usize,
    /// Inputs that the state reads before those of the rows, and of which nobody wants an output.
    pub replayed: Range<usize>,
    /// Rows of the pass; their inputs have the same indices.
    pub rows: Range<usize>,
    /// The first so many rows follow one another and are read by the state for good; at least one. What the others make of it is
    /// forgotten.
    pub n_known: usize,
}

/// Which inputs a pass has, and which follows which.
#[derive(Clone, Copy, Debug)]
pub struct DeltaRows<'a> {
    /// Ascending rows without a gap.
    pub runs: &'a [DeltaRun],
    /// Of rows that are not known: the row that they follow, an earlier one of the same run that is the last known one or not
    /// known, `[n_rows]`.
    pub parents: &'a [u32],
}

/// What a convolution finds some tokens back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Input(usize),
    /// An input that the state remembers, counted back from the newest.
    State(usize),
}

impl DeltaRun {
    /// Rows that are not known.
    pub(super) fn proposed(&self) -> Range<usize> {
        self.rows.start + self.n_known..self.rows.end
    }

    /// Inputs that the state reads, in order.
    pub(super) fn read(&self) -> impl Iterator<Item = usize> {
        self.replayed.clone().chain(self.rows.start..self.rows.start + self.n_known)
    }

    /// All inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = usize> {
        self.replayed.clone().chain(self.rows.clone())
    }

    /// What stands before an input.
    fn before(&self, source: Source, parents: &[u32]) -> Source {
        let input = match source {
            Source::State(n_back) => return Source::State(n_back + 1),
            Source::Input(input) => input,
        };
        match () {
            () if self.proposed().contains(&input) => Source::Input(parents[input] as usize),
            () if input == self.rows.start => {
                self.replayed.clone().next_back().map_or(Source::State(0), Source::Input)
            }
            () if input == self.replayed.start => Source::State(0),
            () => Source::Input(input - 1),
        }
    }

    /// What the convolution sees of an input on, the newest first.
    pub(super) fn sources<'a>(
        &'a self,
        input: usize,
        parents: &'a [u32],
    ) -> impl Iterator<Item = Source> + 'a {
        std::iter::successors(Some(Source::Input(input)), |&source| Some(self.before(source, parents)))
    }

    /// Remembers the newest inputs that the state has read.
    ///
    /// * `inputs`: `[n_inputs, input_len]`.
    /// * `conv_state`: `[conv_len - 1, conv_width]`.
    pub(super) fn remember(&self, shape: DeltaShape, inputs: &[f32], conv_state: &mut [f32]) {
        let width = shape.conv_width();
        let last = self.rows.start + self.n_known - 1;
        let mut sources: Vec<Source> = self.sources(last, &[]).take(shape.conv_len - 1).collect();
        sources.reverse();
        // What stays moves forward, so nothing is overwritten before it has moved.
        for (at, source) in sources.into_iter().enumerate() {
            match source {
                Source::Input(input) => {
                    let input = &inputs[input * shape.input_len()..][..width];
                    conv_state[at * width..][..width].copy_from_slice(input);
                }
                Source::State(n_back) => {
                    let from = (shape.conv_len - 2 - n_back) * width;
                    conv_state.copy_within(from..from + width, at * width);
                }
            }
        }
    }
}

/// Checks the operands of [`Backend::delta`](super::Backend::delta).
pub(super) fn assert_delta(
    shape: DeltaShape,
    weights: DeltaWeights<'_>,
    inputs: &[f32],
    rows: DeltaRows<'_>,
    [states_len, state_len]: [usize; 2],
    out: &[f32],
) {
    assert!(shape.conv_len >= 2, "the convolution sees at least one token before");
    assert!(shape.n_value_heads.is_multiple_of(shape.n_key_heads), "n_key_heads divides n_value_heads");
    let n_inputs = inputs.len() / shape.input_len();
    assert_eq!(inputs.len(), n_inputs * shape.input_len(), "inputs are [n_inputs, input_len]");
    let n_rows = rows.runs.last().map_or(0, |run| run.rows.end);
    assert_eq!(out.len(), n_rows * shape.values_width(), "out is [n_rows, values_width]");
    assert_eq!(weights.convolution.len(), shape.conv_len * shape.conv_width(), "[conv_len, conv_width]");
    assert_eq!(
        [weights.rates.len(), weights.biases.len()],
        [shape.n_value_heads; 2],
        "one per head of values"
    );
    assert_eq!(rows.parents.len(), n_rows, "one parent per row");
    assert!(states_len.is_multiple_of(state_len), "states are [n_states, state_len]");
    let mut states: Vec<usize> = rows.runs.iter().map(|run| run.state).collect();
    states.sort_unstable();
    assert!(states.is_sorted_by(|a, b| a < b), "each run has a state of its own");
    assert!(states.last().is_none_or(|&last| last < states_len / state_len), "states are there");
    let (mut end, mut replayed_end) = (0, n_rows);
    for run in rows.runs {
        assert!(run.rows.start == end && run.rows.end <= n_inputs, "rows follow one another");
        end = run.rows.end;
        assert!((1..=run.rows.len()).contains(&run.n_known), "a run has a known row");
        assert!(
            run.replayed.is_empty() || (run.replayed.start >= replayed_end && run.replayed.end <= n_inputs),
            "inputs that are replayed follow one another behind those of rows"
        );
        replayed_end = replayed_end.max(run.replayed.end);
        let earliest = run.rows.start + run.n_known - 1;
        assert!(
            run.proposed().all(|row| (earliest..row).contains(&(rows.parents[row] as usize))),
            "parents stand before their rows"
        );
    }
}
