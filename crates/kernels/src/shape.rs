//! Preconditions that every backend checks in the same words.

use dsde_engine::RowBatch;

use super::{AttentionRule, AttentionShape, Dense, Epilogue, Input, Stacking};

/// Checks the parts of a matrix and returns the number of their outputs.
pub(super) fn stacked_len(parts: &[Dense<'_>], stacking: Stacking, bias: Option<&[f32]>) -> usize {
    let n_in = parts.first().map_or(0, |part| part.n_in);
    for part in parts {
        assert_eq!(part.n_in, n_in, "stacked matrices have one input width");
        let expected = part.n_out * part.dtype.row_bytes(n_in);
        assert_eq!(part.bytes.len(), expected, "bytes of a [{}, {n_in}] matrix", part.n_out);
    }
    if stacking == Stacking::GateUp {
        assert_eq!(parts.len(), 2, "gate and up are two matrices");
        assert_eq!(parts[0].n_out, parts[1].n_out, "gate and up have equal shapes");
    }
    let n_out = parts.iter().map(|part| part.n_out).sum();
    assert!(bias.is_none_or(|bias| bias.len() == n_out), "one bias per output");
    n_out
}

/// Checks the operands of a product with a matrix of `[n_in, n_out]`.
pub(super) fn assert_linear(
    input: Input<'_>,
    n_rows: usize,
    [n_in, n_out]: [usize; 2],
    stacking: Stacking,
    epilogue: Epilogue,
    out: &[f32],
) {
    assert_eq!(input.x.len(), n_rows * n_in, "input is [n_rows, n_in]");
    assert!(input.norm.is_none_or(|norm| norm.weight.len() == n_in), "norm weight is [n_in]");
    let is_gated = epilogue.is_gated();
    assert_eq!(stacking == Stacking::GateUp, is_gated, "gating and a gate-up matrix belong together");
    let width = if is_gated { n_out / 2 } else { n_out };
    assert_eq!(out.len(), n_rows * width, "output is [n_rows, {width}]");
}

/// Checks projected queries, keys and values and returns their row width.
pub(super) fn assert_qkv(qkv: &[f32], rows: &RowBatch, shape: AttentionShape) -> usize {
    assert!(shape.head_dim.is_multiple_of(2), "head_dim is even");
    assert!(shape.n_heads.is_multiple_of(shape.n_kv_heads.max(1)), "n_kv_heads divides n_heads");
    let width = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim;
    assert_eq!(qkv.len(), rows.n_rows() * width, "qkv is [n_rows, {width}]");
    width
}

/// Checks the operands of attention and returns the row width of `qkv`.
pub(super) fn assert_attention(
    qkv: &[f32],
    rows: &RowBatch,
    shape: AttentionShape,
    rule: AttentionRule,
    out: &[f32],
) -> usize {
    assert!(rule.window.is_none_or(|window| window > 0), "a row attends to itself");
    assert_eq!(
        out.len(),
        rows.n_rows() * shape.n_heads * shape.head_dim,
        "out is [n_rows, n_heads * head_dim]"
    );
    assert_qkv(qkv, rows, shape)
}
