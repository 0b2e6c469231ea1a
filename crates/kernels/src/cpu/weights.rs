//! Packed element formats and how activations stand beside them.

use dsde_checkpoint::{Dtype, Group};

use super::groups::{self, Layout};
use super::isa::Isa;

/// Pairs of a row of [`Activations::Bf16Pairs`] that stand beside each other: what one vector of 16 numbers becomes, and what the slots
/// of a page need.
pub(super) const BF16_RUN: usize = 8;

/// How a tile's weights and activations are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Pairs of bf16 inputs per column; activations are rounded to pairs of bf16 for the dot-product instruction.
    Bf16Dot,
    /// Pairs of bf16 inputs per column; weights are widened and activations stay `f32`.
    Bf16Wide,
    /// One f16 input per column, widened; activations `f32`.
    F16,
    /// One `f32` input per column; activations `f32`.
    F32,
    /// One whole number of 8 bits per column, widened; activations `f32`.
    Int8,
    /// Groups of 32 inputs per column, as whole numbers; activations are rounded to whole numbers, too.
    Grouped(Layout),
    /// The same, for the instruction that multiplies bytes and adds four products.
    GroupedDot(Layout),
}

/// How activations are stored for one or several formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activations {
    /// Pairs of bf16, [`BF16_RUN`] of a row beside each other.
    Bf16Pairs,
    /// Single precision.
    F32,
    /// Groups of 32 whole numbers as bytes and what belongs to them (see [`groups::BYTES_WORDS`]), word by word of all rows.
    Bytes,
    /// The same, row by row.
    BytesByRow,
    /// Groups of 32 whole numbers as 16 bits, and their scale, word by word of all rows.
    Shorts,
}

impl Format {
    /// The format in which `isa` multiplies with weights of `dtype`.
    pub(super) fn of(dtype: Dtype, isa: Isa) -> Format {
        match dtype {
            Dtype::Bf16 if isa == Isa::Avx512Bf16 => Format::Bf16Dot,
            Dtype::Bf16 => Format::Bf16Wide,
            Dtype::F16 => Format::F16,
            Dtype::F32 => Format::F32,
            _ if isa.has_byte_dot() => Format::GroupedDot(Layout::of(dtype)),
            _ => Format::Grouped(Layout::of(dtype)),
        }
    }

    /// How activations stand beside the weights.
    pub(super) fn activations(self) -> Activations {
        match self {
            Format::Bf16Dot => Activations::Bf16Pairs,
            Format::Bf16Wide | Format::F16 | Format::F32 | Format::Int8 => Activations::F32,
            Format::Grouped(layout) if layout.is_signed() => Activations::Shorts,
            Format::Grouped(_) => Activations::Bytes,
            Format::GroupedDot(_) => Activations::BytesByRow,
        }
    }

    /// Inputs consumed per step.
    pub(super) fn inputs_per_step(self) -> usize {
        match self {
            Format::Bf16Dot | Format::Bf16Wide => 2,
            Format::F16 | Format::F32 | Format::Int8 => 1,
            Format::Grouped(_) | Format::GroupedDot(_) => Group::LEN,
        }
    }

    /// Steps that cover `n_in` inputs, in whole runs.
    pub(super) fn steps(self, n_in: usize) -> usize {
        let run = if self == Format::Bf16Dot { BF16_RUN } else { 1 };
        n_in.div_ceil(self.inputs_per_step()).next_multiple_of(run)
    }

    /// Bytes of the weights of 16 columns in one step of a format without groups, or from where those of the other 16 begin in one
    /// with.
    pub(super) fn half_step_bytes(self) -> usize {
        match self {
            Format::Int8 => 16,
            Format::F16 => 32,
            Format::Bf16Dot | Format::Bf16Wide | Format::F32 => 64,
            Format::Grouped(layout) | Format::GroupedDot(layout) => layout.code_bytes(),
        }
    }

    /// Bytes of the weights of 32 columns and `n_in` inputs.
    pub(super) fn panel_bytes(self, n_in: usize) -> usize {
        let n_steps = self.steps(n_in);
        match self {
            Format::Grouped(layout) | Format::GroupedDot(layout) => layout.panel_bytes(n_steps),
            _ => n_steps * 2 * self.half_step_bytes(),
        }
    }
}

impl Activations {
    /// 32-bit words of a row of `n_in` activations.
    pub(super) fn words_per_row(self, n_in: usize) -> usize {
        match self {
            Activations::Bf16Pairs => n_in.div_ceil(2).next_multiple_of(BF16_RUN),
            Activations::F32 => n_in.next_multiple_of(2),
            Activations::Bytes | Activations::BytesByRow => n_in.div_ceil(Group::LEN) * groups::BYTES_WORDS,
            Activations::Shorts => n_in.div_ceil(Group::LEN) * groups::SHORTS_WORDS,
        }
    }
}

/// Rounds to the nearest bf16, ties to even, as its 16 bits; a NaN stays one.
///
/// Integer arithmetic that compilers turn into vector code.
#[inline(always)]
pub fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet_nan = bits >> 16 | 0x40;
    if x.is_nan() { quiet_nan } else { rounded }
}

/// The value of a bf16's bits.
#[inline(always)]
pub fn bf16_value(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// The value of an f16's bits, in arithmetic that compilers turn into vector code.
#[inline(always)]
pub fn f16_value(bits: u16) -> f32 {
    /// 2^112: the exponent bias of f32, 127, less that of f16, 15. Scaling by it also normalises subnormal numbers.
    const REBIAS: f32 = f32::from_bits((112 + 127) << 23);
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let is_finite = bits & 0x7c00 != 0x7c00;
    f32::from_bits(sign | if is_finite { finite } else { magnitude | 0x7f80_0000 })
}
