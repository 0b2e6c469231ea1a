//! Attention: close to the reference over ragged batches and trees, and the same bits in any company.

use dsde_engine::{BlockCopy, BlockId, RowBatch, Slot, SlotMove};

use crate::support::{Numbers, bits, cpus_of_all_kv_types, push_chain, push_tree, relative_error, rope};
use dsde_kernels::cpu::{Cpu, Isa, KvType};
use dsde_kernels::{
    AttentionRule, AttentionShape, Backend, KvShape, QkvTransform, Reference, RmsNorm, RopeTable,
};

/// Keys, values and weights are rounded to bf16 (2^-9 each, random over a sum) or to whole numbers of 127 at most (2^-8 of the largest),
/// the reference rounds nothing.
const TOLERANCE: f32 = 3e-2;
const N_BLOCKS: usize = 40;
const POSITIONS_MAX: usize = 256;

/// Attention of the layers of one store.
#[derive(Clone, Copy, Debug)]
struct Case {
    attention: AttentionShape,
    rule: AttentionRule<'static>,
}

fn case(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Case {
    let attention = AttentionShape { n_heads, n_kv_heads, head_dim, first_slot: 0 };
    Case { attention, rule: AttentionRule::plain(head_dim) }
}

impl Case {
    /// A store whose layer 1 is that of the case, between others.
    fn kv(self) -> KvShape {
        let other = |n_kv_heads, head_dim| AttentionShape { n_heads: 6, n_kv_heads, head_dim, first_slot: 0 };
        KvShape { n_blocks: N_BLOCKS, layers: vec![other(3, 10), self.attention, other(1, 64)] }
    }
}

/// Blocks `first`, `first + 3`, ...: tables are not contiguous.
fn table(first: u32, n_slots: u32) -> Vec<BlockId> {
    (0..n_slots.div_ceil(16)).map(|i| BlockId((first + 3 * i) % N_BLOCKS as u32)).collect()
}

/// Projections that depend on nothing but sequence and position, as those of a model would on a prefix.
fn projections(shape: AttentionShape, rows: &RowBatch, seeds: &[u64]) -> Vec<f32> {
    let width = shape.qkv_len();
    let mut qkv = Vec::new();
    for (seq, seed) in seeds.iter().enumerate() {
        for row in rows.rows_of(seq) {
            let token = u64::from(rows.tokens[row]);
            let seed = seed * 1_000_003 + u64::from(rows.positions[row]) + (token << 32);
            qkv.extend(Numbers::new(seed).units(width));
        }
    }
    qkv
}

/// One pass over `rows` in layer 1.
fn pass<B: Backend>(
    backend: &B,
    case: Case,
    kv: &mut B::KvStore,
    rows: &RowBatch,
    seeds: &[u64],
) -> Vec<f32> {
    let mut qkv = projections(case.attention, rows, seeds);
    let AttentionShape { n_heads, head_dim, .. } = case.attention;
    let weight: Vec<f32> = (0..head_dim).map(|i| 1.0 + i as f32 / 100.0).collect();
    let norm = Some(RmsNorm { weight: &weight, eps: 1e-6 });
    let rope = rope(POSITIONS_MAX, head_dim);
    let transform = QkvTransform { q_norm: norm, k_norm: norm, rope: Some(&rope), ..QkvTransform::default() };
    backend.store_kv(1, &mut qkv, transform, rows, kv);
    let mut out = vec![f32::NAN; rows.n_rows() * n_heads * head_dim];
    backend.attention(1, case.rule, &qkv, rows, kv, &mut out);
    out
}

/// Prefills of 0..45 rows, then decodes, verifications and trees on top of them.
fn batches() -> [RowBatch; 2] {
    let (mut prefill, mut mixed) = (RowBatch::default(), RowBatch::default());
    push_chain(&mut prefill, 0, 37, &table(0, 64));
    push_chain(&mut prefill, 0, 1, &table(1, 32));
    push_chain(&mut prefill, 0, 0, &[]);
    push_chain(&mut prefill, 0, 16, &table(2, 64));
    push_chain(&mut mixed, 37, 1, &table(0, 64));
    push_chain(&mut mixed, 1, 6, &table(1, 32));
    push_chain(&mut mixed, 0, 0, &[]);
    let parents = [None, None, Some(0), Some(0), Some(1), Some(4), Some(5), None, Some(2), Some(8)];
    push_tree(&mut mixed, 16, &parents, &table(2, 64));
    [prefill, mixed]
}

fn agrees_with_the_reference(case: Case) {
    let mut expected_kv = Reference.kv_store(&case.kv());
    let expected = batches().map(|rows| pass(&Reference, case, &mut expected_kv, &rows, &[1, 2, 3, 4]));
    for cpu in cpus_of_all_kv_types() {
        let mut kv = cpu.kv_store(&case.kv());
        for (rows, expected) in batches().iter().zip(&expected) {
            let got = pass(&cpu, case, &mut kv, rows, &[1, 2, 3, 4]);
            let error = relative_error(&got, expected);
            assert!(error < TOLERANCE, "{case:?} on {}: {error}", cpu.describe());
        }
    }
}

/// Errors of the types differ as their precision does; a store that ignored its type would have those of another.
#[test]
fn the_more_precise_the_type_the_nearer_the_reference() {
    let case = case(4, 2, 64);
    let rows = &batches()[0];
    let expected = pass(&Reference, case, &mut Reference.kv_store(&case.kv()), rows, &[1, 2, 3, 4]);
    let error = |kv_type| {
        let cpu = Cpu::with_isa(1, Isa::Portable).unwrap().with_kv_type(kv_type);
        relative_error(&pass(&cpu, case, &mut cpu.kv_store(&case.kv()), rows, &[1, 2, 3, 4]), &expected)
    };
    let [f16, bf16, int8] = [KvType::F16, KvType::Bf16, KvType::Int8].map(error);
    assert!(4.0 * f16 < bf16 && bf16 < 2.0 * int8 && int8 < TOLERANCE, "{f16} {bf16} {int8}");
    let bytes = |kv_type| Cpu::new(1).with_kv_type(kv_type).block_bytes(&case.kv());
    // Per head and slot numbers of two bytes, or of one and two scales: three heads of 10 elements, of which keys take 16 and values
    // 32, two of 64, one of 64.
    let n_numbers = [3 * (16 + 32), 2 * 128, 128].iter().sum::<usize>();
    let expected = [n_numbers * 2, n_numbers * 2, n_numbers + 6 * 8].map(|slot_bytes| 16 * slot_bytes);
    assert_eq!([KvType::F16, KvType::Bf16, KvType::Int8].map(bytes), expected);
}

/// Blocks are not cleared when they change hands. Numbers that no row attends to, larger than a type can hold, leave no trace.
#[test]
fn large_numbers_that_a_block_held_before_are_not_seen() {
    let case = case(4, 2, 64);
    let transform = QkvTransform::default();
    for cpu in cpus_of_all_kv_types() {
        let (mut used, mut fresh) = (cpu.kv_store(&case.kv()), cpu.kv_store(&case.kv()));
        let mut before = RowBatch::default();
        push_chain(&mut before, 0, 16, &table(0, 16));
        let mut large =
            projections(case.attention, &before, &[7]).iter().map(|x| x * 1e30).collect::<Vec<f32>>();
        cpu.store_kv(1, &mut large, transform, &before, &mut used);
        let mut rows = RowBatch::default();
        push_chain(&mut rows, 0, 3, &table(0, 16));
        let [got, expected] = [&mut used, &mut fresh].map(|kv| pass(&cpu, case, kv, &rows, &[5]));
        assert!(bits(&got) == bits(&expected), "{}", cpu.describe());
    }
}

/// A broken number is not made a plausible one.
#[test]
fn what_is_no_number_stays_none() {
    let case = case(1, 1, 32);
    let transform = QkvTransform::default();
    for cpu in cpus_of_all_kv_types() {
        let mut rows = RowBatch::default();
        push_chain(&mut rows, 0, 1, &table(0, 16));
        let mut qkv = projections(case.attention, &rows, &[7]);
        qkv[2 * 32 + 5] = f32::NAN;
        let mut kv = cpu.kv_store(&case.kv());
        cpu.store_kv(1, &mut qkv, transform, &rows, &mut kv);
        let mut out = vec![0.0; 32];
        cpu.attention(1, case.rule, &qkv, &rows, &kv, &mut out);
        assert!(out[5].is_nan(), "{}", cpu.describe());
    }
}

#[test]
fn ragged_batches_with_trees_agree_with_the_reference() {
    for (n_heads, n_kv_heads, head_dim) in
        [(1, 1, 32), (4, 2, 64), (3, 1, 80), (4, 1, 96), (14, 2, 64), (8, 1, 128), (2, 2, 6), (16, 1, 32)]
    {
        agrees_with_the_reference(case(n_heads, n_kv_heads, head_dim));
    }
}

/// `case` whose rows see the slots from `first_slot` on.
fn from(first_slot: usize, case: Case) -> Case {
    Case { attention: AttentionShape { first_slot, ..case.attention }, ..case }
}

/// `case` whose rows attend to the last `window` slots that they see.
fn within(window: usize, case: Case) -> Case {
    Case { rule: AttentionRule { window: Some(window), ..case.rule }, ..case }
}

/// `case` with scores that are capped where most of them are.
fn capped(case: Case) -> Case {
    Case { rule: AttentionRule { soft_cap: Some(1.5), ..case.rule }, ..case }
}

/// `case` with sinks that take from nothing to nearly all of the weight.
fn with_sinks(case: Case) -> Case {
    static SINKS: [f32; 8] = [-30.0, -1.0, 0.5, 3.0, 0.0, 120.0, 2.0, -200.0];
    Case { rule: AttentionRule { sinks: Some(&SINKS[..case.attention.n_heads]), ..case.rule }, ..case }
}

/// The tree of [`batches`] stands at the slots from 17 on, so some first slots lie inside of it.
#[test]
fn whatever_slot_is_the_first_to_be_seen_the_reference_agrees() {
    for first_slot in [1, 2, 15, 16, 17, 18, 22, 36, 1000] {
        agrees_with_the_reference(from(first_slot, case(4, 2, 64)));
    }
}

/// Prefills are up to 37 rows long and the tree is up to 6 deep behind 17, so windows begin inside of pages, at their ends, inside
/// of the tree and before everything.
#[test]
fn whatever_the_window_the_reference_agrees() {
    for window in [1, 2, 3, 5, 6, 7, 15, 16, 17, 20, 23, 32, 33, 1000] {
        agrees_with_the_reference(within(window, case(4, 2, 64)));
        agrees_with_the_reference(from(1, within(window, case(3, 1, 80))));
    }
}

#[test]
fn capped_scores_agree_with_the_reference() {
    agrees_with_the_reference(capped(case(4, 2, 64)));
    agrees_with_the_reference(within(9, capped(case(4, 1, 96))));
}

#[test]
fn whatever_the_sinks_the_reference_agrees() {
    for case in [case(4, 2, 64), case(8, 1, 128), case(6, 2, 64), case(3, 1, 80)] {
        agrees_with_the_reference(with_sinks(case));
        agrees_with_the_reference(within(9, with_sinks(case)));
        agrees_with_the_reference(from(17, with_sinks(capped(case))));
    }
}

/// With one slot to see, the softmax is a logistic function: a score of 0 beside a sink of ln 3 weighs a quarter.
#[test]
fn a_sink_takes_its_share_of_the_weight() {
    fn check<B: Backend>(backend: &B) {
        let sinks = [f32::NEG_INFINITY, 3_f32.ln()];
        let case = case(2, 1, 8);
        let rule = AttentionRule { sinks: Some(&sinks), ..case.rule };
        let mut rows = RowBatch::default();
        push_chain(&mut rows, 0, 1, &table(0, 16));
        let mut kv = backend.kv_store(&case.kv());
        // Queries of zeros score 0; the value is 2 throughout.
        let mut qkv = [[0.0; 24], [2.0; 24]].concat()[..32].to_vec();
        let transform = QkvTransform::default();
        backend.store_kv(1, &mut qkv, transform, &rows, &mut kv);
        let mut out = [0.0; 16];
        backend.attention(1, rule, &qkv, &rows, &kv, &mut out);
        for (i, x) in out.iter().enumerate() {
            let expected = if i < 8 { 2.0 } else { 0.5 };
            assert!((x - expected).abs() < 1e-6, "{x}, expected {expected}, {}", backend.describe());
        }
    }
    check(&Reference);
    cpus_of_all_kv_types().iter().for_each(check);
}

/// What a row got depends on the last `window` slots that it sees, and on each of them.
#[test]
fn rows_attend_to_their_window_and_to_nothing_before_it() {
    let width = 4 * 64;
    for window in [1, 4, 16, 21] {
        let case = within(window, case(4, 2, 64));
        for cpu in cpus_of_all_kv_types() {
            let mut rows = RowBatch::default();
            push_chain(&mut rows, 0, 40, &table(0, 40));
            let expected = pass(&cpu, case, &mut cpu.kv_store(&case.kv()), &rows, &[5]);
            // Another token at one place.
            rows.tokens[11] = 9;
            let got = pass(&cpu, case, &mut cpu.kv_store(&case.kv()), &rows, &[5]);
            for row in 0..40 {
                let [got, expected] = [&got, &expected].map(|out| bits(&out[row * width..(row + 1) * width]));
                let sees_it = (11..11 + window).contains(&row);
                assert_eq!(got != expected, sees_it, "row {row}, window {window}, {}", cpu.describe());
            }
        }
    }
}

#[test]
fn rows_before_the_first_slot_attend_to_zeros_and_are_never_seen() {
    let case = from(3, case(4, 2, 64));
    let width = 4 * 64;
    for cpu in cpus_of_all_kv_types() {
        let mut rows = RowBatch::default();
        push_chain(&mut rows, 0, 40, &table(0, 40));
        let expected = pass(&cpu, case, &mut cpu.kv_store(&case.kv()), &rows, &[5]);
        assert!(expected[..3 * width].iter().all(|x| *x == 0.0), "{}", cpu.describe());
        let mut seeing = expected[3 * width..].chunks_exact(width);
        assert!(seeing.all(|row| row.iter().any(|x| *x != 0.0)), "{}", cpu.describe());
        // Another prefix of the same length.
        rows.tokens[..3].fill(9);
        let got = pass(&cpu, case, &mut cpu.kv_store(&case.kv()), &rows, &[5]);
        assert!(bits(&got) == bits(&expected), "{}", cpu.describe());
    }
}

/// Queries as [`Backend::store_kv`] leaves them.
fn queries_after<B: Backend>(backend: &B, rope: Option<&RopeTable>) -> Vec<f32> {
    let case = case(2, 1, 8);
    let mut rows = RowBatch::default();
    push_chain(&mut rows, 0, 20, &table(0, 32));
    let mut qkv = projections(case.attention, &rows, &[7]);
    let transform = QkvTransform { rope, ..QkvTransform::default() };
    backend.store_kv(1, &mut qkv, transform, &rows, &mut backend.kv_store(&case.kv()));
    qkv.chunks_exact(4 * 8).flat_map(|row| row[..2 * 8].to_vec()).collect()
}

#[test]
fn the_rotary_embedding_turns_its_own_pairs_alone() {
    let rope = rope(20, 4);
    let before = queries_after(&Reference, None);
    let expected: Vec<f32> = before
        .chunks_exact(8)
        .enumerate()
        .flat_map(|(i, head)| {
            let turned = |low: usize| {
                let angle = i / 2 * 2 + low;
                let (cos, sin) = (rope.cos[angle], rope.sin[angle]);
                [head[low] * cos - head[low + 2] * sin, head[low + 2] * cos + head[low] * sin]
            };
            let [a, b] = [turned(0), turned(1)];
            [a[0], b[0], a[1], b[1], head[4], head[5], head[6], head[7]]
        })
        .collect();
    assert_eq!(queries_after(&Reference, Some(&rope)), expected);
    for cpu in cpus_of_all_kv_types() {
        assert_eq!(queries_after(&cpu, None), before, "{}", cpu.describe());
        assert_eq!(queries_after(&cpu, Some(&rope)), expected, "{}", cpu.describe());
    }
}

#[test]
fn prefill_has_the_same_bits_in_any_chunks_and_any_company() {
    same_bits_in_any_chunks(case(6, 2, 64));
    same_bits_in_any_chunks(from(1, case(6, 2, 64)));
    same_bits_in_any_chunks(capped(case(6, 2, 64)));
    same_bits_in_any_chunks(with_sinks(case(6, 2, 64)));
    same_bits_in_any_chunks(within(17, with_sinks(case(6, 2, 64))));
    for window in [1, 5, 16, 17, 40] {
        same_bits_in_any_chunks(within(window, case(6, 2, 64)));
    }
}

fn same_bits_in_any_chunks(case: Case) {
    for cpu in cpus_of_all_kv_types() {
        let mut kv = cpu.kv_store(&case.kv());
        let mut whole = RowBatch::default();
        push_chain(&mut whole, 0, 70, &table(0, 70));
        let expected = pass(&cpu, case, &mut kv, &whole, &[5]);
        for chunk_lens in [vec![1; 70], vec![7, 9, 54], vec![16, 16, 16, 22], vec![69, 1], vec![33, 37]] {
            let mut kv = cpu.kv_store(&case.kv());
            let mut got = Vec::new();
            let mut context_len = 0;
            for len in chunk_lens {
                let mut rows = RowBatch::default();
                push_chain(&mut rows, context_len, len, &table(0, 70));
                push_chain(&mut rows, context_len, 3, &table(1, 80));
                let out = pass(&cpu, case, &mut kv, &rows, &[5, 6]);
                got.extend_from_slice(&out[..out.len() / rows.n_rows() * len as usize]);
                context_len += len;
            }
            assert!(bits(&got) == bits(&expected), "{}", cpu.describe());
        }
    }
}

#[test]
fn verified_rows_have_the_bits_of_plain_decoding_whatever_was_rejected_before() {
    verified_rows_have_the_bits_of_plain_decoding(case(4, 2, 64));
    verified_rows_have_the_bits_of_plain_decoding(within(9, case(4, 2, 64)));
    verified_rows_have_the_bits_of_plain_decoding(with_sinks(case(4, 2, 64)));
}

fn verified_rows_have_the_bits_of_plain_decoding(case: Case) {
    let width = 4 * 64;
    for cpu in cpus_of_all_kv_types() {
        let (mut plain_kv, mut kv) = (cpu.kv_store(&case.kv()), cpu.kv_store(&case.kv()));
        for context_len in 0..40 {
            let mut plain = RowBatch::default();
            push_chain(&mut plain, context_len, 1, &table(0, 64));
            let expected = pass(&cpu, case, &mut plain_kv, &plain, &[5]);
            let mut rows = RowBatch::default();
            push_chain(&mut rows, context_len, 1 + context_len % 8, &table(0, 64));
            // All but the first row carry other tokens than the ones that follow in the end.
            rows.tokens[1..].fill(9);
            let got = pass(&cpu, case, &mut kv, &rows, &[5]);
            assert!(bits(&got[..width]) == bits(&expected), "slot {context_len} on {}", cpu.describe());
        }
    }
}

#[test]
fn a_path_through_a_tree_has_the_bits_of_a_chain() {
    path_has_the_bits_of_a_chain(case(6, 2, 80));
    path_has_the_bits_of_a_chain(from(1, case(6, 2, 80)));
    path_has_the_bits_of_a_chain(with_sinks(case(6, 2, 80)));
    for window in [1, 2, 4, 6, 16, 19] {
        path_has_the_bits_of_a_chain(within(window, capped(case(6, 2, 80))));
    }
}

fn path_has_the_bits_of_a_chain(case: Case) {
    let width = 6 * 80;
    // The path 0, 2, 4, 6, 9 with siblings between.
    let parents = [None, None, Some(0), Some(0), Some(2), Some(1), Some(4), Some(4), Some(5), Some(6)];
    let path = [0, 2, 4, 6, 9];
    for cpu in cpus_of_all_kv_types() {
        for context_len in [0, 5, 13, 14, 15, 16, 30] {
            let [mut chain_kv, mut tree_kv] = [(), ()].map(|()| cpu.kv_store(&case.kv()));
            let (mut context, mut chain, mut tree) = Default::default();
            push_chain(&mut context, 0, context_len, &table(0, 64));
            push_chain(&mut chain, context_len, 6, &table(0, 64));
            push_tree(&mut tree, context_len, &parents, &table(0, 64));
            for node in (0..parents.len()).filter(|node| !path.contains(node)) {
                tree.tokens[1 + node] = 9;
            }
            pass(&cpu, case, &mut chain_kv, &context, &[5]);
            pass(&cpu, case, &mut tree_kv, &context, &[5]);
            let expected = pass(&cpu, case, &mut chain_kv, &chain, &[5]);
            let got = pass(&cpu, case, &mut tree_kv, &tree, &[5]);
            for (depth, node) in path.into_iter().enumerate() {
                let (got, expected) = (&got[(1 + node) * width..], &expected[(1 + depth) * width..]);
                assert!(bits(&got[..width]) == bits(&expected[..width]), "depth {depth}, {}", cpu.describe());
            }
        }
    }
}

#[test]
fn all_threads_together_compute_the_bits_of_one() {
    let case = case(8, 4, 64);
    let mut rows = RowBatch::default();
    push_chain(&mut rows, 0, 90, &table(0, 90));
    push_chain(&mut rows, 0, 100, &table(1, 100));
    let [one, two] = [1, 2].map(|n_threads| {
        let cpu = Cpu::new(n_threads);
        pass(&cpu, case, &mut cpu.kv_store(&case.kv()), &rows, &[5, 6])
    });
    assert!(bits(&one) == bits(&two));
}

#[test]
fn a_copied_block_is_seen_like_its_source_in_every_layer() {
    let case = case(4, 2, 32);
    for cpu in cpus_of_all_kv_types() {
        let mut kv = cpu.kv_store(&case.kv());
        let (mut context, mut next) = (RowBatch::default(), RowBatch::default());
        push_chain(&mut context, 0, 12, &[BlockId(3)]);
        pass(&cpu, case, &mut kv, &context, &[5]);
        push_chain(&mut next, 12, 1, &[BlockId(3)]);
        let expected = pass(&cpu, case, &mut kv, &next, &[5]);
        cpu.copy_blocks(&mut kv, &[BlockCopy { from: BlockId(3), to: BlockId(7) }]);
        next.tables[0] = BlockId(7);
        let got = pass(&cpu, case, &mut kv, &next, &[5]);
        assert!(bits(&got) == bits(&expected));
    }
}

/// A store that was made with `n_own` blocks and has been grown to those of `case`.
fn grown<B: Backend>(backend: &B, case: Case, n_own: usize) -> B::KvStore {
    let mut kv = backend.kv_store(&KvShape { n_blocks: n_own, ..case.kv() });
    backend.append_blocks(&mut kv, 7);
    backend.append_blocks(&mut kv, N_BLOCKS - n_own);
    kv
}

fn contents_survive_growing_and_contracting<B: Backend>(backend: &B) {
    let case = case(4, 2, 80);
    let (mut context, mut next) = (RowBatch::default(), RowBatch::default());
    push_chain(&mut context, 0, 40, &[BlockId(1), BlockId(7), BlockId(3)]);
    push_chain(&mut next, 40, 3, &[BlockId(1), BlockId(7), BlockId(3)]);
    let mut plain = backend.kv_store(&case.kv());
    let mut kv = grown(backend, case, 4);
    let outputs = [&mut plain, &mut kv].map(|kv| {
        let of_context = pass(backend, case, kv, &context, &[5]);
        [of_context, pass(backend, case, kv, &next, &[5])]
    });
    assert!(outputs[0] == outputs[1], "{}", backend.describe());
    backend.copy_blocks(&mut kv, &[BlockCopy { from: BlockId(7), to: BlockId(0) }]);
    backend.append_blocks(&mut kv, 0);
    next.tables[1] = BlockId(0);
    let got = pass(backend, case, &mut kv, &next, &[5]);
    assert!(bits(&got) == bits(&outputs[0][1]), "{}", backend.describe());
}

#[test]
fn appended_blocks_are_like_others_and_their_contents_can_move_out() {
    contents_survive_growing_and_contracting(&Reference);
    cpus_of_all_kv_types().iter().for_each(contents_survive_growing_and_contracting);
}

/// Reads a chain of 30, and after it once what a chain and once what the moved path of a tree left behind.
fn moved_path_is_a_chain<B: Backend>(backend: &B) {
    let case = case(4, 2, 80);
    let (context_len, table) = (14, table(0, 64));
    // The path 1, 4, 5, 8 with siblings between; its slots lie in two blocks.
    let parents = [None, None, Some(0), Some(0), Some(1), Some(4), Some(4), Some(5), Some(5)];
    let path = [1, 4, 5, 8];
    let mut chain_kv = backend.kv_store(&case.kv());
    // The first block of the table was there from the start, the others were appended.
    let mut tree_kv = grown(backend, case, 2);
    let (mut context, mut chain, mut tree, mut next) = Default::default();
    push_chain(&mut context, 0, context_len, &table);
    push_chain(&mut chain, context_len, 5, &table);
    push_tree(&mut tree, context_len, &parents, &table);
    push_chain(&mut next, context_len + 5, 3, &table);
    for node in (0..parents.len()).filter(|node| !path.contains(node)) {
        tree.tokens[1 + node] = 9;
    }
    for (kv, rows) in [(&mut chain_kv, &chain), (&mut tree_kv, &tree)] {
        pass(backend, case, kv, &context, &[5]);
        pass(backend, case, kv, rows, &[5]);
    }
    let slot = |node: usize| {
        let slot = context_len + 1 + node as u32;
        Slot { block: table[slot as usize / 16], offset: slot % 16 }
    };
    let moves = path.iter().enumerate().map(|(depth, &node)| SlotMove { from: slot(node), to: slot(depth) });
    backend.move_slots(&mut tree_kv, &moves.collect::<Vec<_>>());
    let [expected, got] = [chain_kv, tree_kv].map(|mut kv| pass(backend, case, &mut kv, &next, &[5]));
    assert!(bits(&got) == bits(&expected), "{}", backend.describe());
}

#[test]
fn a_moved_path_is_seen_like_a_chain() {
    moved_path_is_a_chain(&Reference);
    cpus_of_all_kv_types().iter().for_each(moved_path_is_a_chain);
}
