//! What a constructed executor can hold, and what is refused.

use dsde_engine::{Executor, RowBatch, Shape};
use dsde_kernels::{Backend, Reference};
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, MemoryUse, ModelExecutor};
use dsde_model::llama::{Llama, kv_shape};
use dsde_model::{Error, embedded};
use dsde_sampling::Proposal;

use crate::pair::{blocks, open};

/// Block of either tiny model on `Reference`: 2 stores x 2 layers x 16 slots x 2 heads x 16 elements x 4 bytes.
const BLOCK_BYTES: usize = 8192;

fn build(config: Config, has_draft: bool) -> ModelExecutor<Reference> {
    let (target, draft) = (open("llama3"), open("qwen2"));
    let checkpoints =
        Checkpoints { target: &target, draft: has_draft.then_some(DraftCheckpoint::Model(&draft)) };
    ModelExecutor::new(Reference, checkpoints, config).unwrap()
}

fn check(kv: KvSize, context_len_max: u32, has_draft: bool, n_blocks: u32, context_len: u32) {
    let executor = build(Config { kv, context_len_max, ..Config::default() }, has_draft);
    let draft_context_len = has_draft.then_some(context_len);
    let expected = Shape {
        vocab_len: 128,
        context_len_max: context_len,
        block_len: 16,
        n_blocks,
        draft_context_len,
        draft_reads_target: false,
        window: None,
        n_states: 0,
    };
    assert_eq!(executor.shape(), expected, "{kv:?}");
}

#[test]
fn stores_have_the_blocks_that_were_asked_for() {
    check(KvSize::Blocks(20), u32::MAX, true, 20, 128);
    // 100 000 bytes: 6 blocks of 2 x 8192, or 12 of 8192 without a draft.
    check(KvSize::Bytes(100_000), u32::MAX, true, 6, 96);
    check(KvSize::Bytes(100_000), u32::MAX, false, 12, 128);
    // 128 positions are 8 blocks; 32 sequences of them are far below 1 GiB.
    check(KvSize::Auto, u32::MAX, true, 256, 128);
    check(KvSize::Auto, 50, true, 128, 50);
}

#[test]
fn no_sequence_is_longer_than_the_store() {
    check(KvSize::Blocks(3), u32::MAX, true, 3, 48);
    check(KvSize::Blocks(0), u32::MAX, true, 1, 16);
    check(KvSize::Bytes(0), u32::MAX, true, 1, 16);
}

#[test]
fn memory_is_accounted_for_both_models() {
    let MemoryUse { target_weight_bytes, draft_weight_bytes, block_bytes, kv_bytes, state_bytes } =
        build(Config { kv: KvSize::Blocks(5), ..Config::default() }, true).memory();
    assert_eq!((block_bytes, kv_bytes, state_bytes), (2 * BLOCK_BYTES, 2 * BLOCK_BYTES * 5, 0));
    // Matrices in f32, and the target's table as stored in bf16; the draft's is its output projection. Per layer: q and o 64 x 64, k and v 32 x 64, three of 96 x 64.
    let per_layer = 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64);
    let (table, head) = (128 * 64 * 2, 128 * 64 * 4);
    // 80 positions: 8 cosines and 8 sines each.
    let rest = 4 * 64 + 80 * 16 * 4;
    assert_eq!(target_weight_bytes, 2 * per_layer + table + head + rest);
    // The draft has biases on query, key and value.
    assert_eq!(draft_weight_bytes, target_weight_bytes - table + 2 * 4 * 128);
}

#[test]
fn different_vocabularies_are_refused() {
    let (target, draft) = (embedded::target(), open("qwen2"));
    let refused = ModelExecutor::new(
        Reference,
        Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) },
        Config::default(),
    );
    assert!(matches!(refused.err(), Some(Error::VocabularyLen { expected: 4096, got: 128 })));
}

#[test]
fn padding_of_the_embeddings_is_no_part_of_the_vocabulary() {
    let padded = || open("llama3").without_padding(100);
    let draft = open("qwen2").without_padding(100);
    let checkpoints = Checkpoints { target: &padded(), draft: Some(DraftCheckpoint::Model(&draft)) };
    let executor = ModelExecutor::new(Reference, checkpoints, Config::default()).unwrap();
    assert_eq!(executor.shape().vocab_len, 100);
    let logits = |checkpoint| {
        let mut model = Llama::load(&Reference, &checkpoint, 16).unwrap();
        let mut rows = RowBatch::default();
        rows.push(0, &[1, 99], &Proposal::new(), &blocks(0, 1));
        let mut kv = Reference.kv_store(&kv_shape(model.config(), 1));
        model.forward(&Reference, &rows, &[1], &mut kv);
        model.logits(&Reference, 0..1).to_vec()
    };
    assert_eq!(logits(padded()), logits(open("llama3"))[..100]);
}

#[test]
fn tokens_without_embeddings_are_no_part_of_the_vocabulary() {
    let checkpoint = open("llama3").without_padding(129);
    assert_eq!(checkpoint.config().vocab_len, 128);
    assert_eq!(*checkpoint.config(), *open("llama3").config());
}

#[test]
fn weights_take_what_is_stored() {
    // bf16. Per layer: q and o 64 x 64, k and v 32 x 64, three of 96 x 64, two norms; the table is 128 x 64.
    let per_layer = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64);
    let table = 2 * 128 * 64;
    let final_norm = 2 * 64;
    let llama3 = open("llama3");
    assert!(!llama3.config().tie_embeddings);
    assert_eq!(llama3.weight_bytes(), 2 * per_layer + 2 * table + final_norm);
    let qwen2 = open("qwen2");
    assert!(qwen2.config().tie_embeddings);
    // One table, which is the output projection too; biases on query, key and value.
    assert_eq!(qwen2.weight_bytes(), llama3.weight_bytes() - table + 2 * 2 * 128);
}

#[test]
fn drafting_without_a_draft_is_an_error() {
    let mut executor = build(Config::default(), false);
    let mut rows = RowBatch::default();
    rows.push(0, &[1, 2], &Proposal::new(), &blocks(0, 1));
    let error = executor.draft(&rows, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "the draft pass failed: no draft model is loaded");
}
