//! Weights in groups of 32 inputs: whole numbers with a scale, and where the format has one a minimum.
//!
//! A step of 16 columns is one group of each: codes, then scales `[parts][16]`, then minima `[parts][16]`, where a format with a
//! scale per 16 inputs has two parts and the others one. Codes lie four inputs of a column beside each other, 8 columns to
//! a 32-byte vector, in 8 *quads*; see [`Layout`] for what is stored of a code. Every value of a file is kept exactly.
//!
//! Activations are rounded to whole numbers per row and group: `scale = max |x| / 127`. A product is then
//! `scale_x * (scale_w * (sum(code * x) - offset * sum(x)) + min_w * sum(x))`, in which the sums are exact.

use dsde_checkpoint::{Dtype, Group, IQ4_VALUES, MXFP4_VALUES};

use super::tile::LANES;

/// Inputs that lie beside each other.
pub(super) const QUAD: usize = 4;
/// Quads of a group.
pub(super) const QUADS: usize = Group::LEN / QUAD;
/// Words of a group of activations in bytes: quads, scale, sums of either half.
pub(super) const BYTES_WORDS: usize = QUADS + 3;
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
    /// As [`Layout::Iq4`], with another table.
    Mxfp4,
    /// 4 bits, of which 8 are subtracted.
    U4,
    /// 4 bits; with minima.
    U4Min,
    /// 4 bits, of which 8 are subtracted; a scale per 16 inputs.
    U4Per16,
    /// 4 bits; a scale and a minimum per 16 inputs.
    U4MinPer16,
    /// 5 bits, of which 16 are subtracted.
    U5,
    /// 5 bits; with minima.
    U5Min,
    /// 6 bits, of which 32 are subtracted; a scale per 16 inputs.
    U6Per16,
}

impl Layout {
    /// The layout that holds every value of a quantised type.
    pub(super) fn of(dtype: Dtype) -> Layout {
        match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => unreachable!("{} has no groups", dtype.name()),
            Dtype::Q8_0 => Layout::I8,
            Dtype::Iq4Nl | Dtype::Iq4Xs => Layout::Iq4,
            Dtype::Mxfp4 => Layout::Mxfp4,
            Dtype::Q4_0 => Layout::U4,
            Dtype::Q4_1 | Dtype::Q4K => Layout::U4Min,
            Dtype::Q3K => Layout::U4Per16,
            Dtype::Q2K => Layout::U4MinPer16,
            Dtype::Q5_0 => Layout::U5,
            Dtype::Q5_1 | Dtype::Q5K => Layout::U5Min,
            Dtype::Q6K => Layout::U6Per16,
        }
    }

    /// Bits of a code.
    pub(super) const fn bits(self) -> usize {
        match self {
            Layout::I8 => 8,
            Layout::U6Per16 => 6,
            Layout::U5 | Layout::U5Min => 5,
            _ => 4,
        }
    }

    /// Scales of a group.
    pub(super) const fn parts(self) -> usize {
        match self {
            Layout::U4Per16 | Layout::U4MinPer16 | Layout::U6Per16 => 2,
            _ => 1,
        }
    }

    /// Whether there is a minimum beside every scale.
    pub(super) const fn has_min(self) -> bool {
        matches!(self, Layout::U4Min | Layout::U4MinPer16 | Layout::U5Min)
    }

    /// What a code is stored too large by.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Layout::U4 | Layout::U4Per16 => 8,
            Layout::U5 => 16,
            Layout::U6Per16 => 32,
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
        if self.is_signed() { 2 * QUADS } else { QUADS }
    }

    /// Values that codes are places of.
    pub(super) const fn table(self) -> Option<&'static [i8; 16]> {
        match self {
            Layout::Iq4 => Some(&IQ4_VALUES),
            Layout::Mxfp4 => Some(&MXFP4_VALUES),
            _ => None,
        }
    }

    /// Bytes of the codes of 16 columns.
    pub(super) const fn code_bytes(self) -> usize {
        self.bits() * PLANE_BYTES
    }

    /// Bytes of 16 columns.
    pub(super) const fn half_step_bytes(self) -> usize {
        let kinds = if self.has_min() { 2 } else { 1 };
        self.code_bytes() + kinds * self.parts() * LANES * size_of::<f32>()
    }

    /// Where scale `part` of a column lies among the bytes of its 16.
    pub(super) const fn scale_at(self, part: usize, column: usize) -> usize {
        self.code_bytes() + (part * LANES + column) * size_of::<f32>()
    }

    /// Where minimum `part` of a column lies among the bytes of its 16.
    pub(super) const fn min_at(self, part: usize, column: usize) -> usize {
        self.scale_at(self.parts() + part, column)
    }

    /// Writes the group of a column (below 16) into the bytes of a half step.
    pub(super) fn write(self, half: &mut [u8], column: usize, group: &Group) {
        // A loop, because a closure that is not inlined asks for the layout again at every code.
        let mut stored = [0; Group::LEN];
        for (stored, &code) in stored.iter_mut().zip(&group.codes) {
            *stored = self.stored(code);
        }
        let quads = stored.as_chunks::<QUAD>().0;
        let mut put_quad = |at: usize, quad: [u8; QUAD]| {
            let at = (at * LANES + column) * QUAD;
            half[at..at + QUAD].copy_from_slice(&quad);
        };
        if self == Layout::I8 {
            quads.iter().enumerate().for_each(|(at, quad)| put_quad(at, *quad));
        } else {
            for (at, [low, high]) in quads.as_chunks::<2>().0.iter().enumerate() {
                put_quad(at, std::array::from_fn(|i| low[i] & 15 | high[i] << 4));
            }
            // What is left of a code, as many bits of each quad as there are.
            let n_bits = self.bits() - 4;
            let quads_per_plane = 8 / n_bits.max(1);
            for plane in 0..n_bits {
                let quads = &quads[plane * quads_per_plane..(plane + 1) * quads_per_plane];
                let merged = quads.iter().enumerate().fold([0; QUAD], |merged, (at, quad)| {
                    std::array::from_fn(|i| merged[i] | quad[i] >> 4 << (at * n_bits))
                });
                put_quad(QUADS / 2 + plane, merged);
            }
        }
        for part in 0..self.parts() {
            put(half, self.scale_at(part, column), group.scales[part]);
            if self.has_min() {
                put(half, self.min_at(part, column), group.mins[part]);
            }
        }
    }

    /// The inverse of [`Layout::write`].
    pub(super) fn read(self, half: &[u8], column: usize) -> Group {
        let parts: [usize; 2] = if self.parts() == 2 { [0, 1] } else { [0, 0] };
        Group {
            codes: std::array::from_fn(|input| self.code(half, column, input)),
            scales: parts.map(|part| get(half, self.scale_at(part, column))),
            mins: parts.map(|part| if self.has_min() { get(half, self.min_at(part, column)) } else { -0.0 }),
        }
    }

    /// The bits that stand for a code.
    #[inline(always)]
    fn stored(self, code: i8) -> u8 {
        match self.table() {
            Some(table) => {
                let place = table.iter().position(|&value| value == code);
                place.expect("codes of the type are in its table") as u8
            }
            None => code.wrapping_add(self.offset() as i8).cast_unsigned(),
        }
    }

    /// The code of an input of a column (below 16).
    #[inline(always)]
    pub(super) fn code(self, half: &[u8], column: usize, input: usize) -> i8 {
        let (quad, byte) = (input / QUAD, column * QUAD + input % QUAD);
        if self == Layout::I8 {
            return half[quad * LANES * QUAD + byte].cast_signed();
        }
        let low = half[quad / 2 * LANES * QUAD + byte] >> (quad % 2 * 4) & 15;
        let planes = &half[4 * PLANE_BYTES..];
        let high = match self.bits() {
            5 => planes[byte] >> quad & 1,
            6 => planes[quad / 4 * LANES * QUAD + byte] >> (quad % 4 * 2) & 3,
            _ => 0,
        };
        match self.table() {
            Some(table) => table[usize::from(low)],
            None => (low | high << 4).cast_signed() - self.offset() as i8,
        }
    }
}

