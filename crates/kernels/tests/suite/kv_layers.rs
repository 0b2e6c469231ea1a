//! Stores whose layers have shapes of their own, layers that read what another has stored, and what is done before storing.

use dsde_engine::{BlockCopy, BlockId, RowBatch, Slot, SlotMove};

use crate::support::{Numbers, bits, cpus_of_all_kv_types, push_chain, rope};
use dsde_kernels::{
    AttentionRule, AttentionShape, Backend, KvShape, QkvTransform, Reference, RmsNorm, RopeTable,
};

const N_BLOCKS: usize = 9;
const POSITIONS_MAX: usize = 64;

fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { n_heads, n_kv_heads, head_dim, first_slot: 0 }
}

/// Shapes of which random stores are made; the first two are those of Gemma 4 in small.
fn shapes() -> [AttentionShape; 5] {
    [shape(4, 2, 32), shape(4, 1, 64), shape(6, 3, 10), shape(2, 2, 6), shape(8, 1, 80)]
}

/// What a layer projects of rows, a function of layer and row alone.
fn projections(shape: AttentionShape, rows: &RowBatch, seed: u64) -> Vec<f32> {
    let row = |position: &u32| Numbers::new(seed * 1009 + u64::from(*position)).units(shape.qkv_len());
    rows.positions.iter().flat_map(row).collect()
}

/// What happens to a store.
#[derive(Clone, Debug)]
enum Event {
    /// So many rows behind that many others, in a table that begins with some block.
    Store {
        context_len: u32,
        n_rows: u32,
        first: u32,
        seed: u64,
    },
    Copy(BlockCopy),
    Move(SlotMove),
    Append(usize),
}

fn table(first: u32) -> Vec<BlockId> {
    (0..3).map(|i| BlockId((first + 2 * i) % N_BLOCKS as u32)).collect()
}

/// Events that a store of [`N_BLOCKS`] blocks allows, some of which were appended.
fn events(numbers: &mut Numbers) -> Vec<Event> {
    let mut below = |n: u64| (numbers.next() >> 20) % n;
    let mut events = vec![Event::Append(2), Event::Append(4)];
    for _ in 0..12 {
        let mut block = || BlockId(below(N_BLOCKS as u64) as u32);
        let blocks = [block(), block()];
        events.push(match below(3) {
            0 => Event::Copy(BlockCopy { from: blocks[0], to: blocks[1] }),
            1 => {
                let [from, to] = blocks.map(|block| Slot { block, offset: below(16) as u32 });
                Event::Move(SlotMove { from, to })
            }
            _ => Event::Store {
                context_len: below(20) as u32,
                n_rows: 1 + below(20) as u32,
                first: blocks[0].0,
                seed: below(1000),
            },
        });
    }
    events
}

/// Lets a store of some layers go through events, and returns what a batch then gets in each of them.
fn outputs<B: Backend>(backend: &B, layers: &[AttentionShape], events: &[Event]) -> Vec<Vec<f32>> {
    let mut kv = backend.kv_store(&KvShape { n_blocks: N_BLOCKS - 4, layers: layers.to_vec() });
    let angles = |shape: &AttentionShape| rope(POSITIONS_MAX, shape.head_dim);
    for event in events {
        match event {
            Event::Copy(copy) => backend.copy_blocks(&mut kv, &[*copy]),
            Event::Move(moved) => backend.move_slots(&mut kv, &[*moved]),
            Event::Append(n_blocks) => backend.append_blocks(&mut kv, *n_blocks),
            &Event::Store { context_len, n_rows, first, seed } => {
                let mut rows = RowBatch::default();
                push_chain(&mut rows, context_len, n_rows, &table(first));
                for (layer, shape) in layers.iter().enumerate() {
                    let angles = angles(shape);
                    let transform = QkvTransform { rope: Some(&angles), ..QkvTransform::default() };
                    let mut qkv = projections(*shape, &rows, seed);
                    backend.store_kv(layer, &mut qkv, transform, &rows, &mut kv);
                }
            }
        }
    }
    let mut rows = RowBatch::default();
    (0..N_BLOCKS as u32).for_each(|first| push_chain(&mut rows, 40, 1, &table(first)));
    let attended = |(layer, shape): (usize, &AttentionShape)| {
        let qkv = projections(*shape, &rows, 7);
        let mut out = vec![0.0; rows.n_rows() * shape.queries_len()];
        backend.attention(layer, AttentionRule::plain(shape.head_dim), &qkv, &rows, &kv, &mut out);
        out
    };
    layers.iter().enumerate().map(attended).collect()
}

fn layers_do_not_notice_each_other<B: Backend>(backend: &B, n_seeds: u64) {
    for seed in 0..n_seeds {
        let mut numbers = Numbers::new(seed);
        let n_layers = 2 + numbers.next() as usize % 3;
        let layers: Vec<AttentionShape> =
            (0..n_layers).map(|_| shapes()[(numbers.next() >> 9) as usize % 5]).collect();
        let events = events(&mut numbers);
        let together = outputs(backend, &layers, &events);
        for (layer, together) in layers.iter().zip(&together) {
            let alone = outputs(backend, std::slice::from_ref(layer), &events);
            let is_equal = bits(&alone[0]) == bits(together);
            assert!(is_equal, "seed {seed}: {layer:?} of {layers:?} on {}: {events:?}", backend.describe());
        }
    }
}

