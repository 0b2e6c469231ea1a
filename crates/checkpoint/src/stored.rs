//! Weights as they lie in files.

use crate::blocks::{self, Misfit};

/// Element type of stored weights.
///
/// Those after the first three are the block formats of GGUF files, named as there: successive elements of a row share a scale,
/// and some a minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits and a scale per 32.
    Q8_0,
    /// 4 bits and a scale per 32.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32.
    Q4_1,
    /// 5 bits and a scale per 32.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32.
    Q5_1,
    /// 2 bits, a scale and a minimum per 16; these in 4 bits each, scaled per 256.
    Q2K,
    /// 3 bits and a scale per 16; this in 6 bits, scaled per 256.
    Q3K,
    /// 4 bits, a scale and a minimum per 32; these in 6 bits each, scaled per 256.
    Q4K,
    /// 5 bits, a scale and a minimum per 32; these in 6 bits each, scaled per 256.
    Q5K,
    /// 6 bits and a scale per 16; this in 8 bits, scaled per 256.
    Q6K,
    /// One of 16 unevenly spaced values, and a scale per 32.
    Iq4Nl,
    /// One of 16 unevenly spaced values, and a scale per 32; this in 6 bits, scaled per 256.
    Iq4Xs,
    /// 4-bit floating point (E2M1), and a power of two per 32 (OCP Microscaling 1.0).
    Mxfp4,
}

/// In which order the rows of a matrix lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As the matrix has them.
    AsIs,
    /// Heads of queries and keys for a rotary embedding that turns neighbours: row `2 i` and `2 i + 1` of a head are its rows `i`
    /// and `i + span / 2` for one that turns halves.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
        /// Rows of a head in which pairs lie, the first ones; even.
        span: usize,
    },
}

/// A row-major weight matrix `[n_out, n_in]` as stored in a checkpoint (little endian).
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Rows.
    pub n_out: usize,
    /// Columns; whole blocks of the element type.
    pub n_in: usize,
    /// `n_out` rows of [`Dtype::row_bytes`]; not necessarily aligned.
    pub bytes: &'a [u8],
    /// Order of the rows.
    pub order: RowOrder,
}

/// 32 successive elements of a row: element `i` is `scale(i / 16) * codes[i] + min(i / 16)`, in single precision and in this
/// order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Whole numbers.
    pub codes: [i8; Group::LEN],
    /// What the whole numbers of scales and of minima count, numbers of half precision except in [`Dtype::Mxfp4`].
    pub units: [f32; 2],
    /// Scales per 16 elements, in their unit; 1 in formats whose groups have a unit of their own.
    pub scales: [i8; 2],
    /// Minima per 16 elements, in theirs; likewise.
    pub mins: [i8; 2],
}

/// A tensor as stored, row-major and little endian.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Elements per dimension.
    pub shape: &'a [usize],
    /// All elements; not necessarily aligned.
    pub bytes: &'a [u8],
}

impl Dtype {
    /// All element types.
    pub const ALL: [Dtype; 16] = [
        Dtype::F32,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::Q8_0,
        Dtype::Q4_0,
        Dtype::Q4_1,
        Dtype::Q5_0,
        Dtype::Q5_1,
        Dtype::Q2K,
        Dtype::Q3K,
        Dtype::Q4K,
        Dtype::Q5K,
        Dtype::Q6K,
        Dtype::Iq4Nl,
        Dtype::Iq4Xs,
        Dtype::Mxfp4,
    ];

    /// Those that values can be rounded to, see [`Dtype::narrow`].
    pub const WRITTEN: [Dtype; 9] = [
        Dtype::F32,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::Q8_0,
        Dtype::Q4_0,
        Dtype::Q5_0,
        Dtype::Q4K,
        Dtype::Q5K,
        Dtype::Q6K,
    ];

