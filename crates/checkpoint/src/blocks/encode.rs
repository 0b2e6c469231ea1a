//! The block formats of GGUF files, put together from values.
//!
//! A file that was written once is read many times, so scales are searched for (`search`) and not taken from the largest value
//! alone. Codes are chosen for the scale as it is stored, after its own rounding. The same values give the same bytes.

mod k_blocks;
mod search;

use crate::stored::{Dtype, Group};
use search::{rounded, symmetric_scale};

/// Largest element of a block, that of half precision, in which scales are stored.
const ELEMENT_MAX: f32 = 65504.0;

/// An element that a type cannot hold: no number, infinite or too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Misfit {
    /// Which element.
    pub idx: usize,
    /// Its value.
    pub value: f32,
}

/// See [`Dtype::narrow`].
pub(crate) fn narrow(dtype: Dtype, values: &[f32], out: &mut Vec<u8>) -> Result<(), Misfit> {
    let fits = |value: f32| match dtype {
        Dtype::F32 => value.is_finite(),
        Dtype::Bf16 => half::bf16::from_f32(value).is_finite(),
        Dtype::F16 => half::f16::from_f32(value).is_finite(),
        _ => value.abs() <= ELEMENT_MAX,
    };
    if let Some(idx) = values.iter().position(|&value| !fits(value)) {
        return Err(Misfit { idx, value: values[idx] });
    }
    match dtype {
        Dtype::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Dtype::F16 => out.extend(values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes())),
        Dtype::Bf16 => out.extend(values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())),
        _ => {
            let start = out.len();
            out.resize(start + dtype.row_bytes(values.len()), 0);
            let blocks = out[start..].chunks_exact_mut(dtype.block_bytes());
            for (values, block) in values.chunks_exact(dtype.block_len()).zip(blocks) {
                encode(dtype, values, block);
            }
        }
    }
    Ok(())
}

/// * `block`: zeros.
fn encode(dtype: Dtype, values: &[f32], block: &mut [u8]) {
    match dtype {
        Dtype::Q8_0 => q8_0(values, block),
        Dtype::Q4_0 => q4_0(values, block),
        Dtype::Q5_0 => q5_0(values, block),
        Dtype::Q4K => k_blocks::q4_k(values, block),
        Dtype::Q5K => k_blocks::q5_k(values, block),
        Dtype::Q6K => k_blocks::q6_k(values, block),
        _ => unreachable!("{} is not written", dtype.name()),
    }
}

/// Stores a number in half precision and returns what it has become.
fn put_f16(block: &mut [u8], at: usize, x: f32) -> f32 {
    let stored = half::f16::from_f32(x);
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// The whole number from `least` to `most` that is nearest to `x / scale`.
fn code(x: f32, scale: f32, least: i32, most: i32) -> i32 {
    match scale == 0.0 {
        true => 0_i32.clamp(least, most),
        // Within the range of what `rounded` rounds.
        false => rounded((x / scale).clamp(least as f32, most as f32)) as i32,
    }
}

fn q8_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = put_f16(block, 0, largest / 127.0);
    for (byte, &x) in block[2..].iter_mut().zip(values) {
        *byte = (code(x, scale, -127, 127) as i8).cast_unsigned();
    }
}

fn q4_0(values: &[f32], block: &mut [u8]) {
    let scale = put_f16(block, 0, symmetric_scale(values, 8));
    let codes = shifted_codes(values, scale, 8);
    put_nibbles(&mut block[2..18], &codes);
}

/// Bytes: scale, fifth bits, low 4 bits.
fn q5_0(values: &[f32], block: &mut [u8]) {
    let scale = put_f16(block, 0, symmetric_scale(values, 16));
    let codes = shifted_codes(values, scale, 16);
    for (i, code) in codes.into_iter().enumerate() {
        block[2 + i / 8] |= (code >> 4) << (i % 8);
    }
    put_nibbles(&mut block[6..22], &codes);
}

/// Codes from `-middle` to `middle - 1`, and `middle` added.
fn shifted_codes(values: &[f32], scale: f32, middle: i32) -> [u8; Group::LEN] {
    std::array::from_fn(|i| (code(values[i], scale, -middle, middle - 1) + middle) as u8)
}

/// Low 4 bits of 16 codes in the low halves of bytes, those of the other 16 in the high halves.
fn put_nibbles(bytes: &mut [u8], codes: &[u8; Group::LEN]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = codes[i] & 15 | codes[i + 16] << 4;
    }
}
