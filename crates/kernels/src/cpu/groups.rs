//! Weights in groups of 32 inputs: whole numbers with a scale, and where the format has one a minimum.
//!
//! A step is one group of each of 32 columns: codes of columns `0..16`, codes of the others, then scales `[parts][32]`, then minima
//! `[parts][32]`, where a format with a scale per 16 inputs has two parts and the others one. Codes lie four inputs of a column
//! beside each other, 8 columns to a 32-byte vector, in 8 *quads*; see [`Layout`] for what is stored of a code, and [`Scales`] for
//! what is stored of a scale. Every value of a file is kept exactly.
//!
//! Activations are rounded to whole numbers per row and group: `scale = max |x| / 127`. A product is then
//! `scale_x * (scale_w * (sum(code * x) - offset * sum(x)) + min_w * sum(x))`, in which the sums are exact.

mod panel;

use dsde_checkpoint::{Dtype, Group, IQ4_VALUES, MXFP4_VALUES};

use super::tile::{COLUMNS, LANES};

/// Inputs that lie beside each other.
pub(super) const QUAD: usize = 4;
/// Quads of a group.
pub(super) const QUADS: usize = Group::LEN / QUAD;
/// Words of a group of activations in bytes: quads, scale, excess, excess of the first half, scaled sum.
pub(super) const BYTES_WORDS: usize = QUADS + 4;
/// Word of the scale.
pub(super) const SCALE: usize = QUADS;
/// Word of the excess: what [`EXCESS_OFFSET`] takes away from a product, `-EXCESS_OFFSET * sum(x)`.
pub(super) const EXCESS: usize = QUADS + 1;
/// Word of the excess of the first half.
pub(super) const EXCESS_OF_FIRST: usize = QUADS + 2;
/// Word of `scale_x * sum(x)`.
pub(super) const SCALED_SUM: usize = QUADS + 3;
/// The largest offset of codes; others are a power of two smaller.
pub(super) const EXCESS_OFFSET: i32 = 128;
/// Words of a group of activations in 16 bits: inputs 0 and 2, then 1 and 3 of every quad; scale.
pub(super) const SHORTS_WORDS: usize = 2 * QUADS + 1;
/// Bytes of one bit of all codes of 16 columns.
const PLANE_BYTES: usize = LANES * Group::LEN / 8;
/// Largest magnitude of a rounded activation.
pub(super) const CODE_MAX: f32 = 127.0;

/// What is stored of a group's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Bytes with a sign.
    I8,
    /// Places of 4 bits in a table of bytes with a sign.
    Iq4,
    /// As [`Layout::Iq4`], with shared units.
    Iq4Shared,
    /// As [`Layout::Iq4`], with another table.
    Mxfp4,
    /// 4 bits, of which 8 are subtracted.
    U4,
    /// 4 bits; with minima.
    U4Min,
    /// As [`Layout::U4Min`], with shared units.
    U4MinShared,
    /// 4 bits, of which 8 are subtracted; a scale per 16 inputs.
    U4Per16,
    /// 4 bits; a scale and a minimum per 16 inputs.
    U4MinPer16,
    /// 5 bits, of which 16 are subtracted.
    U5,
    /// 5 bits; with minima.
    U5Min,
    /// As [`Layout::U5Min`], with shared units.
    U5MinShared,
    /// 6 bits, of which 32 are subtracted; a scale per 16 inputs.
    U6Per16,
    /// Bytes, of which 128 are subtracted. This and the following are what others are unpacked to, see [`Grouped::Unpacked`].
    U8,
    /// Bytes; with minima.
    U8Min,
    /// Bytes, of which 128 are subtracted; a scale per 16 inputs.
    U8Per16,
    /// Bytes; a scale and a minimum per 16 inputs.
    U8MinPer16,
}

/// How scales and minima are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// In single precision.
    F32,
    /// In half precision.
    F16,
    /// As whole numbers of 8 bits. Their units, in half precision, are shared by a *run* of 8 steps and lie before it, `[kinds][32]`.
    Shared,
}

/// Steps of a run that shares its units.
const RUN_STEPS: usize = 8;

