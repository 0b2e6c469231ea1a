//! The block formats of GGUF files, taken apart into [`Group`]s; `encode` puts them together.
//!
//! Layouts are those of ggml's block structures; every value is what its reference dequantisation computes, bit for bit, since
//! the scales of all formats are exact in single precision and the formula rounds in the same places.

mod encode;

use crate::stored::{Dtype, Group};
pub use encode::Misfit;
pub(crate) use encode::narrow;

/// Values of the 16 codes of IQ4_NL and IQ4_XS.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of the 16 codes of MXFP4; what stands in for minus zero is zero.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// See [`Dtype::group`].
pub(crate) fn group(dtype: Dtype, row: &[u8], index: usize) -> Group {
    let groups_per_block = dtype.block_len() / Group::LEN;
    let block_bytes = dtype.block_bytes();
    let (block_idx, index) = (index / groups_per_block, index % groups_per_block);
    let block = &row[block_idx * block_bytes..][..block_bytes];
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => unreachable!("{} has no groups", dtype.name()),
        Dtype::Q8_0 => scaled(std::array::from_fn(|i| block[2 + i].cast_signed()), f16(block, 0)),
        Dtype::Q4_0 => scaled(nibbles(&block[2..18]).map(|code| code.cast_signed() - 8), f16(block, 0)),
        Dtype::Q4_1 => affine(nibbles(&block[4..20]), f16(block, 0), f16(block, 2)),
        Dtype::Q5_0 => {
            let codes = with_fifth_bits(nibbles(&block[6..22]), &block[2..6]);
            scaled(codes.map(|code| code.cast_signed() - 16), f16(block, 0))
        }
        Dtype::Q5_1 => {
            affine(with_fifth_bits(nibbles(&block[8..24]), &block[4..8]), f16(block, 0), f16(block, 2))
        }
        Dtype::Q2K => q2_k(block, index),
        Dtype::Q3K => q3_k(block, index),
        Dtype::Q4K => q4_k(block, index),
        Dtype::Q5K => q5_k(block, index),
        Dtype::Q6K => q6_k(block, index),
        Dtype::Iq4Nl => {
            scaled(nibbles(&block[2..18]).map(|code| IQ4_VALUES[usize::from(code)]), f16(block, 0))
        }
        Dtype::Iq4Xs => iq4_xs(block, index),
        Dtype::Mxfp4 => {
            let codes = nibbles(&block[1..17]).map(|code| MXFP4_VALUES[usize::from(code)]);
            scaled(codes, half_power_of_two(block[0]))
        }
    }
}

/// Values without a minimum. Not even `-0.0` is changed by adding minus zero.
fn scaled(codes: [i8; Group::LEN], scale: f32) -> Group {
    Group { codes, units: [scale, -0.0], scales: [1; 2], mins: [1; 2] }
}

fn affine(codes: [u8; Group::LEN], scale: f32, min: f32) -> Group {
    Group { codes: codes.map(u8::cast_signed), units: [scale, min], scales: [1; 2], mins: [1; 2] }
}

