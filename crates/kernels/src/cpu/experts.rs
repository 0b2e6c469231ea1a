//! Products of rows with the matrices of the experts that they chose: each woken expert's weights are read once per pass.
//!
//! All experts of a layer lie in one buffer, one behind the other, so that large pages serve small experts too. Threads share
//! out panels of all woken experts together; a pass in which one expert has most rows keeps all of them busy.

use std::sync::PoisonError;

use dsde_checkpoint::{Dense, Dtype};

use super::super::{Epilogue, RmsNorm, Routed, Stacking, Woken, shape};
use super::Cpu;
use super::activations::{Place, pack_row};
use super::isa::{Isa, dispatch};
use super::linear::{Claims, Columns, Output, PARALLEL_PACK_MIN, Strip, Workspace, run_shared};
use super::matrix::Piece;
use super::pool::Pool;
use super::share::SharedMut;
use super::tile::{COLUMNS, row_blocks};
use super::weights::Format;

/// Numbers below which their weighted sums are not worth a region of their own: about 10 us of one thread.
const PARALLEL_COMBINE_MIN: usize = 1 << 16;

/// Matrices of one shape, packed.
#[derive(Debug)]
pub struct Experts {
    piece: Piece,
    stacking: Stacking,
    n_experts: usize,
    n_in: usize,
    /// Outputs of an expert, gate and up both counted.
    n_out: usize,
    /// Panels of an expert.
    n_panels: usize,
}

impl Experts {
    /// Packs the parts of every expert; of different element types they are widened.
    pub(super) fn pack(
        isa: Isa,
        pool: &Pool,
        experts: &[&[Dense<'_>]],
        stacking: Stacking,
        bias: Option<&[f32]>,
    ) -> Experts {
        let [n_in, n_out] = shape::expert_shape(experts, stacking, bias);
        let format = |part: &Dense<'_>| Format::of(part.dtype, Isa::Portable);
        let first = experts[0][0];
        let is_uniform = experts.iter().copied().flatten().all(|part| format(part) == format(&first));
        let dtype = if is_uniform { first.dtype } else { Dtype::F32 };
        let piece = Piece::pack(isa, pool, experts, stacking, dtype, bias);
        let n_panels = piece.n_columns.div_ceil(piece.panel_width());
        Experts { piece, stacking, n_experts: experts.len(), n_in, n_out, n_panels }
    }

    /// Bytes of the packed weights and the bias.
    pub(super) fn bytes(&self) -> usize {
        self.piece.bytes()
    }
}

/// See [`super::super::Backend::linear_by_expert`].
pub(super) fn linear_by_expert(
    cpu: &Cpu,
    x: &[f32],
    routed: Routed<'_>,
    experts: &Experts,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let shape = [experts.n_experts, experts.n_in, experts.n_out];
    shape::assert_by_expert(x, routed, shape, experts.stacking, epilogue, out);
    let n_rows = routed.n_rows();
    if out.is_empty() {
        return;
    }
    let mut activations = cpu.activations.lock().unwrap_or_else(PoisonError::into_inner);
    let words_per_row = experts.piece.format.activations().words_per_row(experts.n_in);
    activations.resize(n_rows * words_per_row, 0);
    pack_activations(cpu, x, routed, experts, &mut activations);
    let product = Product {
        experts,
        woken: routed.woken,
        activations: &activations,
        words_per_row,
        output: Output::new(cpu.isa, epilogue, out, n_rows),
    };
    let claims = Claims::new(routed.woken.len() * experts.n_panels, cpu.pool.n_threads());
    let work = experts.n_in * experts.n_out * (n_rows + 3 * routed.woken.len());
    run_shared(cpu, work, &|space| {
        claims.each(|panel, next| product.multiply_panel(panel, next, space));
    });
}

/// Packs the rows of every woken expert, block by block.
fn pack_activations(cpu: &Cpu, x: &[f32], routed: Routed<'_>, experts: &Experts, words: &mut [u32]) {
    const NO_NORM: Option<RmsNorm<'static>> = None;
    let n_in = experts.n_in;
    let kind = experts.piece.format.activations();
    let words_per_row = kind.words_per_row(n_in);
    let words = SharedMut::new(words);
    let pack = |woken_idx: usize| {
        let rows = routed.rows_of(woken_idx);
        for block in row_blocks(rows.len()) {
            // SAFETY: experts have disjoint rows and blocks are disjoint, and each expert is packed by one call.
            let words = unsafe {
                words.slice((rows.start + block.start) * words_per_row, block.len() * words_per_row)
            };
            for (i, row) in block.clone().enumerate() {
                let source = routed.source(rows.start + row);
                let place = Place { activations: kind, row: i, n_rows: block.len() };
                pack_row(cpu.isa, &x[source * n_in..(source + 1) * n_in], NO_NORM, place, words);
            }
        }
    };
    let n_woken = routed.woken.len();
    if routed.n_rows() * n_in < PARALLEL_PACK_MIN {
        (0..n_woken).for_each(pack);
    } else {
        cpu.pool.run(n_woken, &pack);
    }
}

/// A product whose activations are packed.
struct Product<'a> {
    experts: &'a Experts,
    woken: &'a [Woken],
    activations: &'a [u32],
    words_per_row: usize,
    output: Output<'a>,
}

impl Product<'_> {
    /// All rows of an expert times one of its panels; panels are counted over all woken experts.
    fn multiply_panel(&self, panel: usize, following: usize, space: &mut Workspace) {
        let Experts { piece, n_panels, .. } = self.experts;
        let of_piece = |panel: usize| {
            let expert = self.woken[panel / n_panels].expert as usize;
            expert * n_panels + panel % n_panels
        };
        let rows = Woken::rows(self.woken, panel / n_panels);
        let activations = &self.activations[rows.start * self.words_per_row..];
        let first = panel % n_panels * piece.panel_width();
        let len = piece.panel_width().min(piece.n_columns - first);
        let columns = Columns { first, len, bias: piece.panel_bias(of_piece(panel)) };
        Strip { piece, activations, n_rows: rows.len() }.multiply(
            piece.panel(of_piece(panel)),
            piece.panel(of_piece(following)),
            space,
            |sums, block| {
                let block = rows.start + block.start..rows.start + block.end;
                // SAFETY: each panel of each expert is multiplied once per product; its columns of its rows belong to it alone.
                unsafe { self.output.write(sums, block, columns) };
            },
        );
    }
}