impl Scales {
    /// Bytes of a number.
    const fn size(self) -> usize {
        match self {
            Scales::F32 => 4,
            Scales::F16 => 2,
            Scales::Shared => 1,
        }
    }
}

impl Layout {
    /// The layout that holds every value of a quantised type.
    pub(super) fn of(dtype: Dtype) -> Layout {
        match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => unreachable!("{} has no groups", dtype.name()),
            Dtype::Q8_0 => Layout::I8,
            Dtype::Iq4Nl => Layout::Iq4,
            Dtype::Iq4Xs => Layout::Iq4Shared,
            Dtype::Mxfp4 => Layout::Mxfp4,
            Dtype::Q4_0 => Layout::U4,
            Dtype::Q4_1 => Layout::U4Min,
            Dtype::Q4K => Layout::U4MinShared,
            Dtype::Q3K => Layout::U4Per16,
            Dtype::Q2K => Layout::U4MinPer16,
            Dtype::Q5_0 => Layout::U5,
            Dtype::Q5_1 => Layout::U5Min,
            Dtype::Q5K => Layout::U5MinShared,
            Dtype::Q6K => Layout::U6Per16,
        }
    }

    /// Bits of a code.
    pub(super) const fn bits(self) -> usize {
        match self {
            Layout::I8 | Layout::U8 | Layout::U8Min | Layout::U8Per16 | Layout::U8MinPer16 => 8,
            Layout::U6Per16 => 6,
            Layout::U5 | Layout::U5Min | Layout::U5MinShared => 5,
            _ => 4,
        }
    }

    /// Scales of a group.
    pub(super) const fn parts(self) -> usize {
        match self {
            Layout::U4Per16 | Layout::U4MinPer16 | Layout::U6Per16 | Layout::U8Per16 | Layout::U8MinPer16 => {
                2
            }
            _ => 1,
        }
    }

    /// Whether there is a minimum beside every scale.
    pub(super) const fn has_min(self) -> bool {
        matches!(
            self,
            Layout::U4Min
                | Layout::U4MinShared
                | Layout::U4MinPer16
                | Layout::U5Min
                | Layout::U5MinShared
                | Layout::U8Min
                | Layout::U8MinPer16
        )
    }

    /// How scales and minima are stored.
    pub(super) const fn scales(self) -> Scales {
        match self {
            Layout::Mxfp4 | Layout::U8 | Layout::U8Min | Layout::U8Per16 | Layout::U8MinPer16 => Scales::F32,
            Layout::I8 | Layout::Iq4 | Layout::U4 | Layout::U4Min | Layout::U5 | Layout::U5Min => Scales::F16,
            Layout::Iq4Shared
            | Layout::U4MinShared
            | Layout::U4Per16
            | Layout::U4MinPer16
            | Layout::U5MinShared
            | Layout::U6Per16 => Scales::Shared,
        }
    }

    /// What a code is stored too large by.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Layout::U4 | Layout::U4Per16 => 8,
            Layout::U5 => 16,
            Layout::U6Per16 => 32,
            Layout::U8 | Layout::U8Per16 => EXCESS_OFFSET,
            _ => 0,
        }
    }

    /// Whether codes have a sign once they are read.
    pub(super) const fn is_signed(self) -> bool {
        matches!(self, Layout::I8) || self.table().is_some()
    }

    /// Words of a group of activations beside it.
    pub(super) const fn words(self) -> usize {
        if self.is_signed() { SHORTS_WORDS } else { BYTES_WORDS }
    }

    /// Which of these words is the scale.
    pub(super) const fn scale_word(self) -> usize {
        if self.is_signed() { 2 * QUADS } else { SCALE }
    }

    /// Values that codes are places of.
    pub(super) const fn table(self) -> Option<&'static [i8; 16]> {
        match self {
            Layout::Iq4 | Layout::Iq4Shared => Some(&IQ4_VALUES),
            Layout::Mxfp4 => Some(&MXFP4_VALUES),
            _ => None,
        }
    }

    /// Bytes of the codes of 16 columns.
    pub(super) const fn code_bytes(self) -> usize {
        self.bits() * PLANE_BYTES
    }

    /// Where the codes of the vector that begins with a column lie in their step.
    #[inline(always)]
    pub(super) const fn codes_at(self, column: usize) -> usize {
        column / LANES * self.code_bytes() + column % LANES * QUAD
    }

    /// Scale, and minimum where there is one.
    const fn kinds(self) -> usize {
        if self.has_min() { 2 } else { 1 }
    }

    /// Bytes of a step.
    const fn step_bytes(self) -> usize {
        2 * self.code_bytes() + self.kinds() * self.parts() * COLUMNS * self.scales().size()
    }

    /// Bytes of the units of a run of steps.
    const fn units_bytes(self) -> usize {
        match self.scales() {
            Scales::F32 | Scales::F16 => 0,
            Scales::Shared => self.kinds() * COLUMNS * size_of::<u16>(),
        }
    }

    /// Bytes of `n_steps` steps, which are whole runs where runs share their units.
    pub(super) const fn panel_bytes(self, n_steps: usize) -> usize {
        n_steps * self.step_bytes() + n_steps.div_ceil(RUN_STEPS) * self.units_bytes()
    }

    /// Where a step lies in its panel.
    #[inline(always)]
    pub(super) const fn step_at(self, step: usize) -> usize {
        step * self.step_bytes() + (step / RUN_STEPS + 1) * self.units_bytes()
    }

    /// Where the unit of a scale (`kind` 0) or minimum (1) of a column lies in the panel of its step.
    #[inline(always)]
    pub(super) const fn unit_at(self, step: usize, kind: usize, column: usize) -> usize {
        self.step_at(step / RUN_STEPS * RUN_STEPS) - self.units_bytes() + unit_in_run(kind, column)
    }

    /// Where scale (`kind` 0) or minimum (1) `part` of a column lies in its step.
    #[inline(always)]
    pub(super) const fn scale_at(self, kind: usize, part: usize, column: usize) -> usize {
        2 * self.code_bytes() + ((kind * self.parts() + part) * COLUMNS + column) * self.scales().size()
    }
}

