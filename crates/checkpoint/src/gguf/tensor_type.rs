//! Element types as numbered in GGUF files.

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

/// The type with a number, or what to call it.
pub(super) fn tensor_type(number: u32) -> Result<Dtype, String> {
    match TYPES.iter().find(|(found, ..)| *found == number) {
        Some((.., Some(dtype))) => Ok(*dtype),
        Some((_, name, None)) => Err((*name).to_string()),
        None => Err(format!("type {number}")),
    }
}

/// The number of a type.
pub(super) fn number(dtype: Dtype) -> u32 {
    let found = TYPES.iter().find(|(.., found)| *found == Some(dtype));
    found.expect("every type that is read has a number").0
}
