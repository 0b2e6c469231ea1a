//! Blocks of 256, whose scales are themselves whole numbers with a scale.

use super::search::{Affine, affine, symmetric_scale};
use super::{code, put_f16};
use crate::stored::Group;

/// Scales and minima with 6 bits.
const SIX_BITS: i32 = 63;
/// Groups of a block that share a scale and a minimum.
const N_GROUPS: usize = 8;
/// Elements that share a scale of Q6_K.
const SIXTEEN: usize = 16;

/// Bytes: scale of the scales, scale of the minima, 12 of these, 128 of codes.
pub(super) fn q4_k(values: &[f32], block: &mut [u8]) {
    let codes = affine_codes(values, 15, block);
    put_half_bytes(&mut block[16..], &codes);
}

/// Bytes: as [`q4_k`] up to the codes, then 32 of fifth bits, 128 of codes.
pub(super) fn q5_k(values: &[f32], block: &mut [u8]) {
    let codes = affine_codes(values, 31, block);
    for (index, codes) in codes.iter().enumerate() {
        for (i, code) in codes.iter().enumerate() {
            block[16 + i] |= (code >> 4) << index;
        }
    }
    put_half_bytes(&mut block[48..], &codes);
}

/// Codes from 0 to `most`; scales and minima go to the first 16 bytes of the block.
fn affine_codes(values: &[f32], most: i32, block: &mut [u8]) -> [[u8; Group::LEN]; N_GROUPS] {
    let (groups, _) = values.as_chunks::<{ Group::LEN }>();
    let found: [Affine; N_GROUPS] = std::array::from_fn(|index| affine(&groups[index], most));
    let largest = |part: fn(&Affine) -> f32| found.iter().map(part).fold(0.0, f32::max);
    let scale_of_scales = put_f16(block, 0, largest(|found| found.scale) / SIX_BITS as f32);
    let scale_of_mins = put_f16(block, 2, largest(|found| found.min) / SIX_BITS as f32);
    std::array::from_fn(|index| {
        let scale = code(found[index].scale, scale_of_scales, 0, SIX_BITS) as u8;
        let min = code(found[index].min, scale_of_mins, 0, SIX_BITS) as u8;
        put_six_bits(&mut block[4..16], index, scale, min);
        let (scale, min) = (scale_of_scales * f32::from(scale), scale_of_mins * f32::from(min));
        groups[index].map(|x| code(x + min, scale, 0, most) as u8)
    })
}

/// Scale and minimum of group `index` into 12 bytes.
fn put_six_bits(packed: &mut [u8], index: usize, scale: u8, min: u8) {
    if index < 4 {
        packed[index] |= scale;
        packed[index + 4] |= min;
    } else {
        packed[index + 4] |= scale & 15 | min << 4;
        packed[index - 4] |= scale >> 4 << 6;
        packed[index] |= min >> 4 << 6;
    }
}

/// Low 4 bits of 64 elements in 32 bytes, low halves first.
fn put_half_bytes(bytes: &mut [u8], codes: &[[u8; Group::LEN]; N_GROUPS]) {
    for (bytes, codes) in bytes.chunks_exact_mut(Group::LEN).zip(codes.as_chunks::<2>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[0][i] & 15 | codes[1][i] << 4;
        }
    }
}

/// Bytes: 128 of low 4 bits, 64 of high 2 bits, 16 scales, scale of the scales.
pub(super) fn q6_k(values: &[f32], block: &mut [u8]) {
    let (sixteens, _) = values.as_chunks::<SIXTEEN>();
    let scales: [f32; 2 * N_GROUPS] = std::array::from_fn(|i| symmetric_scale(&sixteens[i], 32));
    let extreme =
        scales.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    let scale_of_scales = put_f16(block, 208, extreme / -128.0);
    for (i, values) in sixteens.iter().enumerate() {
        let scale = code(scales[i], scale_of_scales, -128, 127);
        block[192 + i] = (scale as i8).cast_unsigned();
        let (index, first) = (i / 2, i % 2 * SIXTEEN);
        let (part, quarter) = (index / 4, index % 4);
        for (j, &x) in values.iter().enumerate() {
            let code = (code(x, scale_of_scales * scale as f32, -32, 31) + 32) as u8;
            let at = first + j;
            block[part * 64 + quarter % 2 * 32 + at] |= (code & 15) << (quarter / 2 * 4);
            block[128 + part * 32 + at] |= (code >> 4) << (quarter * 2);
        }
    }
}