#[test]
fn layers_of_several_shapes_are_as_if_each_had_a_store_of_its_own() {
    layers_do_not_notice_each_other(&Reference, 60);
    cpus_of_all_kv_types().iter().for_each(|cpu| layers_do_not_notice_each_other(cpu, 12));
}

#[test]
fn a_block_has_the_bytes_of_all_layers() {
    let [narrow, wide, ..] = shapes();
    let of = |layers: &[AttentionShape]| KvShape { n_blocks: 1, layers: layers.to_vec() };
    // Keys and values in f32.
    assert_eq!(Reference.block_bytes(&of(&[narrow, wide, narrow])), 16 * 4 * 2 * (64 + 64 + 64));
    assert_eq!(KvShape::uniform(2, 1, wide), of(&[wide, wide]));
    for cpu in cpus_of_all_kv_types() {
        let [one, other, all] =
            [&[narrow][..], &[wide], &[narrow, wide, narrow]].map(|layers| cpu.block_bytes(&of(layers)));
        assert_eq!(all, 2 * one + other, "{}", cpu.describe());
    }
}

/// A layer without keys and values of its own transforms its queries and reads those of another.
fn queries_alone_attend_as_those_beside_keys_do<B: Backend>(backend: &B) {
    let shapes = [shape(4, 2, 32), shape(4, 1, 64)];
    let mut kv = backend.kv_store(&KvShape { n_blocks: N_BLOCKS, layers: shapes.to_vec() });
    for (layer, shape) in shapes.into_iter().enumerate() {
        // Enough rows for several threads.
        let mut rows = RowBatch::default();
        (0..3).for_each(|seq| push_chain(&mut rows, 0, 48, &[0, 1, 2].map(|i| BlockId(3 * seq + i))));
        let weight: Vec<f32> = (0..shape.head_dim).map(|i| 1.0 + i as f32 / 50.0).collect();
        let norm = Some(RmsNorm { weight: &weight, eps: 1e-6 });
        let angles = rope(POSITIONS_MAX, shape.head_dim);
        let transform = QkvTransform { q_norm: norm, k_norm: norm, v_norm: None, rope: Some(&angles) };
        let mut qkv = projections(shape, &rows, 3);
        let queries = qkv.chunks_exact(shape.qkv_len()).flat_map(|row| &row[..shape.queries_len()]);
        let mut queries: Vec<f32> = queries.copied().collect();
        backend.store_kv(layer, &mut qkv, transform, &rows, &mut kv);
        backend.transform_queries(shape, &mut queries, transform, &rows);
        let rule = AttentionRule { window: Some(21), ..AttentionRule::plain(shape.head_dim) };
        let [beside, alone] = [&qkv, &queries].map(|qkv| {
            let mut out = vec![0.0; rows.n_rows() * shape.queries_len()];
            backend.attention(layer, rule, qkv, &rows, &kv, &mut out);
            out
        });
        assert!(bits(&beside) == bits(&alone), "{shape:?} on {}", backend.describe());
        for n_heads in [shape.n_kv_heads, 2 * shape.n_heads] {
            let of_others = |x: &[f32]| heads(x, shape, n_heads);
            let (queries, expected) = (of_others(&queries), of_others(&alone));
            let mut got = vec![0.0; expected.len()];
            backend.attention(layer, rule, &queries, &rows, &kv, &mut got);
            assert!(bits(&got) == bits(&expected), "{n_heads} of {shape:?} on {}", backend.describe());
        }
    }
}

/// Rows of so many heads in place of those of `shape`: every so many of them, or each several times.
fn heads(x: &[f32], shape: AttentionShape, n_heads: usize) -> Vec<f32> {
    let of_row = |row: &[f32]| -> Vec<f32> {
        let head = |i: usize| &row[i * shape.n_heads / n_heads * shape.head_dim..][..shape.head_dim];
        (0..n_heads).flat_map(|i| head(i).to_vec()).collect()
    };
    x.chunks_exact(shape.queries_len()).flat_map(of_row).collect()
}

#[test]
fn queries_alone_attend_to_what_is_stored() {
    queries_alone_attend_as_those_beside_keys_do(&Reference);
    cpus_of_all_kv_types().iter().for_each(queries_alone_attend_as_those_beside_keys_do);
}

/// What rows get after storing.
fn attended<B: Backend>(
    backend: &B,
    shape: AttentionShape,
    mut qkv: Vec<f32>,
    transform: QkvTransform<'_>,
) -> Vec<f32> {
    let mut rows = RowBatch::default();
    push_chain(&mut rows, 0, 20, &table(0));
    let mut kv = backend.kv_store(&KvShape::uniform(1, N_BLOCKS, shape));
    backend.store_kv(0, &mut qkv, transform, &rows, &mut kv);
    let mut out = vec![0.0; 20 * shape.queries_len()];
    backend.attention(0, AttentionRule::plain(shape.head_dim), &qkv, &rows, &kv, &mut out);
    out
}

