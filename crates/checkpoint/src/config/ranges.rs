//! What values of fields may be, whatever file they come from.

use std::ops::RangeInclusive;

use super::HEAD_DIM_MAX;
use crate::error::Error;

/// A whole number, if there is one and it lies in `range`.
///
/// * `field`, `got`: its name and value in the file, for errors; so for all functions here.
pub(super) fn len(
    field: &str,
    len: Option<usize>,
    range: RangeInclusive<usize>,
    got: impl FnOnce() -> String,
) -> Result<usize, Error> {
    let expected = || format!("a whole number from {} to {}", range.start(), range.end());
    len.filter(|len| range.contains(len)).ok_or_else(|| invalid(field, expected(), got()))
}

/// A number, if there is one and it lies in `range`.
pub(super) fn number(
    field: &str,
    x: Option<f64>,
    range: RangeInclusive<f64>,
    got: impl FnOnce() -> String,
) -> Result<f64, Error> {
    let expected = || format!("a number from {:?} to {:?}", range.start(), range.end());
    x.filter(|x| range.contains(x)).ok_or_else(|| invalid(field, expected(), got()))
}

/// A token of the vocabulary.
pub(super) fn token(
    field: &str,
    id: Option<u64>,
    vocab_len: usize,
    got: impl FnOnce() -> String,
) -> Result<u32, Error> {
    let token = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab_len);
    token.ok_or_else(|| invalid(field, format!("token ids below {vocab_len}"), got()))
}

/// Key/value heads, each of which serves as many query heads.
///
/// * `heads_field`: the name of `n_heads` in the file.
pub(super) fn kv_heads(
    field: &str,
    n_kv_heads: usize,
    heads_field: &str,
    n_heads: usize,
) -> Result<usize, Error> {
    match n_heads.is_multiple_of(n_kv_heads) {
        true => Ok(n_kv_heads),
        false => {
            let expected = format!("a divisor of {heads_field} ({n_heads})");
            Err(invalid(field, expected, n_kv_heads.to_string()))
        }
    }
}

/// Elements per head, which are turned in pairs.
pub(super) fn head_dim(field: &str, head_dim: usize) -> Result<usize, Error> {
    match head_dim.is_multiple_of(2) && (1..=HEAD_DIM_MAX).contains(&head_dim) {
        true => Ok(head_dim),
        false => {
            let expected = format!("even and at most {HEAD_DIM_MAX}");
            Err(invalid(field, expected, head_dim.to_string()))
        }
    }
}

fn invalid(field: &str, expected: String, got: String) -> Error {
    Error::Field { field: field.to_string(), expected, got }
}
