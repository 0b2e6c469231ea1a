//! What heads fit which targets, and what they hold.

use dsde_engine::Executor as _;
use dsde_kernels::Reference;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, MemoryUse, ModelExecutor};

use super::files::{CONTEXT, HEAD_DIM, HIDDEN, Kind, N_KV_HEADS, N_LAYERS, PLAIN, VOCAB, head, target};
use super::tiny_head;
use crate::pair::open;

#[track_caller]
fn check_refused(kind: Kind, vocab_len: usize, target_hidden: usize, expected: &str) {
    let (_files, target) = target();
    let (_head_files, head) = head(kind, vocab_len, target_hidden);
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Eagle3(&head)) };
    let refused = ModelExecutor::new(Reference, checkpoints, Config::default()).err();
    assert_eq!(refused.map(|error| error.to_string()).as_deref(), Some(expected));
}

#[test]
fn heads_of_other_models_are_refused() {
    check_refused(
        PLAIN,
        VOCAB + 3,
        HIDDEN,
        "draft and target must have the same vocabulary: 24 tokens in one, 27 in the other",
    );
    check_refused(
        PLAIN,
        VOCAB,
        HIDDEN * 2,
        "this head reads states of 64 numbers, those of the model have 32; use the head of this very model",
    );
    check_refused(
        Kind { hidden: HIDDEN / 2, ..PLAIN },
        VOCAB,
        HIDDEN,
        "this EAGLE-3 head lacks embed_tokens.weight: it needs embeddings of 16 numbers, those of the model have 32",
    );
    check_refused(
        Kind { taps: Some(&[1, 2, 6]), ..PLAIN },
        VOCAB,
        HIDDEN,
        "eagle_aux_hidden_state_layer_ids must be layers before the last of the 6 of the model, got the streams after [1, 2, 6] layers",
    );
}

/// A head that reads other states than it says is told of before anything is loaded.
#[test]
fn projections_of_other_shapes_do_not_fit() {
    let (_files, target) = target();
    let (files, _) = head(PLAIN, VOCAB, HIDDEN);
    let (_wide, head) = super::files::with_tensor(&files, "fc.weight", (vec![HIDDEN, 1], vec![0.0; HIDDEN]));
    let error = DraftCheckpoint::Eagle3(&head).check_fit(target.config()).unwrap_err();
    assert_eq!(error.to_string(), "tensor fc.weight must have shape [32, 96], got [32, 1]");
}

#[test]
fn a_target_of_two_layers_needs_a_head_that_says_which() {
    let target = open("llama3");
    let kind = Kind { hidden: 64, ..PLAIN };
    let (_files, head) = head(kind, target.config().vocab_len, 64);
    let error = DraftCheckpoint::Eagle3(&head).check_fit(target.config()).unwrap_err();
    let expected =
        "eagle_aux_hidden_state_layer_ids must be layers before the last of the 2 of the model, got none";
    assert_eq!(error.to_string(), expected);
    assert!(tiny_head(Reference, Default::default(), 4).shape().draft_reads_target);
}

#[test]
fn a_head_is_counted_with_its_features() {
    let (_files, target) = target();
    let (_head_files, head) = head(PLAIN, VOCAB, HIDDEN);
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Eagle3(&head)) };
    let config = Config { kv: KvSize::Blocks(3), ..Config::default() };
    let executor = ModelExecutor::new(Reference, checkpoints, config).unwrap();
    // Keys and values in f32 of 16 slots, in the layers of both; a feature per slot.
    let layer_bytes = 2 * 16 * N_KV_HEADS * HEAD_DIM * 4;
    let expected = (N_LAYERS + 1) * layer_bytes + 16 * HIDDEN * 4;
    assert_eq!(checkpoints.block_bytes(&Reference), expected);
    let MemoryUse { block_bytes, kv_bytes, draft_weight_bytes, .. } = executor.memory();
    assert_eq!((block_bytes, kv_bytes), (expected, 3 * expected));
    // Weights in f32, the embeddings being the target's; 16 tokens, and 48 positions of 4 cosines and 4 sines.
    let (q, kv) = (4 * HEAD_DIM, N_KV_HEADS * HEAD_DIM);
    let layer = 2 * HIDDEN * (q + 2 * kv) + q * HIDDEN + 3 * 48 * HIDDEN + 2 * HIDDEN;
    let rest = 3 * HIDDEN * HIDDEN + 16 * HIDDEN + 2 * HIDDEN;
    assert_eq!(draft_weight_bytes, 4 * (layer + rest + 16 + 48 * 8));
    assert_eq!(executor.shape().draft_context_len, Some(48.min(CONTEXT as u32)));
}

/// Embeddings of a head that are those of its target are not kept twice.
#[test]
fn a_copy_of_the_embeddings_takes_no_memory() {
    let (target_files, target) = target();
    let (head_files, _) = head(PLAIN, VOCAB, HIDDEN);
    let table = target_files.tensors["model.embed_tokens.weight"].clone();
    let (_files, with_copy) = super::files::with_tensor(&head_files, "embed_tokens.weight", table.clone());
    let mut changed = table;
    changed.1[5] += 1.0;
    let (_files, with_own) = super::files::with_tensor(&head_files, "embed_tokens.weight", changed);
    let bytes = |head| {
        let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Eagle3(head)) };
        let config = Config { kv: KvSize::Blocks(3), ..Config::default() };
        ModelExecutor::new(Reference, checkpoints, config).unwrap().memory().draft_weight_bytes
    };
    assert_eq!(bytes(&with_own), bytes(&with_copy) + VOCAB * HIDDEN * 4);
}