/// See [`super::super::Backend::combine`].
pub(super) fn combine(
    cpu: &Cpu,
    x: &[f32],
    places: &[u32],
    weights: &[f32],
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let width = shape::assert_combine(x, places, weights, epilogue, out);
    if out.is_empty() {
        return;
    }
    let n_rows = out.len() / width;
    let n_each = places.len() / n_rows;
    let is_added = epilogue == Epilogue::Add;
    let out = SharedMut::new(out);
    let combine = |row: usize| {
        let range = row * n_each..(row + 1) * n_each;
        // SAFETY: each row is written by the one call that has its index.
        let out = unsafe { out.slice(row * width, width) };
        combine_row(cpu.isa, x, &places[range.clone()], &weights[range], is_added, out);
    };
    if x.len() < PARALLEL_COMBINE_MIN {
        (0..n_rows).for_each(combine)
    } else {
        cpu.pool.run(n_rows, &combine)
    }
}

dispatch! {
    fn combine_row(x: &[f32], places: &[u32], weights: &[f32], is_added: bool, out: &mut [f32]) {
        let width = out.len();
        let mut start = 0;
        for out in out.chunks_mut(COLUMNS) {
            let mut sums = [0.0; COLUMNS];
            for (place, weight) in places.iter().zip(weights) {
                let x = &x[*place as usize * width + start..][..out.len()];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum += weight * x;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if is_added { *out + sum } else { sum };
            }
            start += COLUMNS;
        }
    }
}