    /// Its name for people, as users of such files know it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::Q8_0 => "Q8_0",
            Dtype::Q4_0 => "Q4_0",
            Dtype::Q4_1 => "Q4_1",
            Dtype::Q5_0 => "Q5_0",
            Dtype::Q5_1 => "Q5_1",
            Dtype::Q2K => "Q2_K",
            Dtype::Q3K => "Q3_K",
            Dtype::Q4K => "Q4_K",
            Dtype::Q5K => "Q5_K",
            Dtype::Q6K => "Q6_K",
            Dtype::Iq4Nl => "IQ4_NL",
            Dtype::Iq4Xs => "IQ4_XS",
            Dtype::Mxfp4 => "MXFP4",
        }
    }

    /// Elements of a block, the least that can be stored.
    pub const fn block_len(self) -> usize {
        match self {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => 1,
            Dtype::Q8_0
            | Dtype::Q4_0
            | Dtype::Q4_1
            | Dtype::Q5_0
            | Dtype::Q5_1
            | Dtype::Iq4Nl
            | Dtype::Mxfp4 => 32,
            Dtype::Q2K | Dtype::Q3K | Dtype::Q4K | Dtype::Q5K | Dtype::Q6K | Dtype::Iq4Xs => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::Q8_0 => 34,
            Dtype::Q4_0 | Dtype::Iq4Nl => 18,
            Dtype::Q4_1 => 20,
            Dtype::Q5_0 => 22,
            Dtype::Q5_1 => 24,
            Dtype::Mxfp4 => 17,
            Dtype::Q2K => 84,
            Dtype::Q3K => 110,
            Dtype::Q4K => 144,
            Dtype::Q5K => 176,
            Dtype::Q6K => 210,
            Dtype::Iq4Xs => 136,
        }
    }

    /// Bytes of `n_in` elements, which are whole blocks.
    pub fn row_bytes(self, n_in: usize) -> usize {
        n_in / self.block_len() * self.block_bytes()
    }

    /// Whether elements are stored in blocks, which consist of [`Group`]s.
    pub fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// Elements `32 * index..32 * (index + 1)` of a row of a quantised type.
    ///
    /// # Panics
    /// If the row is shorter or the type is not quantised.
    pub fn group(self, row: &[u8], index: usize) -> Group {
        blocks::group(self, row, index)
    }

    /// Widens elements from the first one of a block on; exact but for the rounding of [`Group`]'s formula.
    ///
    /// # Panics
    /// If `bytes` are not those of `out.len()` elements.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            bytes.len(),
            self.row_bytes(out.len()),
            "bytes of {} elements of {}",
            out.len(),
            self.name()
        );
        match self {
            Dtype::F32 => widen(bytes, out, f32::from_le_bytes),
            Dtype::F16 => widen(bytes, out, |le| half::f16::from_le_bytes(le).to_f32()),
            Dtype::Bf16 => widen(bytes, out, |le| half::bf16::from_le_bytes(le).to_f32()),
            _ => {
                for (index, out) in out.chunks_exact_mut(Group::LEN).enumerate() {
                    out.copy_from_slice(&self.group(bytes, index).values());
                }
            }
        }
    }

    /// Rounds whole blocks of elements to this type and appends them; the reverse of [`Dtype::widen`] but for what is lost.
    ///
    /// The same values give the same bytes on every machine. Elements that differ much in size within a block lose more.
    ///
    /// # Errors
    /// At the first element that the type cannot hold: NaN, infinite ones, and those above the largest number of the type, which
    /// for block formats is that of half precision.
    ///
    /// # Panics
    /// If the type is not one of [`Dtype::WRITTEN`], or `values` are not whole blocks.
    pub fn narrow(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), Misfit> {
        assert!(Dtype::WRITTEN.contains(&self), "{} is not written", self.name());
        assert!(
            values.len().is_multiple_of(self.block_len()),
            "{} elements of {}",
            values.len(),
            self.name()
        );
        blocks::narrow(self, values, out)
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = element(bytes);
    }
}

impl RowOrder {
    /// Which row of a matrix lies at `i`; undoes [`RowOrder::stored`].
    pub(crate) fn row_at(self, i: usize) -> usize {
        match self {
            RowOrder::AsIs => i,
            RowOrder::Interleaved { head_dim, span } => match i % head_dim {
                at if at < span => i - at + at % 2 * (span / 2) + at / 2,
                _ => i,
            },
        }
    }

    /// Where row `i` of a matrix lies.
    pub(crate) fn stored(self, i: usize) -> usize {
        match self {
            RowOrder::AsIs => i,
            RowOrder::Interleaved { head_dim, span } => match (i % head_dim, span / 2) {
                (row, half) if row < span => i - row + row % half * 2 + row / half,
                _ => i,
            },
        }
    }
}

impl Group {
    /// Elements of a group.
    pub const LEN: usize = 32;

    /// What a code of half `part` counts; exact.
    pub fn scale(&self, part: usize) -> f32 {
        self.units[0] * f32::from(self.scales[part])
    }

    /// What is added to the elements of half `part`; exact.
    pub fn min(&self, part: usize) -> f32 {
        self.units[1] * f32::from(self.mins[part])
    }

    /// The elements.
    pub fn values(&self) -> [f32; Group::LEN] {
        let parts = [0, 1].map(|part| (self.scale(part), self.min(part)));
        std::array::from_fn(|i| parts[i / 16].0 * f32::from(self.codes[i]) + parts[i / 16].1)
    }
}

impl<'a> Dense<'a> {
    /// A matrix whose rows lie in their order.
    pub fn new(dtype: Dtype, n_out: usize, n_in: usize, bytes: &'a [u8]) -> Dense<'a> {
        Dense { dtype, n_out, n_in, bytes, order: RowOrder::AsIs }
    }

    /// The first `n_out` rows.
    ///
    /// # Panics
    /// If there are fewer, or their order is another.
    pub fn first_rows(&self, n_out: usize) -> Dense<'a> {
        assert_eq!(self.order, RowOrder::AsIs, "rows lie in their order");
        let bytes = &self.bytes[..n_out * self.dtype.row_bytes(self.n_in)];
        Dense { n_out, bytes, ..*self }
    }

    /// Row `i` of the matrix as stored.
    ///
    /// # Panics
    /// If there is none.
    pub fn row(&self, i: usize) -> &'a [u8] {
        let row_bytes = self.dtype.row_bytes(self.n_in);
        &self.bytes[self.order.stored(i) * row_bytes..][..row_bytes]
    }

    /// Row `i` of the matrix, widened to `out` (`[n_in]`).
    ///
    /// # Panics
    /// If there is none.
    pub fn widen_row(&self, i: usize, out: &mut [f32]) {
        self.dtype.widen(self.row(i), out);
    }
}

impl TensorView<'_> {
    /// All elements in f32, see [`Dtype::widen`].
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.iter().product()];
        self.dtype.widen(self.bytes, &mut values);
        values
    }
}
