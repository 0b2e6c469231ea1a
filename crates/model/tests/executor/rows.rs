//! How rows are grouped into passes and batches cannot be seen in their logits.

use dsde_engine::{BlockId, RowBatch};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::llama::{Llama, kv_shape};
use dsde_sampling::Proposal;

use crate::pair::{blocks, open};

/// Longer than two blocks of 16 and not a multiple of anything.
const TOKENS: [u32; 37] = [
    3, 77, 12, 5, 5, 127, 0, 64, 31, 8, 99, 100, 2, 45, 17, 6, 71, 23, 54, 3, 3, 90, 111, 14, 9, 66, 82, 1,
    120, 37, 58, 4, 19, 105, 76, 28, 50,
];

const N_BLOCKS: usize = 24;

/// A model whose store is empty.
struct Fresh<'a, B: Backend> {
    backend: &'a B,
    model: Llama<B>,
    kv: B::KvStore,
}

impl<'a, B: Backend> Fresh<'a, B> {
    fn new(backend: &'a B) -> Self {
        let model = Llama::load(backend, &open("llama3"), 64).unwrap();
        let kv = backend.kv_store(&kv_shape(model.config(), N_BLOCKS));
        Self { backend, model, kv }
    }

    /// Logits of the named rows, one vector each.
    fn logits_at(&mut self, rows: &RowBatch, outputs: &[u32]) -> Vec<Vec<f32>> {
        self.model.forward(self.backend, rows, outputs, &mut self.kv);
        let logits = self.model.logits(self.backend, 0..outputs.len());
        logits.chunks_exact(128).map(<[f32]>::to_vec).collect()
    }

    fn logits(&mut self, rows: &RowBatch) -> Vec<Vec<f32>> {
        let all: Vec<u32> = (0..rows.n_rows() as u32).collect();
        self.logits_at(rows, &all)
    }
}

/// Rows of one sequence whose first `context_len` tokens are stored.
fn part(context_len: usize, len: usize, table: &[BlockId]) -> RowBatch {
    let mut rows = RowBatch::default();
    push(&mut rows, context_len, len, table);
    rows
}

fn push(rows: &mut RowBatch, context_len: usize, len: usize, table: &[BlockId]) {
    rows.push(context_len as u32, &TOKENS[context_len..context_len + len], &Proposal::new(), table);
}

fn whole<B: Backend>(backend: &B) -> Vec<Vec<f32>> {
    Fresh::new(backend).logits(&part(0, TOKENS.len(), &blocks(0, 3)))
}

fn chunks_are_one_pass<B: Backend>(backend: &B) {
    let expected = whole(backend);
    for chunk_len in [1, 7, 16] {
        let mut model = Fresh::new(backend);
        let mut got = Vec::new();
        for start in (0..TOKENS.len()).step_by(chunk_len) {
            let len = chunk_len.min(TOKENS.len() - start);
            got.extend(model.logits(&part(start, len, &blocks(0, 3))));
        }
        assert_eq!(got, expected, "chunks of {chunk_len}");
    }
}

#[test]
fn a_prompt_in_chunks_is_a_prompt_in_one_pass() {
    chunks_are_one_pass(&Reference);
    chunks_are_one_pass(&Cpu::new(2));
}

fn batches_are_invisible<B: Backend>(backend: &B) {
    let expected = whole(backend);
    let tables = [blocks(0, 3), blocks(3, 3), blocks(6, 3)];
    let mut model = Fresh::new(backend);
    model.logits(&part(0, 20, &tables[1]));
    model.logits(&part(0, 5, &tables[2]));
    // Together: a whole prompt, one row after 20, seventeen rows after 5.
    let mut rows = part(0, 37, &tables[0]);
    push(&mut rows, 20, 1, &tables[1]);
    push(&mut rows, 5, 17, &tables[2]);
    let got = model.logits(&rows);
    assert_eq!(got[..37], expected[..]);
    assert_eq!(got[37], expected[20]);
    assert_eq!(got[38..], expected[5..22]);
}

#[test]
fn a_row_does_not_see_the_other_sequences_of_its_batch() {
    batches_are_invisible(&Reference);
    batches_are_invisible(&Cpu::new(2));
}

fn tables_are_invisible<B: Backend>(backend: &B) {
    let table = [BlockId(17), BlockId(2), BlockId(9)];
    assert_eq!(Fresh::new(backend).logits(&part(0, 37, &table)), whole(backend));
}

#[test]
fn blocks_may_stand_anywhere() {
    tables_are_invisible(&Reference);
    tables_are_invisible(&Cpu::new(2));
}

fn outputs_are_selected<B: Backend>(backend: &B) {
    let expected = whole(backend);
    let mut model = Fresh::new(backend);
    let got = model.logits_at(&part(0, 36, &blocks(0, 3)), &[0, 13, 35]);
    assert_eq!(got, [0, 13, 35].map(|r| expected[r].clone()));
    // Without any output the pass stores keys and values all the same.
    let mut model = Fresh::new(backend);
    assert!(model.logits_at(&part(0, 36, &blocks(0, 3)), &[]).is_empty());
    assert_eq!(model.logits(&part(36, 1, &blocks(0, 3))), expected[36..]);
}

#[test]
fn leaving_outputs_out_changes_nothing_else() {
    outputs_are_selected(&Reference);
    outputs_are_selected(&Cpu::new(2));
}

/// Two roots; the first has two children, of which the first has one.
const TREE: [(u32, Option<u32>); 5] = [(40, None), (41, Some(0)), (42, Some(0)), (43, None), (44, Some(1))];
const PATHS: [&[u32]; 5] = [&[40], &[40, 41], &[40, 42], &[43], &[40, 41, 44]];

/// Largest difference between a row of the tree and the last row of its path as a chain.
fn tree_error<B: Backend>(backend: &B) -> f32 {
    let mut tree = Proposal::new();
    for (token, parent) in TREE {
        tree.push(token, parent);
    }
    // The tree crosses a block boundary: its nodes take the slots 14..19.
    let prompt = &TOKENS[..14];
    let mut rows = RowBatch::default();
    rows.push(0, prompt, &tree, &blocks(0, 2));
    let got = Fresh::new(backend).logits(&rows);
    let mut error: f32 = 0.0;
    for (node, path) in PATHS.iter().enumerate() {
        let mut rows = RowBatch::default();
        rows.push(0, &[prompt, path].concat(), &Proposal::new(), &blocks(0, 2));
        let expected = Fresh::new(backend).logits(&rows).pop().unwrap();
        let errors = got[14 + node].iter().zip(&expected).map(|(got, expected)| (got - expected).abs());
        error = errors.fold(error, f32::max);
    }
    error
}

#[test]
fn a_node_of_a_tree_sees_its_path_only() {
    assert_eq!(tree_error(&Reference), 0.0);
    assert_eq!(tree_error(&Cpu::new(2)), 0.0);
}