fn put(half: &mut [u8], at: usize, x: f32) {
    half[at..at + size_of::<f32>()].copy_from_slice(&x.to_ne_bytes());
}

#[inline(always)]
pub(super) fn get(half: &[u8], at: usize) -> f32 {
    let (bytes, _) = half[at..].split_first_chunk().expect("a scale lies in its step");
    f32::from_ne_bytes(*bytes)
}

/// A layout as a type, for loops compiled once per layout.
pub(super) trait Grouped {
    /// The layout.
    const LAYOUT: Layout;
}

macro_rules! layout_types {
    ($($name:ident)*) => {
        $(
            pub(super) struct $name;

            impl Grouped for $name {
                const LAYOUT: Layout = Layout::$name;
            }
        )*
    };
}

layout_types! { I8 Iq4 Mxfp4 U4 U4Min U4Per16 U4MinPer16 U5 U5Min U6Per16 }

/// Functions of a generic tile for the layout at hand.
macro_rules! by_layout {
    ($layout:expr, $function:ident) => {{
        use $crate::cpu::groups::{
            I8, Iq4, Layout, Mxfp4, U4, U4Min, U4MinPer16, U4Per16, U5, U5Min, U6Per16,
        };
        match $layout {
            Layout::I8 => &const { by_rows!($function, I8) },
            Layout::Iq4 => &const { by_rows!($function, Iq4) },
            Layout::Mxfp4 => &const { by_rows!($function, Mxfp4) },
            Layout::U4 => &const { by_rows!($function, U4) },
            Layout::U4Min => &const { by_rows!($function, U4Min) },
            Layout::U4Per16 => &const { by_rows!($function, U4Per16) },
            Layout::U4MinPer16 => &const { by_rows!($function, U4MinPer16) },
            Layout::U5 => &const { by_rows!($function, U5) },
            Layout::U5Min => &const { by_rows!($function, U5Min) },
            Layout::U6Per16 => &const { by_rows!($function, U6Per16) },
        }
    }};
}

pub(super) use by_layout;