fn values_are_normalised_before_they_are_stored<B: Backend>(backend: &B) {
    let shape = shape(4, 2, 32);
    let mut rows = RowBatch::default();
    push_chain(&mut rows, 0, 20, &table(0));
    let weight: Vec<f32> = (0..32).map(|i| 0.5 + i as f32 / 32.0).collect();
    let norm = RmsNorm { weight: &weight, eps: 1e-6 };
    let qkv = projections(shape, &rows, 11);
    let mut before = qkv.clone();
    for (row, normalised) in qkv.chunks_exact(shape.qkv_len()).zip(before.chunks_exact_mut(shape.qkv_len())) {
        let values = 6 * 32..8 * 32;
        backend.rms_norm(&row[values.clone()], norm, &mut normalised[values]);
    }
    let transform = QkvTransform { v_norm: Some(norm), ..QkvTransform::default() };
    let got = attended(backend, shape, qkv, transform);
    let expected = attended(backend, shape, before, QkvTransform::default());
    assert!(bits(&got) == bits(&expected), "{}", backend.describe());
}

#[test]
fn values_are_normalised_per_head() {
    values_are_normalised_before_they_are_stored(&Reference);
    cpus_of_all_kv_types().iter().for_each(values_are_normalised_before_they_are_stored);
}

/// A rotary embedding whose last pairs stand still, by itself and as one of all pairs with angles of 0.
fn pairs_that_stand_still_need_no_angles<B: Backend>(backend: &B) {
    let shape = shape(4, 2, 32);
    let all = rope(20, 32);
    let first = |x: &[f32]| x.chunks_exact(16).flat_map(|row| row[..5].to_vec()).collect::<Vec<f32>>();
    let some = RopeTable { n_pairs: 5, distance: 16, cos: first(&all.cos), sin: first(&all.sin) };
    let still = |x: &[f32], angle: f32| {
        let turns = |i: usize| i % 16 < 5;
        x.iter().enumerate().map(|(i, x)| if turns(i) { *x } else { angle }).collect::<Vec<f32>>()
    };
    let all = RopeTable { cos: still(&all.cos, 1.0), sin: still(&all.sin, 0.0), ..all };
    let mut rows = RowBatch::default();
    push_chain(&mut rows, 0, 20, &table(0));
    let [got, expected] = [&some, &all].map(|rope| {
        let transform = QkvTransform { rope: Some(rope), ..QkvTransform::default() };
        attended(backend, shape, projections(shape, &rows, 5), transform)
    });
    assert!(bits(&got) == bits(&expected), "{}", backend.describe());
}

#[test]
fn a_rotary_embedding_may_leave_pairs_between_those_that_turn() {
    pairs_that_stand_still_need_no_angles(&Reference);
    cpus_of_all_kv_types().iter().for_each(pairs_that_stand_still_need_no_angles);
}

#[test]
fn moves_happen_in_every_layer_one_after_the_other() {
    let shapes = [shape(2, 2, 32), shape(2, 1, 64)];
    let store = |cpu: &dsde_kernels::Cpu, rows: &RowBatch| {
        let mut kv = cpu.kv_store(&KvShape { n_blocks: N_BLOCKS, layers: shapes.to_vec() });
        for (layer, shape) in shapes.into_iter().enumerate() {
            let mut qkv = projections(shape, rows, 7);
            cpu.store_kv(layer, &mut qkv, QkvTransform::default(), rows, &mut kv);
        }
        kv
    };
    for cpu in cpus_of_all_kv_types() {
        let mut rows = RowBatch::default();
        push_chain(&mut rows, 0, 20, &table(0));
        let mut moved = store(&cpu, &rows);
        let at = |slot: u32| Slot { block: table(0)[slot as usize / 16], offset: slot % 16 };
        // 19 goes to 3 by way of 17, and 18 to 17 afterwards.
        let moves = [(19, 17), (17, 3), (18, 17)].map(|(from, to)| SlotMove { from: at(from), to: at(to) });
        cpu.move_slots(&mut moved, &moves);
        // The same slots written directly.
        rows.positions = [0, 1, 2, 19, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 18, 19].to_vec();
        let written = store(&cpu, &rows);
        let mut next = RowBatch::default();
        push_chain(&mut next, 20, 1, &table(0));
        for (layer, shape) in shapes.into_iter().enumerate() {
            let qkv = projections(shape, &next, 7);
            let rule = AttentionRule::plain(shape.head_dim);
            let [got, expected] = [&moved, &written].map(|kv| {
                let mut out = vec![0.0; shape.queries_len()];
                cpu.attention(layer, rule, &qkv, &next, kv, &mut out);
                out
            });
            assert!(bits(&got) == bits(&expected), "layer {layer}, {}", cpu.describe());
        }
    }
}
