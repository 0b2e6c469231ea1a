//! Activations in the order in which a tile broadcasts them.

use super::super::RmsNorm;
use super::isa::dispatch;
use super::math::rms_scale;
use super::weights::{Format, bf16_bits};

/// Inputs converted at a time, before they are spread over the block.
const PIECE: usize = 64;

/// Where a row goes in a packed block of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Format of the block.
    pub(super) format: Format,
    /// Index of the row in the block.
    pub(super) row: usize,
    /// Rows of the block.
    pub(super) n_rows: usize,
}

dispatch! {
    /// Normalises a row, rounds it if the format asks for it, and writes it to its place in the block `words`.
    pub(super) fn pack_row(x: &[f32], norm: Option<RmsNorm<'_>>, place: Place, words: &mut [u32]) {
        let scale = norm.map_or(1.0, |norm| rms_scale(x, norm.eps));
        let mut start = 0;
        for x in x.chunks(PIECE) {
            let mut piece = [0.0; PIECE];
            piece[..x.len()].copy_from_slice(x);
            if let Some(norm) = norm {
                for (piece, weight) in piece.iter_mut().zip(&norm.weight[start..start + x.len()]) {
                    *piece = *piece * scale * weight;
                }
            }
            if place.format == Format::Bf16Dot {
                // Loops instead of `array::from_fn`, whose closure is not always inlined and then loses the instruction set.
                let mut bits = [0; PIECE];
                for (bits, x) in bits.iter_mut().zip(piece) {
                    *bits = bf16_bits(x);
                }
                let mut pairs = [0; PIECE / 2];
                for (pair, [low, high]) in pairs.iter_mut().zip(bits.as_chunks().0) {
                    *pair = low | high << 16;
                }
                spread(&pairs[..x.len().div_ceil(2)], &mut words[start / 2 * place.n_rows..], place);
            } else {
                let padded_len = x.len().next_multiple_of(place.format.inputs_per_step());
                spread(&piece.map(f32::to_bits)[..padded_len], &mut words[start * place.n_rows..], place);
            }
            start += PIECE;
        }
    }
}

/// Writes `words[i]` as word `i` of a row.
#[inline(always)]
fn spread(words: &[u32], block: &mut [u32], place: Place) {
    if place.n_rows == 1 {
        block[..words.len()].copy_from_slice(words);
        return;
    }
    for (step, word) in block.chunks_exact_mut(place.n_rows).zip(words) {
        step[place.row] = *word;
    }
}
