//! Activations in the order in which a tile broadcasts them.

use dsde_checkpoint::Group;

use super::super::RmsNorm;
use super::groups::{BYTES_WORDS, CODE_MAX, QUAD, QUADS, SHORTS_WORDS};
use super::isa::dispatch;
use super::math::rms_scale;
use super::weights::{Activations, bf16_bits};

/// Inputs converted at a time, before they are spread over the block.
const PIECE: usize = 64;
/// Adding and taking away 1.5 * 2^23 rounds a smaller number to the nearest whole one, ties to even.
const TO_WHOLE: f32 = 12_582_912.0;

/// Where a row goes in a packed block of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// How the block is stored.
    pub(super) activations: Activations,
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
            match place.activations {
                Activations::Bf16Pairs => {
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
                }
                Activations::F32 => {
                    let padded_len = x.len().next_multiple_of(2);
                    spread(&piece.map(f32::to_bits)[..padded_len], &mut words[start * place.n_rows..], place);
                }
                Activations::Bytes => {
                    let n_groups = x.len().div_ceil(Group::LEN);
                    for (i, group) in piece.as_chunks().0.iter().take(n_groups).enumerate() {
                        let at = (start / Group::LEN + i) * BYTES_WORDS * place.n_rows;
                        spread(&bytes(&rounded(group)), &mut words[at..], place);
                    }
                }
                Activations::Shorts => {
                    let n_groups = x.len().div_ceil(Group::LEN);
                    for (i, group) in piece.as_chunks().0.iter().take(n_groups).enumerate() {
                        let at = (start / Group::LEN + i) * SHORTS_WORDS * place.n_rows;
                        spread(&shorts(&rounded(group)), &mut words[at..], place);
                    }
                }
            }
            start += PIECE;
        }
    }
}

/// A group as whole numbers.
struct Rounded {
    codes: [i32; Group::LEN],
    scale: f32,
}

#[inline(always)]
fn rounded(group: &[f32; Group::LEN]) -> Rounded {
    // Lanes beside each other, halved until one is left: a maximum does not depend on order.
    let mut maxima = [0.0; Group::LEN];
    for (max, x) in maxima.iter_mut().zip(group) {
        *max = if x.abs() > 0.0 { x.abs() } else { 0.0 };
    }
    let mut n_left = Group::LEN;
    while n_left > 1 {
        n_left /= 2;
        let (left, others) = maxima.split_at_mut(n_left);
        for (max, x) in left.iter_mut().zip(&others[..n_left]) {
            *max = if *x > *max { *x } else { *max };
        }
    }
    let max = maxima[0];
    let inverse = if max > 0.0 { CODE_MAX / max } else { 0.0 };
    let mut codes = [0; Group::LEN];
    for (code, x) in codes.iter_mut().zip(group) {
        // The low bits of the sum are the whole number; what is not a number becomes any one.
        *code = (x * inverse + TO_WHOLE).to_bits().wrapping_sub(TO_WHOLE.to_bits()).cast_signed();
    }
    Rounded { codes, scale: max / CODE_MAX }
}

/// Words of [`Activations::Bytes`].
#[inline(always)]
fn bytes(group: &Rounded) -> [u32; BYTES_WORDS] {
    let mut bytes = [0; Group::LEN];
    for (byte, code) in bytes.iter_mut().zip(&group.codes) {
        *byte = *code as u8;
    }
    let mut words = [0; BYTES_WORDS];
    for (word, quad) in words.iter_mut().zip(bytes.as_chunks::<QUAD>().0) {
        *word = u32::from_le_bytes(*quad);
    }
    words[QUADS] = group.scale.to_bits();
    let mut sums = [0_i32; 2];
    for (sum, codes) in sums.iter_mut().zip(group.codes.as_chunks::<{ Group::LEN / 2 }>().0) {
        for code in codes {
            *sum = sum.wrapping_add(*code);
        }
    }
    words[QUADS + 1] = sums[0].cast_unsigned();
    words[QUADS + 2] = sums[1].cast_unsigned();
    words
}

/// Words of [`Activations::Shorts`].
#[inline(always)]
fn shorts(group: &Rounded) -> [u32; SHORTS_WORDS] {
    let mut words = [0; SHORTS_WORDS];
    for (pair, quad) in words.as_chunks_mut::<2>().0.iter_mut().zip(group.codes.as_chunks::<QUAD>().0) {
        pair[0] = quad[0].cast_unsigned() & 0xffff | quad[2].cast_unsigned() << 16;
        pair[1] = quad[1].cast_unsigned() & 0xffff | quad[3].cast_unsigned() << 16;
    }
    words[2 * QUADS] = group.scale.to_bits();
    words
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
