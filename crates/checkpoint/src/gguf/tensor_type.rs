//! Element types as numbered in GGUF files.

use crate::checkpoint::ElementType;
use crate::stored::Dtype;

/// Number, name, and the type where it is read. Numbers that are missing were withdrawn.
const TYPES: &[(u32, &str, Option<Dtype>)] = &[
    (0, "F32", Some(Dtype::F32)),
    (1, "F16", Some(Dtype::F16)),
    (2, "Q4_0", Some(Dtype::Q4_0)),
    (3, "Q4_1", Some(Dtype::Q4_1)),
    (6, "Q5_0", Some(Dtype::Q5_0)),
    (7, "Q5_1", Some(Dtype::Q5_1)),
    (8, "Q8_0", Some(Dtype::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Dtype::Q2K)),
    (11, "Q3_K", Some(Dtype::Q3K)),
    (12, "Q4_K", Some(Dtype::Q4K)),
    (13, "Q5_K", Some(Dtype::Q5K)),
    (14, "Q6_K", Some(Dtype::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", Some(Dtype::Iq4Nl)),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", Some(Dtype::Iq4Xs)),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Dtype::Bf16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", Some(Dtype::Mxfp4)),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
];

/// Whole numbers of 64 bits, of which the vocabularies of heads are lists.
const I64: (u32, &str) = (27, "I64");

/// The type of a tensor, and how its rows are stored.
pub(super) struct TensorType {
    pub(super) element: ElementType,
    pub(super) name: &'static str,
    /// Successive elements of a row that lie together, and their bytes.
    pub(super) block_len: usize,
    pub(super) block_bytes: usize,
}

impl TensorType {
    /// The type with a number, or what to call it.
    pub(super) fn numbered(number: u32) -> Result<Self, String> {
        let (element, name, block_len, block_bytes) = match TYPES.iter().find(|(found, ..)| *found == number)
        {
            Some((.., Some(dtype))) => {
                (ElementType::Read(*dtype), dtype.name(), dtype.block_len(), dtype.block_bytes())
            }
            Some((number, name, None)) if (*number, *name) == I64 => {
                (ElementType::Other((*name).to_string()), *name, 1, size_of::<i64>())
            }
            Some((_, name, None)) => return Err((*name).to_string()),
            None => return Err(format!("type {number}")),
        };
        Ok(Self { element, name, block_len, block_bytes })
    }
}

/// The number of a type.
pub(super) fn number(dtype: Dtype) -> u32 {
    let found = TYPES.iter().find(|(.., found)| *found == Some(dtype));
    found.expect("every type that is read has a number").0
}
