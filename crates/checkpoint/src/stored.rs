//! Weights as they lie in files.

/// Element type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// A dense row-major weight matrix `[n_out, n_in]` as stored in a checkpoint (little endian).
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Rows.
    pub n_out: usize,
    /// Columns.
    pub n_in: usize,
    /// `n_out * n_in` elements; not necessarily aligned.
    pub bytes: &'a [u8],
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
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }
}

impl<'a> Dense<'a> {
    /// The first `n_out` rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first_rows(&self, n_out: usize) -> Dense<'a> {
        let bytes = &self.bytes[..n_out * self.n_in * self.dtype.size()];
        Dense { n_out, bytes, ..*self }
    }

    /// Element `i` in row-major order, widened.
    ///
    /// # Panics
    /// If `i` lies outside `bytes`.
    pub fn get(&self, i: usize) -> f32 {
        let bytes = &self.bytes[i * self.dtype.size()..];
        match self.dtype {
            Dtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Dtype::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Dtype::Bf16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        }
    }
}

impl TensorView<'_> {
    /// All elements in f32; exact for every type that is read.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.elements().map(f32::from_le_bytes).collect(),
            Dtype::F16 => self.elements().map(|le| half::f16::from_le_bytes(le).to_f32()).collect(),
            Dtype::Bf16 => self.elements().map(|le| half::bf16::from_le_bytes(le).to_f32()).collect(),
        }
    }

    fn elements<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> {
        self.bytes.as_chunks().0.iter().copied()
    }
}
