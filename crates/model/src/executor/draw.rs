//! Drafted tokens: from rows of the draft's logits to tokens and the features of their distributions.

use dsde_engine::{Beam, DraftDraw, Drafted};
use dsde_policy::DraftPosition;
use dsde_sampling::{
    Adjustment, Draws, Purpose, Scratch, Shape, Weights, adjust, argmax, branches, mask, softmax,
};

use dsde_kernels::cpu::Kernel;

use super::drafted::{Basis, Keeper};
use super::path::Path;
use super::prune::rivals;

/// Drafts the tokens asked for and keeps what their verification will need.
pub(super) struct Draw<'a, 'p> {
    /// What is asked for.
    pub(super) draw: &'a DraftDraw<'a>,
    /// `[draw.n_rows(), vocab_len]`, raw logits of the draft; changed.
    pub(super) rows: &'a mut [f32],
    /// Where rows are kept.
    pub(super) kept: &'a mut Keeper<'p>,
    /// `[draw.n_drafted()]`.
    pub(super) drafted: &'a mut [Drafted],
    /// Memory.
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Draw<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { draw, rows, kept, drafted, scratch } = self;
        match draw.beam {
            None => drafted[0] = draw_token(draw, rows, kept, scratch),
            Some(beam) => draw_level(draw, beam, rows, kept, drafted, scratch),
        }
    }
}

/// Applies penalties, biases, bans and the form of the answer as after the path to a row of the proposal.
#[inline(always)]
fn adjust_row(draw: &DraftDraw<'_>, row_idx: usize, row: &mut [f32], scratch: &mut Scratch) {
    let DraftDraw { params, history, prompt_len, proposal, banned, .. } = *draw;
    let path = Path::to_row(proposal, row_idx);
    adjust(row, &Adjustment { params, history, prompt_len, drafted: &path, banned }, scratch);
    if let Some(allowed) = proposal.mask(row_idx) {
        mask(row, allowed);
    }
}

/// Draws the next token of a chain.
#[inline(always)]
fn draw_token(
    draw: &DraftDraw<'_>,
    row: &mut [f32],
    kept: &mut Keeper<'_>,
    scratch: &mut Scratch,
) -> Drafted {
    let DraftDraw { params, proposal, .. } = *draw;
    adjust_row(draw, proposal.len() as usize, row, scratch);
    let mut shape = keep_logits(draw, row, kept);
    let token = if params.is_greedy() {
        let token = argmax(row);
        kept.keep_rivals(rivals(row, token, draw.n_rivals as usize).into_iter());
        token
    } else {
        softmax(row, params, scratch);
        shape = shape.or_else(|| shape_of_probabilities(draw, row));
        kept.keep_probabilities(row);
        draw.draws().token(Purpose::Draft, proposal.len(), Weights::Row(row))
    };
    kept.finish_row();
    Drafted { token, position: position(draw, shape, 0.0) }
}

/// Finds the most probable tokens after each node of a level.
#[inline(always)]
fn draw_level(
    draw: &DraftDraw<'_>,
    beam: Beam,
    rows: &mut [f32],
    kept: &mut Keeper<'_>,
    drafted: &mut [Drafted],
    scratch: &mut Scratch,
) {
    let DraftDraw { params, signals, .. } = *draw;
    let vocab_len = rows.len() / beam.n_rows as usize;
    let answers = drafted.chunks_exact_mut(beam.width as usize);
    for (i, (row, answer)) in rows.chunks_exact_mut(vocab_len).zip(answers).enumerate() {
        let row_idx = draw.node(i as u32).map_or(0, |node| 1 + node as usize);
        adjust_row(draw, row_idx, row, scratch);
        let mut shape = keep_logits(draw, row, kept);
        let tokens = branches(row, params, beam.width, scratch);
        if !params.is_greedy() {
            shape = shape.or_else(|| shape_of_probabilities(draw, row));
            // The verdict on a tree does not ask for them.
            if signals.divergence {
                kept.keep_probabilities(row);
            }
        }
        kept.finish_row();
        for (answer, (token, log_prob)) in answer.iter_mut().zip(tokens) {
            *answer = Drafted { token, position: position(draw, shape, log_prob) };
        }
    }
}

/// Keeps the adjusted logits of a row if signals are computed from them, and returns their shape if it is wanted.
#[inline(always)]
fn keep_logits(draw: &DraftDraw<'_>, row: &[f32], kept: &mut Keeper<'_>) -> Option<Shape> {
    let Basis::Logits { temperature } = Basis::of(draw.params) else {
        return None;
    };
    if draw.signals.divergence {
        kept.keep_logits(row);
    }
    draw.signals.draft_shape.then(|| Shape::of_logits(row, temperature))
}

/// Shape of a processed row, if it is wanted and not that of the logits.
#[inline(always)]
fn shape_of_probabilities(draw: &DraftDraw<'_>, row: &[f32]) -> Option<Shape> {
    let is_wanted = draw.signals.draft_shape && Basis::of(draw.params) == Basis::Probabilities;
    is_wanted.then(|| Shape::of_probabilities(row))
}

/// Features of a drafted token; without a shape the draft counts as certain.
fn position(draw: &DraftDraw<'_>, shape: Option<Shape>, path_log_prob: f32) -> DraftPosition {
    let Shape { entropy, top_prob } = shape.unwrap_or(Shape { entropy: 0.0, top_prob: 1.0 });
    DraftPosition { index: draw.proposal.len(), entropy, top_prob, path_log_prob }
}