/// Where the unit of a scale (`kind` 0) or minimum (1) of a column lies among those of its run.
#[inline(always)]
pub(super) const fn unit_in_run(kind: usize, column: usize) -> usize {
    (kind * COLUMNS + column) * size_of::<u16>()
}

/// A layout as a type, for loops compiled once per layout.
pub(super) trait Grouped {
    /// The layout.
    const LAYOUT: Layout;
    /// The same numbers as bytes without a sign and single precision, for products with many rows: strips of them then share what
    /// taking codes out of their bits and making scales costs.
    type Unpacked: Grouped;
}

macro_rules! layout_types {
    ($($name:ident -> $unpacked:ident)*) => {
        $(
            pub(super) struct $name;

            impl Grouped for $name {
                const LAYOUT: Layout = Layout::$name;
                type Unpacked = $unpacked;
            }
        )*
    };
}

layout_types! {
    I8 -> U8
    Iq4 -> U8
    Iq4Shared -> U8
    Mxfp4 -> U8
    U4 -> U8
    U4Min -> U8Min
    U4MinShared -> U8Min
    U4Per16 -> U8Per16
    U4MinPer16 -> U8MinPer16
    U5 -> U8
    U5Min -> U8Min
    U5MinShared -> U8Min
    U6Per16 -> U8Per16
    U8 -> U8
    U8Min -> U8Min
    U8Per16 -> U8Per16
    U8MinPer16 -> U8MinPer16
}

/// `$value` with `$L` the type of the layout at hand, which is one of packed weights.
macro_rules! by_layout {
    ($layout:expr, $L:ident => $value:expr) => {
        by_layout!(@ $layout, $L => $value,
            I8 Iq4 Iq4Shared Mxfp4 U4 U4Min U4MinShared U4Per16 U4MinPer16 U5 U5Min U5MinShared U6Per16)
    };
    (@ $layout:expr, $L:ident => $value:expr, $($name:ident)*) => {
        match $layout {
            $($crate::cpu::groups::Layout::$name => {
                type $L = $crate::cpu::groups::$name;
                $value
            })*
            layout => unreachable!("{layout:?} has no such functions"),
        }
    };
}

pub(super) use by_layout;
