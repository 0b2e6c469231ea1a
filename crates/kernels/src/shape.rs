//! Preconditions that every backend checks in the same words.

use dsde_engine::RowBatch;

use super::{AttentionRule, AttentionShape, Dense, Epilogue, Input, Routed, Stacking};

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

/// Checks the parts of all experts and returns inputs and outputs of each.
pub(super) fn expert_shape(experts: &[&[Dense<'_>]], stacking: Stacking, bias: Option<&[f32]>) -> [usize; 2] {
    let shapes = |parts: &[Dense<'_>]| parts.iter().map(|part| [part.n_out, part.n_in]).collect::<Vec<_>>();
    let first = experts.first().expect("there is an expert");
    for parts in experts {
        assert_eq!(shapes(parts), shapes(first), "experts have the same shapes");
        stacked_len(parts, stacking, None);
    }
    let n_out = stacked_len(first, stacking, None);
    assert!(
        bias.is_none_or(|bias| bias.len() == experts.len() * n_out),
        "one bias per output of every expert"
    );
    [first[0].n_in, n_out]
}

/// Checks the operands of a product with experts of `[n_experts, n_in, n_out]`.
pub(super) fn assert_by_expert(
    x: &[f32],
    routed: Routed<'_>,
    [n_experts, n_in, n_out]: [usize; 3],
    stacking: Stacking,
    epilogue: Epilogue,
    out: &[f32],
) {
    assert_ne!(epilogue, Epilogue::Add, "rows of experts are stored, not added");
    let n_rows = routed.n_rows();
    let Routed { woken, sources } = routed;
    assert!(woken.is_sorted_by(|a, b| a.expert < b.expert && a.end < b.end), "experts rise and have rows");
    assert!(woken.first().is_none_or(|first| first.end > 0), "experts have rows");
    assert!(
        woken.last().is_none_or(|last| (last.expert as usize) < n_experts),
        "experts are below {n_experts}"
    );
    let n_sources = x.len() / n_in;
    assert_eq!(x.len(), n_sources * n_in, "input is [n_sources, n_in]");
    match sources {
        Some(sources) => {
            assert_eq!(sources.len(), n_rows, "one source per row");
            assert!(sources.iter().all(|&row| (row as usize) < n_sources), "sources are rows of the input");
        }
        None => assert_eq!(n_sources, n_rows, "input is [n_rows, n_in]"),
    }
    assert_output(stacking, epilogue, n_rows, n_out, out);
}

/// Checks the operands of a weighted sum and returns its width; `x` has as many rows as there are places.
pub(super) fn assert_combine(
    x: &[f32],
    places: &[u32],
    weights: &[f32],
    epilogue: Epilogue,
    out: &[f32],
) -> usize {
    assert!(!epilogue.is_gated(), "weighted sums are stored or added");
    assert_eq!(places.len(), weights.len(), "one weight per place");
    let width = x.len() / places.len().max(1);
    assert_eq!(x.len(), places.len() * width, "x is [n_places, width]");
    assert!(places.iter().all(|&place| (place as usize) < places.len()), "places are rows of x");
    let n_rows = out.len() / width.max(1);
    assert_eq!(out.len(), n_rows * width, "out is [n_rows, width]");
    assert!(places.len().is_multiple_of(n_rows), "places are [n_rows, n]");
    width
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
    assert_output(stacking, epilogue, n_rows, n_out, out);
}

fn assert_output(stacking: Stacking, epilogue: Epilogue, n_rows: usize, n_out: usize, out: &[f32]) {
    let is_gated = epilogue.is_gated();
    assert_eq!(stacking == Stacking::GateUp, is_gated, "gating and a gate-up matrix belong together");
    let width = if is_gated { n_out / 2 } else { n_out };
    assert_eq!(out.len(), n_rows * width, "output is [n_rows, {width}]");
}

/// Checks projected queries, keys and values and returns their row width.
pub(super) fn assert_qkv(qkv: &[f32], rows: &RowBatch, shape: AttentionShape) -> usize {
    assert_heads(shape);
    let width = shape.qkv_len();
    assert_eq!(qkv.len(), rows.n_rows() * width, "qkv is [n_rows, {width}]");
    width
}

/// Checks queries and returns their row width.
pub(super) fn assert_queries(queries: &[f32], rows: &RowBatch, shape: AttentionShape) -> usize {
    assert_heads(shape);
    let width = shape.queries_len();
    assert_eq!(queries.len(), rows.n_rows() * width, "queries are [n_rows, {width}]");
    width
}

fn assert_heads(shape: AttentionShape) {
    assert!(shape.head_dim.is_multiple_of(2), "head_dim is even");
    assert!(shape.n_heads.is_multiple_of(shape.n_kv_heads.max(1)), "n_kv_heads divides n_heads");
}

/// Checks the operands of attention and returns the row width of `qkv`, and the shape with the query heads that there are.
///
/// * `shape`: of the layer that stored keys and values.
pub(super) fn assert_attention(
    qkv: &[f32],
    rows: &RowBatch,
    shape: AttentionShape,
    rule: AttentionRule<'_>,
    out: &[f32],
) -> (usize, AttentionShape) {
    let n_heads = match rows.n_rows() {
        0 => shape.n_heads,
        n_rows => out.len() / (n_rows * shape.head_dim),
    };
    let shape = AttentionShape { n_heads, ..shape };
    assert!(rule.window.is_none_or(|window| window > 0), "a row attends to something");
    assert!(rule.sinks.is_none_or(|sinks| sinks.len() == n_heads), "one sink per head");
    assert_eq!(out.len(), rows.n_rows() * shape.queries_len(), "out is [n_rows, n_heads * head_dim]");
    let width = match qkv.len() == out.len() {
        true => assert_queries(qkv, rows, shape),
        false => assert_qkv(qkv, rows, shape),
    };
    (width, shape)
}
