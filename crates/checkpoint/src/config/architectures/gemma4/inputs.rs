//! Inputs of layers beside the residual stream.

use crate::config::fields::Fields;
use crate::config::of_gguf::Keys;
use crate::config::{LayerInputs, VOCAB_LEN_MAX};
use crate::error::Error;

/// Elements of the input of a layer.
const WIDTH_DEFAULT: usize = 256;
const WIDTH_MAX: usize = 1 << 14;

pub(super) fn of_fields(fields: Fields<'_>, vocab_len: usize) -> Result<Option<LayerInputs>, Error> {
    const ROWS: &str = "vocab_size_per_layer_input";
    const WIDTH: &str = "hidden_size_per_layer_input";
    // Some files write `null` for none.
    let absent = if fields.is_mentioned(WIDTH) { 0 } else { WIDTH_DEFAULT };
    let width = fields.optional_len(WIDTH, 0..=WIDTH_MAX)?.unwrap_or(absent);
    if width == 0 {
        return Ok(None);
    }
    let n_embeddings = fields.optional_len(ROWS, 1..=VOCAB_LEN_MAX)?.unwrap_or(vocab_len);
    match n_embeddings >= vocab_len {
        true => Ok(Some(LayerInputs { width, n_embeddings })),
        false => Err(Error::Field {
            field: ROWS.into(),
            expected: format!("at least vocab_size ({vocab_len})"),
            got: n_embeddings.to_string(),
        }),
    }
}

/// The same by the keys of a GGUF file.
pub(super) fn of_keys(keys: &Keys<'_>, vocab_len: usize) -> Result<Option<LayerInputs>, Error> {
    const TABLE: &str = "per_layer_token_embd.weight";
    let width = keys.optional_len("embedding_length_per_layer_input", 0..=WIDTH_MAX)?.unwrap_or(0);
    if width == 0 {
        return Ok(None);
    }
    let n_embeddings = keys.n_rows(TABLE).ok_or_else(|| Error::TensorMissing { name: TABLE.into() })?;
    match n_embeddings >= vocab_len {
        true => Ok(Some(LayerInputs { width, n_embeddings })),
        false => Err(Error::Field {
            field: format!("the rows of {TABLE}"),
            expected: format!("at least those of token_embd.weight ({vocab_len})"),
            got: n_embeddings.to_string(),
        }),
    }
}
