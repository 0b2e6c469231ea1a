//! Which assistants fit which targets, and what they hold.

use dsde_engine::Executor as _;
use dsde_kernels::Reference;
use dsde_model::ModelExecutor;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, MemoryUse, block_bytes};

use super::assistant;
use crate::pair::open;

#[track_caller]
fn check_refused([target, draft]: [&str; 2], expected: &str) {
    let (target, draft) = (open(target), assistant(draft));
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Assistant(&draft)) };
    let refused = ModelExecutor::new(Reference, checkpoints, Config::default()).err();
    assert_eq!(refused.map(|error| error.to_string()).as_deref(), Some(expected));
}

#[test]
fn assistants_of_other_models_are_refused() {
    let heads = |got: &str, expected: &str| {
        format!(
            "layer 2 of this assistant reads {got}, the model stores {expected}; use the assistant of this very model"
        )
    };
    check_refused(
        ["gemma4_shared", "gemma4_assistant"],
        &heads("1 key/value heads of 16 numbers", "2 of 16"),
    );
    check_refused(
        ["gemma4", "gemma4_shared_assistant"],
        &heads("2 key/value heads of 16 numbers", "1 of 16"),
    );
    for other in ["llama3", "gemma3"] {
        let architecture = open(other).config().family.architecture();
        let expected =
            format!("an assistant of Gemma 4 must draft for Gemma 4, got {architecture}; use another draft");
        check_refused([other, "gemma4_assistant"], &expected);
    }
}

#[test]
fn an_assistant_is_counted_with_its_features_and_stores_nothing_else() {
    let (target, draft) = (open("gemma4"), assistant("gemma4_assistant"));
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Assistant(&draft)) };
    let config = Config { kv: KvSize::Blocks(3), ..Config::default() };
    let executor = ModelExecutor::new(Reference, checkpoints, config).unwrap();
    // A state of the target, 16 numbers, for each of 16 slots.
    let expected = block_bytes(&Reference, target.config()) + 16 * 16 * 4;
    let MemoryUse { block_bytes, draft_weight_bytes, .. } = executor.memory();
    assert_eq!((block_bytes, checkpoints.block_bytes(&Reference)), (expected, expected));
    // In f32: queries and outputs of two layers of two heads of 8 and one of two of 16, of each layer gate, up and down of 24, four
    // norms and one of heads; two projections, the table and the last norm. 48 positions with 4 angles, and with 2.
    let attention = 2 * 24 * (2 * 16 + 32) + 2 * 8 + 16;
    let layers = attention + 3 * (3 * 24 * 24 + 4 * 24);
    let rest = 24 * 32 + 16 * 24 + 48 * 24 + 24;
    assert_eq!(draft_weight_bytes, 4 * (layers + rest + 48 * 2 * (4 + 2)));
    let shape = executor.shape();
    assert!(shape.draft_reads_target && shape.draft_context_len == Some(48) && shape.window.is_none());
}