fn f16(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low halves of 16 bytes, then their high halves.
fn nibbles(bytes: &[u8]) -> [u8; Group::LEN] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Bit `i` of four bytes is the fifth of code `i`.
fn with_fifth_bits(codes: [u8; Group::LEN], bits: &[u8]) -> [u8; Group::LEN] {
    std::array::from_fn(|i| codes[i] | (bits[i / 8] >> (i % 8) & 1) << 4)
}

/// 128 elements of 2 bits lie in 32 bytes, every 32 at another height.
fn pairs_of_bits(bytes: &[u8], index: usize) -> [u8; Group::LEN] {
    std::array::from_fn(|i| bytes[index / 4 * 32 + i] >> (index % 4 * 2) & 3)
}

/// Bytes: 16 pairs of scale and minimum, 64 of codes, scale of the scales, scale of the minima.
fn q2_k(block: &[u8], index: usize) -> Group {
    let (scale, min) = (f16(block, 80), f16(block, 82));
    let pairs = [block[2 * index], block[2 * index + 1]];
    Group {
        codes: pairs_of_bits(&block[16..80], index).map(u8::cast_signed),
        units: [scale, -min],
        scales: pairs.map(|pair| (pair & 15).cast_signed()),
        mins: pairs.map(|pair| (pair >> 4).cast_signed()),
    }
}

/// Bytes: 32 of third bits, 64 of codes, 12 of scales, scale of the scales.
fn q3_k(block: &[u8], index: usize) -> Group {
    let low = pairs_of_bits(&block[32..96], index);
    let scale_of = |i: usize| {
        let packed = &block[96..108];
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    };
    Group {
        codes: std::array::from_fn(|i| {
            let has_third_bit = block[i] >> index & 1 == 1;
            low[i].cast_signed() - if has_third_bit { 0 } else { 4 }
        }),
        units: [f16(block, 108), -0.0],
        scales: [scale_of(2 * index), scale_of(2 * index + 1)],
        mins: [1; 2],
    }
}

/// Scale and minimum of group `index`, 6 bits each, from 12 bytes.
fn six_bits(packed: &[u8], index: usize) -> [i8; 2] {
    let (scale, min) = if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let shared = packed[index + 4];
        (shared & 15 | packed[index - 4] >> 6 << 4, shared >> 4 | packed[index] >> 6 << 4)
    };
    [scale, min].map(u8::cast_signed)
}

/// 64 elements of 4 bits lie in 32 bytes, low halves first.
fn half_bytes(bytes: &[u8], index: usize) -> [u8; Group::LEN] {
    std::array::from_fn(|i| bytes[index / 2 * 32 + i] >> (index % 2 * 4) & 15)
}

/// Codes of a block that begins with the scale of its scales, that of its minima, and 12 bytes of both.
fn shared(codes: [u8; Group::LEN], block: &[u8], index: usize) -> Group {
    let [scale, min] = six_bits(&block[4..16], index);
    let units = [f16(block, 0), -f16(block, 2)];
    Group { codes: codes.map(u8::cast_signed), units, scales: [scale; 2], mins: [min; 2] }
}

/// Bytes: scale of the scales, scale of the minima, 12 of these, 128 of codes.
fn q4_k(block: &[u8], index: usize) -> Group {
    shared(half_bytes(&block[16..144], index), block, index)
}

/// Bytes: as [`q4_k`] up to the codes, then 32 of fifth bits, 128 of codes.
fn q5_k(block: &[u8], index: usize) -> Group {
    let low = half_bytes(&block[48..176], index);
    let codes = std::array::from_fn(|i| low[i] | (block[16 + i] >> index & 1) << 4);
    shared(codes, block, index)
}

/// Bytes: 128 of low 4 bits, 64 of high 2 bits, 16 scales, scale of the scales.
fn q6_k(block: &[u8], index: usize) -> Group {
    let (part, quarter) = (index / 4, index % 4);
    let code = |i: usize| {
        let low = block[part * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
        let high = block[128 + part * 32 + i] >> (quarter * 2) & 3;
        (low | high << 4).cast_signed() - 32
    };
    let scale_of = |i: usize| block[192 + i].cast_signed();
    Group {
        codes: std::array::from_fn(code),
        units: [f16(block, 208), -0.0],
        scales: [scale_of(2 * index), scale_of(2 * index + 1)],
        mins: [1; 2],
    }
}

/// Bytes: scale of the scales, 2 of their high 2 bits, 4 of their low 4 bits, 128 of codes.
fn iq4_xs(block: &[u8], index: usize) -> Group {
    let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * index) & 3;
    let low = block[4 + index / 2] >> (index % 2 * 4) & 15;
    let scale = (low | (high as u8) << 4).cast_signed() - 32;
    let codes = nibbles(&block[8 + 16 * index..]).map(|code| IQ4_VALUES[usize::from(code)]);
    Group { scales: [scale; 2], ..scaled(codes, f16(block, 0)) }
}

/// Half of 2 to the power of `exponent - 127`, the scale of doubled values.
fn half_power_of_two(exponent: u8) -> f32 {
    match exponent {
        // Too small for a normal number.
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}
